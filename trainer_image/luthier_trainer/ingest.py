"""One pass over the sources: each row validated, checked, rendered, tokenised; duplicates out; its split chosen.

What is too long is not decided here, because the limit may depend on all lengths (`prepare`).
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from luthier_trainer.checks.catalogue import CATALOGUE
from luthier_trainer.checks.collector import Collector, Drop
from luthier_trainer.checks.tally import Tally, rows_text
from luthier_trainer.config import PrepareConfig
from luthier_trainer.errors import UserError
from luthier_trainer.files import canonical_json
from luthier_trainer.findings import Finding
from luthier_trainer.records import Place, RowError
from luthier_trainer.rows import Message, Row, read_rows
from luthier_trainer.shards import Split, Spool
from luthier_trainer.template import IGNORED, Renderer

PROBES = 8
_MAX_ROW_ERRORS = 20
_SHOWN_ROW_ERRORS = 5


@dataclass(kw_only=True)
class Ingested:
    """What one pass over the sources left: rows in the spool, and what was dropped."""

    spool: Spool
    splits: list[Split] = field(default_factory=list)
    places: list[Place] = field(default_factory=list)
    probes: list[tuple[bytes, list[Message]]] = field(default_factory=list)
    dropped: list[dict[str, Any]] = field(default_factory=list)
    formats: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)
    categories: dict[str, dict[str, int]] = field(default_factory=dict)
    duplicates: Tally = field(default_factory=Tally)
    gone: set[int] = field(default_factory=set)
    """Rows of the spool that a check took out once all were read."""
    rows: int = 0
    learned_tokens: int = 0

    def drop(self, place: Place, reason: str, detail: str) -> None:
        self.dropped.append({"file": place.file, "line": place.line, "reason": reason, "detail": detail})

    def rows_of(self, split: Split, *, max_length: int) -> list[int]:
        return [
            row
            for row, of in enumerate(self.splits)
            if of == split and row not in self.gone and self.spool.lengths[row] <= max_length
        ]


def ingest(config: PrepareConfig, renderer: Renderer, spool: Spool, held_out: Path) -> Ingested:
    """Read all sources once: valid, new rows go to the spool, test rows also as JSON lines.

    Raises:
        UserError: Rows are wrong; the message names the first of them by file and line.
    """
    with held_out.open("wb") as test_file:
        reading = _Pass(config=config, renderer=renderer, result=Ingested(spool=spool), test_file=test_file)
        for row in itertools.chain.from_iterable(read_rows(source) for source in config.sources):
            reading.take(row)
    reading.raise_refused()
    result = reading.result
    _check_invalid(config, result, reading.errors)
    if not result.rows:
        names = ", ".join(source.uri for source in config.sources)
        raise UserError("DatasetEmpty", f"{names}: no rows", field="dataset.sources")
    _conclude(reading)
    if not result.splits:
        reasons = Counter(entry["reason"] for entry in result.dropped)
        listed = ", ".join(f"{reason}: {count}" for reason, count in reasons.most_common(5))
        raise UserError(
            "DatasetEmpty",
            f"none of {rows_text(result.rows)} is left; dropped for {listed}: mend the rows, or let dataset.checks "
            "keep them",
            field="dataset.checks",
        )
    return result


def _conclude(reading: _Pass) -> None:
    result = reading.result
    concluded = reading.checks.conclude(splits=result.splits, places=result.places, rows_read=result.rows)
    for number, drop in concluded.drops.items():
        result.gone.add(number)
        result.drop(result.places[number], drop.code, drop.detail)
    result.findings += concluded.findings
    result.categories = concluded.categories


def _check_invalid(config: PrepareConfig, result: Ingested, errors: Tally) -> None:
    """Refuse more unreadable rows than may be left out."""
    if not errors.rows:
        return
    entry = CATALOGUE["InvalidRows"]
    result.findings.append(
        errors.finding(code="InvalidRows", mode="Drop", of=result.rows, what=entry.what, hint=entry.hint)
    )
    if 100 * errors.rows > config.max_dropped_percent * result.rows:
        raise UserError(
            "InvalidRows",
            f"{result.findings[-1].message}; allowed are {config.max_dropped_percent} %: {entry.hint}",
            field="dataset.checks.maxDroppedPercent",
        )


def _row_errors(errors: list[RowError]) -> UserError:
    shown = "; ".join(str(e) for e in errors[:_SHOWN_ROW_ERRORS])
    rest = len(errors) - _SHOWN_ROW_ERRORS
    more = f"; and {'at least ' if len(errors) == _MAX_ROW_ERRORS else ''}{rest} more" if rest > 0 else ""
    return UserError("InvalidRows", shown + more, field="dataset.sources")


@dataclass(kw_only=True)
class _Pass:
    """The one pass over all rows."""

    config: PrepareConfig
    renderer: Renderer
    result: Ingested
    test_file: IO[bytes]
    seen: dict[bytes, Place] = field(default_factory=dict)
    errors: Tally = field(default_factory=Tally)
    refused: list[RowError] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.checks = Collector(self.config.checks)

    def take(self, row: Row | RowError) -> None:
        self.result.rows += 1
        try:
            if isinstance(row, RowError):
                raise row
            self._add(row)
        except RowError as error:
            self._refuse(error)

    def _add(self, row: Row) -> None:
        config, render, result = self.config, self.renderer.render, self.result
        if config.render is None and (row.kind == "Messages") != (render == "Chat"):
            raise RowError(
                row.place, "messages and prompt/completion rows are mixed; set dataset.render: Chat for that"
            )
        screened = self.checks.screen(row)
        if isinstance(screened, Drop):
            result.drop(row.place, screened.code, screened.detail)
            return
        row = screened
        content = hashlib.blake2b(canonical_json(row.content(render)), digest_size=16).digest()
        if self._is_duplicate(row, content):
            return
        tokens = self.renderer.tokens(row)
        self.seen[content] = row.place
        split = split_of(row.question(render), config)
        result.spool.add(tokens)
        result.splits.append(split)
        result.places.append(row.place)
        result.formats[row.format] += 1
        result.learned_tokens += sum(label != IGNORED for label in tokens.labels)
        self.checks.keep(row)
        if split == "test":
            self.test_file.write(json.dumps(row.to_json(), ensure_ascii=False).encode() + b"\n")
        _offer_probe(row, content, result)

    def _is_duplicate(self, row: Row, content: bytes) -> bool:
        first = self.seen.get(content)
        if first is None:
            return False
        if self.config.exact_duplicates == "Fail":
            raise RowError(row.place, f"the same row stands at {first} (dataset.checks.exactDuplicates: Fail)")
        self.result.duplicates.add(row.place)
        self.result.drop(row.place, "Duplicate", f"same as {first}")
        return True

    def _refuse(self, error: RowError) -> None:
        if self.config.checks.invalid_rows == "Drop" and not error.ends_file:
            self.errors.add(error.place)
            self.result.drop(error.place, "Invalid", error.problem)
            return
        self.refused.append(error)
        if len(self.refused) == _MAX_ROW_ERRORS:
            self.raise_refused()

    def raise_refused(self) -> None:
        if self.refused:
            raise _row_errors(self.refused)


def _offer_probe(row: Row, content: bytes, result: Ingested) -> None:
    """Keep the conversations of the smallest digests: the same ones whatever the rows' order."""
    result.probes.append((content, row.conversation[:-1]))
    if len(result.probes) > 16 * PROBES:
        result.probes = sorted(result.probes, key=lambda p: p[0])[:PROBES]


def split_of(question: Any, config: PrepareConfig) -> Split:
    """Return a row's split by a keyed hash of its question: added rows never move old ones."""
    key = config.split_seed.to_bytes(8, "big")
    digest = hashlib.blake2b(canonical_json(question), digest_size=8, key=key).digest()
    position = int.from_bytes(digest, "big") / 2**64 * 100
    if position < config.test_percent:
        return "test"
    return "validation" if position < config.test_percent + config.validation_percent else "train"
