"""Conditions and times in a status: pure.

`Reconciling` and `Stalled` exist only when True, and never both: work goes on, or only a new spec helps.
The summary (`Succeeded` or `Ready`) is written by `summarize` alone, from those two.
All functions take and return the JSON form and leave their arguments as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Literal

Conditions = list[dict[str, Any]]

RECONCILING = "Reconciling"
STALLED = "Stalled"
SUMMARY = {"FineTuneJob": "Succeeded", "Evaluation": "Succeeded", "ModelDeployment": "Ready"}
"""The summary's type by kind. The first two end, so theirs is Unknown until then; Ready is False meanwhile."""

MAX_MESSAGE = 2048
"""As the CRDs bound it: a longer message would make the API server refuse the whole status."""


def format_time(at: datetime) -> str:
    """Return a time as Kubernetes writes it: UTC, whole seconds."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_time(text: str) -> datetime:
    """Read a time as Kubernetes writes it, with or without fractions of a second."""
    return datetime.fromisoformat(text).astimezone(UTC)


def find_condition(conditions: Sequence[dict[str, Any]], type: str) -> dict[str, Any] | None:  # noqa: A002
    """Return the condition of a type, or None."""
    return next((c for c in conditions if c["type"] == type), None)


def set_condition(
    conditions: Sequence[dict[str, Any]],
    *,
    type: str,  # noqa: A002 - the field's name in Kubernetes
    status: Literal["True", "False", "Unknown"],
    reason: str,
    message: str,
    generation: int,
    now: datetime,
) -> Conditions:
    """Return the conditions with one set; `lastTransitionTime` stays when status, reason and message are the same."""
    said = {"type": type, "status": status, "reason": reason, "message": _bounded(message)}
    old = find_condition(conditions, type)
    unchanged = old is not None and all(old.get(field) == value for field, value in said.items())
    since = old["lastTransitionTime"] if old is not None and unchanged else format_time(now)
    new = {**said, "observedGeneration": generation, "lastTransitionTime": since}
    if old is None:
        return [*conditions, new]
    return [new if c["type"] == type else c for c in conditions]


def remove_condition(conditions: Sequence[dict[str, Any]], type: str) -> Conditions:  # noqa: A002
    """Return the conditions without one."""
    return [c for c in conditions if c["type"] != type]


def mark_reconciling(
    conditions: Sequence[dict[str, Any]], *, reason: str, message: str, generation: int, now: datetime
) -> Conditions:
    """Return the conditions saying that work goes on, or that something is awaited."""
    return set_condition(
        remove_condition(conditions, STALLED),
        type=RECONCILING,
        status="True",
        reason=reason,
        message=message,
        generation=generation,
        now=now,
    )


def mark_stalled(
    conditions: Sequence[dict[str, Any]], *, reason: str, message: str, generation: int, now: datetime
) -> Conditions:
    """Return the conditions saying that only a new spec, or a new object, helps."""
    return set_condition(
        remove_condition(conditions, RECONCILING),
        type=STALLED,
        status="True",
        reason=reason,
        message=message,
        generation=generation,
        now=now,
    )


def mark_settled(conditions: Sequence[dict[str, Any]]) -> Conditions:
    """Return the conditions saying that nothing is left to do."""
    return [c for c in conditions if c["type"] not in (RECONCILING, STALLED)]


def summarize(
    conditions: Sequence[dict[str, Any]], *, kind: str, reason: str, message: str, generation: int, now: datetime
) -> Conditions:
    """Return the conditions with the kind's summary: the last thing done to a status.

    Args:
        conditions: With Reconciling and Stalled as they are to be written.
        kind: Which summary.
        reason: Of a True summary; while Reconciling or Stalled is True, theirs is taken.
        message: Likewise.
        generation: The spec's generation that was decided for.
        now: The pass's time.
    """
    status: Literal["True", "False", "Unknown"] = "True"
    if cause := find_condition(conditions, STALLED):
        status = "False"
    elif cause := find_condition(conditions, RECONCILING):
        status = "False" if SUMMARY[kind] == "Ready" else "Unknown"
    return set_condition(
        conditions,
        type=SUMMARY[kind],
        status=status,
        reason=cause["reason"] if cause else reason,
        message=cause["message"] if cause else message,
        generation=generation,
        now=now,
    )


def _bounded(message: str) -> str:
    return message if len(message) <= MAX_MESSAGE else message[: MAX_MESSAGE - 1] + "…"
