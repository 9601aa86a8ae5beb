"""docs/structure.md lists every file."""

from tools import structure_table


def test_the_page_lists_every_file_and_no_other():
    _, _, listed = structure_table.PAGE.read_text(encoding="utf-8").partition(structure_table.MARK)
    found = set()
    for part in listed.split("\n## ")[1:]:
        folder = part.split("/\n")[0]
        found |= {f"{folder}/{line.split('`')[1]}" for line in part.splitlines() if line.startswith("| `")}
    files = {
        path.relative_to(structure_table.ROOT).as_posix()
        for folder in structure_table.FOLDERS
        for path in structure_table.files_of(folder)
    }
    assert found == files, "run python tools/structure_table.py"


def test_every_file_says_what_it_holds():
    silent = [
        path
        for folder in structure_table.FOLDERS
        for path in structure_table.files_of(folder)
        if not structure_table.first_line(path)
    ]
    assert not silent, f"{silent} have no docstring"
