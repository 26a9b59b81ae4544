"""The configuration that the operator writes and the evaluator reads, and the details that come back.

JSON in the environment variable `LUTHIER_EVAL_CONFIG`. The result is a `luthier_trainer.config.StepResult` whose
details are `EvalDetails`; the numbers in full stand in results.json beside report.html.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

CONFIG_ENV = "LUTHIER_EVAL_CONFIG"


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ExampleConfig(_Model):
    """One few-shot example."""

    user: str
    assistant: str


class SideConfig(_Model):
    """One model under one prompt: the target or a baseline."""

    name: str
    model: str
    """`model` in requests to the engine."""
    system_prompt: str | None = None
    examples: tuple[ExampleConfig, ...] = ()


class MetricConfig(_Model):
    """One metric."""

    name: str
    type: Literal["ExactMatch", "F1", "JSONSchema"]
    json_schema: str | None = None


class SuiteConfig(_Model):
    """One suite. `path` is a .jsonl file of messages or prompt/completion rows."""

    name: str
    type: Literal["HeldOut", "Regression"]
    path: str
    uri: str
    max_cases: int = 1000
    max_tokens: int = 256
    temperature: float = 0.0
    seed: int = 0
    metrics: tuple[MetricConfig, ...]


class GateConfig(_Model):
    """One gate; percents."""

    suite: str
    metric: str
    min_percent: int | None = None
    versus_baseline: str | None = None
    min_difference_percent: int = 0


class EvalConfig(_Model):
    """Input of `python -m luthier_eval`."""

    name: str
    evaluation_uid: str
    endpoint: str
    """The engine's address, for example http://127.0.0.1:8000."""
    target: SideConfig
    baselines: tuple[SideConfig, ...] = ()
    suites: tuple[SuiteConfig, ...]
    gates: tuple[GateConfig, ...] = ()
    confidence_percent: int = 95
    concurrency: int = 16
    model_digest: str
    """Empty where the operator does not know it: then luthier.json in `artifact_path` says it, and `base_digest`."""
    base_digest: str
    artifact_path: str
    """The target's folder, with luthier.json: it also says how prompt/completion rows are asked (`render`)."""
    serving_profile: dict[str, str | int]
    image: str = ""
    """The one that serves and evaluates: answers of another engine are not mixed with its own."""
    output_dir: str
    """samples/<suite>.<side>.jsonl, results.json, report.html; resumable, results.json is written last."""
    result_path: str


class EstimateDetails(_Model):
    """Percents as decimals."""

    value: float
    low: float
    high: float


class BaselineDetails(_Model):
    """One baseline on the same cases."""

    name: str
    value: EstimateDetails
    difference: EstimateDetails


class MetricDetails(_Model):
    """One metric."""

    name: str
    n: int
    target: EstimateDetails
    baselines: tuple[BaselineDetails, ...] = ()


class SuiteDetails(_Model):
    """One suite."""

    name: str
    cases: int
    digest: str
    metrics: tuple[MetricDetails, ...]


class GateDetails(_Model):
    """One gate."""

    suite: str
    metric: str
    outcome: Literal["Passed", "Failed", "Inconclusive"]
    message: str


class EvalDetails(_Model):
    """What the operator copies to status; shortened to fit a termination message (numbers to 4 digits)."""

    verdict: Literal["Passed", "Failed", "Inconclusive"]
    summary: str
    results_sha256: str
    model_digest: str = ""
    """What was judged; from luthier.json where the configuration had none."""
    suites: tuple[SuiteDetails, ...] = ()
    gates: tuple[GateDetails, ...] = ()
