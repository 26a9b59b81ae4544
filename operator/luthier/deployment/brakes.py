"""What keeps rollouts from starting and from getting more traffic: pure. None of it keeps a rollback back."""

from __future__ import annotations

from luthier.api.conditions import Reason
from luthier.deployment.affinity import find_affinity_brake
from luthier.deployment.capability import find_capability_brake
from luthier.deployment.case import Case
from luthier.deployment.hooks import find_refused_url
from luthier.deployment.pinning import find_pin
from luthier.deployment.rollout import Brake
from luthier.deployment.windows import BadWindow, look
from luthier.status import format_time


def find_brake(case: Case) -> Brake | None:
    """Return the first brake that is on."""
    return (
        _frozen(case)
        or _suspended(case)
        or _pin_refused(case)
        or _hook_refused(case)
        or find_capability_brake(case)
        or find_affinity_brake(case)
        or _outside_window(case)
    )


def _frozen(case: Case) -> Brake | None:
    why = case.seen.freeze
    return None if why is None else Brake(reason=Reason.FROZEN, message=f"all rollouts are frozen ({why})")


def _suspended(case: Case) -> Brake | None:
    if not case.spec.suspend:
        return None
    return Brake(reason=Reason.SUSPENDED, message="spec.suspend is true; set it to false to go on")


def _pin_refused(case: Case) -> Brake | None:
    pin = find_pin(case)
    if pin is None or pin.refusal is None:
        return None
    message = f"spec.rollout.pin: {pin.refusal}; pin another revision, or remove it"
    return Brake(reason=Reason.PIN_REFUSED, message=message, stalled=True)


def _hook_refused(case: Case) -> Brake | None:
    refused = find_refused_url(case)
    return None if refused is None else Brake(reason=Reason.INVALID_SPEC, message=refused, stalled=True)


def _outside_window(case: Case) -> Brake | None:
    windows = case.spec.rollout.windows
    if not windows:
        return None
    try:
        opening = look(windows, case.seen.now)
    except BadWindow as error:
        return Brake(reason=Reason.INVALID_SPEC, message=str(error), stalled=True)
    if opening.is_open or opening.opens_at is None:
        return None
    message = f"outside spec.rollout.windows; the next one opens {format_time(opening.opens_at)}"
    return Brake(reason=Reason.OUTSIDE_WINDOW, message=message, until=opening.opens_at)
