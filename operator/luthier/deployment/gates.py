"""The sequential test that says whether a candidate is worse than the stable: pure, valid at every look.

Counts of bad requests out of started ones are compared stratum by stratum and never pooled, so that shared outages,
daily cycles and weight changes cancel. Evidence is a mean of e-processes: under the null hypothesis the chance that
it ever reaches 1/alpha is at most alpha, however often one looks (docs/analysis.md has the formulas and their sources).
Everything is kept as logarithms. Where counts come from is `counters`; what a verdict does is `rollout`.

The promise holds for requests that are counted, good or bad, at one time: latency and format are. An error is counted
when the request ends, so errors that take long make it weaker in traffic with pauses (docs/analysis.md has numbers).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from luthier.plan import Json

GROWTH = (1.25, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 100.0)
"""Alternatives to the allowed ratio R₀: R_j = R₀·g."""
FLOOR_GROWTH = (1.5, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0, 90.0)
"""Alternatives to the floor f: q_j = f·g, below 1."""
MAX_BAD_RATE = 0.97
RESTART_SECONDS = 120.0
"""Evidence starts again so often, so that a healthy past does not hide a later breach."""
MIN_BAD_TO_FAIL = 3
BURST_WINDOW_SECONDS = 3600.0
BURST_BUCKET_SECONDS = 300.0
MIN_BAD_FOR_BURSTS = 20
DEFAULT_BURSTINESS = 1.5

_EMPTY = (-math.inf,) * len(GROWTH)


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Requests of both arms within one span of time."""

    candidate_bad: int = 0
    candidate_started: int = 0
    stable_bad: int = 0
    stable_started: int = 0

    def plus(self, other: Counts) -> Counts:
        """Return the sum."""
        return Counts(
            candidate_bad=self.candidate_bad + other.candidate_bad,
            candidate_started=self.candidate_started + other.candidate_started,
            stable_bad=self.stable_bad + other.stable_bad,
            stable_started=self.stable_started + other.stable_started,
        )

    def minus(self, other: Counts) -> Counts:
        """Return the rest."""
        return Counts(
            candidate_bad=self.candidate_bad - other.candidate_bad,
            candidate_started=self.candidate_started - other.candidate_started,
            stable_bad=self.stable_bad - other.stable_bad,
            stable_started=self.stable_started - other.stable_started,
        )

    def to_list(self) -> list[int]:
        return [self.candidate_bad, self.candidate_started, self.stable_bad, self.stable_started]

    @classmethod
    def from_list(cls, values: Sequence[int]) -> Counts:
        bad, started, stable_bad, stable_started = values
        return cls(candidate_bad=bad, candidate_started=started, stable_bad=stable_bad, stable_started=stable_started)


@dataclass(frozen=True, kw_only=True)
class Hypothesis:
    """What must be refuted before a metric fails: p_c ≤ ratio·p_s, and p_c ≤ floor. None: that part is not asked."""

    ratio: float | None
    floor: float | None


@dataclass(frozen=True, kw_only=True)
class Process:
    """One e-process: ln S_j for each alternative, and the weight that the next stratum adds."""

    log_s: tuple[float, ...] = _EMPTY
    log_weight: float = -math.inf

    def restarted(self, restart: int) -> Process:
        """Return it with w_r = 1/(r(r+1)) due; all w_r together are 1."""
        return replace(self, log_weight=_log_add(self.log_weight, -math.log(restart * (restart + 1))))

    def grown(self, exponents: Sequence[float]) -> Process:
        """Return it after one stratum: S_j becomes (S_j + w)·e^exponent_j."""
        return Process(
            log_s=tuple(_log_add(s, self.log_weight) + e for s, e in zip(self.log_s, exponents, strict=True))
        )

    @property
    def log_evidence(self) -> float:
        """The logarithm of E, the mean of all S_j."""
        peak = max(self.log_s)
        if peak == -math.inf:
            return peak
        return peak + math.log(sum(math.exp(s - peak) for s in self.log_s) / len(self.log_s))

    def to_list(self) -> list[float | None]:
        return [None if x == -math.inf else round(x, 5) for x in (*self.log_s, self.log_weight)]

    @classmethod
    def from_list(cls, values: Sequence[float | None]) -> Process:
        *log_s, weight = (-math.inf if x is None else float(x) for x in values)
        return cls(log_s=tuple(log_s), log_weight=weight)


@dataclass(frozen=True, kw_only=True)
class Burstiness:
    """How much more the stable's bad requests vary from look to look than independent ones would.

    Sums of n, k, n², nk, k² over looks, in buckets of five minutes, so that an old hour can be forgotten.
    """

    buckets: tuple[tuple[int, int, int, int, int, int], ...] = ()

    def seen(self, *, at: float, started: int, bad: int) -> Burstiness:
        """Return it with one more look at the stable."""
        bucket = int(at // BURST_BUCKET_SECONDS)
        oldest = bucket - int(BURST_WINDOW_SECONDS // BURST_BUCKET_SECONDS) + 1
        look = (started, bad, started * started, started * bad, bad * bad)
        if self.buckets and self.buckets[-1][0] >= bucket:
            *kept, (last, *sums) = self.buckets
            n, k, nn, nk, kk = (a + b for a, b in zip(sums, look, strict=True))
            return Burstiness(buckets=(*kept, (last, n, k, nn, nk, kk)))
        return Burstiness(buckets=(*(b for b in self.buckets if b[0] >= oldest), (bucket, *look)))

    def recent(self, at: float) -> tuple[int, int]:
        """Return the stable's requests and bad ones of the last five to ten minutes."""
        oldest = int(at // BURST_BUCKET_SECONDS) - 1
        kept = [b for b in self.buckets if b[0] >= oldest]
        return sum(b[1] for b in kept), sum(b[2] for b in kept)

    @property
    def totals(self) -> tuple[int, int]:
        """Return the stable's requests and bad ones of the last hour."""
        return sum(b[1] for b in self.buckets), sum(b[2] for b in self.buckets)

    @property
    def has_requests(self) -> bool:
        """Whether the stable had any in the last hour."""
        return any(b[1] for b in self.buckets)

    @property
    def factor(self) -> float:
        """Phi: the sum of (k - pn)² over that of pn, at least 1; a guess while there are few bad requests."""
        n, k, nn, nk, kk = (sum(b[i] for b in self.buckets) for i in range(1, 6))
        if k < MIN_BAD_FOR_BURSTS or n == 0:
            return DEFAULT_BURSTINESS
        rate = k / n
        return max(1.0, (kk - 2 * rate * nk + rate * rate * nn) / k)

    def to_list(self) -> list[list[int]]:
        return [list(b) for b in self.buckets]

    @classmethod
    def from_list(cls, values: Sequence[Sequence[int]]) -> Burstiness:
        return cls(buckets=tuple((b, n, k, nn, nk, kk) for b, n, k, nn, nk, kk in values))


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """The memory of one metric's test."""

    relative: Process = Process()
    floor: Process = Process()
    stratum: Counts = Counts()
    """Counts since the last stratum of both arms closed."""
    totals: Counts = Counts()
    """Counts since the weight last changed: for people, and for the least number of samples."""
    bursts: Burstiness = Burstiness()

    def to_json(self) -> Json:
        return {
            "s": self.relative.to_list(),
            "f": self.floor.to_list(),
            "open": self.stratum.to_list(),
            "n": self.totals.to_list(),
            "b": self.bursts.to_list(),
        }

    @classmethod
    def from_json(cls, value: Json) -> Evidence:
        return cls(
            relative=Process.from_list(value["s"]),
            floor=Process.from_list(value["f"]),
            stratum=Counts.from_list(value["open"]),
            totals=Counts.from_list(value["n"]),
            bursts=Burstiness.from_list(value["b"]),
        )


def restart(evidence: Evidence, restarts: int) -> Evidence:
    """Begin the r-th test beside the earlier ones."""
    return replace(evidence, relative=evidence.relative.restarted(restarts), floor=evidence.floor.restarted(restarts))


def look(
    evidence: Evidence,
    hypothesis: Hypothesis,
    counts: Counts,
    *,
    at: float,
    cluster: int = 1,
    before: Counts | None = None,
) -> Evidence:
    """Take in what happened since the last look. So many requests, `cluster`, may share one fate.

    A stratum closes at the first look where both arms have started a request; that depends on arrivals, never on
    outcomes. The floor compares nothing, so its stratum needs the candidate's requests alone. What may have begun
    `before` the weight is evidence like the rest, and no part of this weight's totals.
    """
    # Burstiness comes from the looks before this one: a factor that knew its own stratum would bend the test.
    phi = clustered(evidence.bursts.factor, cluster)
    floor = evidence.floor
    if hypothesis.floor is not None and (counts.candidate_started or counts.candidate_bad):
        floor = floor.grown(_floor_exponents(counts, hypothesis.floor, phi))
    relative, stratum = evidence.relative, evidence.stratum.plus(counts)
    if stratum.candidate_started and stratum.stable_started:
        if hypothesis.ratio is not None:
            relative = relative.grown(_relative_exponents(stratum, hypothesis.ratio, phi))
        stratum = Counts()
    return Evidence(
        relative=relative,
        floor=floor,
        stratum=stratum,
        totals=evidence.totals.plus(counts.minus(before or Counts())),
        bursts=evidence.bursts.seen(at=at, started=counts.stable_started, bad=counts.stable_bad),
    )


def clustered(burstiness: float, cluster: int) -> float:
    """Return phi when so many requests share one fate, at different times: looks do not see that, so it is added."""
    return burstiness + cluster - 1


def log_evidence(evidence: Evidence, hypothesis: Hypothesis) -> float:
    """Return ln of the evidence against the candidate: all parts of the hypothesis must be refuted."""
    parts = []
    if hypothesis.ratio is not None:
        parts.append(evidence.relative.log_evidence)
    if hypothesis.floor is not None:
        parts.append(evidence.floor.log_evidence)
    return min(parts)


def has_failed(evidence: Evidence, hypothesis: Hypothesis, *, threshold: float) -> bool:
    """Say whether the candidate is proven worse: enough evidence, and at least three bad requests to show."""
    if evidence.totals.candidate_bad < MIN_BAD_TO_FAIL:
        return False
    return log_evidence(evidence, hypothesis) >= math.log(threshold)


def format_log(log_value: float) -> str:
    """Return e^x for people, whatever its size: "0.013", "42", "2.1e4"."""
    if log_value == -math.inf:
        return "0"
    exponent, mantissa = divmod(log_value / math.log(10), 1)
    if -3 <= exponent < 4:
        return f"{math.exp(log_value):.3g}" if exponent < 3 else f"{math.exp(log_value):.0f}"
    return f"{10**mantissa:.1f}e{int(exponent)}"


def upper_bound(bad: int, started: int, *, phi: float, chance: float) -> float:
    """Return a rate that the true one exceeds with at most this chance; 1.0 when nothing was started.

    The Chernoff bound: the rate u with n·KL(bad/n ‖ u)/φ = ln(1/chance). It holds for any n, unlike a normal one.
    """
    if started == 0:
        return 1.0
    rate, limit = bad / started, phi * math.log(1 / chance) / started
    low, high = rate, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _divergence(rate, middle) < limit else (low, middle)
    return high


def _divergence(p: float, q: float) -> float:
    """Return KL(p ‖ q) of two coins."""
    if q >= 1.0:
        return 0.0 if p >= 1.0 else math.inf
    same = p * math.log(p / q) if p > 0 else 0.0
    return same + ((1 - p) * math.log((1 - p) / (1 - q)) if p < 1 else 0.0)


def _relative_exponents(counts: Counts, ratio: float, phi: float) -> list[float]:
    n_c, n_s = counts.candidate_started, counts.stable_started
    k_c, k_s = counts.candidate_bad, counts.stable_bad
    if not k_c and not k_s:
        return [0.0] * len(GROWTH)
    null = n_c * ratio + n_s
    exponents = []
    for growth in GROWTH:
        # With pi the candidate's share of bad requests: ln((1 - pi_j)/(1 - pi_0)); ln(pi_j/pi_0) is ln g more.
        shift = math.log(null / (n_c * ratio * growth + n_s))
        exponents.append((k_c * (math.log(growth) + shift) + k_s * shift) / phi)
    return exponents


def _floor_exponents(counts: Counts, floor: float, phi: float) -> list[float]:
    bad, good = counts.candidate_bad, counts.candidate_started - counts.candidate_bad
    exponents = []
    for growth in FLOOR_GROWTH:
        rate = min(MAX_BAD_RATE, floor * growth)
        if rate <= floor:  # A floor near 100 %: nothing is above it.
            exponents.append(0.0)
            continue
        exponents.append((bad * math.log(rate / floor) + good * math.log((1 - rate) / (1 - floor))) / phi)
    return exponents


def _log_add(a: float, b: float) -> float:
    if a < b:
        a, b = b, a
    return a if b == -math.inf else a + math.log1p(math.exp(b - a))
