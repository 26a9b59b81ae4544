"""The run configuration that the operator writes and the trainer reads, and the result that comes back.

No torch and no kopf here: this is the only module that the operator imports from the trainer. A run gets its
configuration as JSON in the environment variable `LUTHIER_CONFIG`; it leaves a `StepResult` in
`result_path` (the file survives the pod) and, the same text, in the container's termination message.
Paths are inside the container: the operator has resolved every URI to a mounted volume.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

CONFIG_ENV = "LUTHIER_CONFIG"
TERMINATION_LOG = "/dev/termination-log"
TERMINATION_LIMIT = 4096
"""Bytes that Kubernetes keeps of a termination message."""

EXIT_OK = 0
EXIT_INTERNAL = 1
EXIT_USER_ERROR = 10
EXIT_PREEMPTED = 20
PROGRESS_PORT = 8080
"""`/progress` (JSON, `ProgressReport`) and `/metrics` of a training pod."""


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Source(_Model):
    """One data source. `path` is a file or a folder of them; `uri` is what errors call it."""

    path: str
    uri: str
    format: Literal["Auto", "Messages", "Completion", "Instruction", "Preference"] = "Auto"
    fields: dict[str, str] = {}
    """Our key → the rows' key."""


Check = Literal["Off", "Warn", "Fail"]
RowCheck = Literal["Off", "Warn", "Drop", "Fail"]
PrivacyCheck = Literal["Off", "Warn", "Redact", "Drop", "Fail"]


class RequiredCategory(_Model):
    """A category that has to be there."""

    name: str
    min_rows: int = 1


class CategoriesConfig(_Model):
    """What is asked of the categories that rows name."""

    required: tuple[RequiredCategory, ...] = ()
    max_percent: int = 80


class ChecksConfig(_Model):
    """What is looked for in rows, and what happens to those where it is found."""

    invalid_rows: Literal["Drop", "Fail"] = "Fail"
    secrets: PrivacyCheck = "Fail"
    personal_data: PrivacyCheck = "Warn"
    empty_prompts: RowCheck = "Warn"
    min_answer_characters: int = 1
    boilerplate: RowCheck = "Warn"
    refusals: RowCheck = "Warn"
    format_consistency: Check = "Warn"
    conflicting_answers: Check = "Warn"
    leakage: RowCheck = "Warn"
    length_outliers: Check = "Warn"
    categories: CategoriesConfig | None = None


class PrepareConfig(_Model):
    """Input of `prepare`."""

    job_uid: str
    model_path: str
    model_uri: str
    accepted_licence: str | None = None
    sources: tuple[Source, ...]
    render: Literal["Chat", "Raw"] | None = None
    validation_percent: int = 10
    test_percent: int = 10
    split_seed: int = 0
    min_examples: int = 50
    too_long: Literal["Drop", "Fail"] = "Drop"
    max_dropped_percent: int = 5
    exact_duplicates: Literal["Drop", "Fail"] = "Drop"
    checks: ChecksConfig = ChecksConfig()
    max_length: int | None = None
    data_dir: str
    """Where shards, report.json, test.jsonl go; complete or absent (marker written last)."""
    artifact_dir: str
    """Where the training will publish; a complete artifact of the same inputs there, or beside it, means: reused."""
    training_digest: str
    """sha256 of the training part of the spec; with data and base it identifies the run's inputs."""
    result_path: str


class DeepSpeedConfig(_Model):
    """Use DeepSpeed with this ZeRO stage."""

    zero_stage: Literal[1, 2, 3] = 2


class TrainConfig(_Model):
    """Input of `train`."""

    job_name: str
    job_uid: str
    attempt: int
    model_path: str
    model_uri: str
    base_digest: str
    data_dir: str
    dataset_digest: str
    training_digest: str
    checkpoint_dir: str
    artifact_dir: str
    result_path: str
    rank: int = 16
    alpha: int = 32
    dropout: float = 0.05
    target_modules: tuple[str, ...] | None = None
    epochs: int = 3
    max_steps: int | None = None
    learning_rate: float = 2e-4
    schedule: Literal["Cosine", "Linear", "Constant"] = "Cosine"
    warmup_percent: int = 3
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    global_batch_size: int = 8
    per_device_batch_size: int = 1
    precision: Literal["Auto", "FP32", "BF16"] = "Auto"
    gradient_checkpointing: bool = False
    seed: int = 0
    evaluate_every_steps: int | None = None
    checkpoint_interval_seconds: int = 600
    checkpoint_keep: int = 2
    num_processes: int = 1
    deepspeed: DeepSpeedConfig | None = None
    image: str = ""
    progress_port: int = PROGRESS_PORT


class ReportConfig(_Model):
    """Input of `report`: re-read the result file of a step whose pod is gone, and report it again."""

    result_path: str


class StepResult(_Model):
    """How a step ended; at most 4,096 bytes as JSON.

    `details` by step: prepare → `PrepareDetails`, train → `TrainDetails`, evaluate → `luthier_eval.config.EvalDetails`.
    """

    outcome: Literal["Succeeded", "UserError", "Preempted", "InternalError"]
    reason: str
    """PascalCase; becomes the condition's reason."""
    message: str
    field: str | None = None
    details: dict[str, Any] = {}


class ArtifactDetails(_Model):
    """A published artifact."""

    path: str
    digest: str
    base_digest: str


class PrepareDetails(_Model):
    """What prepare found."""

    dataset_digest: str
    base_digest: str
    rows: int
    train: int
    validation: int
    test: int
    duplicates: int
    too_long: int
    train_tokens: int
    max_length: int
    findings: tuple[str, ...] = ()
    """The worst three in words; report.json has all."""
    reused: ArtifactDetails | None = None
    """A complete artifact of exactly these inputs that already stood in `artifact_dir` or beside it."""


class TrainDetails(_Model):
    """What training made."""

    artifact: ArtifactDetails
    steps: int
    loss: float | None
    validation_loss: float | None
    seconds: float
    resumed_from_step: int = 0


class ProgressReport(_Model):
    """The reply of `/progress`."""

    step: int
    of: int
    epoch: float
    loss: float | None = None
    validation_loss: float | None = None
    tokens_per_second: float | None = None
    estimated_remaining_seconds: int | None = None
    phase: Literal["Loading", "Training", "Publishing", "Done"] = "Loading"
