"""What a claim needs over images, over seeds and after correction, on data whose answers are known."""

from dataclasses import replace

import numpy as np
import pytest

from evaluation.statistics.measured import Measured, correct_family, measure
from evaluation.statistics.paired import over_seeds, paired
from evaluation.statistics.permutation import sign_flip_p
from evaluation.statistics.verdicts import (
    CONTRADICTED_ACROSS_SEEDS,
    CONTRADICTED_FOR_IMAGES,
    FEWEST_IMAGES,
    INCLUDES_ZERO,
    RULE,
    SEEDS_DISAGREE,
    SIDES,
    SUPPORTED_ACROSS_SEEDS,
    SUPPORTED_FOR_IMAGES,
    TOO_FEW,
    UNDECIDED,
    Judgement,
    agreement,
    judge,
    remarks,
    seeds_text,
    side_of_interval,
)


def differing(*shifts: float, count: int = 60, noise: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    """Two methods' figures (S, N); the first is higher by the seed's shift, image by image with noise."""
    generator = np.random.default_rng(0)
    base = generator.uniform(0.3, 0.6, (len(shifts), count))
    return base + np.array(shifts)[:, None] + generator.normal(0, noise, (len(shifts), count)), base


def measured_of(difference: float, error: float = 0.1, seeds: tuple[float, ...] = (), p: float = 0.001) -> Measured:
    """A difference with a normal interval over 100 images, and its seeds."""
    low, high = difference - 1.96 * error, difference + 1.96 * error
    over = over_seeds(seeds or [difference])
    return Measured(100, difference, 0.0, difference, low, high, error, "sign-flip permutation", p, "", over)


# Verdicts


def test_seeds_that_agree_closely_support_a_claim_across_seeds():
    found = measure(*differing(0.1, 0.12, 0.11, noise=0.01))
    assert found.seeds.low > 0
    assert judge(found, 1, 0.01) == Judgement(SUPPORTED_ACROSS_SEEDS)
    assert judge(found, -1, 0.01) == Judgement(CONTRADICTED_ACROSS_SEEDS)


@pytest.mark.parametrize("shifts", [(0.2,), (0.1, 0.3), (0.05, 0.4, 0.1)])
def test_a_seed_interval_with_zero_in_it_or_one_seed_supports_it_for_these_images_only(shifts):
    found = measure(*differing(*shifts))
    assert not found.seeds.low > 0
    assert judge(found, 1, 0.01) == Judgement(SUPPORTED_FOR_IMAGES)
    assert judge(found, -1, 0.01) == Judgement(CONTRADICTED_FOR_IMAGES)


def test_sides_and_scopes_of_every_word():
    found = [(word, Judgement(word).side, Judgement(word).scope) for word in SIDES]
    assert found == [
        (SUPPORTED_ACROSS_SEEDS, "claimed", "across seeds"),
        (SUPPORTED_FOR_IMAGES, "claimed", "for these images"),
        (CONTRADICTED_ACROSS_SEEDS, "reverse", "across seeds"),
        (CONTRADICTED_FOR_IMAGES, "reverse", "for these images"),
        (UNDECIDED, "undecided", ""),
    ]
    assert all(f"*{word}*" in RULE for word in SIDES)


def test_one_seed_of_the_other_sign_leaves_it_undecided():
    found = measure(*differing(0.2, 0.2, -0.01, noise=0.01))
    assert found.low > 0
    assert judge(found, 1, 0.001) == judge(found, -1, 0.001) == Judgement(UNDECIDED, SEEDS_DISAGREE)


@pytest.mark.parametrize(
    "corrected, expected",
    [
        (0.049, Judgement(SUPPORTED_FOR_IMAGES)),
        (0.05, Judgement(UNDECIDED, "corrected p = 0.050")),
        (float("nan"), Judgement(UNDECIDED, "corrected p = –")),
    ],
)
def test_the_corrected_p_value_has_to_be_small(corrected, expected):
    assert judge(measure(*differing(0.2)), 1, corrected) == expected


def test_an_interval_with_zero_in_it_decides_nothing():
    assert judge(measure(*differing(0.2, -0.2)), 1, 0.001) == Judgement(UNDECIDED, INCLUDES_ZERO)


@pytest.mark.parametrize("count, word", [(FEWEST_IMAGES - 1, UNDECIDED), (FEWEST_IMAGES, SUPPORTED_FOR_IMAGES)])
def test_too_few_images_decide_nothing(count, word):
    found = judge(measure(*differing(0.3, count=count, noise=0)), 1, 0.0001)
    assert (found.word, found.reason) == (word, TOO_FEW if word == UNDECIDED else "")


@pytest.mark.parametrize(
    "differences, words",
    [
        ((0.1,), "1 seed"),
        ((0.1, 0.2), "2 seeds, all of one sign"),
        ((-0.1, -0.2), "2 seeds, all of one sign"),
        ((0.1, -0.2, 0.1), "3 seeds, not all of one sign"),
        ((0.0, 0.0), "2 seeds, not all of one sign"),
    ],
)
def test_seeds_in_words(differences, words):
    assert agreement(over_seeds(differences)) == words


def test_noise_alone_is_seldom_called_a_finding():
    """Two methods without any difference, 120 times: 5 % are 6, and three standard deviations more are 13."""
    generator, like, wrong = np.random.default_rng(1), measure(*differing(0.1)), 0
    for _ in range(120):
        found = paired(generator.normal(0, 1, 40), np.zeros(40), resamples=299)
        one = replace(
            like, difference=found.difference, low=found.low, high=found.high, seeds=over_seeds([found.difference])
        )
        wrong += judge(one, 1, found.p_value).side != "undecided"
    assert wrong <= 13


@pytest.mark.parametrize(
    "low, high, sign, expected",
    [
        (0.1, 0.3, 1, "claimed"),
        (0.1, 0.3, -1, "reverse"),
        (-0.3, -0.1, -1, "claimed"),
        (-0.3, -0.1, 1, "reverse"),
        (-0.1, 0.3, 1, "undecided"),
        (0.0, 0.3, 1, "undecided"),
        (-0.3, 0.0, -1, "undecided"),
        (0.0, 0.0, 1, "undecided"),
        (float("nan"), 0.3, 1, "undecided"),
    ],
)
def test_side_of_an_interval(low, high, sign, expected):
    assert side_of_interval((low + high) / 2, low, high, sign) == expected


def test_mixed_up_arguments_are_refused():
    with pytest.raises(ValueError, match="claimed_sign"):
        side_of_interval(0.1, 0.0, 0.2, 0)
    with pytest.raises(ValueError, match="does not belong"):
        side_of_interval(-0.1, 0.1, 0.2, 1)


# The smallest detectable difference


@pytest.mark.parametrize("size", [1, 8, 60])
def test_a_difference_of_the_smallest_detectable_size_is_found_in_four_of_five_cases(size):
    """One true difference in a family of `size`, 600 times. 80 % are 480, and four standard deviations are 39.

    2.8 standard errors, whatever the size of the family, were found in 51 % (8) and 25 % (60) of the cases.
    """
    true = replace(measured_of(0.0, error=0.1), family_size=size).smallest_detectable
    values = np.random.default_rng(size).normal(true, 1, (100, 600))
    found = 0
    for p, column in zip(sign_flip_p(values, flips=19_999), values.T):
        one = measured_of(column.mean(), column.std(ddof=1) / 10, p=p)
        family = correct_family([one, *[replace(one, p_value=1.0)] * (size - 1)])
        found += judge(family[0][0], 1, family[0][1]).side == "claimed"
    assert abs(found - 480) < 39


def test_what_would_have_been_found_is_told_only_beside_a_smaller_difference():
    small = replace(measured_of(0.1), family_size=5)
    assert remarks(small, judge(small, 1, 1.0)) == f"{INCLUDES_ZERO}; smallest detectable: 0.347"
    points = replace(measured_of(0.01, 0.02), family_size=5)
    said = remarks(points, judge(points, 1, 1.0), 100, "points", 1)
    assert said == f"{INCLUDES_ZERO}; smallest detectable: 6.9 points"
    border = replace(measured_of(0.25), family_size=5)
    assert remarks(border, judge(border, 1, 0.06)) == "corrected p = 0.060; smallest detectable: 0.347"
    large = replace(measured_of(-0.5, seeds=(-0.9, -0.7, 0.1)), family_size=5)
    assert remarks(large, judge(large, -1, 0.001)).startswith("seeds disagree; seeds: -0.5 [")
    rare = replace(measured_of(-0.5), family_size=5)
    assert remarks(rare, judge(rare, -1, 0.2)) == "corrected p = 0.200"
    few = replace(measured_of(0.1), n=FEWEST_IMAGES - 1)
    assert remarks(few, judge(few, 1, 0.001)) == TOO_FEW


def test_the_interval_over_seeds_stands_beside_every_verdict():
    found = measure(*differing(0.1, 0.12, 0.11, noise=0.001))
    assert remarks(found, judge(found, 1, 0.01)) == seeds_text(found.seeds) == "seeds: +0.110 [0.085, 0.135]"
    assert seeds_text(found.seeds, -100, "points") == "seeds: -11.0 [-13.5, -8.5] points"
    assert seeds_text(over_seeds([0.1])) == ""
