"""Kubernetes events about our objects: equal ones within ten minutes become one with a count.

Pure: `EventLog.record` returns the Event to apply; whoever runs a plan sends it, after the status was written.
What was said is remembered in this process only: after a restart an equal event starts a new count.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from luthier.plan import Event, Json, Manifest
from luthier.status import format_time

WINDOW = timedelta(minutes=10)
COMPONENT = "luthier"
_MAX_MESSAGE = 1024
"""The API server refuses longer ones."""
_MAX_REMEMBERED = 10_000

_Said = tuple[str, str, str, str]


@dataclass(frozen=True, kw_only=True)
class _Series:
    name: str
    first: datetime
    last: datetime
    count: int


class EventLog:
    """What was said about which object, for as long as it may be said again."""

    def __init__(self, reporter: str) -> None:
        self._reporter = reporter
        self._series: dict[_Said, _Series] = {}

    def record(self, obj: Json, event: Event, now: datetime) -> Manifest:
        """Return the Event to apply: a new one, or the known one with its count raised."""
        said = (obj["metadata"]["uid"], event.type, event.reason, event.message)
        known = self._series.pop(said, None)
        if known is None or now - known.last >= WINDOW:
            # Names of deleted and re-created objects must not meet, and replicas must not share one.
            name = f"{obj['metadata']['name']}.{uuid.uuid4().hex[:16]}"
            known = _Series(name=name, first=now, last=now, count=0)
        known = replace(known, last=now, count=known.count + 1)
        self._series[said] = known  # at the end: the oldest are first
        self._forget(now)
        return self._manifest(obj, event, known)

    def _forget(self, now: datetime) -> None:
        for said, series in list(self._series.items()):
            if now - series.last < WINDOW and len(self._series) <= _MAX_REMEMBERED:
                return
            del self._series[said]

    def _manifest(self, obj: Json, event: Event, series: _Series) -> dict[str, Any]:
        metadata = obj["metadata"]
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": series.name, "namespace": metadata["namespace"]},
            "involvedObject": {
                "apiVersion": obj["apiVersion"],
                "kind": obj["kind"],
                "namespace": metadata["namespace"],
                "name": metadata["name"],
                "uid": metadata["uid"],
            },
            "type": event.type,
            "reason": event.reason,
            "message": event.message[:_MAX_MESSAGE],
            "count": series.count,
            "firstTimestamp": format_time(series.first),
            "lastTimestamp": format_time(series.last),
            "source": {"component": COMPONENT},
            "reportingComponent": COMPONENT,
            "reportingInstance": self._reporter,
        }
