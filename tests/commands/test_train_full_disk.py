"""The disk is full while train.py saves: one line, and nothing is lost."""

import re
import resource

import pytest
from forked_training import SMALL, differing

from models.runs import RESUME, SUMMARY, load_run


def test_a_full_disk_is_one_line_and_leaves_the_last_good_state(shop, tmp_path, start):
    """In the second epoch, the file system begins to refuse every file as large as a state."""
    argv, run = [*shop.options, "--method", "full", *SMALL, "--out"], tmp_path / "run"
    whole = start([*argv, tmp_path / "whole"])
    running = start([*argv, run], stop=(RESUME, 12))
    running.stands_still()
    good, pid = (run / RESUME).read_bytes(), running.processes[0].pid
    assert len(good) > 1_000_000
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (1_000_000, resource.prlimit(pid, resource.RLIMIT_FSIZE)[1]))
    running.goes_on.set()
    assert running.ends() == [1] and running.error.startswith("error: ") and running.error.count("\n") == 1, (
        running.error
    )
    assert "free space or give another place" in running.error and "Traceback" not in running.error
    assert (run / RESUME).read_bytes() == good, "the last good state is as it was"
    assert not (run / SUMMARY).exists() and not list(run.glob(".*"))
    again = start([*argv, run])
    assert again.ends() == [0] and "continuing after step 4 of 8 in epoch 2" in again.out, again.error
    assert whole.ends() == [0] and differing(tmp_path / "whole", run) == set()


@pytest.mark.parametrize(
    "method, more, stop, limit, name",
    [
        ("full", [], RESUME, 1_000_000, "backbone.safetensors"),
        ("dora", [], RESUME, 10_000, "adapter"),
        ("linear", ["--export", "merged.safetensors"], SUMMARY, 1_000_000, "merged.safetensors"),
    ],
)
def test_a_disk_that_is_full_when_results_are_written_is_one_line(
    shop, tmp_path, start, method, more, stop, limit, name
):
    """Then the same command writes them, of the state that was kept."""
    run = tmp_path / "run"
    more = [tmp_path / option if option == name else option for option in more]
    argv = [*shop.options, "--method", method, *(["--epochs", 1] if method != "linear" else []), *more, "--out", run]
    running = start(argv, stop=(stop, 1))
    running.stands_still()
    pid = running.processes[0].pid
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (limit, resource.prlimit(pid, resource.RLIMIT_FSIZE)[1]))
    running.goes_on.set()
    assert running.ends() == [1] and re.fullmatch(r"error: .*free space or give another place\n", running.error), (
        running.error
    )
    place = (tmp_path if more else run) / name
    assert name in running.error and not place.exists() and not list(place.parent.glob(".*"))
    again = start(argv)
    assert again.ends() == [0] and place.exists(), again.error
    assert load_run(run).summary
