"""A tiny model made on the spot, data sets, and run configurations. These tests run where torch is installed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from trainer.samples import ticket_rows, write_jsonl

# What transformers and torch warn of at import is not ours to fix.
_FILTER = pytest.mark.filterwarnings("default")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(_FILTER)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of 40,000 random weights with a BPE of its own; the same on every machine."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("models") / "tiny"
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator([json.dumps(row) for row in ticket_rows(300)], trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    tokenizer.chat_template = CHATML
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=400,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=256,
            tie_word_embeddings=True,
            initializer_range=0.3,  # large enough that an adapter of a few steps can move the answers
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=0,
        )
    )
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def prepare_config(tiny_model: Path, tmp_path: Path):
    """Build a PrepareConfig for a file of rows."""
    from luthier_trainer.config import PrepareConfig, Source

    def make(source: Path, **changes: Any) -> PrepareConfig:
        values = {
            "job_uid": "uid-1",
            "model_path": str(tiny_model),
            "model_uri": "pvc://models/tiny",
            "sources": (Source(path=str(source), uri=f"pvc://data/{source.name}"),),
            "validation_percent": 0,
            "test_percent": 0,
            "min_examples": 1,
            "data_dir": str(tmp_path / "data"),
            "artifact_dir": str(tmp_path / "artifact"),
            "training_digest": "sha256:training",
            "result_path": str(tmp_path / "prepare-result.json"),
        }
        return PrepareConfig.model_validate({**values, **changes})

    return make


@pytest.fixture(scope="session")
def prepared(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """24 rows to train on and some to validate; the inputs of a TrainConfig that describe them."""
    from luthier_trainer.config import PrepareConfig, Source
    from luthier_trainer.prepare import prepare

    folder = tmp_path_factory.mktemp("prepared")
    source = write_jsonl(folder / "rows.jsonl", ticket_rows(32))
    config = PrepareConfig(
        job_uid="uid-1",
        model_path=str(tiny_model),
        model_uri="pvc://models/tiny",
        sources=(Source(path=str(source), uri="pvc://data/rows.jsonl"),),
        validation_percent=20,
        test_percent=0,
        min_examples=1,
        data_dir=str(folder / "data"),
        artifact_dir=str(folder / "artifact"),
        training_digest="sha256:training",
        result_path=str(folder / "result.json"),
    )
    details = prepare(config).details
    return {
        "model_path": config.model_path,
        "model_uri": config.model_uri,
        "base_digest": details["base_digest"],
        "data_dir": config.data_dir,
        "dataset_digest": details["dataset_digest"],
    }


@pytest.fixture(scope="session")
def make_train_config(prepared: dict[str, Any]):
    """Build a TrainConfig with its folders in a given one: 12 steps of 4 rows that learn quickly."""
    from luthier_trainer.config import TrainConfig

    def make(folder: Path, **changes: Any) -> TrainConfig:
        values = {
            **prepared,
            "job_name": "tickets",
            "job_uid": "uid-1",
            "attempt": 1,
            "training_digest": "sha256:training",
            "checkpoint_dir": str(folder / "checkpoints"),
            "artifact_dir": str(folder / "out" / "tickets-uid"),
            "result_path": str(folder / "train-result.json"),
            "rank": 8,
            "alpha": 16,
            "learning_rate": 0.02,
            "schedule": "Linear",
            "warmup_percent": 10,
            "global_batch_size": 4,
            "epochs": 3,
            "max_steps": 12,
            "evaluate_every_steps": 6,
            "seed": 3,
            "progress_port": 0,
        }
        return TrainConfig.model_validate({**values, **changes})

    return make


@pytest.fixture
def train_config(make_train_config, tmp_path: Path):
    return lambda **changes: make_train_config(tmp_path, **changes)
