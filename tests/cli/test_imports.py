"""What needs no model is answered without torch, and a small run imports no package that it has no use for."""

import json
import subprocess
import sys

import pytest
from running import ROOT
from tiny import colour_folder, finish

SLOW = {"torch", "timm", "scipy", "matplotlib", "peft"}  # packages that take seconds to import
# Runs commands as `python SCRIPT ...` does, one after another; the last line says what came of each.
WATCH = """
import contextlib, io, json, runpy, sys
found = []
for argv in json.load(sys.stdin):
    sys.argv, status, said = argv, 0, io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            runpy.run_path(argv[0], run_name="__main__")
    except SystemExit as stop:
        status = stop.code or 0
    found.append([status, said.getvalue(), sorted({name.split(".")[0] for name in sys.modules})])
print(json.dumps(found))
"""


def watched(*commands) -> list[tuple[int, str, set[str]]]:
    """Run commands in one new process; return of each the exit status, what it wrote, and the packages imported."""
    given = json.dumps([[str(word) for word in argv] for argv in commands])
    python = [sys.executable, "-c", WATCH]
    ended = subprocess.run(python, cwd=ROOT, input=given, text=True, capture_output=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    return [(status, said, set(packages)) for status, said, packages in json.loads(ended.stdout)]


@pytest.mark.parametrize("script", ["train.py", "compare.py", "visualize.py", "study.py"])
def test_help_and_version_import_no_torch(script):
    (helped, text, _), (versions, line, packages) = watched([script, "--help"], [script, "--version"])
    assert helped == versions == 0 and "example:" in text and line.count("\n") == 1 and "torch " in line
    assert not SLOW & packages


RUNS = ["FOLDER/run", "FOLDER/other"]  # the folders are there, and hold no run
# Script -> what is given, and what the line says.
WRONG: dict[str, list[tuple[list[str], str]]] = {
    "train.py": [
        ([], "the following arguments are required: --out"),
        (["--ouput", "x", "--out", "OUT"], "unrecognized arguments: --ouput x"),
        (["--epochs", "three", "--out", "OUT"], "'three'"),
        (["--learning-rate", "0", "--out", "OUT"], "--learning-rate 0.0 is not positive"),
        (["--method", "dorra", "--out", "OUT"], "unknown method 'dorra'"),
        (["--data", "FOLDER/none", "--out", "OUT"], "FOLDER/none does not exist"),
        (["--data", "FOLDER/data", "--context-bias", "0.5", "--out", "OUT"], "--context-bias belongs to"),
        (["--data-seed", "-1", "--out", "OUT"], "--data-seed -1 is out of range"),
        (["--weights", "FOLDER/none.pth", "--out", "OUT"], "--weights FOLDER/none.pth is not a file"),
    ],
    "study.py": [
        (["--others", "3"], "--others is called --random-classes"),
        (["--relevance", "lrp_dept"], "unknown relevance method 'lrp_dept'"),
        (["--methods", "linear"], "give two or more different methods"),
        (["--data", "FOLDER/none"], "FOLDER/none does not exist"),
        (["--data", "FOLDER/data", "FOLDER/twin/data"], "have the same name"),
        (["--data", "FOLDER/data", "--context-bias", "0.5"], "--context-bias belongs to"),
        (["--seeds", "0"], "'0'"),
    ],
    "compare.py": [
        (["FOLDER/run", "--out", "OUT"], "comparing takes two or more"),
        (["FOLDER/run", "FOLDER/twin/../run", "--out", "OUT"], "was given twice"),
        (["FOLDER/none", "FOLDER/run", "--out", "OUT"], "FOLDER/none is not a folder; expected a run"),
        ([*RUNS, "--out", "OUT"], "FOLDER/run holds no config.json; expected a run"),
        ([*RUNS, "--second", "third", "--out", "OUT"], "invalid choice: 'third'"),
        ([*RUNS, "--relevance", "rollout", "--contrast", "mean", "--out", "OUT"], "'contrast'"),
        ([*RUNS, "--val-images", "5", "--out", "OUT"], "--val-images belongs to --data, which was not given"),
        ([*RUNS, "--data", "FOLDER/data", "--context-bias", "1", "--out", "OUT"], "--context-bias belon"),
    ],
    "visualize.py": [
        (["FOLDER/run", "FOLDER/none.png"], "FOLDER/none.png does not exist"),
        (["FOLDER/none", "FOLDER/photo.png"], "FOLDER/none is not a folder; expected a run"),
        (["FOLDER/photo.png", "FOLDER/photo.png", "--weights", "w"], "--weights is used for none of"),
        (["FOLDER/run", "FOLDER/photo.png", "--relevance", "lrp_dept"], "did you mean lrp_depth"),
    ],
}


@pytest.mark.parametrize("script", WRONG)
def test_a_usage_error_that_needs_no_model_imports_no_torch(inputs, script):
    def place(text: str) -> str:
        return text.replace("FOLDER", str(inputs)).replace("OUT", str(inputs / "out"))

    commands = [[script, *map(place, argv)] for argv, _ in WRONG[script]]
    for argv, (_, words), (status, said, packages) in zip(commands, WRONG[script], watched(*commands)):
        assert status == 2 and said.startswith("error: ") and said.count("\n") == 1 and place(words) in said, argv
        assert not SLOW & packages, argv
    assert not (inputs / "out").exists()


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A folder with data, with a photo, and with folders that hold no run."""
    root = tmp_path_factory.mktemp("inputs")
    colour_folder(root / "data", train=1, val=1)
    for name in ("run", "other", "twin"):
        (root / name).mkdir()
    (root / "twin" / "data").mkdir()
    (root / "photo.png").write_bytes(b"")
    return root


def test_a_command_imports_no_package_that_it_has_no_use_for(shop, spec, tmp_path):
    """A probe is trained, it and a wholly trained model are explained: without peft and packages of statistics; an
    adapter is explained with peft."""
    photo, out = shop.colours / "val" / "red" / "00.png", ["--relevance", "rollout", "--out", tmp_path]
    finish(tmp_path / "full", spec, "full")
    *without, adapter = watched(
        ["train.py", *shop.options, "--method", "linear", "--out", tmp_path / "run"],
        ["visualize.py", tmp_path / "run", photo, *out],
        ["visualize.py", tmp_path / "full", photo, *out],
        ["visualize.py", shop.dora, photo, *out],
    )
    for status, said, packages in without:
        assert status == 0, said
        assert "torch" in packages and not {"peft", "transformers", "statsmodels"} & packages
    assert adapter[0] == 0 and "peft" in adapter[2], adapter[1]
    assert (tmp_path / "run" / "summary.json").is_file() and (tmp_path / "00.png").is_file()
