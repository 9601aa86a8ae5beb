"""Metrics at known answers."""

from pathlib import Path

import numpy as np
import pytest
import torch

from evaluation.metrics import maps as metrics
from explain import DEFAULT_METHOD, relevance

SHARED = Path(__file__).parents[4] / "shared"


def draw(*shape):
    return np.random.default_rng(0).random(shape)


def test_similarity_at_known_answers():
    a = draw(2, 3, 4)
    for similarity in (metrics.spearman, metrics.cosine):
        assert similarity(a, a).shape == (2,)
        assert np.allclose(similarity(a, 5 * a), 1) and np.allclose(similarity(a, -a), -1)
        assert np.isnan(similarity(a, np.ones_like(a))).all()
        assert np.allclose(similarity(a * 1e-200, a), 1), "scale does not matter"
        assert np.allclose(similarity(torch.from_numpy(a), a), 1)
        with pytest.raises(ValueError, match="last two axes"):
            similarity(a, a[..., :2])
    assert np.allclose(metrics.spearman(a, np.exp(a)), 1)
    assert metrics.cosine([[1, 0]], [[0, 1]]) == 0
    assert metrics.spearman([[1, 2, 3]], [[1, 3, 2]]) == pytest.approx(0.5)
    assert metrics.spearman([[1, 1, 2]], [[1, 2, 3]]) == pytest.approx(3**0.5 / 2), "ties share ranks"


def test_entropy_from_one_patch_to_all():
    one = np.zeros((4, 4))
    one[1, 2] = 3
    half = np.repeat([[1.0], [0.0]], 2, axis=0) * np.ones((4, 4))
    assert metrics.entropy(one) == 0 and metrics.entropy(np.ones((4, 4))) == pytest.approx(1)
    assert metrics.entropy(half) == pytest.approx(np.log(8) / np.log(16))
    assert metrics.entropy(half - (half == 0)) == metrics.entropy(half), "negative parts are left out"
    assert np.isnan(metrics.entropy(np.zeros((2, 4, 4)))).all()
    assert metrics.entropy(draw(3, 2, 5, 5)).shape == (3, 2)


def slow_ssim(a, b):
    """One pair of maps by loops: Wang et al. 2004, equation 13, windows mirrored at the border."""
    a, b = ((one - one.min()) / (one.max() - one.min()) for one in (a, b))
    distance = np.arange(-5, 6)
    window = np.exp(-(distance[:, None] ** 2 + distance[None] ** 2) / (2 * 1.5**2))
    window /= window.sum()
    a, b = (np.pad(one, 5, mode="symmetric") for one in (a, b))
    values = []
    for y in range(a.shape[0] - 10):
        for x in range(a.shape[1] - 10):
            p, q = a[y : y + 11, x : x + 11], b[y : y + 11, x : x + 11]
            mean_p, mean_q = (window * p).sum(), (window * q).sum()
            var_p, var_q = (window * (p - mean_p) ** 2).sum(), (window * (q - mean_q) ** 2).sum()
            covariance = (window * (p - mean_p) * (q - mean_q)).sum()
            values.append(
                (2 * mean_p * mean_q + 1e-4)
                * (2 * covariance + 9e-4)
                / ((mean_p**2 + mean_q**2 + 1e-4) * (var_p + var_q + 9e-4))
            )
    return np.mean(values)


def test_ssim():
    a, b = np.random.default_rng(0).random((2, 4, 9, 7))
    assert metrics.ssim(a, b) == pytest.approx([slow_ssim(*pair) for pair in zip(a, b)], abs=1e-12)
    assert metrics.ssim(a, a) == pytest.approx(1) and metrics.ssim(a, 1e-200 * a) == pytest.approx(1)
    assert metrics.ssim(a, 1.5e308 * (2 * a - 1)) == pytest.approx(1)
    assert metrics.ssim(3 * a - 8, b) == pytest.approx(metrics.ssim(a, b)), "each by its own range"
    assert (metrics.ssim(a, -a) < -0.8).all()
    assert metrics.ssim(a[:, None], b).shape == (4, 4)
    both = metrics.ssim([a[0], np.ones((9, 7))], b[:2])
    assert both[0] == pytest.approx(slow_ssim(a[0], b[0])) and np.isnan(both[1]), "a constant map spoils no other"
    noise = np.random.default_rng(1).random((2, 400, 14, 14))
    assert abs(metrics.ssim(*noise).mean()) < 0.03
    with pytest.raises(ValueError, match="last two axes"):
        metrics.ssim(a, b[:, :5])


def test_histogram_entropy():
    values = np.array([[0, 0, 0, 4], [0, 1, 2, 4]])
    assert metrics.histogram_entropy(np.ones((3, 3))) == 0
    assert metrics.histogram_entropy(values, bins=4) == pytest.approx(  # bins of 1 and the last of [3, 4]
        -sum(p * np.log(p) for p in (4 / 8, 1 / 8, 1 / 8, 2 / 8))
    )
    assert metrics.histogram_entropy(np.arange(64.0).reshape(8, 8)) == pytest.approx(np.log(64)), "all different"
    assert metrics.histogram_entropy(np.arange(64.0).reshape(8, 8), bins=16) == pytest.approx(np.log(16))
    assert metrics.histogram_entropy(5 - 3 * draw(4, 5, 5)) == pytest.approx(metrics.histogram_entropy(draw(4, 5, 5)))
    assert metrics.histogram_entropy(draw(3, 2, 5, 5)).shape == (3, 2)
    assert np.isnan(metrics.histogram_entropy([[[np.nan, 1]], [[np.inf, 1]], [[np.inf, np.inf]]])).all()
    two = np.log(2)  # however near, small or large two values are
    for values in ([1, np.nextafter(1, 2)], [0, 5e-324], [1e308, -1e308], [0, 1]):
        assert metrics.histogram_entropy([values]) == pytest.approx(two)
    assert metrics.histogram_entropy(np.stack([np.zeros((2, 2)), np.eye(2)])) == pytest.approx([0, two])


def test_gini():
    one = np.zeros((4, 4))
    one[1, 2] = 3
    assert metrics.gini(one) == pytest.approx(1 - 1 / 16) and metrics.gini(-one) == pytest.approx(1 - 1 / 16)
    assert metrics.gini(np.ones((4, 4))) == pytest.approx(0)
    values = [1, 2, 3, 6]  # Hurley and Rickard: 1 - 2 sum c_k / |c| (N - k + 1/2) / N
    by_hand = 1 - 2 * sum(c / 12 * (4 - k + 0.5) / 4 for k, c in enumerate(values, start=1))
    assert metrics.gini([[6, 1], [-3, 2]]) == pytest.approx(by_hand)
    assert metrics.gini(1e-300 * draw(4, 4)) == pytest.approx(metrics.gini(draw(4, 4)))
    assert metrics.gini(draw(500, 14, 14)).mean() == pytest.approx(1 / 3, abs=0.005)
    assert np.isnan(metrics.gini(np.zeros((2, 3, 3)))).all() and metrics.gini(draw(3, 2, 5, 5)).shape == (3, 2)


def test_total_variation():
    shuffled = np.random.default_rng(0).permuted(np.tile([0, 0, 0, 0, 0, 0, 1, 2, 2, 5, 9, 30], (4000, 1)), axis=1)
    assert metrics.total_variation(shuffled.reshape(-1, 3, 4)).mean() == pytest.approx(1, abs=0.01), "chance"
    assert metrics.total_variation([[0, 1], [0, 1]]) == pytest.approx((2 / 4) / (4 / 6)), "neighbours, pairs"
    assert metrics.total_variation([[3, 1, 2]]) == pytest.approx(((2 + 1) / 2) / ((2 + 1 + 1) / 3))
    chequers, ramp = np.indices((14, 14)).sum(0) % 2, np.indices((14, 14)).sum(0)
    assert metrics.total_variation(chequers) == pytest.approx(1 / (2 * 98 * 98 / (196 * 195)))
    assert metrics.total_variation(ramp) < 0.2
    signed = draw(3, 2, 5, 6) - 0.5
    assert metrics.total_variation(1e-200 * signed) == pytest.approx(metrics.total_variation(signed))
    assert metrics.total_variation(7 - 3 * signed) == pytest.approx(metrics.total_variation(signed))
    assert np.isnan(metrics.total_variation(np.full((2, 4, 4), 0.3))).all() and np.isnan(metrics.total_variation([[1]]))


def test_mass_outside_top():
    values = np.array([[8, 4], [2, 1], [1, -90]])
    assert metrics.mass_outside_top(values, share=1 / 6) == pytest.approx(8 / 16)
    assert metrics.mass_outside_top(values, share=1 / 3) == pytest.approx(4 / 16)
    assert metrics.mass_outside_top(values, share=1 / 4) == pytest.approx(6 / 16), "half of the second patch"
    assert metrics.mass_outside_top(np.ones((14, 14))) == pytest.approx(0.8), "an even map has 1 - share"
    one = np.zeros((14, 14))
    one[3, 5] = 2
    assert metrics.mass_outside_top(one) == 0 and np.isnan(metrics.mass_outside_top(0 * one))
    assert metrics.mass_outside_top(draw(300, 14, 14)).mean() == pytest.approx(0.64, abs=0.01)
    for share in (0, 1, 20):
        with pytest.raises(ValueError, match="between 0 and 1"):
            metrics.mass_outside_top(values, share=share)


def test_coverage_and_mass():
    mask = np.zeros((8, 8), bool)
    mask[:4, :2] = True
    coverage = metrics.patch_coverage(mask, (2, 2))
    assert coverage.tolist() == [[0.5, 0], [0, 0]]
    assert metrics.mass(np.ones((2, 2)), coverage) == pytest.approx(mask.mean()), "an even map scores chance"
    assert metrics.mass([[1, -5], [0, 0]], coverage) == 0.5
    assert metrics.mass([[3, 1], [0, 0]], np.array([[1, 0], [0, 0]])) == 0.75
    assert metrics.mass(draw(5, 3, 2, 2), np.ones((5, 1, 2, 2))).shape == (5, 3)
    assert np.isnan(metrics.mass(np.zeros((2, 2)), coverage))
    with pytest.raises(ValueError, match="multiples"):
        metrics.patch_coverage(mask, (3, 3))


def test_rank_accuracy():
    mask = np.zeros((4, 4), bool)
    mask[0] = True
    heat = np.arange(16.0)[::-1].reshape(4, 4)
    assert metrics.rank_accuracy(heat, mask) == 1 and metrics.rank_accuracy(-heat, mask) == 0
    assert metrics.rank_accuracy(np.ones((4, 4)), mask) == 0.25, "a constant map scores chance"
    assert metrics.rank_accuracy(heat.T, mask) == 0.25
    assert np.isnan(metrics.rank_accuracy(heat, np.zeros((4, 4), bool)))
    assert metrics.rank_accuracy(draw(3, 2, 4, 4), np.stack([mask] * 3)[:, None]).shape == (3, 2)


def test_localisation_of_a_random_map_is_chance_and_of_the_mask_itself_perfect():
    mask = np.zeros((8, 12), bool)
    mask[2:5, 3:10] = True
    share, maps = mask.mean(), draw(3000, 8, 12)
    coverage = metrics.patch_coverage(mask, (4, 6))
    for found in (
        metrics.rank_accuracy(maps, mask),
        metrics.mass(maps, mask),
        metrics.mass(draw(3000, 4, 6), coverage),
        metrics.mass(draw(3000, 4, 6) ** 9, coverage),
    ):
        assert found.shape == (3000,) and found.mean() == pytest.approx(share, abs=4 * found.std() / 3000**0.5)
    for scale in (1, 1e-200, 7):
        assert metrics.rank_accuracy(scale * mask, mask) == 1 and metrics.mass(scale * mask, mask) == pytest.approx(1)
    assert metrics.rank_accuracy(~mask, mask) == 0 == metrics.mass(~mask, mask), "all beside it"
    fully = coverage == 1
    assert fully.any() and metrics.mass(fully, coverage) == pytest.approx(1)
    assert metrics.mass(coverage, coverage) == pytest.approx((coverage**2).sum() / coverage.sum()), "border patches"


def test_chance_levels_that_docstrings_state():
    """Of uniform random maps of 14 x 14 patches."""
    a, b = np.random.default_rng(1).random((2, 1000, 14, 14))
    assert metrics.cosine(a, b).mean() == pytest.approx(0.75, abs=0.002)
    assert abs(metrics.spearman(a, b).mean()) < 0.01
    assert metrics.entropy(a).mean() == pytest.approx(0.96, abs=0.005)
    assert metrics.histogram_entropy(a).mean() == pytest.approx(4.3, abs=0.05)
    assert metrics.ssim(a[:200], b[:200]).mean() == pytest.approx(0.005, abs=0.01)
    assert metrics.total_variation(a).mean() == pytest.approx(1, abs=0.005)


def test_pointing_game():
    mask = np.zeros((4, 4), bool)
    mask[0, :3] = True
    heat = np.arange(16.0)[::-1].reshape(4, 4)
    assert metrics.pointing_game(heat, mask) == 1 and metrics.pointing_game(-heat, mask) == 0
    assert metrics.pointing_game(mask * 2.0, mask) == 1
    assert metrics.pointing_game(np.ones((4, 4)), mask) == 3 / 16, "a constant map scores chance"
    heat[2, 2] = heat.max()
    assert metrics.pointing_game(heat, mask) == 0.5, "one of two maxima"
    assert np.isnan(metrics.pointing_game(heat, np.zeros((4, 4), bool)))
    scores = metrics.pointing_game(draw(2000, 2, 4, 4), np.stack([mask] * 2000)[:, None])
    assert scores.shape == (2000, 2) and scores.mean() == pytest.approx(3 / 16, abs=0.03)


def test_repeatability(vit, images, targets):
    change = metrics.repeatability(vit, images, targets, "lrp_magnitude")
    assert change.shape == (3, 2) and bool((change > 0).all())
    assert torch.equal(change, metrics.repeatability(vit, images, targets, "lrp_magnitude"))
    alone = metrics.repeatability(vit, images[1:2], targets[1:2], "lrp_magnitude")
    assert torch.allclose(change[1:2], alone, rtol=1e-6), "batches do not matter"
    assert not torch.equal(change, metrics.repeatability(vit, images, targets, "lrp_magnitude", seed=1))
    with pytest.raises(ValueError, match="layers would return more than maps"):
        metrics.repeatability(vit, images, targets, "lrp_magnitude", layers=True)
    maps = relevance(vit, images, targets, "lrp_magnitude")
    assert torch.equal(change, metrics.repeatability(vit, images, targets, "lrp_magnitude", maps=maps))
    assert not torch.equal(change, metrics.repeatability(vit, images, targets, "lrp_magnitude", maps=2 * maps))
    assert metrics.repeatability(vit, images, targets, "lrp", noise=0.0, start_block=1).abs().max() == 0
    maps[0, 1] = 0
    assert metrics.repeatability(vit, images, targets, "lrp_magnitude", maps=maps).isnan().flatten().tolist() == [
        False,
        True,
        False,
        False,
        False,
        False,
    ], "what has no size has no relative change"


def shared_photos(count):
    import timm
    from PIL import Image
    from timm.data import create_transform, resolve_model_data_config

    weights = SHARED / "weights" / "deit_tiny_patch16_224.safetensors"
    folder = SHARED / "sports" / "valid"
    if not weights.is_file() or not folder.is_dir():
        pytest.skip(f"needs {weights.name} and sports/valid in ../shared")
    model = timm.create_model(
        "deit_tiny_patch16_224", pretrained=True, pretrained_cfg_overlay=dict(file=str(weights))
    ).eval()
    transform = create_transform(**resolve_model_data_config(model), is_training=False)
    files = sorted(folder.glob("*/*.jpg"))
    files = files[:: len(files) // count][:count]
    return model, torch.stack([transform(Image.open(file).convert("RGB")) for file in files])


@pytest.mark.shared
def test_default_method_is_repeatable_on_real_photos():
    """Below 1 %, as the default has to be: of invisible noise, and of float32 against float64."""
    model, images = shared_photos(8)
    with torch.no_grad():
        targets = torch.stack([model(images).argmax(1), torch.arange(8) * 100], dim=1)
    change = metrics.repeatability(model, images, targets, DEFAULT_METHOD)
    assert change.shape == (8, 2) and float(change.median()) < 0.01
    exact = relevance(model.double(), images[:2].double(), targets[:2])
    single = relevance(model.float(), images[:2], targets[:2]).double()
    assert float((single - exact).norm() / exact.norm()) < 0.01
