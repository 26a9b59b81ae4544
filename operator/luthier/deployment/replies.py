"""What pods say by `/luthier/counters`, as the analysis reads it: pure. A pod is not trusted.

The same counters reach us by Prometheus. Both lanes are merged pod by pod, in the order of time; `counters` then
differences one timeline, so that no request is counted twice, whichever lane brought it first.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from luthier.deployment.counters import (
    BAD_OUTCOMES,
    COUNTERS,
    Arm,
    Column,
    Counter,
    Edges,
    PodCounters,
    PodSeries,
    arm_of,
    vote_counters,
    with_unseen_votes,
)
from luthier.plan import Json
from luthier.ports import PodReply
from luthier_server.counters import EDGES

MAX_COUNT = 2**53
"""Prometheus' numbers are floats: beyond, the two lanes would not agree."""
MIN_REQUESTS_FOR_P95 = 20
MAX_VOTED_REVISIONS = 16
"""A pod shows fewer."""

Found = dict[str, PodSeries]


def parse_reply(value: Json, *, uid: str, name: str, at: float) -> PodReply | None:
    """Return a pod's reply; None when it is not one, or from an older server image."""
    try:
        since = value["countingSince"]
        if isinstance(since, bool) or not isinstance(since, int | float) or not 0 <= since < MAX_COUNT:
            return None
        outcomes = value["outcomes"]
        started = _count(value["started"])
        return PodReply(
            uid=uid,
            name=name,
            at=at,
            process=float(since),
            started=started,
            bad=sum(_count(outcomes[outcome]) for outcome in BAD_OUTCOMES),
            checked=_count(value["checked"]),
            invalid=_count(value["invalidFormat"]),
            critical=_count(value["safetyIncidents"]["critical"]),
            exceeded=_by_edge(value["ageExceeded"]),
            aged=array("q", [_count(started - younger) for younger in _by_edge(value["younger"])]),
            refusals=_count(value["refusals"]) if "refusals" in value else None,
            votes=_votes(value["votes"]) if "votes" in value else None,
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def _count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < MAX_COUNT:
        raise ValueError(f"not a count: {value!r}")
    return value


def _votes(value: Json) -> dict[str, tuple[int, int]]:
    if len(value) > MAX_VOTED_REVISIONS:
        raise ValueError(f"votes on {len(value)} revisions")
    counted = {str(revision): (_count(up), _count(down)) for revision, (up, down) in value.items()}
    return {revision: (up + down, down) for revision, (up, down) in counted.items()}


def _by_edge(values: Sequence[object]) -> array[int]:
    if len(values) != len(EDGES):
        raise ValueError(f"{len(values)} numbers for {len(EDGES)} edges")
    return array("q", map(_count, values))


def reply_timelines(
    replies: Iterable[PodReply], *, arms: Mapping[str, Arm], edges: Edges, revisions: Mapping[str, Arm] | None = None
) -> Found:
    """Return each polled pod's counters by time; `revisions` says whose answers votes are on."""
    found: Found = {}
    for reply in replies:
        arm = arm_of(reply.name, arms)
        if arm is not None:
            series = found.setdefault(reply.uid, PodSeries(arm=arm, timeline={}))
            series.timeline[reply.at] = _row(reply, arm, edges) | _vote_row(reply, arm, revisions or {})
    return found


def _row(reply: PodReply, arm: Arm, edges: Edges) -> dict[Column, float]:
    row: dict[Column, float] = {
        "process": reply.process,
        "started": reply.started,
        "bad": reply.bad,
        "checked": reply.checked,
        "invalid": reply.invalid,
        "critical": reply.critical,
    }
    slow = edges.slow_candidate if arm == "candidate" else edges.slow_stable
    named: tuple[tuple[Counter, Counter, int | None], ...] = (
        ("slow", "slow_of", slow),
        ("over", "over_of", edges.over),
    )
    if reply.refusals is not None:
        row["refusals"] = reply.refusals
    for exceeded, aged, edge in named:
        if edge is not None:
            row[exceeded], row[aged] = reply.exceeded[edge], reply.aged[edge]
    return row


def _vote_row(reply: PodReply, arm: Arm, revisions: Mapping[str, Arm]) -> dict[Column, float]:
    row: dict[Column, float] = {}
    for revision, (rated, down) in (reply.votes or {}).items():
        voted = revisions.get(revision)
        if voted is not None:
            columns = vote_counters(arm, voted, is_down=True)
            row |= dict(zip(columns, (rated, down), strict=True))
    return with_unseen_votes(row)


def merged(scraped: Found, polled: Found, *, names: Mapping[str, str]) -> Found:
    """Return both lanes' samples of each pod as one timeline.

    Args:
        scraped: By UID, or by name where Prometheus has no UIDs.
        polled: By UID.
        names: UID by name, of the polled pods.
    """
    both = {names.get(pod, pod): replace(series, timeline=dict(series.timeline)) for pod, series in scraped.items()}
    for pod, series in polled.items():
        rows = both.setdefault(pod, PodSeries(arm=series.arm, timeline={})).timeline
        for at, row in series.timeline.items():
            rows[at] = {**rows.get(at, {}), **row}
    return both


def last_before(series: PodSeries, before: float) -> PodCounters | None:
    """Return the newest polled counters that are older; None: there are none."""
    at = max((at for at in series.timeline if at <= before), default=None)
    if at is None:
        return None
    row = series.timeline[at]
    return PodCounters(
        arm=series.arm, at=at, process=row.get("process"), values={c: row[c] for c in COUNTERS if c in row}
    )


def unpolled(scraped: Found, polled: Found, *, names: Mapping[str, str]) -> frozenset[str]:
    """Return the pods of the stable that are left out of the counts.

    While some of its pods are polled, the others' numbers come in lumps, a scrape at a time: in an outage of both
    sides, a second of the candidate would be compared with a quarter of a minute of them.
    """
    if not any(series.arm == "stable" for series in polled.values()):
        return frozenset()
    return frozenset(names.get(pod, pod) for pod, s in scraped.items() if s.arm == "stable") - polled.keys()


def nearest_p95(above: Mapping[int, float], started: float) -> int | None:
    """Return the edge that is nearest the p95, from how many requests lived longer than each; None: too few."""
    if started < MIN_REQUESTS_FOR_P95 or not above:
        return None
    return min(above, key=lambda edge: (abs(above[edge] / started - 0.05), edge))


def find_p95_edge(replies: Iterable[PodReply], *, prefix: str) -> int | None:
    """Return the edge nearest the p95 of what the polled pods of one arm did since their oldest reply."""
    first: dict[tuple[str, float], PodReply] = {}
    last: dict[tuple[str, float], PodReply] = {}
    for reply in replies:
        if reply.name.startswith(prefix):
            first.setdefault((reply.uid, reply.process), reply)
            last[reply.uid, reply.process] = reply
    started = sum(last[key].started - first[key].started for key in last)
    above = {i: sum(last[key].exceeded[i] - first[key].exceeded[i] for key in last) for i in range(len(EDGES))}
    return nearest_p95(above, started)


@dataclass(frozen=True, kw_only=True)
class Incident:
    """The candidate did what must never happen."""

    at: datetime
    """The first sample that shows it."""
    message: str


def find_incident(found: Found) -> Incident | None:
    """Return the candidate's first critical safety incident. One suffices, whatever its weight was."""
    times, incidents = [], 0.0
    for series in found.values():
        shown = {at: row["critical"] for at, row in series.timeline.items() if row.get("critical")}
        if series.arm == "candidate" and shown:
            times.append(min(shown))
            incidents += max(shown.values())
    if not times:
        return None
    said = "critical safety incident" + ("s" if incidents > 1 else "")
    return Incident(at=datetime.fromtimestamp(min(times), UTC), message=f"{incidents:.0f} {said} of the candidate")
