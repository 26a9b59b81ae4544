"""Write what `aftermath` reads into the newest history entry, and tell people when a rollback has no effect: pure."""

from __future__ import annotations

from dataclasses import replace

from luthier.api.conditions import Reason
from luthier.deployment import aftermath
from luthier.deployment.case import Case
from luthier.deployment.decision import Decision
from luthier.plan import Event


def follow(case: Case, decision: Decision) -> Decision:
    """Return the decision with the newest rollback's last request in it."""
    history = decision.status.history
    entry = aftermath.followed_entry(history, case.now)
    if entry is None or entry.weight_written_at is None:
        return decision
    due = case.seen.now + aftermath.LOOK_EVERY
    if not case.seen.followed or entry != next(iter(case.status.history), None):
        return replace(decision, due=(*decision.due, due))
    found = aftermath.read(case.seen.followed, entry.weight_written_at)
    last_at = found.last_at or entry.last_candidate_request_at
    late = max(found.late, entry.late_requests)
    shown = entry.model_copy(update={"last_candidate_request_at": last_at, "late_requests": late})
    status = decision.status.model_copy(update={"history": [shown, *history[1:]]})
    events = decision.events
    if late and not entry.late_requests:
        message = (
            f"{late} requests reached {entry.revision} more than {aftermath.LATE.seconds} s after its weight was 0: "
            "see whether the gateway follows the HTTPRoute, and who asks the pods past it"
        )
        events = (*events, Event(type="Warning", reason=str(Reason.ROLLBACK_NOT_EFFECTIVE), message=message))
    return replace(decision, status=status, events=events, due=(*decision.due, due))
