"""What the model sees: timm's own pixels, masks cut like their image, augmentation that can be repeated."""

from dataclasses import dataclass

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch.utils.data import DataLoader

from data.transforms import (AUGMENTATIONS, Prepared, drawing_size, evaluation_transform, mask_transform, to_pixels,
                             training_transform)
from models.backbone import model_data_config

CONFIG = {"input_size": [3, 32, 32], "interpolation": "bicubic", "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4],
          "crop_pct": 0.8, "crop_mode": "center"}


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


@dataclass
class NoiseSplit:
    """Images that exist nowhere else."""

    count: int = 6

    def __post_init__(self):
        self.labels = np.arange(self.count)

    def __len__(self):
        return self.count

    def image(self, index):
        return noise(40, 36, index)


# Evaluation


@pytest.mark.parametrize("name", ["test_vit", "vit_tiny_patch16_224", "deit3_small_patch16_224", "swin_tiny_patch4_window7_224"])
def test_evaluation_is_timms_own(name):
    with torch.device("meta"):
        model = timm.create_model(name, pretrained=False)
    theirs = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    image = noise(300, 200)
    assert torch.equal(evaluation_transform(model_data_config(model))(image), theirs(image))


@pytest.mark.parametrize("name", ["test_vit", "vit_tiny_patch16_224"])  # the first takes any size, the second its own
def test_an_image_size_of_ones_own_is_used(name):
    with torch.device("meta"):
        model = timm.create_model(name, pretrained=False, img_size=64)
    assert evaluation_transform(model_data_config(model))(noise(80, 70)).shape == (3, 64, 64)


def test_to_pixels_undoes_the_normalisation():
    image = noise(32, 32)
    x = evaluation_transform(CONFIG | {"crop_pct": 1.0})(image)
    assert (to_pixels(x, CONFIG) == np.asarray(image)).all()
    assert to_pixels(x[None, None], CONFIG).shape == (1, 1, 32, 32, 3)


# Masks


@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
@pytest.mark.parametrize("size", [(90, 60), (60, 100)])
def test_a_mask_goes_through_the_same_crop_as_its_image(crop_mode, size):
    config = CONFIG | {"crop_mode": crop_mode}
    mask = np.zeros(size[::-1], dtype=bool)
    mask[size[1] // 3: size[1] * 2 // 3, size[0] // 4: size[0] // 2] = True
    x = evaluation_transform(config)(Image.fromarray(mask.astype(np.uint8) * 255).convert("RGB"))
    seen = to_pixels(x, config)[..., 0] > 127
    moved = mask_transform(config)(mask)
    assert moved.dtype == bool and moved.shape == (32, 32)
    assert seen.any() and not seen.all()
    assert (moved != seen).mean() < 0.04  # a pixel along the edges, where interpolation differs


def test_scenes_are_drawn_large_enough_not_to_be_upsampled():
    size = drawing_size(CONFIG)
    assert size == 40 and evaluation_transform(CONFIG | {"interpolation": "nearest"})(noise(size, size)).shape == (3, 32, 32)
    centre = np.asarray(noise(size, size))[4:36, 4:36]
    assert (to_pixels(evaluation_transform(CONFIG)(noise(size, size)), CONFIG) == centre).all()


# Augmentation


def test_flip_gives_the_image_or_its_mirror_and_both_happen():
    x = evaluation_transform(CONFIG)(NoiseSplit().image(0))
    flipped = [Prepared(NoiseSplit(), training_transform(CONFIG, "flip"), epoch=e)[0][0] for e in range(12)]
    kinds = ["same" if torch.equal(f, x) else "mirror" if torch.allclose(f, x.flip(-1), atol=0.03) else "other" for f in flipped]
    assert set(kinds) == {"same", "mirror"}


def test_a_crop_keeps_the_asked_share_of_the_area():
    """On a horizontal ramp the range of values tells how much of the image's width is seen."""
    ramp = Image.fromarray(np.broadcast_to(np.linspace(0, 255, 64, dtype=np.uint8)[None, :, None], (64, 64, 3)).copy())
    whole = to_pixels(training_transform(CONFIG, "crop", 1.0)(ramp), CONFIG)
    assert np.ptp(whole) > 240
    torch.manual_seed(0)
    narrowest = min(np.ptp(to_pixels(training_transform(CONFIG, "crop", 0.25)(ramp), CONFIG)) for _ in range(60))
    assert 90 < narrowest < 150  # area 1/4 at aspect 3/4 is 43 % of the width


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_an_item_depends_on_seed_epoch_and_index_alone(augmentation):
    transform = training_transform(CONFIG, augmentation)
    dataset = Prepared(NoiseSplit(), transform, seed=3, epoch=2)
    forwards = [dataset[i][0] for i in range(6)]
    torch.rand(5)
    backwards = [Prepared(NoiseSplit(), transform, seed=3, epoch=2)[i][0] for i in reversed(range(6))]
    assert all(torch.equal(a, b) for a, b in zip(forwards, reversed(backwards)))
    assert [dataset[i][1] for i in range(6)] == list(range(6))


@pytest.mark.parametrize("change", [{"seed": 4}, {"epoch": 3}])
def test_another_seed_or_epoch_gives_another_crop(change):
    transform = training_transform(CONFIG, "crop")
    first, second = (Prepared(NoiseSplit(), transform, **({"seed": 3, "epoch": 2} | c)) for c in ({}, change))
    assert all(not torch.equal(first[i][0], second[i][0]) for i in range(6))


def test_loader_processes_change_nothing():
    dataset = Prepared(NoiseSplit(), training_transform(CONFIG, "crop"))
    alone, together = (torch.cat([x for x, _ in DataLoader(dataset, 2, num_workers=n)]) for n in (0, 2))
    assert torch.equal(alone, together)


def test_the_global_random_numbers_go_on_undisturbed():
    dataset = Prepared(NoiseSplit(), training_transform(CONFIG, "crop"))
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    dataset[0]
    assert torch.equal(torch.rand(3), expected)
