"""One training process, started by torchrun: load, train, publish. Rank 0 leaves the run's outcome.

Read it from `train` downwards; what each step means in detail stands in the module that it calls.
"""

from __future__ import annotations

import hashlib
import logging
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier_trainer import result
from luthier_trainer.config import CONFIG_ENV, StepResult, TrainConfig, TrainDetails
from luthier_trainer.errors import Superseded, UserError, writing_to
from luthier_trainer.files import canonical_json
from luthier_trainer.prepare import complete_details
from luthier_trainer.rundir import RunDir, die_with_parent

if TYPE_CHECKING:
    from luthier_trainer.checkpoint import CheckpointStore
    from luthier_trainer.loop import AdapterTrainer

_FREE_TO_CHANGE = {
    "attempt", "model_path", "data_dir", "checkpoint_dir", "artifact_dir", "result_path", "image", "progress_port",
    "checkpoint_interval_seconds", "checkpoint_keep", "job_name",
    "num_processes", "deepspeed",  # which a checkpoint's own marker tells: refused by name, not passed over
}  # fmt: skip
logger = logging.getLogger(__name__)


def train(config: TrainConfig, run: RunDir) -> StepResult | None:
    """Run one attempt: from the newest checkpoint to the published artifact, or to the next stop.

    Returns:
        How it ended; None in all processes but the first.

    Raises:
        UserError: Data, shape, numbers or storage do not allow the run.
        Superseded: A newer attempt has taken over.
    """
    check_world_size(config)
    check_data(config)
    # torch and transformers take seconds to import; what is above fails without them.
    import torch
    from transformers import set_seed

    from luthier_trainer import data, loop, model, processes
    from luthier_trainer.checkpoint import CheckpointStore

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    started = time.monotonic()
    rows = data.Shard(Path(config.data_dir) / "train.safetensors")
    steps = data.total_steps(
        rows=len(rows), epochs=config.epochs, batch_size=config.global_batch_size, max_steps=config.max_steps
    )
    order = data.run_order(
        rows,
        steps=steps,
        batch_size=config.global_batch_size,
        seed=config.seed,
        group_by_length=config.per_device_batch_size > 1,
    )
    store = CheckpointStore(
        folder=Path(config.checkpoint_dir),
        attempt=config.attempt,
        job_uid=config.job_uid,
        config_digest=config_digest(config),
        keep=config.checkpoint_keep,
    )
    if is_first_rank():
        with writing_to(store.folder, what="the claim on the run", field="workspace.claimName"):
            store.claim()
    set_seed(config.seed)
    arguments = loop.training_arguments(config, steps=steps, store=store)  # first: ZeRO-3 shards while loading
    processes.join(arguments.device, use_deepspeed=config.deepspeed is not None)
    trainer = loop.AdapterTrainer(
        config,
        model.load_model(config),
        arguments=arguments,
        rows=data.OrderedRows(rows, order),
        validation=data.Shard(Path(config.data_dir) / "validation.safetensors"),
        store=store,
        run=run,
    )
    processes.barrier()  # nobody reads checkpoints before rank 0 has cleaned up
    newest = store.newest(world_size=config.num_processes, zero_stage=loop.zero_stage(config))
    resumed_from = newest.marker.step if newest else 0
    if processes.any_of([run.is_stop_requested()], arguments.device)[0]:
        return _preempted(resumed_from, steps)
    trainer.train(resume_from_checkpoint=str(newest.path) if newest else None)
    if trainer.watch.stopped:
        return _preempted(trainer.state.global_step, steps)
    return _finish(config, trainer, store, seconds=time.monotonic() - started, resumed_from=resumed_from)


def check_world_size(config: TrainConfig) -> None:
    """Refuse a gang of another size than asked for: the batch would silently be another."""
    actual = int(os.environ["WORLD_SIZE"])
    if actual != config.num_processes:
        raise UserError(
            "WrongWorldSize",
            f"{actual} training processes were started, and distributed.numProcPerNode asks for {config.num_processes}",
            field="distributed.numProcPerNode",
        )


def check_data(config: TrainConfig) -> None:
    """Refuse data that is not whole, not what the run was started for, or empty."""
    details = complete_details(Path(config.data_dir))
    if details is None:
        raise UserError("DataNotPrepared", f"{config.data_dir} holds no complete prepared data", field="dataset")
    if details.dataset_digest != config.dataset_digest:
        raise UserError(
            "DatasetChanged",
            f"{config.data_dir} holds {details.dataset_digest}, and the run is for {config.dataset_digest}; "
            "start a new FineTuneJob for changed data",
            field="dataset.sources",
        )
    if details.train == 0:
        raise UserError("DatasetEmpty", "no rows to train on", field="dataset.sources")


def config_digest(config: TrainConfig) -> str:
    """Digest all that shapes the weights: a checkpoint of another digest is not resumed from.

    Values that are the default do not count: a field that a later version adds must not orphan a run's checkpoints.
    """
    shape = config.model_dump(mode="json", exclude=_FREE_TO_CHANGE, exclude_defaults=True)
    return "sha256:" + hashlib.sha256(canonical_json(shape)).hexdigest()


def is_first_rank() -> bool:
    return os.environ["RANK"] == "0"


def _preempted(step: int, steps: int) -> StepResult:
    saved = "a checkpoint is saved" if step else "nothing was trained yet"
    return StepResult(outcome="Preempted", reason="Preempted", message=f"stopped at step {step} of {steps}; {saved}")


def _finish(
    config: TrainConfig, trainer: AdapterTrainer, store: CheckpointStore, *, seconds: float, resumed_from: int
) -> StepResult | None:
    """Publish; all processes take part in collecting the weights, rank 0 does the rest."""
    from luthier_trainer import processes
    from luthier_trainer.publish import publish, remove_stale_stagings, staging_folder

    trainer.watch.report(trainer.state, phase="Publishing")
    staging = staging_folder(config)
    with writing_to(staging.parent, what="the artifact", field="output.uri"):
        if is_first_rank():
            store.check_claim()  # what is removed next is no living attempt's
            remove_stale_stagings(config)
            staging.mkdir(parents=True)
        processes.barrier()
        trainer.save_model(str(staging / ".weights"))
        processes.barrier()
        if not is_first_rank():
            return None
        metrics = {
            "steps": trainer.state.global_step,
            "loss": _newest(trainer.state.log_history, "loss"),
            "validation_loss": _newest(trainer.state.log_history, "eval_loss"),
            "seconds": round(seconds, 1),
            "resumed_from_step": resumed_from,
        }
        store.check_claim()
        artifact = publish(config, staging / ".weights", metrics=metrics, log_history=trainer.state.log_history)
    trainer.watch.report(trainer.state, phase="Done")
    details = TrainDetails.model_validate({"artifact": artifact, **metrics})
    return StepResult(
        outcome="Succeeded",
        reason="Trained",
        message=f"{details.steps} steps; published {artifact.digest}",
        details=details.model_dump(mode="json"),
    )


def _newest(log_history: list[dict[str, Any]], name: str) -> float | None:
    return next((float(entry[name]) for entry in reversed(log_history) if name in entry), None)


def main() -> int:
    """Train, and leave the outcome where the wrapper finds it."""
    die_with_parent()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    rank, run = int(os.environ["RANK"]), RunDir.from_environment()
    result.tell_crashes(lambda error: run.write_outcome(rank, describe_crash(error)))
    try:
        outcome = train(TrainConfig.model_validate_json(os.environ[CONFIG_ENV]), run)
    except UserError as error:
        outcome = result.from_user_error(error)
    except Superseded as error:
        outcome = result.internal_error("Superseded", str(error))
    if outcome is None:
        return 0
    run.write_outcome(rank, outcome)
    return result.exit_code(outcome)


def describe_crash(error: BaseException) -> StepResult:
    """Tell running out of memory, which a smaller batch mends, from everything else."""
    text = f"{type(error).__name__}: {error}"
    if type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in text:
        message = f"{text}; lower training.perDeviceBatchSize or maxLength, or set gradientCheckpointing"
        return result.from_user_error(UserError("OutOfMemory", message, field="training.perDeviceBatchSize"))
    if type(error).__name__ == "DistBackendError" or ("gloo" in text and "onnection" in text):
        return result.internal_error("WorkerLost", f"another training process was lost: {text}")
    return result.internal_error("TrainingCrashed", text)


if __name__ == "__main__":
    sys.exit(main())
