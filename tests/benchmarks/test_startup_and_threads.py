"""benchmarks/startup.py and threads.py run from end to end; no test depends on how long anything takes."""

import os

import child_process
import pytest
import startup
import threads
import training_step
from running import command
from tiny import NAME

from common.errors import ExplainedError
from common.threads import OWN


def cells(text: str) -> list[list[str]]:
    """Return the cells of the table rows in a document."""
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]


# ---- startup.py


def test_startup_measures_help_and_a_usage_error_of_every_command(tmp_path, monkeypatch):
    monkeypatch.setattr(startup, "CALLS", startup.CALLS[:2] + startup.CALLS[3:4] + startup.CALLS[-1:])
    assert command(startup, "--rounds", 1, "--out", tmp_path / "startup.md") == 0
    text = (tmp_path / "startup.md").read_text()
    heading, _, *rows = cells(text)
    assert heading == ["", "CPU seconds", "wall seconds"]
    assert [row[0] for row in rows] == [
        "`python -c pass`",
        "`import explain`",
        "`study.py --help`",
        "`compare.py`, usage error",
    ]
    assert all(float(value.strip("< ")) >= 0 for row in rows for value in row[1:])


def test_startup_covers_every_script_of_the_root():
    names = [call.name for call in startup.CALLS]
    for script in startup.ROOT.glob("*.py"):
        assert f"`{script.name} --help`" in names and f"`{script.name}`, usage error" in names


def test_startup_refuses_a_call_that_ends_otherwise(monkeypatch, capsys):
    monkeypatch.setattr(startup, "CALLS", (startup.Call("broken", ("-c", "raise ValueError('no such thing')")),))
    assert command(startup, "--rounds", 1) == 1
    assert "ended with status 1, expected 0: ValueError: no such thing" in capsys.readouterr().err


# ---- threads.py


@pytest.mark.parametrize(
    "settings, busy",
    [
        (["OMP_NUM_THREADS=1"], [0]),
        pytest.param(["default", "OMP_WAIT_POLICY=passive", "chosen"], [0, 1], marks=pytest.mark.slow),
    ],
)
def test_threads_times_steps_in_processes_of_their_own(tmp_path, settings, busy):
    argv = ["--models", NAME, "--batch", 1, "--steps", 1, "--rounds", 1, "--settings", *settings, "--busy", *busy]
    assert command(threads, *argv, "--out", tmp_path / "threads.md") == 0
    text = (tmp_path / "threads.md").read_text()
    heading, _, *rows = cells(text)
    assert heading == ["setting", *("idle" if count == 0 else "1 other process" for count in busy)]
    assert [row[0].strip("`") for row in rows] == settings and all(float(row[1].split()[0]) > 0 for row in rows)
    assert f"    python benchmarks/threads.py --models {NAME} --batch 1 --settings {settings[0]} " in text


def test_a_step_of_the_bundled_model_is_timed():
    assert training_step.seconds_per_step("bundled", batch=1, steps=1) > 0
    assert training_step.architecture("bundled")[1]["embed_dim"] == 96 and training_step.architecture(NAME) == (
        NAME,
        {},
    )


def test_each_setting_reaches_a_process_without_the_users_own(monkeypatch):
    for name in OWN:
        monkeypatch.setenv(name, "7")
    seen = {}

    def run_python(arguments, environment):
        seen[setting] = {name: environment[name] for name in OWN if name in environment}, arguments[-1]
        return child_process.Finished(0, 0.0, 0.0, 0, '{"bundled": 0.5}', "")

    monkeypatch.setattr(threads, "run_python", run_python)
    args = threads.build_parser().parse_args(["--models", "bundled", "--steps", "2"])
    for setting in threads.SETTINGS:
        assert threads.seconds_per_step(args, setting) == {"bundled": 0.5}
    assert seen == {
        "default": ({}, 2),
        "OMP_WAIT_POLICY=passive": ({"OMP_WAIT_POLICY": "passive"}, 2),
        "GOMP_SPINCOUNT=3000": ({"GOMP_SPINCOUNT": "3000"}, 2),
        "GOMP_SPINCOUNT=10000": ({"GOMP_SPINCOUNT": "10000"}, 2),
        "OMP_NUM_THREADS=1": ({"OMP_NUM_THREADS": "1"}, 2),
        "chosen": ({}, "--prepare-threads"),
    }


def test_ratios_are_of_the_idle_default():
    args = threads.build_parser().parse_args(["--models", "bundled", "--busy", "0", "2"])
    found = {
        ("bundled", setting, busy): [1.0 + busy + number, 9.0 + number, 0.0]
        for number, setting in enumerate(args.settings)
        for busy in args.busy
    }
    rows = cells(threads.table(args, found, "bundled"))
    assert rows[0] == ["setting", "idle", "2 other processes"]
    assert rows[2] == ["default", "1.00 (1.00)", "3.00 (3.00)"]
    assert rows[3] == ["`OMP_WAIT_POLICY=passive`", "2.00 (2.00)", "4.00 (4.00)"]


def test_busy_processes_end_with_the_block():
    started = []
    popen = threads.subprocess.Popen

    class Recorded(popen):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            started.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threads.subprocess, "Popen", Recorded)
        with pytest.raises(KeyboardInterrupt), threads.busy_processes(2):
            assert [process.poll() for process in started] == [None, None]
            raise KeyboardInterrupt
    assert all(process.returncode is not None for process in started) and len(started) == 2


# ---- child_process.py


def test_a_process_is_measured_alone(tmp_path):
    """Status, streams and working directory are its own; its peak does not include this process's memory."""
    code = "import os, sys; print(os.getcwd()); print('odd', file=sys.stderr); sys.exit(3)"
    found = child_process.run_python(["-c", code], os.environ, tmp_path)
    assert (found.status, found.output, found.errors) == (3, f"{tmp_path}\n", "odd\n")
    assert 0 < found.peak and found.cpu_seconds > 0 and found.wall_seconds > 0
    with pytest.raises(ExplainedError, match=r"python -c .* ended with status 3, expected 0: odd"):
        child_process.check_status(found, ["-c", code])
    child_process.check_status(found, ["-c", code], expected=3)
