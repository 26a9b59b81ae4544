"""Metrics: a number between 0 and 1 for one answer. Pure, but for the clock that bounds a schema check."""

from __future__ import annotations

import re
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from luthier_eval.config import MetricConfig
from luthier_server.answers import AnswerFormat
from luthier_trainer.errors import UserError

Scorer = Callable[[str, str], float]
"""(answer, expected) -> score. An answer that the engine refused to give scores 0 without being asked about."""

_WORD = re.compile(r"\w+")
_SCHEMA_SECONDS = 0.5
"""A pattern in the schema may take for ever on an unlucky answer."""


def exact_match(answer: str, expected: str) -> float:
    """Return 1 when both are the same text but for white space at the ends."""
    return float(answer.strip() == expected.strip())


def token_f1(answer: str, expected: str) -> float:
    """Return the harmonic mean of precision and recall of words, whatever their case and order."""
    ours, theirs = (Counter(_WORD.findall(text.casefold())) for text in (answer, expected))
    if not ours and not theirs:
        return 1.0
    common = (ours & theirs).total()
    return 2 * common / (ours.total() + theirs.total())


def schema_validity(schema: str, *, where: str) -> Scorer:
    """Return a scorer that gives 1 to an answer that is, whole, JSON which the schema allows (as the server counts it).

    Raises:
        UserError: The text is no JSON Schema.
    """
    try:
        answer_format = AnswerFormat(schema)
    except ValueError as error:
        raise UserError("InvalidSchema", f"{where} is not a JSON Schema: {error}", field="suites") from None

    def score(answer: str, expected: str) -> float:
        try:
            with _time_limit(_SCHEMA_SECONDS):
                return float(answer_format.accepts(answer))
        except TimeoutError:
            return 0.0

    return score


def scorer(metric: MetricConfig, *, where: str) -> Scorer:
    """Return the function that computes a metric."""
    match metric.type:
        case "ExactMatch":
            return exact_match
        case "F1":
            return token_f1
        case "JSONSchema":
            return schema_validity(metric.json_schema or "", where=f"{where}.jsonSchema")


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in this (the main) thread after so long; regular expressions heed it."""

    def expire(number: int, frame: FrameType | None) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
