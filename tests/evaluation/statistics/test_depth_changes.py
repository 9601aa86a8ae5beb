"""evaluation.statistics.depth, report.depth_figures: what counts as a change, words that the numbers support, figures that show it."""

import re
from dataclasses import replace

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_rgba
from PIL import Image
from texts import check_texts

from evaluation.statistics.depth import (
    MEASURES,
    SMALLEST,
    DepthRun,
    block_names,
    change_rows,
    depth_changes,
    depth_words,
    which_blocks,
)
from evaluation.statistics.paired import holm, paired
from report.figures.depth_profiles import depth_heads, depth_profiles

IMAGES, LAYERS, HEADS = 24, 4, 3
UNIFORM = {"entropy": 1.0, "distance": 6.0, "on_patches": 0.9, "on_prefix": 0.05, "on_itself": 0.05}
VARIANT = "dora:blocks=9,targets=fc1,rank=4,alpha=8"


def run(label="linear", seed=0, images=IMAGES, layers=LAYERS, heads=HEADS, registers=False, pool=False) -> DepthRun:
    """A run whose measures differ between images, blocks and heads, and by 0.001 between seeds."""
    shape = images, layers, heads
    base = np.random.default_rng(99).uniform(0.3, 0.6, shape) + np.random.default_rng(seed).normal(0, 0.001, shape)
    measures = {"entropy": base, "distance": 6 * base, "on_itself": 0.1 * base}
    measures["relevance"] = base / base.sum((1, 2), keepdims=True)
    measures["on_prefix"] = 0.2 * base if registers else np.zeros(shape)
    measures["on_patches"] = 1 - measures["on_itself"] - measures["on_prefix"]
    names = tuple(map(str, range(layers)))
    if pool:
        names = (*names[:-1], "pool")
        measures["distance"][:, -1] = np.nan
    return DepthRun(label, names, measures, UNIFORM)


def tuned(label="lora", seed=1, **more) -> DepthRun:
    run_of = run(label, seed, **more)
    random, shape = np.random.default_rng(seed), run_of.measures["entropy"].shape
    return replace(run_of, divergence=random.uniform(0, 0.1, shape), cka=np.linspace(1, 0.8, shape[1] + 1))


def moved(one: DepthRun, measure: str, layer: int, by: float, head: int | slice = slice(None)) -> DepthRun:
    values = one.measures[measure].copy()
    values[:, layer, head] += by
    return replace(one, measures={**one.measures, measure: values})


def verdicts(changes) -> dict:
    return {(one.measure, one.block, one.head): one.verdict for one in changes}


# ---- what counts as a change


def test_changes_are_paired_by_image_and_corrected_together():
    before, after = run(), moved(tuned(), "entropy", 2, 0.05)
    found = depth_changes(before, after)
    assert [one.measure for one in found[::LAYERS]] == ["entropy", "distance", "on_itself", "relevance"]
    expected = []
    for one in found:
        layer, name = int(one.block), one.measure
        a, b = (
            [sum(values[i, layer]) / (1 if name == "relevance" else HEADS) for i in range(IMAGES)]
            for values in (after.measures[name], before.measures[name])
        )
        expected.append(paired(a, b))
        assert one.paired.difference == pytest.approx(expected[-1].difference) and one.head is None
        assert (one.paired.low, one.paired.high) == pytest.approx((expected[-1].low, expected[-1].high))
        assert one.smallest == pytest.approx(SMALLEST * (6 if name == "distance" else 1))
    assert [one.corrected_p for one in found] == pytest.approx(holm([one.p_value for one in expected]))


@pytest.mark.parametrize("by, verdict", [(0.05, "changed"), (-0.05, "changed"), (0.02, "undecided"), (0.015, "same")])
def test_a_change_is_certain_and_large_and_none_is_certainly_small(by, verdict):
    found = verdicts(depth_changes(run(), moved(tuned(), "entropy", 1, by)))
    assert found.pop(("entropy", "1", None)) == verdict
    assert set(found.values()) == {"same"}


def test_a_large_difference_that_is_not_certain_is_undecided():
    noise = np.random.default_rng(5).normal(0, 0.3, (IMAGES, 1))
    found = depth_changes(run(), moved(tuned(), "entropy", 1, noise + 0.05))
    assert verdicts(found)["entropy", "1", None] == "undecided"
    one = next(one for one in found if one.block == "1")
    certain = replace(one, paired=replace(one.paired, difference=0.05, low=0.03, high=0.07))
    assert replace(certain, corrected_p=0.049).verdict == "changed"
    assert replace(certain, corrected_p=0.051).verdict == "undecided", "by Holm's correction"


def test_few_images_decide_nothing():
    found = depth_changes(run(images=19), moved(tuned(images=19), "entropy", 1, 0.3))
    assert set(verdicts(found).values()) == {"undecided"}
    words = depth_words(run(images=19), tuned(images=19), found)
    assert "nothing is decided: that takes at least 20 images" in words[0]
    alone = depth_changes(run(images=1), tuned(images=1))
    assert set(verdicts(alone).values()) == {"undecided"}


def test_heads_that_cancel_in_the_mean_are_found_one_by_one():
    before, after = run(), moved(moved(tuned(), "entropy", 3, 0.1, head=0), "entropy", 3, -0.1, head=2)
    after = moved(after, "entropy", 1, 0.1)
    by_block, by_head = depth_changes(before, after), depth_changes(before, after, by_head=True)
    assert verdicts(by_block)["entropy", "3", None] == "same"
    changed = {key for key, verdict in verdicts(by_head).items() if verdict == "changed"}
    assert changed == {("entropy", "3", 0), ("entropy", "3", 2), *(("entropy", "1", head) for head in range(HEADS))}
    assert not any(one.measure == "relevance" for one in by_head) and len(by_head) == 3 * LAYERS * HEADS
    words = " ".join(depth_words(before, after, by_block, by_head))
    assert "Of 12 heads, 5 changed" in words and "in block 3 heads changed but not their mean" in words


def test_what_is_not_defined_or_says_nothing_is_left_out():
    before, after = run(pool=True), tuned(pool=True)
    found = depth_changes(before, after)
    assert ("distance", "pool", None) not in verdicts(found) and ("distance", "2", None) in verdicts(found)
    names = {one.measure for one in depth_changes(run(registers=True), tuned(registers=True))}
    assert names == set(MEASURES)
    assert {one.measure for one in found} == set(MEASURES) - {"on_prefix", "on_patches"}


def test_rows_hold_every_change():
    before, after = run(), moved(tuned(), "on_itself", 0, 0.04)
    found = depth_changes(before, after)
    (row,) = (row for row in change_rows(found) if (row["measure"], row["block"]) == ("on_itself", "0"))
    assert len(change_rows(found)) == len(found) and row["head"] == "all" and row["verdict"] == "changed"
    assert row["after"] - row["before"] == pytest.approx(row["difference"])
    assert row["low"] < row["difference"] < row["high"]
    assert row["images"] == IMAGES
    assert {row["head"] for row in change_rows(depth_changes(before, after, by_head=True))} == {0, 1, 2}


# ---- words


def test_words_say_which_blocks_changed_how_and_nothing_else():
    before, after = run(), moved(moved(tuned(), "entropy", 2, -0.05), "entropy", 3, -0.09)
    after = moved(after, "distance", 1, 0.12)
    words = depth_words(before, after, depth_changes(before, after))
    assert words[0] == (
        "From linear to lora (24 images, 1 training seed), attention or relevance changed in blocks 2 and 3; nothing "
        "changed by the smallest size that counts in block 0; undecided: block 1 (about the "
        "smallest size that counts, or not certain after correction)."
    )
    assert words[1].startswith("Attention is more focused in blocks 2 and 3, most in block 3: -0.0897")
    assert words[2].startswith("The reading row moved most in block ") and len(words) == 4
    assert words[3] == (
        "Tokens are least alike after block 3, with a linear CKA of 0.800 (1: the same up to "
        "rotation); it is 1.000 at the input."
    )


def test_words_of_no_change():
    before, after = run(), run("lora", seed=1)
    words = depth_words(before, after, depth_changes(before, after), depth_changes(before, after, by_head=True))
    assert words == [
        "From linear to lora (24 images, 1 training seed), attention or relevance was not found to have changed in any "
        "block; nothing changed by the smallest size that counts in blocks 0 to 3."
    ]
    without = [replace(one, measures={"entropy": one.measures["entropy"]}) for one in (before, after)]
    assert "attention was not found" in depth_words(*without, depth_changes(*without))[0]


def test_seeds_have_to_agree_about_a_block():
    """Changed in every seed to one side: changed; else undecided, and the sentence says why."""

    def words(*by):
        return which_blocks("before", "dora", [depth_changes(run(), moved(tuned(), "entropy", 1, one)) for one in by])

    assert "changed in block 1;" in words(0.05, 0.08) and "undecided" not in words(0.05, 0.08)
    for by in ((0.05, -0.05), (0.05, 0.0)):
        assert words(*by).endswith(
            "nothing changed by the smallest size that counts in blocks 0, 2 and 3; undecided: block 1 "
            "(seeds disagree)."
        )
    assert words(0.05, 0.02).endswith(
        "undecided: block 1 (about the smallest size that counts, or not certain after correction)."
    )
    noise = np.random.default_rng(5).normal(0, 0.3, (IMAGES, 1))
    assert re.search(
        r"undecided: block 1 \(smallest detectable: 0\.1\d\d of a measure's scale\)\.$", words(0.05, noise)
    )


def test_words_give_the_divergence_of_blocks_and_its_interval():
    after = replace(tuned(), divergence=np.full((IMAGES, LAYERS, HEADS), 0.1))
    after.divergence[:, 2, 0] += 0.3 + np.random.default_rng(0).normal(0, 0.01, IMAGES)
    sentence = next(one for one in depth_words(run(), after, depth_changes(run(), after)) if "Jensen" in one)
    assert "most in block 2, by a Jensen-Shannon divergence of 0.2" in sentence
    assert "least in block 0, by 0.100 [0.100, 0.100]" in sentence


def test_block_names():
    assert block_names([]) == "" and block_names(["3"]) == "block 3" and block_names(["3", "4"]) == "blocks 3 and 4"
    assert block_names(["0", "2", "3", "4", "9", "10"]) == "blocks 0, 2 to 4, 9 and 10"
    assert block_names(["5", "6", "7"]) == "blocks 5 to 7" and block_names(["pool"]) == "attention pooling"
    assert block_names(["10", "11", "pool"]) == "blocks 10, 11 and attention pooling"


# ---- figures


@pytest.mark.parametrize("size", [dict(layers=1, heads=1), dict(layers=13, heads=12, pool=True), dict(registers=True)])
def test_figures_clip_nothing_and_overlap_nothing(tmp_path, drawn, size):
    runs = [run("linear", **size), tuned(VARIANT, **size)]
    depth_profiles(tmp_path / "depth.png", runs, [[]], "What changed at which depth " * 4, "More words.")
    depth_heads(tmp_path / "heads.png", *runs[:2], [], "Attention by block and head")
    for figure in drawn:
        words = " ".join(text.get_text() for text in check_texts(figure)).replace("\n", " ")
        assert "Holm" in words and "*" not in words and "linear" in words
        assert ("attention on prefix tokens" in words) == ("registers" in size)
    assert Image.open(tmp_path / "depth.png").size[0] == 1100


def test_profiles_show_means_and_mark_what_changed(tmp_path, drawn):
    before, after = run(), moved(tuned(), "on_itself", 2, 0.08)
    depth_profiles(tmp_path / "depth.png", [before, after], [depth_changes(before, after)], "t")
    entropy, distance, itself, relevance, divergence, cka = drawn[0].axes
    assert np.allclose(itself.lines[2].get_ydata(), 100 * after.measures["on_itself"].mean((0, 2)))
    assert np.allclose(relevance.lines[0].get_ydata(), 100 * before.measures["relevance"].sum(2).mean(0))
    assert itself.lines[3].get_xdata().tolist() == [2], "filled where it changed"
    assert to_rgba(itself.lines[3].get_markerfacecolor()) != to_rgba(itself.lines[2].get_markerfacecolor())
    assert not len(itself.lines[1].get_xdata()) and not len(entropy.lines[3].get_xdata())
    assert distance.lines[4].get_ydata() == [6, 6], "even attention"
    assert np.allclose(divergence.lines[0].get_ydata(), after.divergence.mean((0, 2))) and divergence.get_ylim()[0] == 0
    assert np.allclose(cka.lines[0].get_ydata(), after.cka) and cka.get_xlim() == (-0.5, LAYERS + 0.5)
    dots = entropy.collections[2].get_offsets()
    assert np.allclose(np.sort(dots[:, 1]), np.sort(before.measures["entropy"].mean(0).ravel()))


def test_matrices_share_a_scale_and_their_difference_is_centred(tmp_path, drawn):
    before, after = run(), moved(tuned(), "entropy", 1, 0.3, head=2)
    depth_heads(tmp_path / "heads.png", before, after, depth_changes(before, after, by_head=True), "t")
    images = [axes.images[0] for axes in drawn[0].axes if axes.get_ylabel() == "block"]
    first, second, difference, *others = images
    assert len(others) == 7, "three measures and the divergence"
    assert first.get_clim() == second.get_clim() and first.get_clim()[1] == second.get_array().max()
    assert np.allclose(difference.get_array(), second.get_array() - first.get_array())
    assert difference.get_clim() == pytest.approx((-0.3, 0.3), abs=0.01)
    assert difference.axes.collections[0].get_offsets().tolist() == [[2, 1]], "column, row"
    distance = others[2]
    assert distance.get_clim() == pytest.approx((-SMALLEST * 6, SMALLEST * 6)), "what is too small to count stays pale"
    assert np.allclose(others[-1].get_array(), after.divergence.mean(0))


def test_the_same_content_gives_the_same_bytes_whatever_the_users_settings(tmp_path):
    before, after = run(layers=2), tuned(layers=2)

    def draw(folder):
        folder.mkdir()
        depth_profiles(folder / "depth.png", [before, after], [depth_changes(before, after)], "t")
        depth_heads(folder / "heads.png", before, after, [], "t")
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    first = draw(tmp_path / "a")
    with matplotlib.rc_context({"font.size": 20, "image.cmap": "jet", "savefig.dpi": 50}):
        assert draw(tmp_path / "b") == first and len(first) == 2


def test_what_does_not_fit_is_refused(tmp_path):
    good, path = run(), tmp_path / "x.png"
    for wrong, message in (
        (lambda: replace(good, measures={}), "measures are missing"),
        (lambda: replace(good, measures={"focus": np.zeros((1, 4, 1))}), "measures focus; expected some of entropy"),
        (lambda: replace(good, blocks=("0",)), "expected one .images, 1, heads."),
        (lambda: replace(good, divergence=np.zeros((2, 2))), "expected one .images, 4, heads."),
        (lambda: replace(good, cka=np.ones(LAYERS)), r"cka has shape .4,.; expected .5,."),
        (lambda: depth_changes(good, run(images=30)), "expected the same images and checkpoints of one backbone"),
        (lambda: depth_profiles(path, [good, tuned()], [], "t"), "2 runs and changes of 0"),
        (lambda: depth_heads(path, good, run(layers=2), [], "t"), "expected the same images"),
    ):
        with pytest.raises(ValueError, match=message):
            wrong()
    assert not list(tmp_path.iterdir())
