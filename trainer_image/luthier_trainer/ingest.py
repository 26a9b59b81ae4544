"""One pass over the sources: each row validated, rendered, tokenised; duplicates out; its split chosen.

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

from luthier_trainer.config import PrepareConfig
from luthier_trainer.errors import UserError
from luthier_trainer.files import canonical_json
from luthier_trainer.rows import Message, Place, Row, RowError, read_rows
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
    kinds: Counter[str] = field(default_factory=Counter)
    rows: int = 0
    learned_tokens: int = 0

    def drop(self, place: Place, reason: str, detail: str) -> None:
        self.dropped.append({"file": place.file, "line": place.line, "reason": reason, "detail": detail})

    def rows_of(self, split: Split, *, max_length: int) -> list[int]:
        return [r for r, s in enumerate(self.splits) if s == split and self.spool.lengths[r] <= max_length]


def ingest(config: PrepareConfig, renderer: Renderer, spool: Spool, held_out: Path) -> Ingested:
    """Read all sources once: valid, new rows go to the spool, test rows also as JSON lines.

    Raises:
        UserError: Rows are wrong; the message names the first of them by file and line.
    """
    result = Ingested(spool=spool)
    seen: dict[bytes, Place] = {}
    errors: list[RowError] = []
    with held_out.open("wb") as test_file:
        for row in itertools.chain.from_iterable(read_rows(source) for source in config.sources):
            result.rows += 1
            try:
                if isinstance(row, RowError):
                    raise row
                _take(row, config, renderer, result, seen, test_file)
            except RowError as error:
                errors.append(error)
            if len(errors) == _MAX_ROW_ERRORS:
                break
    if errors:
        raise _row_errors(errors)
    if not result.rows:
        names = ", ".join(source.uri for source in config.sources)
        raise UserError("DatasetEmpty", f"{names}: no rows", field="dataset.sources")
    return result


def _row_errors(errors: list[RowError]) -> UserError:
    shown = "; ".join(str(e) for e in errors[:_SHOWN_ROW_ERRORS])
    rest = len(errors) - _SHOWN_ROW_ERRORS
    more = f"; and {'at least ' if len(errors) == _MAX_ROW_ERRORS else ''}{rest} more" if rest > 0 else ""
    return UserError("InvalidRows", shown + more, field="dataset.sources")


def _take(
    row: Row,
    config: PrepareConfig,
    renderer: Renderer,
    result: Ingested,
    seen: dict[bytes, Place],
    test_file: IO[bytes],
) -> None:
    if config.render is None and (row.kind == "Messages") != (renderer.render == "Chat"):
        raise RowError(row.place, "messages and prompt/completion rows are mixed; set dataset.render: Chat for that")
    content = hashlib.blake2b(canonical_json(row.content(renderer.render)), digest_size=16).digest()
    if content in seen:
        if config.exact_duplicates == "Fail":
            raise RowError(row.place, f"the same row stands at {seen[content]} (dataset.checks.exactDuplicates: Fail)")
        result.drop(row.place, "Duplicate", f"same as {seen[content]}")
        return
    seen[content] = row.place
    tokens = renderer.tokens(row)
    split = split_of(row.question(renderer.render), config)
    result.spool.add(tokens)
    result.splits.append(split)
    result.places.append(row.place)
    result.kinds[row.kind] += 1
    result.learned_tokens += sum(label != IGNORED for label in tokens.labels)
    if split == "test":
        test_file.write(json.dumps(row.to_json(), ensure_ascii=False).encode() + b"\n")
    _offer_probe(row, content, result)


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
