"""What keeps rollouts from starting and from getting more traffic: pure. None of it keeps a rollback back."""

from __future__ import annotations

from luthier.api.conditions import Reason
from luthier.deployment.case import Case
from luthier.deployment.pinning import find_pin
from luthier.deployment.rollout import Brake


def find_brake(case: Case) -> Brake | None:
    """Return the first brake that is on."""
    return _suspended(case) or _pin_refused(case)


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
