"""The Evaluation API: judge exactly these weights against baselines on the same cases, and say Passed or not.

The spec is immutable but for suspend and ttlSecondsAfterFinished: another judgement is another object.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.alias_generators import to_camel

from luthier.api.base import (
    Condition,
    ErrorStatus,
    ItemName,
    KubeModel,
    LocalRef,
    MadeUri,
    PvcUri,
    Resources,
    Scheduling,
    ServingProfile,
    Timestamp,
    cel,
    list_map,
    matches,
)


class ModelSource(KubeModel):
    """Weights: the artifact of a FineTuneJob, or folders."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        frozen=True,
        extra="ignore",
        json_schema_extra=cel(
            (
                "has(self.fineTuneJob) != has(self.artifactUri)",
                "set exactly one of fineTuneJob and artifactUri",
            ),
            (
                "has(self.artifactUri) == has(self.baseModelUri)",
                "artifactUri and baseModelUri go together: an adapter needs its base",
            ),
        ),
    )

    fine_tune_job: Annotated[
        LocalRef | None, Field(default=None, description="The FineTuneJob whose artifact it is; awaited when it runs.")
    ]
    artifact_uri: Annotated[
        PvcUri | None, Field(default=None, description="An artifact's folder (with luthier.json): pvc://claim/path.")
    ]
    base_model_uri: Annotated[PvcUri | None, Field(default=None, description="The base model of artifactUri.")]


class Example(KubeModel):
    """One few-shot example."""

    user: Annotated[str, Field(min_length=1, max_length=8192, description="What the user says.")]
    assistant: Annotated[str, Field(min_length=1, max_length=8192, description="The right answer.")]


class Baseline(KubeModel):
    """The base model under a prompt: what fine-tuning has to beat."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        frozen=True,
        extra="ignore",
        json_schema_extra=cel(("self.name != 'target'", "'target' is what is judged: choose another name")),
    )

    name: Annotated[ItemName, Field(description="How gates and reports call it.")]
    system_prompt: Annotated[
        str | None,
        Field(default=None, max_length=16_384, description="Replaces the cases' own system prompt for this baseline."),
    ]
    examples: Annotated[
        list[Example] | None, Field(default=None, max_length=32, description="Few-shot examples before each case.")
    ]


class Metric(KubeModel):
    """One number about one suite."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        frozen=True,
        extra="ignore",
        json_schema_extra=cel(
            (
                "(self.type == 'JSONSchema') == has(self.jsonSchema)",
                "jsonSchema is required for type JSONSchema and for no other type",
            )
        ),
    )

    name: Annotated[ItemName, Field(description="How gates and reports call it.")]
    type: Annotated[
        Literal["ExactMatch", "F1", "JSONSchema"],
        Field(description="ExactMatch: the answer, trimmed. F1: of words. JSONSchema: valid against jsonSchema."),
    ]
    json_schema: Annotated[
        str | None, Field(default=None, min_length=2, max_length=16_384, description="A JSON Schema, as JSON text.")
    ]


class Generation(KubeModel):
    """How answers are drawn."""

    max_tokens: Annotated[int, Field(default=256, ge=1, le=32_768, description="Longest answer in tokens.")]
    temperature: Annotated[
        str,
        Field(
            default="0",
            max_length=8,
            description='Quoted; "0" is greedy.',
            **matches(r"^[0-2](\.[0-9]{1,3})?$", 'must be a decimal from "0" to "2.999", in quotes'),
        ),
    ]
    seed: Annotated[int, Field(default=0, ge=0, le=2_147_483_647, description="Seed of sampling.")]


class Suite(KubeModel):
    """Cases and what is measured on them."""

    name: Annotated[ItemName, Field(description="How gates and reports call it.")]
    type: Annotated[
        Literal["HeldOut", "Regression"],
        Field(description="HeldOut: unseen rows of the task. Regression: what the base must not have lost."),
    ]
    dataset_uri: Annotated[
        PvcUri | None,
        Field(
            default=None,
            description="A .jsonl file of messages or prompt/completion rows; absent: the FineTuneJob's held-out rows.",
        ),
    ]
    max_cases: Annotated[
        int,
        Field(default=1000, ge=1, le=100_000, description="At most so many, chosen by hash, the same for every side."),
    ]
    generation: Annotated[Generation, Field(default_factory=Generation, description="How answers are drawn.")]
    metrics: Annotated[
        list[Metric],
        Field(min_length=1, max_length=16, description="What is measured.", json_schema_extra=list_map("name")),
    ]


class Versus(KubeModel):
    """A bound on the difference to a baseline, on the same cases."""

    baseline: Annotated[ItemName, Field(description="One of spec.baselines.")]
    min_difference_percent: Annotated[
        int,
        Field(default=0, ge=-100, le=100, description="Target minus baseline in points: -2 allows a loss of two."),
    ]


class Gate(KubeModel):
    """A bound that must hold on the whole confidence interval."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        frozen=True,
        extra="ignore",
        json_schema_extra=cel(
            ("has(self.minPercent) || has(self.versus)", "a gate needs minPercent or versus, or both"),
        ),
    )

    suite: Annotated[ItemName, Field(description="One of spec.suites.")]
    metric: Annotated[ItemName, Field(description="One of that suite's metrics.")]
    min_percent: Annotated[
        int | None, Field(default=None, ge=0, le=100, description="The target's value must be at least this.")
    ]
    versus: Annotated[Versus | None, Field(default=None, description="A bound on the difference to a baseline.")]


_IMMUTABLE = (
    "target",
    "baselines",
    "servingProfile",
    "suites",
    "gates",
    "confidencePercent",
    "resources",
    "scheduling",
    "activeDeadlineSeconds",
    "backoffLimit",
)
_GATE_NAMES_A_METRIC = (
    "!has(self.gates) || self.gates.all(g, "
    "self.suites.exists(s, s.name == g.suite && s.metrics.exists(m, m.name == g.metric)))"
)
_GATE_NAMES_A_BASELINE = (
    "!has(self.gates) || self.gates.all(g, !has(g.versus) || "
    "(has(self.baselines) && self.baselines.exists(b, b.name == g.versus.baseline)))"
)
_PROMPTS_HAVE_ROOM = "self.suites.all(s, s.generation.maxTokens < self.servingProfile.maxModelLen)"
_HELD_OUT_HAS_ROWS = "has(self.target.fineTuneJob) || self.suites.all(s, has(s.datasetUri))"


class EvaluationSpec(KubeModel):
    """What is judged, on what, and what it has to reach."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        frozen=True,
        extra="ignore",
        json_schema_extra=cel(
            (_GATE_NAMES_A_METRIC, "each gate must name a suite of spec.suites and one of that suite's metrics"),
            (_GATE_NAMES_A_BASELINE, "gates[].versus.baseline must name one of spec.baselines"),
            (_HELD_OUT_HAS_ROWS, "a suite without datasetUri needs target.fineTuneJob, whose held-out rows it takes"),
            (
                _PROMPTS_HAVE_ROOM,
                "suites[].generation.maxTokens must be below servingProfile.maxModelLen, or no prompt has room",
            ),
            *(
                (
                    f"has(self.{f}) == has(oldSelf.{f}) && (!has(self.{f}) || self.{f} == oldSelf.{f})",
                    f"{f} is immutable: another judgement is a new Evaluation with a new name",
                )
                for f in _IMMUTABLE
            ),
        ),
    )

    target: Annotated[ModelSource, Field(description="What is judged.")]
    baselines: Annotated[
        list[Baseline] | None,
        Field(
            default=None,
            max_length=8,
            description="The base model under prompts, on the same cases.",
            json_schema_extra=list_map("name"),
        ),
    ]
    serving_profile: Annotated[
        ServingProfile, Field(default_factory=ServingProfile, description="How the engine runs: as it will serve.")
    ]
    suites: Annotated[
        list[Suite],
        Field(min_length=1, max_length=16, description="Cases and metrics.", json_schema_extra=list_map("name")),
    ]
    gates: Annotated[
        list[Gate] | None,
        Field(
            default=None,
            max_length=32,
            description="Bounds; all must hold. None: always Passed, and no ModelDeployment accepts it.",
        ),
    ]
    confidence_percent: Annotated[
        int, Field(default=95, ge=80, le=99, description="Level of the two-sided intervals that gates are decided on.")
    ]
    resources: Annotated[
        Resources | None, Field(default=None, description="The engine's resources; absent: the platform's default.")
    ]
    scheduling: Annotated[Scheduling | None, Field(default=None, description="Where the pod may run.")]
    active_deadline_seconds: Annotated[
        int | None, Field(default=None, ge=1, le=31_536_000, description="Longest run time of one attempt.")
    ]
    backoff_limit: Annotated[int, Field(default=2, ge=0, le=100, description="Failed attempts before it is given up.")]
    suspend: Annotated[bool, Field(default=False, description="True stops the run; answers so far are kept.")]
    ttl_seconds_after_finished: Annotated[
        int | None, Field(default=None, ge=0, le=31_536_000, description="Then the Job and its pod go.")
    ]


class Estimate(KubeModel):
    """A value with its interval; percents as decimals."""

    value: Annotated[str, Field(max_length=16, description="In percent.")]
    low: Annotated[str, Field(max_length=16, description="Lower end of the interval.")]
    high: Annotated[str, Field(max_length=16, description="Upper end of the interval.")]


class BaselineResult(KubeModel):
    """A baseline on the same cases."""

    name: Annotated[str, Field(max_length=40, description="The baseline.")]
    value: Annotated[Estimate, Field(description="Its own value.")]
    difference: Annotated[Estimate, Field(description="Target minus baseline, paired by case.")]


class MetricResult(KubeModel):
    """One metric of one suite."""

    name: Annotated[str, Field(max_length=40, description="The metric.")]
    n: Annotated[int, Field(description="Cases.")]
    target: Annotated[Estimate, Field(description="The target's value.")]
    baselines: Annotated[
        list[BaselineResult],
        Field(default_factory=list, max_length=8, description="Same cases.", json_schema_extra=list_map("name")),
    ]


class SuiteResult(KubeModel):
    """One suite."""

    name: Annotated[str, Field(max_length=40, description="The suite.")]
    cases: Annotated[int, Field(description="Cases.")]
    digest: Annotated[str, Field(max_length=80, description="sha256 of the cases used.")]
    metrics: Annotated[
        list[MetricResult],
        Field(default_factory=list, max_length=16, description="Values.", json_schema_extra=list_map("name")),
    ]


class GateResult(KubeModel):
    """What became of one gate."""

    suite: Annotated[str, Field(max_length=40, description="The suite.")]
    metric: Annotated[str, Field(max_length=40, description="The metric.")]
    outcome: Annotated[Literal["Passed", "Failed", "Inconclusive"], Field(description="Decided on the whole interval.")]
    message: Annotated[str, Field(max_length=512, description="The numbers, in a sentence.")]


class EvaluationStatus(KubeModel):
    """What was found; conditions Evaluated, Succeeded, and Reconciling, Stalled when True."""

    observed_generation: Annotated[int, Field(default=-1, description="The spec's generation that this describes.")]
    conditions: Annotated[
        list[Condition],
        Field(
            default_factory=list,
            max_length=16,
            description="See docs/conditions.md.",
            json_schema_extra=list_map("type"),
        ),
    ]
    verdict: Annotated[
        Literal["Passed", "Failed", "Inconclusive"] | None,
        Field(default=None, description="Passed: every gate's whole interval satisfies it."),
    ]
    model_digest: Annotated[str | None, Field(default=None, max_length=80, description="The weights that were judged.")]
    serving_profile: Annotated[ServingProfile | None, Field(default=None, description="How they were run.")]
    suites: Annotated[
        list[SuiteResult],
        Field(default_factory=list, max_length=16, description="Values.", json_schema_extra=list_map("name")),
    ]
    gates: Annotated[list[GateResult], Field(default_factory=list, max_length=32, description="Gate by gate.")]
    summary: Annotated[str | None, Field(default=None, max_length=512, description="The result in one line.")]
    report_uri: Annotated[MadeUri | None, Field(default=None, description="report.html.")]
    results_digest: Annotated[str | None, Field(default=None, max_length=80, description="sha256 of results.json.")]
    attempts: Annotated[int, Field(default=0, description="Jobs started.")]
    error: Annotated[ErrorStatus | None, Field(default=None, description="What went wrong.")]
    completion_time: Annotated[Timestamp | None, Field(default=None, description="When it ended.")]
