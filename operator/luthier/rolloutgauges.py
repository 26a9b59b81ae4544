"""What the ModelDeployments' statuses say, as gauges: for alerts and dashboards. Reads status only, decides nothing.

A dozen series an object, and none outlives what it says: codes, roles and outcomes are closed sets, and each report
begins anew.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Gauge

from luthier.plan import Json

KIND = "ModelDeployment"
_OBJECT = ("namespace", "name")


class RolloutGauges:
    """The gauges of all ModelDeployments that are watched; standbys show the same, so alerts take a maximum."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(name, text, [*_OBJECT, *labels], registry=registry)

        self._serving = gauge("luthier_serving", "1 while clients get answers; absent before the first one.", "reason")
        self._revision = gauge("luthier_revision", "1 for the stable revision and the candidate.", "revision", "role")
        self._traffic = gauge("luthier_traffic_percent", "Share of traffic, as read from the route.", "role")
        self._ready = gauge("luthier_pods_ready", "Pods that answer.", "role")
        self._wanted = gauge("luthier_pods_wanted", "spec.replicas: pods that each revision in use should have.")
        self._step = gauge("luthier_rollout_step", "The step that a rollout is at, from 1.")
        self._steps = gauge("luthier_rollout_steps", "Steps of the rollout in progress, the last to 100 % included.")
        self._look = gauge("luthier_rollout_look", "1 for what the newest look came to.", "outcome", "code")
        self._evidence = gauge(
            "luthier_rollout_evidence_ratio", "Evidence against the candidate; 1 or more is a Fail.", "metric"
        )
        self._ended = gauge("luthier_rollouts_ended", "Ended rollouts that status still remembers.", "outcome")
        self._all = (
            *(self._serving, self._revision, self._traffic, self._ready, self._wanted),
            *(self._step, self._steps, self._look, self._evidence, self._ended),
        )

    def clear(self) -> None:
        """Forget all objects."""
        for gauge in self._all:
            gauge.clear()

    def show(self, obj: Json) -> None:
        """Show an object as it is now, if it is a ModelDeployment."""
        if obj["kind"] == KIND and "status" in obj:
            self._show(obj["metadata"]["namespace"], obj["metadata"]["name"], obj)

    def _show(self, namespace: str, name: str, obj: Json) -> None:
        status = obj["status"]
        serving = next((c for c in status.get("conditions", []) if c["type"] == "Serving"), None)
        if serving is not None and "stable" in status:
            self._serving.labels(namespace, name, serving["reason"]).set(serving["status"] == "True")
        for role in ("stable", "candidate"):
            if role in status:
                self._revision.labels(namespace, name, status[role]["name"], role).set(1)
                self._ready.labels(namespace, name, role).set(status[role].get("readyReplicas", 0))
        for role, percent in status.get("weights", {}).items():
            self._traffic.labels(namespace, name, role).set(percent)
        if "stable" in status or "candidate" in status:
            self._wanted.labels(namespace, name).set(obj["spec"].get("replicas", 1))
        for entry in status.get("history", []):
            self._ended.labels(namespace, name, entry["outcome"]).inc()
        if "rollout" in status:
            self._show_rollout(namespace, name, status["rollout"])

    def _show_rollout(self, namespace: str, name: str, rollout: Json) -> None:
        self._step.labels(namespace, name).set(rollout["step"])
        self._steps.labels(namespace, name).set(len(rollout["steps"]) + 1)
        look = rollout.get("analysis")
        if look is None:
            return
        self._look.labels(namespace, name, look["outcome"], code_of(look.get("message", ""))).set(1)
        for metric in look.get("metrics", []):
            threshold = float(metric.get("threshold", "0"))
            if threshold > 0:
                ratio = float(metric.get("evidence", "0")) / threshold
                self._evidence.labels(namespace, name, metric["name"]).set(ratio)


def code_of(message: str) -> str:
    """Return the code that a look's message begins with, without its numbers: `NotYet` of `NotYet(3/50): …`."""
    return message.partition(":")[0].partition("(")[0]
