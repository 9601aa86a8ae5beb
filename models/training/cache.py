"""Arrays of many rows, computed once: chunks on disk that are checked, completed and memory-mapped."""

import hashlib
import json
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.errors import ExplainedError
from common.files import atomic, remove_leftovers

CHUNK_ROWS = 256
CARD = "card.json"
LEFT_FOR = 3600.0  # seconds after which a half-written chunk is abandoned: writing one takes a few
Span = tuple[int, int]  # the rows start:stop of a chunk
Compute = Callable[[list[Span]], Iterable[dict[str, np.ndarray]]]


@dataclass(frozen=True)
class ChunkFile:
    """One array of one chunk on disk, and where it lies in its file."""

    path: Path
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype

    def array(self) -> np.ndarray:
        """Map the array into memory."""
        return np.memmap(self.path, self.dtype, "r", self.offset, self.shape)


@dataclass(frozen=True)
class Rows:
    """An array (rows, ...) in chunks of `chunk_rows` rows, in memory or on disk; the last chunk may be shorter.

    A chunk on disk is mapped when rows of it are asked for: a mapping kept open would hold a file descriptor, of which
    a process has few, and loader workers would be sent its content instead of its path.
    """

    chunks: tuple[np.ndarray | ChunkFile, ...]
    chunk_rows: int

    def __len__(self) -> int:
        return sum(chunk.shape[0] for chunk in self.chunks)

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self), *self.chunks[0].shape[1:])

    @property
    def dtype(self) -> torch.dtype:
        return torch.from_numpy(np.empty(0, self.chunks[0].dtype)).dtype

    def rows(self, indices: Sequence[int] | np.ndarray | torch.Tensor) -> torch.Tensor:
        """Return a copy of the rows of the given numbers, in that order; raises IndexError outside 0 to rows - 1."""
        indices = np.asarray(indices, dtype=np.int64)
        if ((indices < 0) | (indices >= len(self))).any():
            raise IndexError(f"rows {indices.min()} to {indices.max()} asked for, of {len(self)}")
        copied = np.empty((len(indices), *self.shape[1:]), self.chunks[0].dtype)
        order = np.argsort(indices, kind="stable")
        numbers, starts = np.unique(indices[order] // self.chunk_rows, return_index=True)
        for number, here in zip(numbers, np.split(order, starts[1:])):
            copied[here] = self._chunk(number)[indices[here] - number * self.chunk_rows]
        return torch.from_numpy(copied)

    def _chunk(self, number: int) -> np.ndarray:
        chunk = self.chunks[number]
        return chunk.array() if isinstance(chunk, ChunkFile) else chunk


class Cache:
    """Arrays of several rows each, stored under a key: in chunks on disk, or in memory.

    On disk they are `<folder>/<kind>-<digest of the key>/<array>-<start>-<stop>-<CRC-32>.npy`, beside `card.json`,
    which holds the key. The checksum covers the key, the numbers of the rows, type, shape and values, so each chunk
    proves by itself that it is complete and belongs here, whichever process wrote it.
    """

    def __init__(self, folder: Path | None, kind: str, key: dict[str, Any], rows: int, arrays: Sequence[str]) -> None:
        """Describe the arrays; nothing is read or written yet.

        folder: of all caches; None keeps the arrays in memory.
        kind: what the arrays are, for names and messages.
        key: JSON that names everything that the arrays depend on.
        rows: number of rows of each array.
        arrays: their names.
        """
        card = {"kind": kind, "key": key, "rows": rows, "arrays": list(arrays), "chunk_rows": CHUNK_ROWS}
        self.text = json.dumps(card, indent=1, sort_keys=True) + "\n"
        self.digest = hashlib.sha256(self.text.encode()).hexdigest()[:24]
        self.kind, self.arrays = kind, tuple(arrays)
        self.in_memory = folder is None
        self.path = (folder or Path()) / f"{kind}-{self.digest}"
        self.spans = [(start, min(start + CHUNK_ROWS, rows)) for start in range(0, rows, CHUNK_ROWS)]
        self.whole: dict[Span, Mapping[str, np.ndarray | ChunkFile]] = {}

    def fill(self, compute: Compute, rank: int = 0, count: int = 1) -> None:
        """Compute the chunks that are missing or damaged; rank 0 prints a line about damage.

        compute: takes the spans to compute and yields the arrays of each, in order. A chunk is written before the next
            is asked for, so an interrupted computation continues where it stopped.
        rank: number of this process; of those that share a folder, each computes every `count`-th chunk.
        count: number of processes. In memory, each computes all chunks.
        Raises ExplainedError for values that are not finite, and OSError.
        """
        if self.in_memory:
            self.whole = dict(zip(self.spans, map(self._finite, compute(self.spans)), strict=True))
            return
        self.whole = {}
        if rank == 0:
            remove_leftovers(self.path, LEFT_FOR)
        broken = self._check(self.spans)
        self._check_card([span for span in broken if broken[span]], say=rank == 0)
        missing = [span for span in self.spans[rank::count] if span not in self.whole]
        for span, arrays in zip(missing, compute(missing) if missing else (), strict=True):
            for path in broken[span]:
                path.unlink(missing_ok=True)
            self._write(span, self._finite(arrays))

    def keep(self, span: Span, arrays: dict[str, np.ndarray]) -> None:
        """Write one chunk that was computed along with something else, unless it exists; raises as `fill`."""
        for path in self._check([span]).get(span, ()):
            path.unlink(missing_ok=True)
        if span not in self.whole:
            self._check_card([], say=False)
            self._write(span, self._finite(arrays))

    def open(self) -> dict[str, Rows]:
        """Return the arrays by name, after all processes have filled; raises ExplainedError for a missing chunk."""
        missing = self._check([span for span in self.spans if span not in self.whole])
        if missing:
            raise ExplainedError(
                f"{self.path} lacks {len(missing)} of its {len(self.spans)} chunks, which were there "
                f"or should have been computed; run the command again, or with --no-cache"
            )
        return {name: Rows(tuple(self.whole[span][name] for span in self.spans), CHUNK_ROWS) for name in self.arrays}

    def _check(self, spans: list[Span]) -> dict[Span, list[Path]]:
        """Note the complete chunks among `spans`; return the others, each with its damaged files, if any."""
        listing: dict[str, list[Path]] = defaultdict(list)
        others: dict[Span, list[Path]] = {}
        for path in sorted(self.path.glob("*.npy")) if spans else ():
            listing[path.name.rpartition("-")[0]].append(path)
        for span in spans:
            whole, broken = {}, []
            for name in self.arrays:
                for path in listing[self._stem(name, span)]:
                    if (file := self._whole_file(path, name, span)) is not None:
                        whole[name] = file
                    else:
                        broken.append(path)
            if len(whole) == len(self.arrays):
                self.whole[span] = whole
            else:
                others[span] = broken
        return others

    def _check_card(self, damaged: list[Span], say: bool) -> None:
        """Print what is damaged; write the card where it is missing or differs from this cache's."""
        found, asked = self._read_card(), json.loads(self.text)
        if say and (damaged or found not in (None, asked)):
            rewritten = "" if found in (None, asked) else f", and its {CARD} is rewritten"
            print(
                f"the cache {self.path} is damaged: {len(damaged)} of its {len(self.spans)} chunks are computed "
                f"again{rewritten}"
            )
        if found != asked:
            with atomic(self.path / CARD) as temporary:
                temporary.write_text(self.text)

    def _read_card(self) -> dict | None:
        """Return the content of the card: None where there is none, {} where it cannot be read."""
        try:
            return json.loads((self.path / CARD).read_text())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError):
            return {}

    def _write(self, span: Span, arrays: dict[str, np.ndarray]) -> None:
        files = {}
        for name, array in arrays.items():
            array = np.ascontiguousarray(array)
            path = self.path / f"{self._stem(name, span)}-{self._checksum(array, name, span):08x}.npy"
            with atomic(path, flush=False) as temporary, open(temporary, "wb") as file:
                np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
                offset = file.tell()
                file.write(array.data)  # np.save would hide why a disk refuses: "5 requested and 3 written"
            files[name] = ChunkFile(path, offset, array.shape, array.dtype)
        self.whole[span] = files

    def _whole_file(self, path: Path, name: str, span: Span) -> ChunkFile | None:
        """Return a chunk's array if it can be read, has its full size and checksum, and is finite."""
        try:
            array = np.lib.format.open_memmap(path, mode="r")
            size_fits = array.offset + array.nbytes == path.stat().st_size
            checksum = f"{self._checksum(array, name, span):08x}"
        except Exception:  # numpy raises many kinds for a damaged header
            return None
        whole = size_fits and path.stem.endswith(f"-{checksum}") and _all_finite(array)
        return ChunkFile(path, array.offset, array.shape, array.dtype) if whole else None

    def _checksum(self, array: np.ndarray, name: str, span: Span) -> int:
        about = f"{self.digest} {name} {span} {array.dtype.str} {array.shape}"
        return zlib.crc32(array.data, zlib.crc32(about.encode()))

    def _finite(self, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        for array in arrays.values():
            if not _all_finite(array):
                raise ExplainedError(
                    f"the frozen part of the model gives {self.kind} that are not finite; its "
                    f"weights or an image are broken: try other weights, or --model bundled"
                )
        return arrays

    @staticmethod
    def _stem(name: str, span: Span) -> str:
        return f"{name}-{span[0]:09d}-{span[1]:09d}"


def _all_finite(array: np.ndarray) -> bool:
    if array.dtype == np.float16:  # six times as fast as numpy's: an exponent of ones is inf or NaN
        return bool(((array.view(np.uint16) & 0x7C00) != 0x7C00).all())
    return bool(np.isfinite(array).all())
