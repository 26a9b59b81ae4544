"""Why a candidate's rollout ends before all traffic is on it, and what is written then: pure.

Withdrawing is weight 0 in one route write, first; then history, verdict, event. The pods stay for diagnosis.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, cast

from luthier.api.conditions import Reason
from luthier.api.modeldeployment import AnalysisStatus, HistoryEntry, MetricStatus, RevisionStatus, RolloutStatus
from luthier.deployment import sizing
from luthier.deployment.abtest import tell_end, with_numbers
from luthier.deployment.analysis import Reading
from luthier.deployment.case import Case, outcome_of, withdrawal_of
from luthier.deployment.decision import MAX_HISTORY, Decision, State
from luthier.deployment.display import share
from luthier.deployment.observe import trouble_of
from luthier.deployment.pinning import find_pin
from luthier.deployment.revision import number_of
from luthier.deployment.rollout import describe, position_of
from luthier.plan import Event, Json
from luthier.status import format_time, parse_time

Outcome = Literal["RolledBack", "Aborted", "Superseded"]
_WORDS = {"RolledBack": "was taken back", "Aborted": "was withdrawn", "Superseded": "was superseded"}


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a rollout ends."""

    outcome: Outcome
    reason: Reason
    message: str
    breach_at: datetime | None = None
    written_at: datetime | None = None
    """When an earlier pass took the traffic away; None: this one does, if there is any."""
    metrics: tuple[MetricStatus, ...] = ()
    exposed: tuple[int, int] | None = None
    """Requests to the candidate and bad ones among them, when a newer look than status has says so."""
    by: str | None = None
    """Who ordered it."""


def find_ending(case: Case, reading: Reading | None) -> Ending | None:
    """Return why the rollout ends now; the first cause that holds."""
    if case.is_pinning:
        # It served before: pods that are late, or a node that is missing, are no proof against it.
        return _already_withdrawn(case) or _aborted(case) or _unpinned(case)
    return (
        _already_withdrawn(case)
        or _recorded(case)
        or _aborted(case)
        or _in_trouble(case)
        or _displaced(case)
        or _spec_changed(case)
        or (_proven_worse(reading) if reading and not case.is_forced else None)
    )


def _already_withdrawn(case: Case) -> Ending | None:
    """Finish what a pass before began: it wrote the route, and its status write was lost."""
    said = withdrawal_of(case.seen)
    if case.candidate is None or said.get("revision") != case.candidate.name:
        return None
    if said.get("outcome") not in _WORDS or said.get("reason") not in list(Reason):
        # By another version, or by hand: whose traffic is taken is all that can be read, and all that matters.
        return Ending(outcome="RolledBack", reason=Reason.ROLLED_BACK, message="as the route's note says")
    breach_at, written_at = said.get("breachSeenAt"), said.get("weightWrittenAt")
    exposed = said.get("exposed")
    return Ending(
        outcome=cast(Outcome, said["outcome"]),
        reason=Reason(said["reason"]),
        message=str(said.get("message", "")),
        breach_at=parse_time(breach_at) if breach_at else None,
        written_at=parse_time(written_at) if written_at else None,
        exposed=(exposed[0], exposed[1]) if exposed else None,
        by=said.get("by"),
    )


def _recorded(case: Case) -> Ending | None:
    """Finish it by what the candidate's Deployment says: the route may have been deleted, with its note."""
    candidate = case.candidate
    said = outcome_of(case.seen.deployment(candidate.name)) if candidate else None
    outcome, _, reason = (said or "").partition("/")
    if outcome not in _WORDS or reason not in list(Reason):
        return None
    return Ending(outcome=cast(Outcome, outcome), reason=Reason(reason), message="as its Deployment has recorded")


def _aborted(case: Case) -> Ending | None:
    order = case.acts.aborts.get(case.candidate.name) if case.candidate else None
    if order is None:
        return None
    message = f"{order.source} names it{order.signed}"
    return Ending(outcome="Aborted", reason=Reason.ABORTED, message=message, by=order.by)


def _displaced(case: Case) -> Ending | None:
    pin = find_pin(case)
    if pin is None or pin.refusal is not None:
        return None
    message = f"spec.rollout.pin serves {pin.revision}{pin.order.signed}"
    return Ending(outcome="Aborted", reason=Reason.PINNED, message=message, by=pin.order.by)


def _unpinned(case: Case) -> Ending | None:
    pin = find_pin(case)
    assert case.candidate is not None
    if pin is not None and pin.revision == case.candidate.name:
        return None
    return Ending(outcome="Aborted", reason=Reason.REVERTED, message="spec.rollout.pin names it no more")


def _in_trouble(case: Case) -> Ending | None:
    trouble = trouble_of(case.spec, case.status, case.seen)
    return Ending(outcome="RolledBack", reason=trouble.reason, message=trouble.message) if trouble else None


def _spec_changed(case: Case) -> Ending | None:
    candidate = case.candidate
    if candidate is None or case.spec.suspend or case.is_wanted(candidate.name):
        return None
    if case.stable is not None and case.is_wanted(case.stable.name):
        message = f"the spec is {case.stable.name} again"
        return Ending(outcome="Aborted", reason=Reason.REVERTED, message=message)
    if case.is_watched and case.ready(candidate.name):
        return None  # It has passed every step: the watch ends early, and the new spec starts from it.
    return Ending(outcome="Superseded", reason=Reason.SUPERSEDED, message="the spec asks for another revision")


def _proven_worse(reading: Reading) -> Ending | None:
    if reading.outcome != "Fail":
        return None
    return Ending(
        outcome="RolledBack",
        reason=Reason.SAFETY_INCIDENT if reading.code == Reason.SAFETY_INCIDENT else Reason.ANALYSIS_FAILED,
        message=reading.message,
        breach_at=reading.failed_at,
        metrics=reading.metrics,
        exposed=(reading.memory.requests_exposed, reading.memory.bad_served),
    )


def withdraw(case: Case, ending: Ending) -> Decision:
    """Take the candidate back."""
    candidate, rollout = case.candidate, case.status.rollout
    assert candidate is not None
    weight = case.weight_of(candidate.name)
    left = sizing.left_on_candidate(case, weight)
    if left > 0:
        return _move_back(case, ending, candidate, left)
    entry = _entry(case, ending, candidate, rollout, weight)
    rejects = ending.reason not in (Reason.REVERTED, Reason.SUPERSEDED, Reason.PINNED)
    status = case.status.model_copy(
        update={
            "candidate": None,
            "rollout": None,
            "rejected": candidate.name if rejects else None,
            "verdict": _verdict(ending, candidate.name, entry.metrics),
            "history": [entry, *case.status.history][:MAX_HISTORY],
        }
    )
    event = Event(
        type="Warning" if ending.outcome == "RolledBack" else "Normal",
        reason=ending.reason if ending.reason == Reason.REVERTED else ending.outcome,
        message=f"{candidate.name} {_WORDS[ending.outcome]}: {entry.message}",
    )
    return Decision(
        status=status,
        state=rejected_state(candidate.name, entry.message, aborted=ending.outcome == "Aborted")
        if rejects
        else State(kind="working", reason=ending.reason, message=f"{candidate.name}: {entry.message}"),
        withdrawn=json.dumps(_note(ending, entry)) if case.stable else None,
        events=(event, *(_test_over(candidate.name, rollout, entry) if rollout else ())),
        due=() if rejects else (case.seen.now,),
    )


def _test_over(name: str, rollout: RolloutStatus, entry: HistoryEntry) -> tuple[Event, ...]:
    ended = tell_end(name, rollout.model_copy(update={"ab_tests": entry.ab_tests}))
    return (ended,) if ended is not None else ()


def _note(ending: Ending, entry: HistoryEntry) -> Json:
    """Return what the route keeps until status has it: enough to write the same entry."""
    breach_at, written_at = entry.breach_seen_at, entry.weight_written_at
    return {
        "revision": entry.revision,
        "outcome": ending.outcome,
        "reason": ending.reason,
        "message": ending.message,
        "breachSeenAt": format_time(breach_at) if breach_at else None,
        "weightWrittenAt": format_time(written_at) if written_at else None,
        "exposed": ending.exposed,
        "by": ending.by,
    }


def rejected_state(name: str, message: str, *, aborted: bool) -> State:
    """Return what is said while the spec asks for a revision that was taken back."""
    way_out = f"change the spec, or set spec.rollout.retry to {{revision: {name}}}"
    reason = Reason.ABORTED if aborted else Reason.ROLLED_BACK
    return State(kind="stalled", reason=reason, message=f"{name}: {message}; {way_out}")


def _move_back(case: Case, ending: Ending, candidate: RevisionStatus, left: int) -> Decision:
    """Give the stable what its ready pods can take, and remember on the route that the rest follows."""
    stable, rollout = case.stable, case.status.rollout
    assert stable is not None
    ready, carried = len(case.ready(stable.name)), case.weight_of(candidate.name)
    message = (
        f"{candidate.name} has to go ({ending.message}), but {ready} of {case.spec.replicas} pods of {stable.name} "
        f"are ready: it keeps {left} % until more are"
    )
    begins = _already_withdrawn(case) is None
    analysis = rollout.analysis if rollout else None
    if rollout is not None and ending.metrics:
        # A pass that finishes this may have no numbers of its own.
        shown = AnalysisStatus(outcome="Fail", message=ending.message[:512], metrics=list(ending.metrics))
        analysis = shown.model_copy(update={"state": analysis.state if analysis else None, "measured_at": case.now})
    status = case.status.model_copy(
        update={
            "rollout": rollout and rollout.model_copy(update={"analysis": analysis}),
            "verdict": f"{Reason.CAPACITY_SHORT}(r{number_of(candidate.name)}: {left} % left)",
        }
    )
    entry = _entry(case, ending, candidate, rollout, 0)
    return Decision(
        status=status,
        state=State(kind="working", reason=Reason.CAPACITY_SHORT, message=message),
        weight=left,
        withdrawn=json.dumps(_note(ending, entry)),
        events=(Event(type="Warning", reason=str(Reason.CAPACITY_SHORT), message=message),)
        if begins or left < carried
        else (),
        due=(case.seen.now + timedelta(seconds=5),),
    )


def _entry(
    case: Case, ending: Ending, candidate: RevisionStatus, rollout: RolloutStatus | None, weight: int
) -> HistoryEntry:
    where = f" at {describe(rollout.steps, position_of(rollout))}" if rollout and rollout.step else ""
    analysis = rollout.analysis if rollout else None
    shown = ending.metrics or tuple(analysis.metrics if analysis else ())
    has_cohort = case.cohort_of(candidate.name) is not None
    seen = ending.exposed or ((analysis.requests_exposed, analysis.bad_served) if analysis else None)
    return HistoryEntry(
        revision=candidate.name,
        outcome=ending.outcome,
        reason=str(ending.reason),
        by=ending.by,
        message=f"{ending.message}{where}"[:1024],
        step=rollout.step if rollout else 0,
        weight=rollout.weight if rollout else 0,
        model_digest=candidate.model_digest,
        evaluation=candidate.evaluation,
        started_at=rollout.started_at if rollout else case.now,
        ended_at=case.now,
        breach_seen_at=ending.breach_at,
        weight_written_at=ending.written_at or (case.now if weight or has_cohort else None),
        requests_exposed=seen[0] if seen else None,
        bad_served=seen[1] if seen else None,
        metrics=without_queries(shown),
        ab_tests=with_numbers(rollout, shown) if rollout else None,
    )


def without_queries(metrics: Sequence[MetricStatus]) -> list[MetricStatus]:
    """Return the numbers as history keeps them: twenty entries with queries would be a large object."""
    return [metric.model_copy(update={"query": ""}) for metric in metrics]


def _counted(metric: MetricStatus) -> str:
    return "votes" if metric.name == "Satisfaction" else "req"


def _verdict(ending: Ending, name: str, metrics: Sequence[MetricStatus]) -> str:
    short = f"r{number_of(name)}"
    if ending.outcome != "RolledBack":
        return f"{ending.reason}({short})"
    failed = next((m for m in metrics if m.outcome == "Fail"), None)
    if failed is None:
        return f"RolledBack({short}: {ending.reason})"[:160]
    subject = failed.message.partition(" (")[0].rsplit(" ", 2)[0]  # "errors 41 % (21/51) vs …"
    ours = share(failed.candidate_bad, failed.candidate_started)
    stable = share(failed.stable_bad, failed.stable_started)
    return f"RolledBack({short}: {subject} {ours} vs {stable}, {failed.candidate_started} {_counted(failed)})"[:160]
