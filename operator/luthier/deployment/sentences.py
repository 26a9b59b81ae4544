"""What events and history say of a rollout that goes well, with its numbers: pure."""

from __future__ import annotations

from datetime import datetime

from luthier.api.modeldeployment import RolloutStatus
from luthier.deployment.rollout import Position


def tell_shift(name: str, position: Position, rollout: RolloutStatus) -> str:
    """Say what share the candidate gets, and by which numbers.

    Args:
        name: The candidate's.
        position: Where it goes.
        rollout: Where it is, with the look that lets it go on.
    """
    message = f"{name} gets {position.weight} % of the traffic (step {position.step} of {len(rollout.steps) + 1})"
    look = rollout.analysis
    if look is None or look.outcome != "Pass" or rollout.weight == 0:
        return message
    numbers = "; ".join(m.message.partition(";")[0] for m in look.metrics if m.candidate_started)
    return f"{message}; at {rollout.weight} %: {numbers}"


def tell_pass(rollout: RolloutStatus, now: datetime) -> str:
    """Say what a promoted revision has behind it: `passed 11 steps in 32 min, 13 bad of 1240 requests`."""
    seconds = (now - rollout.started_at).total_seconds()
    took = f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"
    message = f"passed {len(rollout.steps)} steps in {took}"
    look = rollout.analysis
    return f"{message}, {look.bad_served} bad of {look.requests_exposed} requests" if look else message
