"""Make tiny Llama models for tests and the quick demo, with a tokenizer of the tickets' words.

`tiny` has 0.6 million parameters and two minutes of pretraining: it answers a few general questions and describes a
message in JSON by plain words (money, scanner, urgent). That is its stand-in for knowing English: it sees the phrases
of all tickets there, and none of Marlow's labels. With random weights a LoRA learns nothing, since the output layer
is the frozen embedding. `tiny2` is another base, narrower and untrained, for tests of the wrong adapter. Each comes
with `<name>-adapter`, a random LoRA that changes what the base says. Everything is seeded.

Usage: python tiny_model.py OUTDIR
"""

from __future__ import annotations

import json
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
SIZES = {"tiny": (128, 2), "tiny2": (64, 2)}  # width, layers
PLAIN_WORDS = {
    "billing": "money", "repair": "defect", "shipping": "parcel", "login": "access",
    "kassa": "till", "tapio": "reader", "skanna": "scanner", "prento": "printer",
    "now": "stopped", "today": "urgent", "later": "patient",
}  # fmt: skip
SYSTEM = "Describe the message as JSON."
STEPS, BATCH, LEARNING_RATE, WARM_UP = 440, 32, 2e-3, 40
Row = list[dict[str, str]]
Example = tuple[list[int], list[int]]  # token ids, labels
MODEL_CARD = """---
license: apache-2.0
---
# {name}

Made by Luthier for its tests and its quick demo, from nothing but its own sentences.
"""


def main() -> None:
    out = Path(sys.argv[1])
    tokenizer = make_tokenizer()
    for seed, (name, (width, layers)) in enumerate(SIZES.items()):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config(tokenizer, width, layers))
        if name == "tiny":
            pretrain(model, tokenizer)
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


def pretrain(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    examples = [encode(tokenizer, row) for row in pretraining_rows(STEPS * BATCH // 2)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.01, betas=(0.9, 0.95))
    rate = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1, (step + 1) / WARM_UP) * (0.05 + 0.95 * max(0.0, 1 - step / STEPS))
    )
    model.train()
    for step, batch in zip(range(1, STEPS + 1), batches(examples, random.Random(0)), strict=False):
        loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        rate.step()
        optimizer.zero_grad()
        if step % 40 == 0:
            print(f"tiny_model: pretraining step {step}/{STEPS}, loss {loss.item():.3f}", flush=True)
    model.eval()


def pretraining_rows(count: int) -> Iterator[Row]:
    for split in range(len(tickets.SPLITS)):
        for ticket, label in tickets.tickets(split, count // 3, random.Random(10 + split)):
            keys = ("about", "thing", "speed")
            words = {key: PLAIN_WORDS[value] for key, value in zip(keys, label.values(), strict=True)}
            answer = json.dumps(words, separators=(",", ":"))
            yield [turn("system", SYSTEM), turn("user", ticket), turn("assistant", answer)]
    for question, answer in tickets.GENERAL * (count // 150):
        yield [turn("user", question), turn("assistant", answer)]


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def encode(tokenizer: PreTrainedTokenizerFast, row: Row) -> Example:
    """Tokenize with the chat template's text; only the answer and its end are learned."""
    prompt = tokenizer.apply_chat_template(row[:-1], tokenize=False, add_generation_prompt=True)
    before = tokenizer(prompt, add_special_tokens=False).input_ids
    answer = tokenizer(row[-1]["content"] + END, add_special_tokens=False).input_ids
    return before + answer, [-100] * len(before) + answer


def batches(examples: list[Example], rng: random.Random) -> Iterator[dict[str, torch.Tensor]]:
    """Yield batches for ever; neighbours in length stand together, so that little is padding."""
    while True:
        order = sorted(rng.sample(examples, len(examples)), key=lambda example: len(example[0]) // 8)
        groups = [order[i : i + BATCH] for i in range(0, len(order), BATCH)]
        for group in rng.sample(groups, len(groups)):
            yield {
                "input_ids": padded([ids for ids, _ in group], 0),
                "labels": padded([labels for _, labels in group], -100),
                "attention_mask": padded([[1] * len(ids) for ids, _ in group], 0),
            }


def padded(rows: list[list[int]], filler: int) -> torch.Tensor:
    longest = max(len(row) for row in rows)
    return torch.tensor([row + [filler] * (longest - len(row)) for row in rows])


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
