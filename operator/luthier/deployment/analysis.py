"""One look at a rollout: from raw samples to an outcome per metric and one for all: pure.

`gates` is the test, `counters` the counting; `metrics` says what is counted, `memory` what is known from
before; here is how that grows look by look, and when the outcome is Pass, Fail, Inconclusive or Error. No data, stale
data, data of only some pods: never a Pass.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Literal

from luthier.api.modeldeployment import MetricStatus, QueryStatus
from luthier.deployment import display, gates
from luthier.deployment.counters import (
    Arm,
    ArmCounts,
    Counter,
    find_flaw,
    nearest_edge,
    split_by_look,
    timelines,
)
from luthier.deployment.detectable import detectable_rate
from luthier.deployment.gates import Counts, Evidence
from luthier.deployment.memory import MIN_RATINGS, Memory, begin
from luthier.deployment.metrics import Gate
from luthier.deployment.queries import Answer
from luthier.deployment.replies import (
    Found,
    find_incident,
    find_p95_edge,
    last_before,
    merged,
    nearest_p95,
    reply_timelines,
    unpolled,
)
from luthier.deployment.split import is_mismatch
from luthier.ports import PodReply, Sample
from luthier_server.counters import EDGES

Outcome = Literal["Pass", "Fail", "Inconclusive", "Error"]
MAX_LOOKS = 3600
WARM_UP_REQUESTS = 20
WARM_UP_SECONDS = 60.0
"""Left out of latency after a weight change, whichever comes first: caches fill, connections open. The time counts
only once a request has come: an idle minute warms nothing. Requests alone would never end it where clients hang."""
STALE_SCRAPES = 3
LAG_SCRAPES = 2
"""By so many scrapes one side may be read later than the other."""
COMPARABLE_LOAD = (0.5, 2.0)
"""Candidate over stable, requests per ready pod: outside, equal speed proves nothing."""
UNHEALTHY_RATE = 0.20
"""A stable that fails this much is nothing to compare with."""
SUSPICION = 10.0
"""Evidence that is no Fail and no Pass either: the step waits until it has grown or gone."""
FAST_LOOK_SECONDS = 1.0
FAST_SPAN_SECONDS = 300.0


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What observe brought from Prometheus and from the fast lane."""

    samples: tuple[Sample, ...] = ()
    replies: tuple[PodReply, ...] = ()
    """The fast lane's: what the pods said themselves."""
    answers: tuple[Answer, ...] = ()
    """Custom metrics, those that were due."""
    query: str = ""
    p95_edge: int | None = None
    error: str | None = None
    """Why there is nothing from Prometheus."""


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
    """Requests, not conversations."""
    threshold: float
    revisions: Mapping[str, Arm] = field(default_factory=dict)
    """The sides by revision's name: votes name it, and any pod takes them."""
    cluster: int = 1
    """Requests of one conversation that all meet the same side, and may fail together."""
    has_cohort: bool = False
    """Requests with a header come beside the candidate's share: how many these are, nobody knows beforehand."""
    running_since: Mapping[str, float] = field(default_factory=dict)
    """When a pod's container started, Unix seconds by the pod's UID; unknown of others."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """The newest look."""

    outcome: Outcome
    code: str
    """For the verdict column: NotYet(37/100), CoverageLow, Pass."""
    message: str
    metrics: tuple[MetricStatus, ...]
    memory: Memory
    queries: tuple[QueryStatus, ...] = ()
    failed_at: datetime | None = None


def read(memory: Memory | None, gating: Sequence[Gate], measured: Measured, scene: Scene) -> Reading:
    """Take in what Prometheus and the pods have said, and judge. Without Prometheus it may fail, and never pass."""
    now = scene.now.timestamp()
    memory = memory or begin(now)
    arms: dict[str, Arm] = {scene.candidate_prefix: "candidate", scene.stable_prefix: "stable"}
    edges = memory.edges(gating)
    scraped = timelines(measured.samples, arms=arms, edges=edges, revisions=scene.revisions)
    polled = reply_timelines(measured.replies, arms=arms, edges=edges, revisions=scene.revisions)
    names = {reply.name: reply.uid for reply in measured.replies}
    found = merged(scraped, polled, names=names)
    seconds = _look_seconds(now - memory.at, scene, has_replies=bool(polled))
    looks = max(0, math.floor((now - memory.at) / seconds + 1e-6))
    uncounted = unpolled(scraped, polled, names=names)
    counts, pods = split_by_look(
        found,
        memory.pods,
        after=memory.at,
        seconds=seconds,
        looks=looks,
        running_since=scene.running_since,
        uncounted=uncounted,
        weight_since=scene.in_force_at.timestamp() if scene.in_force_at else memory.since,
    )
    flaws = _flaws(scraped, polled, replace(memory, pods=pods), gating, scene)
    if found or measured.error is None:  # blind, no time has passed: what comes late is still counted in its look
        memory, failed_at = _replay(replace(memory, pods=pods), gating, counts, seconds=seconds, scene=scene)
    else:
        failed_at = None
    memory = _with_newest_edge(memory, gating, measured, scene)
    metrics = tuple(_judge(gate, memory, scene, measured) for gate in gating)
    outcome: Outcome
    if incident := find_incident(found):
        outcome, code, message, failed_at = "Fail", "SafetyIncident", incident.message, incident.at
    elif measured.error is not None and failed_at is None:
        return _unavailable(memory, metrics, measured.error)
    else:
        outcome, code, message = _together(gating, metrics, memory, scene, flaws)
    return Reading(outcome=outcome, code=code, message=message, metrics=metrics, memory=memory, failed_at=failed_at)


def _look_seconds(span: float, scene: Scene, *, has_replies: bool) -> float:
    """Return how long a look is: a second where pods are polled, but not for the hour that only teaches bursts."""
    if has_replies and span <= FAST_SPAN_SECONDS:
        return FAST_LOOK_SECONDS
    return max(scene.interval_seconds, span / MAX_LOOKS)


def _with_newest_edge(memory: Memory, gating: Sequence[Gate], measured: Measured, scene: Scene) -> Memory:
    now = scene.now.timestamp()
    if not memory.wants_edge(gating, now):
        return memory
    edge = measured.p95_edge
    if edge is None:
        edge = find_p95_edge(measured.replies, prefix=scene.stable_prefix)
    return memory if edge is None else _with_edge(memory, edge, now)


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
        taken = _counts(gate, counts.candidate, counts.stable)
        before = _counts(gate, counts.candidate_before, counts.stable_before)
        if gate.slower_edges and memory.edge is None:
            evidence[gate.name] = old  # Nobody counts slow ones yet: none seen is not none there.
        elif memory.since is None or (gate.is_latency and not _is_warm(memory, gate, scene)):
            bursts = old.bursts.seen(at=end, started=taken.stable_started, bad=taken.stable_bad)
            evidence[gate.name] = replace(old, bursts=bursts)
        else:
            evidence[gate.name] = gates.look(
                old, gate.against(old), taken, at=end, cluster=scene.cluster, before=before
            )
    memory = memory.exposed(counts.candidate["started"], counts.candidate["bad"])
    if memory.since is not None:
        memory = memory.rated(counts.candidate["rated"], counts.stable["rated"])
    memory = _split(memory, counts, end=end, scene=scene)
    begun = counts.candidate["started"] - counts.candidate_before.get("started", 0)
    return _warmed(replace(memory, at=end, evidence=evidence), begun)


def _counts(gate: Gate, candidate: Mapping[Counter, int], stable: Mapping[Counter, int]) -> Counts:
    return Counts(
        candidate_bad=candidate.get(gate.bad, 0),
        candidate_started=candidate.get(gate.started, 0),
        stable_bad=stable.get(gate.bad, 0),
        stable_started=stable.get(gate.started, 0),
    )


def _split(memory: Memory, counts: ArmCounts, *, end: float, scene: Scene) -> Memory:
    """Count the requests of both sides once all of the time before the weight has been read."""
    # Without the second, the candidate's share is with the stable meanwhile.
    if memory.since is None or scene.in_force_at is None or end < memory.since + LAG_SCRAPES * scene.scrape_seconds:
        return replace(memory, split=(0, 0), split_since=None)
    ours, theirs = memory.split
    more = (counts.candidate["started"], counts.stable["started"] + counts.uncounted)
    since = memory.at if memory.split_since is None else memory.split_since
    return replace(memory, split=(ours + more[0], theirs + more[1]), split_since=since)


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
    memory = replace(memory, split=(0, 0), split_since=None)
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
    if not all(0 <= s.value < math.inf for s in samples):
        return None
    started = sum(s.value for s in samples if "edge" not in s.labels)
    above = {nearest_edge(float(s.labels["edge"])): s.value for s in samples if "edge" in s.labels}
    return nearest_p95(above, started)


def _failed(gate: Gate, memory: Memory, scene: Scene) -> bool:
    if gate.is_vote and not memory.has_ratings:
        return False
    evidence = memory.evidence.get(gate.name, Evidence())
    return gates.has_failed(evidence, gate.against(evidence), threshold=scene.threshold)


def _flaws(scraped: Found, polled: Found, memory: Memory, gating: Sequence[Gate], scene: Scene) -> dict[str, str]:
    """Return the ready pods whose numbers cannot be a Pass, and why; those without a fresh sample above all."""
    now, slack = scene.now.timestamp(), STALE_SCRAPES * scene.scrape_seconds
    needed = _needed(memory, gating)
    flaws = {}
    for uid, name in (*scene.candidate_ready, *scene.stable_ready):
        key = uid if uid in scraped else name
        since = scene.running_since.get(uid, math.inf)
        # Of a pod that is polled more is known than Prometheus can have scraped: a scrape must not be older than fresh.
        known = last_before(polled[uid], now - 2 * slack) if uid in polled else memory.pods.get(key)
        flaw = find_flaw(
            scraped.get(key), needed, oldest=now - slack, latest=now + slack, known=known, running_since=since
        )
        if flaw is not None:
            flaws[name] = flaw
    return flaws


def _needed(memory: Memory, gating: Sequence[Gate]) -> set[Counter]:
    """Return the counters without which a gate sees less than there is. Without an edge, nobody has asked for them."""
    edges = memory.edges(gating)
    # Votes are nobody's duty: a stable without spec.feedback has none, and is no reason to wait.
    asked = {"slow": edges.slow_stable is not None, "over": edges.over is not None, "down": False}
    return {counter for gate in gating if asked.get(gate.bad, True) for counter in (gate.bad, gate.started)}


def _judge(gate: Gate, memory: Memory, scene: Scene, measured: Measured) -> MetricStatus:
    evidence = memory.evidence.get(gate.name, Evidence())
    n = evidence.totals
    outcome: Outcome = "Inconclusive"
    log_e = gates.log_evidence(evidence, gate.against(evidence))
    lacking = _lacks(gate, memory, scene)
    if _failed(gate, memory, scene):
        outcome = "Fail"
        why = f"evidence {gates.format_log(log_e)} ≥ {scene.threshold:g}"
    elif lacking is not None:
        why = lacking
    else:
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
        candidate_interval=display.interval(n.candidate_bad, n.candidate_started),
        stable_interval=display.interval(n.stable_bad, n.stable_started),
        bound=display.bound(gate.against(evidence)),
        detectable=_detectable(gate, memory, scene, evidence),
        message=f"{describe(gate.subject, n)}; {why}"[:512],
        query=measured.query[:512],
    )


def _detectable(gate: Gate, memory: Memory, scene: Scene, evidence: Evidence) -> str | None:
    since = memory.since if memory.since is not None else memory.at
    rate = detectable_rate(
        evidence.totals,
        gate.against(evidence),
        threshold=scene.threshold,
        burstiness=gates.clustered(evidence.bursts.factor, scene.cluster),
        restart=max(1, memory.restarts - int((memory.at - since) // gates.RESTART_SECONDS)),
    )
    return None if rate is None else f"{100 * rate:.3g} %"


def _lacks(gate: Gate, memory: Memory, scene: Scene) -> str | None:
    """Return what has to come before a metric says anything."""
    if gate.is_vote:
        ours, theirs = memory.ratings
        return (
            None if memory.has_ratings else f"advisory until both sides have {MIN_RATINGS} votes: {ours} and {theirs}"
        )
    started = memory.evidence.get(gate.name, Evidence()).totals.candidate_started
    return f"{started} of {scene.min_samples} candidate requests" if started < scene.min_samples else None


def _cannot_pass(gate: Gate, memory: Memory, scene: Scene, log_e: float) -> str | None:
    """Return why enough samples are still no pass."""
    if log_e >= math.log(SUSPICION):
        return f"Suspected: evidence {gates.format_log(log_e)} of {scene.threshold:g} for a fail"
    if gate.is_vote:
        return None  # few people vote: nobody waits for more of it at this weight
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


def is_required(gate: Gate, memory: Memory, scene: Scene) -> bool:
    """Say whether a metric can pass at this weight at all.

    With r pods on both sides, latency is comparable from about 33 % on. Below that it can fail but never pass, and an
    analysis step that waited for it would wait for ever. Votes count once there are enough.
    """
    if gate.is_vote:
        return memory.has_ratings
    if gate.name != "Latency":
        return True
    load = _load_ratio(scene.weight, 100 - scene.weight, scene)
    return load is not None and COMPARABLE_LOAD[0] <= load <= COMPARABLE_LOAD[1]


def _together(
    gating: Sequence[Gate], metrics: Sequence[MetricStatus], memory: Memory, scene: Scene, flaws: Mapping[str, str]
) -> tuple[Outcome, str, str]:
    failed = [m for m in metrics if m.outcome == "Fail"]
    if failed:
        return "Fail", "Fail", failed[0].message
    if flaws:  # before any weight too: who cannot be seen gets none
        return "Inconclusive", "CoverageLow", _describe_flaws(flaws)
    if memory.since is None:
        return "Inconclusive", "NotYet", "the weight is not in force yet"
    if mismatch := _mismatch(memory, scene):
        return "Error", "SplitMismatch", mismatch
    asked = [(gate, m) for gate, m in zip(gating, metrics, strict=True) if is_required(gate, memory, scene)]
    required = [m for _, m in asked]
    if unhealthy := _unhealthy(gating, memory):
        return "Inconclusive", "BaselineUnhealthy", unhealthy
    least = min([memory.candidate_started, *(m.candidate_started for gate, m in asked if not gate.is_vote)])
    if least < scene.min_samples:
        code = f"NotYet({least}/{scene.min_samples})"
        return "Inconclusive", code, f"{least} of {scene.min_samples} candidate requests at {scene.weight} %"
    undecided = [m for m in required if m.outcome != "Pass"]
    if undecided:
        said = undecided[0].message
        code = next((word for word in ("Suspected", "NotComparable") if word in said), "NotYet")
        return "Inconclusive", code, said
    return "Pass", "Pass", "; ".join(m.message for m in required)[:512]


def _describe_flaws(flaws: Mapping[str, str]) -> str:
    shown = [f"{name} ({flaw})" for name, flaw in list(flaws.items())[:3]]
    return f"Prometheus lacks fresh numbers of {len(flaws)} ready pod(s): {', '.join(shown)}"


def _mismatch(memory: Memory, scene: Scene) -> str | None:
    if scene.has_cohort:
        return None  # the weights do not say how many requests the candidate gets
    ours, theirs = memory.split
    is_of_this_weight = scene.in_force_at is not None and memory.since == scene.in_force_at.timestamp()
    if not is_of_this_weight or memory.split_since is None or not ours + theirs:
        return None
    lag = LAG_SCRAPES * scene.scrape_seconds / max(1.0, memory.at - memory.split_since)
    if not is_mismatch(ours / scene.cluster, theirs / scene.cluster, weight=scene.weight, lag_share=min(1.0, lag)):
        return None
    share = 100 * ours / (ours + theirs)
    return (
        f"{share:.3g} % of the requests reach the candidate ({ours}/{ours + theirs}), and its weight is "
        f"{scene.weight} %: look at the gateway, and for pods that are not scraped"
    )


def _unhealthy(gating: Sequence[Gate], memory: Memory) -> str | None:
    for gate in gating:
        # Of recent minutes: an hour of good answers hides an outage, and one that is over is no reason to wait.
        started, bad = memory.evidence.get(gate.name, Evidence()).bursts.recent(memory.at)
        if gate.name == "ErrorRate" and bad >= gates.MIN_BAD_TO_FAIL and bad > UNHEALTHY_RATE * started:
            return f"the stable itself fails ({bad}/{started} in the last minutes): nothing to compare with"
    return None


def _unavailable(memory: Memory, metrics: Sequence[MetricStatus], error: str) -> Reading:
    return Reading(
        outcome="Error",
        code="MetricsUnavailable",
        message=error[:512],
        metrics=tuple(metric.model_copy(update={"outcome": "Error"}) for metric in metrics),
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


def with_queries(reading: Reading, queries: Sequence[QueryStatus], *, wanted: int, now: datetime) -> Reading:
    """Return a reading with the custom metrics in it: each may fail it, and all must pass."""
    reading = replace(reading, queries=tuple(queries))
    failed = next((q for q in queries if q.outcome == "Fail"), None)
    if failed is not None and reading.outcome != "Fail":
        said = f"{failed.name} {failed.message}"
        return replace(reading, outcome="Fail", code="Fail", message=said, failed_at=now)
    open_ = [q for q in queries if q.outcome != "Pass"]
    if reading.outcome == "Pass" and (open_ or len(queries) < wanted):
        said = f"{open_[0].name} {open_[0].message}" if open_ else "custom metrics are not measured at this weight yet"
        return replace(reading, outcome="Inconclusive", code="NotYet", message=said)
    return reading
