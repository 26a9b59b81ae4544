"""`train`: the container's first process. Starts torchrun, answers for the run, and has the last word on how it ended.

It imports no torch, so that its SIGTERM handler stands within a second of the start. SIGTERM becomes a stop file; the
workers save and end by themselves. Outcomes are files too (`rundir`): torchrun turns every exit code into 1.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from luthier_trainer import monitor, result
from luthier_trainer.base_model import open_base_model
from luthier_trainer.config import CONFIG_ENV, StepResult, TrainConfig, TrainDetails
from luthier_trainer.errors import UserError, writing_to
from luthier_trainer.published import find_artifact, read_manifest, refuse_occupied
from luthier_trainer.rundir import RUN_DIR_ENV, RunDir, die_with_parent

_OOM_EVENTS = Path("/sys/fs/cgroup/memory.events")
logger = logging.getLogger(__name__)


def launch(config: TrainConfig) -> int:
    """Run a training attempt to its end and return the exit code."""
    run = RunDir(path=Path(tempfile.mkdtemp(prefix="luthier-")))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: run.request_stop())
    result_path = Path(config.result_path)
    try:
        with writing_to(result_path.parent, what="the result", field="workspace.claimName"):
            result_path.unlink(missing_ok=True)  # an earlier attempt's word
        check_shape(config)
        outcome = _already_published(config) or _train(config, run)
    except UserError as error:
        outcome = result.from_user_error(error)
    shutil.rmtree(run.path)
    return result.publish_result(outcome, result_path)


def check_shape(config: TrainConfig) -> None:
    """Refuse a batch that the processes can't share evenly, before anything is loaded."""
    rows = config.num_processes * config.per_device_batch_size
    if config.global_batch_size % rows:
        raise UserError(
            "BatchNotDivisible",
            f"training.globalBatchSize is {config.global_batch_size}, which {config.num_processes} processes with "
            f"perDeviceBatchSize {config.per_device_batch_size} can't share; take a multiple of {rows}",
            field="training.globalBatchSize",
        )


def check_base(config: TrainConfig) -> None:
    """Refuse a base that is not the one the data was prepared for: the artifact would name another than it was made on.

    Its files are checked anew, since nobody held the claim between the two steps.
    """
    found = open_base_model(Path(config.model_path), config.model_uri).digest
    if found != config.base_digest:
        raise UserError(
            "ModelChanged",
            f"{config.model_uri} is now {found}, and the data was prepared for {config.base_digest}; put the files "
            "back, or start a new FineTuneJob",
            field="model.uri",
        )


def _already_published(config: TrainConfig) -> StepResult | None:
    """Report the artifact of an attempt that was lost after publishing and before its last word."""
    folder = Path(config.artifact_dir)
    artifact = find_artifact(
        folder, dataset=config.dataset_digest, training=config.training_digest, base=config.base_digest
    )
    if artifact is None:
        refuse_occupied(folder)
        return None
    manifest = read_manifest(folder)
    metrics = manifest.metrics if manifest else {}
    details = TrainDetails.model_validate({"artifact": artifact, **metrics})
    return StepResult(
        outcome="Succeeded",
        reason="AlreadyPublished",
        message=f"an earlier attempt had published {artifact.digest}",
        details=details.model_dump(mode="json"),
    )


def _train(config: TrainConfig, run: RunDir) -> StepResult:
    server = monitor.serve(run, config.progress_port)
    logger.info("progress on port %d", server.server_port)
    check_base(config)
    return _run_workers(config, run)


def _run_workers(config: TrainConfig, run: RunDir) -> StepResult:
    # A session of its own: a terminal's Ctrl-C must reach this process only, or torchrun would kill the workers.
    process = subprocess.Popen(
        _command(config), env=_environment(config, run), start_new_session=True, preexec_fn=die_with_parent
    )
    code = process.wait()
    if (outcome := run.read_outcome()) is not None:
        return outcome
    if run.is_stop_requested():
        return StepResult(outcome="Preempted", reason="Preempted", message="stopped before the first step")
    if _was_out_of_memory():
        return result.internal_error("OutOfMemory", "a training process was killed: the pod's memory limit is too low")
    return result.internal_error("WorkerLost", f"a training process was lost (torchrun: {code}); see the pod's log")


def _command(config: TrainConfig) -> list[str]:
    # One node: its own name need not resolve, and asking for it can take minutes where no name server answers.
    local = ["--standalone", "--local-addr", "127.0.0.1", "--max-restarts", "0"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", *local]
    return [*torchrun, "--nproc-per-node", str(config.num_processes), "-m", "luthier_trainer.worker"]


def _environment(config: TrainConfig, run: RunDir) -> dict[str, str]:
    return {
        # One thread a process unless the pod's limit says more; too many wait for each other on shared cores.
        "OMP_NUM_THREADS": "1",
        **os.environ,
        CONFIG_ENV: config.model_dump_json(),
        RUN_DIR_ENV: str(run.path),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }


def _was_out_of_memory() -> bool:
    """Tell whether the kernel killed one of the container's processes for its memory."""
    try:
        events = dict(line.split() for line in _OOM_EVENTS.read_text().splitlines())
    except (OSError, ValueError):
        return False
    return int(events.get("oom_kill", "0")) > 0
