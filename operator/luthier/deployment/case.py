"""One object's situation, parsed and named, for the decision: pure."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime

from luthier.api.conditions import Reason
from luthier.api.modeldeployment import HistoryEntry, ModelDeploymentSpec, ModelDeploymentStatus, RevisionStatus
from luthier.deployment.acts import Acts, Order, read_acts
from luthier.deployment.admission import Hold, resolve_model
from luthier.deployment.build import OUTCOME_ANNOTATION, WITHDRAWN_ANNOTATION
from luthier.deployment.observe import Observed
from luthier.deployment.pods import ready_ids
from luthier.deployment.revision import Model, Revision, hash_intent, hash_of, hash_revision, number_of
from luthier.deployment.rollout import Brake, as_begun, has_drifted
from luthier.deployment.watching import is_watched
from luthier.draft import read_spec
from luthier.headerrule import open_rule
from luthier.naming import child_name
from luthier.plan import Event, Json
from luthier.router import route_weights


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What the spec asks for. `hash` is None while something it refers to is missing; `hold` says what."""

    intent: str
    hash: str | None = None
    model: Model | None = None
    hold: Hold | None = None


@dataclass(frozen=True, kw_only=True)
class Case:
    """Everything a decision is made of."""

    obj: Json
    spec: ModelDeploymentSpec
    status: ModelDeploymentStatus
    seen: Observed
    wanted: Wanted
    acts: Acts = field(default_factory=Acts)
    brake: Brake | None = None
    has_drifted: bool = False
    """The spec's plan is not the one that the rollout in progress began with, and follows to its end."""
    is_rebuilt: bool = False
    """The status was lost: it is what the children say (`lost`)."""
    events: tuple[Event, ...] = ()

    @property
    def now(self) -> datetime:
        """The pass's time, in whole seconds, as status keeps it."""
        return self.seen.now.replace(microsecond=0)

    @property
    def stable(self) -> RevisionStatus | None:
        return self.status.stable

    @property
    def candidate(self) -> RevisionStatus | None:
        return self.status.candidate

    @property
    def is_watched(self) -> bool:
        """Whether the candidate has passed every step and is watched."""
        return is_watched(self.status.rollout)

    def ready(self, name: str) -> tuple[tuple[str, str], ...]:
        """Return (uid, name) of a revision's ready pods."""
        return ready_ids(self.seen.pods_of(name))

    def weight_of(self, name: str) -> int:
        """Return a revision's weight as read from the route."""
        if self.seen.route is None:
            return 0
        return route_weights(self.seen.route).get(child_name(self.obj, name), 0)

    def cohort_of(self, name: str) -> tuple[tuple[str, str], ...] | None:
        """Return the headers that send a request to a revision, as read from the route; None: none do."""
        rule = open_rule(self.seen.route or {})
        return rule.headers if rule is not None and rule.service == child_name(self.obj, name) else None

    def has_traffic(self, name: str) -> bool:
        """Say whether the route sends anything to a revision."""
        return self.weight_of(name) > 0 or self.cohort_of(name) is not None

    def is_wanted(self, name: str) -> bool:
        """Say whether a revision is what the spec asks for."""
        if self.wanted.hash is not None:
            return hash_of(name) == self.wanted.hash
        record = self.seen.revision(name)
        # What the spec refers to is gone, and so is the record: nothing tells them apart, so nothing is started.
        return record is None or record.intent == self.wanted.intent

    @property
    def promotion(self) -> Order | None:
        """Return the order to send the candidate on, if there is one."""
        return self.acts.promotes.get(self.candidate.name) if self.candidate else None

    @property
    def is_pinning(self) -> bool:
        """Say whether the candidate is an older revision that a pin brings back, not one that is tried."""
        act = self.status.rollout.act if self.status.rollout else None
        return self.candidate is not None and act is not None and act.act == "Pin"

    @property
    def is_forced(self) -> bool:
        """Say whether a person has decided for the candidate: the analysis does not."""
        return self.is_pinning or (self.promotion is not None and self.promotion.skip_analysis)

    @property
    def holding(self) -> Brake | None:
        """Return the brake that keeps the candidate from more traffic; a pin is held by none."""
        return None if self.is_pinning else self.brake

    def stable_lacks_pods(self) -> bool:
        """Say whether traffic moved to the stable would reach nobody."""
        return self.stable is not None and not self.ready(self.stable.name)


def open_case(obj: Json, seen: Observed) -> Case:
    """Parse and resolve."""
    spec = read_spec(ModelDeploymentSpec, obj)
    status = ModelDeploymentStatus.model_validate(obj.get("status") or {})
    return Case(
        obj=obj,
        spec=as_begun(spec, status.rollout),
        status=status,
        seen=seen,
        wanted=_want(spec, seen),
        acts=read_acts(obj, spec),
        has_drifted=has_drifted(spec, status.rollout),
    )


def _want(spec: ModelDeploymentSpec, seen: Observed) -> Wanted:
    model = resolve_model(spec, job=seen.fine_tune_job, evaluation=seen.evaluation)
    if isinstance(model, Hold):
        return Wanted(intent=hash_intent(spec), hold=model)
    return Wanted(intent=hash_intent(spec), hash=hash_revision(spec, model), model=model)


@dataclass(frozen=True, kw_only=True)
class Rejection:
    """The spec's revision was taken back before."""

    name: str
    message: str
    aborted: bool


def find_rejection(case: Case) -> Rejection | None:
    """Return why the spec's revision must not start again: it was taken back, and no retry names it."""
    wanted = case.wanted.hash
    if wanted is None:
        return None
    rejection = _from_history(case.status.history, wanted) or _from_children(case, wanted)
    return None if rejection is None or rejection.name in case.acts.retries else rejection


def _from_history(history: list[HistoryEntry], wanted: str) -> Rejection | None:
    newest = next((entry for entry in history if hash_of(entry.revision) == wanted), None)
    if newest is None or not is_rejecting(newest.outcome, newest.reason):
        return None
    return Rejection(name=newest.revision, message=newest.message, aborted=newest.outcome == "Aborted")


def _from_children(case: Case, wanted: str) -> Rejection | None:
    """Look at the Deployments of earlier candidates: they remember it when the status was lost."""
    if any(hash_of(entry.revision) == wanted for entry in case.status.history):
        return None
    for revision in sorted(case.seen.revisions, key=lambda r: -r.number):
        if revision.hash != wanted:
            continue
        outcome, _, reason = (outcome_of(case.seen.deployment(revision.name)) or "").partition("/")
        if not is_rejecting(outcome, reason):
            return None
        return Rejection(name=revision.name, message=f"taken back earlier ({reason})", aborted=outcome == "Aborted")
    return None


def is_rejecting(outcome: str, reason: str) -> bool:
    """Say whether an ended rollout keeps its revision from starting again."""
    return outcome == "RolledBack" or (outcome == "Aborted" and reason == Reason.ABORTED)


def outcome_of(deployment: Json | None) -> str | None:
    """Return what a Deployment remembers of its revision's end: `RolledBack/AnalysisFailed`."""
    annotations = (deployment or {"metadata": {}})["metadata"].get("annotations", {})
    found: str | None = annotations.get(OUTCOME_ANNOTATION)
    return found


def withdrawal_of(seen: Observed) -> Json:
    """Return the route's note on whom it takes traffic from for good; empty: there is none, or nobody can read it."""
    annotations = (seen.route or {"metadata": {}})["metadata"].get("annotations", {})
    try:
        said = json.loads(annotations.get(WITHDRAWN_ANNOTATION, ""))
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


def find_unfinished(case: Case) -> Revision | None:
    """Return a record of the wanted revision that no rollout has used up: its status write was lost."""
    stable = number_of(case.stable.name) if case.stable else 0
    used = {entry.revision for entry in case.status.history}
    for revision in reversed(case.seen.revisions):
        if revision.hash != case.wanted.hash or revision.number <= stable or revision.name in used:
            continue
        if outcome_of(case.seen.deployment(revision.name)) is None:
            return revision
    return None
