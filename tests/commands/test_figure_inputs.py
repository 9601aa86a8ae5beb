"""commands.figure_inputs: figures are handed the numbers that were measured, in the unit shown."""

import numpy as np
import pytest
from depth_runs import moved, run, tuned
from texts import words_of

from commands import figure_inputs
from commands.figure_inputs import cloud, draw_depth_heads, draw_depth_profiles, overview_note, verdict_panels
from evaluation.statistics.claims import Claim, Wording
from evaluation.statistics.depth import SMALLEST, depth_changes
from evaluation.statistics.measured import measure
from evaluation.statistics.paired import single
from evaluation.statistics.verdicts import ONE_SEED, Judgement
from report.figures.rainclouds import Metric, rainclouds
from report.figures.verdict_overview import verdict_overview


def values(shift: float, seeds: int, images: int = 40) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(2)
    b = generator.uniform(0.2, 0.6, (seeds, images))
    return b + shift + generator.normal(0, 0.1, b.shape), b


# ---- differences


@pytest.mark.parametrize("seeds", [1, 3])
def test_a_cloud_has_the_numbers_of_its_measurement(tmp_path, drawn, seeds):
    a, b = values(0.1, seeds)
    measured = measure(a, b)
    found = cloud("linear minus dora", (a - b).mean(0), measured)
    assert (found.mean, found.low, found.high) == (measured.difference, measured.low, measured.high)
    assert found.seeds == pytest.approx((a - b).mean(1))
    mean, images, agreement = found.facts
    assert mean.startswith("mean +0.") and images.startswith("40 images, ") and " p " in images
    assert agreement == ("1 seed" if seeds == 1 else "3 seeds, all of one sign")
    rainclouds(tmp_path / "r.png", [Metric("m", "u", [found])], "t")
    assert agreement in words_of(drawn[0])


def test_a_cloud_says_what_would_have_been_found_only_where_the_difference_is_smaller():
    small, large = (cloud("c", (a - b)[0], measure(a, b)) for a, b in (values(0.001, 1), values(0.1, 1)))
    assert small.facts[-1].startswith("smallest detectable: 0.0") and len(large.facts) == 3


def test_a_cloud_says_which_images_have_no_value():
    a, b = values(0.1, 1)
    a[0, :3] = np.nan
    assert "37 images (3 without a value)" in cloud("c", (a - b)[0], measure(a, b)).facts[1]
    none = np.full((1, 30), np.nan)
    assert cloud("c", none[0], measure(none, none)).facts[-1] == "smallest detectable: –"


# ---- verdicts


def claim(letter: str, word: str, shift: float, seeds: int = 1, sign: int = 1, points: bool = False) -> Claim:
    wording = Wording("how much", "dora is", "more", "less", "linear", "" if points else "Spearman", points)
    judgement = Judgement(word) if word else None
    return Claim(letter, wording, ("linear", "dora"), measure(*values(shift, seeds)), sign, 0.01, judgement)


def test_verdicts_are_grouped_by_claim_and_shown_in_their_unit(tmp_path, drawn):
    sets = {
        "scenes": [
            claim("a", "supported across seeds", 0.1, 3),
            claim("d", "contradicted for these images", 0.2, 3, -1, points=True),
        ],
        "photos": [claim("a", "undecided", 0.0, 3)],
        "others": [claim("a", "", -0.2, 3)],
    }
    first, second = verdict_panels(sets)
    assert (first.heading, first.unit, first.claimed_sign) == ("(a) how much (Spearman)", "Spearman", 1)
    assert (second.heading, second.unit, second.claimed_sign) == ("(d) how much", "points", -1)
    assert list(first.rows) == ["scenes", "photos", "others"] and list(second.rows) == ["scenes"]
    assert [row.side for row in first.rows.values()] == ["claimed", "undecided", None]
    assert [row.word for row in first.rows.values()] == ["supported across seeds", "undecided", "not judged"]
    in_points, measured = second.rows["scenes"], sets["scenes"][1].measured
    assert in_points.side == "reverse" and in_points.difference == 100 * measured.difference
    assert (in_points.low, in_points.high) == (100 * measured.low, 100 * measured.high)
    assert in_points.seeds == pytest.approx([100 * one for one in measured.seeds.differences])
    assert in_points.facts[0] == f"{sets['scenes'][1].difference}, 40 images"
    verdict_overview(tmp_path / "v.png", [first, second], "t")
    assert "contradicted for these images" in words_of(drawn[0])


def test_one_seed_is_warned_of_where_no_claim_has_more():
    one, three = {"s": [claim("a", "undecided", 0.1)]}, {"s": [claim("a", "undecided", 0.1, 3)]}
    assert overview_note(one, "Note.") == f"{ONE_SEED.capitalize()}. Note."
    assert overview_note(three, "Note.") == overview_note(one | {"t": three["s"]}, "Note.") == "Note."


# ---- depth


@pytest.fixture
def asked(monkeypatch) -> list[tuple]:
    """What is asked of the figures of depth; nothing is drawn."""
    found: list[tuple] = []
    for name in ("depth_profiles", "depth_heads"):
        monkeypatch.setattr(figure_inputs, name, lambda path, *given: found.append(given))
    return found


def test_profiles_have_means_intervals_and_changes(tmp_path, asked):
    before, after = run(), moved(tuned(), "on_itself", 2, 0.08)
    draw_depth_profiles(tmp_path / "d.png", [before, after], [depth_changes(before, after)], "t", "More words.")
    ((labels, blocks, measures, title, note, divergence, similarity),) = asked
    assert (labels, tuple(blocks), title) == (["linear", "lora"], before.blocks, "t")
    entropy, distance, itself, relevance = measures
    first, second = itself.lines
    expected = [single(column) for column in 100 * after.measures["on_itself"].mean(2).T]
    assert second.mean == pytest.approx([one.mean for one in expected])
    assert (second.low, second.high) == (
        pytest.approx([one.low for one in expected]),
        pytest.approx([one.high for one in expected]),
    )
    assert second.heads == pytest.approx(100 * after.measures["on_itself"].mean(0))
    assert list(second.changed) == [2] and not first.changed and not entropy.lines[1].changed
    assert itself.title == "Reading row: attention on itself (%)" and distance.even == 6
    assert relevance.lines[0].heads is None, "relevance is summed over heads"
    assert relevance.lines[0].mean == pytest.approx(100 * before.measures["relevance"].sum(2).mean(0))
    assert divergence[0] is None and divergence[1].mean == pytest.approx(after.divergence.mean((0, 2)))
    assert similarity[0] is None and similarity[1] is after.cka
    assert "the rest is on patches" in note and "Holm" in note and note.endswith("More words.")


def test_heads_have_means_and_changes_and_no_summed_measures(tmp_path, asked):
    before, after = run(), moved(tuned(), "entropy", 1, 0.3, head=2)
    changes = depth_changes(before, after, by_head=True)
    draw_depth_heads(tmp_path / "h.png", before, after, changes, "t")
    ((labels, blocks, measures, _, _, divergence),) = asked
    assert labels == ("linear", "lora") and [one.title.split(" (")[0] for one in measures] == [
        "Entropy of attention",
        "Mean attention distance",
        "Reading row: attention on itself",
    ]
    entropy, distance, _ = measures
    assert np.argwhere(entropy.changed).tolist() == [[1, 2]] and not distance.changed.any()
    assert entropy.before == pytest.approx(before.measures["entropy"].mean(0))
    assert entropy.after == pytest.approx(after.measures["entropy"].mean(0))
    assert (entropy.smallest, distance.smallest) == pytest.approx((SMALLEST, 6 * SMALLEST))
    assert divergence == pytest.approx(after.divergence.mean(0))


@pytest.mark.parametrize("size", [{}, {"registers": True}, {"pool": True}])
def test_depth_is_drawn_of_every_kind_of_model(tmp_path, drawn, size):
    before, after = run(layers=2, **size), tuned(layers=2, **size)
    draw_depth_profiles(tmp_path / "d.png", [before, after], [[]], "What changed at which depth")
    draw_depth_heads(tmp_path / "h.png", before, after, [], "Attention by block and head")
    for figure in drawn:
        assert ("attention on prefix tokens" in words_of(figure)) == ("registers" in size)


def test_runs_that_do_not_agree_are_refused(tmp_path):
    good, path = run(), tmp_path / "x.png"
    for wrong, message in (
        (lambda: draw_depth_profiles(path, [good, tuned()], [], "t"), "2 runs and changes of 0"),
        (lambda: draw_depth_profiles(path, [good, run(layers=2)], [[]], "t"), "expected the same images"),
        (lambda: draw_depth_heads(path, good, run(layers=2), [], "t"), "expected the same images"),
    ):
        with pytest.raises(ValueError, match=message):
            wrong()
    assert not list(tmp_path.iterdir())
