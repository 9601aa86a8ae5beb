"""What earlier scans of a folder found, so that a file that did not change is not decoded again."""

import hashlib
import json
from collections.abc import Collection
from pathlib import Path

import PIL

from common.files import atomic
from data.images import BROKEN_IMAGE, open_image

FORMAT = 1  # counts on when what is stored changes, or what this code takes for a whole image
UNREADABLE = "unreadable"

# Size in bytes, time of the last change (ns), and the content's SHA-256 or UNREADABLE.
Entry = list[int | str]


class Findings:
    """Whether each image file of one folder decodes, and its SHA-256: remembered in `cache`, a folder; None forgets.

    A file is read where its size or time of change is not the remembered one. A change that keeps both, to the
    nanosecond, goes unseen, as with make and rsync; without a cache every file is read.
    """

    def __init__(self, folder: Path, cache: Path | None) -> None:
        self.folder = folder
        # What decodes is for Pillow to say: findings of another version are not trusted.
        self.about = {"format": FORMAT, "folder": folder.resolve().as_posix(), "pillow": PIL.__version__}
        mark = hashlib.sha256(self.about["folder"].encode(errors="surrogateescape")).hexdigest()[:24]
        self.path = None if cache is None else cache / f"scan-{mark}.json"
        self.stored = self._read()
        self.found: dict[str, Entry] = {}

    def digest(self, path: Path) -> str | None:
        """Return the SHA-256 of a file below the folder, or None where it is no whole image. Threads may share this."""
        name = path.relative_to(self.folder).as_posix()
        try:
            status = path.stat()  # before the content: a file that changes meanwhile is read again next time
            state = [status.st_size, status.st_mtime_ns]
            entry = (self.stored or {}).get(name)
            if entry is None or entry[:2] != state:
                entry = [*state, _digest(path.read_bytes())]
        except OSError:
            return None  # the disk or its permissions, which may be mended without a change of the file: not remembered
        self.found[name] = entry
        return None if entry[2] == UNREADABLE else entry[2]

    def save(self, scanned: Collection[str]) -> None:
        """Remember what was found in the subfolders named `scanned`, and keep what is known of others.

        Writes only what is new. Raises OSError as the file system does.
        """
        if self.path is None:
            return
        kept = {name: entry for name, entry in (self.stored or {}).items() if name.split("/")[0] not in scanned}
        files = kept | self.found
        if files != self.stored:
            text = json.dumps(self.about | {"files": dict(sorted(files.items()))}, separators=(",", ":"))
            with atomic(self.path) as temporary:
                temporary.write_text(text, encoding="utf-8")

    def _read(self) -> dict[str, Entry] | None:
        """Return what is remembered; None where there is nothing, or nothing that can be used."""
        if self.path is None or not self.path.is_file():
            return None
        try:
            content = json.loads(self.path.read_bytes())
            if any(content[key] != value for key, value in self.about.items()):
                return None  # whole, but of another folder or version
            if all(_is_entry(entry) for entry in content["files"].values()):
                return content["files"]
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            pass
        print(f"the remembered scan {self.path} is damaged; reading {self.folder} again")
        return None


def _digest(content: bytes) -> str:
    try:
        open_image(content)
    except BROKEN_IMAGE:
        return UNREADABLE
    return hashlib.sha256(content).hexdigest()


def _is_entry(entry: Entry) -> bool:
    size, changed, digest = entry
    return type(size) is type(changed) is int and (digest == UNREADABLE or len(bytes.fromhex(digest)) == 32)
