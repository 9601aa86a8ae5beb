"""A small random ViT, images and targets for the tests of `explain`."""

import pytest
import torch
from small_vits import make_vit


@pytest.fixture
def vit():
    return make_vit()


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(3, 3, 24, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def targets() -> torch.Tensor:
    return torch.tensor([[0, 3], [6, 2], [4, 4]])
