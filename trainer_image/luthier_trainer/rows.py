"""Rows of the data sources: what a record means, in each format that people have. Refusals name what is allowed.

Whatever its format, a row is a conversation or a prompt with its completion. Rendering and tokens are `template`'s
business, duplicates and splits `prepare`'s.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from luthier_trainer.artifact import sha256_file
from luthier_trainer.config import Source
from luthier_trainer.errors import UserError, reading
from luthier_trainer.files import leads_out
from luthier_trainer.records import Place, RowError, read_records

ROLES = ("system", "user", "assistant")
Message = dict[str, str]
_MESSAGE_KEYS = frozenset({"role", "content"})
_UNRENDERED_KEYS = frozenset({"tools", "functions", "parallel_tool_calls"})
"""Of a row; they would be part of the prompt, and training would leave them out."""
_FORMATS: Mapping[str, tuple[str, ...]] = {
    "Messages": ("messages",),
    "Completion": ("prompt", "completion"),
    "Instruction": ("instruction", "output"),
    "Preference": ("chosen", "rejected"),
}
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,31}")
_OPTIONAL_FIELDS = frozenset({"input", "category", "prompt"})
_SHAREGPT_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
_LINE_SUFFIXES = (".jsonl", ".jsonl.gz")
_OTHER_SUFFIXES = (".json", ".csv", ".tsv", ".json.gz", ".csv.gz", ".tsv.gz")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One valid row. Messages rows have no prompt and completion, Completion rows no messages."""

    place: Place
    kind: Literal["Messages", "Completion"]
    messages: tuple[Message, ...] = ()
    prompt: str = ""
    completion: str = ""
    category: str | None = None
    format: str = ""
    """The format in which it was written."""

    def with_texts(self, change: Callable[[str], str]) -> Row:
        """Return the row with each of its texts changed, in the order in which a model sees them."""
        return replace(
            self,
            messages=tuple({**message, "content": change(message["content"])} for message in self.messages),
            prompt=change(self.prompt),
            completion=change(self.completion),
        )

    @property
    def texts(self) -> list[str]:
        """Every text of the row that a model sees."""
        return [message["content"] for message in self.conversation]

    @property
    def answers(self) -> list[str]:
        """What the row teaches."""
        return [message["content"] for message in self.conversation if message["role"] == "assistant"]

    @property
    def conversation(self) -> list[Message]:
        """The row as a chat; a completion answers its prompt."""
        if self.kind == "Messages":
            return list(self.messages)
        return [{"role": "user", "content": self.prompt}, {"role": "assistant", "content": self.completion}]

    def content(self, render: str) -> dict[str, Any]:
        """What a model sees of the row: in Chat, a prompt with its completion is a conversation."""
        return {"messages": self.conversation} if render == "Chat" else self.to_json()

    def question(self, render: str) -> Any:
        """What stands before the first answer: rows that share it belong in one split, however they go on."""
        if self.kind == "Completion" and render == "Raw":
            return self.prompt
        return list(itertools.takewhile(lambda message: message["role"] != "assistant", self.conversation))

    def to_json(self) -> dict[str, Any]:
        """The row as users write it, without fields that we don't read."""
        if self.kind == "Messages":
            return {"messages": list(self.messages)}
        return {"prompt": self.prompt, "completion": self.completion}


def _reading(source: Source) -> AbstractContextManager[None]:
    return reading(source.uri, reason="SourceUnreadable", field="dataset.sources")


def source_files(source: Source) -> list[tuple[Path, str]]:
    """Return a source's .jsonl files with the names that errors use, sorted.

    Raises:
        UserError: Nothing there, not readable, not a regular file, or a link that leads out of the source.
    """
    with _reading(source):
        return _source_files(source)


def _source_files(source: Source) -> list[tuple[Path, str]]:
    root = Path(source.path)
    if not root.exists():
        raise UserError("SourceNotFound", f"{source.uri} is not there", field="dataset.sources")
    if leads_out(root):
        raise UserError(
            "SourceRefused", f"{source.uri} is a link that leads out; name what it points to", field="dataset.sources"
        )
    files = _data_files(root) if root.is_dir() else [root]
    if not files:
        raise UserError(
            "SourceEmpty", f"{source.uri} is a folder without .jsonl, .json or .csv files", field="dataset.sources"
        )
    home = (root if root.is_dir() else root.parent).resolve()
    for file in files:
        if not file.is_file() or not file.resolve().is_relative_to(home):
            raise UserError(
                "SourceRefused",
                f"{source.uri}: {file.name} is not a regular file inside the source; links that lead out are refused",
                field="dataset.sources",
            )
    return [(f, f"{source.uri.rstrip('/')}/{f.name}" if root.is_dir() else source.uri) for f in files]


def _data_files(folder: Path) -> list[Path]:
    """Return a folder's JSON lines; only where there are none its other files, which beside them describe the set."""
    files = sorted(folder.iterdir())
    lines = [file for file in files if file.name.endswith(_LINE_SUFFIXES)]
    return lines or [file for file in files if file.name.endswith(_OTHER_SUFFIXES)]


def source_digests(source: Source) -> list[list[str]]:
    """Return name and SHA-256 of each file of a source."""
    with _reading(source):
        return [[file.name, sha256_file(file)] for file, _ in _source_files(source)]


def read_rows(source: Source) -> Iterator[Row | RowError]:
    """Yield each row of a source, or what is wrong with it."""
    for path, name in source_files(source):
        with _reading(source):
            file = path.open("rb")
        with file:
            for place, record in read_records(file, name):
                try:
                    yield record if isinstance(record, RowError) else parse_row(record, place, source)
                except RowError as error:
                    yield error


def parse_row(record: Any, place: Place, source: Source) -> Row:
    """Say what a record means.

    Raises:
        RowError: It is no row of the source's format.
    """
    if not isinstance(record, dict):
        raise RowError(place, f"a row must be a JSON object, not {_json_type(record)}")
    if unrendered := sorted(_UNRENDERED_KEYS & set(record)):
        raise RowError(place, f"the row has {', '.join(unrendered)}, which is not rendered yet; remove it from the row")
    value = _renamed(record, place, source)
    chosen = _format_of(value, place, source.format)
    category = named if isinstance(named := value.get("category"), str) and named.strip() else None
    row = _READERS[chosen](value, place)
    return replace(row, category=category, format=chosen)


def _renamed(record: dict[str, Any], place: Place, source: Source) -> dict[str, Any]:
    """Return the record under our names."""
    value = dict(record)
    for ours, theirs in source.fields.items():
        if theirs in record:
            value[ours] = record[theirs]
        elif ours not in _OPTIONAL_FIELDS:
            raise RowError(place, f"fields.{ours} is {theirs}, and the row has no such key{_keys_seen(record)}")
    if "messages" not in value and isinstance(value.get("conversations"), list):
        value["messages"] = [_from_sharegpt(entry) for entry in value["conversations"]]
    return value


def _from_sharegpt(entry: Any) -> Any:
    if not isinstance(entry, dict) or "from" not in entry:
        return entry
    return {"role": _SHAREGPT_ROLES.get(str(entry["from"]), entry["from"]), "content": entry.get("value")}


def _format_of(value: dict[str, Any], place: Place, wanted: str) -> str:
    if wanted != "Auto":
        if missing := [key for key in _FORMATS[wanted] if key not in value]:
            needed = " and ".join(f'"{key}"' for key in _FORMATS[wanted])
            raise RowError(place, f"format {wanted} needs {needed}; {missing[0]} is missing{_keys_seen(value)}")
        return wanted
    fitting = [name for name, keys in _FORMATS.items() if all(key in value for key in keys)]
    if fitting == ["Preference"]:
        raise RowError(
            place, "the row is a preference pair, and SFT learns only the chosen answer; set the source's format to "
            "Preference to accept that",
        )  # fmt: skip
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise RowError(place, f"the row may be {' or '.join(fitting)}; set the source's format{_keys_seen(value)}")
    allowed = ", or ".join(" and ".join(f'"{key}"' for key in keys) for keys in _FORMATS.values())
    raise RowError(place, f"no known format: a row has {allowed}; name other keys in the source's fields"
                   f"{_keys_seen(value)}")  # fmt: skip


def _keys_seen(value: dict[str, Any]) -> str:
    return f"; it has {_names(value, 8) or 'no keys'}"


def _names(values: Iterable[str], most: int) -> str:
    """List names for a message. What does not look like one may be a row's text, as in a table without header."""
    shown = sorted(value if _NAME.fullmatch(value) else "…" for value in values)
    return ", ".join(shown[:most])


def _read_messages(value: dict[str, Any], place: Place) -> Row:
    return Row(place=place, kind="Messages", messages=_messages(value["messages"], place))


def _read_completion(value: dict[str, Any], place: Place) -> Row:
    prompt, completion = (_text(value.get(key), place, key) for key in ("prompt", "completion"))
    return Row(place=place, kind="Completion", prompt=prompt, completion=_answer(completion, place, "completion"))


def _read_instruction(value: dict[str, Any], place: Place) -> Row:
    """An instruction with its input is one question, as in Alpaca's data; no sentence is put around them."""
    instruction, output = (_text(value.get(key), place, key) for key in ("instruction", "output"))
    more = _text(value.get("input") or "", place, "input")
    question = f"{instruction}\n\n{more}" if more.strip() else instruction
    return _conversation([{"role": "user", "content": question}], _answer(output, place, "output"), place)


def _read_preference(value: dict[str, Any], place: Place) -> Row:
    """A pair teaches its chosen answer; the rejected one is only checked."""
    if value["chosen"] == value["rejected"]:
        raise RowError(place, "chosen and rejected are the same; a pair needs a better and a worse answer")
    prompt = value.get("prompt", [])
    before = [{"role": "user", "content": _text(prompt, place, "prompt")}] if not isinstance(prompt, list) else prompt
    for key in ("rejected", "chosen"):
        answer = value[key]
        if isinstance(answer, list):
            row = Row(place=place, kind="Messages", messages=_messages([*before, *answer], place))
        else:
            row = _conversation(before, _answer(_text(answer, place, key), place, key), place)
    return row


def _conversation(before: list[Any], answer: str, place: Place) -> Row:
    messages = _messages([*before, {"role": "assistant", "content": answer}], place)
    return Row(place=place, kind="Messages", messages=messages)


def _answer(text: str, place: Place, key: str) -> str:
    if not text.strip():
        raise RowError(place, f"{key} is empty; every row needs an answer to learn")
    return text


_READERS: Mapping[str, Callable[[dict[str, Any], Place], Row]] = {
    "Messages": _read_messages,
    "Completion": _read_completion,
    "Instruction": _read_instruction,
    "Preference": _read_preference,
}


def _messages(value: Any, place: Place) -> tuple[Message, ...]:
    if not isinstance(value, list) or not value:
        raise RowError(place, f"messages must be a list with entries, not {_json_type(value)}")
    messages = tuple(_message(entry, place, index) for index, entry in enumerate(value))
    _check_order([m["role"] for m in messages], place)
    return messages


def _message(entry: Any, place: Place, index: int) -> Message:
    where = f"messages[{index}]"
    if not isinstance(entry, dict):
        raise RowError(place, f"{where} must be an object with role and content, not {_json_type(entry)}")
    if unknown := sorted(set(entry) - _MESSAGE_KEYS):
        raise RowError(place, f"{where} has {_names(unknown, 5)}; allowed are role and content")
    role = entry.get("role")
    if role not in ROLES:
        raise RowError(place, f"{where}.role is {_names([str(role)], 1)}; allowed are {', '.join(ROLES)}")
    content = _text(entry.get("content"), place, f"{where}.content")
    if role == "assistant" and not content.strip():
        raise RowError(place, f"{where}.content is empty; an assistant message needs text to learn")
    return {"role": role, "content": content}


def _text(value: Any, place: Place, where: str) -> str:
    if not isinstance(value, str):
        raise RowError(place, f"{where} must be text, not {_json_type(value)}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise RowError(place, f"{where} holds half a surrogate pair (\\ud800 to \\udfff), which is no text") from None
    return value


def _check_order(roles: list[str], place: Place) -> None:
    if "assistant" not in roles:
        raise RowError(place, "no assistant message; there is nothing to learn")
    turns = roles[1:] if roles[0] == "system" else roles
    expected = ["user", "assistant"] * (len(turns) // 2)
    if not turns or turns != expected:
        raise RowError(
            place, f"roles are {', '.join(roles[:12])}; allowed: at most one system first, then user, assistant, …"
        )


def _json_type(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null or absent"}
    return names.get(type(value), "a number") + (" without entries" if value == [] else "")
