"""Write files so that a killed or failing program never leaves half of one under its real name."""

import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from common.errors import ExplainedError


@contextmanager
def atomic(path: str | os.PathLike, flush: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it into place when the block ends well.

    The temporary name keeps the suffix, because many writers choose their format by it. The block may
    create a file or a folder under it. If the block raises, what it wrote is removed and `path` keeps
    what it held before. Missing parent folders are made. Raises OSError as the file system does.
    flush: wait until the disk has it all; not needed for what is checked before it is used.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    _remove(temporary)
    try:
        yield temporary
        if flush:
            _flush(temporary, path)
        if temporary.is_dir() and path.is_dir():
            _remove(path)  # rename() replaces a file but not a folder that holds something
        os.replace(temporary, path)
    finally:
        _remove(temporary)


def check_writable(folder: Path | None, option: str = "--out") -> None:
    """Raise ExplainedError where a folder cannot be made or written to; leave it as it was found.

    folder: the folder, which need not exist; None is always fine.
    option: the command-line option that names it, for the message.
    """
    if folder is None:
        return
    made = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".writable.{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ExplainedError(f"cannot write to {folder} ({error.strerror}); give another {option}") from error
    finally:
        for parent in made:  # innermost first
            with suppress(OSError):  # another process may have begun to use it
                parent.rmdir()


def remove_leftovers(folder: Path, age: float = 0.0) -> None:
    """Remove what `atomic` left below a folder when its process was killed in the middle; what a living one writes
    stays.

    age: seconds since it was last written to, at least; for folders that several machines share, as only this one's
    processes are known.
    """
    for path in list(folder.rglob(".*")):
        name = re.fullmatch(r"\..+\.(\d+)(\.[^.]+)?", path.name)
        if name and not _lives(int(name[1])) and _seconds_since(path) >= age:
            _remove(path)


def _flush(written: Path, path: Path) -> None:
    """Wait until the disk has what was written: some say only now that they are full, and power may fail after a
    rename."""
    try:
        for file in [written] if written.is_file() else filter(Path.is_file, written.rglob("*")):
            with open(file, "rb+") as opened:
                os.fsync(opened.fileno())
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def _seconds_since(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:  # another process has just removed it
        return 0.0


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
