"""The order of writes, as the API server saw it: who gains traffic stands in status before, and status tells the route.

Also where nobody is killed between two writes: the order is what makes every kill harmless.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from faults.proxy import Write
from routes import cohort_in, weights_in

Json = dict[str, Any]


def order_violations(writes: Iterable[Write], *, routes: Sequence[dict[str, int]], status: Json) -> Iterator[str]:
    """Say what was written too early, or untrue.

    Args:
        writes: All writes of a run, in the order in which they were stored.
        routes: The weights before the first of them, by revision: the last ones, and those that they replaced, since
            the operator may be about to say what it saw before its own write.
        status: The ModelDeployment's status before the first of them.
    """
    routes = [*routes]
    for write in writes:
        if write.status >= 400 or not write.body:
            continue
        if "/httproutes" in write.path:
            body = json.loads(write.body)
            routes.append(weights_in(body))
            yield from _unannounced(write, routes[-2], routes[-1], status)
            yield from _unannounced_cohort(write, cohort_in(body), status)
        elif "/modeldeployments/" in write.path and write.path.endswith("/status"):
            status = json.loads(write.body).get("status", {})
            yield from _untrue(write, routes[-2:], status)


def _unannounced(write: Write, before: dict[str, int], now: dict[str, int], status: Json) -> Iterator[str]:
    for revision, weight in now.items():
        if weight > before.get(revision, 0) and weight > _announced(revision, status):
            yield f"write {write.number} gives {revision} {weight} % before status says so"


def _unannounced_cohort(write: Write, revision: str | None, status: Json) -> Iterator[str]:
    """A rule that is written open is one of the step that status says."""
    if revision is None:
        return
    rollout = status.get("rollout") or {}
    step, steps = rollout.get("step", 0), rollout.get("steps", [])
    is_test = 0 < step <= len(steps) and "abTest" in steps[step - 1]
    if not is_test or _name(status, "candidate") != revision:
        yield f"write {write.number} sends requests with a header to {revision}, and status is at no A/B test of it"


def _announced(revision: str, status: Json) -> int:
    if _name(status, "stable") == revision:
        return 100
    return int(status.get("rollout", {}).get("weight", 0)) if _name(status, "candidate") == revision else 0


def _untrue(write: Write, routes: list[dict[str, int]], status: Json) -> Iterator[str]:
    """The route may have changed since the operator looked, once."""
    shown = status.get("weights")
    if shown is None:
        return
    known = [{side: route.get(_name(status, side), 0) for side in ("stable", "candidate")} for route in routes]
    if {"stable": shown.get("stable", 0), "candidate": shown.get("candidate", 0)} not in known:
        yield f"write {write.number} says weights {shown}, the route has {routes[-1]}"


def _name(status: Json, side: str) -> str:
    return str((status.get(side) or {}).get("name", "")).partition("-")[0]
