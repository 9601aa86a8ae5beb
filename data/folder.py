"""An image folder: one subfolder a class, every file read once before it is trusted."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Sequence

import numpy as np
from PIL import Image
from tqdm import tqdm

from data.images import EXTENSIONS, open_image
from data.scan import Findings


@dataclass(frozen=True)
class FolderSplit:
    """Readable images of one split: paths below `root`, class indices, and the SHA-256 of each file."""

    root: Path
    paths: tuple[str, ...]
    labels: np.ndarray
    digests: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def image(self, index: int) -> Image.Image:
        return open_image(self.root / self.paths[index])

    def name(self, index: int) -> str:
        return f"{self.root.name}/{self.paths[index]}"

    def scene(self, index: int) -> None:
        return None  # only drawn scenes know their masks

    def select(self, indices: Sequence[int]) -> "FolderSplit":
        return replace(
            self,
            paths=tuple(self.paths[i] for i in indices),
            labels=self.labels[np.asarray(indices)],
            digests=tuple(self.digests[i] for i in indices),
        )

    def fingerprint(self) -> str:
        """Return the SHA-256 of names, labels and contents, in order."""
        rows = "\n".join(f"{p}\t{y}\t{d}" for p, y, d in zip(self.paths, self.labels, self.digests))
        return hashlib.sha256(rows.encode()).hexdigest()


@dataclass(frozen=True)
class Scan:
    """A split and one line for each kind of file that was left out of it."""

    split: FolderSplit
    notes: tuple[str, ...]


def scan_folder(
    folder: Path, class_names: Sequence[str], progress: bool = False, cache: Path | None = None
) -> Scan:
    """Read every image file of the given classes below `folder`; skip and count those that do not decode.

    A class without a folder simply has no images: its index stays reserved. `cache`: a folder that remembers the
    findings, so that the next scan reads only files that are new or changed; None reads every file.
    """
    findings = Findings(folder, cache)
    candidates = [
        (path, label)
        for label, name in enumerate(class_names) if (folder / name).is_dir()
        for path in sorted((folder / name).rglob("*")) if _looks_like_image(path)
    ]
    with ThreadPoolExecutor() as pool:  # decoding releases the interpreter lock
        results = tqdm(pool.map(lambda item: findings.digest(item[0]), candidates), total=len(candidates),
                       desc=f"checking {folder.name}", unit="image", delay=2, disable=None if progress else True,
                       leave=False)
        digests = list(results)
    findings.save(class_names)
    kept = [(path, label, digest) for (path, label), digest in zip(candidates, digests) if digest]
    split = FolderSplit(
        folder,
        tuple(path.relative_to(folder).as_posix() for path, _, _ in kept),
        np.array([label for _, label, _ in kept], dtype=np.int64),
        tuple(digest for _, _, digest in kept),
    )
    return Scan(split, _skipped(folder, [path for (path, _), digest in zip(candidates, digests) if not digest]))


def _looks_like_image(path: Path) -> bool:
    # "._1.jpg" is what macOS writes beside 1.jpg on foreign disks; it is no image
    return path.suffix.lower() in EXTENSIONS and not path.name.startswith(".") and path.is_file()


def _skipped(folder: Path, broken: list[Path]) -> tuple[str, ...]:
    if not broken:
        return ()
    named = ", ".join(path.relative_to(folder).as_posix() for path in broken[:10])
    more = f" and {len(broken) - 10} more" if len(broken) > 10 else ""
    return (f"{len(broken)} unreadable file(s) in {folder} skipped: {named}{more}",)
