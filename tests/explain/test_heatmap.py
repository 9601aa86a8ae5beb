"""Maps to pixels."""

import pytest
import torch

from explain.heatmap import to_heatmap


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
