"""May this spec become a candidate? Weights resolved, judged, passed, recently, and as they will be served: pure.

Asked once, when a candidate is admitted. Until then nothing is made, and the stable serves on.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from luthier.api.base import ServingProfile
from luthier.api.conditions import Reason
from luthier.api.modeldeployment import ModelDeploymentSpec, RequireEvaluation
from luthier.deployment.revision import Evidence, Model
from luthier.plan import Json
from luthier.status import STALLED, find_condition, parse_time


@dataclass(frozen=True, kw_only=True)
class Hold:
    """Why nothing new is made. Stalled: only a new spec, or a new Evaluation by another name, helps."""

    reason: Reason
    message: str
    stalled: bool = False


@dataclass(frozen=True, kw_only=True)
class Admitted:
    """The evidence, and what an event should warn of."""

    evidence: Evidence
    warning: str | None = None


def resolve_model(spec: ModelDeploymentSpec, *, job: Json | None, evaluation: Json | None) -> Model | Hold:
    """Return the weights with their digests, or what is awaited."""
    source = spec.model
    if source.fine_tune_job is not None:
        return _of_job(source.fine_tune_job.name, job)
    name = spec.require_evaluation.name
    digest = (evaluation or {}).get("status", {}).get("modelDigest")
    if digest is None:
        missing = "does not exist" if evaluation is None else "has not read the artifact's digest yet"
        return Hold(reason=Reason.WAITING_FOR_EVALUATION, message=f"Evaluation {name} {missing}")
    return Model(artifact_uri=source.artifact_uri or "", model_digest=digest, base_uri=source.base_model_uri or "")


def _of_job(name: str, job: Json | None) -> Model | Hold:
    reason = Reason.WAITING_FOR_FINE_TUNE_JOB
    if job is None:
        return Hold(reason=reason, message=f"FineTuneJob {name} does not exist; create it or correct spec.model")
    status = job.get("status", {})
    artifact = status.get("artifact")
    if artifact is None:
        stalled = find_condition(status.get("conditions", []), STALLED)
        why = f"failed ({stalled['message']})" if stalled else "has no artifact yet"
        return Hold(reason=reason, message=f"FineTuneJob {name} {why}")
    return Model(
        artifact_uri=artifact["uri"],
        model_digest=artifact["digest"],
        base_uri=artifact["baseModelUri"],
        base_digest=artifact["baseModelDigest"],
    )


def admit(spec: ModelDeploymentSpec, model: Model, evaluation: Json | None, *, now: datetime) -> Admitted | Hold:
    """Check requireEvaluation against exactly these weights and this way of serving."""
    required = spec.require_evaluation
    if evaluation is None:
        message = f"Evaluation {required.name} does not exist; create it or correct spec.requireEvaluation.name"
        return Hold(reason=Reason.WAITING_FOR_EVALUATION, message=message)
    status = evaluation.get("status", {})
    hold = (
        _judge_gates(required, evaluation)
        or _judge_verdict(required, status)
        or _judge_digest(required, status, model)
        or _judge_age(required, status, now)
        or _judge_profile(spec, status)
    )
    differs = _profile_differences(spec, status)
    warning = None
    if hold is not None and hold.reason == Reason.SERVING_PROFILE_MISMATCH and required.profile_match == "Warn":
        hold, warning = None, f"served otherwise than Evaluation {required.name} judged: {differs}"
    if hold is not None:
        return hold
    evidence = Evidence(
        name=required.name,
        uid=evaluation["metadata"]["uid"],
        verdict=status["verdict"],
        summary=status.get("summary", ""),
        report_uri=status.get("reportUri", ""),
        results_digest=status.get("resultsDigest", ""),
        completed_at=status.get("completionTime", ""),
    )
    return Admitted(evidence=evidence, warning=warning)


def _judge_gates(required: RequireEvaluation, evaluation: Json) -> Hold | None:
    if evaluation.get("spec", {}).get("gates"):
        return None
    message = (
        f"Evaluation {required.name} has no spec.gates, so it passes whatever it finds; "
        "name an Evaluation that has at least one gate in spec.requireEvaluation.name"
    )
    return Hold(reason=Reason.EVALUATION_NOT_PASSED, message=message, stalled=True)


def _judge_verdict(required: RequireEvaluation, status: Json) -> Hold | None:
    verdict = status.get("verdict")
    if verdict == "Passed":
        return None
    stalled = find_condition(status.get("conditions", []), STALLED)
    if verdict is None and stalled is None:
        message = f"Evaluation {required.name} has no verdict yet"
        return Hold(reason=Reason.WAITING_FOR_EVALUATION, message=message)
    said = status.get("summary") or (stalled["message"] if stalled else "")
    message = (
        f"Evaluation {required.name} ended with {verdict or 'no verdict'}{f' ({said})' if said else ''}; "
        "nothing is served on it: name a model that passes, by a new Evaluation"
    )
    return Hold(reason=Reason.EVALUATION_NOT_PASSED, message=message, stalled=True)


def _judge_digest(required: RequireEvaluation, status: Json, model: Model) -> Hold | None:
    judged = status.get("modelDigest", "")
    if judged == model.model_digest:
        return None
    message = (
        f"Evaluation {required.name} judged weights {shorten(judged)}, but spec.model is "
        f"{shorten(model.model_digest)}; name an Evaluation of this model"
    )
    return Hold(reason=Reason.EVALUATION_DIGEST_MISMATCH, message=message, stalled=True)


def _judge_age(required: RequireEvaluation, status: Json, now: datetime) -> Hold | None:
    completed = status.get("completionTime")
    if required.max_age_seconds is None or not completed:
        return None
    age = now - parse_time(completed)
    if age <= timedelta(seconds=required.max_age_seconds):
        return None
    message = (
        f"Evaluation {required.name} ended at {completed}, more than spec.requireEvaluation.maxAgeSeconds="
        f"{required.max_age_seconds} ago; judge again by a new Evaluation"
    )
    return Hold(reason=Reason.EVALUATION_TOO_OLD, message=message, stalled=True)


def _judge_profile(spec: ModelDeploymentSpec, status: Json) -> Hold | None:
    differs = _profile_differences(spec, status)
    if not differs:
        return None
    message = (
        f"spec.server.profile differs from what Evaluation {spec.require_evaluation.name} judged: {differs}; "
        "serve as it was judged, judge as it is served, or set requireEvaluation.profileMatch to Warn"
    )
    return Hold(reason=Reason.SERVING_PROFILE_MISMATCH, message=message, stalled=True)


def _profile_differences(spec: ModelDeploymentSpec, status: Json) -> str:
    served = spec.server.profile.to_json()
    judged = ServingProfile.model_validate(status.get("servingProfile") or {}).to_json()
    names = [name for name in served if served[name] != judged.get(name)]
    return ", ".join(f"{name} {served[name]} served, {judged.get(name)} judged" for name in names)


def shorten(digest: str) -> str:
    """Return a digest as people compare it."""
    return f"{digest[:19]}…" if len(digest) > 20 else digest or "(none)"
