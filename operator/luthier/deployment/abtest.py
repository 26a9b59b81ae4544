"""An A/B test in a rollout: which requests the candidate gets by a header, and what the two sides have shown: pure.

Sides are revisions. Without a share, the candidate's requests are exactly those with the header. Who sends it is no
random part of all: a difference may be that of the people, and is still no reason to give them a worse model.
"""

from __future__ import annotations

from collections.abc import Iterable

from luthier.api.conditions import Reason
from luthier.api.modeldeployment import (
    AbArm,
    AbMetric,
    AbTestResult,
    AnalysisStatus,
    MetricStatus,
    RolloutStatus,
)
from luthier.deployment import display, sizing
from luthier.deployment.analysis import Reading
from luthier.deployment.build import Cohort
from luthier.deployment.case import Case
from luthier.deployment.rollout import Position, Stay, ab_test_at, describe, tell_headers
from luthier.deployment.share import is_blind
from luthier.plan import Event

MAX_RESULTS = 4

Headers = tuple[tuple[str, str], ...]


def wanted_headers(case: Case, rollout: RolloutStatus, step: int) -> Headers | None:
    """Return which requests a step wants for the candidate beside its share. Whom a person has decided for, none."""
    test = ab_test_at(rollout.steps, step)
    if test is None or case.is_forced or case.stable is None:
        return None
    return tuple((header.name, header.value) for header in test.headers)


def find_cohort(case: Case, rollout: RolloutStatus, position: Position, reading: Reading | None) -> Cohort | None:
    """Return the requests that the route should send to the candidate now: as its share, pods and numbers first."""
    candidate, test = case.candidate, ab_test_at(rollout.steps, position.step)
    wanted = wanted_headers(case, rollout, position.step)
    if candidate is None or test is None or wanted is None or not case.ready(candidate.name):
        return None
    if case.cohort_of(candidate.name) != wanted and _closed_by(case, rollout, position, reading) is not None:
        return None
    return Cohort(revision=candidate.name, headers=tuple(test.headers))


def explain_cohort(case: Case, rollout: RolloutStatus, position: Position, reading: Reading | None) -> Stay | None:
    """Say why requests with the header do not reach the candidate; None: they do, or need not."""
    candidate = case.candidate
    wanted = wanted_headers(case, rollout, position.step)
    if candidate is None or wanted is None:
        return None
    if not case.ready(candidate.name):
        message = f"no pod of {candidate.name} is ready; requests with the header are on the stable until one is"
        return Stay(reason=Reason.NO_READY_PODS, message=f"{describe(rollout.steps, position)}: {message}")
    held = _closed_by(case, rollout, position, reading)
    return held and Stay(reason=held.reason, message=f"{describe(rollout.steps, position)}: {held.message}")


def _closed_by(case: Case, rollout: RolloutStatus, position: Position, reading: Reading | None) -> Stay | None:
    if case.holding is not None:
        return Stay(reason=case.holding.reason, message=f"held; {case.holding.message}")
    if is_blind(reading):
        why = reading.message if reading is not None else "nothing is measured yet"
        return Stay(reason=Reason.METRICS_UNAVAILABLE, message=f"held; {why}")
    at_step = rollout.model_copy(update={"step": position.step, "weight": position.weight})
    if sizing.in_place(case) or (lacking := sizing.lacking(case, sizing.load(case, at_step))) is None:
        return None
    return Stay(reason=Reason.ROLLING_OUT, message=f"{lacking}; nobody is sent to it by a header until then")


# Results


def with_result(rollout: RolloutStatus, analysis: AnalysisStatus | None) -> list[AbTestResult] | None:
    """Return the A/B tests of a rollout with what the newest look says of the one that it is at."""
    test = ab_test_at(rollout.steps, rollout.step)
    if test is None or analysis is None or analysis is rollout.analysis or rollout.weight_in_force_at is None:
        return rollout.ab_tests
    return with_numbers(rollout, analysis.metrics)


def with_numbers(rollout: RolloutStatus, metrics: Iterable[MetricStatus]) -> list[AbTestResult] | None:
    """Return the A/B tests of a rollout, the one that it is at by these numbers."""
    test = ab_test_at(rollout.steps, rollout.step)
    if test is None or rollout.weight_in_force_at is None:
        return rollout.ab_tests
    result = AbTestResult(
        step=rollout.step,
        header=tell_headers(test),
        weight=rollout.weight,
        metrics=[_metric(metric) for metric in metrics],
    )
    others = [known for known in rollout.ab_tests or () if known.step != rollout.step]
    return [*others, result][-MAX_RESULTS:]


def _metric(metric: MetricStatus) -> AbMetric:
    return AbMetric(
        name=metric.name,
        candidate=_arm(metric.candidate_bad, metric.candidate_started),
        stable=_arm(metric.stable_bad, metric.stable_started),
        statement=tell_difference(metric)[:400],
    )


def _arm(bad: int, started: int) -> AbArm:
    return AbArm(requests=started, bad=bad, rate=display.share(bad, started), interval=display.interval(bad, started))


def tell_difference(metric: MetricStatus) -> str:
    """Say in words whether the sides differ, and by what numbers.

    `worse` is the test's own word, valid however often one looks. The interval of the difference (Newcombe's, 95 %)
    is for one reading: it calls a difference significant, and never decides anything.
    """
    c_bad, c, s_bad, s = metric.candidate_bad, metric.candidate_started, metric.stable_bad, metric.stable_started
    evidence = f"evidence {metric.evidence} of {metric.threshold}"
    if not c or not s:
        return f"no statement: {c} requests to the candidate and {s} to the stable"
    if metric.outcome == "Fail":
        return f"worse than allowed ({metric.bound}), {evidence}: a significant difference at every look"
    if metric.name == "Latency":  # the sides are counted at different ages: their rates have no difference
        return f"not shown to be slower than allowed: {evidence}"
    low, high = display.difference((c_bad, c), (s_bad, s))
    points = f"{100 * (c_bad / c - s_bad / s):+.1f} points, 95 % interval {100 * low:+.1f} to {100 * high:+.1f}"
    word = "significantly higher" if low > 0 else "significantly lower" if high < 0 else "no significant difference"
    return f"{word}: {points}; not shown to be worse than allowed: {evidence}"


def tell_events(name: str, rollout: RolloutStatus, step: int) -> tuple[Event, ...]:
    """Return what is said as a test ends, and as the next one begins.

    Args:
        name: The candidate's.
        rollout: As it was, with its newest results.
        step: Where it goes now.
    """
    if step == rollout.step:
        return ()
    ended, test = tell_end(name, rollout), ab_test_at(rollout.steps, step)
    events = [ended] if ended is not None else []
    if test is not None:
        message = f"{name} gets the requests with {tell_headers(test)} (step {step} of {len(rollout.steps) + 1})"
        events.append(Event(type="Normal", reason=str(Reason.AB_TEST_STARTED), message=message))
    return tuple(events)


def tell_end(name: str, rollout: RolloutStatus) -> Event | None:
    """Return the event of a test that is over; None: there was none at this step, or nobody came."""
    result = next((known for known in rollout.ab_tests or () if known.step == rollout.step), None)
    if result is None:
        return None
    said = "; ".join(f"{m.name} {_tell(m)}" for m in result.metrics)
    message = f"{name}: the A/B test by {result.header} (step {result.step}) is over: {said}"
    return Event(type="Normal", reason=str(Reason.AB_TEST_ENDED), message=message[:1024])


def _tell(metric: AbMetric) -> str:
    ours, theirs = metric.candidate, metric.stable
    counts = f"{ours.rate} ({ours.bad}/{ours.requests}) vs {theirs.rate} ({theirs.bad}/{theirs.requests})"
    return f"{counts}: {metric.statement}"
