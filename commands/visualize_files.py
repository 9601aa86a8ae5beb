"""Which images visualize.py draws, and the names of its pictures. Imports no torch."""

import glob
import os
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from common.errors import UsageError
from data.images import EXTENSIONS
from explain.registry import METHODS

LAYERS_FILE = re.compile(rf"(.+)-layers-(?:{'|'.join(METHODS)})-\d+-.*\.png")


def image_files(patterns: Sequence[str]) -> list[Path]:
    """Return the files that paths, folders and globs name, each once; raises UsageError for what names nothing."""
    paths: list[Path] = []
    for pattern in patterns:
        if not pattern.strip():
            raise UsageError(f"{pattern!r} names no image; give image files, folders (. for this one) or a quoted glob")
        if Path(pattern).is_dir():
            found = sorted(p for p in Path(pattern).rglob("*") if p.suffix.lower() in EXTENSIONS and p.name[0] != ".")
        elif Path(pattern).is_file():
            found = [Path(pattern)]
        else:
            found = sorted(Path(p) for p in glob.glob(pattern, recursive=True) if Path(p).is_file())
        if not found:
            missing = glob.escape(pattern) == pattern and not Path(pattern).exists()
            raise UsageError(
                f"{pattern} {'does not exist' if missing else 'matches no image'}; give image files, folders "
                f"that hold some, or a quoted glob"
            )
        paths += found
    return list({os.path.abspath(path): path for path in paths}.values())


def folder_of(path: Path) -> str:
    """Return the name of an image's folder: among photos sorted by class, its class."""
    return Path(os.path.abspath(path)).parent.name


def output_names(paths: Sequence[Path], out: Path, changes: Sequence[str] = ()) -> list[Path]:
    """Return one PNG path per image; images of the same name are told apart by their folder, then by a number.

    changes: options of the relevance methods in words, which end the names.
    """
    alike: Counter[str] = Counter(path.stem for path in paths)
    numbers: Counter[str] = Counter()
    names: dict[str, None] = {}  # a set that keeps its order
    for path in paths:
        name = base = path.stem if alike[path.stem] == 1 else f"{folder_of(path)}-{path.stem}"
        while name in names:
            numbers[base] += 1
            name = f"{base}-{numbers[base] + 1}"
        names[name] = None
    end = "".join(f"-{slug(change)}" for change in changes)
    return [out / f"{name}{end}.png" for name in names]


def drawn_layers(folder: Path, names: Sequence[Path]) -> dict[Path, list[Path]]:
    """Return the pictures of heads that an earlier call with --layers drew for each of these pictures.

    They would be taken for this call's. A file that this call draws for another image is not among them.
    """
    found, own = defaultdict(list), set(names)
    for file in folder.glob("*-layers-*.png"):
        if (match := LAYERS_FILE.fullmatch(file.name)) and file not in own:
            found[folder / f"{match[1]}.png"].append(file)
    return found


def slug(name: str) -> str:
    """Return a name as part of a file's name: letters, digits, underscores and hyphens, at most 60."""
    return re.sub(r"[^\w]+", "-", name).strip("-")[:60]
