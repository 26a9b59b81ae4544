"""One evaluation, top to bottom: read the suites, ask every side every case, judge, decide, write.

Whatever is asked is on disk before it is judged, so a killed run goes on where it was. results.json comes last.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import httpx
from pydantic import ValidationError

from luthier_eval import gates, report, results
from luthier_eval.cases import Case, Cases, build_request, read_cases
from luthier_eval.config import EvalConfig, EvalDetails, SideConfig, SuiteConfig
from luthier_eval.engine import Engine, Patience
from luthier_eval.judge import judge_suite
from luthier_eval.samples import SampleFile, run_key
from luthier_eval.scoring import Scorer, scorer
from luthier_trainer.artifact import MANIFEST, ArtifactManifest
from luthier_trainer.errors import UserError, writing_to
from luthier_trainer.files import write_atomic

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A suite that can be asked: its cases are valid and its metrics computable."""

    config: SuiteConfig
    cases: Cases
    scorers: Mapping[str, Scorer]


@dataclass(frozen=True, kw_only=True)
class Question:
    """One request that is still to be made."""

    case: Case
    side: SideConfig
    suite: SuiteConfig
    samples: SampleFile


SampleFiles = dict[tuple[str, str], SampleFile]
"""By suite and side."""


async def evaluate(config: EvalConfig, patience: Patience) -> EvalDetails:
    """Run an evaluation and leave its files in `output_dir`.

    Raises:
        UserError: The configuration or a suite is wrong.
        EngineNotReady: The engine did not start, or did not come back.
        EngineFailed: Cases are unanswered after all tries: there is no verdict.
    """
    gates.check_config(config)
    manifest = read_artifact(config)
    config = with_digests(config, manifest)
    suites = [prepare_suite(suite, manifest.render) for suite in config.suites]
    output = Path(config.output_dir)
    with writing_to(output, what="the evaluation", field="target"), ExitStack() as stack:
        files: SampleFiles = {}
        for suite in suites:
            for side in (config.target, *config.baselines):
                path = output / "samples" / f"{suite.config.name}.{side.name}.jsonl"
                opened = SampleFile(path, run_key(config, suite.config, side))
                files[suite.config.name, side.name] = stack.enter_context(closing(opened))
        engine_version = await _ask_all(config, suites, files, patience)
        found = judge(config, suites, files, engine_version=engine_version, render=manifest.render)
        rendered = results.render_results(found)
        write_atomic(output / "report.html", report.render_report(found))
        write_atomic(output / "results.json", rendered)
    return results.details(found, rendered)


def read_artifact(config: EvalConfig) -> ArtifactManifest:
    """Return the target's luthier.json: what it is, where the operator did not know, and how it was trained.

    Raises:
        UserError: It is missing or unreadable.
    """
    path = Path(config.artifact_path) / MANIFEST
    try:
        return ArtifactManifest.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        message = f"{path} is missing or cannot be read: the artifact is not complete, or not one of a FineTuneJob"
        raise UserError("ArtifactIncomplete", message, field="target.artifactUri") from None


def with_digests(config: EvalConfig, manifest: ArtifactManifest) -> EvalConfig:
    """Return the configuration with the digests of its artifact, where the operator did not know them.

    The engine beside us has hashed the files against the same manifest before it loaded them.
    """
    if config.model_digest:
        return config
    return config.model_copy(update={"model_digest": manifest.model_digest, "base_digest": manifest.base_digest})


def prepare_suite(suite: SuiteConfig, render: str) -> Prepared:
    """Read a suite's cases and build its metrics, before an engine is needed."""
    scorers = {m.name: scorer(m, where=f"suite {suite.name}: metrics[{i}]") for i, m in enumerate(suite.metrics)}
    return Prepared(config=suite, cases=read_cases(suite, render), scorers=scorers)


def judge(
    config: EvalConfig, suites: list[Prepared], files: SampleFiles, *, engine_version: str, render: str
) -> results.Results:
    """Return everything that the answers say."""
    sides = (config.target, *config.baselines)
    found = tuple(
        judge_suite(
            config,
            suite.config,
            suite.cases,
            suite.scorers,
            # Only this run's cases: the files may hold more, from before max_cases was lowered.
            {s.name: {c.id: files[suite.config.name, s.name].answers[c.id] for c in suite.cases.chosen} for s in sides},
        )
        for suite in suites
    )
    by_name = {suite.name: suite for suite in found}
    level = config.confidence_percent / 100
    return results.Results(
        config=config,
        suites=found,
        gates=tuple(gates.decide_gate(gate, by_name, level=level) for gate in config.gates),
        versions=results.package_versions(engine_version, config.image),
        render=render,
    )


async def _ask_all(config: EvalConfig, suites: list[Prepared], files: SampleFiles, patience: Patience) -> str:
    """Ask what is not answered yet; return the engine's version."""
    questions = [
        Question(case=case, side=side, suite=suite.config, samples=samples)
        for suite in suites
        for side in (config.target, *config.baselines)
        if (samples := files[suite.config.name, side.name])
        for case in suite.cases.chosen
        if case.id not in samples.answers
    ]
    logger.info("%d requests to make", len(questions))
    limits = httpx.Limits(max_connections=config.concurrency + 1)
    # The engine is in this pod: a proxy of the environment is never asked.
    async with httpx.AsyncClient(base_url=config.endpoint, limits=limits, trust_env=False) as client:
        engine = Engine(client, patience)
        if questions:
            await engine.wait_ready()
        await _ask_pending(engine, questions, config.concurrency)
        return await engine.version()


async def _ask_pending(engine: Engine, questions: list[Question], concurrency: int) -> None:
    """Ask all, so many at once; the first failure ends it, and what was answered is kept."""
    waiting = iter(questions)
    progress = _Progress(len(questions))

    async def work() -> None:
        for question in waiting:
            path, body = build_request(question.case, question.side, question.suite)
            question.samples.add(question.case.id, await engine.answer(path, body))
            progress.count(question)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                group.create_task(work())
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None


class _Progress:
    """Logs every tenth of the work; numbers only, no texts."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._done = 0

    def count(self, question: Question) -> None:
        self._done += 1
        if self._done == self._total or self._done % max(1, self._total // 10) == 0:
            logger.info("%d of %d: suite %s, %s", self._done, self._total, question.suite.name, question.side.name)
