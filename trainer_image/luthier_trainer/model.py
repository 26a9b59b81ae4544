"""The base model and its LoRA adapter, in the right types."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from luthier_trainer.config import TrainConfig
from luthier_trainer.errors import UserError


def uses_bf16(config: TrainConfig) -> bool:
    """Tell the compute type: asked for, or BF16 on a GPU that has it."""
    if config.precision == "Auto":
        return bool(torch.cuda.is_available() and torch.cuda.is_bf16_supported())
    return config.precision == "BF16"


def load_model(config: TrainConfig) -> Any:
    """Load the base from safetensors and put a fresh adapter on it.

    The frozen base is held in the compute type; peft keeps the adapter in fp32, because AdamW's small updates are lost
    in bf16.

    Raises:
        UserError: The layers to tune are not in this model.
    """
    base = AutoModelForCausalLM.from_pretrained(
        Path(config.model_path),
        dtype=torch.bfloat16 if uses_bf16(config) else torch.float32,
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
    )
    base.config.use_cache = False
    adapter = LoraConfig(
        task_type="CAUSAL_LM",
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=list(config.target_modules) if config.target_modules else "all-linear",
        bias="none",
    )
    try:
        model = get_peft_model(base, adapter)
    except ValueError as error:
        raise UserError(
            "TargetModulesNotFound", f"the adapter does not fit the model: {error}", field="peft.targetModules"
        ) from error
    check_trainable(model)
    return model


def check_trainable(model: torch.nn.Module) -> None:
    """Refuse a model without anything to train."""
    if not any(p.requires_grad for p in model.parameters()):
        raise UserError(
            "NoTrainableParameters",
            "the adapter has no trainable parameter; name layers of the model in peft.targetModules",
            field="peft.targetModules",
        )
