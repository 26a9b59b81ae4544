"""The three kinds as Kubernetes registers them: names, models, printer columns. Data, no logic.

`luthier.crd` turns this table into CustomResourceDefinitions, `luthier.apidocs` into docs/api.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from luthier.api.base import KubeModel
from luthier.api.evaluation import EvaluationSpec, EvaluationStatus
from luthier.api.finetunejob import FineTuneJobSpec, FineTuneJobStatus
from luthier.api.modeldeployment import ModelDeploymentSpec, ModelDeploymentStatus


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column of `kubectl get`."""

    name: str
    path: str
    description: str
    type: Literal["string", "integer", "date"] = "string"
    wide: bool = False
    """Shown by `kubectl get -o wide` only."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of our API group."""

    kind: str
    plural: str
    short_name: str
    description: str
    spec: type[KubeModel]
    status: type[KubeModel]
    columns: tuple[Column, ...]


def _condition(condition_type: str, field: str) -> str:
    return f'.status.conditions[?(@.type=="{condition_type}")].{field}'


_AGE = Column(name="Age", path=".metadata.creationTimestamp", type="date", description="When it was created.")

FINE_TUNE_JOB = Kind(
    kind="FineTuneJob",
    plural="finetunejobs",
    short_name="ftj",
    description="Tunes a base model on a data set and leaves an adapter with a digest. One object is one run.",
    spec=FineTuneJobSpec,
    status=FineTuneJobStatus,
    columns=(
        Column(name="Status", path=_condition("Succeeded", "reason"), description="Where the run stands."),
        Column(name="Step", path=".status.progress.step", type="integer", description="Optimizer steps done."),
        Column(name="Percent", path=".status.progress.percent", type="integer", description="Share of steps done."),
        Column(name="Loss", path=".status.progress.loss", description="Newest training loss."),
        Column(
            name="Left",
            path=".status.progress.estimatedRemainingSeconds",
            type="integer",
            description="Estimated seconds left.",
        ),
        _AGE,
    ),
)
EVALUATION = Kind(
    kind="Evaluation",
    plural="evaluations",
    short_name="evl",
    description="Judges exactly these weights against baselines on the same cases. One object is one judgement.",
    spec=EvaluationSpec,
    status=EvaluationStatus,
    columns=(
        Column(name="Verdict", path=".status.verdict", description="Passed, Failed or Inconclusive."),
        Column(name="Summary", path=".status.summary", description="The result in one line."),
        _AGE,
    ),
)
MODEL_DEPLOYMENT = Kind(
    kind="ModelDeployment",
    plural="modeldeployments",
    short_name="mdep",
    description="Serves evaluated weights behind a gateway, moves traffic in steps, and takes a bad revision back.",
    spec=ModelDeploymentSpec,
    status=ModelDeploymentStatus,
    columns=(
        Column(name="Serving", path=_condition("Serving", "status"), description="Whether clients get answers."),
        Column(name="Stable", path=".status.display.stable", description="The revision that serves."),
        Column(name="Candidate", path=".status.display.candidate", description="The revision being tried."),
        Column(name="Step", path=".status.display.step", description="The rollout's step, of how many."),
        Column(name="Weight", path=".status.display.weight", description="The candidate's share of traffic."),
        Column(name="Verdict", path=".status.verdict", description="The newest judgement in a few words."),
        Column(
            name="Since",
            path=_condition("Ready", "lastTransitionTime"),
            type="date",
            description="When Ready last changed.",
        ),
        Column(
            name="Message",
            path=_condition("Ready", "message"),
            description="What Ready says: the whole names, and what to do.",
            wide=True,
        ),
    ),
)
KINDS = (FINE_TUNE_JOB, EVALUATION, MODEL_DEPLOYMENT)
