"""The two ways in which a command refuses, both with one line that says given, expected and next step; and how a full
memory is told from other errors."""

import torch


class ExplainedError(Exception):
    """Something failed for a reason that the message explains; the command exits with status 1."""

    exit_status = 1


class UsageError(ExplainedError):
    """The request itself cannot be meant; the command exits with status 2."""

    exit_status = 2


def out_of_memory(error: Exception) -> bool:
    """Tell whether an error says that a device's memory, or this machine's, is full."""
    said = ("out of memory", "can't allocate memory", "ALLOC_FAILED")  # mps, the CPU and cuBLAS have no class for it
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(words in str(error) for words in said)
