"""One attempt, run in this process: what is learned, saved, published and refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from luthier_trainer.artifact import ArtifactManifest, digest_folder
from luthier_trainer.errors import Superseded, UserError
from luthier_trainer.rundir import RunDir
from trainer.samples import read_log, whole_tree

EXPECTED_LOSSES = [7.5483, 3.4799, 1.6974]
"""torch 2.13.0, transformers 5.23.0, peft 0.21.2 on a CPU; another library version may ask for new ones."""


@pytest.fixture
def run(tmp_path) -> RunDir:
    (tmp_path / "run").mkdir()
    return RunDir(path=tmp_path / "run")


@pytest.fixture
def train(run, monkeypatch):
    """Train in this process, as the only one."""
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "OMP_NUM_THREADS": "1"}.items():
        monkeypatch.setenv(name, value)
    from luthier_trainer import worker

    return lambda config: worker.train(config, run)


def stop_after(monkeypatch, run: RunDir, step: int) -> None:
    """Ask for a stop while this step is computed."""
    from luthier_trainer.loop import Watch

    original = Watch.on_step_end

    def on_step_end(self, args, state, control, **rest):
        if state.global_step == step:
            run.request_stop()
        return original(self, args, state, control, **rest)

    monkeypatch.setattr(Watch, "on_step_end", on_step_end)


def losses(config) -> dict[int, float]:
    return {e["step"]: e["loss"] for e in read_log(config) if "loss" in e}


def test_a_run_learns_publishes_and_repeats_itself_to_the_digit(train, run, train_config):
    config = train_config()
    outcome = train(config)
    assert outcome.outcome == "Succeeded"
    found = losses(config)
    assert [found[step] for step in (1, 6, 12)] == pytest.approx(EXPECTED_LOSSES, abs=5e-3)
    assert [e["step"] for e in read_log(config) if "eval_loss" in e] == [6, 12]
    assert found[12] < 0.8 * found[1]
    assert outcome.details["validation_loss"] < found[1]
    assert run.read_progress().phase == "Done"
    assert (run.read_progress().step, run.read_progress().of) == (12, 12)
    assert run.read_progress().epoch > 0

    artifact = Path(config.artifact_dir)
    manifest = ArtifactManifest.model_validate_json((artifact / "luthier.json").read_text())
    assert manifest.model_digest == digest_folder(artifact, base_digest=config.base_digest)
    assert manifest.model_digest == outcome.details["artifact"]["digest"]
    assert len(manifest.probes) == 8
    adapter = json.loads((artifact / "adapter_config.json").read_text())
    assert adapter["base_model_name_or_path"] == "pvc://models/tiny"
    assert adapter["target_modules"] == sorted(adapter["target_modules"])
    assert {"lm_head", "embed_tokens"}.isdisjoint(adapter["target_modules"])
    assert {p.stat().st_mode & 0o777 for p in artifact.iterdir()} == {0o644}
    assert artifact.stat().st_mode & 0o777 == 0o755
    needed = {"README.md", "chat_template.jinja", "generation_config.json", "tokenizer.json", "tokenizer_config.json"}
    assert needed < {p.name for p in artifact.iterdir()}
    assert [p.name for p in artifact.parent.iterdir()] == [artifact.name]


def test_the_published_adapter_gives_the_trained_loss_on_its_base(train, train_config, tiny_model, prepared):
    """What a server will load is what was trained."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from luthier_trainer.data import Shard, collate

    config = train_config()
    trained = train(config).details["validation_loss"]
    shard = Shard(Path(prepared["data_dir"]) / "validation.safetensors")
    batch = collate([shard[row] for row in range(len(shard))])

    def loss(model):
        with torch.no_grad():
            return model(**batch, num_items_in_batch=1).loss.item() / (batch["labels"] >= 0).sum().item()

    base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()
    before = loss(base)
    after = loss(PeftModel.from_pretrained(base, config.artifact_dir).eval())
    assert after == pytest.approx(trained, abs=1e-4)
    assert after < before - 1


@pytest.mark.parametrize("per_device_batch_size", [1, 2])
def test_the_loss_is_weighted_by_tokens_over_the_global_batch(train, train_config, tmp_path, per_device_batch_size):
    """The first step's loss is that of its four rows together, however they are split into micro-batches."""
    import torch
    from transformers import AutoModelForCausalLM

    from luthier_trainer.data import Shard, collate, run_order

    config = train_config(max_steps=1, per_device_batch_size=per_device_batch_size, dropout=0.0)
    with pytest.raises(UserError, match="nothing was learned"):  # the warm-up's first step has a learning rate of zero
        train(config)
    state = json.loads(next(Path(config.checkpoint_dir).glob("step-1.1/trainer_state.json")).read_text())
    shard = Shard(Path(config.data_dir) / "train.safetensors")
    order = run_order(shard, steps=1, batch_size=4, seed=3, group_by_length=per_device_batch_size > 1)
    batch = collate([shard[row] for row in order])
    model = AutoModelForCausalLM.from_pretrained(config.model_path, dtype=torch.float32)
    expected = model(**batch, num_items_in_batch=1).loss.item() / (batch["labels"] >= 0).sum().item()
    assert state["log_history"][0]["loss"] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("stop_step", [1, 5, 11])
def test_a_stopped_run_goes_on_as_if_it_had_not_been_stopped(
    train, run, train_config, tmp_path, monkeypatch, stop_step
):
    whole = train_config(artifact_dir=str(tmp_path / "whole"), checkpoint_dir=str(tmp_path / "whole-checkpoints"))
    train(whole)
    config = train_config()
    with monkeypatch.context() as patch:
        stop_after(patch, run, stop_step)
        stopped = train(config)
    assert (stopped.outcome, stopped.message) == (
        "Preempted",
        f"stopped at step {stop_step} of 12; a checkpoint is saved",
    )
    (run.path / "stop").unlink()
    outcome = train(config.model_copy(update={"attempt": 2}))
    assert outcome.details["resumed_from_step"] == stop_step
    assert losses(config) == pytest.approx(losses(whole), abs=1e-6)
    assert outcome.details["validation_loss"] == pytest.approx(read_log(whole)[-1]["eval_loss"], abs=1e-6)


@pytest.mark.parametrize(("step", "is_saved_before"), [(6, False), (6, True), (12, True)])
def test_a_stop_in_a_validation_pass_gives_the_pass_up_and_loses_nothing(
    train, run, train_config, tmp_path, monkeypatch, step, is_saved_before
):
    from luthier_trainer.loop import AdapterTrainer

    monkeypatch.setattr("luthier_trainer.loop._LOGGED_STEPS", 3)  # of 12, so that step 6 is logged for its pass only
    whole = train_config(artifact_dir=str(tmp_path / "whole"), checkpoint_dir=str(tmp_path / "whole-checkpoints"))
    train(whole)
    config = train_config(checkpoint_interval_seconds=0 if is_saved_before else 600)
    saved = Path(config.checkpoint_dir) / f"step-{step}.1" / "COMPLETE"
    batches = AdapterTrainer._validation_batches
    taken = []

    def stopping(self):
        for number, batch in enumerate(batches(self)):
            if self.state.global_step == step and number == 1:
                assert saved.exists() == is_saved_before
                run.request_stop()
            taken.append(self.state.global_step)
            yield batch

    with monkeypatch.context() as patch:
        patch.setattr(AdapterTrainer, "_validation_batches", stopping)
        stopped = train(config)
    assert (stopped.outcome, stopped.message) == ("Preempted", f"stopped at step {step} of 12; a checkpoint is saved")
    assert taken.count(step) == 2, "the batch after the request is not computed"
    (run.path / "stop").unlink()
    outcome = train(config.model_copy(update={"attempt": 2}))
    assert outcome.details["resumed_from_step"] == step
    if not is_saved_before:  # a save is logged, so that there are more entries
        assert losses(config) == pytest.approx(losses(whole), abs=1e-6)
    entries = [[e for e in read_log(c) if "eval_loss" in e] for c in (config, whole)]
    assert [e["step"] for e in entries[0]] == [e["step"] for e in entries[1]] == [6, 12]
    assert [e["eval_loss"] for e in entries[0]] == pytest.approx([e["eval_loss"] for e in entries[1]], abs=1e-6)


def test_a_stop_when_only_publishing_is_left_is_no_preemption(train, run, train_config, monkeypatch):
    from luthier_trainer.loop import AdapterTrainer

    original = AdapterTrainer.evaluate

    def evaluate(self, *args, **kwargs):
        metrics = original(self, *args, **kwargs)
        if self.state.global_step == 12:
            run.request_stop()
        return metrics

    monkeypatch.setattr(AdapterTrainer, "evaluate", evaluate)
    assert train(train_config()).outcome == "Succeeded"


def test_a_run_killed_after_its_last_checkpoint_only_publishes(train, train_config, tmp_path):
    config = train_config()
    first = train(config)
    Path(config.artifact_dir).rename(tmp_path / "lost")
    again = train(config.model_copy(update={"attempt": 2}))
    assert again.details["resumed_from_step"] == 12
    assert again.details["artifact"]["digest"] == first.details["artifact"]["digest"]


@pytest.mark.row(36)
def test_half_written_and_damaged_checkpoints_are_passed_over(train, run, train_config, monkeypatch):
    config = train_config(checkpoint_interval_seconds=0, checkpoint_keep=3)
    with monkeypatch.context() as patch:
        stop_after(patch, run, 4)
        train(config)
    (run.path / "stop").unlink()
    folder = Path(config.checkpoint_dir)
    assert sorted(p.name for p in folder.glob("step-*")) == ["step-2.1", "step-3.1", "step-4.1"]
    (folder / "step-4.1" / "COMPLETE").unlink()
    weights = folder / "step-3.1" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    assert train(config.model_copy(update={"attempt": 2})).details["resumed_from_step"] == 2


def test_checkpoints_hold_no_pickled_arguments_and_are_rotated(train, train_config):
    config = train_config(checkpoint_interval_seconds=0)
    train(config)
    folder = Path(config.checkpoint_dir)
    assert sorted(p.name for p in folder.iterdir()) == ["ATTEMPT", "step-11.1", "step-12.1"]
    assert not list(folder.rglob("training_args.bin"))


@pytest.mark.row(35)
def test_a_loss_that_is_no_number_ends_the_run_and_keeps_the_last_good_checkpoint(train, train_config, monkeypatch):
    from luthier_trainer.loop import AdapterTrainer

    original = AdapterTrainer.training_step

    def training_step(self, *args, **kwargs):
        loss = original(self, *args, **kwargs)
        return loss * float("nan") if self.state.global_step == 5 else loss

    monkeypatch.setattr(AdapterTrainer, "training_step", training_step)
    config = train_config(checkpoint_interval_seconds=0)
    with pytest.raises(UserError, match=r"loss is nan at step 6; lower training\.learningRate") as error:
        train(config)
    assert error.value.reason == "NumericalError"
    assert (Path(config.checkpoint_dir) / "step-5.1" / "COMPLETE").is_file()
    assert not (Path(config.checkpoint_dir) / "step-6.1").exists()
    assert not Path(config.artifact_dir).exists()


def test_a_real_divergence_is_a_numerical_error(train, train_config):
    with pytest.raises(UserError, match=r"is (nan|inf) at step") as error:
        train(train_config(learning_rate=1e30, max_grad_norm=0.0, warmup_percent=0))
    assert error.value.reason == "NumericalError"


def test_a_run_that_learned_nothing_is_refused(train, train_config):
    config = train_config(learning_rate=0.0)
    with pytest.raises(UserError, match="weights equal the start"):
        train(config)
    assert not Path(config.artifact_dir).exists()


def test_layers_that_the_model_does_not_have_are_refused(train, train_config):
    with pytest.raises(UserError, match="nosuchlayer") as error:
        train(train_config(target_modules=("nosuchlayer",)))
    assert error.value.field == "peft.targetModules"


def test_only_the_named_layers_are_tuned(train, train_config):
    config = train_config(target_modules=("q_proj", "v_proj"))
    train(config)
    adapter = json.loads((Path(config.artifact_dir) / "adapter_config.json").read_text())
    assert adapter["target_modules"] == ["q_proj", "v_proj"]


@pytest.mark.parametrize("changes", [{"gradient_checkpointing": True}, {"precision": "BF16"}])
def test_checkpointed_gradients_and_bf16_learn_too(train, train_config, monkeypatch, changes):
    import torch

    from luthier_trainer.loop import AdapterTrainer

    original = AdapterTrainer.training_step
    seen = set()

    def training_step(self, model, *args, **kwargs):
        layer = model.base_model.model.model.layers[0]
        query = layer.self_attn.q_proj
        seen.add((layer.gradient_checkpointing, query.weight.dtype, query.lora_A["default"].weight.dtype))
        return original(self, model, *args, **kwargs)

    monkeypatch.setattr(AdapterTrainer, "training_step", training_step)
    config = train_config(**changes)
    train(config)
    dtype = torch.bfloat16 if "precision" in changes else torch.float32
    assert seen == {("gradient_checkpointing" in changes, dtype, torch.float32)}
    found = losses(config)
    assert found[12] < 0.8 * found[1]


def test_without_validation_rows_there_is_no_validation_loss(train, train_config, prepared, tmp_path):
    from luthier_trainer.config import PrepareConfig, Source
    from luthier_trainer.prepare import prepare
    from trainer.samples import ticket_rows, write_jsonl

    source = write_jsonl(tmp_path / "rows.jsonl", ticket_rows(8))
    details = prepare(
        PrepareConfig(
            job_uid="u",
            model_path=prepared["model_path"],
            model_uri="pvc://models/tiny",
            sources=(Source(path=str(source), uri="pvc://d/rows.jsonl"),),
            validation_percent=0,
            test_percent=0,
            min_examples=1,
            data_dir=str(tmp_path / "data"),
            artifact_dir=str(tmp_path / "artifact"),
            training_digest="t",
            result_path=str(tmp_path / "r.json"),
        )
    ).details
    outcome = train(
        train_config(data_dir=str(tmp_path / "data"), dataset_digest=details["dataset_digest"], max_steps=3)
    )
    assert outcome.details["validation_loss"] is None


def test_another_number_of_processes_than_asked_for_is_refused(train, train_config):
    with pytest.raises(UserError, match=r"1 training processes were started, and .* asks for 2") as error:
        train(train_config(num_processes=2))
    assert error.value.reason == "WrongWorldSize"


def test_a_run_is_told_by_what_shapes_its_weights(train_config):
    from luthier_trainer.worker import config_digest

    def digest(**changes):
        return config_digest(train_config(**changes))

    assert digest() == digest(num_processes=2, deepspeed={"zero_stage": 2}, attempt=7, image="trainer:2")
    assert digest() != digest(rank=16)

    class Later(type(train_config())):
        optimizer: str = "AdamW"

    assert config_digest(Later.model_validate(train_config().model_dump())) == digest()
    assert config_digest(Later.model_validate({**train_config().model_dump(), "optimizer": "Lion"})) != digest()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [({"dataset_digest": "sha256:other"}, "DatasetChanged"), ({"data_dir": "/nonexistent"}, "DataNotPrepared")],
)
def test_data_that_is_not_the_runs_is_refused(train, train_config, changes, reason):
    with pytest.raises(UserError) as error:
        train(train_config(**changes))
    assert error.value.reason == reason


def test_an_older_attempt_does_not_publish_over_a_newer(train, run, train_config, monkeypatch):
    config = train_config()
    newer = train_config(attempt=2)
    train(newer)
    before = whole_tree(Path(newer.artifact_dir))
    with pytest.raises(Superseded, match="attempt 2 has taken over from attempt 1"):
        train(config)
    assert whole_tree(Path(newer.artifact_dir)) == before


@pytest.mark.parametrize("base_says", [{"eos_token_id": 0, "temperature": 0.6}, None])
def test_an_engine_stops_at_every_token_that_training_took_for_an_end(tiny_model, tmp_path, base_says):
    """The tokenizer's end of turn (2), config.json's (5) and generation_config.json's (0); an engine reads one file."""
    from luthier_trainer.publish import copy_serving_files

    base = shutil.copytree(tiny_model, tmp_path / "base")
    (base / "config.json").write_text(json.dumps({**json.loads((base / "config.json").read_text()), "eos_token_id": 5}))
    (base / "generation_config.json").unlink()
    if base_says:
        (base / "generation_config.json").write_text(json.dumps(base_says))
    (tmp_path / "staging").mkdir()
    copy_serving_files(base, tmp_path / "staging")
    written = json.loads((tmp_path / "staging" / "generation_config.json").read_text())
    assert written == {**(base_says or {}), "eos_token_id": [0, 2, 5] if base_says else [2, 5]}


def test_what_killed_attempts_left_half_built_is_removed(train, train_config):
    config = train_config(attempt=3)
    output = Path(config.artifact_dir).parent
    for name in (".tickets-uid.1.partial", ".tickets-uid.3.partial", ".other-uid.1.partial"):
        (output / name / ".weights").mkdir(parents=True)
    train(config)
    assert sorted(p.name for p in output.iterdir()) == [".other-uid.1.partial", "tickets-uid"]


def test_an_artifact_is_never_overwritten(train, train_config):
    config = train_config()
    Path(config.artifact_dir).mkdir(parents=True)
    (Path(config.artifact_dir) / "precious").write_text("x")
    with pytest.raises(UserError, match="artifacts are never overwritten") as error:
        train(config)
    assert error.value.reason == "ArtifactExists"
    assert [p.name for p in Path(config.artifact_dir).iterdir()] == ["precious"]


@pytest.mark.row(37)
def test_a_checkpoint_that_can_not_be_written_is_the_storages_fault(train, train_config, monkeypatch):
    """`torch.save` meets a device that is always full."""
    import torch

    original = torch.save
    monkeypatch.setattr(torch, "save", lambda value, path, *rest: original(value, "/dev/full", *rest))
    with pytest.raises(
        UserError, match=r"a checkpoint could not be written to .*; free or enlarge the volume"
    ) as error:
        train(train_config(checkpoint_interval_seconds=0))
    assert error.value.field == "workspace.claimName"


@pytest.mark.row(31)
def test_running_out_of_memory_names_what_to_lower():
    import torch

    from luthier_trainer.worker import describe_crash

    found = describe_crash(torch.OutOfMemoryError("tried to allocate 4 GiB"))
    assert (found.outcome, found.reason, found.field) == (
        "UserError",
        "OutOfMemory",
        "training.perDeviceBatchSize",
    )
    assert describe_crash(ValueError("x")).outcome == "InternalError"
