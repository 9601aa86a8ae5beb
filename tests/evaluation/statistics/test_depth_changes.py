"""What counts as a change of attention or relevance at one depth, and sentences that the numbers support."""

import re
from dataclasses import replace

import numpy as np
import pytest

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

IMAGES, LAYERS, HEADS = 24, 4, 3
UNIFORM = {"entropy": 1.0, "distance": 6.0, "on_patches": 0.9, "on_prefix": 0.05, "on_itself": 0.05}


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


def test_what_does_not_fit_is_refused():
    good = run()
    for wrong, message in (
        (lambda: replace(good, measures={}), "measures are missing"),
        (lambda: replace(good, measures={"focus": np.zeros((1, 4, 1))}), "measures focus; expected some of entropy"),
        (lambda: replace(good, blocks=("0",)), "expected one .images, 1, heads."),
        (lambda: replace(good, divergence=np.zeros((2, 2))), "expected one .images, 4, heads."),
        (lambda: replace(good, cka=np.ones(LAYERS)), r"cka has shape .4,.; expected .5,."),
        (lambda: depth_changes(good, run(images=30)), "expected the same images and checkpoints of one backbone"),
    ):
        with pytest.raises(ValueError, match=message):
            wrong()
