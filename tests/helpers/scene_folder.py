"""Drawn scenes as an image folder with masks/: photos whose evidence is known, for what takes any folder."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from data.scenes.scene import SPORTS, draw_scene, plan_scene


def scene_folder(
    root: Path,
    train: int = 4,
    val: int = 2,
    image_size: int = 32,
    classes: int | Sequence[str] = SPORTS,
    masks: Sequence[str] = ("val",),
    data_seed: int = 0,
) -> Path:
    """Write train/, val/ and masks/ with that many scenes a class as PNG files of `image_size` pixels a side.

    classes: names, or how many of SPORTS. masks: the splits that get any; those of `val` alone lie in masks/CLASS/,
    else in masks/SPLIT/CLASS/. A file bears its scene's number: val/golf/00007.png is scene 7 of the split `val`.
    """
    names = SPORTS[:classes] if isinstance(classes, int) else classes
    for split, count in (("train", train), ("val", val)):
        mask_root = root / "masks" if tuple(masks) == ("val",) else root / "masks" / split
        for index in range(count * len(SPORTS)):  # any len(SPORTS) in a row hold each class once
            name = SPORTS[plan_scene(data_seed, split, index).label]
            if name in names:
                scene, file = draw_scene(data_seed, split, index, image_size), Path(name, f"{index:05d}.png")
                save(scene.image, root / split / file)
                if split in masks:
                    save(Image.fromarray(scene.masks["evidence"]), mask_root / file)
    return root


def save(image: Image.Image, path: Path) -> None:
    """Write an image and the folders that it lies in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
