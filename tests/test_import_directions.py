"""Imports between folders go one way, as docs/structure.md and CONTRIBUTING.md describe."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = {"train", "visualize", "compare", "study"}
# Folder -> the folders that it may import besides itself.
ALLOWED = {
    "common": set(),
    "data": {"common"},
    "models": {"common"},
    "explain": {"common"},
    "evaluation": {"common", "data", "models", "explain"},
    "report": {"common"},
    "commands": {"common", "data", "models", "explain", "evaluation", "report"},
    "cli": {"common", "data", "models", "explain", "evaluation", "report", "commands"},
}
OUTSIDE = {"tests", "tools", "benchmarks", *SCRIPTS}  # nothing imports these but themselves
MODULES = [path for folder in ALLOWED for path in sorted((ROOT / folder).rglob("*.py"))]


def imported(path: Path) -> set[str]:
    """Return the first part of every absolute import in a file, wherever in the file it stands."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module.split(".")[0])
        elif isinstance(node, ast.ImportFrom) and node.level > 1:
            names.add("." * node.level)  # leaves its folder
    return names


def test_the_reader_sees_imports(tmp_path):
    (tmp_path / "a.py").write_text(
        "import os.path\nfrom report import x\ndef f():\n    from models.training import y\n"
        "from . import z\nfrom .. import w\n"
    )
    assert imported(tmp_path / "a.py") == {"os", "report", "models", ".."}
    assert {path.relative_to(ROOT).parts[0] for path in MODULES} == set(ALLOWED)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_folder_imports_only_the_folders_before_it(path):
    folder = path.relative_to(ROOT).parts[0]
    foreign = imported(path) & ({*ALLOWED, *OUTSIDE, "..", "..."} - ALLOWED[folder] - {folder})
    assert not foreign, f"{path} imports {foreign}; see CONTRIBUTING.md, 'Where things go'"


def test_the_root_shows_entries_only():
    assert {path.stem for path in ROOT.glob("*.py")} == SCRIPTS


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_argparse_stays_in_the_command_line(path):
    assert path.relative_to(ROOT).parts[0] == "cli" or "argparse" not in path.read_text()


@pytest.mark.parametrize("script", sorted(SCRIPTS))
def test_an_entry_is_short(script):
    assert len((ROOT / f"{script}.py").read_text().splitlines()) <= 150


def test_no_two_test_files_have_one_name():
    """Pytest imports tests by their file's name alone: of two, the second could not be collected."""
    names = [path.name for path in (ROOT / "tests").rglob("*.py") if path.name not in ("conftest.py", "__init__.py")]
    assert sorted(set(names)) == sorted(names)
