"""Agreement of relevance with interventions: against scipy, and where the answer is known."""

import numpy as np
import pytest
from scipy import stats

from evaluation.statistics.agreement import agreement, decided, factor_change, power, rank_correlation, sign_agreement

S, N, F = 2, 40, 5


def drawn(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(S, N, F))


def test_the_rank_correlation_is_scipys():
    a, b = drawn(0).ravel(), drawn(1).ravel()
    assert rank_correlation(a, a + b) == pytest.approx(stats.spearmanr(a, a + b).statistic)
    assert rank_correlation(np.round(a), np.round(b)) == pytest.approx(
        stats.spearmanr(np.round(a), np.round(b)).statistic
    )
    assert np.isnan(rank_correlation(np.ones(9), b[:9]))


def test_signs_are_weighed_by_the_effect():
    assert sign_agreement(np.array([1.0, -1.0, 2.0]), np.array([3.0, 1.0, 0.0])) == pytest.approx(0.75)
    assert np.isnan(sign_agreement(np.ones(3), np.zeros(3)))


@pytest.mark.parametrize("exponent", [0.5, 1.0, 2.0])
def test_the_exponent_of_a_power_law_is_found(exponent):
    relevance = drawn(2).ravel()
    effect = 3.0 * np.sign(relevance) * np.abs(relevance) ** exponent
    effect[:5] *= -1  # of another sign: left out
    assert power(relevance, effect) == pytest.approx(exponent)
    assert np.isnan(power(relevance, -effect[::-1] * 0)), "too few of one sign"


def test_relevance_that_is_the_effect_agrees_and_noise_does_not():
    effect = drawn(3)
    same = agreement(2 * effect, effect)
    assert (same.rank.value, same.sign.value, same.exponent.value) == pytest.approx((1.0, 1.0, 1.0))
    assert same.rank.low == pytest.approx(1.0) and (same.pairs, same.images, same.side) == (N * F, N, 1)
    noise = agreement(drawn(4), effect)
    assert noise.rank.low < 0 < noise.rank.high and noise.sign.low < 0.5 < noise.sign.high
    opposed = agreement(-effect, effect)
    assert opposed.rank.high == pytest.approx(-1.0) and (opposed.side, noise.side) == (-1, 0)


def test_few_images_decide_nothing():
    effect = drawn(3)
    few, one = (
        agreement(effect[:, :19], effect[:, :19]),
        agreement(effect[:1, :1].repeat(9, 2), effect[:1, :1].repeat(9, 2)),
    )
    assert few.side == 0 and few.rank.low == pytest.approx(1.0)
    assert one.rank.value == pytest.approx(1.0) and np.isnan(one.rank.low), "one image says nothing about others"
    change = factor_change("surface", (effect[..., 0], effect[..., 0] + 1), (effect[..., 1], effect[..., 1] + 1))
    some = factor_change("surface", *(tuple(a[:, :19] for a in b) for b in ((effect[..., 0], effect[..., 0] + 1),) * 2))
    assert change.certain and not some.certain


def test_changes_are_decided_after_holms_correction_for_all_of_them():
    """Alone p of the relevance's change is below 0.05; among twenty it is not."""
    random = np.random.default_rng(1)
    effect = np.zeros((1, N)), np.ones((1, N)) + 0.1 * random.normal(size=(1, N))
    weak = np.zeros((1, N)), random.normal(size=(1, N))
    weak = weak[0], weak[1] - weak[1].mean() + 2.3 * weak[1].std() / np.sqrt(N)
    found = factor_change("surface", weak, effect)
    assert found.certain and 0.01 < found.relevance.p_value < 0.05
    assert decided([found]) == [True] and decided([found] * 10) == [False] * 10


def test_images_are_drawn_whole():
    """Ten copies of each image's factors, as of equal seeds, say no more than one: the interval stays as wide."""
    relevance, effect = drawn(5)[:1], drawn(5)[:1] + drawn(6)[:1]
    once = agreement(relevance, effect)
    copies = agreement(np.tile(relevance, (10, 1, 1)), np.tile(effect, (10, 1, 1)))
    assert once.rank.value == pytest.approx(copies.rank.value, abs=1e-6) and copies.pairs == once.pairs
    assert copies.rank.high - copies.rank.low == pytest.approx(once.rank.high - once.rank.low, rel=0.05)


def test_factors_that_an_image_lacks_are_left_out():
    relevance, effect = drawn(7), drawn(7) + drawn(8)
    relevance[:, ::2, 1] = effect[:, ::2, 1] = np.nan
    found, known = agreement(relevance, effect), np.isfinite(relevance)
    assert found.pairs == known[0].sum() == N * F - N // 2
    assert found.rank.value == pytest.approx(stats.spearmanr(relevance[known], effect[known]).statistic)
    few = agreement(np.full((1, 3, 2), np.nan), np.full((1, 3, 2), np.nan))
    assert few.pairs == 0 and np.isnan(few.rank.value)
    with pytest.raises(ValueError, match=r"\(2, 40, 5\) and \(2, 40, 4\)"):
        agreement(relevance, effect[..., :4])


def test_a_change_is_the_second_less_the_first_over_images_that_have_the_factor():
    before, after = np.random.default_rng(9).normal(size=(2, S, N))
    before[:, 0] = after[:, 0] = np.nan
    up = (before, before + 0.2), (after, after + 1.0)
    found = factor_change("surface", *up)
    assert (found.relevance.difference, found.effect.difference) == pytest.approx((0.2, 1.0))
    assert found.certain and found.agrees and found.effect.n == N - 1
    assert [pytest.approx(pair) for pair in found.seeds] == [(0.2, 1.0)] * S
    down = factor_change("surface", up[0], (after, after - 1.0))
    assert down.certain and not down.agrees
    apart = np.stack([before[0] + 0.2, before[1] - 0.1])
    assert not factor_change("surface", (before, apart), up[1]).certain, "the seeds differ in sign"
    assert not factor_change("surface", (before, after), up[1]).certain, "the interval includes zero"
