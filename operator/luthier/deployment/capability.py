"""Whether the class of a Gateway can do what our route asks of it, by what the class says itself.

Since Gateway API 1.4 a GatewayClass lists in its status what its controller supports. A gateway that ignores a part of
a route would send traffic otherwise than we say: it is refused before anything starts, and before the first weight.
A class without a list says nothing, and is refused nothing.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from luthier.api.conditions import Reason
from luthier.api.modeldeployment import ParentRef, Step
from luthier.deployment.rollout import Brake
from luthier.errors import LuthierError
from luthier.plan import Json
from luthier.ports import Reader
from luthier.resources import GATEWAY, GATEWAYCLASS

if TYPE_CHECKING:
    from luthier.deployment.case import Case

LOOK_AGAIN = timedelta(seconds=30)
"""Gateways and their classes are not watched."""
ROUTE = "HTTPRoute"
BACKEND_HEADERS = "HTTPRouteBackendRequestHeaderModification"


def needed_features(steps: list[Step]) -> dict[str, str]:
    """Return what a route of ours needs, by its name in the Gateway API, and what for."""
    by_header = " and an abTest's header" if any(step.ab_test is not None for step in steps) else ""
    return {
        ROUTE: f"traffic by path, weight{by_header}",
        BACKEND_HEADERS: "a header with the revision's name for each backend",
    }


async def find_unsupported(obj: Json, steps: list[Step], parents: list[ParentRef], reader: Reader) -> str | None:
    """Return which Gateway cannot, and the way out; None: nothing says so."""
    needed = needed_features(steps)
    try:
        for parent in parents:
            namespace = parent.namespace or obj["metadata"]["namespace"]
            gateway = await reader.get(GATEWAY, namespace, parent.name)
            name = gateway["spec"]["gatewayClassName"] if gateway is not None else None
            found = await reader.get(GATEWAYCLASS, "", name) if name else None
            if found is not None and (missing := _missing(found, needed)) is not None:
                return (
                    f"spec.gateway.parentRefs: GatewayClass {name} of Gateway {parent.name} does not support {missing} "
                    f"({needed[missing]}), says its status.supportedFeatures; name a Gateway of another class, or "
                    f"update {found['spec']['controllerName']}"
                )
    except LuthierError:
        # Installed for some namespaces only, the operator may not read them: the route's own status has to say it.
        return None
    return None


def _missing(gateway_class: Json, needed: dict[str, str]) -> str | None:
    listed = gateway_class.get("status", {}).get("supportedFeatures") or []
    # Texts before Gateway API 1.3, objects since.
    supported = {feature["name"] if isinstance(feature, dict) else feature for feature in listed}
    return next((feature for feature in needed if feature not in supported), None) if supported else None


def find_capability_brake(case: Case) -> Brake | None:
    """Return why no weight may begin: the gateway would not do what the route says."""
    unsupported = case.seen.unsupported
    if unsupported is None:
        return None
    until = case.seen.now + LOOK_AGAIN
    return Brake(reason=Reason.GATEWAY_UNSUPPORTED, message=unsupported, until=until, stalled=True)
