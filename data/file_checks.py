"""Cache of the checks of image files, so that an unchanged file is not decoded again."""

import hashlib
import json
from collections.abc import Collection
from pathlib import Path

import PIL

from common.files import atomic
from data.images import BROKEN_IMAGE, open_image

FORMAT = 1  # increase when the stored fields change, or what this code accepts as a complete image
UNREADABLE = "unreadable"

# Size in bytes, time of the last change (ns), and the content's SHA-256 or UNREADABLE.
Entry = tuple[int, int, str]


class FileChecks:
    """Whether each image file of a folder can be decoded, and its SHA-256.

    A file is read where its size or time of change differs from the cached one. A change that keeps both, to the
    nanosecond, is missed, as by make and rsync.

    folder: the folder with the images.
    cache: folder of the cache; None reads every file.
    """

    def __init__(self, folder: Path, cache: Path | None) -> None:
        self.folder = folder
        resolved = folder.resolve().as_posix()
        # What can be decoded depends on Pillow: checks by another version are not used.
        self.about = {"format": FORMAT, "folder": resolved, "pillow": PIL.__version__}
        mark = hashlib.sha256(resolved.encode(errors="surrogateescape")).hexdigest()[:24]
        self.path = None if cache is None else cache / f"scan-{mark}.json"
        self.cached = self._read()
        self.checked: dict[str, Entry] = {}

    def digest(self, path: Path) -> str | None:
        """Return a file's SHA-256; None where it is not a complete image. May be called by several threads at once.

        path: a file below the folder.
        """
        name = path.relative_to(self.folder).as_posix()
        try:
            status = path.stat()  # before the content: a file that changes meanwhile is read again next time
            state = (status.st_size, status.st_mtime_ns)
            entry = (self.cached or {}).get(name)
            if entry is None or entry[:2] != state:
                entry = (*state, _digest(path.read_bytes()))
        except OSError:
            return None  # disk or permissions, which can be repaired without a change of the file: not cached
        self.checked[name] = entry
        return None if entry[2] == UNREADABLE else entry[2]

    def save(self, scanned: Collection[str]) -> None:
        """Write the checks, if any is new. Raises OSError as the file system does.

        scanned: names of the subfolders that were checked; the cached checks of other subfolders are kept.
        """
        if self.path is None:
            return
        kept = {name: entry for name, entry in (self.cached or {}).items() if name.split("/")[0] not in scanned}
        files = kept | self.checked
        if files != self.cached:
            text = json.dumps(self.about | {"files": dict(sorted(files.items()))}, separators=(",", ":"))
            with atomic(self.path) as temporary:
                temporary.write_text(text, encoding="utf-8")

    def _read(self) -> dict[str, Entry] | None:
        """Return the cached checks; None where there are none, or none that can be used."""
        if self.path is None or not self.path.is_file():
            return None
        try:
            content = json.loads(self.path.read_bytes())
            if any(content[key] != value for key, value in self.about.items()):
                return None  # undamaged, but of another folder or version
            return {name: _entry(*fields) for name, fields in content["files"].items()}
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            print(f"the cached file checks {self.path} are damaged; checking {self.folder} again")
            return None


def _digest(content: bytes) -> str:
    try:
        open_image(content)
    except BROKEN_IMAGE:
        return UNREADABLE
    return hashlib.sha256(content).hexdigest()


def _entry(size: object, changed: object, digest: object) -> Entry:
    """Return an entry read from JSON; raises TypeError or ValueError where it is not one."""
    if type(size) is not int or type(changed) is not int or not isinstance(digest, str):
        raise TypeError("expected two whole numbers and a text")
    if digest != UNREADABLE and len(bytes.fromhex(digest)) != 32:
        raise ValueError("expected a SHA-256")
    return size, changed, digest
