"""What a training returns, and what it calls while it runs."""

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class FitResult:
    """The history of a training and the entry that was chosen, whose weights the model holds.

    history: a row per epoch or penalty.
    chosen: number of the chosen row, from 1.
    seconds: time of training steps, waiting for images included and evaluation excluded; of a probe, the time of
        computing its features.
    waiting: seconds of it spent waiting for images.
    images_per_second: what the loader can deliver; 0 where it loaded nothing.
    """

    history: list[dict] = field(default_factory=list)
    chosen: int = 0
    seconds: float = field(default=0.0, compare=False)
    waiting: float = field(default=0.0, compare=False)
    images_per_second: float = field(default=0.0, compare=False)

    @property
    def chosen_row(self) -> dict:
        """The row of the chosen epoch or penalty."""
        return self.history[self.chosen - 1]


@dataclass(frozen=True)
class Callbacks:
    """What a training calls while it runs.

    report: called with the row of every epoch or penalty.
    keep: called with all rows so far, before a state is saved that holds them; by the first process.
    progress: whether to show a progress bar on a terminal.
    """

    report: Callable[[dict], None] = lambda row: None
    keep: Callable[[list[dict]], None] = lambda history: None
    progress: bool = False


NO_CALLBACKS = Callbacks()
