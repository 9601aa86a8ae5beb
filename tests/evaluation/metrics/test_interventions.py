"""Effects of interventions and relevance on what was changed, against their formulas and where the answer is known."""

import numpy as np
import pytest
import torch

from evaluation.metrics.interventions import effects, oracle_map, relevance_on


def test_an_effect_is_the_output_less_its_mean_over_the_changed_images():
    torch.manual_seed(0)
    before, after = torch.randn(5), torch.randn(3, 5)
    logit, log_probability = effects(before, after, 2)
    centred = [float(row[2] - row.mean()) for row in (before, *after)]
    log_p = [float(row[2] - row.exp().sum().log()) for row in (before, *after)]
    assert logit == pytest.approx(centred[0] - sum(centred[1:]) / 3, abs=1e-5)
    assert log_probability == pytest.approx(log_p[0] - sum(log_p[1:]) / 3, abs=1e-5)


def test_what_all_classes_share_is_no_effect_and_nothing_changed_is_none():
    before = torch.tensor([1.0, 2.0, 4.0])
    assert effects(before, before[None] + 3.0, 1) == pytest.approx((0.0, 0.0), abs=1e-6)
    assert effects(before, before[None].repeat(4, 1), 0) == pytest.approx((0.0, 0.0), abs=1e-12)
    assert min(effects(before, torch.tensor([[1.0, 0.0, 4.0]]), 1)) > 0, "without it, the class has less"


def test_relevance_on_pixels_counts_patches_by_their_share():
    heat, pixels = np.array([[1.0, -2.0], [3.0, 0.5]]), np.zeros((4, 4), dtype=bool)
    pixels[:2, :3] = True  # the first patch, half of the second
    total, share = relevance_on(heat, pixels)
    assert total == pytest.approx(1.0 - 1.0) and share == pytest.approx(0.0)
    total, share = relevance_on(np.stack([heat, 2 * heat, 0 * heat]), np.ones((4, 4), dtype=bool))
    assert total.tolist() == [2.5, 5.0, 0.0] and share == pytest.approx([2.5 / 6.5, 2.5 / 6.5, 0.0])


def test_the_oracles_relevance_is_the_effect_where_factors_share_no_patch():
    pixels = np.zeros((3, 6, 6), dtype=bool)
    pixels[0, :2, :2] = pixels[1, 2:, 2:] = pixels[2, 0, 2:4] = True
    sizes = np.array([2.0, -3.0, 0.5])
    heat = oracle_map(sizes, pixels, (3, 3))
    found = [float(relevance_on(heat, one)[0]) for one in pixels]
    assert found[:2] == pytest.approx(sizes[:2].tolist()) and found[2] == pytest.approx(0.25), "half of that patch"
    assert heat.sum() == pytest.approx(sizes.sum())
    empty = np.concatenate([pixels, np.zeros((1, 6, 6), dtype=bool)])
    assert np.isfinite(oracle_map(np.append(sizes, 9.0), empty, (3, 3))).all()
