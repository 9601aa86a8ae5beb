"""common.tables: what is written can be read again, and says no more than it knows."""

import csv
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from common.tables import estimate, interval, markdown_table, number, p_text, percent, write_csv, write_json, write_text


@dataclass
class Point:
    x: float
    label: str


def test_csv_comes_back_with_columns_in_order_of_first_appearance(tmp_path):
    path = tmp_path / "new" / "table.csv"
    rows = [{"image": 'a,"b"', "p": np.float32(0.1)}, {"image": "c\nd", "right": np.bool_(True), "p": None}]
    write_csv(path, rows)
    with open(path, newline="", encoding="utf-8") as stream:
        back = list(csv.DictReader(stream))
    assert list(back[0]) == ["image", "p", "right"]
    assert back == [{"image": 'a,"b"', "p": "0.1", "right": ""}, {"image": "c\nd", "p": "", "right": "true"}]


def test_csv_keeps_six_digits_and_leaves_nan_empty(tmp_path):
    write_csv(tmp_path / "a.csv", [{"x": 1 / 3, "y": float("nan"), "n": np.int64(12345678)}])
    assert (tmp_path / "a.csv").read_bytes() == b"x,y,n\n0.333333,,12345678\n"


def test_json_keeps_order_and_turns_numpy_nan_and_dataclasses_plain(tmp_path):
    path = tmp_path / "a.json"
    content = {
        "z": np.arange(3),
        "a": [np.float32(0.5), float("nan"), np.float64("inf")],
        "point": Point(np.float64(1.5), "é"),
        "path": Path("a") / "b",
        "flag": np.bool_(False),
        3: None,
    }
    write_json(path, content)
    back = json.loads(path.read_text(encoding="utf-8"))
    assert back == {
        "z": [0, 1, 2],
        "a": [0.5, None, None],
        "point": {"x": 1.5, "label": "é"},
        "path": "a/b",
        "flag": False,
        "3": None,
    }
    assert list(back) == ["z", "a", "point", "path", "flag", "3"]
    assert path.read_text(encoding="utf-8").endswith("}\n")


def test_json_float_comes_back_exactly(tmp_path):
    write_json(tmp_path / "a.json", [1 / 3, 1e-300])
    assert json.loads((tmp_path / "a.json").read_text()) == [1 / 3, 1e-300]


def test_a_failed_write_keeps_the_old_file_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, 1)
    with pytest.raises(TypeError, match="object"):
        write_json(path, object())
    with pytest.raises(TypeError, match="set"):
        write_csv(tmp_path / "a.csv", [{"x": 1}, {"x": {1}}])
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"] and path.read_text() == "1\n"


def test_text_is_utf8_with_its_own_line_ends(tmp_path):
    write_text(tmp_path / "a.md", "ü\n")
    assert (tmp_path / "a.md").read_bytes() == "ü\n".encode()


def test_markdown_table_aligns_numbers_right_and_escapes():
    text = markdown_table([{"method": "a|b\nc", "x": 0.12345}, {"method": "d", "x": None}])
    assert text == "| method | x |\n| :-- | --: |\n| a\\|b<br>c | 0.123 |\n| d | – |\n"
    assert markdown_table([{"a": "\\|"}]).splitlines()[2] == "| \\\\\\| |"


def test_markdown_table_takes_columns_headings_and_alignment():
    rows = [{"a": 1, "b": 2}]
    assert markdown_table(rows, ["b"], align="c") == "| b |\n| :-: |\n| 2 |\n"
    assert markdown_table(rows, {"b": "second", "a": "first"}).startswith("| second | first |\n")
    with pytest.raises(ValueError, match="2 letters"):
        markdown_table(rows, align="l")


@pytest.mark.parametrize(
    "written, expected",
    [
        (percent(0.925), "92.5 %"),
        (percent(0.002, signed=True), "+0.2 %"),
        (percent(-0.00001, signed=True), "0.0 %"),
        (percent(None), "–"),
        (number(0.12345), "0.123"),
        (number(0.0001), "< 0.001"),
        (number(-0.0001), "> -0.001"),
        (number(0), "0.000"),
        (number(0.5, 2, signed=True), "+0.50"),
        (number(float("nan")), "–"),
        (interval(0.1, 0.25, 2), "[0.10, 0.25]"),
        (interval(float("nan"), 1), "–"),
        (estimate(0.03912, -0.0151, 0.0994), "+0.039 [-0.015, 0.099]"),
        (estimate(-0.000391, -0.0005, -0.0003), "-0.00039 [-0.00050, -0.00030]"),
        (estimate(120.4, 80, 160), "+120 [80, 160]"),
        (estimate(0.5, 0.5, 0.5), "0.5 [0.5, 0.5]"),
        (estimate(0.5, float("nan"), float("nan")), "0.5 (no interval)"),
        (p_text(0.0123), "p = 0.012"),
        (p_text(0.0001), "p < 0.001"),
        (p_text(float("nan")), "p = –"),
    ],
)
def test_figures_in_words(written, expected):
    assert written == expected
