"""Files of every kind give the same records; what is broken is named by file and line, in bounded memory."""

from __future__ import annotations

import gzip
import io
import json
import tracemalloc

import pytest

from luthier_trainer import records
from luthier_trainer.records import RowError, read_records

ROWS = [{"prompt": f"q{n}", "completion": "a, b\nc" if n == 1 else "ä"} for n in range(3)]
FILES = {
    "a.jsonl": "\n".join(map(json.dumps, ROWS)).encode(),
    "a.json": json.dumps(ROWS, indent=1, ensure_ascii=False).encode(),
    "lines.json": "\n".join(map(json.dumps, ROWS)).encode(),
    "a.csv": 'prompt,completion\r\nq0,ä\r\nq1,"a, b\nc"\r\n\r\nq2,ä\r\n'.encode(),
    "semicolons.csv": 'prompt;completion\nq0;ä\nq1;"a, b\nc"\nq2;ä\n'.encode("utf-8-sig"),
    "a.tsv": 'prompt\tcompletion\nq0\tä\nq1\t"a, b\nc"\nq2\tä\n'.encode(),
}


def read(name: str, data: bytes) -> list[tuple[int, object]]:
    return [(place.line, record) for place, record in read_records(io.BytesIO(data), name)]


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("name", FILES)
def test_every_kind_of_file_gives_the_same_records(name, packed):
    data = FILES[name]
    found = read(f"{name}.gz", gzip.compress(data)) if packed else read(name, data)
    assert [record for _, record in found] == ROWS


@pytest.mark.parametrize(("name", "lines"), [("a.jsonl", [1, 2, 3]), ("a.json", [2, 6, 10]), ("a.csv", [2, 3, 6])])
def test_records_stand_at_the_line_where_they_begin(name, lines):
    assert [line for line, _ in read(name, FILES[name])] == lines


LONG = '[{"p": "x"}, {"p": "' + "y" * 200_000 + '"}, 12345]'


@pytest.mark.parametrize("chunk", [1, 7, 1 << 16])
def test_an_array_is_the_same_whatever_the_size_of_reads(monkeypatch, chunk):
    monkeypatch.setattr(records, "_CHUNK", chunk)
    assert [record for _, record in read("a.json", LONG.encode())] == json.loads(LONG)
    assert [record for _, record in read("a.json", FILES["a.json"])] == ROWS


@pytest.mark.parametrize(
    ("name", "data", "problem"),
    [
        pytest.param("a.json", b'[{"p": 1}, {"p"', ":1: the array is cut off", id="array cut in an element"),
        pytest.param("a.json", b'[{"p": 1},\n', ":2: the array is cut off", id="array cut after a comma"),
        pytest.param("a.json", b'[{"p": 1}\n{"p": 2}]', ":2: a comma or ] must follow", id="no comma"),
        pytest.param("a.json", b'[{"p": 1},\n\n{p: 2}]', ":3: not JSON: Expecting property name", id="no JSON"),
        pytest.param("a.json", b'[{"p": 1}]\n[2]', ":2: there is more after the array's end", id="two arrays"),
        pytest.param("a.json", b'[{"p": "\n\xff"}]', r":1: not UTF-8 \(byte 10 of the file\)", id="array encoding"),
        pytest.param("a.json", b'[{"p": 1}, ' + b"[" * 200_000, "nested too deep", id="nesting bomb"),
        pytest.param("a.csv", b"p,c\n1,2\n3\n", ":3: 1 cells, and the header has 2", id="cells missing"),
        pytest.param("a.csv", b"p,p\n1,2\n", ":1: the first line must name each column once", id="header twice"),
        pytest.param("a.csv", b"p,\n1,2\n", ":1: the first line must name each column once", id="header empty"),
        pytest.param("a.csv", b'p,c\n1,"2\n3,4\n', ":2: not CSV: .* a quote that is not closed", id="open quote"),
        pytest.param("a.csv", b"p,c\n1,\xe4\n", r":2: not UTF-8 \(byte 3 of the line\)", id="csv encoding"),
        pytest.param("a.parquet", b"PAR1....", "Parquet is not read yet", id="parquet"),
        pytest.param("a.xlsx", b"PK\x03\x04....", "zip archive", id="zip"),
        pytest.param("a.jsonl.gz", gzip.compress(b'{"p": 1}\n' * 999)[:-12], "cut off or damaged", id="gzip cut"),
        pytest.param("a.jsonl.gz", gzip.compress(b"{}\n")[:-8] + b"\0" * 8, "cut off or damaged", id="gzip checksum"),
    ],
)
@pytest.mark.row(69)
def test_a_broken_file_is_refused_by_line_and_cause(name, data, problem):
    *_, (_, last) = read(name, data)
    assert isinstance(last, RowError)
    assert (name, "cells" in problem) == (last.place.file, not last.ends_file)
    with pytest.raises(RowError, match=problem):
        raise last


def test_rows_before_the_broken_part_are_read():
    found = read("a.json", b'[{"p": 1}, {"p": 2}, {')
    assert [record for _, record in found[:-1]] == [{"p": 1}, {"p": 2}]


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.json.gz", "a.csv.gz"])
@pytest.mark.row(69)
def test_a_gzip_bomb_is_refused_in_bounded_memory(monkeypatch, name):
    monkeypatch.setattr(records, "MAX_LINE_BYTES", 1 << 20)
    start = {"a.json.gz": b'[{"p": "', "a.csv.gz": b'p\n"', "a.jsonl.gz": b'{"p": "'}[name]
    bomb = gzip.compress(start + b"0" * (100 << 20))
    tracemalloc.start()
    *_, (_, last) = read(name, bomb)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert isinstance(last, RowError)
    assert last.ends_file
    assert peak < 24 << 20


@pytest.mark.row(69)
def test_a_bomb_of_short_rows_is_refused_by_its_ratio(monkeypatch):
    monkeypatch.setattr(records, "_BOMB_BYTES", 1 << 18)
    *_, (_, last) = read("a.jsonl.gz", gzip.compress(b'{"p": 1}\n' * 150_000))
    assert "unpacks to more than 300 times its size" in str(last)


@pytest.mark.parametrize("row", [b'1,"' + b"x\n" * 60_000, b"1" + b',"\n"' * 30_000], ids=["one cell", "many cells"])
@pytest.mark.row(69)
def test_a_row_of_a_table_that_does_not_end_is_refused(monkeypatch, row):
    monkeypatch.setattr(records, "MAX_LINE_BYTES", 100_000)
    *_, (_, last) = read("a.csv", b"p,c\n" + row)
    assert "a row of the table is longer than" in str(last)
    assert last.place.line < 51_000, "read to its end"
