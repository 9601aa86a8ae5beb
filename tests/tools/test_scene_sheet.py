"""The contact sheet of drawn scenes."""

import pytest
from PIL import Image

from tools import scene_sheet


def test_contact_sheet(tmp_path, capsys):
    file = tmp_path / "sheet.png"
    assert scene_sheet.main(["--out", str(file), "--count", "5", "--size", "64"]) == 0
    assert str(file) in capsys.readouterr().out
    with Image.open(file) as sheet:
        assert sheet.width >= 4 * 2 * 64


@pytest.mark.parametrize("name", ["sheet.unknown", "file/sheet.png"])
def test_unwritable_sheet_is_one_line(tmp_path, capsys, name):
    (tmp_path / "file").write_text("not a folder")
    assert scene_sheet.main(["--out", str(tmp_path / name), "--count", "1", "--size", "32"]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    "option", [["--count", "0"], ["--context-bias", "2"], ["--split", "test"], ["--data-seed", "-1"]]
)
def test_bad_usage_exits_with_two(tmp_path, option):
    with pytest.raises(SystemExit) as stop:
        scene_sheet.main(["--out", str(tmp_path / "sheet.png"), *option])
    assert stop.value.code == 2
