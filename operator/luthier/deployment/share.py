"""How much of what its step wants the candidate can take now: pods before weight, numbers before more weight: pure."""

from __future__ import annotations

from luthier.api.conditions import Reason
from luthier.api.modeldeployment import RevisionStatus, RolloutStatus
from luthier.deployment import sizing
from luthier.deployment.analysis import Reading
from luthier.deployment.case import Case
from luthier.deployment.rollout import Position, Stay


def find_share(case: Case, candidate: RevisionStatus, position: Position, reading: Reading | None) -> int:
    """Return the candidate's share: what its step wants, as far as pods of both sides can take what they gain."""
    carried = case.weight_of(candidate.name)
    if not case.ready(candidate.name):
        # Its traffic goes back in this very pass, unless nobody is there to take it.
        return carried if case.stable_lacks_pods() else 0
    if case.is_watched and case.stable_lacks_pods():
        return 100  # It has passed every step: better all on it than a share on nobody.
    if carried > position.weight:  # after a lost status, or by a hand: it goes back as pods are there for it
        return sizing.left_on_candidate(case, carried, wanted=position.weight)
    if carried == position.weight or case.stable_lacks_pods():
        return position.weight
    if case.stable is not None and case.holding is not None:
        return carried  # Pods that become ready, or back, in a step give it no more either.
    if case.stable is not None and not case.is_forced and is_blind(reading):
        return carried  # Who took it away, and why, may have gone with the route: no data is no reason to give it.
    return sizing.takes(case, position.weight)


def is_blind(reading: Reading | None) -> bool:
    """Say whether no weight may grow; pods that become ready later than their step wait for this too."""
    return reading is None or reading.outcome == "Error" or reading.code in ("CoverageLow", "BaselineUnhealthy")


def explain_share(
    case: Case, candidate: RevisionStatus, position: Position, weight: int, reading: Reading | None
) -> Stay:
    """Say why the candidate has not the weight of its step."""
    rest = f"it has {weight} % until then" if weight else "its traffic is on the stable"
    if case.stable is not None and case.holding is not None and case.ready(candidate.name):
        held = f"{position.weight} %: held; {case.holding.message}; {rest}"
        return Stay(reason=case.holding.reason, message=held, until=case.holding.until)
    reason, why = Reason.ROLLING_OUT, sizing.lacking(case, position.weight)
    if not case.ready(candidate.name):
        reason, why = Reason.NO_READY_PODS, why or "no pod is ready"
    elif reading is not None and reading.code in ("CoverageLow", "BaselineUnhealthy"):
        why = why or reading.message
    elif why is None or (reading is not None and reading.outcome == "Error"):
        reason, why = (
            Reason.METRICS_UNAVAILABLE,
            "the route has not got it, and it comes back when Prometheus has samples",
        )
    return Stay(reason=reason, message=f"{position.weight} %: {why}; {rest}")


def goes_back(case: Case, position: Position, weight: int) -> bool:
    """Say whether a share is one that goes back by parts; in the watch a stable without pods gets none of it."""
    return weight > position.weight and not (case.is_watched and case.stable_lacks_pods())


def explain_rest(case: Case, position: Position, weight: int) -> Stay:
    """Say why the candidate still has more than its step wants."""
    stable = case.stable
    assert stable is not None
    ready = f"{len(case.ready(stable.name))} of {case.spec.replicas} pods of {stable.name} are ready"
    return Stay(
        reason=Reason.CAPACITY_SHORT, message=f"{position.weight} %: {ready}; it keeps {weight} % until more are"
    )


def find_lacking(case: Case, rollout: RolloutStatus) -> str | None:
    """Return why the next step may not begin: pods for this one; before the first, those that it needs.

    In place the first step's pods come one by one with its weight: one is enough to begin.
    """
    is_first = rollout.step == 0 and not sizing.in_place(case)
    return sizing.lacking(case, sizing.first_load(case, rollout) if is_first else sizing.load(case, rollout))
