"""Transforms between images and normalised tensors, by the model's data config.

A data config is timm's dictionary of input_size, interpolation, mean, std, crop_pct and crop_mode.
Letters: h, w the size of a file's image; H, W the size of the model's input.
"""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from timm.data import create_transform
from timm.data.auto_augment import RandAugment, rand_augment_transform
from timm.data.transforms import str_to_pil_interp
from torch.utils.data import Dataset
from torchvision.transforms import v2

from common.devices import seed_generators
from data.datasets import Split

RAND_AUGMENT = "rand-m9-mstd0.5-inc1"  # two operations per image, each with probability 0.5, of magnitude about 9 of 10


def evaluation_transform(config: dict) -> Callable[[Image.Image], torch.Tensor]:
    """Return timm's evaluation transform of a data config: RGB image -> (3, H, W) float32, normalised."""
    return create_transform(**_geometry(config), mean=config["mean"], std=config["std"], is_training=False)


def mask_transform(config: dict) -> Callable[[np.ndarray], np.ndarray]:
    """Return the resize and crop of `evaluation_transform` for masks: bool (h, w) -> bool (H, W), nearest neighbour."""
    geometry = _geometry(config) | {"interpolation": "nearest"}
    transform = create_transform(**geometry, mean=(0.0,) * 3, std=(1.0,) * 3, is_training=False)

    def apply(mask: np.ndarray) -> np.ndarray:
        image = Image.fromarray(mask.astype(np.uint8) * 255).convert("RGB")
        return transform(image)[0].numpy() > 0.5

    return apply


def training_transform(
    config: dict, augmentation: str, smallest_crop: float = 0.5
) -> Callable[[Image.Image], torch.Tensor]:
    """Return the transform of training images: RGB image -> (3, H, W) float32, normalised.

    config: the model's data config.
    augmentation: `none`: as in evaluation; `flip`: mirrored with probability 0.5; `crop`: a random rectangle of aspect
        3/4 to 4/3, resized and mirrored with probability 0.5; `rand`: `crop`, then timm's RandAugment.
    smallest_crop: smallest area of a random rectangle, as a fraction of the image's.

    RandAugment draws from the global generators of Python and NumPy, the others from torch's.
    Source of RandAugment: Cubuk et al., NeurIPS 2020.
    """
    if augmentation == "none":
        return evaluation_transform(config)
    if augmentation == "flip":
        return v2.Compose([v2.RandomHorizontalFlip(), evaluation_transform(config)])
    size = list(config["input_size"][1:])
    return v2.Compose(
        [
            v2.RandomResizedCrop(
                size, scale=(smallest_crop, 1.0), interpolation=v2.InterpolationMode(config["interpolation"])
            ),
            v2.RandomHorizontalFlip(),
            *([_rand_augment(config)] if augmentation == "rand" else []),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(list(config["mean"]), list(config["std"])),
        ]
    )


def _rand_augment(config: dict) -> RandAugment:
    """Return timm's RandAugment of RGB images with the settings of timm's training script, except `magnitude_max`."""
    return rand_augment_transform(
        RAND_AUGMENT,
        {
            "translate_const": int(0.45 * min(config["input_size"][1:])),
            "img_mean": tuple(min(255, round(255 * mean)) for mean in config["mean"]),  # fill of the border
            "interpolation": str_to_pil_interp(config["interpolation"]),
            "magnitude_max": 9.99,  # at 10, posterize keeps no bit: a black image, which Pillow 13 refuses
        },
    )


def _geometry(config: dict) -> dict:
    return {key: config[key] for key in ("input_size", "interpolation", "crop_pct", "crop_mode")}


def drawing_size(config: dict) -> int:
    """Return the side in pixels at which square scenes are drawn so that resizing does not enlarge them."""
    return int(np.ceil(max(config["input_size"][1:]) / config["crop_pct"]))


def to_pixels(tensors: torch.Tensor, config: dict) -> np.ndarray:
    """Undo the normalisation: (..., 3, H, W) float -> (..., H, W, 3) uint8 in RGB."""
    mean = torch.tensor(config["mean"]).view(3, 1, 1)
    std = torch.tensor(config["std"]).view(3, 1, 1)
    pixels = (tensors.cpu().float() * std + mean).clamp(0, 1) * 255
    return pixels.round().to(torch.uint8).movedim(-3, -1).numpy()


def prepared_masks(masks: dict[str, np.ndarray], config: dict) -> dict[str, np.ndarray]:
    """Apply `mask_transform` to an image's masks: name -> bool (h, w) becomes name -> bool (H, W).

    A small region of a large photo may lie outside the crop or between the sampled pixels: its mask is then all False.
    """
    transform = mask_transform(config)
    return {name: transform(mask) for name, mask in masks.items()}


@dataclass
class Prepared(Dataset):
    """A split with a transform, as a torch data set: index -> (image (3, H, W) float32, class index).

    Random transforms depend on (seed, epoch, index) only, so that an item is the same in any order, with any number of
    loader processes, and after a resume. The states of the global generators are restored.

    split: the images.
    transform: of each image.
    seed: of random transforms.
    epoch: of random transforms.
    """

    split: Split
    transform: Callable
    seed: int = 0
    epoch: int = 0

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        image = self.split.image(index)
        with _seeded(self.seed, self.epoch, index):
            tensor = self.transform(image)
        return tensor, int(self.split.labels[index])


@contextmanager
def _seeded(*key: int) -> Iterator[None]:
    """Seed the global generators of torch (CPU), Python and NumPy from `key`; restore their states afterwards."""
    for_torch, for_python, for_numpy = (int(word) for word in np.random.SeedSequence(key).generate_state(3, np.uint64))
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()
    try:
        seed_generators(for_torch >> 1, torch.device("cpu"))
        random.seed(for_python)
        np.random.seed(for_numpy % 2**32)
        yield
    finally:
        before, python, numpy = states
        torch.set_rng_state(before)
        random.setstate(python)
        np.random.set_state(numpy)
