"""Run a Python script in a process of its own; return its time, its memory and what it printed."""

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.errors import ExplainedError

ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}


@dataclass(frozen=True)
class Finished:
    """A finished process.

    status: exit status.
    cpu_seconds: CPU time of the process.
    wall_seconds: time from its start to its end.
    peak: peak memory in bytes.
    output: standard output.
    errors: standard error.
    """

    status: int
    cpu_seconds: float
    wall_seconds: float
    peak: int
    output: str
    errors: str


def run_python(
    arguments: Sequence[object], environment: Mapping[str, str] | None = None, folder: Path | None = None
) -> Finished:
    """Run Python with arguments, and wait for it.

    arguments: what follows `python` on the command line.
    environment: environment variables; None takes those of this process.
    folder: working directory; None takes that of this process.
    """
    command = [sys.executable, *map(str, arguments)]
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=out, stderr=err, env=environment, cwd=folder)
        _, status, usage = os.wait4(process.pid, 0)  # resources of this process, not of all children
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        output, errors = (file.seek(0) or file.read() for file in (out, err))
    return Finished(process.returncode, usage.ru_utime + usage.ru_stime, seconds, peak_bytes(usage), output, errors)


def check_status(finished: Finished, arguments: Sequence[object], expected: int = 0) -> None:
    """Raise ExplainedError, with the last line of standard error, where a process ended with another exit status."""
    if finished.status != expected:
        last = (finished.errors.strip() or "-").splitlines()[-1]
        raise ExplainedError(
            f"python {' '.join(map(str, arguments))} ended with status {finished.status}, expected {expected}: {last}"
        )


def peak_bytes(usage: resource.struct_rusage) -> int:
    """Return the peak memory of a process in bytes."""
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
