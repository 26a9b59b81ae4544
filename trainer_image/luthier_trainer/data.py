"""The training side of the shards: rows by memory map, the order of a whole run, batches.

The run's order is one list made from the seed before the first step: it depends on neither the number of processes nor
the framework's samplers, so a resumed or distributed run sees the same rows in the same steps. Passes over the data
follow each other without a short batch between them; the last batch is filled up from a further pass.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch.utils.data import Dataset

from luthier_trainer.template import IGNORED

_GROUPED_BATCHES = 8
"""Batches among which rows are grouped by length when a forward pass holds several rows."""


class Shard:
    """Token rows of one split."""

    def __init__(self, path: Path) -> None:
        tensors = load_file(path)
        self._ids, self._labels = tensors["input_ids"], tensors["labels"]
        self._offsets = tensors["offsets"].tolist()

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, row: int) -> dict[str, torch.Tensor]:
        span = slice(self._offsets[row], self._offsets[row + 1])
        return {"input_ids": self._ids[span].long(), "labels": self._labels[span].long()}

    def length(self, row: int) -> int:
        """Return a row's length in tokens."""
        return int(self._offsets[row + 1] - self._offsets[row])


class OrderedRows(Dataset):  # type: ignore[misc]  # torch is untyped here
    """A shard in the order of a run; rows come again as often as the order names them."""

    def __init__(self, shard: Shard, order: Sequence[int]) -> None:
        self._shard, self._order = shard, order
        self.distinct = len(shard)

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, position: int) -> dict[str, torch.Tensor]:
        return self._shard[self._order[position]]


def total_steps(*, rows: int, epochs: int, batch_size: int, max_steps: int | None) -> int:
    """Return a run's number of optimizer steps."""
    steps = math.ceil(rows * epochs / batch_size)
    return steps if max_steps is None else min(steps, max_steps)


def run_order(shard: Shard, *, steps: int, batch_size: int, seed: int, group_by_length: bool) -> list[int]:
    """Return the rows of a whole run: each pass shuffled anew, `steps` full batches."""
    generator = torch.Generator().manual_seed(seed)
    order: list[int] = []
    while len(order) < steps * batch_size:
        order += torch.randperm(len(shard), generator=generator).tolist()
    order = order[: steps * batch_size]
    return _grouped(order, shard, batch_size=batch_size, generator=generator) if group_by_length else order


def _grouped(order: list[int], shard: Shard, *, batch_size: int, generator: torch.Generator) -> list[int]:
    """Sort by length within a few batches, then shuffle those: less padding, and lengths still mixed in time."""
    grouped: list[int] = []
    window = _GROUPED_BATCHES * batch_size
    for start in range(0, len(order), window):
        rows = sorted(order[start : start + window], key=shard.length, reverse=True)
        batches = [rows[i : i + batch_size] for i in range(0, len(rows), batch_size)]
        for index in torch.randperm(len(batches), generator=generator).tolist():
            grouped += batches[index]
    return grouped


def collate(rows: Sequence[dict[str, torch.Tensor]]) -> dict[str, Any]:
    """Pad rows to the longest; what is padded is neither attended to nor learned."""
    longest = max(len(row["input_ids"]) for row in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    labels = torch.full((len(rows), longest), IGNORED)
    mask = torch.zeros(len(rows), longest, dtype=torch.long)
    for index, row in enumerate(rows):
        length = len(row["input_ids"])
        ids[index, :length], labels[index, :length], mask[index, :length] = row["input_ids"], row["labels"], 1
    return {"input_ids": ids, "labels": labels, "attention_mask": mask}
