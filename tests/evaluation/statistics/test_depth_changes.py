"""What counts as a change of attention or relevance at one depth."""

from dataclasses import replace

import numpy as np
import pytest
from depth_runs import HEADS, IMAGES, LAYERS, moved, run, tuned, verdicts

from evaluation.statistics.depth import MEASURES, SMALLEST, depth_changes
from evaluation.statistics.depth_words import depth_words
from evaluation.statistics.paired import holm, paired
from evaluation.statistics.permutation import sign_flip_p

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


def test_a_change_of_the_smallest_detectable_size_is_found_in_four_of_five_cases():
    """One of 60 changes, 600 times: 80 % are 480, and four standard deviations are 39."""
    like = depth_changes(run(), moved(tuned(), "entropy", 1, 0.05))[0]
    for deviation in (0.2, 0.02):  # by certainty alone, and by the smallest size that counts
        error = deviation / 10
        one = replace(like, paired=replace(like.paired, n=100, standard_error=error), family_size=60)
        values = np.random.default_rng(0).normal(one.smallest_detectable, deviation, (100, 600))
        found = 0
        for p, column in zip(sign_flip_p(values, flips=19_999), values.T):
            mean, half = column.mean(), 1.98 * column.std(ddof=1) / 10
            seen = replace(one.paired, difference=mean, low=mean - half, high=mean + half)
            found += replace(one, paired=seen, corrected_p=60 * p).verdict == "changed"
        assert abs(found - 480) < 39


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
