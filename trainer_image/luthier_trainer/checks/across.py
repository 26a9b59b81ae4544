"""What only shows between rows: two answers to one question, and held-out rows that training has seen.

One pass appends 64-bit hashes to flat arrays; the comparison comes after it, when all splits are known. A million rows
take about 50 MB, and the chance that any two different texts share a hash is one in forty million.
"""

from __future__ import annotations

import hashlib
import unicodedata
from array import array
from collections.abc import Mapping, Sequence

from luthier_trainer.rows import Row

_HASH = "Q"
_MIN_LEAK_CHARACTERS = 20
"""Shorter turns ("hello", "yes") stand in many conversations and give nothing away."""
_RANK: Mapping[str, int] = {"train": 0, "validation": 1, "test": 2}


def normal(text: str) -> str:
    """Return a text without what readers do not see: case, kinds of white space and quotes, punctuation at the end."""
    plain = unicodedata.normalize("NFKC", text).casefold().replace("\u2019", "'")
    return " ".join(plain.split()).rstrip(" .!?…")


class Across:
    """Hashes of every row's question, answer and turns, in the rows' order."""

    def __init__(self) -> None:
        self._questions = array(_HASH)
        self._answers = array(_HASH)
        self._turns = array(_HASH)
        self._turn_rows = array("q")

    def add(self, row: Row) -> None:
        """Append a row."""
        number = len(self._questions)
        *before, last = row.conversation
        asked = [f"{m['role']} {normal(m['content'])}" for m in before]
        # Texts without a prompt are not two answers to one question.
        has_question = any(m["content"].strip() for m in before)
        self._questions.append(_hash(*asked) if has_question else _hash("row", str(number)))
        self._answers.append(_hash(normal(last["content"])))
        for key in _turn_keys(row):
            self._turns.append(key)
            self._turn_rows.append(number)

    def conflicting(self) -> list[int]:
        """Return the rows whose question, as readers see it, has different answers in the set."""
        first: dict[int, int] = {}
        torn = {q for q, a in zip(self._questions, self._answers, strict=True) if first.setdefault(q, a) != a}
        return [row for row, question in enumerate(self._questions) if question in torn]

    def leaking(self, splits: Sequence[str]) -> list[int]:
        """Return the rows whose question or exchange stands in a split that is held further out."""
        held: dict[int, int] = {}
        for key, row in zip(self._turns, self._turn_rows, strict=True):
            rank = _RANK[splits[row]]
            if rank > held.get(key, 0):
                held[key] = rank
        found = {
            row: None
            for key, row in zip(self._turns, self._turn_rows, strict=True)
            if held.get(key, 0) > _RANK[splits[row]]
        }
        return list(found)


def _turn_keys(row: Row) -> set[int]:
    """Hash a row's first user turn when it is long, and each turn with its answer when both together are."""
    keys: set[int] = set()
    question = ""
    for index, message in enumerate(row.conversation):
        text = normal(message["content"])
        if message["role"] == "user":
            question = text
            # Later turns ("what does that cost?") stand in conversations that have nothing else in common.
            if index <= 1 and len(text) >= _MIN_LEAK_CHARACTERS:
                keys.add(_hash("turn", text))
        elif message["role"] == "assistant" and len(question) + len(text) >= 2 * _MIN_LEAK_CHARACTERS:
            keys.add(_hash("exchange", question, text))
    return keys


def _hash(*parts: str) -> int:
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        data = part.encode()
        digest.update(len(data).to_bytes(8, "big") + data)
    return int.from_bytes(digest.digest(), "big")
