"""A status that was lost: who serves and who was tried, as route, records and Deployments say: pure.

Of two with traffic the older one is the stable, and the newer one's rollout begins anew: its share goes back as the
stable's ready pods can take it. Whom the route's note names has been taken back, whoever has traffic now: that is
finished, and not tried again.
"""

from __future__ import annotations

from dataclasses import replace

from luthier.api.conditions import Reason
from luthier.api.modeldeployment import ModelDeploymentStatus
from luthier.deployment.case import Case, is_rejecting, outcome_of, withdrawal_of
from luthier.deployment.decision import Decision, State
from luthier.deployment.revision import Revision
from luthier.deployment.rollout import begin_rollout
from luthier.naming import child_name
from luthier.plan import Event
from luthier.router import route_weights


def rebuilt(case: Case) -> Case:
    """Return a case with its lost status rebuilt; any other one as it is."""
    serving = [r for r in case.seen.revisions if case.weight_of(r.name) > 0]
    if not serving or not _is_lost(case.status):
        return case
    stable, candidate = _sides(case, serving)
    update: dict[str, object] = {"stable": stable.status(ready=len(case.ready(stable.name)))}
    message = f"the status was lost; {stable.name} serves, as the route and the revision records say"
    if candidate is not None:
        update |= {
            "candidate": candidate.status(ready=len(case.ready(candidate.name))),
            "rollout": begin_rollout(case.spec, now=case.now, is_first=False),
            "verdict": f"Starting(r{candidate.number})",
        }
        message += f"; {candidate.name} has {case.weight_of(candidate.name)} %"
    event = Event(type="Warning", reason=str(Reason.STATUS_REBUILT), message=message)
    status = case.status.model_copy(update=update)
    return replace(case, status=status, events=(*case.events, event), is_rebuilt=True)


def take_up(case: Case) -> Decision:
    """Write down what was rebuilt, and leave traffic and pods as they are: nobody has looked at the numbers yet."""
    assert case.candidate is not None
    message = f"{case.candidate.name}: its rollout begins anew, as the status was lost"
    return Decision(
        status=case.status,
        state=State(kind="working", reason=Reason.ROLLING_OUT, message=message),
        weight=case.weight_of(case.candidate.name),
        keep_route=True,
        due=(case.seen.now,),
    )


def _is_lost(status: ModelDeploymentStatus) -> bool:
    return status.stable is None and status.candidate is None and not status.history


def _sides(case: Case, serving: list[Revision]) -> tuple[Revision, Revision | None]:
    """Return the stable, and who is tried or taken back, if anybody is."""
    withdrawn = case.seen.revision(str(withdrawal_of(case.seen).get("revision")))
    if withdrawn is None and len(serving) == 1:
        # A candidate with all traffic leaves the stable in the route, without a share, until it is promoted.
        stable = _before(case, serving[0])
        is_kept = stable is not None and child_name(case.obj, stable.name) in route_weights(case.seen.route or {})
        return (stable, serving[0]) if stable is not None and is_kept else (serving[0], None)
    if withdrawn is None:
        return serving[0], serving[-1]
    others = [r for r in serving if r.name != withdrawn.name]
    stable = others[0] if others else _before(case, withdrawn)
    return (stable, withdrawn) if stable is not None else (serving[0], None)


def _before(case: Case, revision: Revision) -> Revision | None:
    """Return who served before a revision that still has all traffic: the newest older one with pods."""
    for older in reversed(case.seen.revisions):
        deployment = case.seen.deployment(older.name)
        outcome, _, reason = (outcome_of(deployment) or "").partition("/")
        has_pods = deployment is not None and deployment["spec"].get("replicas", 1) > 0
        if older.number < revision.number and has_pods and not is_rejecting(outcome, reason):
            return older
    return None
