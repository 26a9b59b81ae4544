"""The order of a run's rows, and batches."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest


@pytest.fixture
def shard(prepared):
    from luthier_trainer.data import Shard

    return Shard(Path(prepared["data_dir"]) / "train.safetensors")


def make_order(shard, **changes) -> list[int]:
    from luthier_trainer.data import run_order

    return run_order(shard, **{"steps": 9, "batch_size": 4, "seed": 1, "group_by_length": False, **changes})


@pytest.mark.parametrize(
    ("rows", "epochs", "batch_size", "max_steps", "steps"),
    [(84, 3, 2, None, 126), (10, 1, 4, None, 3), (10, 3, 64, None, 1), (84, 3, 2, 50, 50), (4, 1, 2, 50, 2)],
)
def test_the_number_of_steps(rows, epochs, batch_size, max_steps, steps):
    from luthier_trainer.data import total_steps

    assert total_steps(rows=rows, epochs=epochs, batch_size=batch_size, max_steps=max_steps) == steps


@pytest.mark.parametrize("group_by_length", [False, True])
def test_every_pass_holds_every_row_once(shard, group_by_length):
    order = make_order(shard, steps=len(shard) * 3, batch_size=1, group_by_length=group_by_length)
    assert Counter(order) == dict.fromkeys(range(len(shard)), 3)


def test_the_last_batch_is_filled_from_a_further_pass(shard):
    order = make_order(shard, steps=len(shard), batch_size=2)
    assert len(order) == 2 * len(shard)


def test_the_order_follows_the_seed_alone(shard):
    assert make_order(shard) == make_order(shard)
    assert make_order(shard) != make_order(shard, seed=2)


def test_grouping_puts_like_lengths_into_one_batch(shard):
    def spread(order):
        batches = [[shard.length(r) for r in order[i : i + 4]] for i in range(0, len(order), 4)]
        return sum(max(b) - min(b) for b in batches)

    assert spread(make_order(shard, group_by_length=True)) < spread(make_order(shard))


def test_padding_is_neither_attended_to_nor_learned(shard):
    from luthier_trainer.data import collate

    rows = sorted(range(len(shard)), key=shard.length)
    short, long = shard[rows[0]], shard[rows[-1]]
    batch = collate([short, long])
    length = len(short["input_ids"])
    assert batch["input_ids"].shape == (2, len(long["input_ids"]))
    assert length < len(long["input_ids"])
    assert batch["attention_mask"][0].tolist() == [1] * length + [0] * (len(long["input_ids"]) - length)
    assert set(batch["labels"][0, length:].tolist()) == {-100}
    assert batch["input_ids"][0, :length].tolist() == short["input_ids"].tolist()
