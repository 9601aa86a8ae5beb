"""Errors that a command explains in one line, and how an out-of-memory error is recognised. Imports no torch."""

import sys
import textwrap


class ExplainedError(Exception):
    """A failure whose message says what was given, what was expected and what to do next; exit status 1."""

    exit_status = 1


class UsageError(ExplainedError):
    """A request that cannot be carried out as it was made; exit status 2."""

    exit_status = 2


def out_of_memory(error: Exception) -> bool:
    """Tell whether an error says that the memory of a device, or of this machine, is full."""
    torch = sys.modules.get("torch")  # without it, no error of its kind exists
    kinds = (MemoryError,) if torch is None else (MemoryError, torch.OutOfMemoryError)
    said = ("out of memory", "can't allocate memory", "ALLOC_FAILED")  # mps, the CPU and cuBLAS have no class for it
    return isinstance(error, kinds) or any(words in str(error) for words in said)


def in_one_line(error: Exception) -> str:
    """Return an error as one line of at most 300 characters; torch lists every parameter."""
    return textwrap.shorten(f"{type(error).__name__}: {error}", 300)
