"""A split of an image folder: one subfolder per class. Every file is read and checked before it is used."""

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image
from tqdm import tqdm

from common.names import some
from data.file_checks import FileChecks
from data.images import EXTENSIONS, open_image, open_mask

Item = TypeVar("Item")
Value = TypeVar("Value")


@dataclass(frozen=True)
class MaskFile:
    """A mask that fits its image.

    path: the file.
    digest: the file's SHA-256.
    orientation: EXIF orientation of the image, 1 to 8.
    """

    path: Path
    digest: str
    orientation: int


@dataclass(frozen=True)
class FolderSplit:
    """The N readable images of one split.

    root: the split's folder.
    paths: files below `root`, with forward slashes.
    labels: class indices, (N,) int64.
    digests: SHA-256 of each file.
    mask_files: mask of each image, or None.
    """

    root: Path
    paths: tuple[str, ...]
    labels: np.ndarray
    digests: tuple[str, ...]
    mask_files: tuple[MaskFile | None, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def image(self, index: int) -> Image.Image:
        """Return an image in RGB."""
        return open_image(self.root / self.paths[index])

    def name(self, index: int) -> str:
        """Return the path of an image, from the split's folder on."""
        return f"{self.root.name}/{self.paths[index]}"

    def scene(self, index: int) -> None:
        """Return None: an image from a file has no drawn scene."""
        return None

    def masks(self, index: int) -> dict[str, np.ndarray] | None:
        """Return an image's mask as {"evidence": bool (h, w)}; None where it has none."""
        file = self.mask_files[index]
        return None if file is None else {"evidence": open_mask(file.path, file.orientation)}

    def select(self, indices: Sequence[int]) -> "FolderSplit":
        """Return a split of the images at `indices`, in that order."""
        return replace(
            self,
            paths=tuple(self.paths[i] for i in indices),
            labels=self.labels[np.asarray(indices)],
            digests=tuple(self.digests[i] for i in indices),
            mask_files=tuple(self.mask_files[i] for i in indices),
        )

    def fingerprint(self) -> str:
        """Return the SHA-256 of names, labels and contents, in order."""
        rows = [f"{p}\t{y}\t{d}" for p, y, d in zip(self.paths, self.labels, self.digests)]
        return hashlib.sha256("\n".join(rows).encode()).hexdigest()

    def masks_fingerprint(self) -> str:
        """Return the SHA-256 of the masks in use, or "" without masks."""
        rows = [f"{p}\t{m.digest}" for p, m in zip(self.paths, self.mask_files) if m]
        return hashlib.sha256("\n".join(rows).encode()).hexdigest() if rows else ""


@dataclass(frozen=True)
class Scan:
    """A split, and one warning for each kind of file that was left out of it."""

    split: FolderSplit
    warnings: tuple[str, ...]


def scan_folder(folder: Path, class_names: Sequence[str], progress: bool = False, cache: Path | None = None) -> Scan:
    """Read every image file of the given classes; leave out those that cannot be decoded.

    folder: the split's folder; a class without a subfolder has no images, and its index stays reserved.
    class_names: names of subfolders, in the order of class indices.
    progress: whether to show a progress bar.
    cache: folder that keeps the checks, so that the next scan reads only new and changed files; None reads every file.

    Raises OSError where `cache` cannot be written.
    """
    checks = FileChecks(folder, cache)
    candidates = [
        (path, label)
        for label, name in enumerate(class_names)
        if (folder / name).is_dir()
        for path in sorted((folder / name).rglob("*"))
        if looks_like_image(path)
    ]
    digests = in_threads(lambda item: checks.digest(item[0]), candidates, f"checking {folder.name}", progress)
    checks.save(class_names)
    kept = [(path, label, digest) for (path, label), digest in zip(candidates, digests) if digest]
    split = FolderSplit(
        folder,
        tuple(path.relative_to(folder).as_posix() for path, _, _ in kept),
        np.array([label for _, label, _ in kept], dtype=np.int64),
        tuple(digest for _, _, digest in kept),
        (None,) * len(kept),
    )
    return Scan(split, _unreadable(folder, [path for (path, _), digest in zip(candidates, digests) if not digest]))


def in_threads(function: Callable[[Item], Value], items: Sequence[Item], what: str, progress: bool) -> list[Value]:
    """Call a function with every item, in threads; return the values in order.

    function: takes an item; called by several threads at once.
    items: its arguments.
    what: title of the progress bar.
    progress: whether to show one, after two seconds.
    """
    with ThreadPoolExecutor() as pool:  # decoding releases the interpreter lock
        return list(
            tqdm(
                pool.map(function, items),
                total=len(items),
                desc=what,
                unit="image",
                delay=2,
                disable=None if progress else True,
                leave=False,
            )
        )


def looks_like_image(path: Path) -> bool:
    """Tell by its name whether a file is meant as an image."""
    # macOS writes "._1.jpg" beside 1.jpg on other systems' disks; it is not an image.
    return path.suffix.lower() in EXTENSIONS and not path.name.startswith(".") and path.is_file()


def _unreadable(folder: Path, broken: list[Path]) -> tuple[str, ...]:
    if not broken:
        return ()
    named = some([path.relative_to(folder).as_posix() for path in broken])
    return (f"{len(broken)} unreadable file(s) in {folder} skipped: {named}",)
