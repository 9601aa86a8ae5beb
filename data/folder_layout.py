"""The subfolders of an image folder: splits, and in each split one folder per class."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common.errors import UsageError
from common.names import nearest, some


def split_folders(root: Path) -> dict[str, Path]:
    """Return the folder of each split: "train", "val" (val/ or valid/) and, where there is one, "test".

    Raises UsageError where `root` is not a folder with train/ and val/ or valid/.
    """
    if not root.is_dir():
        what = "is a file" if root.exists() else "does not exist"
        raise UsageError(
            f"--data {root} {what}; expected 'scenes', 'sports', or a folder with train/ and val/ "
            f"(or valid/), one subfolder per class"
        )
    validation = next((root / name for name in ("val", "valid") if (root / name).is_dir()), None)
    if not (root / "train").is_dir() or validation is None:
        found = some(sorted(p.name for p in root.iterdir() if p.is_dir())) or "no folders"
        raise UsageError(f"{root} holds {found}; expected train/ and val/ (or valid/), one subfolder per class in each")
    folders = {"train": root / "train", "val": validation}
    if (root / "test").is_dir():
        folders["test"] = root / "test"
    return folders


def class_folders(folder: Path) -> list[str]:
    """Return the names of a split's class folders, sorted; hidden folders are left out."""
    # Notebooks and file managers leave hidden folders (.ipynb_checkpoints, __MACOSX).
    return sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith((".", "__")))


def chosen_classes(train: Path, wanted: Sequence[str] | None) -> tuple[str, ...]:
    """Return the class names in the order of class indices.

    train: folder of the training split.
    wanted: the classes to keep; None keeps all.

    Raises UsageError for fewer than two classes, and for a wanted one that does not exist.
    """
    found = class_folders(train)
    if not found:
        raise UsageError(f"{train} has no class folders; expected one subfolder per class with its images")
    for name in wanted or ():
        if name not in found:
            raise UsageError(f"no class {name!r} in {train}; {nearest(name, found)}")
    chosen = found if wanted is None else sorted(set(wanted))
    if len(chosen) < 2:
        raise UsageError(f"{train} offers only one class ({chosen[0]}); classification needs at least two")
    return tuple(chosen)


def check_no_unknown_classes(folders: dict[str, Path]) -> None:
    """Raise UsageError where a split has a class that the training split lacks. folders: split -> folder."""
    known = set(class_folders(folders["train"]))
    for folder in folders.values():
        if unknown := sorted(set(class_folders(folder)) - known):
            raise UsageError(
                f"{folder} has {len(unknown)} class(es) that {folders['train']} lacks: {some(unknown)}; "
                f"give all splits the same subfolders, or name the classes to keep with --classes"
            )


def check_classes_present(name: str, folder: Path, labels: np.ndarray, class_names: Sequence[str]) -> list[str]:
    """Check that a split has readable images of its classes.

    name: the split.
    folder: its folder.
    labels: class indices of its readable images, (N,) int64.
    class_names: the data set's classes.

    Returns a warning where a split other than train lacks classes. Raises UsageError where train lacks a class, or
    where there is no image at all.
    """
    counts = Counter(labels.tolist())
    empty = [c for i, c in enumerate(class_names) if not counts[i]]
    if empty and name == "train":
        raise UsageError(
            f"{folder} has no readable image for {some(empty)}; add images or keep other classes with --classes"
        )
    if not len(labels):
        raise UsageError(
            f"{folder} has no readable image of the {len(class_names)} training classes; add images in one subfolder "
            f"per class"
        )
    if empty:
        return [
            f"{folder} has no readable image for {len(empty)} class(es): {some(empty)}; "
            f"class indices stay those of the training split"
        ]
    return []
