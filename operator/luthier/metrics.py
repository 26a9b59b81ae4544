"""What the operator counts about itself, for `/metrics`; one registry per operator, so that tests can have several."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from luthier.api.conditions import ConditionType
from luthier.plan import Json
from luthier.rolloutgauges import RolloutGauges
from luthier.status import RECONCILING, STALLED

SHOWN = (RECONCILING, STALLED, ConditionType.OVERRIDDEN, ConditionType.HELD)
WRITE_VERBS = ("create", "apply", "replace", "delete")
_RECONCILE_EDGES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30)


class Metrics:
    """All series of one operator."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "luthier_kube_requests",
            "Requests to the API server; code 0: no answer.",
            ["verb", "resource", "code"],
            registry=self.registry,
        )
        self.reconcile_seconds = Histogram(
            "luthier_reconcile_seconds", "One pass.", ["kind"], buckets=_RECONCILE_EDGES, registry=self.registry
        )
        self.reconciles = Counter(
            "luthier_reconciles", "Passes by how they ended.", ["kind", "result"], registry=self.registry
        )
        self.queue_depth = Gauge(
            "luthier_queue_depth", "Objects that are due and wait for a worker.", registry=self.registry
        )
        self.working = Gauge("luthier_queue_working", "Objects that are being worked on.", registry=self.registry)
        self.leader = Gauge("luthier_leader", "1 while this replica holds the Lease.", registry=self.registry)
        self.watch_age = Gauge(
            "luthier_watch_age_seconds", "Since a watch was last heard of.", ["resource"], registry=self.registry
        )
        self.relists = Counter(
            "luthier_watch_relists", "Watches that began again from a list.", ["resource"], registry=self.registry
        )
        self.kopf_starts = Counter(
            "luthier_kopf_starts", "Starts of kopf; one after the first is a restart.", registry=self.registry
        )
        self.conditions = Gauge(
            "luthier_condition",
            "1 for each condition of an object that exists only when True, by reason: what alerts look at.",
            ["kind", "namespace", "name", "type", "reason"],
            registry=self.registry,
        )
        self.rollouts = RolloutGauges(self.registry)
        self.polls = Counter(
            "luthier_fast_polls",
            "Pods asked for their counters, by whether they told.",
            ["result"],
            registry=self.registry,
        )
        self.late_requests = Gauge(
            "luthier_rollback_late_requests",
            "Requests to the revision that was taken back last, later than 30 s after its weight became 0.",
            ["namespace", "name", "revision"],
            registry=self.registry,
        )
        self.events_lost = Counter(
            "luthier_events_lost", "Kubernetes events that could not be posted.", registry=self.registry
        )

    def count_poll(self, answered: bool) -> None:
        """Count one poll of the fast lane."""
        self.polls.labels("ok" if answered else "none").inc()

    def show(self, objects: Iterable[Json]) -> None:
        """Show what the statuses of these objects say, looking at each once; forget all earlier ones."""
        self.conditions.clear()
        self.late_requests.clear()
        self.rollouts.clear()
        for obj in objects:
            self._show_conditions(obj)
            self._show_rollbacks(obj)
            self.rollouts.show(obj)

    def _show_conditions(self, obj: Json) -> None:
        """Show the conditions that exist only when something is going on or wrong."""
        meta = obj["metadata"]
        for condition in obj.get("status", {}).get("conditions", []):
            if condition["type"] in SHOWN:
                labels = (obj["kind"], meta["namespace"], meta["name"], condition["type"], condition["reason"])
                self.conditions.labels(*labels).set(1)

    def _show_rollbacks(self, obj: Json) -> None:
        """Show what still reached a revision after its rollback; 0 from the start, so that a growth can be seen."""
        newest: Json = next(iter(obj.get("status", {}).get("history", [])), {})
        if newest.get("weightWrittenAt"):
            meta = obj["metadata"]
            labels = (meta["namespace"], meta["name"], newest["revision"])
            self.late_requests.labels(*labels).set(newest.get("lateRequests", 0))

    def writes(self) -> int:
        """Return how many writes of objects were sent, not counting the Lease and events."""
        return int(
            sum(
                sample.value
                for metric in self.requests.collect()
                for sample in metric.samples
                if sample.name.endswith("_total")
                and sample.labels["verb"] in WRITE_VERBS
                and sample.labels["resource"] not in ("leases", "events")
            )
        )
