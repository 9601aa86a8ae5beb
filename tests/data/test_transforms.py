"""What the model sees: timm's own pixels, masks cut like their image, augmentation that can be repeated."""

import random
from dataclasses import dataclass

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data.auto_augment import rand_augment_transform
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from data.options import AUGMENTATIONS
from data.transforms import (
    Prepared,
    drawing_size,
    evaluation_transform,
    mask_transform,
    to_pixels,
    training_transform,
)
from models.backbone import model_data_config

CONFIG = {
    "input_size": [3, 32, 32],
    "interpolation": "bicubic",
    "mean": [0.4, 0.5, 0.6],
    "std": [0.2, 0.3, 0.4],
    "crop_pct": 0.8,
    "crop_mode": "center",
}


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


@pytest.mark.parametrize(
    "name", ["test_vit", "vit_tiny_patch16_224", "deit3_small_patch16_224", "swin_tiny_patch4_window7_224"]
)
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
    mask[size[1] // 3 : size[1] * 2 // 3, size[0] // 4 : size[0] // 2] = True
    x = evaluation_transform(config)(Image.fromarray(mask.astype(np.uint8) * 255).convert("RGB"))
    seen = to_pixels(x, config)[..., 0] > 127
    moved = mask_transform(config)(mask)
    assert moved.dtype == bool and moved.shape == (32, 32)
    assert seen.any() and not seen.all()
    assert (moved != seen).mean() < 0.04  # a pixel along the edges, where interpolation differs


def test_scenes_are_drawn_large_enough_not_to_be_upsampled():
    size = drawing_size(CONFIG)
    assert size == 40 and evaluation_transform(CONFIG | {"interpolation": "nearest"})(noise(size, size)).shape == (
        3,
        32,
        32,
    )
    centre = np.asarray(noise(size, size))[4:36, 4:36]
    assert (to_pixels(evaluation_transform(CONFIG)(noise(size, size)), CONFIG) == centre).all()


# Augmentation


def test_flip_gives_the_image_or_its_mirror_and_both_happen():
    x = evaluation_transform(CONFIG)(NoiseSplit().image(0))
    flipped = [Prepared(NoiseSplit(), training_transform(CONFIG, "flip"), epoch=e)[0][0] for e in range(12)]
    kinds = [
        "same" if torch.equal(f, x) else "mirror" if torch.allclose(f, x.flip(-1), atol=0.03) else "other"
        for f in flipped
    ]
    assert set(kinds) == {"same", "mirror"}


def test_a_crop_keeps_the_asked_share_of_the_area():
    """On a horizontal ramp the range of values tells how much of the image's width is seen."""
    ramp = Image.fromarray(np.broadcast_to(np.linspace(0, 255, 64, dtype=np.uint8)[None, :, None], (64, 64, 3)).copy())
    whole = to_pixels(training_transform(CONFIG, "crop", 1.0)(ramp), CONFIG)
    assert np.ptp(whole) > 240
    torch.manual_seed(0)
    narrowest = min(np.ptp(to_pixels(training_transform(CONFIG, "crop", 0.25)(ramp), CONFIG)) for _ in range(60))
    assert 90 < narrowest < 150  # area 1/4 at aspect 3/4 is 43 % of the width


def seed_all(seed: int) -> None:
    torch.manual_seed(seed), random.seed(seed), np.random.seed(seed)


def test_rand_is_crop_flip_timms_rand_augment_and_the_models_own_normalisation():
    transform, changed = training_transform(CONFIG, "rand", 0.6), 0
    crop = v2.Compose(
        [
            v2.RandomResizedCrop([32, 32], (0.6, 1.0), interpolation=v2.InterpolationMode.BICUBIC),
            v2.RandomHorizontalFlip(),
        ]
    )
    augment = rand_augment_transform(
        "rand-m9-mstd0.5-inc1",
        {
            "translate_const": 14,
            "img_mean": (102, 128, 153),
            "interpolation": Image.Resampling.BICUBIC,
            "magnitude_max": 9.99,
        },
    )
    for seed in range(40):
        seed_all(seed)
        cropped = crop(noise(40, 36))
        expected = augment(cropped)
        changed += expected.tobytes() != cropped.tobytes()
        pixels = np.asarray(expected).astype(np.float32) / 255
        seed_all(seed)
        x = transform(noise(40, 36))
        assert x.dtype == torch.float32 and x.shape == (3, 32, 32)
        assert np.allclose(x.numpy().transpose(1, 2, 0), (pixels - CONFIG["mean"]) / CONFIG["std"], atol=1e-5)
    assert 24 <= changed <= 36  # two operations, each half of the time: three images in four, fixed seeds


def test_rand_never_fails_and_never_makes_a_black_image():
    """timm's strongest posterize keeps no bit; one image in several hundred meets it."""
    bright = Image.fromarray(np.asarray(noise(8, 8)) // 2 + 128)
    transform = training_transform(CONFIG | {"input_size": [3, 8, 8]}, "rand")
    seed_all(0)
    strongest = [op for op in transform.transforms[2].ops if op.name == "PosterizeIncreasing"]
    assert all(np.asarray(op(bright)).max() >= 128 for op in strongest for _ in range(500))
    assert all(transform(bright).isfinite().all() for _ in range(1500))


def test_what_rand_moves_into_view_has_the_models_mean_colour():
    seen = []
    for seed in range(60):
        seed_all(seed)
        seen.append(to_pixels(training_transform(CONFIG, "rand", 1.0)(Image.new("RGB", (32, 32), "white")), CONFIG))
    colours = {tuple(corner) for image in seen for corner in image[[0, 0, -1, -1], [0, -1, 0, -1]].tolist()}
    assert (102, 128, 153) in colours  # 255 x 0.4, 0.5 and 0.6


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_an_item_depends_on_seed_epoch_and_index_alone(augmentation):
    transform = training_transform(CONFIG, augmentation)
    dataset = Prepared(NoiseSplit(), transform, seed=3, epoch=2)
    forwards = [dataset[i][0] for i in range(6)]
    torch.rand(5), np.random.rand(5), random.gauss(0, 1)
    backwards = [Prepared(NoiseSplit(), transform, seed=3, epoch=2)[i][0] for i in reversed(range(6))]
    assert all(torch.equal(a, b) for a, b in zip(forwards, reversed(backwards)))
    assert [dataset[i][1] for i in range(6)] == list(range(6))


@pytest.mark.parametrize("augmentation", ["crop", "rand"])
@pytest.mark.parametrize("change", [{"seed": 4}, {"epoch": 3}])
def test_another_seed_or_epoch_gives_another_crop(change, augmentation):
    transform = training_transform(CONFIG, augmentation)
    first, second = (Prepared(NoiseSplit(), transform, **({"seed": 3, "epoch": 2} | c)) for c in ({}, change))
    assert all(not torch.equal(first[i][0], second[i][0]) for i in range(6))


@pytest.mark.parametrize(
    "draw", [lambda: torch.rand(1).item(), random.random, np.random.rand], ids=["torch", "python", "numpy"]
)
def test_every_generator_is_seeded_by_seed_epoch_and_index(draw):
    """Each alone: what one of them draws differs between items, and is the same for the same item."""

    def number(image):
        return torch.tensor(draw())

    items = [Prepared(NoiseSplit(), number, seed, epoch) for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    numbers = [float(dataset[i][0]) for dataset in items for i in range(6)]
    assert len(set(numbers)) == 18
    seed_all(9)
    assert [float(dataset[i][0]) for dataset in items for i in range(6)] == numbers


@pytest.mark.parametrize("augmentation", ["crop", "rand"])
def test_loader_processes_change_nothing(augmentation):
    dataset = Prepared(NoiseSplit(), training_transform(CONFIG, augmentation))
    alone, together = (torch.cat([x for x, _ in DataLoader(dataset, 2, num_workers=n)]) for n in (0, 2))
    assert torch.equal(alone, together)


@pytest.mark.parametrize("fails", [False, True])
def test_the_global_random_numbers_go_on_undisturbed(fails):
    def spoilt(image):
        training_transform(CONFIG, "rand")(image)
        if fails:
            raise RuntimeError
        return image

    def numbers():
        # gauss draws two numbers and keeps one for the next call: that, too, belongs to the state
        return torch.rand(3).tolist(), random.gauss(0, 1), random.random(), np.random.randn(), np.random.rand()

    seed_all(7), numbers()
    expected = numbers()
    seed_all(7), numbers()
    for i in range(6):
        try:
            Prepared(NoiseSplit(), spoilt)[i]
        except RuntimeError:
            pass
    assert numbers() == expected
