"""How torch's threads wait is chosen by the load of the machine, before torch is imported."""

import subprocess
import sys

import pytest
from running import ROOT

from common import threads


@pytest.fixture
def before_torch(monkeypatch):
    """A process that has not imported torch, with no setting of the user."""
    monkeypatch.delitem(sys.modules, "torch")
    for name in threads.OWN:
        monkeypatch.setenv(name, "x")  # so that it is restored, whatever is set meanwhile
        monkeypatch.delenv(name)


def stat(monkeypatch, tmp_path, *looks: str) -> None:
    """Let each look at the cores find the next of these lines."""
    left = iter(looks)

    class Stat:
        def read_text(self) -> str:
            return next(left) + "\ncpu0 1 1 1 1\n"

    monkeypatch.setattr(threads, "STAT", Stat())
    monkeypatch.setattr(threads, "SAMPLE", 0.0)
    monkeypatch.setattr(threads.time, "sleep", lambda seconds: None)


IDLE = ("cpu 100 0 100 1000 0 0 0 0", "cpu 101 0 100 1019 0 0 0 0")
ONE_OF_TWO = ("cpu 100 0 100 1000 0 0 0 0", "cpu 109 0 101 1010 0 0 0 0")


def test_threads_of_a_busy_machine_wait_without_spinning(before_torch, monkeypatch, tmp_path, capsys):
    stat(monkeypatch, tmp_path, *ONE_OF_TWO)
    threads.prepare_threads(None)
    assert threads.os.environ["OMP_WAIT_POLICY"] == "passive"
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "50%" in said and "--threads" in said


def test_an_idle_machine_is_left_alone(before_torch, monkeypatch, tmp_path, capsys):
    stat(monkeypatch, tmp_path, *IDLE)
    threads.prepare_threads(None)
    assert "OMP_WAIT_POLICY" not in threads.os.environ and "OMP_NUM_THREADS" not in threads.os.environ
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("own", threads.OWN)
def test_a_users_own_setting_wins(before_torch, monkeypatch, tmp_path, own):
    stat(monkeypatch, tmp_path, *ONE_OF_TWO)
    monkeypatch.setenv(own, "7")
    threads.prepare_threads(None)
    assert threads.os.environ[own] == "7"
    assert own == "OMP_WAIT_POLICY" or "OMP_WAIT_POLICY" not in threads.os.environ


def test_a_system_without_proc_is_left_alone(before_torch, monkeypatch, tmp_path):
    monkeypatch.setattr(threads, "STAT", tmp_path / "missing")
    assert threads.busy_fraction() == 0
    threads.prepare_threads(None)
    assert "OMP_WAIT_POLICY" not in threads.os.environ


def test_the_number_of_threads_reaches_torch():
    code = (
        "from common.threads import prepare_threads; prepare_threads(1); import torch; print(torch.get_num_threads())"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout == "1\n"
