"""Several processes of one command, as torchrun starts them: rank, distribution of work, and a common end.

    torchrun --nproc_per_node 2 compare.py RUN RUN --out DIR

Without torchrun, every function behaves as with one process. All processes run the same program and call `all_gather`
the same number of times. A process that fails sends its failure in place of its next value, so that the others end
with the same exit status. Torch is imported only where torchrun started several processes.
"""

import gc
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")
Outcome = tuple[int, str | None]  # a command's exit status, and the line that says why
INTERRUPTED = 130
TIMEOUT = timedelta(hours=12)  # a process waits while another downloads or draws
_SINGLE: ContextVar[bool] = ContextVar("single", default=False)


@dataclass(frozen=True)
class _Failure:
    """What a process that cannot go on sends in place of a value."""

    status: int
    line: str | None


class _Ended(Exception):
    """This process ends with the failure of itself or of another one."""

    def __init__(self, failure: _Failure, connected: bool) -> None:
        super().__init__(failure.line)
        self.failure, self.connected = failure, connected


def started_by_torchrun() -> bool:
    """Tell whether torchrun started this process beside others."""
    return "TORCHELASTIC_RUN_ID" in os.environ and int(os.environ.get("WORLD_SIZE", 1)) > 1


def count() -> int:
    """Return the number of processes that share the work."""
    return _distributed().get_world_size() if _shared() else 1


def rank() -> int:
    """Return this process's number among them; 0 is the one that writes and prints."""
    return _distributed().get_rank() if _shared() else 0


def _shared() -> bool:
    return _connected() and not _SINGLE.get()


def _connected() -> bool:
    distributed = sys.modules.get("torch.distributed")  # `run` imports it where torchrun started several processes
    return distributed is not None and distributed.is_initialized()


@contextmanager
def single_process() -> Iterator[None]:
    """Run the block as a command of one process, which waits for no other; its GPU stays its own."""
    before = _SINGLE.set(True)
    try:
        yield
    finally:
        _SINGLE.reset(before)


def _distributed():
    from torch import distributed

    return distributed


def local_rank() -> int:
    """Return this process's number on its machine, which is the number of its GPU."""
    return int(os.environ["LOCAL_RANK"]) if _connected() else 0


def all_gather(value: Any) -> list:
    """Return every process's value (anything that pickles), in the order of ranks, on all of them."""
    if count() == 1:
        return [value]
    values: list = [None] * count()
    try:
        _distributed().all_gather_object(values, value)
    except RuntimeError as error:  # the other end is gone
        line = (
            f"error: one of the {count()} processes has died, perhaps because memory was full; its message is "
            f"above, and fewer processes need less memory"
        )
        raise _Ended(_Failure(1, line), connected=False) from error
    if failures := [other for other in values if isinstance(other, _Failure)]:
        raise _Ended(failures[0], connected=True)
    return values


def on_main_process(find: Callable[[], Result]) -> Result:
    """Return on all processes what `find` returns on the first, the only one that calls it."""
    return all_gather(find() if rank() == 0 else None)[0]


@contextmanager
def main_process_first() -> Iterator[None]:
    """Run the block on the first process, then on the others, which find what the first has downloaded."""
    if rank() != 0:
        all_gather(None)
    yield
    if rank() == 0:
        all_gather(None)


def distribute(tasks: Sequence[Task], work: Callable[[Sequence[Task]], Iterable[Result]]) -> Iterator[Result]:
    """Yield the results of all tasks in their order, on all processes, each of which does every `count`-th task.

    work: takes this process's tasks and yields a result (that pickles) for each, in order. A result is asked for when
    it is needed: one of every process is in memory at a time.
    """
    mine = iter(work(tasks[rank() :: count()]))
    for start in range(0, len(tasks), count()):
        results = all_gather(next(mine) if start + rank() < len(tasks) else None)
        yield from results[: len(tasks) - start]


def run(command: Callable[[], Outcome], several: bool = False) -> int:
    """Run a command in however many processes torchrun started; say on standard error why it failed; return its status.

    Only the first process's output is seen, but for the traceback of an unforeseen exception. A command that does not
    share its work (`several`) is refused in more than one process. Ctrl-C reaches every process, so none tells another.
    """
    if not started_by_torchrun():
        status, line = command()
        _print_error(line)
        return status
    import torch

    # Its functions' default arguments are the group of the moment, which they would keep, with its threads, for good.
    import torch.distributed.nn.functional
    from torch import distributed

    # gloo carries what `all_gather` sends, whatever the device; nccl is for tensors on GPUs.
    distributed.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=TIMEOUT)
    try:
        with _silent_unless_first():
            status, line = _outcome(command) if several else _refused()
            if status != INTERRUPTED:
                all_gather(_Failure(status, line) if status else None)
        _print_error(line)
        return status
    except _Ended as ended:
        _print_error(ended.failure.line)
        if ended.connected:  # torchrun stops all as soon as one has left with a status: first, all is said
            distributed.all_gather_object([None] * count(), None)
        return ended.failure.status
    finally:
        gc.collect()  # a model's wrapper may still hold the group: its threads must end before the interpreter does
        distributed.destroy_process_group()


def _outcome(command: Callable[[], Outcome]) -> Outcome:
    try:
        return command()
    except SystemExit as stop:  # of the argument parser, which has said why
        return int(stop.code or 0), None


def _refused() -> Outcome:
    return 2, (
        f"error: torchrun started {count()} processes, and this command runs in one; start it with python, "
        f"without torchrun"
    )


def _print_error(line: str | None) -> None:
    if line and rank() == 0:
        print(line, file=sys.stderr)


@contextmanager
def _silent_unless_first() -> Iterator[None]:
    if rank() == 0:
        yield
    else:
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
            yield
