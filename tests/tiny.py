"""The smallest worlds in which the tests know the right answer: a tiny ViT's weights, folders of coloured images."""

from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

NAME, SIZE = "test_vit", 32  # timm's own tiny VisionTransformer: 6 blocks of width 64, patches of 16 pixels
COLOURS = {"blue": (40, 60, 200), "green": (50, 180, 60), "red": (200, 50, 40)}


def write_weights(path: Path, name: str = NAME, seed: int = 0) -> Path:
    """Write random weights of a timm model, as a hub would hold them."""
    torch.manual_seed(seed)
    save_file(timm.create_model(name, pretrained=False).state_dict(), path)
    return path


def colour_image(colour: tuple[int, int, int], seed: int, size: tuple[int, int] = (SIZE, SIZE)) -> Image.Image:
    """Return a noisy image of one colour; no two seeds give the same image."""
    noise = np.random.default_rng(seed).normal(0, 25, (size[1], size[0], 3))
    return Image.fromarray((np.array(colour) + noise).clip(0, 255).astype(np.uint8))


def colour_folder(root: Path, train: int = 12, val: int = 6, classes=tuple(COLOURS), val_name: str = "val") -> Path:
    """Write an image folder with one class a colour; every image is another one."""
    seed = 0
    for split, count in (("train", train), (val_name, val)):
        for name in classes:
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                seed += 1
                colour_image(COLOURS.get(name, (128, 128, 128)), seed).save(folder / f"{i:02d}.png")
    return root


def same_state(a: dict, b: dict) -> bool:
    """Tell whether two state dicts hold the same names and the same bits."""
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
