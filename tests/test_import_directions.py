"""Who may import whom, as docs and design say: folders do not know one another, nor the scripts above them."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("data", "models", "explain", "report")
SHARED = {"files", "errors"}
PROJECT = {path.stem for path in ROOT.glob("*.py")} | {*FOLDERS, "tools", "benchmarks", "tests", "tiny", "commands"}
MODULES = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]


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
        "import os.path\nfrom report import x\ndef f():\n    from models.fit import y\n"
        "from . import z\nfrom .. import w\n"
    )
    assert imported(tmp_path / "a.py") == {"os", "report", "models", ".."}
    assert {path.parent.name for path in MODULES} >= set(FOLDERS)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_folder_imports_itself_and_the_shared_files_only(path):
    folder = path.relative_to(ROOT).parts[0]
    foreign = imported(path) & (PROJECT | {"..", "..."}) - SHARED - {folder}
    assert not foreign, f"{path} imports {foreign}; pass tensors, modules and arrays between folders instead"


@pytest.mark.parametrize("name", sorted(SHARED))
def test_the_shared_files_stand_on_their_own(name):
    assert not imported(ROOT / f"{name}.py") & PROJECT
