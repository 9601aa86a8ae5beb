"""Write safetensors files whole or not at all, and compare the names of parameters before loading."""

from collections.abc import Iterator, Set
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from common.files import atomic


def write_tensors(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file, whole or not at all. Raises OSError."""
    with atomic_tensors(path) as temporary:
        save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, temporary, metadata=metadata)


@contextmanager
def atomic_tensors(path: Path) -> Iterator[Path]:
    """Yield a temporary path as `atomic` does; a write error of safetensors becomes an OSError, as elsewhere."""
    try:
        with atomic(path) as temporary:
            yield temporary
    except SafetensorError as error:
        if "I/O error" in str(error) or "IoError" in str(error):
            raise OSError(None, str(error).split(":", 1)[-1].strip(), str(path)) from error
        raise


def check_names(expected: Set[str], found: Set[str]) -> None:
    """Raise ValueError where two sets of parameter names differ, naming some that are missing or unknown."""
    if expected != found:
        raise ValueError(f"parameters missing: {sorted(expected - found)[:3]}, unknown: {sorted(found - expected)[:3]}")
