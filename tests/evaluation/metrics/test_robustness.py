"""Change of maps under input noise, of a small ViT and of the default method on real photos."""

from pathlib import Path

import pytest
import torch

from evaluation.metrics.robustness import input_noise_change
from explain import DEFAULT_METHOD, relevance

SHARED = Path(__file__).parents[4] / "shared"


def test_input_noise_change(vit, images, targets):
    change = input_noise_change(vit, images, targets, "lrp_magnitude")
    assert change.shape == (3, 2) and bool((change > 0).all())
    assert torch.equal(change, input_noise_change(vit, images, targets, "lrp_magnitude"))
    alone = input_noise_change(vit, images[1:2], targets[1:2], "lrp_magnitude")
    assert torch.allclose(change[1:2], alone, rtol=1e-6), "batches do not matter"
    assert not torch.equal(change, input_noise_change(vit, images, targets, "lrp_magnitude", seed=1))
    with pytest.raises(ValueError, match="layers would return more than maps"):
        input_noise_change(vit, images, targets, "lrp_magnitude", layers=True)
    maps = relevance(vit, images, targets, "lrp_magnitude")
    assert torch.equal(change, input_noise_change(vit, images, targets, "lrp_magnitude", maps=maps))
    assert not torch.equal(change, input_noise_change(vit, images, targets, "lrp_magnitude", maps=2 * maps))
    assert input_noise_change(vit, images, targets, "lrp", noise=0.0, start_block=1).abs().max() == 0
    maps[0, 1] = 0
    assert input_noise_change(vit, images, targets, "lrp_magnitude", maps=maps).isnan().flatten().tolist() == [
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
def test_default_method_is_robust_on_real_photos():
    """Below 1 %, as the default has to be: of invisible noise, and of float32 against float64."""
    model, images = shared_photos(5)
    with torch.no_grad():
        targets = torch.stack([model(images).argmax(1), torch.arange(5) * 100], dim=1)
    change = input_noise_change(model, images, targets, DEFAULT_METHOD)
    assert change.shape == (5, 2) and float(change.median()) < 0.01
    exact = relevance(model.double(), images[:1].double(), targets[:1])
    single = relevance(model.float(), images[:1], targets[:1]).double()
    assert float((single - exact).norm() / exact.norm()) < 0.01
