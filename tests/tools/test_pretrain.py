"""The maker of the bundled backbone: its images have labels of their own, and plain timm loads what it writes."""

import hashlib
import json

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file

from data.options import DATA_SEED_LIMIT
from data.scenes.scene import SPORTS, SURFACES
from tools import drawn_objects, pretext, pretrain


def test_pretext_labels_are_neither_sports_nor_surfaces():
    assert not set(drawn_objects.PART_KINDS) & (set(SPORTS) | set(SURFACES))


def test_pretext_images_are_deterministic_and_say_what_they_show():
    first, second = (pretext.draw_example(DATA_SEED_LIMIT, 3) for _ in range(2))
    assert np.array_equal(first.image, second.image) and np.array_equal(first.parts, second.parts)
    assert (
        first.image.shape == (96, 96, 3)
        and first.parts.max() < drawn_objects.CLASSES
        and first.pose.shape == (pretext.POSE_SIZE,)
    )


def test_pretraining_keeps_to_its_own_data_seeds(tmp_path):
    with pytest.raises(ValueError, match="start at"):
        pretext.draw_example(DATA_SEED_LIMIT - 1, 0)
    with pytest.raises(SystemExit) as stop:
        pretrain.main(["--out", str(tmp_path), "--data-seed", "0"])
    assert stop.value.code == 2


def test_patch_shares_count_pixels():
    parts = torch.randint(drawn_objects.CLASSES, (2, 96, 96), generator=torch.Generator().manual_seed(0))
    shares = pretrain.patch_shares(parts)
    patch = parts[1, 8:16, 24:32]
    expected = torch.bincount(patch.flatten(), minlength=drawn_objects.CLASSES) / 64
    assert torch.allclose(shares[1, 12 + 3], expected) and torch.allclose(shares.sum(-1), torch.ones(2, 144))


def test_a_mirrored_example_moves_with_its_labels():
    """A pixel column marked in the image, the parts and the pose stays one column through crops and flips."""
    count, column = 32, 40
    images, parts = torch.zeros(count, 104, 104, 3, dtype=torch.uint8), torch.zeros(count, 104, 104, dtype=torch.uint8)
    images[:, :, column], parts[:, :, column] = 255, 5
    layout = torch.full((count, pretext.POSE_SIZE + 1), (column + 0.5) / 104)
    examples = images, parts, torch.zeros(count, dtype=torch.long), layout
    pixels, moved, _, layout = pretrain.batch_of(examples, torch.arange(count), torch.Generator().manual_seed(0))
    found = moved[:, 0].argmax(1)
    assert torch.equal(pixels.mean(1)[:, 0].argmax(1), found) and len(found.unique()) > 4
    assert torch.allclose(layout[:, 0] * 96, found + 0.5, atol=1e-4)


@pytest.fixture
def keep_torch_settings():
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)


def test_a_short_run_writes_what_timm_loads(tmp_path, keep_torch_settings):
    for name in ("first", "second"):
        pretrain.main(["--out", str(tmp_path / name), "--steps", "2", "--images", "8", "--batch", "4"])
    weights = tmp_path / "first" / "backbone.safetensors"
    config = json.loads((tmp_path / "first" / "config.json").read_text())
    assert hashlib.sha256(weights.read_bytes()).hexdigest() == config["sha256"]
    assert (tmp_path / "second" / "backbone.safetensors").read_bytes() == weights.read_bytes()
    model = timm.create_model(config["timm_name"], num_classes=0, **config["kwargs"])
    model.load_state_dict(load_file(weights))
    assert sum(p.numel() for p in model.parameters()) <= 1_000_000 and weights.stat().st_size <= 4_000_000
