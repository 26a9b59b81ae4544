"""Reading data sources: JSONL, line by line, in bounded memory. Every refusal names file, line and what is allowed.

Two shapes of row: `{"messages": [{"role", "content"}, …]}` and `{"prompt": …, "completion": …}`. Rendering and
tokens are `template`'s business, duplicates and splits `prepare`'s.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Literal

from luthier_trainer.artifact import sha256_file
from luthier_trainer.config import Source
from luthier_trainer.errors import UserError, reading
from luthier_trainer.files import leads_out

MAX_LINE_BYTES = 16 << 20
ROLES = ("system", "user", "assistant")
Message = dict[str, str]
_MESSAGE_KEYS = frozenset({"role", "content"})
_UNRENDERED_KEYS = frozenset({"tools", "functions", "parallel_tool_calls"})
"""Of a row; they would be part of the prompt, and training would leave them out."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a row stands."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One valid row. Messages rows have no prompt and completion, Completion rows no messages."""

    place: Place
    kind: Literal["Messages", "Completion"]
    messages: tuple[Message, ...] = ()
    prompt: str = ""
    completion: str = ""
    category: str | None = None

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


class RowError(Exception):
    """One row is wrong; the text says what is allowed."""

    def __init__(self, place: Place, problem: str, *, ends_file: bool = False) -> None:
        super().__init__(f"{place}: {problem}")
        self.place = place
        self.problem = problem
        self.ends_file = ends_file
        """The rest of the file could not be read, so leaving out this row is not enough."""


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
    files = sorted(p for p in root.iterdir() if p.name.endswith(".jsonl")) if root.is_dir() else [root]
    if not files:
        raise UserError("SourceEmpty", f"{source.uri} is a folder without .jsonl files", field="dataset.sources")
    home = (root if root.is_dir() else root.parent).resolve()
    for file in files:
        if not file.is_file() or not file.resolve().is_relative_to(home):
            raise UserError(
                "SourceRefused",
                f"{source.uri}: {file.name} is not a regular file inside the source; links that lead out are refused",
                field="dataset.sources",
            )
    return [(f, f"{source.uri.rstrip('/')}/{f.name}" if root.is_dir() else source.uri) for f in files]


def source_digests(source: Source) -> list[list[str]]:
    """Return name and SHA-256 of each file of a source."""
    with _reading(source):
        return [[file.name, sha256_file(file)] for file, _ in _source_files(source)]


def read_rows(source: Source) -> Iterator[Row | RowError]:
    """Yield each row of a source, or what is wrong with it; blank lines are skipped."""
    for path, name in source_files(source):
        with _reading(source):
            file = path.open("rb")
        for place, line in _read_lines(file, name):
            if isinstance(line, RowError):
                yield line
            elif line.strip():
                try:
                    yield parse_row(line, place, source.format)
                except RowError as error:
                    yield error


def _read_lines(file: IO[bytes], name: str) -> Iterator[tuple[Place, bytes | RowError]]:
    with file:
        number = 0
        while line := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            place = Place(file=name, line=number)
            if len(line) > MAX_LINE_BYTES:
                # The rest of the file is not read: without line ends it is no JSONL.
                yield (
                    place,
                    RowError(place, f"line is longer than {MAX_LINE_BYTES >> 20} MiB; split the row", ends_file=True),
                )
                return
            yield place, line


def parse_row(line: bytes, place: Place, source_format: str) -> Row:
    """Check one line.

    Raises:
        RowError: The line is no row of this format.
    """
    value = _parse_json(line, place)
    if not isinstance(value, dict):
        raise RowError(place, f"a row must be a JSON object, not {_json_type(value)}")
    if unrendered := sorted(_UNRENDERED_KEYS & set(value)):
        raise RowError(place, f"the row has {', '.join(unrendered)}, which is not rendered yet; remove it from the row")
    kind = _kind_of(value, place, source_format)
    category = named if isinstance(named := value.get("category"), str) else None
    if kind == "Messages":
        return Row(place=place, kind="Messages", messages=_messages(value["messages"], place), category=category)
    prompt, completion = (_text(value.get(key), place, key) for key in ("prompt", "completion"))
    if not completion.strip():
        raise RowError(place, "completion is empty; every row needs an answer to learn")
    return Row(place=place, kind="Completion", prompt=prompt, completion=completion, category=category)


def _parse_json(line: bytes, place: Place) -> Any:
    try:
        return json.loads(line.decode("utf-8-sig" if place.line == 1 else "utf-8"))
    except UnicodeDecodeError as error:
        raise RowError(place, f"not UTF-8 (byte {error.start + 1} of the line); save the file as UTF-8") from None
    except json.JSONDecodeError as error:
        raise RowError(place, f"not JSON: {error.msg} at column {error.colno}; one JSON object a line") from None
    except RecursionError:
        raise RowError(place, "JSON is nested too deep") from None


def _kind_of(value: dict[str, Any], place: Place, source_format: str) -> Literal["Messages", "Completion"]:
    has_messages = "messages" in value
    has_completion = "prompt" in value and "completion" in value
    if source_format == "Messages" and not has_messages:
        raise RowError(place, 'format Messages needs the key "messages"' + _keys_seen(value))
    if source_format == "Completion" and not has_completion:
        raise RowError(place, 'format Completion needs the keys "prompt" and "completion"' + _keys_seen(value))
    if has_messages == has_completion:
        raise RowError(place, 'a row has either "messages" or both "prompt" and "completion"' + _keys_seen(value))
    return "Messages" if has_messages else "Completion"


def _keys_seen(value: dict[str, Any]) -> str:
    return f"; it has {', '.join(sorted(value)[:8]) or 'no keys'}"


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
        raise RowError(place, f"{where} has {', '.join(unknown[:5])}; allowed are role and content")
    role = entry.get("role")
    if role not in ROLES:
        raise RowError(place, f"{where}.role is {json.dumps(role)}; allowed are {', '.join(ROLES)}")
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
