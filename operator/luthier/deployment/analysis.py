"""One look at a rollout: from raw samples to an outcome per metric and one for all: pure.

`gates` is the test, `counters` the counting; here is which metric counts what, how its memory grows look by look, and
when the outcome is Pass, Fail, Inconclusive or Error. No data, stale data, data of only some pods: never a Pass.

The memory is replayed from what status holds: it advances on a fixed grid of looks, so a pass after a restart of the
operator computes what the pass before it did.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Literal

from luthier.api.modeldeployment import Analysis, AnalysisMetric, MetricStatus, ModelDeploymentSpec
from luthier.deployment import gates
from luthier.deployment.counters import (
    ArmCounts,
    Counter,
    Edges,
    Pods,
    edge_above,
    nearest_edge,
    newest_by_pod,
    pods_from_json,
    pods_to_json,
    split_by_look,
    timelines,
)
from luthier.deployment.gates import Counts, Evidence, Hypothesis
from luthier.ports import Sample
from luthier_server.counters import EDGES

Outcome = Literal["Pass", "Fail", "Inconclusive", "Error"]
VERSION = 2
"""Of the memory: another one is begun anew, and replays what Prometheus still has."""
MAX_LOOKS = 3600
MEMORY_LIMIT = 60_000
"""Bytes of the memory in status; above, the pods' counters are left out (the next pass finds them in Prometheus)."""
EDGE_SECONDS = 120.0
WARM_UP_REQUESTS = 20
WARM_UP_SECONDS = 60.0
"""Left out of latency after a weight change, whichever comes first: caches fill, connections open. The time counts
only once a request has come: an idle minute warms nothing. Requests alone would never end it where clients hang."""
STALE_SCRAPES = 3
COMPARABLE_LOAD = (0.5, 2.0)
"""Candidate over stable, requests per ready pod: outside, equal speed proves nothing."""
UNHEALTHY_RATE = 0.20
"""A stable that fails this much is nothing to compare with."""
SUSPICION = 10.0
"""Evidence that is no Fail and no Pass either: the step waits until it has grown or gone."""
MIN_REQUESTS_FOR_P95 = 20
DEFAULT_INCREASE = {"Latency": 20}
MIN_FLOOR = 0.0001
"""Where the floor is all that is asked, it cannot be 0."""

_COUNTED: dict[str, tuple[Counter, Counter]] = {
    "ErrorRate": ("bad", "started"),
    "FormatValidity": ("invalid", "checked"),
    "Latency": ("slow", "slow_of"),
    "LatencyCeiling": ("over", "over_of"),
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
    subject = "errors" if metric.name == "ErrorRate" else "invalid answers"
    return Gate(name=metric.name, subject=subject, hypothesis=hypothesis, bad=bad, started=started)


def threshold(analysis: Analysis, metrics: int) -> float:
    """Return the evidence that a fail needs: the allowed chance of a false rollback is shared by the metrics."""
    return 1000 * metrics / analysis.false_rollback_permille


@dataclass(frozen=True, kw_only=True)
class Memory:
    """What the test remembers between two passes."""

    at: float
    """End of the last look, Unix seconds."""
    since: float | None = None
    """When the weight that is judged came into force; None: not yet, looks only teach how bursty the stable is."""
    restarts: int = 0
    restarted_at: float = 0.0
    candidate_started: int = 0
    """Since the weight last changed."""
    warm_at: float | None = None
    """When enough of them had started for the latency tests; None: not yet."""
    edge: int | None = None
    """The edge nearest the stable's p95: chosen before the strata that it judges."""
    edge_at: float = 0.0
    pods: Pods = field(default_factory=dict)
    evidence: Mapping[str, Evidence] = field(default_factory=dict)

    def edges(self, gating: Sequence[Gate]) -> Edges:
        """Return the edges to read next."""
        slow = next((g.slower_edges for g in gating if g.name == "Latency"), None)
        over = next((g.over for g in gating if g.over is not None), None)
        if slow is None or self.edge is None:
            return Edges(over=over)
        return Edges(slow_candidate=min(self.edge + slow, len(EDGES) - 1), slow_stable=self.edge, over=over)

    def wants_edge(self, gating: Sequence[Gate], now: float) -> bool:
        """Say whether the stable's p95 has to be found (again)."""
        return any(g.name == "Latency" for g in gating) and (self.edge is None or now >= self.edge_at + EDGE_SECONDS)

    def dump(self) -> str:
        """Return it as compact JSON for status."""
        value = {
            "v": VERSION,
            "at": self.at,
            "since": self.since,
            "r": [self.restarts, self.restarted_at],
            "warm": [self.candidate_started, self.warm_at],
            "edge": [self.edge, self.edge_at],
            "pods": pods_to_json(self.pods),
            "m": {name: e.to_json() for name, e in self.evidence.items()},
        }
        text = json.dumps(value, separators=(",", ":"))
        return text if len(text) <= MEMORY_LIMIT else json.dumps({**value, "pods": {}}, separators=(",", ":"))


def load(text: str | None) -> Memory | None:
    """Read what `Memory.dump` wrote; None when there is nothing that this version understands."""
    if not text:
        return None
    try:
        value = json.loads(text)
        if value["v"] != VERSION:
            return None
        restarts, restarted_at = value["r"]
        candidate_started, warm_at = value["warm"]
        edge, edge_at = value["edge"]
        return Memory(
            at=value["at"],
            since=value["since"],
            restarts=restarts,
            restarted_at=restarted_at,
            candidate_started=candidate_started,
            warm_at=warm_at,
            edge=edge,
            edge_at=edge_at,
            pods=pods_from_json(value["pods"]),
            evidence={name: Evidence.from_json(e) for name, e in value["m"].items()},
        )
    except (KeyError, TypeError, ValueError):
        return None


def begin(now: float) -> Memory:
    """Return an empty memory whose first looks are the stable's last hour."""
    return Memory(at=math.floor(now - gates.BURST_WINDOW_SECONDS))


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What observe brought from Prometheus."""

    samples: tuple[Sample, ...] = ()
    query: str = ""
    p95_edge: int | None = None
    error: str | None = None


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What the counts have to be read with."""

    now: datetime
    interval_seconds: float
    scrape_seconds: float
    weight: int
    in_force_at: datetime | None
    candidate_prefix: str
    stable_prefix: str
    candidate_ready: tuple[tuple[str, str], ...]
    """(uid, name) of the ready pods."""
    stable_ready: tuple[tuple[str, str], ...]
    min_samples: int
    threshold: float


@dataclass(frozen=True, kw_only=True)
class Reading:
    """The newest look."""

    outcome: Outcome
    code: str
    """For the verdict column: NotYet(37/100), CoverageLow, Pass."""
    message: str
    metrics: tuple[MetricStatus, ...]
    memory: Memory
    failed_at: datetime | None = None


def read(memory: Memory | None, gating: Sequence[Gate], measured: Measured, scene: Scene) -> Reading:
    """Take in what Prometheus has, and judge."""
    now = scene.now.timestamp()
    memory = memory or begin(now)
    if measured.error is not None:
        return _unavailable(memory, gating, measured, scene)
    arms = {scene.candidate_prefix: "candidate", scene.stable_prefix: "stable"}
    found = timelines(measured.samples, arms=arms, edges=memory.edges(gating))  # type: ignore[arg-type]
    seconds = max(scene.interval_seconds, (now - memory.at) / MAX_LOOKS)
    looks = max(0, math.floor((now - memory.at) / seconds + 1e-6))
    counts, pods = split_by_look(found, memory.pods, after=memory.at, seconds=seconds, looks=looks)
    memory, failed_at = _replay(replace(memory, pods=pods), gating, counts, seconds=seconds, scene=scene)
    if measured.p95_edge is not None and memory.wants_edge(gating, now):
        memory = _with_edge(memory, measured.p95_edge, now)
    missing = _missing(newest_by_pod(found), scene)
    metrics = tuple(_judge(gate, memory, scene, measured) for gate in gating)
    outcome, code, message = _together(gating, metrics, memory, scene, missing)
    return Reading(outcome=outcome, code=code, message=message, metrics=metrics, memory=memory, failed_at=failed_at)


def _replay(
    memory: Memory, gating: Sequence[Gate], looks: Sequence[ArmCounts], *, seconds: float, scene: Scene
) -> tuple[Memory, datetime | None]:
    for counts in looks:
        memory = _look(memory, gating, counts, end=memory.at + seconds, scene=scene)
        if any(_failed(gate, memory, scene) for gate in gating):
            # A fail is valid at the look that shows it: what came later may not talk it away.
            return memory, datetime.fromtimestamp(memory.at, UTC)
    return memory, None


def _look(memory: Memory, gating: Sequence[Gate], counts: ArmCounts, *, end: float, scene: Scene) -> Memory:
    memory = _restarted(memory, gating, end=end, in_force_at=scene.in_force_at)
    evidence = {}
    for gate in gating:
        old = memory.evidence.get(gate.name, Evidence())
        taken = Counts(
            candidate_bad=counts.candidate[gate.bad],
            candidate_started=counts.candidate[gate.started],
            stable_bad=counts.stable[gate.bad],
            stable_started=counts.stable[gate.started],
        )
        if gate.slower_edges and memory.edge is None:
            evidence[gate.name] = old  # Nobody counts slow ones yet: none seen is not none there.
        elif memory.since is None or (gate.is_latency and not _is_warm(memory, gate, scene)):
            bursts = old.bursts.seen(at=end, started=taken.stable_started, bad=taken.stable_bad)
            evidence[gate.name] = replace(old, bursts=bursts)
        else:
            evidence[gate.name] = gates.look(old, gate.against(old), taken, at=end)
    return _warmed(replace(memory, at=end, evidence=evidence), counts.candidate["started"])


def _is_warm(memory: Memory, gate: Gate, scene: Scene) -> bool:
    """Say whether the look after the memory's shows only requests that began after the warm-up.

    A request is counted when it has reached the edge's age: those of the warm-up are still to come until then.
    """
    edge = gate.over if gate.over is not None else min((memory.edge or 0) + gate.slower_edges, len(EDGES) - 1)
    # The look's first sample is compared with one that is up to a scrape older than the look.
    return memory.warm_at is not None and memory.at >= memory.warm_at + EDGES[edge] + scene.scrape_seconds


def _warmed(memory: Memory, started: int) -> Memory:
    """Return it after so many more candidate requests."""
    if memory.since is None:
        return replace(memory, candidate_started=0)
    started += memory.candidate_started
    is_over = started >= WARM_UP_REQUESTS or (started > 0 and memory.at - memory.since >= WARM_UP_SECONDS)
    warm_at = memory.at if is_over and memory.warm_at is None else memory.warm_at
    return replace(memory, candidate_started=started, warm_at=warm_at)


def _restarted(memory: Memory, gating: Sequence[Gate], *, end: float, in_force_at: datetime | None) -> Memory:
    """Restart the evidence when the weight has changed, and every 120 s."""
    since = in_force_at.timestamp() if in_force_at else None
    changed = since is not None and since != memory.since and end > since
    due = memory.since is not None and end - memory.restarted_at > gates.RESTART_SECONDS
    if not changed and not due:
        return memory
    restarts = memory.restarts + 1
    old = {gate.name: memory.evidence.get(gate.name, Evidence()) for gate in gating}
    evidence = {name: gates.restart(e, restarts) for name, e in old.items()}
    memory = replace(memory, restarts=restarts, restarted_at=end, evidence=evidence)
    if not changed:
        return memory
    fresh = {name: replace(e, totals=Counts()) for name, e in evidence.items()}
    return replace(memory, since=since, candidate_started=0, warm_at=None, evidence=fresh)


def _with_edge(memory: Memory, edge: int, now: float) -> Memory:
    memory = replace(memory, edge_at=now)
    if edge == memory.edge:
        return memory
    # Another edge is another counter: what is open was counted by the old one.
    evidence = dict(memory.evidence)
    if "Latency" in evidence:
        evidence["Latency"] = replace(evidence["Latency"], stratum=Counts())
    pods = {pod: counters.without("slow", "slow_of") for pod, counters in memory.pods.items()}
    return replace(memory, edge=edge, pods=pods, evidence=evidence)


def choose_p95_edge(samples: Sequence[Sample]) -> int | None:
    """Return the edge nearest the p95 from `increase()` by edge and, without that label, of all requests."""
    started = sum(s.value for s in samples if "edge" not in s.labels)
    if started < MIN_REQUESTS_FOR_P95:
        return None
    above = {nearest_edge(float(s.labels["edge"])): s.value for s in samples if "edge" in s.labels}
    if not above:
        return None
    return min(above, key=lambda edge: (abs(above[edge] / started - 0.05), edge))


def _failed(gate: Gate, memory: Memory, scene: Scene) -> bool:
    evidence = memory.evidence.get(gate.name, Evidence())
    return gates.has_failed(evidence, gate.against(evidence), threshold=scene.threshold)


def _missing(newest: Mapping[str, float], scene: Scene) -> tuple[str, ...]:
    """Return the ready pods without a fresh sample."""
    oldest = scene.now.timestamp() - STALE_SCRAPES * scene.scrape_seconds
    ready = (*scene.candidate_ready, *scene.stable_ready)
    return tuple(name for uid, name in ready if newest.get(uid, newest.get(name, 0.0)) < oldest)


def _judge(gate: Gate, memory: Memory, scene: Scene, measured: Measured) -> MetricStatus:
    evidence = memory.evidence.get(gate.name, Evidence())
    n = evidence.totals
    outcome: Outcome = "Inconclusive"
    log_e = gates.log_evidence(evidence, gate.against(evidence))
    why = f"{n.candidate_started} of {scene.min_samples} candidate requests"
    if _failed(gate, memory, scene):
        outcome = "Fail"
        why = f"evidence {gates.format_log(log_e)} ≥ {scene.threshold:g}"
    elif n.candidate_started >= scene.min_samples:
        blocked = _cannot_pass(gate, memory, scene, log_e)
        outcome = "Inconclusive" if blocked else "Pass"
        why = blocked or f"evidence {gates.format_log(log_e)} < {scene.threshold:g}"
    return MetricStatus(
        name=gate.name,
        outcome=outcome,
        candidate_bad=n.candidate_bad,
        candidate_started=n.candidate_started,
        stable_bad=n.stable_bad,
        stable_started=n.stable_started,
        evidence=gates.format_log(log_e),
        threshold=f"{scene.threshold:g}",
        message=f"{describe(gate.subject, n)}; {why}"[:512],
        query=measured.query[:512],
    )


def _cannot_pass(gate: Gate, memory: Memory, scene: Scene, log_e: float) -> str | None:
    """Return why enough samples are still no pass."""
    if log_e >= math.log(SUSPICION):
        return f"Suspected: evidence {gates.format_log(log_e)} of {scene.threshold:g} for a fail"
    evidence = memory.evidence[gate.name]
    n = evidence.totals
    if gate.against(evidence).ratio is not None and n.stable_started == 0:
        return "the stable had no requests to compare with"
    if gate.name != "Latency":
        return None
    load = _load_ratio(n.candidate_started, n.stable_started, scene)
    if load is None or not COMPARABLE_LOAD[0] <= load <= COMPARABLE_LOAD[1]:
        shown = "unknown" if load is None else f"{load:.2g} times the stable's"
        return f"NotComparable: requests per candidate pod are {shown}, need 0.5 to 2 times"
    return None


def _load_ratio(candidate: float, stable: float, scene: Scene) -> float | None:
    pods_c, pods_s = len(scene.candidate_ready), len(scene.stable_ready)
    return (candidate / pods_c) / (stable / pods_s) if pods_c and pods_s and stable else None


def is_required(gate: Gate, scene: Scene) -> bool:
    """Say whether a metric can pass at this weight at all.

    With r pods on both sides, latency is comparable from about 33 % on. Below that it can fail but never pass, and an
    analysis step that waited for it would wait for ever.
    """
    if gate.name != "Latency":
        return True
    load = _load_ratio(scene.weight, 100 - scene.weight, scene)
    return load is not None and COMPARABLE_LOAD[0] <= load <= COMPARABLE_LOAD[1]


def _together(
    gating: Sequence[Gate], metrics: Sequence[MetricStatus], memory: Memory, scene: Scene, missing: Sequence[str]
) -> tuple[Outcome, str, str]:
    failed = [m for m in metrics if m.outcome == "Fail"]
    if failed:
        return "Fail", "Fail", failed[0].message
    if missing:  # before any weight too: who cannot be seen gets none
        message = f"no sample within {STALE_SCRAPES} scrapes of {len(missing)} ready pod(s): {', '.join(missing[:3])}"
        return "Inconclusive", "CoverageLow", message
    if memory.since is None:
        return "Inconclusive", "NotYet", "the weight is not in force yet"
    required = [m for gate, m in zip(gating, metrics, strict=True) if is_required(gate, scene)]
    if unhealthy := _unhealthy(gating, memory):
        return "Inconclusive", "BaselineUnhealthy", unhealthy
    least = min([memory.candidate_started, *(m.candidate_started for m in required)])
    if least < scene.min_samples:
        code = f"NotYet({least}/{scene.min_samples})"
        return "Inconclusive", code, f"{least} of {scene.min_samples} candidate requests at {scene.weight} %"
    undecided = [m for m in required if m.outcome != "Pass"]
    if undecided:
        said = undecided[0].message
        code = next((word for word in ("Suspected", "NotComparable") if word in said), "NotYet")
        return "Inconclusive", code, said
    return "Pass", "Pass", "; ".join(m.message for m in required)[:512]


def _unhealthy(gating: Sequence[Gate], memory: Memory) -> str | None:
    for gate in gating:
        # Of recent minutes: an hour of good answers hides an outage, and one that is over is no reason to wait.
        started, bad = memory.evidence.get(gate.name, Evidence()).bursts.recent(memory.at)
        if gate.name == "ErrorRate" and bad >= gates.MIN_BAD_TO_FAIL and bad > UNHEALTHY_RATE * started:
            return f"the stable itself fails ({bad}/{started} in the last minutes): nothing to compare with"
    return None


def _unavailable(memory: Memory, gating: Sequence[Gate], measured: Measured, scene: Scene) -> Reading:
    metrics = tuple(_judge(gate, memory, scene, measured).model_copy(update={"outcome": "Error"}) for gate in gating)
    return Reading(
        outcome="Error",
        code="MetricsUnavailable",
        message=(measured.error or "")[:512],
        metrics=metrics,
        memory=memory,
    )


def describe(subject: str, n: Counts | MetricStatus) -> str:
    """Return the counts as people say them: `errors 41 % (21/51) vs 0.8 % (2/251)`."""
    candidate = f"{subject} {_percent(n.candidate_bad, n.candidate_started)} ({n.candidate_bad}/{n.candidate_started})"
    return f"{candidate} vs {_percent(n.stable_bad, n.stable_started)} ({n.stable_bad}/{n.stable_started})"


def _percent(bad: int, started: int) -> str:
    if not started:
        return "- %"
    share = 100 * bad / started
    return f"{share:.0f} %" if share >= 10 or share == 0 else f"{share:.1f} %"
