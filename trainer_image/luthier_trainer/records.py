"""Records of a data file, one after the other, in bounded memory: JSON lines, a JSON array, CSV; each plain or gzip.

A record is whatever stands on a line, in an element or in a CSV row; what it means is `rows`' business. Every refusal
names file and line. What makes the rest of a file unreadable ends it.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import itertools
import json
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any, cast

MAX_LINE_BYTES = 16 << 20
"""Of a line, a CSV cell or an element of an array."""
_CHUNK = 1 << 16
_SPACE = re.compile(r"[ \t\r\n]*")
_DELIMITERS = ",;\t"
_GZIP_MAGIC = b"\x1f\x8b"
_NOT_READ = {
    b"PAR1": "Parquet is not read yet; export the table as JSON lines or CSV",
    b"PK\x03\x04": "a zip archive (or an Excel file) is not read; unpack it, or export the sheet as CSV",
}
_BOMB_BYTES = 64 << 20
_BOMB_RATIO = 300
"""Text shrinks five to thirty times; gzip's limit is a thousand."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a record stands."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


class RowError(Exception):
    """One row is wrong; the text says what is allowed."""

    def __init__(self, place: Place, problem: str, *, ends_file: bool = False) -> None:
        super().__init__(f"{place}: {problem}")
        self.place = place
        self.problem = problem
        self.ends_file = ends_file
        """The rest of the file could not be read, so leaving out this row is not enough."""


Record = tuple[Place, Any]
"""A place and a JSON value, or the `RowError` that stands for it."""


def read_records(file: IO[bytes], name: str) -> Iterator[Record]:
    """Yield each record of an open file; `name` is what errors call it, and its ending tells JSON from CSV."""
    place = Place(file=name, line=1)
    head = file.read(4)
    file.seek(0)
    if head in _NOT_READ:
        yield place, RowError(place, _NOT_READ[head], ends_file=True)
    elif not head.startswith(_GZIP_MAGIC):
        yield from _read_plain(file, name)
    else:
        with gzip.GzipFile(fileobj=file) as unpacked:
            yield from _read_gzip(unpacked, file, name)


def _read_gzip(unpacked: gzip.GzipFile, packed: IO[bytes], name: str) -> Iterator[Record]:
    place = Place(file=name, line=1)
    try:
        for place, record in _read_plain(cast("IO[bytes]", unpacked), name):
            size = unpacked.tell()
            if size > _BOMB_BYTES and size > _BOMB_RATIO * packed.tell():
                problem = f"unpacks to more than {_BOMB_RATIO} times its size; give the data unpacked if it is real"
                yield place, RowError(place, problem, ends_file=True)
                return
            yield place, record
    except (EOFError, gzip.BadGzipFile, zlib.error):
        yield place, RowError(place, "the gzip file is cut off or damaged after this; copy it again", ends_file=True)


def _read_plain(file: IO[bytes], name: str) -> Iterator[Record]:
    stem = name.removesuffix(".gz")
    if stem.endswith((".csv", ".tsv")):
        return _read_csv(file, name)
    if stem.endswith((".jsonl", ".ndjson")):
        return _read_lines(file, name)
    # Of other files the first character tells: an array begins with a bracket, a line of JSON lines with a brace.
    head = file.read(_CHUNK)
    file.seek(0)
    return (
        _read_array(file, name) if head.removeprefix(codecs.BOM_UTF8).lstrip()[:1] == b"[" else _read_lines(file, name)
    )


# JSON lines


def _read_lines(file: IO[bytes], name: str) -> Iterator[Record]:
    for number in itertools.count(1):
        place = Place(file=name, line=number)
        line = file.readline(MAX_LINE_BYTES + 1)
        if not line:
            return
        if len(line) > MAX_LINE_BYTES:
            # The rest of the file is not read: without line ends it is no JSONL.
            yield place, _too_long(place, "line")
            return
        if line.strip():
            yield place, _parse_line(line, place)


def _too_long(place: Place, what: str) -> RowError:
    return RowError(place, f"{what} is longer than {MAX_LINE_BYTES >> 20} MiB; split the row", ends_file=True)


def _parse_line(line: bytes, place: Place) -> Any:
    try:
        return json.loads(line.decode("utf-8-sig" if place.line == 1 else "utf-8"))
    except UnicodeDecodeError as error:
        return RowError(place, f"not UTF-8 (byte {error.start + 1} of the line); save the file as UTF-8")
    except json.JSONDecodeError as error:
        return RowError(place, f"not JSON: {error.msg} at column {error.colno}; one JSON object a line")
    except RecursionError:
        return RowError(place, "JSON is nested too deep")


# A JSON array


class _Window:
    """The part of a text that is looked at: it grows at its end and is cut at its start."""

    def __init__(self, file: IO[bytes], name: str) -> None:
        self._file, self._name = file, name
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self._read = 0
        self._line, self._counted = 1, 0
        self.text, self.position, self.is_whole = "", 0, False

    def grow(self) -> None:
        """Read on, at least as much as is looked at: a long element is tried a few times, not often."""
        data = self._file.read(max(_CHUNK, len(self.text) - self.position))
        pending = len(self._decoder.getstate()[0])
        self.place()
        self._counted = 0
        kept = self.text[self.position :]
        try:
            self.text, self.position = kept + self._decoder.decode(data, final=not data), 0
        except UnicodeDecodeError as error:
            self.text, self.position = kept, 0
            byte = self._read - pending + error.start + 1
            problem = f"not UTF-8 (byte {byte} of the file); save the file as UTF-8"
            raise RowError(self.place(), problem, ends_file=True) from None
        self._read += len(data)
        self.is_whole = not data

    def place(self, position: int | None = None) -> Place:
        """Return where the next character stands, or one further on; lines are counted once."""
        self._line += self.text.count("\n", self._counted, self.position)
        self._counted = self.position
        further = self.text.count("\n", self.position, position) if position is not None else 0
        return Place(file=self._name, line=self._line + further)

    def next_character(self) -> str:
        """Return the next one that is no white space; nothing at the end."""
        while True:
            self.position = cast("re.Match[str]", _SPACE.match(self.text, self.position)).end()
            if self.position < len(self.text):
                return self.text[self.position]
            if self.is_whole:
                return ""
            self.grow()


def _read_array(file: IO[bytes], name: str) -> Iterator[Record]:
    window = _Window(file, name)
    try:
        window.next_character()
        window.position += 1
        while window.next_character() != "]":
            place = window.place()
            yield place, _next_element(window)
            if (after := window.next_character()) == ",":
                window.position += 1
            elif after != "]":
                raise _cut_off(window, "a comma or ] must follow the element")
        window.position += 1
        if window.next_character():
            raise RowError(window.place(), "there is more after the array's end; one array a file", ends_file=True)
    except RowError as error:
        yield error.place, error


def _next_element(window: _Window) -> Any:
    decoder = json.JSONDecoder()
    while True:
        try:
            value, end = decoder.raw_decode(window.text, window.position)
        except json.JSONDecodeError as error:
            if window.is_whole:
                raise _cut_off(window, f"not JSON: {error.msg}", error.pos) from None
        except RecursionError:
            raise RowError(window.place(), "JSON is nested too deep", ends_file=True) from None
        else:
            # A number at the window's end may go on.
            if end < len(window.text) or window.is_whole:
                window.position = end
                return value
        if len(window.text) - window.position > MAX_LINE_BYTES:
            raise _too_long(window.place(), "an element of the array, or what is broken in it,")
        window.grow()


def _cut_off(window: _Window, problem: str, position: int | None = None) -> RowError:
    at_end = position if position is not None else window.position
    what = "the array is cut off" if at_end >= len(window.text.rstrip()) else problem
    return RowError(window.place(position), f"{what}; the file must be one JSON array of objects", ends_file=True)


# CSV


def _read_csv(file: IO[bytes], name: str) -> Iterator[Record]:
    csv.field_size_limit(MAX_LINE_BYTES)
    table = _DecodedLines(file, name)
    lines = iter(table)
    place = Place(file=name, line=1)
    try:
        first = next(lines, "")
        delimiter = max(_DELIMITERS, key=first.count)
        reader = csv.reader(itertools.chain([first], lines), delimiter=delimiter, strict=True)
        header = [cell.strip() for cell in next(reader, [])]
        if not all(header) or len(set(header)) < len(header):
            raise RowError(place, "the first line must name each column once", ends_file=True)
        while True:
            place = Place(file=name, line=reader.line_num + 1)
            table.begin_row()
            cells = next(reader, None)
            if cells is None:
                return
            if len(cells) == len(header):
                yield place, dict(zip(header, cells, strict=True))
            elif cells:
                problem = f"{len(cells)} cells, and the header has {len(header)}; quote cells that hold a {delimiter!r}"
                yield place, RowError(place, problem)
    except csv.Error as error:
        yield place, RowError(place, f"not CSV: {error}; look for a quote that is not closed", ends_file=True)
    except RowError as error:
        yield error.place, error


class _DecodedLines:
    """The lines of a table as text. A row may take several of them, but not the whole file: a quote may be open."""

    def __init__(self, file: IO[bytes], name: str) -> None:
        self._file, self._name = file, name
        self._number, self._row_bytes = 0, 0

    def begin_row(self) -> None:
        self._row_bytes = 0

    def __iter__(self) -> Iterator[str]:
        while line := self._file.readline(MAX_LINE_BYTES + 1):
            self._number += 1
            self._row_bytes += len(line)
            place = Place(file=self._name, line=self._number)
            if self._row_bytes > MAX_LINE_BYTES:
                raise _too_long(place, "a row of the table")
            try:
                yield line.decode("utf-8-sig" if self._number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                problem = f"not UTF-8 (byte {error.start + 1} of the line); save the file as UTF-8"
                raise RowError(place, problem, ends_file=True) from None
