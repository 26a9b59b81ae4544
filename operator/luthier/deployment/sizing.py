"""How many pods each side of a rollout has, and how much traffic they can take: pure.

Capacity comes before weight, in both directions: a side's pods are there before its share grows, and go after its share
has gone. With `Surge` the stable keeps all its pods, so that the way back is one route write. With `InPlace` both sides
together have at most one pod more than `replicas`, and the weight follows the pods in small moves.
"""

from __future__ import annotations

from luthier import jobs
from luthier.api.modeldeployment import ModelDeploymentStatus, RolloutStatus
from luthier.deployment.case import Case
from luthier.deployment.pods import explain
from luthier.deployment.rollout import ab_test_at
from luthier.router import route_in_force

MAX_SURGE = 1
"""InPlace: pods beyond `replicas`, both sides together."""
SMALL_SHARE = 20
"""A share up to this, in percent, goes back at once: it adds at most a quarter to what the stable's pods carry."""
_ROUNDING = 1
"""Percent. Pods take 66.7 % and weights are whole: without this, a move could wait for a hundredth of a pod."""


def pods_for(replicas: int, weight: int, *, rounding: int = 0) -> int:
    """Return how many of the pods a share of the traffic needs; at least one."""
    return max(1, -(-replicas * (weight - rounding) // 100))


def weight_for(replicas: int, ready: int) -> int:
    """Return the share in percent that so many ready pods can take."""
    return min(100, 100 * ready // replicas)


def in_place(case: Case) -> bool:
    return case.spec.rollout.capacity == "InPlace"


def wanted_pods(case: Case, rollout: RolloutStatus | None) -> int:
    """Return how many pods a candidate should have at its step; before the first, as many as that one needs."""
    if case.stable is None or rollout is None:
        return case.spec.replicas
    return pods_for(case.spec.replicas, load(case, rollout) if rollout.step else first_load(case, rollout))


def load(case: Case, rollout: RolloutStatus) -> int:
    """Return which part of all requests the candidate has to take at its step, in percent.

    InPlace, its pods follow its weight alone: what an A/B test brings is on top of that.
    """
    test = None if in_place(case) else ab_test_at(rollout.steps, rollout.step)
    return min(100, rollout.weight + (test.expected_percent if test else 0))


def first_load(case: Case, rollout: RolloutStatus) -> int:
    """Return the first part of the plan that is one."""
    last = 100 - rollout.watch.weight if rollout.watch else 100
    for step in rollout.steps:
        if step.ab_test is not None:
            return 1 if in_place(case) else step.ab_test.expected_percent
        if step.set_weight:
            return step.set_weight
    return last


def sizes(case: Case, status: ModelDeploymentStatus, weight: int, *, withdrawing: bool) -> dict[str, int]:
    """Return how many pods the stable and the candidate should have.

    Args:
        case: What there is.
        status: The next one.
        weight: The candidate's share that the route gets in this pass.
        withdrawing: The candidate is being taken back, as fast as the stable's pods allow.
    """
    stable, candidate, replicas = status.stable, status.candidate, case.spec.replicas
    if candidate is None:
        return {stable.name: _alone(case, stable.name)} if stable else {}
    wanted = max(wanted_pods(case, status.rollout), pods_for(replicas, weight) if stable else 0)
    if stable is None or not in_place(case):
        return {candidate.name: wanted} | ({stable.name: replicas} if stable else {})
    budget = replicas + MAX_SURGE - _live_besides(case, stable.name, candidate.name)
    carried = case.weight_of(candidate.name)
    if withdrawing:
        mine = pods_for(replicas, max(carried, weight), rounding=_ROUNDING)
        theirs = min(replicas, budget - max(mine, _live(case, candidate.name)))
        return {candidate.name: mine, stable.name: max(theirs, _stable_needs(case, status.rollout, carried))}
    needed = _stable_needs(case, status.rollout, min(carried, weight))
    room = max(budget - _live(case, candidate.name), _deployed(case, stable.name))
    least = pods_for(replicas, min(carried, weight), rounding=_ROUNDING) if weight else 0
    mine = max(least, min(wanted, budget - max(needed, _live(case, stable.name))))
    return {stable.name: min(needed, room), candidate.name: mine}


def leftover(case: Case, replicas: int) -> int:
    """Return how many pods a revision out of use may keep for a while, of those that it has."""
    if not in_place(case):
        return replicas
    return 0 if case.candidate is not None else min(replicas, MAX_SURGE)


def left_on_candidate(case: Case, carried: int, *, wanted: int = 0) -> int:
    """Return the share in percent that a candidate has to keep on its way down to the one that is wanted.

    A candidate without pods has nothing to keep it for. Else the stable takes what its ready pods can take, never
    anything while none is ready; and all of it, where nothing is to stay, when the rest is small.
    """
    stable, candidate = case.stable, case.candidate
    if stable is None or candidate is None or not case.ready(candidate.name):
        return wanted
    ready = _staying(case, stable.name)
    if not ready:
        return carried
    left = min(carried, 100 - weight_for(case.spec.replicas, ready))
    return left if left > max(wanted, 0 if wanted else SMALL_SHARE) else wanted


def lacking(case: Case, weight: int) -> str | None:
    """Return which pods are missing for a share of the candidate, on either side; None: they are all there."""
    candidate, stable = case.candidate, case.stable
    wanted = case.spec.replicas if stable is None else pods_for(case.spec.replicas, weight)
    if candidate is not None and (why := _short(case, candidate.name, wanted)) is not None:
        return why
    if stable is None or case.is_watched or case.is_forced:
        # Whoever is watched needs the stable for the way back only; whom a person has decided for waits for none.
        return None
    rollout = case.status.rollout
    needed = _stable_needs(case, rollout, case.weight_of(candidate.name)) if in_place(case) and candidate else None
    return _short(case, stable.name, needed or case.spec.replicas)


def takes(case: Case, weight: int) -> int:
    """Return the share, up to the one that is wanted, that the candidate's ready pods can take.

    With Surge all or nothing: its pods come at once. InPlace, each pod makes room for the next one.
    """
    candidate = case.candidate
    if candidate is None or lacking(case, weight) is None:
        return weight
    carried = case.weight_of(candidate.name)
    if not in_place(case) or lacking(case, carried) is not None:
        return min(carried, weight)
    return max(carried, min(weight, weight_for(case.spec.replicas, _staying(case, candidate.name))))


def _short(case: Case, name: str, wanted: int) -> str | None:
    ready = _staying(case, name)
    if ready >= wanted:
        return None
    why = explain(case.seen.pods_of(name))
    return f"{ready} of {wanted} pods of {name} ready{f' ({why})' if why else ''}"


def _stable_needs(case: Case, rollout: RolloutStatus | None, weight: int) -> int:
    """Return the stable's pods for what a candidate's share leaves it; not less than it has until that is in force."""
    replicas, stable = case.spec.replicas, case.stable
    if weight == 0 or stable is None:
        return replicas
    is_moving = rollout is not None and rollout.weight != weight
    needed = pods_for(replicas, 100 - weight, rounding=_ROUNDING if is_moving else 0)
    route = case.seen.route
    if route is not None and route_in_force(route):
        return needed
    return max(needed, min(replicas, _deployed(case, stable.name)))


def _alone(case: Case, name: str) -> int:
    """Return the stable's pods without a candidate; InPlace, they come as others make room."""
    replicas = case.spec.replicas
    if not in_place(case):
        return replicas
    room = replicas + MAX_SURGE - _live_besides(case, name)
    return max(min(replicas, room), min(replicas, _deployed(case, name)), 1)


def _deployed(case: Case, name: str) -> int:
    deployment = case.seen.deployment(name)
    return int(deployment["spec"].get("replicas", 1)) if deployment else 0


def _staying(case: Case, name: str) -> int:
    """Return how many ready pods carry traffic: of more than are asked for, some are about to be ended."""
    deployment, ready = case.seen.deployment(name), len(case.ready(name))
    return ready if deployment is None else min(ready, _deployed(case, name))


def _live(case: Case, name: str) -> int:
    """Return how many pods hold their place; one on a lost node, that cannot even be ended, holds none."""
    pods = case.seen.pods_of(name)
    return sum(not jobs.is_ended(p) and not jobs.is_stuck(p, case.seen.now) for p in pods)


def _live_besides(case: Case, *names: str) -> int:
    return sum(_live(case, r.name) for r in case.seen.revisions if r.name not in names)
