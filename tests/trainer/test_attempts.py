"""Whole attempts as a pod runs them: wrapper, torchrun, workers; killed, stopped, several, by DeepSpeed."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

import luthier_trainer
from luthier_trainer.checkpoint import CLAIM
from luthier_trainer.config import CONFIG_ENV, ProgressReport, StepResult, TrainConfig
from trainer.samples import read_log

PACKAGE_ROOT = Path(luthier_trainer.__file__).parents[1]
DEADLINE_SECONDS = 600.0
RECIPE: dict[str, Any] = {"max_steps": None, "epochs": 6, "dropout": 0.0}


class Attempt:
    """A running `python -m luthier_trainer train`."""

    def __init__(self, config: TrainConfig, folder: Path) -> None:
        self.config = config
        self.termination_log = folder / f"termination-log-{config.attempt}"
        self.termination_log.touch()
        self._log = (folder / f"log-{config.attempt}").open("w+")
        env = {
            **os.environ,
            "PYTHONPATH": str(PACKAGE_ROOT),
            CONFIG_ENV: config.model_dump_json(),
            "LUTHIER_TERMINATION_LOG": str(self.termination_log),
            "OMP_NUM_THREADS": "1",
        }
        command = [sys.executable, "-m", "luthier_trainer", "train"]
        self.process = subprocess.Popen(command, env=env, stdout=self._log, stderr=subprocess.STDOUT)

    def wait(self) -> StepResult:
        """Wait for the end; the two copies of the result and the exit code must agree."""
        code = self.process.wait(DEADLINE_SECONDS)
        text = self.termination_log.read_text()
        assert text, self.log()
        assert Path(self.config.result_path).read_text() == text
        result = StepResult.model_validate_json(text)
        codes = {"Succeeded": 0, "InternalError": 1, "UserError": 10, "Preempted": 20}
        assert code == codes[result.outcome], self.log()
        return result

    def log(self) -> str:
        self._log.flush()
        return Path(self._log.name).read_text()

    def wait_for_checkpoint(self, *, newer_than: int = 0) -> int:
        """Wait until a complete checkpoint beyond this step stands; return its step."""
        folder = Path(self.config.checkpoint_dir)

        def newest() -> int:
            return max((int(p.parent.name[5:].split(".")[0]) for p in folder.glob("step-*/COMPLETE")), default=0)

        wait_until(lambda: newest() > newer_than or self.process.poll() is not None)
        return newest()

    def kill(self) -> None:
        """End the wrapper as a lost node does. Its workers must go with it."""
        self.process.kill()
        self.process.wait(DEADLINE_SECONDS)
        wait_until(lambda: not self.workers())

    def workers(self) -> list[int]:
        """Processes that still carry this attempt's configuration."""
        marker = f"{CONFIG_ENV}={self.config.model_dump_json()}".encode()
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if marker in (folder / "environ").read_bytes():
                    found.append(int(folder.name))
            except OSError:
                continue  # gone, or not ours to read
        return found


def wait_until(condition: Any) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.1)


@pytest.fixture
def start(tmp_path):
    attempts: list[Attempt] = []

    def make(config: TrainConfig) -> Attempt:
        attempts.append(Attempt(config, tmp_path))
        return attempts[-1]

    yield make
    for attempt in attempts:
        if attempt.process.poll() is None:
            attempt.kill()


@pytest.fixture(scope="module")
def uninterrupted(make_train_config, tmp_path_factory) -> TrainConfig:
    """The same recipe, run once without torchrun and without a break: what all others must equal."""
    from luthier_trainer import worker
    from luthier_trainer.rundir import RunDir

    folder = tmp_path_factory.mktemp("uninterrupted")
    config: TrainConfig = make_train_config(folder, **RECIPE)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"RANK": "0", "WORLD_SIZE": "1", "OMP_NUM_THREADS": "1"}.items():
            patch.setenv(name, value)
        outcome = worker.train(config, RunDir(path=folder))
    assert outcome is not None
    assert outcome.outcome == "Succeeded"
    return config


def losses(config: TrainConfig) -> dict[int, float]:
    return {e["step"]: e["loss"] for e in read_log(config) if "loss" in e}


def validation_losses(config: TrainConfig) -> dict[int, float]:
    return {e["step"]: e["eval_loss"] for e in read_log(config) if "eval_loss" in e}


@pytest.mark.slow
@pytest.mark.row(29, 36)
def test_a_run_killed_at_any_moment_ends_as_if_it_had_not_been(start, train_config, uninterrupted):
    """kill -9 twice at moments that differ from run to run; then to the end."""
    config = train_config(**RECIPE, checkpoint_interval_seconds=0)
    rng, reached = random.Random(), 0
    for number in (1, 2):
        attempt = start(config.model_copy(update={"attempt": number}))
        reached = attempt.wait_for_checkpoint(newer_than=reached)
        time.sleep(rng.uniform(0, 0.5))  # not a wait for anything: the moment of death is what is random
        attempt.kill()
    outcome = start(config.model_copy(update={"attempt": 3})).wait()
    assert outcome.outcome == "Succeeded"
    assert outcome.details["resumed_from_step"] >= reached > 0
    assert losses(config) == pytest.approx(losses(uninterrupted), abs=1e-6)
    assert json.loads((Path(config.checkpoint_dir) / CLAIM).read_text()) == 3


@pytest.mark.slow
@pytest.mark.row(30)
def test_sigterm_saves_and_the_next_attempt_goes_on(start, train_config, uninterrupted):
    config = train_config(**RECIPE, progress_port=(port := free_port()))
    attempt = start(config)
    seen: list[ProgressReport] = []

    def is_training() -> bool:
        if (progress := read_progress(port)) is not None:
            seen.append(progress)
        return bool(seen and seen[-1].step >= 3) or attempt.process.poll() is not None

    wait_until(is_training)
    attempt.process.send_signal(signal.SIGTERM)
    assert attempt.wait().outcome == "Preempted", attempt.log()
    assert (seen[0].phase, seen[-1].phase) == ("Loading", "Training")
    assert seen[-1].of == len(losses(uninterrupted))
    assert seen[-1].loss is not None
    outcome = start(config.model_copy(update={"attempt": 2})).wait()
    assert outcome.details["resumed_from_step"] >= 3
    assert losses(config) == pytest.approx(losses(uninterrupted), abs=1e-6)


@pytest.mark.slow
def test_sigterm_before_the_first_step_is_a_preemption_too(start, train_config):
    attempt = start(train_config(progress_port=(port := free_port())))
    wait_until(lambda: read_progress(port) is not None)
    attempt.process.send_signal(signal.SIGTERM)
    assert attempt.wait().outcome == "Preempted"


@pytest.mark.slow
def test_two_processes_compute_what_one_computes(start, train_config, uninterrupted):
    config = train_config(**RECIPE, num_processes=2)
    assert start(config).wait().outcome == "Succeeded"
    assert losses(config) == pytest.approx(losses(uninterrupted), abs=1e-4)
    assert validation_losses(config) == pytest.approx(validation_losses(uninterrupted), abs=1e-4)
    marker = json.loads(next(Path(config.checkpoint_dir).glob("step-*/COMPLETE")).read_text())
    assert marker["world_size"] == 2
    assert {"rng_state_0.pth", "rng_state_1.pth"} < {f["path"] for f in marker["files"]}


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "processes"), [(2, 1), (3, 2)])
def test_deepspeed_trains_stops_and_resumes(start, train_config, uninterrupted, stage, processes):
    config = train_config(
        **RECIPE, num_processes=processes, deepspeed={"zero_stage": stage}, checkpoint_interval_seconds=0
    )
    attempt = start(config)
    attempt.wait_for_checkpoint()
    attempt.process.send_signal(signal.SIGTERM)
    assert attempt.wait().outcome == "Preempted", attempt.log()
    second = start(config.model_copy(update={"attempt": 2}))
    outcome = second.wait()
    assert outcome.outcome == "Succeeded", second.log()
    assert outcome.details["resumed_from_step"] > 0
    assert losses(config) == pytest.approx(losses(uninterrupted), abs=5e-3)
    assert validation_losses(config) == pytest.approx(validation_losses(uninterrupted), abs=5e-3)
    configs = [json.loads((Path(c.artifact_dir) / "adapter_config.json").read_text()) for c in (config, uninterrupted)]
    assert configs[0] == configs[1]
    assert tensor_shapes(config) == tensor_shapes(uninterrupted)


@pytest.mark.slow
def test_two_processes_that_are_stopped_end_as_if_they_had_not_been(start, train_config, tmp_path):
    """With dropout: every process must go on with its own random numbers."""
    shape = {**RECIPE, "dropout": 0.3, "num_processes": 2}
    folders = {name: str(tmp_path / "whole" / name) for name in ("checkpoint_dir", "artifact_dir", "result_path")}
    whole = train_config(**shape, **folders)
    assert start(whole).wait().outcome == "Succeeded"
    config = train_config(**shape, attempt=2, checkpoint_interval_seconds=0)
    attempt = start(config)
    attempt.wait_for_checkpoint(newer_than=2)
    attempt.process.send_signal(signal.SIGTERM)
    assert attempt.wait().outcome == "Preempted", attempt.log()
    outcome = start(config.model_copy(update={"attempt": 3})).wait()
    assert outcome.details["resumed_from_step"] > 2
    assert losses(config) == pytest.approx(losses(whole), abs=1e-6)
    assert validation_losses(config) == pytest.approx(validation_losses(whole), abs=1e-6)


@pytest.mark.slow
def test_a_worker_that_dies_ends_the_attempt(start, train_config):
    attempt = start(train_config(max_steps=None, epochs=100, num_processes=2, checkpoint_interval_seconds=0))
    attempt.wait_for_checkpoint()
    # The wrapper comes first, then torchrun, then the workers.
    os.kill(sorted(attempt.workers())[-1], signal.SIGKILL)
    result = attempt.wait()
    assert (result.outcome, result.reason) == ("InternalError", "WorkerLost")


def test_an_attempt_after_the_publishing_one_reports_its_artifact(start, uninterrupted):
    result_path = Path(uninterrupted.artifact_dir).parent / "again.json"
    again = start(uninterrupted.model_copy(update={"attempt": 2, "result_path": str(result_path)})).wait()
    assert again.reason == "AlreadyPublished"
    assert again.details["artifact"]["path"] == uninterrupted.artifact_dir
    assert again.details["steps"] == len(losses(uninterrupted))


@pytest.mark.parametrize(
    ("changes", "code", "reason"),
    [
        ({"global_batch_size": 3, "num_processes": 2}, 10, "BatchNotDivisible"),
        ({"dataset_digest": "sha256:other"}, 10, "DatasetChanged"),
        ({"base_digest": "sha256:other"}, 10, "ModelChanged"),
    ],
)
def test_a_users_error_has_its_own_exit_code(start, train_config, changes, code, reason):
    attempt = start(train_config(**changes))
    result = attempt.wait()
    assert (attempt.process.returncode, result.reason) == (code, reason)


@pytest.mark.parametrize("step", ["prepare", "train"])
def test_an_error_that_nobody_expected_is_told_too(tmp_path, tiny_model, train_config, prepare_config, step):
    broken = shutil.copytree(tiny_model, tmp_path / "model")
    (broken / "config.json").write_text('{"max_position_embeddings": "many"}')
    config = {"prepare": lambda: prepare_config(tmp_path / "none.jsonl", model_path=str(broken)),
              "train": lambda: train_config(model_path=str(broken))}[step]()  # fmt: skip
    (tmp_path / "termination").touch()
    env = {
        **os.environ,
        "PYTHONPATH": str(PACKAGE_ROOT),
        CONFIG_ENV: config.model_dump_json(),
        "LUTHIER_TERMINATION_LOG": str(tmp_path / "termination"),
    }
    command = [sys.executable, "-m", "luthier_trainer", step]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    result = StepResult.model_validate_json((tmp_path / "termination").read_bytes())
    assert (done.returncode, result.outcome, result.reason) == (1, "InternalError", "StepCrashed")
    assert result.message == "ValueError: invalid literal for int() with base 10: 'many'"
    assert "Traceback" in done.stderr


def test_a_configuration_of_another_version_is_named(tmp_path):
    env = {**os.environ, "PYTHONPATH": str(PACKAGE_ROOT), CONFIG_ENV: '{"attempt": "x", "new_field": 1}'}
    done = subprocess.run(
        [sys.executable, "-m", "luthier_trainer", "train"], env=env, capture_output=True, text=True, check=False
    )
    result = StepResult.model_validate_json(done.stdout)
    assert (done.returncode, result.reason) == (1, "InvalidConfig")
    assert "attempt: Input should be a valid integer" in result.message


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def read_progress(port: int) -> ProgressReport | None:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/progress", timeout=30) as reply:
            return ProgressReport.model_validate_json(reply.read())
    except OSError:
        return None


def tensor_shapes(config: TrainConfig) -> dict[str, list[int]]:
    from safetensors import safe_open

    with safe_open(Path(config.artifact_dir) / "adapter_model.safetensors", framework="pt") as tensors:
        return {name: tensors.get_slice(name).get_shape() for name in tensors.keys()}  # noqa: SIM118
