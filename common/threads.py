"""Torch's CPU threads: how many, and whether they spin while they wait. Called before torch is imported.

Torch's OpenMP threads spin between two parallel regions. That is fast while cores are idle, and it collapses when other
processes need the cores: `benchmarks/threads.py` measures both. So the wait policy is chosen once, at the start, by the
load that other processes put on the machine. The number of threads is never chosen by the load, because it changes the
order of sums and so the last digits of results.
"""

import os
import sys
import time
from pathlib import Path

STAT = Path("/proc/stat")
SAMPLE = 0.1  # seconds between two looks at the cores
BUSY = 0.25  # fraction of all cores' time from which the machine counts as busy
# Settings of the user that say how threads wait; with any of them, nothing is changed.
OWN = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


def prepare_threads(threads: int | None) -> None:
    """Set the number of threads, and passive waiting where other processes are busy; print a line about the latter.

    threads: the number of CPU threads; None leaves torch's own.
    """
    if threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(threads)
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(threads)
    elif "torch" not in sys.modules and not any(name in os.environ for name in OWN):
        busy = busy_fraction()
        if busy >= BUSY:
            os.environ["OMP_WAIT_POLICY"] = "passive"
            print(
                f"other processes use {busy:.0%} of this machine's cores: torch's threads wait without spinning "
                f"(OMP_WAIT_POLICY=passive); fewer may be faster: --threads 1",
                file=sys.stderr,
            )


def busy_fraction(seconds: float = SAMPLE) -> float:
    """Return the fraction of all cores' time that processes used in the next `seconds`; 0 where that is unknown."""
    before = _times()
    if before is None:
        return 0.0
    time.sleep(seconds)
    after = _times()
    if after is None or after[1] <= before[1]:
        return 0.0
    return (after[0] - before[0]) / (after[1] - before[1])


def _times() -> tuple[int, int] | None:
    """Return the busy and the total time of all cores since the start of the machine, in clock ticks."""
    try:
        fields = [int(field) for field in STAT.read_text().split("\n", 1)[0].split()[1:9]]
    except (OSError, ValueError):
        return None
    idle = fields[3] + fields[4]  # idle, and idle while waiting for disks
    return sum(fields) - idle, sum(fields)
