"""`rollout.promote`: what is remembered of it, and what history says in the end: pure."""

from __future__ import annotations

from datetime import datetime

from luthier.api.acts import ActStatus
from luthier.api.conditions import Reason
from luthier.api.modeldeployment import RolloutStatus
from luthier.deployment.case import Case
from luthier.deployment.sentences import tell_pass
from luthier.plan import Event


def note_promotion(case: Case, rollout: RolloutStatus) -> tuple[RolloutStatus, tuple[Event, ...]]:
    """Return the rollout with the order in it, and the event of a new one.

    It stays there when the order is taken away again: what was skipped was skipped.
    """
    order, known = case.promotion, rollout.act
    if order is None or case.candidate is None or case.is_pinning:
        return rollout, ()
    if known is not None and (known.skip_analysis or not order.skip_analysis):
        return rollout, ()
    act = ActStatus(act="Promote", skip_analysis=order.skip_analysis, by=order.by, reason=order.reason, since=case.now)
    where = f"at step {rollout.step} of {len(rollout.steps) + 1}, {rollout.weight} %"
    what = "goes on without analysis" if order.skip_analysis else "has every pause approved"
    event = Event(
        type="Warning" if order.skip_analysis else "Normal",
        reason=str(_reason(act)),
        message=f"{case.candidate.name} {what}: {order.source}{order.signed}, {where}",
    )
    return rollout.model_copy(update={"act": act}), (event,)


def promotion_reason(rollout: RolloutStatus) -> Reason:
    """Return the reason in history of a candidate that has arrived."""
    return Reason.PROMOTED if rollout.act is None else _reason(rollout.act)


def promotion_message(rollout: RolloutStatus, now: datetime) -> str:
    """Return how a candidate has arrived, for history."""
    act = rollout.act
    if act is None:
        return tell_pass(rollout, now)
    who = ": ".join(part for part in (act.by, act.reason) if part) or "nobody signed it"
    if act.act == "Pin":
        return f"pinned ({who})"
    how = "without analysis" if act.skip_analysis else "every pause approved"
    return f"sent on to the end, {how} ({who})"


def _reason(act: ActStatus) -> Reason:
    if act.act == "Pin":
        return Reason.PINNED
    return Reason.ANALYSIS_SKIPPED if act.skip_analysis else Reason.PAUSES_APPROVED
