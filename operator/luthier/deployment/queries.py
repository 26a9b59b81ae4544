"""Custom metrics: a query for each side, judged against fixed bounds or against the stable: pure.

They are no statistical test: each measurement is over its bound or not, and `failureLimit` says how many may be at one
weight. What is not exactly one finite number is no measurement: it never passes, and never fails.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from luthier.api.modeldeployment import AnalysisQuery, AnalysisStatus, QueryStatus
from luthier.ports import Sample


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One measurement: a value for each side that was asked, or why there is none."""

    name: str
    candidate: float | None = None
    stable: float | None = None
    problem: str | None = None


def render(query: AnalysisQuery, *, namespace: str, prefix: str) -> str:
    """Return the PromQL of one side. What is put in is made of letters, digits and dashes: nothing to escape."""
    text = query.query.replace("$namespace", namespace).replace("$pods", f"{prefix}.*")
    return text.replace("$window", f"{query.window_seconds}s")


def is_relative(query: AnalysisQuery) -> bool:
    """Say whether the stable has to be asked too."""
    return query.max_increase_percent is not None or query.max_decrease_percent is not None


def single_value(samples: Sequence[Sample]) -> float:
    """Return the one number of a reply.

    Raises:
        ValueError: There is none, or more than one, or it is not finite.
    """
    if len(samples) != 1:
        raise ValueError(f"{len(samples)} series instead of one: aggregate them with sum() or avg()")
    value = samples[0].value
    if not math.isfinite(value):
        raise ValueError(f"the result is {value}: nothing was measured")
    return value


def due(
    queries: Sequence[AnalysisQuery], stored: AnalysisStatus | None, *, in_force_at: datetime | None, now: datetime
) -> list[AnalysisQuery]:
    """Return the queries to ask now: none before the weight's whole window has passed."""
    if in_force_at is None:
        return []
    known = {q.name: q for q in stored.queries} if stored else {}
    found = []
    for query in queries:
        old = known.get(query.name)
        first_at = in_force_at + timedelta(seconds=query.window_seconds)
        is_old = old is None or now >= old.measured_at + timedelta(seconds=query.interval_seconds)
        if now >= first_at and (is_old or (old is not None and old.measured_at < in_force_at)):
            found.append(query)
    return found


def judge(
    queries: Sequence[AnalysisQuery],
    answers: Sequence[Answer],
    stored: AnalysisStatus | None,
    *,
    in_force_at: datetime | None,
    now: datetime,
) -> tuple[QueryStatus, ...]:
    """Return where each query stands, at the weight that is in force."""
    known = {q.name: q for q in stored.queries} if stored else {}
    asked = {answer.name: answer for answer in answers}
    found = []
    for query in queries:
        old = known.get(query.name)
        if old is not None and (in_force_at is None or old.measured_at < in_force_at):
            old = None  # of another weight
        answer = asked.get(query.name)
        status = _measured(query, answer, old, now) if answer is not None else old
        if status is not None:
            found.append(status)
    return tuple(found)


def _measured(query: AnalysisQuery, answer: Answer, old: QueryStatus | None, now: datetime) -> QueryStatus:
    failures = old.failures if old else 0
    at = now.replace(microsecond=0)
    if answer.problem is not None or answer.candidate is None:
        message = (answer.problem or "no value")[:300]
        return QueryStatus(name=query.name, outcome="Inconclusive", failures=failures, measured_at=at, message=message)
    broken = _broken_bound(query, answer.candidate, answer.stable)
    failures += broken is not None
    said = f"{answer.candidate:.6g}" + (f" vs {answer.stable:.6g}" if answer.stable is not None else "")
    if broken is None:
        return QueryStatus(name=query.name, outcome="Pass", failures=failures, measured_at=at, message=said)
    outcome = "Fail" if failures > query.failure_limit else "Inconclusive"
    message = f"{said}, {broken} ({failures} of {query.failure_limit} failures allowed)"
    return QueryStatus.model_validate(
        {"name": query.name, "outcome": outcome, "failures": failures, "measuredAt": at, "message": message[:300]}
    )


def _broken_bound(query: AnalysisQuery, candidate: float, stable: float | None) -> str | None:
    if query.max is not None and candidate > float(query.max):
        return f"above {query.max}"
    if query.min is not None and candidate < float(query.min):
        return f"below {query.min}"
    if stable is None:
        return None
    # Of the stable's size: a bound on a negative number lies on the same side.
    if (rise := query.max_increase_percent) is not None and candidate > stable + abs(stable) * rise / 100:
        return f"more than {rise} % above the stable"
    if (fall := query.max_decrease_percent) is not None and candidate < stable - abs(stable) * fall / 100:
        return f"more than {fall} % below the stable"
    return None
