"""One pass over an Evaluation, as `decide` sees it: the draft and what was observed. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass

from luthier import jobs
from luthier.api.evaluation import EvaluationSpec, EvaluationStatus
from luthier.draft import Draft
from luthier.evaluation.build import EVALUATOR_CONTAINER, result_file, step_name
from luthier.evaluation.observe import Observed
from luthier.plan import Json
from luthier.podspec import read_env
from luthier.report import Step
from luthier.volumes import Location, locate, uri_of
from luthier_eval.config import CONFIG_ENV


@dataclass(frozen=True, kw_only=True)
class Run:
    """The object, what was seen, and the status as it is being written."""

    obj: Json
    spec: EvaluationSpec
    seen: Observed
    draft: Draft[EvaluationStatus]

    @property
    def status(self) -> EvaluationStatus:
        return self.draft.status


def find_attempt(run: Run) -> Json | None:
    """Return the Job of the last attempt, or None when it is gone."""
    return next((j for j in run.seen.eval_jobs if jobs.attempt_of(j) == run.status.attempts), None)


@dataclass(frozen=True, kw_only=True)
class Ran:
    """What a Job was told: read from the Job itself, since its FineTuneJob may be gone by now."""

    output: Location
    model_digest: str


def what_ran(job: Json) -> Ran:
    """Return what a Job was told."""
    config = json.loads(read_env(job["spec"]["template"]["spec"]["containers"][0], CONFIG_ENV))
    return Ran(output=locate(uri_of(config["output_dir"])), model_digest=config["model_digest"])


def attempt_step(job: Json) -> Step:
    """Return an attempt as a step."""
    return Step(
        name=step_name(jobs.attempt_of(job)),
        job=job,
        container=EVALUATOR_CONTAINER,
        result=result_file(what_ran(job).output),
    )
