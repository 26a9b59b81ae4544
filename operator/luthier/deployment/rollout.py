"""The steps of a rollout: a pure machine over a copied plan.

    step 0 ── candidate ready ──► 1 … n ── each step done ──► watch ── over ──► 100 % ── in force ──► promoted
       │                          │                             │
       └── candidate in trouble ──┴── proven worse, aborted, superseded ──► withdrawn (weight 0)

The watch is step n+1 and leaves the stable its share; without one, step n+1 is 100 %.

A step wants a weight, and an A/B test a header; the route read back says whether it has them. Nothing here lowers a
weight: withdrawing is `endings`' part, and a candidate without ready pods gets no traffic whatever its step wants
(`decide`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Literal

from luthier.api.conditions import Reason
from luthier.api.modeldeployment import (
    AbTest,
    Analysis,
    AnalysisStep,
    ModelDeploymentSpec,
    RolloutStatus,
    Step,
    WatchStatus,
)
from luthier.deployment.confirmations import Confirmations
from luthier.status import format_time

UNSCRAPED_GRACE = timedelta(minutes=5)
"""Pods of a step that are not scraped for so long are not scraped at all: people are told."""
DEFAULT_WEIGHTS = (1, 5, 10, 25, 50)


def plan_of(spec: ModelDeploymentSpec) -> list[Step]:
    """Return the steps that a rollout starting now will follow to its end."""
    if spec.rollout.steps is not None:
        return list(spec.rollout.steps)
    return [step for weight in DEFAULT_WEIGHTS for step in (Step(set_weight=weight), Step(analysis=AnalysisStep()))]


def watch_of(spec: ModelDeploymentSpec) -> WatchStatus | None:
    """Return the watch that a rollout starting now will end with; None: it has none."""
    seconds = spec.rollout.watch_after_promotion_seconds
    return WatchStatus(seconds=seconds, weight=spec.rollout.watch_weight) if seconds else None


def begin_rollout(spec: ModelDeploymentSpec, *, now: datetime, is_first: bool) -> RolloutStatus:
    """Return a rollout before its first step, with what it will follow to its end; a first revision has no steps."""
    return RolloutStatus(
        steps=[] if is_first else plan_of(spec),
        step=0,
        weight=0,
        started_at=now,
        step_started_at=now,
        analysis_options=spec.rollout.analysis,
        watch=None if is_first else watch_of(spec),
        capacity=spec.rollout.capacity,
        affinity=spec.rollout.affinity,
    )


def as_begun(spec: ModelDeploymentSpec, rollout: RolloutStatus | None) -> ModelDeploymentSpec:
    """Return a spec with what the rollout in progress began with: like its steps, used to the end."""
    if rollout is None:
        return spec
    copied = {"analysis": rollout.analysis_options, "capacity": rollout.capacity, "affinity": rollout.affinity}
    begun = spec.rollout.model_copy(update={name: value for name, value in copied.items() if value is not None})
    return spec.model_copy(update={"rollout": begun})


def has_drifted(spec: ModelDeploymentSpec, rollout: RolloutStatus | None) -> bool:
    """Say whether a rollout starting now would follow another plan than the one in progress."""
    if rollout is None or not rollout.steps:
        return False
    watch = rollout.watch and WatchStatus(seconds=rollout.watch.seconds, weight=rollout.watch.weight)
    has_other_watch = watch is not None and watch != watch_of(spec)
    # Steps chosen for little traffic are those of a spec without steps, whatever the traffic is by now.
    has_other_steps = plan_of(spec) != rollout.steps and (rollout.plan is None or spec.rollout.steps is not None)
    return has_other_steps or as_begun(spec, rollout) != spec or has_other_watch


@dataclass(frozen=True, kw_only=True)
class Position:
    """Where a rollout is. Step 0: not started; one more than there are steps: all traffic."""

    step: int
    weight: int
    started_at: datetime
    """When the step began."""
    in_force_at: datetime | None = None
    """When the gateway confirmed the weight; None: not yet."""
    held_at: datetime | None = None
    """Since when nothing can be decided: held by a brake, or without metrics."""
    held_seconds: int = 0
    """For how long that was so in this step, up to `held_at`."""
    watch_ends_at: datetime | None = None
    """Set when the watch has begun: its weight was in force."""


def position_of(rollout: RolloutStatus) -> Position:
    """Return where status says that a rollout is."""
    return Position(
        step=rollout.step,
        weight=rollout.weight,
        started_at=rollout.step_started_at,
        in_force_at=rollout.weight_in_force_at,
        held_at=rollout.held_at,
        held_seconds=rollout.held_seconds,
        watch_ends_at=rollout.watch.ends_at if rollout.watch else None,
    )


@dataclass(frozen=True, kw_only=True)
class Brake:
    """Why nothing starts and no weight grows, whatever the analysis says. It never keeps a weight from falling."""

    reason: Reason
    message: str
    until: datetime | None = None
    """When it ends by itself, or is looked at again; None: when somebody lifts it."""
    stalled: bool = False
    """Only a new spec helps."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a step is judged by."""

    now: datetime
    candidate: str
    capacity: str | None
    """Why no more traffic may come: pods of either side are not ready; None: all are."""
    in_force: bool
    """The route, read back, carries the position's weight and the gateway has accepted it."""
    gateway: str | None
    """Why no gateway takes the route at all; None: one does, or the route is not written yet."""
    brake: Brake | None
    analysis: Analysis
    outcome: Literal["Pass", "Fail", "Inconclusive", "Error"] | None
    """Of the newest look; None: there was none."""
    code: str = ""
    message: str = ""
    judged_step: int = 0
    judged_since: datetime | None = None
    """For which step, and since which weight's coming into force, the outcome was found."""
    approved: frozenset[int] = frozenset()
    """Pause steps that may be passed."""
    pauses_approved: bool = False
    """All of them may, with a duration or without."""
    confirmations: Confirmations = field(default_factory=Confirmations)
    """Who has to agree to more weight."""
    forced: bool = False
    """A person decides instead of the analysis: only pods and the gateway hold it up."""
    watch: WatchStatus | None = None
    """What follows the last step; None: 100 % at once."""
    moved_on: bool = False
    """The spec asks for another revision already: the watch ends now."""


@dataclass(frozen=True, kw_only=True)
class Stay:
    """The rollout waits at this step."""

    reason: Reason
    message: str
    until: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class GiveUp:
    """The step could not be decided in time, and the spec says to roll back then."""

    message: str


@dataclass(frozen=True, kw_only=True)
class Move:
    """Where the rollout is after this pass, and why it is not further."""

    position: Position
    stay: Stay | GiveUp | None
    """None: it has arrived, all traffic is on the candidate and in force."""


def advance(plan: Sequence[Step], position: Position, facts: Facts) -> Move:
    """Go as far as the facts allow; at most one change of weight, which has to be confirmed first."""
    position = _stop_clock(_confirm(position, facts), facts)
    while position.step <= len(plan) + (facts.watch is not None):
        position = _begin_watch(plan, position, facts)
        stay = _judge(plan, position, facts)
        if stay is not None:
            return Move(position=position, stay=stay)
        following = _enter(plan, position, facts)
        if _gains(plan, position, following, facts) and (held := _hold_weight(plan, position, facts)) is not None:
            return Move(position=position, stay=held)
        position = following
    return Move(position=position, stay=_unconfirmed(plan, position, facts))


def ab_test_at(plan: Sequence[Step], step: int) -> AbTest | None:
    """Return the A/B test that a step is; None: it is another one."""
    return plan[step - 1].ab_test if 0 < step <= len(plan) else None


def tell_headers(test: AbTest) -> str:
    """Return what a request of the test has: `x-cohort: beta`."""
    return " and ".join(f"{header.name}: {header.value}" for header in test.headers)


def _cohort_at(plan: Sequence[Step], step: int, facts: Facts) -> str | None:
    """Return which requests come beside those of the weight. Whom a person has decided for is not tested."""
    test = ab_test_at(plan, step)
    return tell_headers(test) if test is not None and not facts.forced else None


def _gains(plan: Sequence[Step], position: Position, following: Position, facts: Facts) -> bool:
    """Say whether the candidate gets requests at the next step that it does not get at this one."""
    cohort = _cohort_at(plan, following.step, facts)
    is_new = cohort is not None and cohort != _cohort_at(plan, position.step, facts)
    return following.weight > position.weight or is_new


def describe(plan: Sequence[Step], position: Position) -> str:
    """Return where a rollout is, for people."""
    if position.step == 0:
        return "before the first step"
    if position.watch_ends_at is not None:
        return f"the watch after the last step, {position.weight} %"
    return f"step {position.step} of {len(plan) + 1}, {position.weight} %"


def _confirm(position: Position, facts: Facts) -> Position:
    if not facts.in_force:
        # Blind: what was sampled while it was in force is yet to be judged, and belongs to that time. A split that is
        # wrong was judged: what the route carries now is another one.
        is_blind = facts.outcome == "Error" and facts.code != Reason.SPLIT_MISMATCH
        return position if is_blind else replace(position, in_force_at=None)
    return position if position.in_force_at else replace(position, in_force_at=facts.now)


def _stop_clock(position: Position, facts: Facts) -> Position:
    """Keep time apart in which no look can decide: it is no part of maxStepSeconds."""
    if facts.brake is not None or facts.outcome == "Error":
        return replace(position, held_at=position.held_at or facts.now)
    if position.held_at is None:
        return position
    held = position.held_seconds + int((facts.now - position.held_at).total_seconds())
    return replace(position, held_at=None, held_seconds=held)


def _enter(plan: Sequence[Step], position: Position, facts: Facts) -> Position:
    step = position.step + 1
    weight = weight_at(plan, step, facts.watch, position.weight)
    is_same = weight == position.weight and _cohort_at(plan, step, facts) == _cohort_at(plan, position.step, facts)
    return Position(
        step=step,
        weight=weight,
        started_at=facts.now,
        in_force_at=position.in_force_at if is_same else None,
        watch_ends_at=position.watch_ends_at,
    )


def weight_at(plan: Sequence[Step], step: int, watch: WatchStatus | None, before: int) -> int:
    """Return the candidate's share at a step, after the one that it had before: never less."""
    if step <= len(plan):
        return max(plan[step - 1].set_weight or 0, before)
    share = watch.weight if watch is not None and step == len(plan) + 1 else 0
    return max(100 - share, before)


def _begin_watch(plan: Sequence[Step], position: Position, facts: Facts) -> Position:
    """Start its clock when its weight is in force; once started, nothing that happens to the route stops it."""
    is_at_watch = position.step == len(plan) + 1
    if facts.watch is None or not is_at_watch or position.in_force_at is None or position.watch_ends_at is not None:
        return position
    return replace(position, watch_ends_at=position.in_force_at + timedelta(seconds=facts.watch.seconds))


def _judge(plan: Sequence[Step], position: Position, facts: Facts) -> Stay | GiveUp | None:
    """Return why a step is not done, or None when it is."""
    if facts.brake is not None:
        message = f"{describe(plan, position)}: held; {facts.brake.message}"
        return Stay(reason=facts.brake.reason, message=message, until=facts.brake.until)
    if position.step == 0:
        return None
    if (unconfirmed := _unconfirmed(plan, position, facts)) is not None:
        return unconfirmed
    if position.step > len(plan):
        return None if facts.forced else _judge_watch(plan, position, facts)
    step = plan[position.step - 1]
    if facts.forced or (facts.pauses_approved and step.pause is not None):
        return None
    if step.pause is not None:
        return _judge_pause(plan, position, step.pause.duration_seconds, facts)
    if step.analysis is not None or step.ab_test is not None:
        return _judge_analysis(plan, position, facts)
    return None


def _unconfirmed(plan: Sequence[Step], position: Position, facts: Facts) -> Stay | None:
    if position.in_force_at is not None and facts.in_force:
        return None
    if facts.gateway is not None:
        return Stay(reason=Reason.WAITING_FOR_GATEWAY, message=f"{describe(plan, position)}: {facts.gateway}")
    message = f"{describe(plan, position)}: the gateway has not confirmed the weight yet"
    return Stay(reason=Reason.ROLLING_OUT, message=message)


def _hold_weight(plan: Sequence[Step], position: Position, facts: Facts) -> Stay | None:
    """Return why the candidate must not get more traffic, whatever the step is; unseen, not even a first percent."""
    where = describe(plan, position)
    if facts.capacity is not None:
        return Stay(reason=Reason.ROLLING_OUT, message=f"{where}: {facts.capacity}")
    if not facts.forced and (held := _hold_by_numbers(plan, position, facts)) is not None:
        return held
    # Last: whoever is asked says yes to a weight that nothing else keeps back.
    missing = facts.confirmations.missing(position.step + 1)
    return Stay(reason=Reason.WAITING_FOR_CONFIRMATION, message=f"{where}: {missing}") if missing else None


def _hold_by_numbers(plan: Sequence[Step], position: Position, facts: Facts) -> Stay | None:
    if (unseen := _hold_unseen(plan, position, facts)) is not None:
        return unseen
    if facts.code == "BaselineUnhealthy":
        return _held_unhealthy(plan, position)
    return None


def _hold_unseen(plan: Sequence[Step], position: Position, facts: Facts) -> Stay | None:
    if facts.outcome == "Error":
        return _held_blind(plan, position, facts)
    return _held_uncovered(plan, position, facts) if facts.code == "CoverageLow" else None


def _judge_watch(plan: Sequence[Step], position: Position, facts: Facts) -> Stay | None:
    """Return why the watch is not over. Time ends it, or a new spec; but nobody is promoted unseen."""
    ends_at = position.watch_ends_at
    if ends_at is None or facts.moved_on or facts.now >= ends_at:
        return _hold_unseen(plan, position, facts)
    if facts.outcome == "Error":
        return _held_blind(plan, position, facts)
    message = f"{describe(plan, position)}: watched until {format_time(ends_at)}"
    return Stay(reason=Reason.WATCHING, message=message, until=ends_at)


def _held_unhealthy(plan: Sequence[Step], position: Position) -> Stay:
    message = f"{describe(plan, position)}: held; the stable itself is not healthy"
    return Stay(reason=Reason.BASELINE_UNHEALTHY, message=message)


def _held_blind(plan: Sequence[Step], position: Position, facts: Facts) -> Stay:
    reason = Reason.SPLIT_MISMATCH if facts.code == Reason.SPLIT_MISMATCH else Reason.METRICS_UNAVAILABLE
    return Stay(reason=reason, message=f"{describe(plan, position)}: held; {facts.message}")


def _held_uncovered(plan: Sequence[Step], position: Position, facts: Facts) -> Stay:
    # As blind as without Prometheus; but each new pod is so until its first scrape, so it is no alarm at first.
    if facts.now - position.started_at >= UNSCRAPED_GRACE:
        return _held_blind(plan, position, facts)
    return Stay(reason=Reason.ROLLING_OUT, message=f"{describe(plan, position)}: held; {facts.message}")


def _judge_pause(plan: Sequence[Step], position: Position, seconds: int | None, facts: Facts) -> Stay | None:
    where = describe(plan, position)
    if seconds is None:
        if position.step in facts.approved:
            return None
        message = (
            f"{where}: set spec.rollout.approve to {{revision: {facts.candidate}, step: {position.step}}} to go on"
        )
        return Stay(reason=Reason.WAITING_FOR_APPROVAL, message=message)
    until = position.started_at + timedelta(seconds=seconds)
    if facts.now >= until:
        return None
    return Stay(reason=Reason.ROLLING_OUT, message=f"{where}: paused for {seconds} s", until=until)


def _judge_analysis(plan: Sequence[Step], position: Position, facts: Facts) -> Stay | GiveUp | None:
    where = describe(plan, position)
    elapsed = facts.now - position.started_at
    is_judged = facts.judged_step == position.step and facts.judged_since == position.in_force_at
    if is_judged and facts.outcome == "Pass" and elapsed >= timedelta(seconds=facts.analysis.min_step_seconds):
        return None
    if facts.outcome == "Error":
        stay = _held_blind(plan, position, facts)
    elif facts.code == "CoverageLow":
        stay = _held_uncovered(plan, position, facts)
    elif facts.code == "BaselineUnhealthy":
        stay = _held_unhealthy(plan, position)
    else:
        test = ab_test_at(plan, position.step)
        what = f"A/B test by {tell_headers(test)}" if test is not None else "analysis"
        stay = Stay(reason=Reason.ROLLING_OUT, message=f"{where}: {what}")
    held = timedelta(seconds=position.held_seconds)
    if position.held_at is not None or elapsed - held < timedelta(seconds=facts.analysis.max_step_seconds):
        return stay
    late = f"{where}: not decided within maxStepSeconds={facts.analysis.max_step_seconds} ({facts.code})"
    if facts.analysis.on_inconclusive == "Rollback":
        return GiveUp(message=late)
    return Stay(reason=Reason.ROLLOUT_HELD, message=f"{late}; held, and goes on when the analysis passes")
