"""Metrics at known answers."""

from pathlib import Path

import numpy as np
import pytest
import torch

from explain import metrics, relevance

SHARED = Path(__file__).parents[3] / "shared"


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
    assert metrics.spearman([[1, 1, 2]], [[1, 2, 3]]) == pytest.approx(3 ** 0.5 / 2), "ties share ranks"


def test_entropy_from_one_patch_to_all():
    one = np.zeros((4, 4))
    one[1, 2] = 3
    half = np.repeat([[1.0], [0.0]], 2, axis=0) * np.ones((4, 4))
    assert metrics.entropy(one) == 0 and metrics.entropy(np.ones((4, 4))) == pytest.approx(1)
    assert metrics.entropy(half) == pytest.approx(np.log(8) / np.log(16))
    assert metrics.entropy(half - (half == 0)) == metrics.entropy(half), "negative parts are left out"
    assert np.isnan(metrics.entropy(np.zeros((2, 4, 4)))).all()
    assert metrics.entropy(draw(3, 2, 5, 5)).shape == (3, 2)


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


def test_repeatability(vit, images, targets):
    change = metrics.repeatability(vit, images, targets, "lrp_magnitude")
    assert change.shape == (3, 2) and bool((change > 0).all())
    assert torch.equal(change, metrics.repeatability(vit, images, targets, "lrp_magnitude"))
    alone = metrics.repeatability(vit, images[1:2], targets[1:2], "lrp_magnitude")
    assert torch.allclose(change[1:2], alone, rtol=1e-6), "batches do not matter"
    assert not torch.equal(change, metrics.repeatability(vit, images, targets, "lrp_magnitude", seed=1))
    maps = relevance(vit, images, targets, "lrp_magnitude")
    assert torch.equal(change, metrics.repeatability(vit, images, targets, "lrp_magnitude", maps=maps))
    assert not torch.equal(change, metrics.repeatability(vit, images, targets, "lrp_magnitude", maps=2 * maps))
    assert metrics.repeatability(vit, images, targets, "lrp", noise=0.0, start_block=1).abs().max() == 0


def shared_photos(count):
    from PIL import Image
    from timm.data import create_transform, resolve_model_data_config
    import timm
    weights = SHARED / "weights" / "deit_tiny_patch16_224.safetensors"
    folder = SHARED / "sports" / "valid"
    if not weights.is_file() or not folder.is_dir():
        pytest.skip(f"needs {weights.name} and sports/valid in ../shared")
    model = timm.create_model("deit_tiny_patch16_224", pretrained=True,
                              pretrained_cfg_overlay=dict(file=str(weights))).eval()
    transform = create_transform(**resolve_model_data_config(model), is_training=False)
    files = sorted(folder.glob("*/*.jpg"))
    files = files[::len(files) // count][:count]
    return model, torch.stack([transform(Image.open(file).convert("RGB")) for file in files])


@pytest.mark.shared
def test_default_method_is_repeatable_on_real_photos():
    model, images = shared_photos(8)
    with torch.no_grad():
        targets = torch.stack([model(images).argmax(1), torch.arange(8) * 100], dim=1)
    change = metrics.repeatability(model, images, targets, "lrp_magnitude")
    assert float(change.median()) < 0.02
    exact = relevance(model.double(), images[:2].double(), targets[:2])
    single = relevance(model.float(), images[:2], targets[:2]).double()
    assert float((single - exact).norm() / exact.norm()) < 0.01
