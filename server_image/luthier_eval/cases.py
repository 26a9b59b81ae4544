"""Cases of a suite: read, checked, chosen, and turned into requests for each side."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from luthier_eval.config import SideConfig, SuiteConfig
from luthier_trainer.config import Source
from luthier_trainer.errors import UserError
from luthier_trainer.files import canonical_json
from luthier_trainer.records import RowError
from luthier_trainer.rows import Message, Row, read_rows

_SHOWN_ERRORS = 5


@dataclass(frozen=True, kw_only=True)
class Case:
    """One question with its right answer. `id` is a hash of question and answer: the same for every side and run."""

    id: str
    messages: tuple[Message, ...]
    expected: str
    raw: bool
    """The text is completed as it stands, without the chat template: as it was trained."""


@dataclass(frozen=True, kw_only=True)
class Cases:
    """The cases of a suite that are used."""

    chosen: tuple[Case, ...]
    available: int
    duplicates: int

    @property
    def digest(self) -> str:
        """The hash of what is asked and expected, whatever the order in the file."""
        ids = "\n".join(sorted(case.id for case in self.chosen))
        return "sha256:" + hashlib.sha256(ids.encode()).hexdigest()


def read_cases(suite: SuiteConfig, render: str) -> Cases:
    """Read a suite's file; at most `max_cases` are chosen, by hash, so that the choice never depends on the order.

    Args:
        suite: The suite.
        render: How the artifact was trained, and so is asked: Chat by the template, Raw as the text stands.

    Raises:
        UserError: The file is missing or empty, or a row is wrong: the message names file and line.
    """
    rows = list(_valid_rows(suite))
    if not rows:
        raise UserError("InvalidSuite", f"suite {suite.name}: {suite.uri} has no rows", field="suites")
    by_id: dict[str, Case] = {}
    for row in rows:
        case = _case(row, render)
        by_id.setdefault(case.id, case)
    chosen = tuple(by_id[id_] for id_ in sorted(by_id)[: suite.max_cases])
    return Cases(chosen=chosen, available=len(by_id), duplicates=len(rows) - len(by_id))


def _valid_rows(suite: SuiteConfig) -> Iterator[Row]:
    errors: list[RowError] = []
    try:
        for row in read_rows(Source(path=suite.path, uri=suite.uri)):
            if isinstance(row, RowError):
                errors.append(row)
            elif not errors:
                yield row
            if len(errors) == _SHOWN_ERRORS:
                break
    except UserError as error:
        raise UserError("InvalidSuite", f"suite {suite.name}: {error.message}", field="suites") from None
    if errors:
        raise UserError("InvalidSuite", f"suite {suite.name}: " + "; ".join(map(str, errors)), field="suites")


def _case(row: Row, render: str) -> Case:
    conversation = row.conversation
    return Case(
        id=hashlib.sha256(canonical_json(row.content(render))).hexdigest(),
        messages=tuple(conversation[:-1]),
        expected=conversation[-1]["content"],
        raw=row.kind == "Completion" and render == "Raw",
    )


def build_request(case: Case, side: SideConfig, suite: SuiteConfig) -> tuple[str, dict[str, Any]]:
    """Return path and body of the request that asks one side one case."""
    body = {"model": side.model, "max_tokens": suite.max_tokens, "temperature": suite.temperature, "seed": suite.seed}
    messages = side_messages(case, side)
    if case.raw:
        return "/v1/completions", body | {"prompt": "\n\n".join(message["content"] for message in messages)}
    return "/v1/chat/completions", body | {"messages": messages}


def side_messages(case: Case, side: SideConfig) -> list[Message]:
    """Return the conversation under a side's prompt: its system prompt replaces the case's, its examples come first."""
    system = [m for m in case.messages if m["role"] == "system"]
    if side.system_prompt is not None:
        system = [{"role": "system", "content": side.system_prompt}] if side.system_prompt else []
    examples = [
        {"role": role, "content": text}
        for example in side.examples
        for role, text in (("user", example.user), ("assistant", example.assistant))
    ]
    return [*system, *examples, *(m for m in case.messages if m["role"] != "system")]
