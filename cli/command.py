"""Run a command: parse, call, and turn errors that the user can mend into one line and an exit status."""

import argparse
import os
import sys
import warnings
from collections.abc import Callable, Sequence

from common import processes
from common.errors import ExplainedError, out_of_memory

CONTINUES = "run the same command to resume from the last saved state"
Main = Callable[[argparse.Namespace], None]


def run(
    main: Main,
    arguments: argparse.ArgumentParser,
    argv: Sequence[str] | None = None,
    several: bool = False,
    interrupted: str = CONTINUES,
) -> int:
    """Parse the command line, call `main`, and return the exit status.

    main: takes the parsed arguments; raises ExplainedError or UsageError for what it refuses.
    arguments: the command's parser.
    argv: the command line; None takes the process's own.
    several: whether the command shares its work among the processes that torchrun starts; others refuse more than one.
    interrupted: what Ctrl-C leaves behind, for the line that is printed then.
    """
    return processes.run(lambda: _run(main, arguments, argv, interrupted), several)


def _run(main: Main, arguments: argparse.ArgumentParser, argv: Sequence[str] | None, interrupted: str):
    warnings.filterwarnings("ignore", category=FutureWarning)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(line_buffering=True)  # a log file shows each line as it comes
    args: argparse.Namespace | None = None
    try:
        args = arguments.parse_args(argv)
        main(args)
        if sys.stdout is not None:  # as it is where a shell closed it: `>&-`
            sys.stdout.flush()
    except ExplainedError as error:
        return error.exit_status, f"error: {error}"
    except KeyboardInterrupt:
        return processes.INTERRUPTED, f"interrupted; {interrupted}"
    except BrokenPipeError:  # `... | head` closed our output, which is not a failure
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return int(processes.count() > 1), None  # others may be waiting for what comes next
    except OSError as error:
        return 1, (f"error: {error.filename or 'a file'}: {error.strerror or error}; free space or give another place")
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error) or processes.count() > 1:  # others may wait for its gradients: torchrun ends them
            raise
        what, *_ = (str(error) or "of this machine").splitlines()
        return 1, f"error: memory is full ({what}); {_less_memory(args)}"
    return 0, None


def _less_memory(args: argparse.Namespace | None) -> str:
    """Return what to do where memory is full, by the options that the command has."""
    given = {} if args is None else vars(args)
    if given.get("method", "linear") != "linear":
        return "give --accumulate 2, or more, to take a batch in parts, and another --out; or --device cpu"
    if "batch_size" in given and "method" not in given:
        return "give a smaller --batch-size, or --device cpu"
    return "give --device cpu, or a smaller model"
