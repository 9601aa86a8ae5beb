"""Find and check the masks of an image folder: the pixels of each image that are evidence for its class.

    FOLDER/masks/CLASS/STEM.png           for the image CLASS/STEM.jpg (or .png, ...) of val/ or valid/
    FOLDER/masks/SPLIT/CLASS/STEM.png     for an image of any split, named as its folder: train, val, test

A mask is a grayscale or 1-bit PNG of its image's size in which the evidence is not 0. It marks the pixels as the
image's file stores them: an EXIF orientation of the image turns both, unless the mask has one of its own. Images
without a mask are allowed. Images in subfolders of a class have their masks in the same subfolders.
"""

import glob
import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePath

from common.names import some
from data.folder import FolderSplit, MaskFile, in_threads, looks_like_image
from data.images import BROKEN_IMAGE, MaskFormatError, open_image, open_mask, orientation_of

FOLDER = "masks"
ImageKey = tuple[str, str]  # a split, and the path of an image in it without suffix

# Why a mask is not used, as the warning says it.
NO_IMAGE = (
    "belong to no readable image (expected masks/CLASS/STEM.png for images of the validation split, "
    "masks/SPLIT/CLASS/STEM.png for those of any)"
)
AMBIGUOUS = "share an image with another mask, or their name with several images,"
UNREADABLE = "cannot be read"
FORMAT = "are not grayscale or 1-bit PNG files"
SIZE = "do not have the size of their image"
EMPTY = "are zero everywhere"


def with_masks(
    root: Path, splits: dict[str, FolderSplit], class_names: Sequence[str], progress: bool = False
) -> tuple[dict[str, FolderSplit], list[str]]:
    """Find and check the masks of a folder.

    root: the image folder; its masks lie below root/masks.
    splits: split -> images without masks.
    class_names: the classes in use; masks of other classes are left out.
    progress: whether to show a progress bar.

    Returns the splits with the masks that fit their images, and one warning for each reason why others are not used.
    """
    pairs, rejected = _pairs(_masks_by_image(root / FOLDER, splits, class_names), _indices_by_image(splits))
    found = in_threads(
        lambda pair: _check(root / FOLDER / pair[0], _image_path(splits, pair)), pairs, f"checking {FOLDER}", progress
    )
    kept = {name: list(split.mask_files) for name, split in splits.items()}
    for (file, name, index), result in zip(pairs, found):
        if isinstance(result, MaskFile):
            kept[name][index] = result
        else:
            why, detail = result
            rejected[why].append(file + detail)
    warnings = [
        f"{len(files)} mask(s) in {root / FOLDER} {why} and are not used: {some(sorted(files))}"
        for why, files in rejected.items()
    ]
    return {name: replace(split, mask_files=tuple(kept[name])) for name, split in splits.items()}, warnings


def _masks_by_image(
    folder: Path, splits: dict[str, FolderSplit], class_names: Sequence[str]
) -> dict[ImageKey, list[str]]:
    """Return the paths below `folder` of the masks of each image; masks of classes that are left out are not in it."""
    found = defaultdict(list)
    # Unlike rglob, glob follows linked folders and skips hidden ones.
    for file in sorted(glob.glob("**", root_dir=folder, recursive=True)):
        if looks_like_image(folder / file) and not any(part.startswith("__") for part in PurePath(file).parts):
            name, image = _image_of(PurePath(file), splits)
            class_name = PurePath(image).parts[0]
            left_out = class_name not in class_names and any((s.root / class_name).is_dir() for s in splits.values())
            if not left_out:
                found[name, image].append(file)
    return found


def _image_of(file: PurePath, splits: dict[str, FolderSplit]) -> ImageKey:
    """Return the image that a mask's path names."""
    folders = {name: name for name in splits} | {split.root.name: name for name, split in splits.items()}
    first, *rest = file.with_suffix("").parts
    if rest and first in folders:
        return folders[first], "/".join(rest)
    return "val", "/".join((first, *rest))


def _indices_by_image(splits: dict[str, FolderSplit]) -> dict[ImageKey, list[int]]:
    found = defaultdict(list)
    for name, split in splits.items():
        for index, path in enumerate(split.paths):
            found[name, PurePath(path).with_suffix("").as_posix()].append(index)
    return found


def _pairs(
    masks: dict[ImageKey, list[str]], images: dict[ImageKey, list[int]]
) -> tuple[list[tuple[str, str, int]], dict[str, list[str]]]:
    """Return (mask path, split, index of its image) where one mask belongs to one image, and the others by reason."""
    pairs: list[tuple[str, str, int]] = []
    rejected: dict[str, list[str]] = defaultdict(list)
    for (name, image), files in masks.items():
        indices = images.get((name, image), [])
        if len(files) == len(indices) == 1:
            pairs.append((files[0], name, indices[0]))
        else:
            rejected[AMBIGUOUS if indices else NO_IMAGE] += files
    return pairs, rejected


def _image_path(splits: dict[str, FolderSplit], pair: tuple[str, str, int]) -> Path:
    _, name, index = pair
    return splits[name].root / splits[name].paths[index]


def _check(mask: Path, image: Path) -> MaskFile | tuple[str, str]:
    """Return the mask if it fits its image, otherwise the reason and a detail for the warning."""
    orientation, (width, height) = orientation_of(image), open_image(image).size
    try:
        content = mask.read_bytes()
        marked = open_mask(content, orientation)
    except MaskFormatError:
        return FORMAT, ""
    except BROKEN_IMAGE:
        return UNREADABLE, ""
    if marked.shape != (height, width):
        turned = "" if orientation == 1 else " after EXIF rotation"
        return SIZE, f" ({marked.shape[1]} x {marked.shape[0]} for {width} x {height}{turned})"
    if not marked.any():
        return EMPTY, ""
    return MaskFile(mask, hashlib.sha256(content).hexdigest(), orientation)
