"""An image folder: one subfolder a class, every file read once before it is trusted."""

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from common.names import some
from data.images import EXTENSIONS, open_image, open_mask
from data.scan_cache import Findings


@dataclass(frozen=True)
class MaskFile:
    """A mask that fits its image: where it lies, the file's SHA-256, and the image's EXIF orientation."""

    path: Path
    digest: str
    orientation: int


@dataclass(frozen=True)
class FolderSplit:
    """Readable images of one split: paths below `root`, class indices, the SHA-256 of each file, masks or None."""

    root: Path
    paths: tuple[str, ...]
    labels: np.ndarray
    digests: tuple[str, ...]
    mask_files: tuple[MaskFile | None, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def image(self, index: int) -> Image.Image:
        return open_image(self.root / self.paths[index])

    def name(self, index: int) -> str:
        return f"{self.root.name}/{self.paths[index]}"

    def scene(self, index: int) -> None:
        return None  # nobody drew it

    def masks(self, index: int) -> dict[str, np.ndarray] | None:
        file = self.mask_files[index]
        return None if file is None else {"evidence": open_mask(file.path, file.orientation)}

    def select(self, indices: Sequence[int]) -> "FolderSplit":
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
        """Return the SHA-256 of the masks that are used, or "" where there are none."""
        rows = [f"{p}\t{m.digest}" for p, m in zip(self.paths, self.mask_files) if m]
        return hashlib.sha256("\n".join(rows).encode()).hexdigest() if rows else ""


@dataclass(frozen=True)
class Scan:
    """A split and one line for each kind of file that was left out of it."""

    split: FolderSplit
    notes: tuple[str, ...]


def scan_folder(folder: Path, class_names: Sequence[str], progress: bool = False, cache: Path | None = None) -> Scan:
    """Read every image file of the given classes below `folder`; skip and count those that do not decode.

    A class without a folder simply has no images: its index stays reserved. `cache`: a folder that remembers the
    findings, so that the next scan reads only files that are new or changed; None reads every file.
    """
    findings = Findings(folder, cache)
    candidates = [
        (path, label)
        for label, name in enumerate(class_names)
        if (folder / name).is_dir()
        for path in sorted((folder / name).rglob("*"))
        if looks_like_image(path)
    ]
    digests = in_threads(lambda item: findings.digest(item[0]), candidates, f"checking {folder.name}", progress)
    findings.save(class_names)
    kept = [(path, label, digest) for (path, label), digest in zip(candidates, digests) if digest]
    split = FolderSplit(
        folder,
        tuple(path.relative_to(folder).as_posix() for path, _, _ in kept),
        np.array([label for _, label, _ in kept], dtype=np.int64),
        tuple(digest for _, _, digest in kept),
        (None,) * len(kept),
    )
    return Scan(split, _skipped(folder, [path for (path, _), digest in zip(candidates, digests) if not digest]))


def in_threads(function: Callable, items: Sequence, what: str, progress: bool) -> list:
    """Return the function's values of all items, in order, with a progress bar where one is wanted."""
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
    # "._1.jpg" is what macOS writes beside 1.jpg on foreign disks; it is no image
    return path.suffix.lower() in EXTENSIONS and not path.name.startswith(".") and path.is_file()


def _skipped(folder: Path, broken: list[Path]) -> tuple[str, ...]:
    if not broken:
        return ()
    named = some([path.relative_to(folder).as_posix() for path in broken])
    return (f"{len(broken)} unreadable file(s) in {folder} skipped: {named}",)
