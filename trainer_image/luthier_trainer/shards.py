"""Token shards: rows flat in one safetensors file, written by streaming and read by memory map.

A shard holds `input_ids` and `labels` (int32, all rows end to end) and `offsets` (int64, rows + 1 entries). Rows wait
in spool files until the longest allowed length is known, so memory holds a few numbers a row, not its tokens.
No torch here.
"""

from __future__ import annotations

import json
import shutil
import struct
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Literal, Self

from luthier_trainer.files import sync
from luthier_trainer.template import Tokens

Split = Literal["train", "validation", "test"]
_INT32 = "i"
_COPY_BYTES = 1 << 20


class Spool:
    """Rows in the order they came, on disk; opened for one pass of writing and one of reading."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.lengths = array(_INT32)
        self._ids = (folder / "ids").open("w+b")
        self._labels = (folder / "labels").open("w+b")

    def add(self, tokens: Tokens) -> int:
        """Append a row; return its number."""
        self._ids.write(_little_endian(tokens.ids))
        self._labels.write(_little_endian(tokens.labels))
        self.lengths.append(len(tokens.ids))
        return len(self.lengths) - 1

    def write_shard(self, path: Path, rows: Sequence[int]) -> None:
        """Write these rows as a shard, without holding more than one in memory."""
        starts = _starts(self.lengths)
        lengths = [self.lengths[row] for row in rows]
        offsets = array("q", _starts(lengths))
        total = 4 * sum(lengths)
        with path.open("wb") as file:
            file.write(
                _header({"offsets": ("I64", 8 * len(offsets)), "input_ids": ("I32", total), "labels": ("I32", total)})
            )
            file.write(_bytes_of(offsets))
            for source in (self._ids, self._labels):
                source.flush()
                for row in rows:
                    _copy(source, 4 * starts[row], 4 * self.lengths[row], file)
        sync(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Close and delete the spool files, after an error too: a full disk gets its space back."""
        self._ids.close()
        self._labels.close()
        shutil.rmtree(self.folder)


def _little_endian(numbers: Sequence[int]) -> bytes:
    return _bytes_of(array(_INT32, numbers))


def _bytes_of(numbers: array[int]) -> bytes:
    if struct.pack("=h", 1) != struct.pack("<h", 1):
        numbers = array(numbers.typecode, numbers)
        numbers.byteswap()
    return numbers.tobytes()


def _starts(lengths: Sequence[int]) -> list[int]:
    starts = [0]
    for length in lengths:
        starts.append(starts[-1] + length)
    return starts


def _header(tensors: dict[str, tuple[str, int]]) -> bytes:
    """Return a safetensors header; tensors lie in this order, 64-bit ones first so that all are aligned."""
    entries: dict[str, object] = {}
    position = 0
    for name, (dtype, size) in tensors.items():
        width = 8 if dtype == "I64" else 4
        entries[name] = {"dtype": dtype, "shape": [size // width], "data_offsets": [position, position + size]}
        position += size
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _copy(source: IO[bytes], start: int, size: int, target: IO[bytes]) -> None:
    source.seek(start)
    while size > 0:
        piece = source.read(min(size, _COPY_BYTES))
        target.write(piece)
        size -= len(piece)
