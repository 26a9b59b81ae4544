"""What was decided, and the plan it makes: children, route, conditions, order of writes: pure.

The order is the safety: more traffic only after status says so, less traffic before status says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from luthier.api.conditions import ConditionType, Reason
from luthier.api.modeldeployment import ModelDeploymentStatus, RevisionStatus, Weights
from luthier.deployment import sizing
from luthier.deployment.affinity import leftover_policy, wanted_policy
from luthier.deployment.build import (
    WITHDRAWN_ANNOTATION,
    Backend,
    Cohort,
    build_deployment,
    build_route,
    build_service,
)
from luthier.deployment.case import Case, outcome_of
from luthier.deployment.display import show
from luthier.deployment.feedback import build_key, waits_for_key
from luthier.deployment.hooks import calls_of, keep_notices
from luthier.deployment.observe import revision_of
from luthier.deployment.overrides import mark_overrides
from luthier.deployment.revision import Revision, build_record
from luthier.naming import child_name
from luthier.plan import Event, Json, Manifest, Plan, Ref, Traffic
from luthier.status import Conditions, mark_reconciling, mark_settled, mark_stalled, set_condition, summarize

KIND = "ModelDeployment"
MAX_HISTORY = 20


@dataclass(frozen=True, kw_only=True)
class State:
    """What the summary condition says."""

    kind: Literal["settled", "working", "stalled"]
    reason: Reason
    message: str


@dataclass(frozen=True, kw_only=True)
class Decision:
    """The next status, without conditions, and what is to be done about it."""

    status: ModelDeploymentStatus
    state: State
    weight: int = 0
    """The candidate's share that the route should carry now."""
    cohort: Cohort | None = None
    """Requests that the route should send to the candidate beside its share."""
    record: Revision | None = None
    """A new revision."""
    withdrawn: str | None = None
    """Annotation of the route: a candidate is being taken back by this very write, or by steps that this one begins."""
    moves_back: bool = False
    """The stable gets all its pods back, as fast as there is room."""
    keep_route: bool = False
    """Leave traffic as it is."""
    events: tuple[Event, ...] = ()
    due: tuple[datetime | None, ...] = ()
    """When to look again, whichever comes first."""


def make_plan(case: Case, decision: Decision) -> Plan:
    """Return what this pass writes."""
    events = (*case.events, *_restored(case), *decision.events)
    status = decision.status.model_copy(update={"notices": keep_notices(case, events)})
    traffic = None if decision.keep_route else _traffic(case, decision)
    dues = [*decision.due, *_retirements(case, status)]
    waits = [max(0.0, (due - case.seen.now).total_seconds()) for due in dues if due is not None]
    weights = _weights(case, status)
    shown = status.model_copy(
        update={
            "stable": _with_ready(case, status.stable),
            "candidate": _with_ready(case, status.candidate),
            "weights": weights,
            "display": show(status, weights),
            "url": _url(case),
            "observed_generation": case.obj["metadata"]["generation"],
        }
    )
    return Plan(
        status={**shown.to_json(), "conditions": _conditions(case, status, decision.state)},
        apply=tuple(_children(case, decision)),
        extras=tuple(_extras(case, decision)),
        traffic=traffic,
        delete=tuple(_outdated(case, status)),
        events=events,
        status_first=_gains(case, decision),
        requeue_after=min(waits) if waits else None,
        calls=calls_of(case, status, decision.state.reason),
    )


# Traffic


def backends(status: ModelDeploymentStatus, weight: int) -> tuple[Backend, ...]:
    """Return who gets what; empty: there is nobody to send traffic to."""
    stable, candidate = status.stable, status.candidate
    if stable is None:
        return (Backend(revision=candidate.name, weight=100),) if candidate and weight else ()
    if candidate is None or weight == 0:
        return (Backend(revision=stable.name, weight=100),)
    return (
        Backend(revision=stable.name, weight=100 - weight),
        Backend(revision=candidate.name, weight=weight),
    )


def _traffic(case: Case, decision: Decision) -> Traffic | None:
    wanted = backends(decision.status, decision.weight)
    if not wanted:
        return None
    annotations = {WITHDRAWN_ANNOTATION: decision.withdrawn} if decision.withdrawn else None
    route = case.seen.route
    return Traffic(
        manifest=build_route(case.obj, case.spec, wanted, cohort=decision.cohort, annotations=annotations),
        resource_version=route["metadata"]["resourceVersion"] if route else None,
    )


def _gains(case: Case, decision: Decision) -> bool:
    """Say whether somebody gains traffic that the old status does not know of: then status goes first."""
    if decision.keep_route:
        return False
    candidate = decision.status.candidate
    if candidate is None:
        old = case.candidate
        return old is not None and decision.status.stable is not None and decision.status.stable.name == old.name
    headers = decision.cohort and tuple((header.name, header.value) for header in decision.cohort.headers)
    return decision.weight > case.weight_of(candidate.name) or headers not in (None, case.cohort_of(candidate.name))


# Children


def _children(case: Case, decision: Decision) -> Iterable[Manifest]:
    for revision, replicas in _live(case, decision):
        if not revision.obj:
            yield build_record(case.obj, revision)
        if replicas is not None:
            outcome = _outcome(case, decision.status, revision.name)
            yield build_deployment(case.obj, revision, replicas=replicas, outcome=outcome)
            yield build_service(case.obj, revision)


def _extras(case: Case, decision: Decision) -> Iterable[Manifest]:
    """Return what may be refused: neither pods that bring traffic back nor what is told of it wait for it."""
    sized = [(revision, replicas) for revision, replicas in _live(case, decision) if replicas is not None]
    if any(waits_for_key(r, case.seen.pods_of(r.name), replicas=replicas) for r, replicas in sized):
        yield build_key(case.obj)
    if (policy := wanted_policy(case)) is not None:
        yield policy


def _live(case: Case, decision: Decision) -> Iterable[tuple[Revision, int | None]]:
    """Return the revisions that are kept, and how many pods each should have; None: it has no Deployment."""
    status, known = decision.status, [*case.seen.revisions]
    if decision.record is not None and decision.record.name not in {r.name for r in known}:
        known.append(decision.record)
    pruned = {ref.name for ref in _outdated(case, status)}
    sizes = sizing.sizes(
        case, status, decision.weight, withdrawing=decision.withdrawn is not None or decision.moves_back
    )
    for revision in known:
        if child_name(case.obj, revision.name) not in pruned:
            wanted = sizes.get(revision.name)
            yield revision, wanted if wanted is not None else _leftover(case, status, revision.name)


def _restored(case: Case) -> Iterable[Event]:
    for revision in case.seen.revisions:
        if not revision.obj:
            message = f"the ControllerRevision of {revision.name} was deleted: it is made again from its copy"
            yield Event(type="Warning", reason=str(Reason.REVISION_RESTORED), message=message)


def _leftover(case: Case, status: ModelDeploymentStatus, name: str) -> int | None:
    """Return how many pods a revision out of use keeps for now; None: it has no Deployment and needs none."""
    deployment = case.seen.deployment(name)
    if deployment is None:
        return None
    until = _stays_until(case, status, name)
    stays = until is not None and case.seen.now < until
    return sizing.leftover(case, int(deployment["spec"].get("replicas", 1))) if stays else 0


def _in_use(status: ModelDeploymentStatus) -> set[str]:
    return {revision.name for revision in (status.stable, status.candidate) if revision is not None}


def _stays_until(case: Case, status: ModelDeploymentStatus, name: str) -> datetime | None:
    """Return how long the pods of a revision out of use stay: for diagnosis, or for a way back after a promotion."""
    own = next((e for e in status.history if e.revision == name and e.outcome not in ("Promoted", "Interrupted")), None)
    promotion = next((e for e in status.history if e.outcome == "Promoted"), None)
    ended = own or promotion
    if ended is None:
        return None
    return ended.ended_at + timedelta(seconds=case.spec.rollout.abort_scale_down_delay_seconds)


def _retirements(case: Case, status: ModelDeploymentStatus) -> list[datetime]:
    """Return when pods out of use have to go."""
    dues = []
    for deployment in case.seen.deployments:
        name = revision_of(deployment)
        until = None if name in _in_use(status) else _stays_until(case, status, name)
        if until is not None and until > case.seen.now and deployment["spec"].get("replicas", 1):
            dues.append(until)
    return dues


def _outcome(case: Case, status: ModelDeploymentStatus, name: str) -> str | None:
    """Return how a revision's rollout ended, for its Deployment; what stands there outlives a lost history."""
    if name in _in_use(status):
        return None
    entry = next((e for e in status.history if e.revision == name), None)
    if entry is None:
        return outcome_of(case.seen.deployment(name))
    return f"{entry.outcome}/{entry.reason}" if entry.outcome != "Promoted" else None


def _outdated(case: Case, status: ModelDeploymentStatus) -> list[Ref]:
    """Return the children of the oldest revisions out of use, beyond the limit. Never of one that has pods."""
    pin = case.spec.rollout.pin
    kept = {*_in_use(status), status.rejected, pin.revision if pin else None}
    old = [r for r in case.seen.revisions if r.name not in kept]
    idle = [r for r in old if not case.seen.pods_of(r.name) and not _leftover(case, status, r.name)]
    surplus = {r.name for r in idle[: max(0, len(old) - case.spec.revision_history_limit)]}
    children = [
        *case.seen.deployments,
        *case.seen.services,
        *(r.obj for r in case.seen.revisions if r.obj),
    ]
    outdated = [child for child in children if revision_of(child) in surplus]
    policy = leftover_policy(case)
    return [_reference(child) for child in (*outdated, *([policy] if policy else []))]


def _reference(child: Json) -> Ref:
    meta = child["metadata"]
    return Ref(
        api_version=child["apiVersion"],
        kind=child["kind"],
        namespace=meta["namespace"],
        name=meta["name"],
        uid=meta["uid"],
    )


# Status


def _with_ready(case: Case, revision: RevisionStatus | None) -> RevisionStatus | None:
    return revision and revision.model_copy(update={"ready_replicas": len(case.ready(revision.name))})


def _weights(case: Case, status: ModelDeploymentStatus) -> Weights | None:
    if case.seen.route is None:
        return None
    stable = case.weight_of(status.stable.name) if status.stable else 0
    candidate = case.weight_of(status.candidate.name) if status.candidate else 0
    return Weights(stable=stable, candidate=candidate)


def _url(case: Case) -> str | None:
    hostnames = case.spec.gateway.hostnames
    return f"http://{hostnames[0]}{case.spec.gateway.path_prefix}" if hostnames else None


def _conditions(case: Case, status: ModelDeploymentStatus, state: State) -> Conditions:
    generation, now = case.obj["metadata"]["generation"], case.seen.now
    conditions: Conditions = list(case.obj.get("status", {}).get("conditions", []))
    serving = judge_serving(case, status.stable, otherwise=state)
    conditions = set_condition(
        conditions,
        type=str(ConditionType.SERVING),
        status="True" if serving.kind == "settled" else "False",
        reason=str(serving.reason),
        message=serving.message,
        generation=generation,
        now=now,
    )
    conditions = mark_overrides(conditions, case, status)
    reason, message = str(state.reason), "; ".join(filter(None, (state.message, case.acts.complaint)))
    if state.kind == "working":
        conditions = mark_reconciling(conditions, reason=reason, message=message, generation=generation, now=now)
    elif state.kind == "stalled":
        conditions = mark_stalled(conditions, reason=reason, message=message, generation=generation, now=now)
    else:
        conditions = mark_settled(conditions)
    return summarize(conditions, kind=KIND, reason=reason, message=message, generation=generation, now=now)


def judge_serving(case: Case, stable: RevisionStatus | None, *, otherwise: State) -> State:
    """Say whether clients get answers: pods behind a route that a gateway has taken."""
    if stable is None:
        return State(kind="working", reason=otherwise.reason, message="no revision serves yet")
    candidate = case.candidate
    if (
        not case.ready(stable.name)
        and candidate
        and case.ready(candidate.name)
        and case.weight_of(candidate.name) == 100
    ):
        stable = candidate  # in the watch
    if not case.ready(stable.name):
        message = f"no pod of {stable.name} is ready"
        return State(kind="working", reason=Reason.NO_READY_PODS, message=message)
    if (missing := find_missing_gateway(case)) is not None:
        return State(kind="working", reason=Reason.WAITING_FOR_GATEWAY, message=missing)
    return State(kind="settled", reason=Reason.SERVING, message=f"{stable.name} serves")


def find_missing_gateway(case: Case) -> str | None:
    """Return why no gateway takes the route, or None when one does."""
    parents: Sequence[Json] = (case.seen.route or {}).get("status", {}).get("parents", [])
    said = [c for parent in parents for c in parent.get("conditions", []) if c["type"] == "Accepted"]
    # Of any generation: a weight that is just being taken up is no outage.
    if any(c["status"] == "True" for c in said):
        return None
    names = ", ".join(ref.name for ref in case.spec.gateway.parent_refs)
    why = "".join(f" ({c['message']})" for c in said[:1] if c.get("message"))
    return f"Gateway {names} has not accepted the route{why}; check that it exists and allows this namespace"
