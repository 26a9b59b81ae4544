"""What was judged stays judged: whatever is written later, and whoever was killed in between (O8, O9)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from faults.proxy import Write
from luthier.deployment.build import WITHDRAWN_ANNOTATION
from routes import weights_in

Json = dict[str, Any]
Verdicts = dict[str, str]
"""By what was judged: an object that runs once, or a revision."""
HISTORY = ("outcome", "reason", "step", "weight")


def verdict_violations(writes: Iterable[Write], *, may_forget: bool = False) -> Iterator[str]:
    """Say which verdict was changed or taken away, and which revision got traffic after it was taken back.

    Args:
        writes: All writes of a run, in the order in which they were stored.
        may_forget: A person takes the status away: of a verdict only its outcome and reason are compared, where it is.
    """
    known: dict[str, Verdicts] = {}
    withdrawn: dict[str, int] = {}
    """What each revision that is being taken back may still have: it goes by parts where the stable lacks pods."""
    for write in writes:
        if write.status >= 400 or not write.body:
            continue
        if write.path.endswith("/status"):
            found = verdicts_in(json.loads(write.body).get("status", {}))
            for judged, verdict in known.get(write.path, {}).items():
                if not _is_same(verdict, found.get(judged), may_forget=may_forget):
                    yield f"write {write.number} makes the verdict on {judged} {found.get(judged)}; it was {verdict}"
            known[write.path] = known.get(write.path, {}) | found if may_forget else found
            withdrawn |= {name.partition("-")[0]: 0 for name, said in found.items() if _is_taken_back(said)}
        elif "/httproutes" in write.path:
            route = json.loads(write.body)
            weights = weights_in(route)
            withdrawn = {name: weights.get(name, 0) for name in _noted(route)} | withdrawn
            for name, allowed in withdrawn.items():
                if weights.get(name, 0) > allowed:
                    yield f"write {write.number} gives {name} {weights[name]} % after it was taken back"
                withdrawn[name] = min(allowed, weights.get(name, 0))


def verdicts_in(status: Json) -> Verdicts:
    """Return what a status has judged for good."""
    ends = [entry for entry in status.get("history", []) if entry.get("outcome") != "Interrupted"]  # it resumes
    found = {entry["revision"]: "/".join(str(entry.get(k)) for k in HISTORY) for entry in ends}
    if verdict := status.get("verdict") if "gates" in status or "suites" in status else None:
        found["the model"] = verdict
    for condition in status.get("conditions", []):
        if condition["type"] == "Succeeded" and condition["status"] != "Unknown":
            found["the run"] = f"{condition['status']}/{condition['reason']}"
    return found


def _is_same(was: str, is_: str | None, *, may_forget: bool) -> bool:
    if not may_forget:
        return is_ == was
    return is_ is None or is_.split("/")[:2] == was.split("/")[:2]


def _is_taken_back(verdict: str) -> bool:
    return not verdict.startswith(("Promoted", "True", "False", "Passed", "Failed"))


def _noted(route: Json) -> set[str]:
    """Return whom a route's own note says to be taken back."""
    note = route["metadata"].get("annotations", {}).get(WITHDRAWN_ANNOTATION)
    return {json.loads(note)["revision"].partition("-")[0]} if note else set()
