"""The watch after the last step: what is judged in it, and against what when the stable has no traffic any more: pure.

With a share for the stable, the same test goes on. Without one there is nothing to compare with at the same time: the
candidate's errors are then tested against a fixed rate, the upper bound of what the stable had in its last hour.
"""

from __future__ import annotations

from dataclasses import replace

from luthier.api.modeldeployment import ModelDeploymentSpec, RolloutStatus, WatchStatus
from luthier.deployment import gates
from luthier.deployment.gates import Evidence, Hypothesis
from luthier.deployment.memory import Memory
from luthier.deployment.metrics import Gate, gates_of
from luthier.deployment.rollout import Position

BOUND = "ErrorBound"
"""The metric's name in status; its evidence is kept apart from that of ErrorRate."""
STABLE_CHANCE = 0.01
"""That the stable's true rate of errors is above its bound."""


def is_watched(rollout: RolloutStatus | None) -> bool:
    """Say whether all steps are passed and the watch has begun."""
    return rollout is not None and rollout.watch is not None and rollout.watch.ends_at is not None


def is_at_watch(rollout: RolloutStatus) -> bool:
    """Say whether all steps are passed, and a watch has begun or comes next."""
    return rollout.watch is not None and rollout.step == len(rollout.steps) + 1


def judged_gates(spec: ModelDeploymentSpec, rollout: RolloutStatus | None) -> tuple[Gate, ...]:
    """Return what the newest look is judged by."""
    gating = gates_of(spec)
    if rollout is None or rollout.watch is None or not is_watched(rollout):
        return gating
    if rollout.watch.error_bound_percent is not None:
        return _bound_gates(gating, float(rollout.watch.error_bound_percent) / 100)
    # With nearly all requests on one side, a slower answer says more about the load than about the revision.
    return tuple(gate for gate in gating if gate.name != "Latency")


def _bound_gates(gating: tuple[Gate, ...], bound: float) -> tuple[Gate, ...]:
    errors = next((gate for gate in gating if gate.name == "ErrorRate"), None)
    if errors is None or bound >= 1.0:
        return ()
    return (replace(errors, name=BOUND, hypothesis=Hypothesis(ratio=None, floor=bound)),)


def begun(
    watch: WatchStatus | None,
    position: Position,
    memory: Memory | None,
    gating: tuple[Gate, ...],
    *,
    cluster: int = 1,
) -> WatchStatus | None:
    """Return the watch as status keeps it: when it ends, and the bound, frozen as it begins."""
    if watch is None or position.watch_ends_at is None:
        return watch
    bound = watch.error_bound_percent
    if watch.ends_at is None and position.weight == 100:
        bound = f"{100 * _frozen_bound(memory, gating, cluster):.3g}"
    return watch.model_copy(update={"ends_at": position.watch_ends_at, "error_bound_percent": bound})


def _frozen_bound(memory: Memory | None, gating: tuple[Gate, ...], cluster: int) -> float:
    """Return the highest rate of errors that is no reason to take the candidate back; 1: nothing is."""
    errors = next((gate for gate in gating if gate.name == "ErrorRate"), None)
    if errors is None or memory is None:
        return 1.0
    bursts = memory.evidence.get("ErrorRate", Evidence()).bursts
    started, bad = bursts.totals
    upper = gates.upper_bound(bad, started, phi=gates.clustered(bursts.factor, cluster), chance=STABLE_CHANCE)
    allowed = upper * (errors.hypothesis.ratio or 1.0)
    return min(1.0, max(allowed, errors.hypothesis.floor or 0.0))


def for_watch(memory: Memory | None, gating: tuple[Gate, ...]) -> Memory | None:
    """Return the memory to go on with: the test against the bound is a new one and begins with its own first weight."""
    if memory is None or BOUND not in {gate.name for gate in gating} or BOUND in memory.evidence:
        return memory
    return replace(memory, restarts=0, restarted_at=0.0, evidence={})


def note(rollout: RolloutStatus | None) -> str:
    """Return what people should know about this watch."""
    bound = rollout.watch.error_bound_percent if rollout and rollout.watch else None
    if bound is None:
        return ""
    if float(bound) >= 100:
        return "; without a share for the stable, and nothing known of its errors, only crashes are judged"
    return f"; without a share for the stable, only crashes, and errors above {bound} %, are judged"
