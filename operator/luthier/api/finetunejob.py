"""The FineTuneJob API: from a data set and a base model to an adapter with a digest.

Every field that shapes the result is immutable: another run is another object.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.alias_generators import to_camel

from luthier.api.base import (
    Condition,
    Decimal,
    ErrorStatus,
    KubeModel,
    MadeUri,
    ObjectName,
    PvcUri,
    Resources,
    Scheduling,
    Timestamp,
    cel,
    matches,
)


class BaseModelRef(KubeModel):
    """The base model that is tuned."""

    uri: Annotated[PvcUri, Field(description="Folder in transformers' layout, safetensors only: pvc://claim/path.")]
    licence: Annotated[
        str | None,
        Field(
            default=None,
            max_length=64,
            description="The licence you accept, for example apache-2.0; refused when the model declares another one.",
        ),
    ]


FieldName = Annotated[str | None, Field(default=None, min_length=1, max_length=64)]


class SourceFields(KubeModel):
    """How the rows call what we call so; absent: the same."""

    messages: Annotated[FieldName, Field(description="The conversation of Messages.")]
    prompt: Annotated[FieldName, Field(description="The question of Completion and Preference.")]
    completion: Annotated[FieldName, Field(description="The answer of Completion.")]
    instruction: Annotated[FieldName, Field(description="The task of Instruction.")]
    input: Annotated[FieldName, Field(description="What the task is about; may be empty.")]
    output: Annotated[FieldName, Field(description="The answer of Instruction.")]
    chosen: Annotated[FieldName, Field(description="The better answer of Preference.")]
    rejected: Annotated[FieldName, Field(description="The worse answer of Preference.")]
    category: Annotated[FieldName, Field(description="The row's category, for dataset.checks.categories.")]


class DataSource(KubeModel):
    """One file, or a folder of them: JSON lines, a JSON array or CSV, each plain or gzip (docs/data.md)."""

    uri: Annotated[
        PvcUri,
        Field(
            description="A .jsonl, .json, .csv or .tsv file, also with .gz, or a folder of them: pvc://claim/path. "
            "In a folder with .jsonl files only those are read."
        ),
    ]
    format: Annotated[
        Literal["Auto", "Messages", "Completion", "Instruction", "Preference"],
        Field(
            default="Auto",
            description="Messages: OpenAI chat rows or ShareGPT's. Completion: prompt and completion. Instruction: "
            "instruction, input, output. Preference: chosen and rejected, SFT learns the chosen. Auto: by row.",
        ),
    ]
    fields: Annotated[
        SourceFields | None, Field(default=None, description="The rows' own names for what a format needs.")
    ]


class Splits(KubeModel):
    """How rows are divided; by a keyed hash of the row, so that added rows never move old ones."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        frozen=True,
        extra="ignore",
        json_schema_extra=cel(
            (
                "self.validationPercent + self.testPercent <= 80",
                "validationPercent and testPercent together may be at most 80, so that rows are left to train on",
            )
        ),
    )

    validation_percent: Annotated[
        int, Field(default=10, ge=0, le=50, description="Share of rows that watch the training.")
    ]
    test_percent: Annotated[
        int, Field(default=10, ge=0, le=50, description="Share of rows kept for a HeldOut suite, never trained on.")
    ]
    seed: Annotated[int, Field(default=0, ge=0, le=2_147_483_647, description="Key of the hash.")]


class RequiredCategory(KubeModel):
    """A category that the data must have."""

    name: Annotated[str, Field(min_length=1, max_length=64, description="As rows name it.")]
    min_rows: Annotated[int, Field(default=1, ge=1, le=1_000_000, description="Fewer rows than this are refused.")]


class Categories(KubeModel):
    """What is asked of the categories that rows name under the key `category`."""

    required: Annotated[
        list[RequiredCategory],
        Field(
            default_factory=list,
            max_length=64,
            description="Categories that must be there; too few rows of one are refused.",
            json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
        ),
    ]
    max_percent: Annotated[
        int, Field(default=80, ge=1, le=100, description="A larger share of one category is warned of.")
    ]


_CHECK = "Off, Warn (a finding), Fail (the run ends)."
_ROW_CHECK = "Off, Warn (a finding), Drop (the row goes), Fail (the run ends)."
_PRIVACY_CHECK = "Off, Warn, Redact (a placeholder, the same for one value within a row), Drop, Fail."
Check = Literal["Off", "Warn", "Fail"]
RowCheck = Literal["Off", "Warn", "Drop", "Fail"]
PrivacyCheck = Literal["Off", "Warn", "Redact", "Drop", "Fail"]


class DataChecks(KubeModel):
    """What prepare looks for in rows, and does with those where it is found (docs/data.md)."""

    min_examples: Annotated[
        int, Field(default=50, ge=1, le=1_000_000, description="Fewer training rows than this are refused.")
    ]
    too_long: Annotated[
        Literal["Drop", "Fail"],
        Field(default="Drop", description="What happens to rows over training.maxLength tokens."),
    ]
    max_dropped_percent: Annotated[
        int, Field(default=5, ge=0, le=100, description="More too long, or more invalid rows, are an error.")
    ]
    exact_duplicates: Annotated[
        Literal["Drop", "Fail"], Field(default="Drop", description="What happens to rows that stand there twice.")
    ]
    invalid_rows: Annotated[
        Literal["Drop", "Fail"],
        Field(default="Fail", description="Lines that are no example; dropped ones count for maxDroppedPercent."),
    ]
    secrets: Annotated[
        PrivacyCheck, Field(default="Fail", description=f"Access keys and payment card numbers: {_PRIVACY_CHECK}")
    ]
    personal_data: Annotated[
        PrivacyCheck, Field(default="Warn", description=f"E-mail addresses, phone numbers, IBANs: {_PRIVACY_CHECK}")
    ]
    empty_prompts: Annotated[
        RowCheck, Field(default="Warn", description=f"Answers with nothing before them: {_ROW_CHECK}")
    ]
    min_answer_characters: Annotated[
        int, Field(default=1, ge=1, le=10_000, description="Rows with a shorter answer are dropped.")
    ]
    boilerplate: Annotated[
        RowCheck, Field(default="Warn", description=f'Answers like "As an AI language model": {_ROW_CHECK}')
    ]
    refusals: Annotated[
        RowCheck, Field(default="Warn", description=f'Answers like "I cannot help with that": {_ROW_CHECK}')
    ]
    format_consistency: Annotated[
        Check, Field(default="Warn", description=f"Answers that are JSON only sometimes, or broken JSON: {_CHECK}")
    ]
    conflicting_answers: Annotated[
        Check, Field(default="Warn", description=f"One question with different answers: {_CHECK}")
    ]
    leakage: Annotated[
        RowCheck, Field(default="Warn", description=f"Training rows that repeat held-out ones: {_ROW_CHECK}")
    ]
    length_outliers: Annotated[
        Check, Field(default="Warn", description=f"Answers ten times longer than usual: {_CHECK}")
    ]
    categories: Annotated[
        Categories | None, Field(default=None, description="Needed categories, and the largest share of one.")
    ]


class Dataset(KubeModel):
    """What is learned."""

    sources: Annotated[list[DataSource], Field(min_length=1, max_length=16, description="Files, in this order.")]
    render: Annotated[
        Literal["Chat", "Raw"] | None,
        Field(
            default=None,
            description="Chat: the model's chat template. Raw: text as it is. Absent: Chat for Messages, else Raw.",
        ),
    ]
    splits: Annotated[Splits, Field(default_factory=Splits, description="How rows are divided.")]
    checks: Annotated[DataChecks, Field(default_factory=DataChecks, description="What is refused or dropped.")]


class Peft(KubeModel):
    """The parameter-efficient method; names as in PEFT."""

    type: Annotated[Literal["LoRA"], Field(default="LoRA", description="LoRA in this version.")]
    rank: Annotated[
        Literal[1, 8, 16, 32, 64, 128, 256],
        Field(default=16, description="LoRA rank; the values are those that the engine can serve."),
    ]
    alpha: Annotated[int | None, Field(default=None, ge=1, le=2048, description="LoRA alpha; absent: twice the rank.")]
    dropout: Annotated[
        str,
        Field(
            default="0.05",
            max_length=20,
            description="LoRA dropout.",
            **matches(r"^0(\.[0-9]+)?$", 'must be a decimal from "0" to below 1, in quotes'),
        ),
    ]
    target_modules: Annotated[
        list[Annotated[str, Field(max_length=64, pattern=r"^[A-Za-z0-9_.]+$")]] | None,
        Field(
            default=None,
            min_length=1,
            max_length=32,
            description="Layers by name; absent: every linear one but the head.",
        ),
    ]


_LEARNING_RATE = r"^(auto|[0-9]+(\.[0-9]+)?(e-?[0-9]{1,2})?)$"


class Training(KubeModel):
    """The optimisation."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        frozen=True,
        extra="ignore",
        json_schema_extra=cel(
            (
                "double(self.maxGradNorm) > 0.0",
                'maxGradNorm must be above 0, or no weight ever moves; for example "1.0"',
            )
        ),
    )

    epochs: Annotated[int, Field(default=3, ge=1, le=100, description="Passes over the training rows.")]
    max_steps: Annotated[
        int | None, Field(default=None, ge=1, le=10_000_000, description="Stop after this many optimizer steps.")
    ]
    learning_rate: Annotated[
        str,
        Field(
            default="auto",
            max_length=20,
            pattern=_LEARNING_RATE,
            json_schema_extra=cel(
                (
                    f"self == 'auto' || self.matches(r'{_LEARNING_RATE}') && double(self) > 0.0 && double(self) < 1.0",
                    'must be "auto" or a decimal in quotes between 0 and 1, for example "2e-4"',
                )
            ),
            description='Peak learning rate, quoted: "2e-4"; auto: 2e-4 for LoRA.',
        ),
    ]
    schedule: Annotated[Literal["Cosine", "Linear", "Constant"], Field(default="Cosine", description="After warm-up.")]
    warmup_percent: Annotated[int, Field(default=3, ge=0, le=50, description="Share of the steps that warm up.")]
    weight_decay: Annotated[Decimal, Field(default="0", description="AdamW's weight decay.")]
    max_grad_norm: Annotated[Decimal, Field(default="1.0", description="Gradients are clipped to this norm.")]
    global_batch_size: Annotated[
        int, Field(default=8, ge=1, le=65_536, description="Rows per optimizer step, over all processes.")
    ]
    per_device_batch_size: Annotated[
        int | None, Field(default=None, ge=1, le=4096, description="Rows per forward pass and process; absent: 1.")
    ]
    max_length: Annotated[
        int | None,
        Field(
            default=None,
            ge=16,
            le=1_048_576,
            description="Longest row in tokens; absent: the 99.5th percentile rounded up to 64.",
        ),
    ]
    precision: Annotated[
        Literal["Auto", "FP32", "BF16"],
        Field(default="Auto", description="Compute type; Auto: BF16 on a GPU that has it, else FP32."),
    ]
    gradient_checkpointing: Annotated[bool, Field(default=False, description="Less memory for more compute.")]
    seed: Annotated[int, Field(default=0, ge=0, le=2_147_483_647, description="Seeds order, dropout and new weights.")]
    evaluate_every_steps: Annotated[
        int | None,
        Field(
            default=None,
            ge=1,
            le=1_000_000,
            description="Validation loss every so many steps; absent: ten times a run.",
        ),
    ]


class DeepSpeed(KubeModel):
    """DeepSpeed's ZeRO; without this block several processes use DDP."""

    zero_stage: Annotated[
        Literal[1, 2, 3], Field(default=2, description="What is sharded: optimizer, gradients, weights.")
    ]


class Distributed(KubeModel):
    """The shape of one training attempt."""

    num_proc_per_node: Annotated[
        int, Field(default=1, ge=1, le=16, description="Processes of torchrun in the pod; on GPUs, one per GPU.")
    ]
    resources_per_node: Annotated[
        Resources | None,
        Field(default=None, description="The training pod's resources; absent: the platform's default."),
    ]
    deepspeed: Annotated[DeepSpeed | None, Field(default=None, description="Train by DeepSpeed.")]


class Checkpoints(KubeModel):
    """Saves that a killed pod resumes from."""

    interval_seconds: Annotated[
        int, Field(default=600, ge=1, le=86_400, description="Time between two saves; SIGTERM always saves.")
    ]
    keep: Annotated[int, Field(default=2, ge=1, le=100, description="Complete checkpoints that are kept.")]


class Output(KubeModel):
    """Where the artifact goes."""

    uri: Annotated[
        PvcUri,
        Field(description="The artifact is written to <uri>/<name>-<uid8>/ and never overwritten: pvc://claim/path."),
    ]


class Workspace(KubeModel):
    """Where prepared data and checkpoints live."""

    claim_name: Annotated[ObjectName, Field(description="A PersistentVolumeClaim of this namespace.")]


_BATCH_IS_SHARED = (
    "self.training.globalBatchSize % (self.distributed.numProcPerNode * "
    "(has(self.training.perDeviceBatchSize) ? self.training.perDeviceBatchSize : 1)) == 0"
)
_IMMUTABLE = ("model", "dataset", "method", "peft", "training", "distributed", "checkpoints", "output", "workspace")


class FineTuneJobSpec(KubeModel):
    """What to train, on what, and where the result goes."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        frozen=True,
        extra="ignore",
        json_schema_extra=cel(
            (
                _BATCH_IS_SHARED,
                "training.globalBatchSize must be a multiple of distributed.numProcPerNode times perDeviceBatchSize",
            ),
            *(
                (
                    f"has(self.{f}) == has(oldSelf.{f}) && (!has(self.{f}) || self.{f} == oldSelf.{f})",
                    f"{f} is immutable: a new run is a new FineTuneJob with a new name",
                )
                for f in _IMMUTABLE
            ),
        ),
    )

    model: Annotated[BaseModelRef, Field(description="The base model.")]
    dataset: Annotated[Dataset, Field(description="The data.")]
    method: Annotated[Literal["SFT"], Field(default="SFT", description="Supervised fine-tuning in this version.")]
    peft: Annotated[Peft, Field(default_factory=Peft, description="The parameter-efficient method.")]
    training: Annotated[Training, Field(default_factory=Training, description="The optimisation.")]
    distributed: Annotated[Distributed, Field(default_factory=Distributed, description="The shape of an attempt.")]
    checkpoints: Annotated[Checkpoints, Field(default_factory=Checkpoints, description="Saves to resume from.")]
    output: Annotated[Output, Field(description="Where the artifact goes.")]
    workspace: Annotated[
        Workspace | None,
        Field(default=None, description="Storage for data and checkpoints; absent: the output's claim."),
    ]
    scheduling: Annotated[Scheduling | None, Field(default=None, description="Where the pods may run.")]
    active_deadline_seconds: Annotated[
        int | None, Field(default=None, ge=1, le=31_536_000, description="Longest run time of one attempt.")
    ]
    backoff_limit: Annotated[
        int, Field(default=3, ge=0, le=100, description="Attempts lost to the run's own errors before it is given up.")
    ]
    suspend: Annotated[
        bool,
        Field(default=False, description="True stops the run and keeps its work; false goes on from the checkpoint."),
    ]
    ttl_seconds_after_finished: Annotated[
        int | None, Field(default=None, ge=0, le=31_536_000, description="Then Jobs and pods go; this object stays.")
    ]


class Progress(KubeModel):
    """Where the training stands; for display only."""

    step: Annotated[int, Field(default=0, description="Optimizer steps done.")]
    of: Annotated[int, Field(default=0, description="Optimizer steps in all.")]
    percent: Annotated[int, Field(default=0, ge=0, le=100, description="Share of the steps done.")]
    epoch: Annotated[str | None, Field(default=None, max_length=16, description="Passes over the data, as a decimal.")]
    loss: Annotated[str | None, Field(default=None, max_length=16, description="Newest training loss.")]
    validation_loss: Annotated[str | None, Field(default=None, max_length=16, description="Newest validation loss.")]
    tokens_per_second: Annotated[str | None, Field(default=None, max_length=16, description="Trained tokens a second.")]
    estimated_remaining_seconds: Annotated[int | None, Field(default=None, description="Time left, estimated.")]
    last_updated: Annotated[Timestamp | None, Field(default=None, description="When the pod was last read.")]


class DatasetStatus(KubeModel):
    """What prepare found."""

    digest: Annotated[str | None, Field(default=None, max_length=80, description="sha256 of the prepared set.")]
    rows: Annotated[int, Field(default=0, description="Rows read.")]
    train: Annotated[int, Field(default=0, description="Rows to train on.")]
    validation: Annotated[int, Field(default=0, description="Rows that watch the training.")]
    test: Annotated[int, Field(default=0, description="Rows held out.")]
    duplicates: Annotated[int, Field(default=0, description="Rows dropped as exact duplicates.")]
    too_long: Annotated[int, Field(default=0, description="Rows dropped as too long.")]
    train_tokens: Annotated[int, Field(default=0, description="Tokens in one epoch.")]
    max_length: Annotated[int, Field(default=0, description="Longest row allowed, in tokens.")]
    findings: Annotated[
        list[Annotated[str, Field(max_length=256)]],
        Field(default_factory=list, max_length=3, description="The worst three; report.json has all."),
    ]
    report_uri: Annotated[MadeUri | None, Field(default=None, description="report.json.")]
    test_uri: Annotated[MadeUri | None, Field(default=None, description="The held-out rows.")]


class ArtifactStatus(KubeModel):
    """What came out."""

    uri: Annotated[MadeUri, Field(description="The artifact's folder.")]
    digest: Annotated[
        str, Field(max_length=80, description="modelDigest: sha256 of what shapes answers (docs/artifact.md).")
    ]
    kind: Annotated[Literal["Adapter"], Field(default="Adapter", description="An adapter for the base model.")]
    base_model_uri: Annotated[str, Field(max_length=512, description="The base it belongs to.")]
    base_model_digest: Annotated[str, Field(max_length=80, description="The base's digest.")]


class Cost(KubeModel):
    """What it took."""

    gpu_seconds: Annotated[int, Field(default=0, description="Requested GPUs times seconds, over all attempts.")]
    cpu_seconds: Annotated[
        int, Field(default=0, description="CPUs times seconds, over all attempts, where no GPU is requested.")
    ]
    counted_pods: Annotated[
        list[Annotated[str, Field(max_length=64)]],
        Field(default_factory=list, max_length=256, description="UIDs of the ended pods that are in the sums."),
    ]


class Lineage(KubeModel):
    """Where the artifact comes from."""

    dataset_digest: Annotated[str | None, Field(default=None, max_length=80, description="The prepared set.")]
    base_model_digest: Annotated[str | None, Field(default=None, max_length=80, description="The base model.")]
    config_digest: Annotated[str | None, Field(default=None, max_length=80, description="The training configuration.")]
    image: Annotated[str | None, Field(default=None, max_length=512, description="The trainer image.")]


class Attempt(KubeModel):
    """One training Job."""

    number: Annotated[int, Field(description="Counts from 1.")]
    job: Annotated[str, Field(max_length=63, description="The Job's name.")]
    outcome: Annotated[
        Literal["Running", "Succeeded", "UserError", "Infrastructure", "Suspended"],
        Field(description="Only UserError counts against backoffLimit."),
    ]
    message: Annotated[str | None, Field(default=None, max_length=1024, description="Why it ended.")]


class FineTuneJobStatus(KubeModel):
    """What is known of the run; conditions DatasetReady, Training, Succeeded, and Reconciling, Stalled when True."""

    observed_generation: Annotated[int, Field(default=-1, description="The spec's generation that this describes.")]
    conditions: Annotated[
        list[Condition],
        Field(
            default_factory=list,
            max_length=16,
            description="See docs/conditions.md.",
            json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
        ),
    ]
    progress: Annotated[Progress | None, Field(default=None, description="Where the training stands.")]
    dataset: Annotated[DatasetStatus | None, Field(default=None, description="What prepare found.")]
    attempts: Annotated[
        list[Attempt],
        Field(
            default_factory=list,
            max_length=128,
            description="Training Jobs, oldest first.",
            json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["number"]},
        ),
    ]
    resume_count: Annotated[int, Field(default=0, description="Attempts after the first.")]
    artifact: Annotated[ArtifactStatus | None, Field(default=None, description="What came out.")]
    cost: Annotated[Cost | None, Field(default=None, description="What it took.")]
    lineage: Annotated[Lineage | None, Field(default=None, description="Where it comes from.")]
    error: Annotated[ErrorStatus | None, Field(default=None, description="What went wrong.")]
    completion_time: Annotated[Timestamp | None, Field(default=None, description="When it ended.")]
