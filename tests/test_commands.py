"""What all commands do alike: one line and an exit status for an error, and for Ctrl-C what it leaves."""

import runpy
import sys

import pytest
from running import command, process

import compare
import visualize


@pytest.mark.parametrize("script", [compare, visualize])
def test_what_ctrl_c_leaves_is_said_by_each_command(tmp_path, monkeypatch, capsys, script):
    def interrupt(*_):
        raise KeyboardInterrupt

    (tmp_path / "photo.png").write_bytes(b"")
    monkeypatch.setattr(f"commands.{script.__name__}.load_explainable", interrupt)
    monkeypatch.setattr(
        sys, "argv", [f"{script.__name__}.py", "some-run", str(tmp_path / "photo.png"), "--out", str(tmp_path)]
    )
    with pytest.raises(SystemExit) as stop:
        runpy.run_module(script.__name__, run_name="__main__")
    assert stop.value.code == 130
    assert capsys.readouterr().err == f"interrupted; {script.INTERRUPTED}\n"
    assert "continues" not in script.INTERRUPTED


def test_a_process_ends_with_the_status_and_one_line(tmp_path):
    running = process("train.py", "--data", tmp_path / "nowhere", "--out", tmp_path / "run")
    out, error = running.communicate(timeout=120)
    assert running.returncode == 2 and out == "" and not (tmp_path / "run").exists()
    assert error.startswith(f"error: --data {tmp_path / 'nowhere'} does not exist") and error.count("\n") == 1


def test_a_command_without_a_standard_output_ends_well(shop, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)  # as Python starts where a shell closed it: `>&-`
    photo = shop.colours / "val" / "red" / "00.png"
    assert command(visualize, shop.linear, photo, "--relevance", "rollout", "--out", tmp_path) == 0
    assert (tmp_path / "00.png").is_file()
