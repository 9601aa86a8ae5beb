"""Write the list of files in docs/structure.md from the first line of every file's docstring.

python tools/structure_table.py
"""

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "structure.md"
FOLDERS = ("common", "data", "models", "explain", "evaluation", "report", "commands", "cli", "benchmarks", "tools")
MARK = "<!-- what follows is written by tools/structure_table.py -->\n"


def files_of(folder: str) -> list[Path]:
    """Return the Python files of a folder that hold something, in the order of their paths."""
    return [path for path in sorted((ROOT / folder).rglob("*.py")) if path.name != "__init__.py"]


def first_line(path: Path) -> str:
    """Return the first paragraph of a file's docstring in one line; "" where there is no file or docstring."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) if path.is_file() else None
    return " ".join((text or "").split("\n\n")[0].split()).replace("|", "\\|")


def tables() -> str:
    """Return a table of files for each folder."""
    parts = []
    for folder in FOLDERS:
        parts.append(f"\n## {folder}/\n\n")
        if about := first_line(ROOT / folder / "__init__.py"):
            parts.append(f"{about}\n\n")
        parts.append("| file | holds |\n| --- | --- |\n")
        for path in files_of(folder):
            parts.append(f"| `{path.relative_to(ROOT / folder).as_posix()}` | {first_line(path)} |\n")
    return "".join(parts)


def main() -> int:
    """Replace the list of files in the page, keeping the text before it."""
    before, _, _ = PAGE.read_text(encoding="utf-8").partition(MARK)
    PAGE.write_text(before + MARK + tables(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
