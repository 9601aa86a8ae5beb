"""Maps to pixels to colours."""

import numpy as np
import pytest
import torch

from explain.heatmap import normalise, overlay, to_heatmap


def test_upsampling_keeps_range_place_and_constants():
    maps = torch.zeros(1, 1, 4, 6)
    maps[0, 0, 1, 4] = 1
    heat = to_heatmap(maps, (64, 96))
    assert heat.shape == (1, 1, 64, 96) and 0 <= float(heat.min()) and float(heat.max()) <= 1
    row, column = divmod(int(heat.argmax()), 96)
    assert 16 <= row < 32 and 64 <= column < 80, "the peak stays in its patch"
    assert torch.allclose(to_heatmap(torch.full((2, 3, 2, 2), 0.3), (7, 9)), torch.tensor(0.3))
    with pytest.raises(ValueError, match="grid_h"):
        to_heatmap(maps[0], (8, 8))


def test_normalising_alone_and_together():
    heat = torch.tensor([1.0, 4.0]).view(1, 2, 1, 1) * torch.tensor([[-1.0, 0.5], [1.0, 0.0]])
    alone = normalise(heat)
    assert alone.amax(dim=(-2, -1)).tolist() == [[1, 1]] and float(alone.min()) == 0
    assert normalise(heat, shared=True).amax(dim=(-2, -1)).tolist() == [[0.25, 1]]
    assert normalise(heat, shared=1).amax(dim=(-2, -1)).tolist() == [[0.25, 1]]
    assert isinstance(normalise(heat.numpy()), np.ndarray)


def test_signed_maps_are_symmetrical_about_a_half():
    heat = torch.tensor([[-2.0, 0.0], [1.0, 2.0]])
    assert normalise(heat, signed=True).tolist() == [[0, 0.5], [0.75, 1]]
    assert torch.allclose(normalise(-heat, signed=True), 1 - normalise(heat, signed=True))


def test_nothing_to_show():
    assert bool((normalise(torch.zeros(2, 2)) == 0).all()) and bool((normalise(-torch.ones(2, 2)) == 0).all())
    assert bool((normalise(torch.zeros(2, 2), signed=True) == 0.5).all())
    assert float(normalise(torch.full((1, 1), 1e-42)).max()) == pytest.approx(1), "tiny maps too"


def test_overlay_blends_the_photo():
    image = np.random.default_rng(0).integers(0, 256, (8, 10, 3), dtype=np.uint8)
    heat = np.linspace(0, 1, 80).reshape(8, 10)
    assert np.array_equal(overlay(image, heat, alpha=0), image)
    assert np.array_equal(overlay(image / 255, heat), overlay(image, torch.from_numpy(heat)))
    hot, cold = overlay(image, np.ones((8, 10)), alpha=1), overlay(image, np.zeros((8, 10)), alpha=1)
    assert hot.dtype == np.uint8 and hot.sum() > cold.sum()
    grey = overlay(image, heat, alpha=0, grey=True)
    assert np.ptp(grey, axis=-1).max() == 0 and np.abs(grey[..., 0] - image @ [0.299, 0.587, 0.114]).max() < 1
    with pytest.raises(ValueError, match="to_heatmap"):
        overlay(image, heat[:4])
    with pytest.raises(ValueError, match="alpha"):
        overlay(image, heat, alpha=2)
