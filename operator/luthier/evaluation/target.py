"""What an Evaluation judges, with its references followed: pure."""

from __future__ import annotations

from dataclasses import dataclass

from luthier.api.evaluation import EvaluationSpec
from luthier.api.finetunejob import FineTuneJobSpec, FineTuneJobStatus
from luthier.plan import Json
from luthier.volumes import Location, locate


@dataclass(frozen=True, kw_only=True)
class Target:
    """What is judged, with every reference followed. Empty digests: only luthier.json knows them."""

    artifact: Location
    base: Location
    digest: str = ""
    base_digest: str = ""
    rank: int = 16
    test_uri: str | None = None
    """The FineTuneJob's held-out rows; None: there are none."""


def find_target(spec: EvaluationSpec, fine_tune_job: Json | None) -> Target | None:
    """Return what is judged, or None while its FineTuneJob has no artifact."""
    if spec.target.artifact_uri is not None and spec.target.base_model_uri is not None:
        return Target(artifact=locate(spec.target.artifact_uri), base=locate(spec.target.base_model_uri))
    if fine_tune_job is None:
        return None
    job = FineTuneJobSpec.model_validate(fine_tune_job["spec"])
    status = FineTuneJobStatus.model_validate(fine_tune_job.get("status", {}))
    artifact, dataset = status.artifact, status.dataset
    if artifact is None:
        return None
    return Target(
        artifact=locate(artifact.uri),
        base=locate(artifact.base_model_uri),
        digest=artifact.digest,
        base_digest=artifact.base_model_digest,
        rank=job.peft.rank,
        test_uri=dataset.test_uri if dataset is not None and dataset.test else None,
    )


def used_claims(spec: EvaluationSpec, target: Target) -> tuple[str, ...]:
    """Return every claim that must exist, in order of name."""
    uris = [suite.dataset_uri or target.test_uri for suite in spec.suites]
    places = [target.artifact, target.base, *(locate(uri) for uri in uris if uri is not None)]
    return tuple(sorted({place.claim for place in places}))
