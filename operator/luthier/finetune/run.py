"""One pass over a FineTuneJob, as `decide` sees it: the draft with what was observed already counted in. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from luthier import jobs
from luthier.api.finetunejob import Attempt, Cost, FineTuneJobSpec, FineTuneJobStatus
from luthier.draft import Draft, read_spec
from luthier.finetune.build import (
    PREPARE_CONTAINER,
    PREPARE_ROLE,
    TRAIN_ROLE,
    TRAINER_CONTAINER,
    find_places,
    step_name,
)
from luthier.finetune.observe import Observed
from luthier.jobs import Ending, Outcome
from luthier.plan import Json, Plan
from luthier.report import Step, await_report, judge_step

MAX_ATTEMPTS_SHOWN = 128
MAX_PODS_SHOWN = 256


@dataclass(frozen=True, kw_only=True)
class Run:
    """The object, what was seen, and the status as it is being written."""

    obj: Json
    spec: FineTuneJobSpec
    seen: Observed
    draft: Draft[FineTuneJobStatus]

    @property
    def status(self) -> FineTuneJobStatus:
        return self.draft.status

    @property
    def last_attempt(self) -> Attempt | None:
        return self.status.attempts[-1] if self.status.attempts else None

    def end_attempt(self, outcome: str, message: str) -> Run:
        """Write how the last attempt ended."""
        *before, last = self.status.attempts
        ended = last.model_copy(update={"outcome": outcome, "message": message[:1024]})
        return replace(self, draft=self.draft.put(attempts=[*before, ended]))

    def add_attempt(self, number: int, job: str) -> Run:
        """Write that an attempt runs. Where the list is full the oldest suspended one goes: failures are counted."""
        attempts = [*self.status.attempts, Attempt(number=number, job=job, outcome="Running")]
        if len(attempts) > MAX_ATTEMPTS_SHOWN:
            oldest = next((i for i, a in enumerate(attempts) if a.outcome == "Suspended"), 0)
            del attempts[oldest]
        return replace(self, draft=self.draft.put(attempts=attempts, resume_count=number - 1))

    def count(self, outcome: Outcome) -> int:
        """Return how many attempts ended in this way."""
        return sum(attempt.outcome == outcome for attempt in self.status.attempts)


def start_run(obj: Json, seen: Observed) -> Run:
    """Read the object, and count in what happened since: ended pods, and Jobs that no status speaks of yet."""
    status = FineTuneJobStatus.model_validate(obj.get("status", {}))
    draft = Draft(
        obj=obj,
        now=seen.now,
        status=status.model_copy(update={"conditions": []}),
        conditions=list(obj.get("status", {}).get("conditions", [])),
    )
    draft = draft.put(cost=add_cost(status.cost, seen.pods, gpu=seen.settings.gpu_resource_name))
    run = Run(obj=obj, spec=read_spec(FineTuneJobSpec, obj), seen=seen, draft=draft)
    return _adopt_unseen(run) if status.completion_time is None else run


def add_cost(cost: Cost | None, pods: Iterable[Json], *, gpu: str) -> Cost | None:
    """Return the cost with every ended pod in it once."""
    total = cost or Cost()
    counted = list(total.counted_pods)
    for pod in pods:
        usage = jobs.usage_of(pod, gpu=gpu)
        if usage is None or usage.uid in counted:
            continue
        counted.append(usage.uid)
        total = Cost(
            gpu_seconds=total.gpu_seconds + usage.gpu_seconds,
            cpu_seconds=total.cpu_seconds + usage.cpu_seconds,
            counted_pods=counted[-MAX_PODS_SHOWN:],
        )
    return total if counted else cost


def _adopt_unseen(run: Run) -> Run:
    """Write attempts that exist and are not in status: the operator stopped between the two, or status was lost."""
    known = run.last_attempt.number if run.last_attempt else 0
    unseen = [job for job in run.seen.train_jobs if jobs.attempt_of(job) > known]
    for job in unseen:
        if run.last_attempt is not None and run.last_attempt.outcome == "Running":
            ending = _former_ending(run)
            run = run.end_attempt(ending.outcome, ending.message)
        run = run.add_attempt(jobs.attempt_of(job), job["metadata"]["name"])
    return run


def _former_ending(run: Run) -> Ending:
    """Return how an attempt ended that has a successor: a success would have had none."""
    job = find_attempt(run)
    ending = jobs.judge_job(job, run.seen.pods, container=TRAINER_CONTAINER) if job is not None else None
    if ending is None or ending.outcome in (Outcome.SUCCEEDED, Outcome.RESULT_LOST):
        return jobs.job_deleted(run.seen.now)
    return ending


def find_attempt(run: Run) -> Json | None:
    """Return the Job of the last attempt, or None when it is gone."""
    number = run.last_attempt.number if run.last_attempt else 0
    return next((job for job in run.seen.train_jobs if jobs.attempt_of(job) == number), None)


def preparation_step(run: Run, job: Json) -> Step:
    """Return a data Job as a step."""
    name = step_name(PREPARE_ROLE, jobs.attempt_of(job))
    return _step(run, name, job, PREPARE_CONTAINER)


def training_step(run: Run, job: Json) -> Step:
    """Return an attempt as a step."""
    name = step_name(TRAIN_ROLE, jobs.attempt_of(job))
    return _step(run, name, job, TRAINER_CONTAINER)


def _step(run: Run, name: str, job: Json, container: str) -> Step:
    return Step(name=name, job=job, container=container, result=find_places(run.obj, run.spec).result(name))


def judge(run: Run, step: Step) -> Ending | None:
    """Return how a step ended, or None while it runs."""
    return judge_step(step, pods=run.seen.pods, reports=run.seen.report_jobs)


def await_result(run: Run, step: Step) -> Plan:
    """Read a lost result again."""
    return await_report(
        run.draft,
        step,
        pods=run.seen.pods,
        reports=run.seen.report_jobs,
        settings=run.seen.settings,
        scheduling=run.spec.scheduling,
        now=run.seen.now,
    )
