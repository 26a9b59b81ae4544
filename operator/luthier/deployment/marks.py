"""By what ModelDeployments are found among thousands, without looking at each: pure.

What an object is marked with is taken when it is seen, and must not fail on one that an older schema let in.
"""

from __future__ import annotations

from luthier.plan import Json
from luthier.resources import MODELDEPLOYMENT

ROLLING_OUT = "rolling out"
"""There is a candidate to compare with a stable: the fast lane polls their pods."""
Address = tuple[str, ...]
"""Gateway, listener, host and path: at most one object may serve there."""


def marks_of(obj: Json) -> set[str | Address]:
    """Return an object's marks; the other kinds have none."""
    if obj["kind"] != MODELDEPLOYMENT.kind:
        return set()
    return {*addresses_of(obj), *((ROLLING_OUT,) if is_rolling_out(obj) else ())}


def addresses_of(obj: Json) -> set[Address]:
    """Return where a ModelDeployment wants to be reached."""
    gateway = obj.get("spec", {}).get("gateway", {})
    return {
        (
            ref.get("namespace", obj["metadata"]["namespace"]),
            ref.get("name", ""),
            ref.get("sectionName", ""),
            host,
            gateway.get("pathPrefix", "/"),
        )
        for ref in gateway.get("parentRefs") or ()
        for host in gateway.get("hostnames") or [""]
    }


def is_rolling_out(obj: Json) -> bool:
    """Say whether there is a candidate to compare with a stable."""
    status: Json = obj.get("status", {})
    return {"stable", "candidate", "rollout"} <= status.keys()
