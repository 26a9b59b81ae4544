"""The training loop: transformers' Trainer with our order of rows, our saves, our stop, our validation loss.

What differs from the stock Trainer, and why: saves are timed and complete-or-absent (`checkpoint`), a stop request is
agreed on by all processes after every step and every batch of a validation pass, the validation loss is weighted by
tokens, and a loss that is not a number ends the run before anything of it is saved.
"""

from __future__ import annotations

import logging
import math
import time
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from luthier_trainer import checkpoint, processes
from luthier_trainer.checkpoint import CheckpointStore, Marker
from luthier_trainer.config import ProgressReport, TrainConfig
from luthier_trainer.data import OrderedRows, Shard, collate
from luthier_trainer.errors import UserError, writing_to
from luthier_trainer.model import uses_bf16
from luthier_trainer.rundir import RunDir
from luthier_trainer.template import IGNORED

_SCHEDULES = {"Cosine": "cosine", "Linear": "linear", "Constant": "constant_with_warmup"}
_LOGGED_STEPS = 1000
_EVALUATIONS = 10
logger = logging.getLogger(__name__)


def training_arguments(config: TrainConfig, *, steps: int, store: CheckpointStore) -> TrainingArguments:
    """Translate the run configuration; the Trainer's own saving, evaluating and shuffling stay off."""
    micro_batch = config.per_device_batch_size
    return TrainingArguments(
        output_dir=str(store.folder / f".writing.{store.attempt}"),
        num_train_epochs=1,  # the order of rows holds all passes
        train_sampling_strategy="sequential",
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=config.global_batch_size // (micro_batch * config.num_processes),
        learning_rate=config.learning_rate,
        lr_scheduler_type=_SCHEDULES[config.schedule],
        warmup_steps=math.ceil(steps * config.warmup_percent / 100),
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        optim="adamw_torch",
        seed=config.seed,
        data_seed=config.seed,
        bf16=uses_bf16(config),
        use_cpu=not torch.cuda.is_available(),
        activation_checkpointing=config.gradient_checkpointing,
        average_tokens_across_devices=True,
        include_num_input_tokens_seen="non_padding",
        logging_steps=max(1, steps // _LOGGED_STEPS),
        logging_nan_inf_filter=False,  # we want to see them
        save_strategy="no",
        eval_strategy="no",
        eval_on_start=True,  # `evaluate` knows whether the pass of the step that is gone on from is missing
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        label_names=["labels"],
        dataloader_pin_memory=torch.cuda.is_available(),
        ddp_find_unused_parameters=False,
        deepspeed=_deepspeed(config),
    )


def _deepspeed(config: TrainConfig) -> dict[str, Any] | None:
    if config.deepspeed is None:
        return None
    zero: dict[str, Any] = {"stage": config.deepspeed.zero_stage}
    if config.deepspeed.zero_stage == 3:
        zero["stage3_gather_16bit_weights_on_model_save"] = True
    auto = (
        "train_batch_size",
        "train_micro_batch_size_per_gpu",
        "gradient_accumulation_steps",
        "gradient_clipping",
    )
    return {**dict.fromkeys(auto, "auto"), "zero_optimization": zero, "bf16": {"enabled": "auto"}}


class AdapterTrainer(Trainer):  # type: ignore[misc]  # transformers is untyped here
    """The Trainer of one attempt."""

    control: TrainerControl

    def __init__(
        self,
        config: TrainConfig,
        model: Any,
        *,
        arguments: TrainingArguments,
        rows: OrderedRows,
        validation: Shard,
        store: CheckpointStore,
        run: RunDir,
    ) -> None:
        steps = len(rows) // config.global_batch_size
        self.config, self.store, self.validation = config, store, validation
        self.watch = Watch(config, run, steps=steps, rows=rows.distinct, has_validation=len(validation) > 0)
        self._saved_step = 0
        super().__init__(
            model=model,
            args=arguments,
            train_dataset=rows,
            data_collator=collate,
            callbacks=[self.watch],
        )
        self.remove_callback(PrinterCallback)

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Measure the validation loss per token; all processes take the same number of batches, as ZeRO-3 needs.

        A pass may take longer than a pod is given to end, so what is due is saved first, and a stop request gives the
        pass up; the next attempt makes up for it.
        """
        if not self.watch.lacks_validation(self.state):
            return {}
        if self.control.should_save:
            self._save_checkpoint(self.model, None)
        model = self.model_wrapped if self.is_deepspeed_enabled else self.model
        model.eval()
        total = torch.zeros(2, dtype=torch.float64)
        for batch in self._validation_batches():
            if self.watch.is_stop_requested(self.args.device):
                model.train()
                self.watch.stopped = self.control.should_training_stop = self.control.should_save = True
                self.control.should_evaluate = False
                return {}
            inputs = {name: tensor.to(self.args.device) for name, tensor in batch.items()}
            with torch.no_grad(), self.compute_loss_context_manager():
                # With one item in the batch, the model's mean is the sum over its tokens.
                loss = model(**inputs, num_items_in_batch=1).loss
            total += torch.tensor([loss.item(), (batch["labels"][:, 1:] >= 0).sum().item()], dtype=torch.float64)
        model.train()
        summed = processes.sum_of(total.to(self.args.device))
        metrics = {"eval_loss": (summed[0] / summed[1]).item()}
        self.log(metrics)
        # Takes the request back; without it the end of the run would evaluate once more.
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _validation_batches(self) -> Any:
        size, world, rank = self.args.per_device_train_batch_size, processes.world_size(), processes.rank()
        for start in range(0, len(self.validation), size * world):
            rows = range(start + rank * size, min(start + (rank + 1) * size, len(self.validation)))
            batch = collate([self.validation[row] for row in rows] or [self.validation[0]])
            if not rows:
                batch["labels"].fill_(IGNORED)  # a turn without rows of its own: computed, not counted
            yield batch

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write a checkpoint beside the others, then make it complete."""
        step = self.state.global_step
        if step == self._saved_step:
            return
        path = self.store.path_of(step)
        with writing_to(self.store.folder, what="a checkpoint", field="workspace.claimName"):
            super()._save_checkpoint(model, trial)
            processes.barrier()
            if processes.rank() == 0:
                written = Path(self.args.output_dir) / f"checkpoint-{step}"
                (written / "training_args.bin").unlink(missing_ok=True)  # a pickle that nobody reads
                written.replace(path)
                written.parent.rmdir()
            processes.barrier()
            self._seal(path, step)
        self._saved_step = step
        self.watch.saved()

    def _seal(self, path: Path, step: int) -> None:
        share = checkpoint.share_of(
            checkpoint.list_files(path), rank=processes.rank(), world_size=processes.world_size()
        )
        records = processes.gather(checkpoint.record_files(path, share))
        if processes.rank() == 0:
            checkpoint.sync_folders(path)
            marker = Marker(
                step=step,
                attempt=self.store.attempt,
                job_uid=self.store.job_uid,
                config_digest=self.store.config_digest,
                world_size=processes.world_size(),
                zero_stage=zero_stage(self.config),
                data_position=step * self.config.global_batch_size,
                files=tuple(record for part in records for record in part),
            )
            self.store.seal(path, marker)
            logger.info("checkpoint %s is complete", path.name)
        processes.barrier()


def zero_stage(config: TrainConfig) -> int:
    return config.deepspeed.zero_stage if config.deepspeed else 0


class Watch(TrainerCallback):  # type: ignore[misc]  # transformers is untyped here
    """Decides after each step whether to stop, save or evaluate, and says how far the run is."""

    def __init__(self, config: TrainConfig, run: RunDir, *, steps: int, rows: int, has_validation: bool) -> None:
        self.stopped = False
        self.progress = ProgressReport(step=0, of=steps, epoch=0.0)
        self._config, self._run, self._has_validation = config, run, has_validation
        self._steps_per_epoch = rows / config.global_batch_size
        self._evaluate_every = config.evaluate_every_steps or max(1, steps // _EVALUATIONS)
        self._started_at = self._saved_at = time.monotonic()
        self._first_step = self._first_tokens = 0

    def saved(self) -> None:
        self._saved_at = time.monotonic()

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._started_at = self._saved_at = time.monotonic()
        self._first_step, self._first_tokens = state.global_step, state.num_input_tokens_seen
        self.report(state, phase="Training")

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> TrainerControl:
        is_due = time.monotonic() - self._saved_at >= self._config.checkpoint_interval_seconds
        stop, save = processes.any_of([self._run.is_stop_requested(), is_due], args.device)
        is_last = state.global_step >= state.max_steps
        self.stopped = stop and not is_last
        control.should_save = stop or save or is_last
        control.should_evaluate = self.lacks_validation(state) and not self.stopped
        # A save is preceded by a log, so that a loss that is no number is seen before it is saved; a validation pass
        # may end in a save.
        control.should_log = control.should_log or control.should_save or control.should_evaluate
        control.should_training_stop = control.should_training_stop or self.stopped
        return control

    def lacks_validation(self, state: TrainerState) -> bool:
        """Tell whether a validation pass is due after this step and not in the log."""
        step = state.global_step
        is_turn = step > 0 and (step >= state.max_steps or step % self._evaluate_every == 0)
        is_done = any(entry["step"] == step for entry in state.log_history if "eval_loss" in entry)
        return self._has_validation and is_turn and not is_done

    def is_stop_requested(self, device: torch.device) -> bool:
        """Tell whether any process was asked to stop; all processes must call this."""
        return processes.any_of([self._run.is_stop_requested()], device)[0]

    def on_log(
        self, args: Any, state: TrainerState, control: TrainerControl, logs: dict[str, Any] | None = None, **_: Any
    ) -> None:
        values = logs or {}
        check_finite(values, step=state.global_step)
        self.report(state, phase="Training", loss=values.get("loss"), validation_loss=values.get("eval_loss"))
        if processes.rank() == 0 and ("loss" in values or "eval_loss" in values):
            logger.info("step %d of %d: %s", state.global_step, state.max_steps, describe(values))

    def report(self, state: TrainerState, *, phase: str, **news: float | None) -> None:
        """Write the progress file; losses stay until newer ones are known."""
        if processes.rank() != 0:
            return
        seconds = time.monotonic() - self._started_at
        done = state.global_step - self._first_step
        tokens = state.num_input_tokens_seen - self._first_tokens
        known = {name: value for name, value in news.items() if value is not None}
        self.progress = self.progress.model_copy(
            update={
                **known,
                "step": state.global_step,
                "phase": phase,
                "epoch": round(state.global_step / self._steps_per_epoch, 3),
                "tokens_per_second": round(tokens / seconds, 1) if tokens and seconds else None,
                "estimated_remaining_seconds": (
                    round((self.progress.of - state.global_step) * seconds / done) if done else None
                ),
            }
        )
        self._run.write_progress(self.progress)


def check_finite(logs: dict[str, Any], *, step: int) -> None:
    """End the run at a loss or gradient that is not a number; the newest checkpoint stays the last good one."""
    for name in ("loss", "grad_norm", "eval_loss"):
        value = logs.get(name)
        if value is not None and not math.isfinite(value):
            raise UserError(
                "NumericalError",
                f"{name} is {value} at step {step}; lower training.learningRate, or look for broken rows in the data",
                field="training.learningRate",
            )


def describe(logs: dict[str, Any]) -> str:
    names = ("loss", "eval_loss", "grad_norm", "learning_rate")
    return ", ".join(f"{name} {logs[name]:.4g}" for name in names if name in logs)
