"""Keeps a conversation on one revision, where the gateway can: a policy for our route, and whether it is in force.

Envoy Gateway (1.9 or newer) chooses among a route's weighted backends by the hash of a header, when a
BackendTrafficPolicy of the route says so. The hash of a conversation is a place between 0 and the sum of all weights,
and the candidate has those at one end: a larger weight takes more of them and gives none back. So the order of
backends, and the sum of their weights, must stay as they are while both have a share (tests/unit hold them to it).

The acceptance in the policy's own status is the proof; Gateway and GatewayClass are read only to say early, before
anything starts, why there will never be one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING

from luthier.api.conditions import Reason
from luthier.api.modeldeployment import Affinity, ParentRef
from luthier.deployment.rollout import Brake
from luthier.errors import LuthierError
from luthier.naming import child_metadata, child_name
from luthier.plan import Json, Manifest
from luthier.ports import Ports, Reader
from luthier.resources import BACKENDTRAFFICPOLICY, GATEWAY, GATEWAYCLASS, Resource

if TYPE_CHECKING:
    from luthier.deployment.case import Case

CONTROLLER = "gateway.envoyproxy.io/gatewayclass-controller"
ROLE = "affinity"
LOOK_AGAIN = timedelta(seconds=30)
"""Gateways and their classes are not watched."""
_API = Resource(api_version=BACKENDTRAFFICPOLICY.api_version, kind="APIResourceList", plural="")
"""What the API server serves of a group: there is none where the group's types are not installed."""


@dataclass(frozen=True, kw_only=True)
class SeenAffinity:
    """The policy, and what keeps it from being one."""

    policy: Json | None = None
    missing: str | None = None
    """What is not there yet."""
    refusal: str | None = None
    """Why this gateway cannot; None: nothing speaks against it."""


async def observe_affinity(
    obj: Json, affinity: Affinity | None, parents: list[ParentRef], ports: Ports
) -> SeenAffinity | None:
    """Read the policy and, until it is accepted, why it might never be. None: there is none, and none is wanted."""
    owned = ports.children.owned(obj["metadata"]["uid"], BACKENDTRAFFICPOLICY)
    policy = next((p for p in owned if p["metadata"]["name"] == child_name(obj)), None)
    if affinity is None:
        return SeenAffinity(policy=policy) if policy is not None else None
    seen = SeenAffinity(policy=policy)
    if policy is not None and find_doubt(obj, affinity, parents, policy) is None:
        return seen
    try:
        if await ports.reader.get(_API, "", "") is None:
            why = "the cluster does not know BackendTrafficPolicy; install the CRDs of Envoy Gateway"
            return replace(seen, refusal=why)
        for parent in parents:
            seen = await _judge_gateway(seen, obj, parent, ports.reader)
    except LuthierError:
        # Installed for some namespaces only, the operator may not read Gateways; and a rollback waits for no answer.
        return SeenAffinity(policy=policy)
    return seen


async def _judge_gateway(seen: SeenAffinity, obj: Json, parent: ParentRef, reader: Reader) -> SeenAffinity:
    namespace = parent.namespace or obj["metadata"]["namespace"]
    gateway = await reader.get(GATEWAY, namespace, parent.name)
    if gateway is None:
        return replace(seen, missing=f"Gateway {namespace}/{parent.name} does not exist")
    name = gateway["spec"]["gatewayClassName"]
    found = await reader.get(GATEWAYCLASS, "", name)
    if found is None:
        return replace(seen, missing=f"GatewayClass {name} of Gateway {parent.name} does not exist")
    controller = found["spec"]["controllerName"]
    if controller == CONTROLLER:
        return seen
    return replace(
        seen, refusal=f"Gateway {parent.name} is run by {controller}, which cannot keep conversations together"
    )


def build_policy(owner: Json, affinity: Affinity) -> Manifest:
    """Return the policy; what the platform has said for the whole Gateway stays, where this one is silent."""
    return {
        "apiVersion": BACKENDTRAFFICPOLICY.api_version,
        "kind": BACKENDTRAFFICPOLICY.kind,
        "metadata": child_metadata(owner, "", role=ROLE),
        "spec": {
            "targetRefs": [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "name": child_name(owner)}],
            "mergeType": "StrategicMerge",
            "loadBalancer": {
                "type": "ConsistentHash",
                "consistentHash": {"type": "Headers", "headers": [{"name": affinity.header}]},
            },
        },
    }


def find_affinity_brake(case: Case) -> Brake | None:
    """Return why no weight may grow: conversations would change their revision with every request."""
    affinity, seen = case.spec.rollout.affinity, case.seen.affinity
    if affinity is None or seen is None:
        return None
    until = case.seen.now + LOOK_AGAIN
    if seen.refusal is not None:
        message = (
            f"spec.rollout.affinity: {seen.refusal}; remove spec.rollout.affinity, or use a Gateway of Envoy Gateway "
            "1.9 or newer"
        )
        return Brake(reason=Reason.AFFINITY_UNSUPPORTED, message=message, until=until, stalled=True)
    if seen.missing is not None:
        return Brake(reason=Reason.WAITING_FOR_GATEWAY, message=seen.missing, until=until)
    if case.stable is None or case.seen.route is None:
        return None  # one revision alone, or no route yet for a policy to be about
    doubt = find_doubt(case.obj, affinity, case.spec.gateway.parent_refs, seen.policy)
    if doubt is None:
        return None
    return Brake(reason=Reason.AFFINITY_NOT_IN_FORCE, message=f"spec.rollout.affinity: {doubt}", until=until)


def wanted_policy(case: Case) -> Manifest | None:
    """Return the policy to apply now; its target comes first."""
    affinity, seen = case.spec.rollout.affinity, case.seen.affinity
    if affinity is None or seen is None or seen.refusal is not None or case.seen.route is None:
        return None
    return build_policy(case.obj, affinity)


def leftover_policy(case: Case) -> Json | None:
    """Return a policy that nobody wants any more."""
    seen = case.seen.affinity
    return seen.policy if seen is not None and case.spec.rollout.affinity is None else None


def find_doubt(obj: Json, affinity: Affinity, parents: list[ParentRef], policy: Json | None) -> str | None:
    """Return why conversations may not be kept together, by the policy's own status; None: they are."""
    if policy is None or not _says(policy, build_policy(obj, affinity)):
        return "the BackendTrafficPolicy is not written yet"
    generation = policy["metadata"].get("generation", 0)
    for parent in parents:
        namespace = parent.namespace or obj["metadata"]["namespace"]
        said = _said_for(policy, namespace, parent)
        if said is None or said.get("observedGeneration", 0) < generation:
            return f"Envoy Gateway has not said yet whether it takes the BackendTrafficPolicy for Gateway {parent.name}"
        if said["status"] != "True":
            return f"Envoy Gateway does not take the BackendTrafficPolicy ({said.get('message', said.get('reason'))})"
    return None


def _says(policy: Json, wanted: Manifest) -> bool:
    """Say whether a policy is the one that is wanted; what the API server fills in is no difference."""
    live, spec = policy["spec"], wanted["spec"]
    hashed = live.get("loadBalancer", {}).get("consistentHash", {})
    named = spec["loadBalancer"]["consistentHash"]["headers"]
    return bool(hashed.get("headers") == named and live.get("targetRefs") == spec["targetRefs"])


def _said_for(policy: Json, namespace: str, parent: ParentRef) -> Json | None:
    for ancestor in policy.get("status", {}).get("ancestors", []):
        ref = ancestor["ancestorRef"]
        is_it = (ref.get("namespace", namespace), ref["name"], ref.get("sectionName")) == (
            namespace,
            parent.name,
            parent.section_name,
        )
        if is_it and ancestor.get("controllerName") == CONTROLLER:
            return next((c for c in ancestor.get("conditions", []) if c["type"] == "Accepted"), None)
    return None
