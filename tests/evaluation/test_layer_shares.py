"""Each block's and head's share of the relevance of all heads, and whether heads add up to a map."""

from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from evaluation.depth import heads_add_up, layer_names, layer_shares
from explain import relevance
from explain.registry import METHODS
from models.runs import load_run

WITH_LAYERS = [name for name, method in METHODS.items() if "layers" in method.options]


def test_shares_are_the_slow_formula():
    layers = torch.randn(3, 2, 4, 5, 2, 3, generator=torch.Generator().manual_seed(0))
    layers[2, 1] = 0  # nothing was added
    found = layer_shares(layers)
    assert found.shape == (3, 2, 4, 5) and found.dtype == torch.float64
    for image, target in product(range(2), range(2)):
        sums = [
            [sum(abs(float(v)) for v in layers[image, target, block, head].flatten()) for head in range(5)]
            for block in range(4)
        ]
        total = sum(map(sum, sums))
        assert np.allclose(found[image, target], np.array(sums) / total, atol=1e-6)
    assert found[2, 1].isnan().all() and not found[2, 0].isnan().any()


@pytest.mark.parametrize(
    "pool, count, expected",
    [
        (None, 3, ["0", "1", "2"]),
        (None, 1, ["2"]),
        (nn.Identity(), 4, ["0", "1", "2", "pool"]),
        (nn.Identity(), 1, ["pool"]),
    ],
)
def test_layers_are_named_from_the_last(pool, count, expected):
    assert layer_names(SimpleNamespace(blocks=[None] * 3, attn_pool=pool), count) == expected


@pytest.mark.parametrize("method", WITH_LAYERS)
def test_heads_add_up_to_the_map_where_it_is_said_and_nowhere_else(shop, method):
    run = load_run(shop.dora)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    maps, layers = relevance(run.model.double(), images, torch.tensor([[0, 2], [1, 0]]), method, layers=True)
    gap = (layers.sum((2, 3)) - maps).norm() / maps.norm()
    assert gap < 1e-10 if heads_add_up(method) else gap > 1e-3  # cp_lrp: 0.02 with these weights, 0.9 on DeiT-Tiny
