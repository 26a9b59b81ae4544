"""After a rollback: when was the last request, and do requests still arrive: pure.

The route says 0 and the gateway has accepted it; only the pods' own counters say whether that is so. Nothing is decided
by it: people are told.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise

from luthier.api.modeldeployment import HistoryEntry
from luthier.ports import Sample

LATE = timedelta(seconds=30)
"""Requests that begin so long after the weight 0 was written should not be."""
QUIET = timedelta(seconds=120)
"""So long without one, and it is over."""
LONGEST = timedelta(minutes=15)
LOOK_EVERY = timedelta(seconds=15)
_ENDS = ("RolledBack", "Aborted", "Superseded")


@dataclass(frozen=True, kw_only=True)
class Aftermath:
    """What reached a revision after its weight became 0."""

    last_at: datetime | None
    """The scrape that saw the last request, in whole seconds; None: none was seen since shortly before."""
    late: int


def followed_entry(history: Sequence[HistoryEntry], now: datetime) -> HistoryEntry | None:
    """Return the newest ending if it is one to look after: it took traffic away, and not long ago."""
    entry = history[0] if history else None
    if entry is None or entry.outcome not in _ENDS or entry.weight_written_at is None:
        return None
    newest = max(entry.weight_written_at, entry.last_candidate_request_at or entry.weight_written_at)
    return entry if now - newest <= QUIET and now - entry.weight_written_at <= LONGEST else None


def read(samples: Iterable[Sample], written_at: datetime) -> Aftermath:
    """Difference the counters of started requests, pod by pod.

    A request falls between two scrapes: it is late only if both are.
    """
    by_pod: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for sample in samples:
        if 0 <= sample.value < math.inf:
            by_pod[sample.labels.get("pod_uid") or sample.labels.get("pod", "")].append((sample.at, sample.value))
    last, late, bound = 0.0, 0.0, (written_at + LATE).timestamp()
    for series in by_pod.values():
        series.sort()
        for (before_at, before), (at, value) in pairwise(series):
            grown = value if value < before else value - before
            if grown <= 0:
                continue
            last = max(last, at)
            late += grown if before_at >= bound else 0.0
    seen_at = datetime.fromtimestamp(last, UTC).replace(microsecond=0) if last else None
    return Aftermath(last_at=seen_at, late=round(late))
