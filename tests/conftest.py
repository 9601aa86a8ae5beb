"""Shared by all tests: the tiny ViT's weights and a small image folder, made once."""

from pathlib import Path

import pytest
import torch

from models.backbone import BackboneSpec
from tiny import NAME, SIZE, colour_folder, write_weights

torch.set_num_threads(1)  # on tensors this small, threads only wait for one another


@pytest.fixture(scope="session")
def weights(tmp_path_factory) -> Path:
    return write_weights(tmp_path_factory.mktemp("weights") / "test_vit.safetensors")


@pytest.fixture(scope="session")
def spec(weights) -> BackboneSpec:
    return BackboneSpec(NAME, str(weights), SIZE)


@pytest.fixture(scope="session")
def colours(tmp_path_factory) -> Path:
    """A folder with three classes, 12 training and 6 validation images each; read only, please."""
    return colour_folder(tmp_path_factory.mktemp("data") / "colours")
