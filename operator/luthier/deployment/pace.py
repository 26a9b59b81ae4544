"""Which of the default steps the traffic can decide, chosen once, when a rollout starts: pure.

A step waits for `minSamples` candidate requests, and is undecided after `maxStepSeconds`. At forty requests an hour
the step at 1 % would take ten days. Steps that cannot get their requests in time are left out; when that is all of
them, one at 50 % stays until it has them. A plan that a person wrote is never altered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from luthier.api.conditions import Reason
from luthier.api.modeldeployment import Analysis, AnalysisStep, ModelDeploymentSpec, PlanStatus, Step
from luthier.deployment.lastday import LastDay
from luthier.deployment.metrics import requests_per_sample
from luthier.deployment.rollout import plan_of
from luthier.plan import Event
from luthier.status import format_time

DAY_SECONDS = 86_400
LAST_WEIGHT = 50
"""Where a candidate waits when no step can decide in time: each side gets what it can to be compared with."""
PATIENCE = 2
"""Such a step is undecided after so many times what it should take, if that is longer than `maxStepSeconds`."""
MAX_SECONDS = 2_592_000


@dataclass(frozen=True, kw_only=True)
class ChosenPlan:
    """The steps to follow, what status says of their choice, and what people are told; None: nothing was to choose."""

    steps: list[Step]
    status: PlanStatus | None = None
    event: Event | None = None


def choose_plan(spec: ModelDeploymentSpec, day: LastDay | None, *, now: datetime) -> ChosenPlan:
    """Return the plan of a rollout that starts now."""
    steps = plan_of(spec)
    if spec.rollout.steps is not None or day is None:
        return ChosenPlan(steps=steps)
    if day.requests is None:
        message = f"the default plan, whatever the traffic: {day.problem}"
        return ChosenPlan(steps=steps, event=_told(message))
    analysis = spec.rollout.analysis
    each = requests_per_sample(spec)
    kept, dropped = _split(steps, analysis, day.requests / each)
    if not dropped:
        return ChosenPlan(steps=steps)
    requests = round(day.requests)
    left_out = (
        f"{requests} requests in 24 h are too few to decide {_percent(dropped)} in {_span(analysis.max_step_seconds)}"
    )
    if any(step.analysis is not None for step in kept):
        status = PlanStatus(requests_last_day=requests, dropped_weights=dropped)
        weights = [step.set_weight for step in kept if step.set_weight is not None]
        return ChosenPlan(steps=kept, status=status, event=_told(f"{left_out}: the plan is {_percent(weights)}"))
    steps = [*kept, Step(set_weight=LAST_WEIGHT), Step(analysis=AnalysisStep())]
    status = _last_resort(analysis, day.requests, dropped, now, each=each)
    if status.expected_end_at is None:
        until = "no request has come, so nobody can say when"
    else:
        until = f"expected {format_time(status.expected_end_at)}"
    message = f"{left_out}: the plan is {LAST_WEIGHT} % until {analysis.min_samples * each} requests ({until})"
    return ChosenPlan(steps=steps, status=status, event=_told(message))


def with_patience(analysis: Analysis, plan: PlanStatus | None) -> Analysis:
    """Return the analysis with the time that a step needs which was chosen although it takes longer."""
    if plan is None or plan.max_step_seconds is None:
        return analysis
    return analysis.model_copy(update={"max_step_seconds": max(plan.max_step_seconds, analysis.max_step_seconds)})


def _split(steps: Sequence[Step], analysis: Analysis, samples: float) -> tuple[list[Step], list[int]]:
    """Return the steps without weights whose analysis cannot get its requests in time, and these weights."""
    weight, kept, dropped = 0, [], []
    for group in _by_weight(steps):
        weight = group[0].set_weight or weight
        needed = [step.analysis.min_samples or analysis.min_samples for step in group if step.analysis is not None]
        expected = samples * weight / 100 * analysis.max_step_seconds / DAY_SECONDS
        if needed and max(needed) > expected:
            dropped.append(weight)
        else:
            kept += group
    return kept, dropped


def _by_weight(steps: Sequence[Step]) -> list[list[Step]]:
    """Return the steps in groups, each with what happens at one weight."""
    groups: list[list[Step]] = []
    for step in steps:
        if step.set_weight is not None or not groups:
            groups.append([])
        groups[-1].append(step)
    return groups


def _last_resort(analysis: Analysis, requests: float, dropped: list[int], now: datetime, *, each: int) -> PlanStatus:
    if not requests:
        return PlanStatus(requests_last_day=0, dropped_weights=dropped)
    seconds = analysis.min_samples * each / (requests * LAST_WEIGHT / 100) * DAY_SECONDS
    return PlanStatus(
        requests_last_day=round(requests),
        dropped_weights=dropped,
        expected_end_at=now + timedelta(seconds=min(MAX_SECONDS, round(seconds))),
        max_step_seconds=min(MAX_SECONDS, max(analysis.max_step_seconds, round(PATIENCE * seconds))),
    )


def _told(message: str) -> Event:
    return Event(type="Normal", reason=str(Reason.PLAN_CHOSEN), message=message)


def _percent(weights: Sequence[int]) -> str:
    return f"{', '.join(map(str, weights))} %"


def _span(seconds: int) -> str:
    return f"{seconds // 3600} h" if seconds % 3600 == 0 else f"{seconds} s"
