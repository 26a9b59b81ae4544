"""What a ModelDeployment does next: pure. One of: nothing, wait, admit a candidate, move it on, take it back.

    no candidate ──► settled │ held (gate) │ rejected │ admitted
    candidate    ──► withdrawn (`endings`) │ waits at its step │ next step │ promoted

`rollout` knows the steps, `analysis` the numbers, `decision` the order of writes.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from luthier.api.conditions import Reason
from luthier.api.modeldeployment import AnalysisStatus, HistoryEntry, RevisionStatus, RolloutStatus
from luthier.deployment import abtest, watching
from luthier.deployment.admission import Admitted, Hold, admit
from luthier.deployment.analysis import Reading
from luthier.deployment.brakes import find_brake
from luthier.deployment.build import build_template
from luthier.deployment.case import Case, find_rejection, find_unfinished, open_case
from luthier.deployment.decision import MAX_HISTORY, Decision, State, find_missing_gateway, judge_serving, make_plan
from luthier.deployment.endings import Ending, find_ending, rejected_state, withdraw, without_queries
from luthier.deployment.follow import follow
from luthier.deployment.hooks import confirmations
from luthier.deployment.interruption import find_interruption, interrupt, resumed
from luthier.deployment.look import judge_now, memory_of
from luthier.deployment.lost import rebuilt, take_up
from luthier.deployment.memory import Memory
from luthier.deployment.metrics import gates_of, requests_per_sample
from luthier.deployment.observe import Observed
from luthier.deployment.pace import ChosenPlan, choose_plan, with_patience
from luthier.deployment.pinning import bring_back, find_pin, pinned_state
from luthier.deployment.promotion import note_promotion, promotion_message, promotion_reason
from luthier.deployment.revision import Revision, next_number, number_of, revision_name
from luthier.deployment.rollout import (
    Brake,
    Facts,
    GiveUp,
    Move,
    Position,
    Stay,
    advance,
    begin_rollout,
    position_of,
)
from luthier.deployment.sentences import tell_shift
from luthier.deployment.share import explain_rest, explain_share, find_lacking, find_share, goes_back
from luthier.jobs import is_deleting
from luthier.plan import Event, Json, Plan
from luthier.router import route_in_force
from luthier.status import RECONCILING, STALLED, find_condition

WAIT_SECONDS = 30
LOOK_LAG_SECONDS = 0.3
"""After the end of a look, so that its last scrape has arrived."""
SHOW_SECONDS = 15
"""Numbers of the analysis are written at most so often while nothing changes."""
REMEMBER_SECONDS = 60
"""The memory of the test likewise; in between, it is replayed from the samples."""


def decide(obj: Json, seen: Observed) -> Plan:
    """Return what this pass does.

    Raises:
        InvalidSpec: The stored object predates a rule.
    """
    if is_deleting(obj):
        return Plan(status=obj.get("status", {}))
    case = rebuilt(open_case(obj, seen))
    case = replace(case, brake=find_brake(case))
    if case.is_rebuilt and case.candidate is not None:
        return make_plan(case, take_up(case))
    if case.candidate is None or case.status.rollout is None:
        return make_plan(case, follow(case, rest(case)))
    reading = look(case)
    ending = find_ending(case, reading)
    if ending is not None:
        return make_plan(case, withdraw(case, ending))
    interrupted = find_interruption(case)
    return make_plan(case, follow(case, interrupt(case, interrupted) if interrupted else go_on(case, reading)))


# Without a candidate


def rest(case: Case) -> Decision:
    """Serve the stable; see whether the spec asks for something else."""
    stable, wanted = case.stable, case.wanted
    if case.seen.rival is not None:
        return _in_conflict(case, case.seen.rival)
    if stable is not None and (pinned := _pinned(case, stable)) is not None:
        return pinned
    if case.brake is not None and case.brake.stalled:
        return _braked(case, case.brake)
    if stable is not None and case.is_wanted(stable.name):
        return _settled(case, stable)
    if wanted.hold is not None or wanted.model is None:
        return _hold(case, wanted.hold)
    if rejection := find_rejection(case):
        state = rejected_state(rejection.name, rejection.message, aborted=rejection.aborted)
        return _unchanged(case, state, rejected=rejection.name)
    if case.brake is not None:
        return _braked(case, case.brake)
    if case.seen.missing_claims:
        return _hold(case, _missing_claims(case))
    admitted = admit(case.spec, wanted.model, case.seen.evaluation, now=case.seen.now)
    return _hold(case, admitted) if isinstance(admitted, Hold) else _start(case, admitted)


def _pinned(case: Case, stable: RevisionStatus) -> Decision | None:
    """Serve what is pinned; None: nothing is, or it cannot be."""
    pin = find_pin(case)
    if pin is None or pin.refusal is not None:
        return None
    record = case.seen.revision(pin.revision)
    if pin.revision != stable.name:
        assert record is not None
        return bring_back(case, pin, record)
    decision = _settled(case, stable)
    is_asked_for = case.is_wanted(stable.name) or decision.state.kind != "settled"
    return decision if is_asked_for else replace(decision, state=pinned_state(pin))


def _braked(case: Case, brake: Brake) -> Decision:
    """Try nothing new; the message says what has to happen first."""
    message = brake.message if brake.stalled else f"the new spec is not tried: {brake.message}"
    state = State(kind="stalled" if brake.stalled else "working", reason=brake.reason, message=message)
    return replace(_unchanged(case, state), due=(brake.until,))


def _settled(case: Case, stable: RevisionStatus) -> Decision:
    promoted = next((e for e in case.status.history if e.revision == stable.name and e.outcome == "Promoted"), None)
    reason = Reason.INITIAL if promoted and promoted.reason == Reason.INITIAL else Reason.PROMOTED
    state = State(kind="settled", reason=reason, message=f"{stable.name} serves all traffic")
    if case.seen.revision(stable.name) is None:
        return _lost(case, stable)
    serving = judge_serving(case, stable, otherwise=state)
    return _unchanged(case, state if serving.kind == "settled" else serving)


def _lost(case: Case, stable: RevisionStatus) -> Decision:
    """Tell that what serves cannot be made again; what is left of it goes on."""
    if case.seen.deployment(stable.name) is not None:
        way_out = "it serves as long as nobody deletes its Deployment; change the spec, so that another one takes over"
    else:
        way_out = "restore it from a backup, or delete this ModelDeployment and make it again"
    message = f"the ControllerRevision of {stable.name} was deleted, and no child has a copy of it: {way_out}"
    before = find_condition(case.obj.get("status", {}).get("conditions", []), STALLED)
    is_new = before is None or before["reason"] != Reason.REVISION_LOST
    event = Event(type="Warning", reason=str(Reason.REVISION_LOST), message=message)
    decision = _unchanged(case, State(kind="stalled", reason=Reason.REVISION_LOST, message=message))
    return replace(decision, events=(event,) if is_new else ())


def _in_conflict(case: Case, rival: str) -> Decision:
    """Let the older object have the requests: nothing is begun, and the route stays as it is."""
    message = f"ModelDeployment {rival} is older and has the same Gateway, host and path; change spec.gateway of one"
    state = State(kind="working", reason=Reason.ROUTE_CONFLICT, message=message)
    due = case.seen.now + timedelta(seconds=WAIT_SECONDS)
    return replace(_unchanged(case, state), keep_route=True, due=(due,))


def _unchanged(case: Case, state: State, *, rejected: str | None = None) -> Decision:
    status = case.status.model_copy(update={"candidate": None, "rollout": None, "rejected": rejected})
    return Decision(status=status, state=state)


def _missing_claims(case: Case) -> Hold:
    names = ", ".join(case.seen.missing_claims)
    message = f"PersistentVolumeClaim {names} does not exist; create it, or correct spec.model"
    return Hold(reason=Reason.WAITING_FOR_PVC, message=message)


def _hold(case: Case, hold: Hold | None) -> Decision:
    assert hold is not None
    if hold.stalled:
        return _unchanged(case, State(kind="stalled", reason=hold.reason, message=hold.message))
    state = State(kind="working", reason=hold.reason, message=hold.message)
    status = case.status.model_copy(update={"candidate": None, "rollout": None, "rejected": None})
    return Decision(status=status, state=state, due=(case.seen.now + timedelta(seconds=WAIT_SECONDS),))


def _start(case: Case, admitted: Admitted) -> Decision:
    """Make the candidate: its record, its pods, no traffic."""
    revision = find_unfinished(case) or _new_revision(case, admitted)
    chosen = choose_plan(case.spec, case.seen.last_day, now=case.now) if case.stable else ChosenPlan(steps=[])
    begun = begin_rollout(case.spec, now=case.now, is_first=case.stable is None)
    rollout = begun.model_copy(update={"steps": chosen.steps, "plan": chosen.status})
    status = case.status.model_copy(
        update={
            "candidate": revision.status(ready=0),
            "rollout": rollout,
            "rejected": None,
            "verdict": f"Starting(r{revision.number})",
        }
    )
    message = f"{revision.name} is admitted by Evaluation {revision.evidence.name}: its pods start"
    events = [Event(type="Normal", reason=str(Reason.ROLLING_OUT), message=message)]
    if chosen.event:
        events.append(chosen.event)
    if admitted.warning:
        events.append(Event(type="Warning", reason=str(Reason.SERVING_PROFILE_MISMATCH), message=admitted.warning))
    return Decision(
        status=status,
        state=State(kind="working", reason=Reason.ROLLING_OUT, message=f"{revision.name}: its pods start"),
        record=revision,
        events=tuple(events),
        due=(_deadline(case, case.now),),
    )


def _new_revision(case: Case, admitted: Admitted) -> Revision:
    wanted = case.wanted
    assert wanted.model is not None
    assert wanted.hash is not None
    names = [e.revision for e in case.status.history]
    names += [r.name for r in (case.stable, case.candidate) if r is not None]
    number = next_number(case.seen.revisions, names)
    name = revision_name(number, wanted.hash)
    template = build_template(case.obj, case.spec, wanted.model, name=name, settings=case.seen.settings)
    return Revision(
        name=name,
        number=number,
        hash=wanted.hash,
        intent=wanted.intent,
        model=wanted.model,
        evidence=admitted.evidence,
        template=template,
    )


# With a candidate


def look(case: Case) -> Reading | None:
    """Judge the newest samples; None while there is nothing to compare."""
    return judge_now(case.obj, case.spec, case.status, case.seen)


def go_on(case: Case, reading: Reading | None) -> Decision:
    """Move the candidate as far as the facts allow."""
    candidate, rollout = case.candidate, case.status.rollout
    assert candidate is not None
    assert rollout is not None
    rollout = resumed(case, rollout)
    rollout, said = note_promotion(case, rollout)
    move = advance(rollout.steps, position_of(rollout), _facts(case, candidate, rollout, reading))
    if isinstance(move.stay, GiveUp):
        ending = Ending(
            outcome="RolledBack",
            reason=Reason.ANALYSIS_INCONCLUSIVE,
            message=move.stay.message,
            metrics=reading.metrics if reading else (),
        )
        return withdraw(case, ending)
    if move.stay is None:
        decision = _promote(case, candidate, rollout)
    else:
        decision = _moved(case, candidate, rollout, move, move.stay, reading)
    return replace(decision, events=(*said, *decision.events))


def _facts(case: Case, candidate: RevisionStatus, rollout: RolloutStatus, reading: Reading | None) -> Facts:
    route = case.seen.route
    carried = case.weight_of(candidate.name)
    # In the watch it may have the stable's share too, when the stable has lost its pods; or have kept all from before.
    carries = carried == rollout.weight or (watching.is_at_watch(rollout) and carried == 100)
    cohort, wanted = case.cohort_of(candidate.name), abtest.wanted_headers(case, rollout, rollout.step)
    wants_nothing = rollout.weight == 0 and wanted is None
    is_taken = carries and cohort == wanted and route is not None and route_in_force(route)
    in_force = is_taken or (wants_nothing and cohort is None)
    return Facts(
        now=case.now,
        candidate=candidate.name,
        capacity=find_lacking(case, rollout),
        in_force=in_force and (wants_nothing or bool(case.ready(candidate.name))),
        gateway=find_missing_gateway(case) if route is not None else None,
        brake=case.holding,
        approved=case.acts.approved(candidate.name),
        pauses_approved=case.promotion is not None,
        confirmations=confirmations(case),
        forced=case.is_forced,
        analysis=with_patience(case.spec.rollout.analysis, rollout.plan),
        outcome=reading.outcome if reading else None,
        code=reading.code if reading else "",
        message=reading.message if reading else "",
        judged_step=rollout.step,
        judged_since=_since(reading),
        watch=rollout.watch,
        moved_on=not case.is_wanted(candidate.name),
    )


def _since(reading: Reading | None) -> datetime | None:
    since = reading.memory.since if reading else None
    return datetime.fromtimestamp(since, UTC) if since is not None else None


def _moved(
    case: Case, candidate: RevisionStatus, rollout: RolloutStatus, move: Move, stay: Stay, reading: Reading | None
) -> Decision:
    position = move.position
    weight = find_share(case, candidate, position, reading)
    if weight < position.weight:
        stay = explain_share(case, candidate, position, weight, reading)
    elif goes_back(case, position, weight):
        stay = explain_rest(case, position, weight)
    cohort = abtest.find_cohort(case, rollout, position, reading)
    if cohort is None and (held := abtest.explain_cohort(case, rollout, position, reading)) is not None:
        stay = held
    headers = cohort and tuple((header.name, header.value) for header in cohort.headers)
    is_as_read = (weight, headers) == (case.weight_of(candidate.name), case.cohort_of(candidate.name))
    has_moved = (position.step, position.weight) != (rollout.step, rollout.weight)
    analysis = _shown_analysis(rollout, reading, case.now, has_moved=has_moved)
    looked = rollout.model_copy(update={"analysis": analysis, "ab_tests": abtest.with_result(rollout, analysis)})
    next_rollout = looked.model_copy(
        update={
            "step": position.step,
            "weight": position.weight,
            "step_started_at": position.started_at,
            # A weight that this pass writes is not in force yet, though the step has had it before.
            "weight_in_force_at": position.in_force_at if is_as_read else None,
            "held_at": position.held_at,
            "held_seconds": position.held_seconds,
            "watch": watching.begun(
                rollout.watch,
                position,
                _newest(rollout, reading),
                gates_of(case.spec),
                cluster=requests_per_sample(case.spec),
            ),
        }
    )
    if stay.reason == Reason.WATCHING:
        stay = replace(stay, message=stay.message + watching.note(next_rollout))
    status = case.status.model_copy(
        update={"rollout": next_rollout, "verdict": _verdict(case, candidate, next_rollout, stay)}
    )
    return Decision(
        status=status,
        state=_state(case, candidate, stay),
        weight=weight,
        cohort=cohort,
        moves_back=goes_back(case, position, weight),
        events=(
            *_events(case, candidate, stay, position, looked, weight),
            *abtest.tell_events(candidate.name, looked, position.step),
        ),
        due=_dues(case, position, stay, reading),
    )


def _state(case: Case, candidate: RevisionStatus, stay: Stay) -> State:
    brake = case.brake
    is_stalled = brake is not None and brake.stalled and stay.reason == brake.reason
    # A pin is shown as one, until the old revision has everything.
    reason = Reason.PINNED if case.is_pinning and stay.reason == Reason.ROLLING_OUT else stay.reason
    message = f"{candidate.name} at {stay.message}"
    return State(kind="stalled" if is_stalled else "working", reason=reason, message=message)


def _newest(rollout: RolloutStatus, reading: Reading | None) -> Memory | None:
    return reading.memory if reading else memory_of(rollout)


def _shown_analysis(
    rollout: RolloutStatus, reading: Reading | None, now: datetime, *, has_moved: bool
) -> AnalysisStatus | None:
    """Return the newest look as status shows it; the old one while it says the same and is not old."""
    old = rollout.analysis
    if reading is None:
        return old
    memory, stored = reading.memory, memory_of(rollout)
    is_due = stored is None or memory.at - stored.at >= REMEMBER_SECONDS
    remember = (
        has_moved or is_due or (stored is not None and (stored.edge, stored.since) != (memory.edge, memory.since))
    )
    state = memory.dump() if remember or old is None else old.state
    is_fresh = (
        old is not None and old.measured_at is not None and now - old.measured_at < timedelta(seconds=SHOW_SECONDS)
    )
    is_same = old is not None and old.outcome == reading.outcome and tuple(old.queries) == reading.queries
    if old is not None and is_fresh and is_same and not remember:
        return old
    return AnalysisStatus(
        outcome=reading.outcome,
        message=f"{reading.code}: {reading.message}"[:512],
        measured_at=now,
        requests_exposed=memory.requests_exposed,
        bad_served=memory.bad_served,
        metrics=list(reading.metrics),
        queries=list(reading.queries),
        state=state,
    )


def _verdict(case: Case, candidate: RevisionStatus, rollout: RolloutStatus, stay: Stay) -> str:
    if stay.reason == Reason.WATCHING and stay.until is not None:
        return f"Watching(r{number_of(candidate.name)} until {stay.until:%H:%M:%SZ})"
    if stay.reason != Reason.ROLLING_OUT:
        return f"{stay.reason}(r{number_of(candidate.name)})"
    if rollout.step == 0 or not case.ready(candidate.name):
        return f"Starting(r{number_of(candidate.name)})"
    before = case.status.rollout
    if rollout.analysis is None or before is None or before.step != rollout.step:
        return "NotYet"  # the look was one at the step before, which may ask for other numbers
    # The code of the look that status shows: the two never disagree.
    return rollout.analysis.message.partition(":")[0][:160]


_WORTH_AN_EVENT = (
    Reason.FROZEN,
    Reason.PIN_REFUSED,
    Reason.METRICS_UNAVAILABLE,
    Reason.SPLIT_MISMATCH,
    Reason.BASELINE_UNHEALTHY,
    Reason.ROLLOUT_HELD,
    Reason.WAITING_FOR_APPROVAL,
    Reason.WATCHING,
)
_GOOD_NEWS = (Reason.WAITING_FOR_APPROVAL, Reason.WATCHING)


def _events(
    case: Case, candidate: RevisionStatus, stay: Stay, position: Position, rollout: RolloutStatus, weight: int
) -> tuple[Event, ...]:
    events = []
    if case.has_drifted and case.status.observed_generation != case.obj["metadata"]["generation"]:  # new: said once
        message = f"steps and analysis of spec.rollout have changed: {candidate.name} goes on by its own plan"
        events.append(Event(type="Normal", reason=str(Reason.PLAN_DRIFT), message=message))
    if position.weight != rollout.weight:
        message = tell_shift(candidate.name, position, rollout)
        events.append(Event(type="Normal", reason=str(Reason.WEIGHT_CHANGED), message=message))
    if weight == 0 and case.has_traffic(candidate.name) and not case.ready(candidate.name):
        message = f"{candidate.name} has no ready pod: its traffic goes to the stable until it has"
        events.append(Event(type="Warning", reason=str(Reason.NO_READY_PODS), message=message))
    before = find_condition(case.obj.get("status", {}).get("conditions", []), RECONCILING)
    if stay.reason in _WORTH_AN_EVENT and (before is None or stay.reason != before["reason"]):
        kind = "Normal" if stay.reason in _GOOD_NEWS else "Warning"
        message = f"{candidate.name} at {stay.message}"
        events.append(Event(type=kind, reason=str(stay.reason), message=message))  # type: ignore[arg-type]
    return tuple(events)


def _dues(case: Case, position: Position, stay: Stay, reading: Reading | None) -> tuple[datetime | None, ...]:
    next_look = None
    if reading is not None or (case.stable is not None and position.weight > 0):
        # A failed query moves no look: asked again at once, it would be asked for ever.
        has_looked = reading is not None and reading.outcome != "Error"
        at = reading.memory.at if reading and has_looked else case.seen.now.timestamp()
        seconds = at + case.spec.rollout.analysis.interval_seconds + LOOK_LAG_SECONDS - case.seen.now.timestamp()
        next_look = case.seen.now + timedelta(seconds=max(LOOK_LAG_SECONDS, seconds))
    waits_for_pods = position.step == 0 and not case.spec.suspend and case.seen.freeze is None
    rollout = case.status.rollout
    deadline = _deadline(case, rollout.started_at) if waits_for_pods and rollout else None
    if deadline is not None and deadline <= case.seen.now:
        deadline = None  # It has passed and the pods were ready: something else is awaited.
    # What is not ours is looked at again, whatever events come.
    is_waiting = stay.reason == Reason.WAITING_FOR_GATEWAY
    recheck = case.seen.now + timedelta(seconds=WAIT_SECONDS) if is_waiting else None
    return (stay.until, next_look, deadline, recheck)


def _deadline(case: Case, started_at: datetime) -> datetime:
    return started_at + timedelta(seconds=case.spec.progress_deadline_seconds + 1)


def _promote(case: Case, candidate: RevisionStatus, rollout: RolloutStatus) -> Decision:
    """Swap the roles in one status write: the route, read back, already carries all traffic."""
    initial = case.stable is None
    reason = Reason.INITIAL if initial else promotion_reason(rollout)
    watched = "; watched to the end" if case.is_watched and case.is_wanted(candidate.name) else ""
    message = "the first revision" if initial else f"{promotion_message(rollout, case.now)}{watched}"
    seen = rollout.analysis
    entry = HistoryEntry(
        revision=candidate.name,
        outcome="Promoted",
        reason=str(reason),
        by=rollout.act.by if rollout.act else None,
        message=message,
        step=rollout.step,
        weight=100,
        model_digest=candidate.model_digest,
        evaluation=candidate.evaluation,
        started_at=rollout.started_at,
        ended_at=case.now,
        requests_exposed=seen.requests_exposed if seen else None,
        bad_served=seen.bad_served if seen else None,
        metrics=without_queries(seen.metrics if seen else ()),
        ab_tests=rollout.ab_tests,
    )
    status = case.status.model_copy(
        update={
            "stable": candidate,
            "candidate": None,
            "rollout": None,
            "rejected": None,
            "verdict": f"Promoted(r{number_of(candidate.name)})",
            "history": [entry, *case.status.history][:MAX_HISTORY],
        }
    )
    event = Event(type="Normal", reason=str(Reason.PROMOTED), message=f"{candidate.name} serves all traffic: {message}")
    state = State(kind="settled", reason=reason, message=f"{candidate.name} serves all traffic")
    if case.is_pinning and not case.is_wanted(candidate.name) and (pin := find_pin(case)) is not None:
        state = pinned_state(pin)  # not for one pass is the object Ready: it is not the spec that is served
    return Decision(status=status, state=state, events=(event,), due=(case.seen.now,))
