"""Write rows and records as CSV, JSON and Markdown, whole or not at all, and format numbers."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.files import atomic

Row = Mapping[str, Any]
ABSENT = "–"  # shown where a figure does not exist


def write_csv(path: str | Path, rows: Iterable[Row]) -> None:
    """Write one line per row, floats with six significant digits.

    rows: column -> value; columns stand in the order in which rows first name them. A value that is missing, None or
        NaN is an empty field, as pandas reads it.
    """
    rows = list(rows)
    names = columns_of(rows)
    with atomic(path) as temporary:
        with open(temporary, "w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow(names)
            writer.writerows([csv_field(row.get(name)) for name in names] for row in rows)


def write_json(path: str | Path, content: Any) -> None:
    """Write indented JSON in insertion order.

    content: plain values; NumPy scalars and arrays, dataclasses and paths become plain ones. NaN and infinities, which
        JSON cannot hold, become null.
    Raises TypeError for anything else.
    """
    text = json.dumps(plain(content), indent=2, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n")


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text with Unix line ends on every system, so that the same command gives the same bytes."""
    with atomic(path) as temporary:
        Path(temporary).write_bytes(text.encode("utf-8"))


def markdown_table(
    rows: Iterable[Row], columns: Sequence[str] | Mapping[str, str] | None = None, align: str | None = None
) -> str:
    """Return a GitHub table that ends with a newline.

    rows: column -> value.
    columns: which keys, in order; a mapping gives key -> heading; None takes all.
    align: one of l, c, r per column; None aligns numbers right and everything else left.
    Raises ValueError for another number of letters.
    """
    rows = list(rows)
    names = list(columns) if columns is not None else columns_of(rows)
    headings = [columns[name] if isinstance(columns, Mapping) else name for name in names]
    align = align or "".join("r" if _numeric(rows, name) else "l" for name in names)
    if len(align) != len(names) or set(align) - set("lcr"):
        raise ValueError(f"expected {len(names)} letters of l, c, r in align, got {align!r}")
    rules = [{"l": ":--", "c": ":-:", "r": "--:"}[letter] for letter in align]
    cells = [[_cell(row.get(name)) for name in names] for row in rows]
    lines = [[_cell(heading) for heading in headings], rules, *cells]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def columns_of(rows: Sequence[Row]) -> list[str]:
    """Return every key that any row has, in order of first appearance."""
    return list(dict.fromkeys(name for row in rows for name in row))


def number(value: float | None, digits: int = 3, signed: bool = False) -> str:
    """Format a number with `digits` decimals, or a bound if it is too small: number(0.0001) -> '< 0.001'."""
    if value is None or _absent(value):
        return ABSENT
    smallest = 10.0**-digits
    if 0 < abs(value) < smallest / 2:
        return f"< {smallest:.{digits}f}" if value > 0 else f"> -{smallest:.{digits}f}"
    return f"{value:{'+' if signed and value else ''}.{digits}f}"


def p_text(p_value: float | None) -> str:
    """Format a p-value: 'p = 0.012', 'p < 0.001'."""
    text = number(p_value)
    return f"p {text}" if text.startswith("<") else f"p = {text}"


def percent(fraction: float | None, digits: int = 1, signed: bool = False) -> str:
    """Format a fraction in percent: percent(0.925) -> '92.5 %'."""
    if fraction is None or _absent(fraction):
        return ABSENT
    text = f"{100 * fraction:{'+' if signed else ''}.{digits}f}"
    # -0.0 % would claim a sign that the digits do not show.
    return (text.lstrip("+-") if float(text) == 0 else text) + " %"


def interval(low: float | None, high: float | None, digits: int = 3) -> str:
    """Format an interval: '[0.012, 0.034]', or a dash where there is none."""
    return ABSENT if _absent(low) or _absent(high) else f"[{low:.{digits}f}, {high:.{digits}f}]"


def estimate(difference: float | None, low: float | None, high: float | None) -> str:
    """Format a difference with its interval: '+0.039 [-0.015, 0.099]'.

    It has as many decimals as give half the interval's width two significant digits.
    """
    if difference is None or low is None or high is None or any(map(_absent, (difference, low, high))):
        return f"{_significant(difference)} (no interval)"
    if high <= low:
        return f"{_significant(difference)} [{_significant(low)}, {_significant(high)}]"
    digits = min(12, max(0, 1 - math.floor(math.log10((high - low) / 2))))
    return f"{difference:+.{digits}f} {interval(low, high, digits)}"


def plain(content: Any) -> Any:
    """Return `content` as dictionaries, lists, strings, numbers, booleans and None, or raise TypeError."""
    if dataclasses.is_dataclass(content) and not isinstance(content, type):
        return {field.name: plain(getattr(content, field.name)) for field in dataclasses.fields(content)}
    if isinstance(content, Mapping):
        return {str(plain(key)): plain(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [plain(value) for value in content]
    if isinstance(content, np.ndarray):
        return plain(content.tolist())
    if isinstance(content, np.generic):
        return plain(content.item())
    if isinstance(content, Path):
        return content.as_posix()
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    if content is None or isinstance(content, (str, int)):
        return content
    raise TypeError(f"cannot write {type(content).__name__} as JSON")


def _significant(value: float | None) -> str:
    return ABSENT if _absent(value) else f"{value:.3g}"


def _absent(value: Any) -> bool:
    return value is None or (isinstance(value, (float, np.floating)) and math.isnan(value))


def csv_field(value: Any) -> str:
    """A value as a field of a CSV file: six significant digits, '' for what is missing, lists and records as JSON."""
    value = plain(value) if not isinstance(value, (float, np.floating)) else float(value)
    if _absent(value):
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return format(value, ".6g")
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (list, dict)) else str(value)


def _cell(value: Any) -> str:
    if _absent(value):
        return ABSENT
    text = format(value, ".3g") if isinstance(value, (float, np.floating)) else str(value)
    # A pipe ends a cell and a line break ends the table; a backslash before a pipe would undo its escape.
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("\r", "").replace("\n", "<br>")


def _numeric(rows: Sequence[Row], name: str) -> bool:
    values = [row[name] for row in rows if not _absent(row.get(name))]
    return bool(values) and all(isinstance(value, (int, float, np.number)) for value in values)
