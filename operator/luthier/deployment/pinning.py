"""Serve an older revision while `rollout.pin` names it: pure.

It comes back as a rollout of its own with no steps and no analysis: its pods first, then all traffic in one write.
Only what was promoted before can be pinned: a pin is a way back, and no way around the analysis.
"""

from __future__ import annotations

from dataclasses import dataclass

from luthier.api.acts import ActStatus
from luthier.api.conditions import Reason
from luthier.api.modeldeployment import RolloutStatus
from luthier.deployment.acts import Order
from luthier.deployment.case import Case, is_rejecting, outcome_of
from luthier.deployment.decision import Decision, State
from luthier.deployment.revision import Revision, number_of
from luthier.plan import Event


@dataclass(frozen=True, kw_only=True)
class Pin:
    """What `rollout.pin` asks for."""

    revision: str
    order: Order
    refusal: str | None = None
    """Why it cannot be served; None: it can."""


def find_pin(case: Case) -> Pin | None:
    """Return the pin, if one is set."""
    name = case.acts.pinned
    return None if name is None else Pin(revision=name, order=case.acts.pin, refusal=_refuse(case, name))


def _refuse(case: Case, name: str) -> str | None:
    is_candidate = case.candidate is not None and name == case.candidate.name
    if (case.stable is not None and name == case.stable.name) or (is_candidate and case.is_pinning):
        return None
    if is_candidate:
        return f"{name} is still being tried: use spec.rollout.promote, or pin a revision that was promoted before"
    if case.seen.revision(name) is None:
        known = ", ".join(r.name for r in case.seen.revisions) or "none"
        return f"there is no record of {name}; records: {known}"
    mine = [entry for entry in case.status.history if entry.revision == name]
    if mine and is_rejecting(mine[0].outcome, mine[0].reason):
        return f"{name} was taken back ({mine[0].message[:200]}): no pin serves it"
    deployment = case.seen.deployment(name)
    is_forgotten = not mine and deployment is not None and outcome_of(deployment) is None
    if any(entry.outcome == "Promoted" for entry in mine) or is_forgotten:
        return None
    return f"{name} was never promoted: no pin serves it"


def bring_back(case: Case, pin: Pin, revision: Revision) -> Decision:
    """Begin: the old revision gets its pods, and no traffic yet."""
    act = ActStatus(act="Pin", skip_analysis=True, by=pin.order.by, reason=pin.order.reason, since=case.now)
    rollout = RolloutStatus(steps=[], step=0, weight=0, started_at=case.now, step_started_at=case.now, act=act)
    status = case.status.model_copy(
        update={
            "candidate": revision.status(ready=0),
            "rollout": rollout,
            "rejected": None,
            "verdict": f"Pinned(r{number_of(revision.name)})",
        }
    )
    message = f"{revision.name} is pinned{pin.order.signed}: its pods start, and then it gets all traffic"
    return Decision(
        status=status,
        state=State(kind="working", reason=Reason.PINNED, message=message),
        record=revision,
        events=(Event(type="Warning", reason=str(Reason.PINNED), message=message),),
    )


def pinned_state(pin: Pin) -> State:
    """Return what is said while a pin keeps the spec's revision from being tried."""
    pinned = f"{pin.revision} is pinned{pin.order.signed}"
    message = f"{pinned}: the spec's revision is not tried until spec.rollout.pin is removed"
    return State(kind="working", reason=Reason.PINNED, message=message)
