"""The Jobs of a FineTuneJob, as manifests, and the places it reads and writes: pure.

When each is made is for `decide`. The trainer's configuration is its own model, so that what is written here and
what is read there cannot differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import BaseModel

from luthier.api.base import Resources
from luthier.api.finetunejob import FineTuneJobSpec, FineTuneJobStatus
from luthier.jobs import failure_rules
from luthier.naming import ATTEMPT_LABEL, digest_json
from luthier.plan import Json, Manifest
from luthier.podspec import build_container, build_job, build_pod_spec, choose_resources, whole_cpus
from luthier.settings import Settings
from luthier.volumes import Location, claim_mounts, claim_volumes, locate, scratch_mounts, scratch_volumes
from luthier_trainer.config import (
    CONFIG_ENV,
    PROGRESS_PORT,
    ChecksConfig,
    DeepSpeedConfig,
    PrepareConfig,
    Source,
    TrainConfig,
)

PREPARE_ROLE, TRAIN_ROLE = "prepare", "train"
PREPARE_CONTAINER, TRAINER_CONTAINER = "prepare", "trainer"
AUTO_LEARNING_RATE = {"LoRA": "2e-4"}
TRAINING_GRACE_SECONDS = 120
"""For the checkpoint on SIGTERM."""
_GRACE_SECONDS = 30


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where a run reads and writes."""

    model: Location
    sources: tuple[Location, ...]
    run: Location
    """Of this run alone: prepared data, checkpoints, results of steps."""
    artifact: Location

    @property
    def data(self) -> Location:
        return self.run.child("data")

    @property
    def claims(self) -> tuple[str, ...]:
        """Every claim that must exist, in order of name."""
        return tuple(sorted({place.claim for place in (self.model, *self.sources, self.run, self.artifact)}))

    def result(self, step: str) -> Location:
        """Return where a step leaves its result: one file per attempt, so that none reads an older one's."""
        return self.run.child(f"{step}-result.json")


def find_places(job: Json, spec: FineTuneJobSpec) -> Places:
    """Return the places of a run; its name and UID keep it apart from all others."""
    meta = job["metadata"]
    folder = f"{meta['name']}-{meta['uid'][:8]}"
    output = locate(spec.output.uri)
    workspace = spec.workspace.claim_name if spec.workspace else output.claim
    return Places(
        model=locate(spec.model.uri),
        sources=tuple(locate(source.uri) for source in spec.dataset.sources),
        run=Location(claim=workspace, path=f"luthier/{folder}"),
        artifact=output.child(folder),
    )


def digest_training(spec: FineTuneJobSpec) -> str:
    """Return the digest of what shapes the training beside data and base model."""
    deepspeed = spec.distributed.deepspeed
    return digest_json(
        {
            "method": spec.method,
            "peft": spec.peft.to_json(),
            "training": spec.training.to_json(),
            "deepspeed": deepspeed.to_json() if deepspeed else None,
        }
    )


def step_name(role: str, number: int) -> str:
    """Return a step's name, which is the suffix of its Job: `data-1`, `train-2`."""
    return f"{'data' if role == PREPARE_ROLE else role}-{number}"


def build_prepare_job(job: Json, spec: FineTuneJobSpec, settings: Settings, *, number: int) -> Manifest:
    """Return the data Job: validates, renders and splits on CPUs, before any GPU is asked for."""
    places = find_places(job, spec)
    step = step_name(PREPARE_ROLE, number)
    dataset, checks = spec.dataset, spec.dataset.checks
    config = PrepareConfig(
        job_uid=job["metadata"]["uid"],
        model_path=places.model.container_path,
        model_uri=spec.model.uri,
        accepted_licence=spec.model.licence,
        sources=tuple(
            Source(
                path=place.container_path,
                uri=source.uri,
                format=source.format,
                fields=source.fields.model_dump(exclude_none=True) if source.fields else {},
            )
            for place, source in zip(places.sources, dataset.sources, strict=True)
        ),
        render=dataset.render,
        validation_percent=dataset.splits.validation_percent,
        test_percent=dataset.splits.test_percent,
        split_seed=dataset.splits.seed,
        min_examples=checks.min_examples,
        too_long=checks.too_long,
        max_dropped_percent=checks.max_dropped_percent,
        exact_duplicates=checks.exact_duplicates,
        checks=ChecksConfig.model_validate(checks.model_dump(include=set(ChecksConfig.model_fields))),
        max_length=spec.training.max_length,
        data_dir=places.data.container_path,
        artifact_dir=places.artifact.container_path,
        training_digest=digest_training(spec),
        result_path=places.result(step).container_path,
    )
    resources = settings.default_prepare_resources
    container = build_container(
        name=PREPARE_CONTAINER,
        image=settings.trainer_image,
        image_pull_policy=settings.image_pull_policy,
        command=["python", "-m", "luthier_trainer", "prepare"],
        env=_env(config, settings, resources, processes=1),
        resources=resources,
        mounts=[*claim_mounts(places.claims, writable=[places.run.claim]), *scratch_mounts()],
    )
    return build_job(
        job,
        step,
        role=PREPARE_ROLE,
        labels={ATTEMPT_LABEL: str(number)},
        failure_rules=failure_rules(PREPARE_CONTAINER),
        pod_spec=build_pod_spec(
            containers=[container],
            volumes=[*claim_volumes(places.claims), *scratch_volumes()],
            scheduling=spec.scheduling,
            grace_seconds=_GRACE_SECONDS,
        ),
    )


def training_resources(spec: FineTuneJobSpec, settings: Settings) -> Resources:
    """Return the resources of a training pod."""
    return choose_resources(spec.distributed.resources_per_node, settings.default_training_resources)


def build_train_job(
    job: Json, spec: FineTuneJobSpec, status: FineTuneJobStatus, settings: Settings, *, number: int
) -> Manifest:
    """Return a training attempt. Paths of data and checkpoints are the run's: the next attempt goes on from there."""
    places = find_places(job, spec)
    resources = training_resources(spec, settings)
    written = [places.run.claim, places.artifact.claim]
    read = [places.model.claim]
    container = build_container(
        name=TRAINER_CONTAINER,
        image=settings.trainer_image,
        image_pull_policy=settings.image_pull_policy,
        command=["python", "-m", "luthier_trainer", "train"],
        env=_env(
            build_train_config(job, spec, status, settings, number=number),
            settings,
            resources,
            processes=spec.distributed.num_proc_per_node,
        ),
        resources=resources,
        mounts=[*claim_mounts(read, writable=written), *scratch_mounts(shm=True)],
        ports=[{"name": "progress", "containerPort": PROGRESS_PORT, "protocol": "TCP"}],
    )
    return build_job(
        job,
        step_name(TRAIN_ROLE, number),
        role=TRAIN_ROLE,
        labels={ATTEMPT_LABEL: str(number)},
        failure_rules=failure_rules(TRAINER_CONTAINER),
        deadline_seconds=spec.active_deadline_seconds,
        indexed=True,
        pod_spec=build_pod_spec(
            containers=[container],
            volumes=[*claim_volumes([*read, *written]), *scratch_volumes(shm=True)],
            scheduling=spec.scheduling,
            grace_seconds=TRAINING_GRACE_SECONDS,
        ),
    )


def build_train_config(
    job: Json, spec: FineTuneJobSpec, status: FineTuneJobStatus, settings: Settings, *, number: int
) -> TrainConfig:
    """Return what an attempt is told. Digests come from status: an operator upgrade must not orphan checkpoints."""
    places, training, peft = find_places(job, spec), spec.training, spec.peft
    deepspeed = spec.distributed.deepspeed
    rate = AUTO_LEARNING_RATE[peft.type] if training.learning_rate == "auto" else training.learning_rate
    lineage = status.lineage
    return TrainConfig(
        job_name=job["metadata"]["name"],
        job_uid=job["metadata"]["uid"],
        attempt=number,
        model_path=places.model.container_path,
        model_uri=spec.model.uri,
        base_digest=(lineage.base_model_digest if lineage else None) or "",
        data_dir=places.data.container_path,
        dataset_digest=(lineage.dataset_digest if lineage else None) or "",
        training_digest=(lineage.config_digest if lineage else None) or digest_training(spec),
        checkpoint_dir=places.run.child("checkpoints").container_path,
        artifact_dir=places.artifact.container_path,
        result_path=places.result(step_name(TRAIN_ROLE, number)).container_path,
        rank=peft.rank,
        alpha=peft.alpha or 2 * peft.rank,
        dropout=float(peft.dropout),
        target_modules=tuple(peft.target_modules) if peft.target_modules else None,
        epochs=training.epochs,
        max_steps=training.max_steps,
        learning_rate=float(rate),
        schedule=training.schedule,
        warmup_percent=training.warmup_percent,
        weight_decay=float(training.weight_decay),
        max_grad_norm=float(training.max_grad_norm),
        global_batch_size=training.global_batch_size,
        per_device_batch_size=training.per_device_batch_size or 1,
        precision=training.precision,
        gradient_checkpointing=training.gradient_checkpointing,
        seed=training.seed,
        evaluate_every_steps=training.evaluate_every_steps,
        checkpoint_interval_seconds=spec.checkpoints.interval_seconds,
        checkpoint_keep=spec.checkpoints.keep,
        num_processes=spec.distributed.num_proc_per_node,
        deepspeed=DeepSpeedConfig(zero_stage=deepspeed.zero_stage) if deepspeed else None,
        image=settings.trainer_image,
    )


def _env(config: BaseModel, settings: Settings, resources: Resources, *, processes: int) -> Mapping[str, str]:
    threads = settings.omp_num_threads or max(1, whole_cpus(resources) // processes)
    return {
        CONFIG_ENV: config.model_dump_json(),
        # The root is read-only, and every model comes from a claim.
        "HOME": "/tmp",
        # torch asks for the user's name, and the image's user table need not have this UID.
        "USER": "luthier",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": str(threads),
    }
