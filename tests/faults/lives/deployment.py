"""The lives of ModelDeployments: all begin where a first revision serves, but for those of that revision itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from faults.lives.life import Act, Life, Stretch, nobody
from faults.lives.serving import FIRST, MIN_SAMPLES, SERVED, begin_first, first_serves, is_scaled, serving_state
from faults.world import World
from routes import weights_in

Json = dict[str, Any]
V1 = {"artifactUri": "pvc://artifacts/v1", "baseModelUri": "pvc://models/smol"}
SLOWLY, QUICKLY = 40.0, 200.0
"""Requests per second: so few that a phase can be seen, or so many that it ends soon."""


# What people do


def candidate(world: World) -> str:
    return (world.stage.status().get("candidate") or {}).get("name", "")


def approve(world: World) -> None:
    """Approve the pause as soon as it is reached."""
    if is_paused(world):
        named = {"revision": candidate(world), "step": 4}
        world.once("approve", lambda: world.stage.change(rollout={"approve": named}))


def abort(world: World) -> None:
    name = candidate(world)
    assert name.startswith("r2-"), name
    world.once("abort", lambda: world.stage.change(rollout={"abort": {"revision": name}}))


def supersede(world: World) -> None:
    """Ask for a third model while the second has traffic."""
    world.stage.rate = QUICKLY
    world.once("supersede", lambda: world.stage.successor(3))


def revert(world: World) -> None:
    """Put the first model back into the spec while the second has traffic."""
    world.once("revert", lambda: world.stage.change(model=V1, requireEvaluation={"name": "eval-1"}))


def suspend(world: World) -> None:
    world.once("suspend", lambda: world.stage.change(suspend=True))


def resume(world: World) -> None:
    """Go on once it is held, and approve."""
    if world.stage.condition("Ready") == "False/Suspended":
        world.stage.rate = QUICKLY
        world.once("resume", lambda: world.stage.change(suspend=False))
    approve(world)


def retry(world: World) -> None:
    """Ask once more for what was taken back, and it is sound now."""
    world.stage.errors.clear()
    world.stage.broken.clear()
    name = world.stage.status()["rejected"]
    world.once("retry", lambda: world.stage.change(rollout={"retry": {"revision": name}}))


# What happens to models


def break_it(world: World) -> None:
    world.stage.errors["r2"] = 0.6


def crash(number: str) -> Act:
    """Return an act that lets a revision's pods crash again and again."""
    waiting = {"waiting": {"reason": "CrashLoopBackOff"}}
    terminated = {"terminated": {"exitCode": 1, "reason": "Error", "message": "no such file"}}
    looping = {"restartCount": 3, "state": waiting, "lastState": terminated}
    return lambda world: world.stage.broken.update({number: looping})


def never_ready(number: str) -> Act:
    """Return an act that keeps a revision's pods from getting ready."""
    return lambda world: world.stage.broken.update({number: {"state": {"waiting": {"reason": "ContainerCreating"}}}})


def lag_at_the_end(world: World) -> None:
    """Let the gateway take up no route with all traffic on the candidate."""
    world.stage.lags = lambda route: weights_in(route).get("r2") == 100


def worse_at_the_end(world: World) -> None:
    """Break the second revision when all traffic is meant for it, but not with it yet; then the gateway catches up."""
    approve(world)
    if world.stage.weights().get("r2") == 100:
        world.once("broken", lambda: break_it(world))
    if "broken" in world.notes and world.stage.weights() == {"r1": 100}:
        world.stage.lags = lambda _: False


def go_blind(world: World) -> None:
    """Break the second revision while Prometheus is down."""
    world.stage.down = True
    break_it(world)


def leak_blind(world: World) -> None:
    """Let the second revision say once, while Prometheus is down, what no answer may say."""
    world.stage.down = True
    world.stage.incidents["r2"] = 1


def begin_speaking(world: World) -> None:
    """Begin with pods that answer the fast lane."""
    world.stage.speaks = True
    begin_first(world)


# Where a rollout is


def is_paused(world: World) -> bool:
    return world.stage.condition("Ready") == "False/WaitingForApproval"


def has_weight(world: World) -> bool:
    """Say whether the second revision has its first share; it stays there, since nobody asks anything any more."""
    if world.stage.status().get("weights", {}).get("candidate") != 25:
        return False
    world.stage.rate = 0.0
    return True


def ended(condition: str, weights: dict[str, int]) -> Callable[[World], bool]:
    """Return whether this is so, and the pods of all others are gone."""

    def is_over(world: World) -> bool:
        return world.stage.condition("Ready") == condition and world.stage.weights() == weights and is_scaled(world)

    return is_over


def reached(
    is_there: Callable[[World], bool], *, first: Act = nobody, rate: float = QUICKLY, is_quiet: bool = True
) -> tuple[Stretch, ...]:
    """Return the way to a phase of the second revision's rollout."""

    def begin(world: World) -> None:
        world.stage.rate = rate
        first(world)
        world.stage.successor()

    return (FIRST, Stretch(begin=begin, play=nobody, is_there=is_there, is_quiet=is_quiet))


WAITING = reached(lambda world: world.stage.condition("Ready") == "False/RollingOut", first=never_ready("r2"))
AT_FIRST_WEIGHT = reached(has_weight, rate=SLOWLY)
PAUSED = reached(is_paused)
PAUSED_SPEAKING = (Stretch(begin=begin_speaking, play=nobody, is_there=first_serves), *PAUSED[1:])
TAKEN_BACK = reached(ended("False/RolledBack", {"r1": 100}), first=break_it)
FIRST_CRASHED = Stretch(
    begin=lambda world: (crash("r1")(world), begin_first(world)),
    play=nobody,
    is_there=ended("False/RolledBack", {}),
)


def rollout(
    name: str,
    end: str,
    weights: dict[str, int],
    *,
    before: tuple[Stretch, ...] = (FIRST,),
    begin: Act = lambda world: world.stage.successor(),
    play: Act = nobody,
    judged: dict[int, int] | None = None,
) -> Life:
    """Return a life that begins, if nothing else is said, when a second model is asked for."""
    return Life(
        name=name,
        before=before,
        begin=begin,
        play=play,
        is_over=ended(end, weights),
        state=serving_state,
        seconds=120,
        judged=judged or {25: MIN_SAMPLES},
    )


def begin_broken(world: World) -> None:
    break_it(world)
    world.stage.successor()


MANY_SAMPLES = 200


def begin_two_looks(world: World) -> None:
    """Ask for a second model, by a plan that judges it at two weights, each for longer than a look takes."""
    analysis = {"intervalSeconds": 1, "minSamples": MANY_SAMPLES, "metrics": [{"name": "ErrorRate"}]}
    steps = [{"setWeight": 25}, {"analysis": {}}, {"setWeight": 50}, {"analysis": {}}]
    world.stage.change(rollout={"steps": steps, "analysis": analysis})
    world.stage.successor()


def begin_with_little_traffic(world: World) -> None:
    """Ask for a second model by the default plan, of which the last day's requests leave one step."""
    world.stage.last_day = MIN_SAMPLES * 1.5
    analysis = {"maxStepSeconds": 86_400, "minSamples": MIN_SAMPLES}
    world.stage.change(rollout={"steps": None, "analysis": analysis})
    world.stage.successor()


def begin_with_affinity(world: World) -> None:
    """Ask for a second model, and that conversations stay where they are."""
    world.stage.open_gateway()
    affinity = {"header": "x-conversation-id", "requestsPerConversation": 2}
    world.stage.change(rollout={"affinity": affinity})
    world.stage.successor()


def end_affinity(world: World) -> None:
    """Ask for it no more while it is in use, and approve only then: once it goes on, nobody is paused."""
    if is_paused(world):
        world.once("forget", lambda: world.stage.change(rollout={"affinity": None}))
        approve(world)


def begin_with_test(world: World) -> None:
    """Ask for a second model by a plan that tests it on requests with a header first."""
    test = {"headers": [{"name": "x-cohort", "value": "beta"}], "expectedPercent": 25}
    world.stage.change(rollout={"steps": [{"abTest": test}, {"setWeight": 50}, {"analysis": {}}]})
    world.stage.successor()


def begin_broken_with_test(world: World) -> None:
    break_it(world)
    begin_with_test(world)


PROMOTED = rollout("deployment-promoted", "True/Promoted", {"r2": 100}, play=approve)
ROLLED_BACK = rollout("deployment-rolled-back", "False/RolledBack", {"r1": 100}, begin=begin_broken)
RETURNED: tuple[str, dict[str, int]] = ("False/RolledBack", {"r1": 100})
ROLLOUTS = [
    Life(name="deployment-first", begin=begin_first, play=nobody, is_over=first_serves, state=serving_state),
    PROMOTED,
    ROLLED_BACK,
    rollout(
        "deployment-judged-twice",
        "True/Promoted",
        {"r2": 100},
        begin=begin_two_looks,
        judged={25: MANY_SAMPLES, 50: MANY_SAMPLES},
    ),
    rollout(
        "deployment-affinity",
        "True/Promoted",
        {"r2": 100},
        begin=begin_with_affinity,
        play=end_affinity,
        judged={25: 2 * MIN_SAMPLES},
    ),
    rollout("deployment-ab-test", "True/Promoted", {"r2": 100}, begin=begin_with_test, judged={50: MIN_SAMPLES}),
    rollout("deployment-ab-test-worse", *RETURNED, begin=begin_broken_with_test),
    rollout(
        "deployment-little-traffic",
        "True/Promoted",
        {"r2": 100},
        begin=begin_with_little_traffic,
        judged={50: MIN_SAMPLES},
    ),
    rollout(
        "deployment-crash-looping",
        *RETURNED,
        begin=lambda world: (crash("r2")(world), world.stage.successor()),
    ),
    rollout("deployment-worse-at-the-pause", *RETURNED, before=PAUSED, begin=break_it),
    rollout("deployment-worse-at-the-end", *RETURNED, before=PAUSED, begin=lag_at_the_end, play=worse_at_the_end),
    rollout("deployment-aborted-before-weight", "False/Aborted", {"r1": 100}, before=WAITING, begin=abort),
    rollout("deployment-aborted", "False/Aborted", {"r1": 100}, before=AT_FIRST_WEIGHT, begin=abort),
    rollout("deployment-aborted-at-the-pause", "False/Aborted", {"r1": 100}, before=PAUSED, begin=abort),
    rollout(
        "deployment-superseded", "True/Promoted", {"r3": 100}, before=AT_FIRST_WEIGHT, begin=supersede, play=approve
    ),
    rollout("deployment-reverted", "True/Initial", {"r1": 100}, before=AT_FIRST_WEIGHT, begin=revert),
    rollout(
        "deployment-suspended-and-resumed",
        "True/Promoted",
        {"r2": 100},
        before=AT_FIRST_WEIGHT,
        begin=suspend,
        play=resume,
    ),
    rollout("deployment-retried", "True/Promoted", {"r3": 100}, before=TAKEN_BACK, begin=retry, play=approve),
    rollout(
        "deployment-replaced-after-rollback",
        "True/Promoted",
        {"r3": 100},
        before=TAKEN_BACK,
        begin=lambda world: world.stage.successor(3),
        play=approve,
    ),
    rollout("deployment-worse-without-prometheus", *RETURNED, before=PAUSED_SPEAKING, begin=go_blind),
    rollout("deployment-incident-without-prometheus", *RETURNED, before=PAUSED_SPEAKING, begin=leak_blind),
    rollout("deployment-first-crash-looping", "False/RolledBack", {}, before=(), begin=FIRST_CRASHED.begin),
    rollout("deployment-first-retried", "True/Initial", {"r2": 100}, before=(FIRST_CRASHED,), begin=retry),
]

FIRST_WAITS = Stretch(
    begin=lambda world: (never_ready("r1")(world), begin_first(world)),
    play=nobody,
    is_there=lambda world: bool(world.stage.list("deployments")) and bool(world.stage.list("pods")),
)


def make_owned_route(world: World) -> None:
    """Make a route that goes with its owner, and let that go: a collector that knows no routes yet orphans none."""
    owner = world.place.create("configmaps", {"metadata": {"name": "owner"}})
    reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner["metadata"]["uid"]}
    body = {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "spec": {"parentRefs": [], "rules": [{"backendRefs": []}]},
    }
    world.stage.create("httproutes", {**body, "metadata": {"name": "owned-r0-x", "ownerReferences": [reference]}})
    world.place.delete("configmaps", "owner")


COLLECTS_ROUTES = Stretch(
    begin=make_owned_route, play=nobody, is_there=lambda world: world.stage.get("httproutes", "owned-r0-x") is None
)


def is_going_back(world: World) -> bool:
    """Say whether the route is the stable's again, after the second revision had a share."""
    routes = [weights for weights, _ in world.stage.timeline]
    return {"r1": 75, "r2": 25} in routes and world.stage.weights() == {"r1": 100}


PHASES = {
    "before-it-is-ready": (FIRST_WAITS,),
    "serving": (FIRST,),
    "waiting-for-pods": WAITING,
    "at-the-first-weight": AT_FIRST_WEIGHT,
    "at-the-pause": PAUSED,
    "in-rollback": reached(is_going_back, first=break_it, is_quiet=False),
    "after-rollback": TAKEN_BACK,
    "crash-looping": (FIRST_CRASHED,),
}
DELETIONS = [
    *(SERVED.deleted(f"deployment-deleted-{phase}", *before) for phase, before in PHASES.items()),
    SERVED.deleted("deployment-deleted-in-the-foreground", *AT_FIRST_WEIGHT, propagation="Foreground"),
    SERVED.deleted("deployment-orphaned", COLLECTS_ROUTES, *AT_FIRST_WEIGHT, propagation="Orphan"),
    SERVED.deleted_anywhere("deployment-deleted-anywhere", PROMOTED),
    SERVED.deleted_anywhere("deployment-bad-deleted-anywhere", ROLLED_BACK),
]
DEPLOYMENT = [*ROLLOUTS, *DELETIONS]
