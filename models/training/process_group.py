"""Which of several processes this is, and how they tell one another: the work of a fit or a cache is dealt out by
it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Share:
    """This process's number among `count`, and how it sends all a value (that pickles) and gets everyone's, in order.

    All processes call `exchange` the same number of times. Alone, a process gets back what it sends.
    """

    rank: int = 0
    count: int = 1
    exchange: Callable[[Any], list] = lambda value: [value]

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and reports."""
        return self.rank == 0


ALONE = Share()
