"""One look at an object's rollout, from what was observed to a reading: pure.

`decide` judges by it, `observe` asks it whether the pods alone already prove the candidate worse, and so does the
fast lane, each second.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from luthier.api.modeldeployment import ModelDeploymentSpec, ModelDeploymentStatus, RolloutStatus
from luthier.deployment import analysis, queries, watching
from luthier.deployment.analysis import Reading, Scene
from luthier.deployment.memory import Memory, load
from luthier.deployment.metrics import requests_per_sample, threshold
from luthier.deployment.pods import ready_ids, running_since
from luthier.naming import child_name
from luthier.plan import Json
from luthier.router import route_weights

if TYPE_CHECKING:
    from luthier.deployment.observe import Observed

NOT_ASKED = "Prometheus was not asked"


def judge_now(obj: Json, spec: ModelDeploymentSpec, status: ModelDeploymentStatus, seen: Observed) -> Reading | None:
    """Judge the newest samples; None while there is nothing to compare. `spec` has the analysis that was begun with."""
    candidate, stable, rollout = status.candidate, status.stable, status.rollout
    if candidate is None or stable is None or rollout is None or seen.measured is None:
        return None
    gating = watching.judged_gates(spec, rollout)
    options = spec.rollout.analysis
    step = rollout.steps[rollout.step - 1] if 0 < rollout.step <= len(rollout.steps) else None
    judged = step and (step.analysis or step.ab_test)
    own_samples = judged.min_samples if judged else None
    cluster = requests_per_sample(spec)
    scene = Scene(
        now=seen.now,
        interval_seconds=options.interval_seconds,
        scrape_seconds=seen.settings.scrape_interval_seconds,
        weight=_weight(obj, rollout, candidate.name, seen),
        in_force_at=rollout.weight_in_force_at,
        candidate_prefix=pod_prefix(obj, candidate.name),
        stable_prefix=pod_prefix(obj, stable.name),
        candidate_ready=ready_ids(seen.pods_of(candidate.name)),
        stable_ready=ready_ids(seen.pods_of(stable.name)),
        min_samples=(own_samples or options.min_samples) * cluster,
        threshold=threshold(options, len(gating)),
        revisions={candidate.name: "candidate", stable.name: "stable"},
        cluster=cluster,
        has_cohort=bool(step and step.ab_test),
        running_since=running_since(seen.pods),
    )
    reading = analysis.read(watching.for_watch(memory_of(rollout), gating), gating, seen.measured, scene)
    wanted = options.queries or []
    answers = queries.judge(
        wanted, seen.measured.answers, rollout.analysis, in_force_at=rollout.weight_in_force_at, now=seen.now
    )
    return analysis.with_queries(reading, answers, wanted=len(wanted), now=seen.now)


def _weight(obj: Json, rollout: RolloutStatus, candidate: str, seen: Observed) -> int:
    """Return the share that requests should have: in the watch all of them, when the stable has lost its pods."""
    carried = route_weights(seen.route or {}).get(child_name(obj, candidate), 0)
    return 100 if watching.is_watched(rollout) and carried == 100 else rollout.weight


def fails_by_pods(obj: Json, spec: ModelDeploymentSpec, status: ModelDeploymentStatus, seen: Observed) -> bool:
    """Say whether what the pods said, without Prometheus, is a Fail. `seen.measured` has their replies."""
    if seen.measured is None or not seen.measured.replies:
        return False
    reading = judge_now(obj, spec, status, seen)
    return reading is not None and reading.outcome == "Fail"


def memory_of(rollout: RolloutStatus) -> Memory | None:
    """Return what the test remembers."""
    return load(rollout.analysis.state if rollout.analysis else None)


def pod_prefix(obj: Json, revision: str) -> str:
    """Return what the names of a revision's pods begin with."""
    return f"{child_name(obj, revision)}-"
