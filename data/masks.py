"""Masks that an image folder brings: where in each image the evidence lies, what makes the class that class.

    FOLDER/masks/CLASS/STEM.png           for the image CLASS/STEM.jpg (or .png, ...) of val/ or valid/
    FOLDER/masks/SPLIT/CLASS/STEM.png     for an image of any split, named as its folder: train, val, test

A mask is a grayscale or 1-bit PNG of its image's own size in which the evidence is not 0. It lies over the pixels as
the image's file stores them: an EXIF orientation of the image turns both, unless the mask carries one of its own. Not
every image needs a mask. Images in subfolders of a class have theirs in the same subfolders.
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

# Why a mask is not used, in the words of the warning.
NO_IMAGE = (
    "belong to no readable image (expected masks/CLASS/STEM.png for images of the validation split, "
    "masks/SPLIT/CLASS/STEM.png for those of any)"
)
NOT_ALONE = "share an image with another mask, or their name with several images,"
UNREADABLE = "cannot be read"
FORMAT = "are no grayscale or 1-bit PNG"
SIZE = "are not of their image's size"
EMPTY = "are zero everywhere"


def with_masks(
    root: Path, splits: dict[str, FolderSplit], class_names: Sequence[str], progress: bool = False
) -> tuple[dict[str, FolderSplit], list[str]]:
    """Return the splits with the masks below root/masks that fit their images, and a line for each kind of misfit."""
    pairs, refused = _pairs(_masks_by_image(root / FOLDER, splits, class_names), _indices_by_image(splits))
    found = in_threads(
        lambda pair: _check(root / FOLDER / pair[0], _image_path(splits, pair)), pairs, f"checking {FOLDER}", progress
    )
    kept = {name: list(split.mask_files) for name, split in splits.items()}
    for (file, name, index), result in zip(pairs, found):
        if isinstance(result, MaskFile):
            kept[name][index] = result
        else:
            why, detail = result
            refused[why].append(file + detail)
    notes = [
        f"{len(files)} mask(s) in {root / FOLDER} {why} and are not used: {some(sorted(files))}"
        for why, files in refused.items()
    ]
    return {name: replace(split, mask_files=tuple(kept[name])) for name, split in splits.items()}, notes


def _masks_by_image(folder: Path, splits, class_names) -> dict[tuple[str, str], list[str]]:
    """Return (split, image path without suffix) -> mask paths below `folder`, but for classes that are left out."""
    found = defaultdict(list)
    # unlike rglob, glob follows linked folders and passes by hidden ones
    for file in sorted(glob.glob("**", root_dir=folder, recursive=True)):
        if looks_like_image(folder / file) and not any(part.startswith("__") for part in PurePath(file).parts):
            name, image = _image_of(PurePath(file), splits)
            class_name = PurePath(image).parts[0]
            left_out = class_name not in class_names and any((s.root / class_name).is_dir() for s in splits.values())
            if not left_out:
                found[name, image].append(file)
    return found


def _image_of(file: PurePath, splits: dict[str, FolderSplit]) -> tuple[str, str]:
    """Return the split that a mask's path names, and the path of its image there without suffix."""
    folders = {name: name for name in splits} | {split.root.name: name for name, split in splits.items()}
    first, *rest = file.with_suffix("").parts
    if rest and first in folders:
        return folders[first], "/".join(rest)
    return "val", "/".join((first, *rest))


def _indices_by_image(splits: dict[str, FolderSplit]) -> dict[tuple[str, str], list[int]]:
    found = defaultdict(list)
    for name, split in splits.items():
        for index, path in enumerate(split.paths):
            found[name, PurePath(path).with_suffix("").as_posix()].append(index)
    return found


def _pairs(masks, images) -> tuple[list[tuple[str, str, int]], dict[str, list[str]]]:
    """Return (mask path, split, index of its image) where one belongs to one, and the other masks by reason."""
    pairs, refused = [], defaultdict(list)
    for (name, image), files in masks.items():
        indices = images.get((name, image), [])
        if len(files) == len(indices) == 1:
            pairs.append((files[0], name, indices[0]))
        else:
            refused[NOT_ALONE if indices else NO_IMAGE] += files
    return pairs, refused


def _image_path(splits: dict[str, FolderSplit], pair: tuple[str, str, int]) -> Path:
    _, name, index = pair
    return splits[name].root / splits[name].paths[index]


def _check(mask: Path, image: Path) -> MaskFile | tuple[str, str]:
    """Return the mask if it fits its image, else the reason and what was seen."""
    orientation, (width, height) = orientation_of(image), open_image(image).size
    try:
        content = mask.read_bytes()
        marked = open_mask(content, orientation)
    except MaskFormatError:
        return FORMAT, ""
    except BROKEN_IMAGE:
        return UNREADABLE, ""
    if marked.shape != (height, width):
        turned = "" if orientation == 1 else " once turned as EXIF says"
        return SIZE, f" ({marked.shape[1]} x {marked.shape[0]} for {width} x {height}{turned})"
    if not marked.any():
        return EMPTY, ""
    return MaskFile(mask, hashlib.sha256(content).hexdigest(), orientation)
