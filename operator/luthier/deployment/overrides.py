"""Conditions that exist only while people decide: Overridden and Held: pure. Alerts look at them."""

from __future__ import annotations

from luthier.api.conditions import ConditionType, Reason
from luthier.api.modeldeployment import ModelDeploymentStatus
from luthier.deployment.case import Case
from luthier.status import Conditions, remove_condition, set_condition


def mark_overrides(conditions: Conditions, case: Case, status: ModelDeploymentStatus) -> Conditions:
    """Return the conditions with Overridden and Held as they are after this pass."""
    frozen = None if case.seen.freeze is None else (Reason.FROZEN, f"all rollouts are frozen ({case.seen.freeze})")
    conditions = _mark(conditions, ConditionType.HELD, frozen, case)
    return _mark(conditions, ConditionType.OVERRIDDEN, _find(case, status), case)


def _mark(
    conditions: Conditions,
    type: ConditionType,  # noqa: A002 - the field's name in Kubernetes
    said: tuple[Reason, str] | None,
    case: Case,
) -> Conditions:
    if said is None:
        return remove_condition(conditions, str(type))
    reason, message = said
    return set_condition(
        conditions,
        type=str(type),
        status="True",
        reason=str(reason),
        message=message,
        generation=case.obj["metadata"]["generation"],
        now=case.seen.now,
    )


def _find(case: Case, status: ModelDeploymentStatus) -> tuple[Reason, str] | None:
    stable, candidate, acts = status.stable, status.candidate, case.acts
    act = status.rollout.act if status.rollout else None
    comes_back = act is not None and act.act == "Pin"
    served = candidate if comes_back else stable
    if served is not None and acts.pinned == served.name:
        return Reason.PINNED, f"{acts.pin.source} serves {served.name}{acts.pin.signed}"
    order = acts.promotes.get(candidate.name) if candidate else None
    if order is None or not order.skip_analysis or candidate is None:
        return None
    return Reason.ANALYSIS_SKIPPED, f"{order.source} sends {candidate.name} on without analysis{order.signed}"
