"""From answers to numbers: scores per case, estimates per metric and side. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from luthier_eval import stats
from luthier_eval.cases import Case, Cases
from luthier_eval.config import EvalConfig, MetricConfig, SideConfig, SuiteConfig
from luthier_eval.engine import Answer
from luthier_eval.scoring import Scorer
from luthier_eval.stats import Estimate
from luthier_trainer.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One baseline's value and the paired difference to it."""

    name: str
    value: Estimate
    difference: Estimate
    mcnemar_p: float | None
    """Of the exact test, for metrics that are right or wrong."""


@dataclass(frozen=True, kw_only=True)
class MetricFound:
    """One metric of one suite."""

    name: str
    type: str
    n: int
    target: Estimate
    baselines: tuple[Compared, ...]

    def baseline(self, name: str) -> Compared:
        return next(found for found in self.baselines if found.name == name)


@dataclass(frozen=True, kw_only=True)
class SideFound:
    """What one side's answers cost, and how many are no real answers."""

    name: str
    refused: int
    """The engine refused the prompt (too long, for example): counted as wrong."""
    cut: int
    """Ended by max_tokens: judged as they are."""
    prompt_tokens: float
    """Mean per case."""
    completion_tokens: float


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One case with what everybody said, for people."""

    case: Case
    answers: Mapping[str, Answer]
    scores: Mapping[str, float]
    """By side, on the suite's first metric."""


@dataclass(frozen=True, kw_only=True)
class SuiteFound:
    """One suite."""

    name: str
    type: str
    uri: str
    cases: int
    available: int
    duplicates: int
    digest: str
    sides: tuple[SideFound, ...]
    metrics: tuple[MetricFound, ...]
    samples: tuple[Sample, ...]

    def metric(self, name: str) -> MetricFound:
        return next(found for found in self.metrics if found.name == name)


Answers = Mapping[str, Mapping[str, Answer]]
"""By side and case id."""


def judge_suite(
    config: EvalConfig, suite: SuiteConfig, cases: Cases, scorers: Mapping[str, Scorer], answers: Answers
) -> SuiteFound:
    """Return the numbers of one suite.

    Raises:
        UserError: The engine refused every prompt of a side, which says nothing about the weights.
    """
    sides = (config.target, *config.baselines)
    level = config.confidence_percent / 100
    scores = {
        metric.name: {side.name: score_side(cases, scorers[metric.name], answers[side.name]) for side in sides}
        for metric in suite.metrics
    }
    first = scores[suite.metrics[0].name]
    return SuiteFound(
        name=suite.name,
        type=suite.type,
        uri=suite.uri,
        cases=len(cases.chosen),
        available=cases.available,
        duplicates=cases.duplicates,
        digest=cases.digest,
        sides=tuple(_side(suite, side, list(answers[side.name].values())) for side in sides),
        metrics=tuple(_metric(metric, scores[metric.name], config, level) for metric in suite.metrics),
        samples=tuple(
            Sample(
                case=case,
                answers={side.name: answers[side.name][case.id] for side in sides},
                scores={side.name: first[side.name][i] for side in sides},
            )
            for i, case in enumerate(cases.chosen)
        ),
    )


def score_side(cases: Cases, score: Scorer, answers: Mapping[str, Answer]) -> list[float]:
    """Return a side's scores, case by case; a refused prompt is a wrong answer."""
    return [
        0.0 if answers[case.id].error is not None else score(answers[case.id].text, case.expected)
        for case in cases.chosen
    ]


def _metric(
    metric: MetricConfig, by_side: Mapping[str, Sequence[float]], config: EvalConfig, level: float
) -> MetricFound:
    ours = by_side[config.target.name]
    return MetricFound(
        name=metric.name,
        type=metric.type,
        n=len(ours),
        target=stats.estimate_mean(ours, level=level),
        baselines=tuple(_compare(side.name, ours, by_side[side.name], level) for side in config.baselines),
    )


def _compare(name: str, ours: Sequence[float], theirs: Sequence[float], level: float) -> Compared:
    won, lost = (sum(a > b for a, b in zip(*pair, strict=True)) for pair in ((ours, theirs), (theirs, ours)))
    binary = all(value in (0, 1) for value in (*ours, *theirs))
    return Compared(
        name=name,
        value=stats.estimate_mean(theirs, level=level),
        difference=stats.estimate_difference(ours, theirs, level=level),
        mcnemar_p=stats.mcnemar_p(won, lost) if binary else None,
    )


def _side(suite: SuiteConfig, side: SideConfig, answers: Sequence[Answer]) -> SideFound:
    errors = [answer.error for answer in answers if answer.error is not None]
    if len(errors) == len(answers):
        raise UserError(
            "PromptsRefused",
            f"suite {suite.name}: the engine refuses every prompt of {side.name} ({errors[0]}); "
            "raise servingProfile.maxModelLen, or shorten the prompt or maxTokens",
            field="servingProfile.maxModelLen",
        )
    return SideFound(
        name=side.name,
        refused=len(errors),
        cut=sum(answer.finish == "length" for answer in answers),
        prompt_tokens=sum(answer.prompt_tokens for answer in answers) / len(answers),
        completion_tokens=sum(answer.completion_tokens for answer in answers) / len(answers),
    )
