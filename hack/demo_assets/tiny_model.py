"""Make tiny Llama models for tests and the quick demo: random weights, a tokenizer of the tickets' words.

`tiny` has a million parameters; `tiny2` is another base, narrower and shallower, for tests of the wrong adapter.
Each comes with `<name>-adapter`, a random LoRA that changes what the base says. Everything is seeded.

Usage: python tiny_model.py OUTDIR
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import tickets
import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

START, END = "<|im_start|>", "<|im_end|>"
CHAT_TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ m['content'] + '<|im_end|>' }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
VOCABULARY = 2048
HEAD = 32
SIZES = {"tiny": (128, 4), "tiny2": (64, 2)}  # width, layers
MODEL_CARD = """---
license: apache-2.0
---
# {name}

Random weights, made by Luthier for its tests. It has learned nothing.
"""


def main() -> None:
    out = Path(sys.argv[1])
    tokenizer = make_tokenizer()
    for seed, (name, (width, layers)) in enumerate(SIZES.items()):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config(tokenizer, width, layers))
        model.save_pretrained(out / name)
        tokenizer.save_pretrained(out / name)
        (out / name / "README.md").write_text(MODEL_CARD.format(name=name))
        save_random_adapter(model, out / f"{name}-adapter", base=out / name)
        print(f"tiny_model: {name}, {model.num_parameters():,} parameters in {out / name}")


def config(tokenizer: PreTrainedTokenizerFast, width: int, layers: int) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=width * 11 // 4,
        num_hidden_layers=layers,
        num_attention_heads=width // HEAD,
        num_key_value_heads=max(1, width // HEAD // 2),
        head_dim=HEAD,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def make_tokenizer() -> PreTrainedTokenizerFast:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<unk>", START, END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(corpus(), trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, unk_token="<unk>", bos_token=START, eos_token=END, pad_token=END, model_max_length=2048
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def corpus() -> Iterator[str]:
    """Yield the tickets' words, so that most of them are one token."""
    for split in range(len(tickets.SPLITS)):
        rng = random.Random(split)
        for ticket, label in tickets.tickets(split, 400, rng):
            messages = tickets.row(tickets.lengthened(ticket, rng), label)["messages"]
            yield from (message["content"] for message in messages)  # type: ignore[attr-defined]
    for pair in tickets.GENERAL:
        yield from pair


def save_random_adapter(model: LlamaForCausalLM, out: Path, *, base: Path) -> None:
    adapted = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:  # zero at first, which would answer as the base does
            torch.nn.init.normal_(parameter, std=0.05)
    adapted.peft_config["default"].base_model_name_or_path = base.name
    adapted.save_pretrained(out)
    os.chmod(out / "adapter_model.safetensors", 0o644)


if __name__ == "__main__":
    main()
