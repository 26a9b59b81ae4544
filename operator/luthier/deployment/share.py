"""How much of what its step wants the candidate can take now: pods before weight, numbers before more weight: pure."""

from __future__ import annotations

from luthier.api.conditions import Reason
from luthier.api.modeldeployment import RevisionStatus
from luthier.deployment.analysis import Reading
from luthier.deployment.case import Case
from luthier.deployment.pods import explain
from luthier.deployment.rollout import Position, Stay


def find_share(case: Case, candidate: RevisionStatus, position: Position, reading: Reading | None) -> int:
    """Return the candidate's share that its pods can take, at most what its step wants."""
    carried = case.weight_of(candidate.name)
    if not case.ready(candidate.name):
        # Its traffic goes back in this very pass, unless nobody is there to take it.
        return carried if case.stable_lacks_pods() else 0
    if case.is_watched and case.stable_lacks_pods():
        return 100  # It has passed every step: better all on it than a share on nobody.
    if carried < position.weight and find_lacking(case, candidate) is not None and not case.stable_lacks_pods():
        return carried  # What was taken away comes back onto all pods, not onto the first of them.
    if case.is_forced or case.stable is None or case.stable_lacks_pods():
        return position.weight
    if carried < position.weight and _is_blind(reading):
        return carried  # Who took it away, and why, may have gone with the route: no data is no reason to give it.
    return position.weight


def _is_blind(reading: Reading | None) -> bool:
    return reading is None or reading.outcome == "Error"


def explain_share(case: Case, candidate: RevisionStatus, position: Position) -> Stay:
    """Say why the candidate has not the weight of its step."""
    reason, why = Reason.ROLLING_OUT, find_lacking(case, candidate)
    if not case.ready(candidate.name):
        reason, why = Reason.NO_READY_PODS, why or "no pod is ready"
    elif why is None:
        reason, why = Reason.METRICS_UNAVAILABLE, "the route has lost it, and it comes back when Prometheus has samples"
    return Stay(reason=reason, message=f"{position.weight} %: {why}; its traffic is on the stable")


def find_lacking(case: Case, candidate: RevisionStatus) -> str | None:
    """Return why no more traffic may come: capacity before weight, on both sides.

    Whom a person has decided for does not wait for a stable that is itself broken; whoever is watched needs it for
    the way back only.
    """
    sides = (candidate,) if case.is_forced or case.is_watched else (candidate, case.stable)
    for revision in filter(None, sides):
        ready = len(case.ready(revision.name))
        if ready < case.spec.replicas:
            why = explain(case.seen.pods_of(revision.name))
            return f"{ready} of {case.spec.replicas} pods of {revision.name} ready{f' ({why})' if why else ''}"
    return None
