"""Which metric counts what, and what has to be refuted about it: pure. `gates` is the test itself."""

from __future__ import annotations

import math
from dataclasses import dataclass

from luthier.api.modeldeployment import Analysis, AnalysisMetric, ModelDeploymentSpec
from luthier.deployment.counters import Counter, edge_above
from luthier.deployment.gates import Evidence, Hypothesis

DEFAULT_INCREASE = {"Latency": 20, "Satisfaction": 20}
"""Percent. A fifth more down votes: where every fifth vote is down, satisfaction is 5 % lower then."""
MIN_FLOOR = 0.0001
"""Where the floor is all that is asked, it cannot be 0."""

_COUNTED: dict[str, tuple[Counter, Counter]] = {
    "ErrorRate": ("bad", "started"),
    "FormatValidity": ("invalid", "checked"),
    "Latency": ("slow", "slow_of"),
    "LatencyCeiling": ("over", "over_of"),
    "RefusalRate": ("refusals", "started"),
    "Satisfaction": ("down", "rated"),
}
_SUBJECTS = {
    "ErrorRate": "errors",
    "FormatValidity": "invalid answers",
    "RefusalRate": "refusals",
    "Satisfaction": "down votes",
}


@dataclass(frozen=True, kw_only=True)
class Gate:
    """One gating metric, ready to be tested."""

    name: str
    subject: str
    """What its bad requests are called: "errors"."""
    hypothesis: Hypothesis
    bad: Counter
    started: Counter
    slower_edges: int = 0
    """Latency: how many edges above the stable's p95 the candidate's bound lies."""
    over: int | None = None
    """LatencyCeiling: its edge."""

    @property
    def is_latency(self) -> bool:
        return self.bad in ("slow", "over")

    @property
    def is_vote(self) -> bool:
        """Whether people decide what is bad, when and if they like."""
        return self.bad == "down"

    def against(self, evidence: Evidence) -> Hypothesis:
        """Return what must be refuted, given what is known of the stable.

        A stable without responseSchema checks no answer, and never will: its successor is judged by the floor alone.
        """
        if self.bad != "invalid" or evidence.bursts.has_requests:
            return self.hypothesis
        return Hypothesis(ratio=None, floor=max(self.hypothesis.floor or 0.0, MIN_FLOOR))


def gates_of(spec: ModelDeploymentSpec) -> tuple[Gate, ...]:
    """Return the gating metrics of a spec, defaults filled in."""
    metrics = spec.rollout.analysis.metrics
    if metrics is None:
        names = ["ErrorRate", "Latency", *(["FormatValidity"] if spec.response_schema else [])]
        # Votes of anybody gate only where a person has asked for it: else one client could hold back any candidate.
        names += ["Satisfaction"] if spec.feedback is not None and spec.feedback.identity_header else []
        metrics = [AnalysisMetric.model_validate({"name": name}) for name in names]
    return tuple(_gate(metric) for metric in metrics)


def _gate(metric: AnalysisMetric) -> Gate:
    bad, started = _COUNTED[metric.name]
    increase = metric.max_increase_percent
    if increase is None:
        increase = DEFAULT_INCREASE.get(metric.name, 10)
    floor = float(metric.floor_percent) / 100
    if metric.name == "Latency":
        edges = max(1, round(2 * math.log1p(increase / 100) / math.log(1.2)))
        hypothesis = Hypothesis(ratio=1.0, floor=None)
        return Gate(
            name=metric.name, subject="slow", hypothesis=hypothesis, bad=bad, started=started, slower_edges=edges
        )
    if metric.name == "LatencyCeiling":
        over = edge_above(float(metric.ceiling_seconds or "0"))
        hypothesis = Hypothesis(ratio=None, floor=max(floor, MIN_FLOOR))
        subject = f"over {metric.ceiling_seconds} s"
        return Gate(name=metric.name, subject=subject, hypothesis=hypothesis, bad=bad, started=started, over=over)
    hypothesis = Hypothesis(ratio=1 + increase / 100, floor=floor if floor > 0 else None)
    return Gate(name=metric.name, subject=_SUBJECTS[metric.name], hypothesis=hypothesis, bad=bad, started=started)


def threshold(analysis: Analysis, metrics: int) -> float:
    """Return the evidence that a fail needs: the allowed chance of a false rollback is shared by the metrics."""
    return 1000 * metrics / analysis.false_rollback_permille


def requests_per_sample(spec: ModelDeploymentSpec) -> int:
    """Return how many requests may share one fate: those of a conversation that is kept on one revision."""
    return spec.rollout.affinity.requests_per_conversation if spec.rollout.affinity else 1
