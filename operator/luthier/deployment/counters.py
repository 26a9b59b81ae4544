"""From raw samples of cumulative counters to requests per look: pure.

Samples are differenced here and not by `rate()`: a decrease, or a pod never seen before, is a start from 0, so the
first errors of a crash-looping pod are counted. Each pod's newest counted sample goes into the analysis' memory;
what Prometheus delivers late is counted at the next look instead of being lost.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from luthier.plan import Json
from luthier.ports import Sample
from luthier_server.counters import EDGES, edge_label

Arm = Literal["candidate", "stable"]
Counter = Literal[
    "started",
    "bad",
    "checked",
    "invalid",
    "slow",
    "slow_of",
    "over",
    "over_of",
    "critical",
    "refusals",
    "rated",
    "down",
    "rated_other",
    "down_other",
]
"""`slow`: lived longer than the latency test's edge of this arm; `over`: than the absolute ceiling's edge.
`slow_of`, `over_of`: out of how many, those that began longer ago than the same edge. `rated`, `down`: votes, and bad
ones, on this arm's answers; `rated_other`, `down_other`: on the other arm's, that this arm's pods have taken."""
COUNTERS: tuple[Counter, ...] = get_args(Counter)
_FIRST_COUNTERS = COUNTERS[: COUNTERS.index("refusals")]
"""What the memory had before votes: the others are left out of it where a pod has none."""

STARTED = "luthier_requests_started_total"
FINISHED = "luthier_requests_total"
CHECKED = "luthier_responses_checked_total"
INVALID = "luthier_responses_invalid_format_total"
AGE_EXCEEDED = "luthier_request_age_exceeded_total"
AGED = "luthier_requests_aged_total"
INCIDENTS = "luthier_safety_incidents_total"
REFUSALS = "luthier_refusals_total"
VOTES = "luthier_feedback_total"
SINCE = "luthier_counting_since_seconds"
OLD_PROCESS_SECONDS = 600.0
"""A process that began so long before the first look, and was never read, starts at its first sample: when its earlier
requests were is not known. A younger one starts from 0: the first errors of a crash-looping pod count."""
BAD_OUTCOMES = frozenset({"server_error", "refused", "stream_broken", "overloaded"})

CLOCK_SECONDS = 60.0
"""So much may a node's clock and Prometheus' differ before a restart is no longer believed."""

Column = Counter | Literal["process"]
"""`process`: when the process that counts began, Unix seconds; another one counts from 0."""
Timeline = dict[float, dict[Column, float]]
"""One pod's counters by time of scrape."""


def nearest_edge(seconds: float) -> int:
    """Return the index of the nearest edge, on the logarithmic scale."""
    index = round(2 * math.log(max(seconds, EDGES[0]) / EDGES[0]) / math.log(1.2))
    return min(index, len(EDGES) - 1)


def edge_above(seconds: float) -> int:
    """Return the index of the first edge that is not below."""
    return next((i for i, edge in enumerate(EDGES) if edge >= seconds * 0.9999), len(EDGES) - 1)


@dataclass(frozen=True, kw_only=True)
class Edges:
    """Which edges are read; None: not asked for, or not known yet."""

    slow_candidate: int | None = None
    slow_stable: int | None = None
    over: int | None = None

    def labels(self) -> tuple[str, ...]:
        """Return the label values to ask Prometheus for."""
        wanted = {i for i in (self.slow_candidate, self.slow_stable, self.over) if i is not None}
        return tuple(edge_label(EDGES[i]) for i in sorted(wanted))


@dataclass(frozen=True, kw_only=True)
class PodCounters:
    """The newest counted sample of one pod. A counter that is absent was not read yet."""

    arm: Arm
    at: float
    values: Mapping[Counter, float] = field(default_factory=dict)
    process: float | None = None
    """When the process that counts began; None: its samples do not say."""

    def to_list(self) -> list[str | float | None]:
        # An older operator reads no more than the first ones; a 0 is found again in the next pass' samples.
        has_more = any(self.values.get(counter) for counter in COUNTERS[len(_FIRST_COUNTERS) :])
        kept = COUNTERS if has_more else _FIRST_COUNTERS
        return [self.arm[0], self.at, self.process, *(self.values.get(counter) for counter in kept)]

    @classmethod
    def from_list(cls, data: Sequence[str | float | None]) -> PodCounters:
        arm, at, process, *values = data
        kept = COUNTERS if len(values) > len(_FIRST_COUNTERS) else _FIRST_COUNTERS
        known = {c: float(v) for c, v in zip(kept, values, strict=True) if v is not None}
        return cls(
            arm="candidate" if arm == "c" else "stable",
            at=float(at or 0),
            process=None if process is None else float(process),
            values=known,
        )

    def without(self, *counters: Counter) -> PodCounters:
        """Return it with some counters forgotten: another edge is read from now on."""
        return replace(self, values={c: v for c, v in self.values.items() if c not in counters})


Pods = dict[str, PodCounters]


@dataclass(frozen=True, kw_only=True)
class ArmCounts:
    """What one arm did within one look."""

    candidate: Mapping[Counter, int]
    stable: Mapping[Counter, int]
    candidate_before: Mapping[Counter, int] = field(default_factory=dict)
    stable_before: Mapping[Counter, int] = field(default_factory=dict)
    """What of the above may be of the weight before: it grew since a sample that is older than this weight."""
    uncounted: int = 0
    """Requests that began at pods whose numbers are no part of the above."""


def pods_to_json(pods: Pods) -> Json:
    """Return the pods' newest samples for the analysis' memory."""
    return {pod: counters.to_list() for pod, counters in sorted(pods.items())}


def pods_from_json(value: Json) -> Pods:
    """Read what `pods_to_json` wrote."""
    return {pod: PodCounters.from_list(data) for pod, data in value.items()}


@dataclass(frozen=True, kw_only=True)
class PodSeries:
    """What was scraped of one pod."""

    arm: Arm
    timeline: Timeline
    has_refused: bool = False
    """Some scrape had what no counter can be: infinity, less than 0, no number."""


def timelines(
    samples: Iterable[Sample], *, arms: Mapping[str, Arm], edges: Edges, revisions: Mapping[str, Arm] | None = None
) -> dict[str, PodSeries]:
    """Return each pod's counters by time of scrape.

    A pod that is scraped twice, by two jobs or two servers, is counted once. A scrape with a value that is none is
    left out whole: requests without their errors would look healthy.

    Args:
        samples: Raw samples of the serving counters.
        arms: The arm by prefix of the pod's name.
        edges: Which edge counts as `slow` and `over`.
        revisions: The arm by revision, of votes: whichever pod took one.
    """
    sources: dict[str, dict[Source, list[Sample]]] = defaultdict(lambda: defaultdict(list))
    known: dict[str, Arm] = {}
    for sample in samples:
        name = sample.labels.get("pod", "")
        arm = arm_of(name, arms)
        if arm is None:
            continue
        # Without the UID label, the name does: pods of a Deployment never reuse one.
        pod = sample.labels.get("pod_uid") or name
        known[pod] = arm
        sources[pod][_source_of(sample.labels)].append(sample)
    return {pod: _series(arm, _chosen(sources[pod]), edges, revisions or {}) for pod, arm in known.items()}


Source = tuple[tuple[str, str], ...]
"""Labels that tell the scraper, not what was counted."""
_COUNTED_BY = frozenset({"__name__", "outcome", "edge", "severity", "rating", "revision"})
"""The revision too: of votes, it is that of the answer and not that of the pod."""


def _source_of(labels: Mapping[str, str]) -> Source:
    return tuple(sorted((k, v) for k, v in labels.items() if k not in _COUNTED_BY))


def _chosen(sources: Mapping[Source, list[Sample]]) -> list[Sample]:
    """Return the samples of one source: of those that are about as full as the fullest, always the same one.

    Two sources have two clocks: to go from one to the other and back would look like a restart each time.
    """
    most = max(len(samples) for samples in sources.values())
    return next(samples for _, samples in sorted(sources.items()) if 2 * len(samples) >= most)


def _series(arm: Arm, samples: Iterable[Sample], edges: Edges, revisions: Mapping[str, Arm]) -> PodSeries:
    timeline: Timeline = defaultdict(dict)
    refused = set()
    for sample in samples:
        for counter in _counters_of(sample.labels, arm, edges, revisions):
            row = timeline[sample.at]
            row[counter] = row.get(counter, 0.0) + sample.value
            if not 0 <= sample.value < math.inf:
                refused.add(sample.at)
    kept = {at: with_unseen_votes(row) for at, row in timeline.items() if at not in refused}
    return PodSeries(arm=arm, timeline=kept, has_refused=bool(refused))


def with_unseen_votes(row: dict[Column, float]) -> dict[Column, float]:
    """Return a row in which the other arm's votes are 0 until there is one: a pod cannot know who they will be for."""
    return {"rated": 0, "down": 0, "rated_other": 0, "down_other": 0, **row} if "rated" in row else row


def vote_counters(pod: Arm, voted: Arm, *, is_down: bool) -> list[Counter]:
    """Return what a vote counts as that a pod of one arm has taken on an answer of another, or of the same."""
    if pod == voted:
        return ["rated", "down"] if is_down else ["rated"]
    return ["rated_other", "down_other"] if is_down else ["rated_other"]


def arm_of(name: str, arms: Mapping[str, Arm]) -> Arm | None:
    """Return which arm a pod belongs to, by the prefixes of the arms' pods."""
    return next((arm for prefix, arm in arms.items() if name.startswith(prefix)), None)


_PLAIN: dict[str, Column] = {
    STARTED: "started",
    CHECKED: "checked",
    INVALID: "invalid",
    SINCE: "process",
    REFUSALS: "refusals",
}


def _counters_of(labels: Mapping[str, str], arm: Arm, edges: Edges, revisions: Mapping[str, Arm]) -> Sequence[Column]:
    name = labels.get("__name__", "")
    if name in _PLAIN:
        return [_PLAIN[name]]
    if name == VOTES:
        voted = revisions.get(labels.get("revision", ""))
        return vote_counters(arm, voted, is_down=labels.get("rating") == "down") if voted is not None else []
    if name == FINISHED:
        return ["bad"] if labels.get("outcome") in BAD_OUTCOMES else []
    if name == INCIDENTS:
        return ["critical"] if labels.get("severity") == "critical" else []
    if name not in (AGE_EXCEEDED, AGED):
        return []
    slow = edges.slow_candidate if arm == "candidate" else edges.slow_stable
    wanted: tuple[tuple[Counter, int | None], ...] = (("slow", slow), ("over", edges.over))
    if name == AGED:
        wanted = (("slow_of", slow), ("over_of", edges.over))
    return [
        counter for counter, index in wanted if index is not None and labels.get("edge") == edge_label(EDGES[index])
    ]


def split_by_look(
    found: Mapping[str, PodSeries],
    pods: Pods,
    *,
    after: float,
    seconds: float,
    looks: int,
    running_since: Mapping[str, float] | None = None,
    uncounted: Collection[str] = (),
    weight_since: float | None = None,
) -> tuple[list[ArmCounts], Pods]:
    """Return what happened in each look, and the pods' newest counted samples.

    Looks are `(after, after + seconds]` and so on. What was scraped before but is not counted yet falls into the first;
    without a look, it waits.

    Args:
        found: What was scraped or polled, by pod.
        pods: Each pod's newest counted sample so far.
        after: Where the first look begins, Unix seconds.
        seconds: How long a look is.
        looks: How many there are.
        running_since: When a pod's container started, where that is known: counters that fall in the middle of its
            run are somebody's old samples. They wait until they say something new, or the container proves to be new.
        uncounted: Pods whose newest sample is kept while nothing is counted.
        weight_since: When the weight that is judged came into force, Unix seconds.
    """
    if looks == 0:
        return [], pods
    counts, before = _zeros(looks), _zeros(looks)
    apart = [0] * looks
    end = after + looks * seconds
    newest = dict(pods)
    for pod, series in found.items():
        arm, timeline = series.arm, series.timeline
        known = pods.get(pod) or _baseline(arm, timeline, before=after)
        since = (running_since or {}).get(pod, math.inf)
        for at in sorted(t for t in timeline if known.at < t <= end):
            is_older = weight_since is not None and known.at < weight_since
            known, growth = _grown(known, at, timeline, since)
            index = max(0, min(looks - 1, math.ceil((at - after) / seconds) - 1))
            if pod in uncounted:
                apart[index] += growth.get("started", 0)
                continue
            for counter, more in growth.items():
                counts[index][arm][counter] += more
                before[index][arm][counter] += more if is_older else 0
        if known.at > -math.inf:
            newest[pod] = known
    return [_arm_counts(c, b, n) for c, b, n in zip(counts, before, apart, strict=True)], newest


_Both = dict[Arm, dict[Counter, int]]


def _zeros(looks: int) -> list[_Both]:
    return [{"candidate": dict.fromkeys(COUNTERS, 0), "stable": dict.fromkeys(COUNTERS, 0)} for _ in range(looks)]


def _arm_counts(counts: _Both, before: _Both, uncounted: int) -> ArmCounts:
    """Return what each arm did, with the votes on its answers that the other's pods have taken."""
    for both in (counts, before):
        for mine, other in ((both["candidate"], both["stable"]), (both["stable"], both["candidate"])):
            mine["rated"] += other["rated_other"]
            mine["down"] += other["down_other"]
    return ArmCounts(
        candidate=counts["candidate"],
        stable=counts["stable"],
        candidate_before=before["candidate"],
        stable_before=before["stable"],
        uncounted=uncounted,
    )


def _has_fallen(row: Mapping[Column, float], known: PodCounters) -> bool:
    return any(row[c] < known.values.get(c, row[c]) for c in COUNTERS if c in row)


def _is_midway(known: PodCounters, running_since: float) -> bool:
    """Say whether the container that was counted last still runs."""
    return running_since < known.at - CLOCK_SECONDS


def _grown(
    known: PodCounters, at: float, timeline: Timeline, running_since: float
) -> tuple[PodCounters, dict[Counter, int]]:
    """Return a pod's counters after one more sample, and by how much they have grown.

    Two lanes bring samples of the same counters by clocks of their own. Within one process counters only grow, so a
    smaller number is a late one; another process begins at 0. Where samples do not name the process, a decrease does.
    """
    row = timeline[at]
    process = row.get("process", known.process)
    is_reset = _has_fallen(row, known)
    if process is None or known.process is None:
        if is_reset and _is_midway(known, running_since):
            return known, {}
    elif process < known.process or ("process" not in row and is_reset):
        return known, {}  # late, and of a process that is gone; or nobody can tell
    else:
        is_reset = process > known.process
    values = {c: row[c] for c in COUNTERS if c in row}
    growth = {}
    for counter, value in values.items():
        # One process counts them all: when it is another one, all have begun again, those that have caught up too.
        last = 0.0 if is_reset else known.values.get(counter)
        if last is None:
            last = _value_before(timeline, counter, known, default=value)
        values[counter] = max(value, last)
        growth[counter] = round(values[counter] - last)
    kept = {} if is_reset else known.values
    return PodCounters(arm=known.arm, at=at, process=process, values={**kept, **values}), growth


def _baseline(arm: Arm, timeline: Timeline, *, before: float) -> PodCounters:
    """Return where a pod's counting starts that is not in the memory: at its newest earlier sample, else at 0."""
    earlier = [at for at in timeline if at <= before]
    first = min(timeline, default=before)
    if not earlier and timeline and timeline[first].get("process", before) < before - OLD_PROCESS_SECONDS:
        earlier = [first]
    if earlier:
        at = max(earlier)
        values = {c: timeline[at][c] for c in COUNTERS if c in timeline[at]}
        return PodCounters(arm=arm, at=at, values=values, process=timeline[at].get("process"))
    return PodCounters(arm=arm, at=-math.inf, values=dict.fromkeys(COUNTERS, 0.0))


def _value_before(timeline: Timeline, counter: Counter, known: PodCounters, *, default: float) -> float:
    # An edge that is newly read: what it had counted up to the pod's newest counted sample is not news.
    earlier = [
        t
        for t, row in timeline.items()
        if t <= known.at and counter in row and row.get("process", known.process) == known.process
    ]
    return timeline[max(earlier)][counter] if earlier else default


def find_flaw(
    series: PodSeries | None,
    needed: Iterable[Counter],
    *,
    oldest: float,
    latest: float,
    known: PodCounters | None,
    running_since: float,
) -> str | None:
    """Return why a pod's numbers are no ground for a Pass, or None.

    Args:
        series: What was scraped of it.
        needed: What is to be judged.
        oldest: Before this, a scrape is stale.
        latest: After this, somebody's clock is wrong.
        known: The pod's newest counted sample.
        running_since: When its container started; infinity: unknown.
    """
    if series is None or not (series.timeline or series.has_refused):
        return "no sample"
    in_time = [at for at in series.timeline if at <= latest]
    if not in_time:
        return "samples that are no numbers of requests" if series.has_refused else "samples from the future"
    at = max(in_time)
    if at < oldest:
        return "samples that are no numbers of requests" if series.has_refused else "no fresh sample"
    row = series.timeline[at]
    if lacking := sorted(set(needed) - row.keys()):
        return f"no sample of {_METRIC[lacking[0]]}"
    if known is not None and at > known.at and _has_fallen(row, known) and _is_midway(known, running_since):
        return "fewer requests than before, and no restart"
    return None


_METRIC: dict[Counter, str] = {
    "started": STARTED,
    "bad": FINISHED,
    "checked": CHECKED,
    "invalid": INVALID,
    "slow": AGE_EXCEEDED,
    "over": AGE_EXCEEDED,
    "slow_of": AGED,
    "over_of": AGED,
    "critical": INCIDENTS,
    "refusals": REFUSALS,
    "rated": VOTES,
    "down": VOTES,
    "rated_other": VOTES,
    "down_other": VOTES,
}
