"""Makes artifacts for a real engine from the tiny model, with random adapter weights; needs torch and transformers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from luthier_trainer.artifact import CHAT_TEMPLATE, MANIFEST, ArtifactManifest, Probe, digest_folder

TARGETS = ("q_proj", "v_proj")
RANK = 16
CONVERSATIONS = (
    ({"role": "system", "content": "Answer as JSON."}, {"role": "user", "content": "My bill is wrong, ünïcode"}),
    ({"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}, {"role": "user", "content": "Help"}),
)


def write_artifact(folder: Path, *, base: Path, template: str | None = None) -> dict[str, str]:
    """Write an adapter of `base` to `folder`; return the fields of a ServerConfig that name both.

    `template` is the one that the probes are rendered with, when it is not the one that is published.
    """
    folder.mkdir(parents=True)
    _write_adapter(folder, json.loads((base / "config.json").read_text()))
    for name in (CHAT_TEMPLATE, "generation_config.json", "tokenizer.json", "tokenizer_config.json"):
        if (base / name).is_file():
            shutil.copyfile(base / name, folder / name)
    base_digest = digest_folder(base)
    digest = digest_folder(folder, base_digest=base_digest)
    manifest = ArtifactManifest(
        model_digest=digest,
        base_digest=base_digest,
        base_uri="pvc://models/tiny",
        dataset_digest="sha256:d",
        training_digest="sha256:t",
        job_name="test",
        job_uid="u",
        lora_rank=RANK,
        render="Chat",
        probes=tuple(_probes(base, template)),
    )
    (folder / MANIFEST).write_text(manifest.model_dump_json())
    return {
        "base_path": str(base),
        "base_digest": base_digest,
        "adapter_path": str(folder),
        "model_digest": digest,
    }


def _probes(base, template):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    for messages in CONVERSATIONS:
        rendered = tokenizer.apply_chat_template(
            list(messages), chat_template=template, add_generation_prompt=True, tokenize=True, return_dict=True
        )
        yield Probe(messages=messages, token_ids=tuple(rendered["input_ids"]))


def _write_adapter(folder, config):
    import torch
    from safetensors.torch import save_file

    hidden, head = config["hidden_size"], config["head_dim"]
    widths = {"q_proj": config["num_attention_heads"] * head, "v_proj": config["num_key_value_heads"] * head}
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for layer in range(config["num_hidden_layers"]):
        for target, width in widths.items():
            name = f"base_model.model.model.layers.{layer}.self_attn.{target}"
            tensors[f"{name}.lora_A.weight"] = torch.randn(RANK, hidden, generator=generator)
            # Large enough that greedy answers differ from the base's.
            tensors[f"{name}.lora_B.weight"] = torch.randn(width, RANK, generator=generator)
    save_file(tensors, folder / "adapter_model.safetensors")
    adapter = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": 2 * RANK}
    adapter |= {"target_modules": list(TARGETS), "lora_dropout": 0.0, "bias": "none", "use_dora": False}
    (folder / "adapter_config.json").write_text(json.dumps(adapter))
