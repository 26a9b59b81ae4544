"""Pods that the platform takes from a candidate: no traffic at once, and a step earlier when they are back: pure.

    at a step ── lost ──► interrupted (0 %) ── pods ready ──► the weight before
                              │
                              └── a third time, or the stable lost pods too ──► held ── approved ──► the weight before

A crash loop is the revision's own fault and ends the rollout (`endings`); this one is nobody's.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from luthier.api.conditions import Reason
from luthier.api.modeldeployment import HistoryEntry, InterruptionStatus, RolloutStatus, Step
from luthier.deployment import sizing
from luthier.deployment.case import Case
from luthier.deployment.decision import MAX_HISTORY, Decision, State
from luthier.deployment.observe import is_interrupted, loss_of
from luthier.deployment.pods import Loss, explain, find_loss
from luthier.deployment.revision import number_of
from luthier.plan import Event

MAX_RESUMES = 2
SAME_MINUTE = timedelta(seconds=60)


def find_interruption(case: Case) -> RolloutStatus | None:
    """Return the rollout as an interruption leaves it; None: there is none, or it may resume.

    Whom a person has decided for is not interrupted: pods and the gateway alone hold it up (`share`).
    """
    rollout = case.status.rollout
    if rollout is None or case.candidate is None or case.is_forced:
        return None
    if not is_interrupted(rollout):
        loss = loss_of(case.spec, case.status, case.seen)
        return _begun(case, rollout, loss) if loss is not None else None
    held = _is_held(case, rollout)
    # What a stable without pods cannot take is no reason to wait: it may never have any again.
    is_leaving = case.has_traffic(case.candidate.name) and not case.stable_lacks_pods()
    if held or is_leaving or _lacks_pods(case, rollout):
        assert rollout.interruption is not None
        return rollout.model_copy(update={"interruption": rollout.interruption.model_copy(update={"held": held})})
    return None


def resumed(case: Case, rollout: RolloutStatus) -> RolloutStatus:
    """Return the rollout as it goes on, from the step that the interruption sent it to."""
    if not is_interrupted(rollout):
        return rollout
    assert rollout.interruption is not None
    over = rollout.interruption.model_copy(update={"at": None, "held": False, "resumed_at": case.now})
    step, weight = _kept(case, rollout)
    update = {"interruption": over, "step": step, "weight": weight, "step_started_at": case.now}
    return rollout.model_copy(update=update)


def interrupt(case: Case, rollout: RolloutStatus) -> Decision:
    """Take the candidate's traffic away, in one route write where the stable has the pods for it."""
    candidate, interruption = case.candidate, rollout.interruption
    assert candidate is not None
    assert interruption is not None
    carried = case.weight_of(candidate.name)
    left = carried if case.stable_lacks_pods() else sizing.left_on_candidate(case, carried)
    message = _message(case, rollout, interruption)
    reason = Reason.ROLLOUT_HELD if interruption.held else Reason.INTERRUPTED
    short = f"r{number_of(candidate.name)}"
    update: dict[str, object] = {"rollout": rollout, "verdict": f"{reason}({short})"}
    events: list[Event] = []
    before = case.status.rollout
    is_new = before is None or not is_interrupted(before)
    if is_new and interruption.count <= MAX_RESUMES + 1:
        update["history"] = [_entry(case, interruption), *case.status.history][:MAX_HISTORY]
    if is_new or (interruption.held and before and before.interruption and not before.interruption.held):
        events.append(Event(type="Warning", reason=str(reason), message=message))
    ends = case.now + SAME_MINUTE
    return Decision(
        status=case.status.model_copy(update=update),
        state=State(kind="working", reason=reason, message=message),
        weight=left,
        moves_back=True,
        events=tuple(events),
        due=(ends if interruption.at and case.now - interruption.at < SAME_MINUTE else None,),
    )


def _begun(case: Case, rollout: RolloutStatus, loss: Loss) -> RolloutStatus:
    before = rollout.interruption
    interruption = InterruptionStatus(
        count=(before.count if before else 0) + 1,
        at=case.now,
        resumed_at=before.resumed_at if before else None,
        message=loss.message[:512],
    )
    # Without a share it had an A/B test's requests at most: that step is the one to begin again.
    step, weight = _back(rollout.steps, rollout.weight) if rollout.weight else (rollout.step, 0)
    watch = rollout.watch and rollout.watch.model_copy(update={"ends_at": None, "error_bound_percent": None})
    sent_back = rollout.model_copy(
        update={
            "interruption": interruption,
            "step": step,
            "weight": weight,
            "step_started_at": case.now,
            "weight_in_force_at": None,
            "held_at": None,
            "held_seconds": 0,
            "watch": watch,
        }
    )
    held = interruption.model_copy(update={"held": _is_held(case, sent_back)})
    return sent_back.model_copy(update={"interruption": held})


def _back(steps: Sequence[Step], weight: int) -> tuple[int, int]:
    """Return the step before, with its weight: the last smaller one, or the first of all."""
    weights = [(number, step.set_weight) for number, step in enumerate(steps, 1) if step.set_weight]
    smaller = [found for found in weights if found[1] < weight]
    return smaller[-1] if smaller else weights[0] if weights else (len(steps), 0)


def _kept(case: Case, rollout: RolloutStatus) -> tuple[int, int]:
    """Return the step to go on from, with its weight: none that would send traffic back to a stable without pods."""
    carried = case.weight_of(case.candidate.name) if case.candidate else 0
    if carried <= rollout.weight or not case.stable_lacks_pods():
        return rollout.step, rollout.weight
    last = (len(rollout.steps) + 1, 100 - rollout.watch.weight if rollout.watch else 100)
    weights = [(number, step.set_weight) for number, step in enumerate(rollout.steps, 1) if step.set_weight]
    return next((found for found in weights if found[1] >= carried), last)


def _is_held(case: Case, rollout: RolloutStatus) -> bool:
    """Say whether people have to let it go on: it happens again and again, or to both sides at once."""
    interruption, candidate = rollout.interruption, case.candidate
    assert interruption is not None
    if candidate and rollout.step in case.acts.approved(candidate.name):
        return False
    return interruption.held or interruption.count > MAX_RESUMES or _stable_lost_too(case, interruption)


def _stable_lost_too(case: Case, interruption: InterruptionStatus) -> bool:
    if case.stable is None or interruption.at is None:
        return False
    after = interruption.at - SAME_MINUTE
    loss = find_loss(case.seen.pods_of(case.stable.name), after=after, now=case.now)
    return loss is not None and loss.at <= interruption.at + SAME_MINUTE


def _lacks_pods(case: Case, rollout: RolloutStatus) -> bool:
    assert case.candidate is not None
    needed = 1 if sizing.in_place(case) else sizing.wanted_pods(case, rollout)
    return len(case.ready(case.candidate.name)) < needed


def _message(case: Case, rollout: RolloutStatus, interruption: InterruptionStatus) -> str:
    candidate = case.candidate
    assert candidate is not None
    step, weight = _kept(case, rollout)
    where = f"step {step}, {weight} %"
    carried = case.weight_of(candidate.name) if case.stable_lacks_pods() else 0
    has = f"keeps {carried} %, the stable has no ready pod" if carried else "has no traffic"
    lost = f"{candidate.name} {has}: {interruption.message}"
    if interruption.held:
        why = "the third time" if interruption.count > MAX_RESUMES else "the stable lost pods in the same minute"
        way_out = f"set spec.rollout.approve to {{revision: {candidate.name}, step: {rollout.step}}} to go on"
        return f"{lost}; held, {why}: {way_out} at {where}, or rollout.abort"
    waits = explain(case.seen.pods_of(candidate.name))
    return f"{lost}; it resumes at {where}, when its pods are back{f' ({waits})' if waits else ''}"


def _entry(case: Case, interruption: InterruptionStatus) -> HistoryEntry:
    candidate, rollout = case.candidate, case.status.rollout
    assert candidate is not None
    assert rollout is not None
    return HistoryEntry(
        revision=candidate.name,
        outcome="Interrupted",
        reason=str(Reason.INTERRUPTED),
        message=interruption.message,
        step=rollout.step,
        weight=rollout.weight,
        model_digest=candidate.model_digest,
        evaluation=candidate.evaluation,
        started_at=rollout.started_at,
        ended_at=case.now,
        weight_written_at=case.now if case.has_traffic(candidate.name) else None,
    )
