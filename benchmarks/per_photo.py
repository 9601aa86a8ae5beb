"""Values per photo: compute them once, cache them, and format their means with intervals."""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from common.tables import number, write_json
from evaluation.statistics.paired import paired, single

ROOT = Path(__file__).resolve().parents[1]
Values = dict[str, list[float]]


def cached(path: Path, settings: dict, compute: Callable[[], Values]) -> Values:
    """Read values from a file that was written with the same settings; otherwise compute and write them.

    path: a JSON file, which need not exist.
    settings: all that the values depend on.
    compute: returns lists of values by name.
    """
    content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if content.get("settings") != settings:
        content = {"settings": settings, "figures": compute()}
        write_json(path, content)
    # JSON has no NaN: null stands for it.
    return {name: [np.nan if v is None else v for v in values] for name, values in content["figures"].items()}


def code_hash(*patterns: str) -> str:
    """Return the SHA-256 of the project's files that match glob patterns; each pattern has to match a file."""
    found = {pattern: sorted(ROOT.glob(pattern)) for pattern in patterns}
    if missing := [pattern for pattern, files in found.items() if not files]:
        raise ValueError(f"no file of the project matches {', '.join(missing)}; correct the pattern")
    files = sorted({file for files in found.values() for file in files})
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def with_interval(values: Sequence[float]) -> str:
    """Format the mean over photos with its interval."""
    found = single(values)
    return f"{number(found.mean)} [{number(found.low)}, {number(found.high)}]"


def difference(a: Sequence[float], b: Sequence[float]) -> str:
    """Format the mean difference a - b, paired by photo, with its interval."""
    found = paired(a, b)
    return f"{number(found.difference, 3, True)} [{number(found.low, 3, True)}, {number(found.high, 3, True)}]"
