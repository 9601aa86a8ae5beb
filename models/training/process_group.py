"""The processes that share a training or a computation."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ProcessGroup:
    """This process among those that share the work.

    rank: number of this process, from 0.
    count: number of processes.
    all_gather: sends a value (that pickles) to all processes and returns everyone's, in the order of ranks. All
        processes call it the same number of times; alone, a process gets back what it sends.
    """

    rank: int = 0
    count: int = 1
    all_gather: Callable[[Any], list] = lambda value: [value]

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and reports."""
        return self.rank == 0


SINGLE_PROCESS = ProcessGroup()
