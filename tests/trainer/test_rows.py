"""Each wrong row is refused with its file, its line and what is allowed."""

from __future__ import annotations

import io
import json
import tracemalloc

import pytest

from luthier_trainer import records
from luthier_trainer.config import Source
from luthier_trainer.errors import UserError
from luthier_trainer.records import RowError, read_records
from luthier_trainer.rows import Row, parse_row, read_rows, source_files

USER = {"role": "user", "content": "q"}
ANSWER = {"role": "assistant", "content": "a"}


def parse(line: bytes, source_format: str = "Auto", **fields: str) -> Row:
    """Read line 7 of a file."""
    ((place, record),) = read_records(io.BytesIO(b"\n" * 6 + line), "pvc://data/train.jsonl")
    if isinstance(record, RowError):
        raise record
    return parse_row(record, place, Source(path="-", uri="-", format=source_format, fields=fields))


def messages(*entries: object) -> bytes:
    return json.dumps({"messages": list(entries)}).encode()


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        pytest.param(b'{"messages": [', "not JSON", id="cut off"),
        pytest.param(b"\xff\xfe", "not UTF-8", id="another encoding"),
        pytest.param(b"[1]", "must be a JSON object", id="a list"),
        pytest.param(b'{"text": "x"}', 'no known format: a row has "messages", or "prompt" and', id="neither shape"),
        pytest.param(
            b'{"prompt": "x"}', 'no known format: a row has "messages", or "prompt" and', id="half a completion"
        ),
        pytest.param(b'{"messages": "x"}', "messages must be a list", id="messages as text"),
        pytest.param(b'{"messages": []}', "messages must be a list with entries", id="no messages"),
        pytest.param(messages(USER), "no assistant message", id="nothing to learn"),
        pytest.param(messages(ANSWER, USER), "roles are assistant, user", id="answer before question"),
        pytest.param(messages(USER, USER, ANSWER), "roles are user, user", id="two questions"),
        pytest.param(messages(USER, ANSWER, USER), "roles are user, assistant, user", id="ends with a question"),
        pytest.param(
            messages(USER, {"role": "system", "content": "s"}, ANSWER), "at most one system first", id="late system"
        ),
        pytest.param(messages(USER, {"role": "bot", "content": "a"}), "allowed are system, user", id="unknown role"),
        pytest.param(messages(USER, {"role": "assistant", "content": " "}), "content is empty", id="empty answer"),
        pytest.param(messages(USER, {"role": "assistant"}), "content must be text", id="no content"),
        pytest.param(messages(USER, {**ANSWER, "weight": 1}), "allowed are role and content", id="unknown key"),
        pytest.param(messages(USER, 3), "must be an object with role and content", id="message is a number"),
        pytest.param(b'{"prompt": "p", "completion": ""}', "completion is empty", id="empty completion"),
        pytest.param(b'{"prompt": 1, "completion": "c"}', "prompt must be text, not a number", id="prompt is a number"),
        pytest.param(b'{"prompt": "\\ud800", "completion": "c"}', "surrogate", id="half a character"),
        *(
            pytest.param(b'{"messages": [], "%s": []}' % key, f"the row has {key.decode()}", id=key.decode())
            for key in (b"tools", b"functions", b"parallel_tool_calls")
        ),
        pytest.param(b"[" * 200_000, "nested too deep", id="nesting bomb"),
    ],
)
@pytest.mark.row(69)
def test_a_wrong_row_is_refused_by_place_and_cause(line, problem):
    with pytest.raises(RowError, match=problem) as caught:
        parse(line)
    assert str(caught.value).startswith("pvc://data/train.jsonl:7: ")


@pytest.mark.parametrize(("source_format", "needed"), [("Messages", '"messages"'), ("Completion", '"completion"')])
def test_a_row_of_another_format_than_declared_is_refused(source_format, needed):
    other = b'{"prompt": "p", "completion": "c"}' if source_format == "Messages" else messages(USER, ANSWER)
    with pytest.raises(RowError, match=f"format {source_format} needs .*{needed}"):
        parse(other, source_format)


def test_a_completion_is_a_conversation_in_chat_and_text_in_raw():
    row = parse(b'{"prompt": "q", "completion": "a"}')
    assert row.content("Chat") == parse(messages(USER, ANSWER)).content("Chat")
    assert row.content("Raw") == {"prompt": "q", "completion": "a"}
    assert (row.question("Chat"), row.question("Raw")) == ([USER], "q")


def test_rows_belong_together_by_what_stands_before_the_first_answer():
    system = {"role": "system", "content": "s"}
    longer = parse(messages(system, USER, ANSWER, {"role": "user", "content": "and?"}, ANSWER))
    assert longer.question("Chat") == [system, USER]


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"instruction": "Sort", "input": "b a", "output": "a b"}, ["Sort\n\nb a", "a b"]),
        ({"instruction": "Sort", "input": "", "output": "a b"}, ["Sort", "a b"]),
        ({"instruction": "Sort", "output": "a b"}, ["Sort", "a b"]),
        (
            {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
            ["q", "a"],
        ),
    ],
)
def test_other_peoples_formats_become_conversations(record, said):
    row = parse(json.dumps(record).encode())
    assert (row.kind, row.texts) == ("Messages", said)


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": "q", "chosen": "good", "rejected": "bad"},
        {"prompt": [USER], "chosen": [{**ANSWER, "content": "good"}], "rejected": [ANSWER]},
        {"chosen": [USER, {**ANSWER, "content": "good"}], "rejected": [USER, ANSWER]},
    ],
)
def test_a_preference_pair_teaches_its_chosen_answer_when_that_is_asked_for(record):
    line = json.dumps(record).encode()
    assert parse(line, "Preference").texts == ["q", "good"]
    with pytest.raises(RowError, match=r"preference pair, .* set the source's format to Preference"):
        parse(line)


@pytest.mark.parametrize(
    ("record", "problem"),
    [
        ({"prompt": "q", "chosen": "a", "rejected": "a"}, "chosen and rejected are the same"),
        ({"prompt": "q", "chosen": "a", "rejected": " "}, "rejected is empty"),
        ({"prompt": "q", "chosen": 1, "rejected": "b"}, "chosen must be text, not a number"),
        ({"chosen": "a", "rejected": "b"}, "roles are assistant"),
    ],
)
def test_a_wrong_preference_pair_is_refused(record, problem):
    with pytest.raises(RowError, match=problem):
        parse(json.dumps(record).encode(), "Preference")


def test_a_row_that_fits_two_formats_is_refused_until_one_is_named():
    line = b'{"prompt": "p", "completion": "c", "instruction": "i", "output": "o"}'
    with pytest.raises(RowError, match="the row may be Completion or Instruction; set the source's format"):
        parse(line)
    assert parse(line, "Instruction").texts == ["i", "o"]


def test_fields_name_the_keys_of_rows():
    line = b'{"question": "q", "reply": "a", "topic": "billing"}'
    row = parse(line, prompt="question", completion="reply", category="topic")
    assert (row.texts, row.category, row.format) == (["q", "a"], "billing", "Completion")
    with pytest.raises(RowError, match=r"fields\.completion is answer, and the row has no such key; it has question"):
        parse(line, prompt="question", completion="answer")


@pytest.mark.parametrize(
    "record",
    [
        {"Ada Lovelace": "x", "ada@example.org": "y"},
        {"messages": [{"role": "Ada Lovelace wrote", "content": "x"}]},
        {"messages": [{**USER, "Ada Lovelace": "x"}]},
    ],
)
def test_a_refusal_repeats_names_of_keys_and_no_text(record):
    with pytest.raises(RowError, match="…") as error:
        parse(json.dumps(record).encode())
    assert "ada" not in str(error.value).lower()


def test_other_keys_of_a_row_are_ignored():
    row = parse(b'{"prompt": "p", "completion": "c", "id": 4}')
    assert row.to_json() == {"prompt": "p", "completion": "c"}


def test_a_file_may_begin_with_a_byte_order_mark_and_have_blank_lines(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_bytes(b'\xef\xbb\xbf{"prompt": "p", "completion": "c"}\n\n  \n{"prompt": "q", "completion": "c"}')
    found = list(read_rows(Source(path=str(file), uri="pvc://d/a.jsonl")))
    assert [row.place.line for row in found if isinstance(row, Row)] == [1, 4]


@pytest.mark.row(69)
def test_one_endless_line_is_refused_in_bounded_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "MAX_LINE_BYTES", 1 << 20)
    file = tmp_path / "a.jsonl"
    with file.open("wb") as target:
        target.seek(200 << 20)
        target.write(b"\n")
    tracemalloc.start()
    found = list(read_rows(Source(path=str(file), uri="pvc://d/a.jsonl")))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [str(e) for e in found] == ["pvc://d/a.jsonl:1: line is longer than 1 MiB; split the row"]
    assert peak < 8 << 20


def test_a_folder_is_read_in_the_order_of_names(tmp_path):
    for name in ("b.jsonl", "a.jsonl", "notes.txt", "info.json"):
        (tmp_path / name).write_text("")
    found = source_files(Source(path=str(tmp_path), uri="pvc://d/set/"))
    assert [name for _, name in found] == ["pvc://d/set/a.jsonl", "pvc://d/set/b.jsonl"]


@pytest.mark.parametrize("case", ["missing", "empty folder", "link out", "pipe", "folder is a link"])
def test_a_source_that_is_no_data_is_refused(tmp_path, case):
    import os

    home = tmp_path / "claim"
    home.mkdir()
    source = home
    if case == "missing":
        source = home / "none.jsonl"
    elif case == "link out":
        (tmp_path / "secret.jsonl").write_text("{}")
        (home / "a.jsonl").symlink_to(tmp_path / "secret.jsonl")
    elif case == "folder is a link":
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "elsewhere" / "a.jsonl").write_text("{}")
        source = home / "set"
        source.symlink_to(tmp_path / "elsewhere")
    elif case == "pipe":
        os.mkfifo(home / "a.jsonl")
    with pytest.raises(UserError, match="pvc://d/x") as caught:
        source_files(Source(path=str(source), uri="pvc://d/x"))
    assert caught.value.field == "dataset.sources"


def test_a_folder_may_be_a_link_to_its_neighbour(tmp_path):
    (tmp_path / "v2").mkdir()
    (tmp_path / "v2" / "a.jsonl").write_text("")
    (tmp_path / "current").symlink_to("v2")
    assert [name for _, name in source_files(Source(path=str(tmp_path / "current"), uri="pvc://d/current"))] == [
        "pvc://d/current/a.jsonl"
    ]
