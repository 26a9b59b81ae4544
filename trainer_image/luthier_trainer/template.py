"""Rendering a row by the model's own chat template, and the mask of what is learned.

The mask is ours and needs no markers in the template: each prefix of the conversation is rendered with
`add_generation_prompt`, and the answer is what the next render adds. That is sound only when a render is a prefix of
the next one and the answer ends in a token at which generation stops; both are checked on every row.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from jinja2 import TemplateError

from luthier_trainer.errors import UserError
from luthier_trainer.records import RowError
from luthier_trainer.rows import Message, Row

IGNORED = -100
"""The label of a token that is not learned (torch's cross entropy skips it)."""


class Tokenizer(Protocol):
    """What we use of transformers' tokenizer."""

    chat_template: Any
    eos_token_id: int | None

    def apply_chat_template(self, conversation: list[Message], **options: Any) -> Any: ...

    def __call__(self, text: str, **options: Any) -> Any: ...


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """A row's token ids and labels, of equal length."""

    ids: list[int]
    labels: list[int]


class Renderer:
    """Turns rows into tokens, always the same way: Chat by the template, Raw as the text stands."""

    def __init__(self, tokenizer: Tokenizer, *, eos_ids: frozenset[int], render: str) -> None:
        self._tokenizer = tokenizer
        self._eos_ids = eos_ids
        self.render = render
        if render == "Chat" and not isinstance(tokenizer.chat_template, str):
            raise UserError(
                "ChatTemplateMissing",
                "the model has no chat template; add chat_template.jinja to it, or use prompt/completion rows with "
                "dataset.render: Raw",
                field="dataset.render",
            )
        if tokenizer.eos_token_id is None and render == "Raw":
            raise UserError("EndOfTextMissing", "the model's tokenizer has no eos_token", field="model.uri")

    @property
    def template_sha256(self) -> str | None:
        """Digest of the chat template that rendered the rows; None for Raw."""
        return (
            hashlib.sha256(str(self._tokenizer.chat_template).encode()).hexdigest() if self.render == "Chat" else None
        )

    @property
    def depends_on_date(self) -> bool:
        """A template that prints today's date renders otherwise tomorrow: its token ids can't be probed."""
        return self.render == "Chat" and "strftime_now" in str(self._tokenizer.chat_template)

    def tokens(self, row: Row) -> Tokens:
        """Return a row's tokens, ending with the last learned one.

        Raises:
            RowError: The template refuses the row, or its renders do not allow a sound mask.
        """
        ids, labels = self._chat(row) if self.render == "Chat" else self._raw(row)
        end = max(i for i, label in enumerate(labels) if label != IGNORED) + 1
        return Tokens(ids=ids[:end], labels=labels[:end])

    def prompt_ids(self, messages: list[Message]) -> list[int]:
        """Return what a server must tokenise a conversation to, generation prompt included."""
        text = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return self._encode(text)

    def _chat(self, row: Row) -> tuple[list[int], list[int]]:
        conversation = row.conversation
        rendered, ids, labels = "", list[int](), list[int]()
        for index, message in enumerate(conversation):
            if message["role"] != "assistant":
                continue
            prompt = self._apply(row, conversation[:index], generation_prompt=True)
            answered = self._apply(row, conversation[: index + 1], generation_prompt=False)
            prompt_ids = self._encode(prompt)
            if not prompt.startswith(rendered) or prompt_ids[: len(ids)] != ids:
                raise RowError(row.place, "the chat template renders earlier turns differently once later ones follow")
            if not answered.startswith(prompt):
                raise RowError(row.place, "the chat template renders an answer that does not follow its own prompt")
            answer_ids = self._following(prompt_ids, prompt, answered)
            labels += [IGNORED] * (len(prompt_ids) - len(ids)) + self._learned(row, answer_ids)
            rendered, ids = answered, prompt_ids + answer_ids
        return ids, labels

    def _raw(self, row: Row) -> tuple[list[int], list[int]]:
        if row.kind == "Messages":
            raise RowError(row.place, "dataset.render: Raw takes prompt/completion rows only; use Chat for messages")
        eos = self._tokenizer.eos_token_id
        prompt_ids = self._encode(row.prompt, special=True)
        if prompt_ids and prompt_ids[-1] == eos:
            prompt_ids.pop()  # some tokenizers close every text
        answer_ids = self._following(prompt_ids, row.prompt, row.prompt + row.completion, special=True)
        if answer_ids[-1:] != [eos]:
            answer_ids.append(eos)  # type: ignore[arg-type]  # checked at the start
        return prompt_ids + answer_ids, [IGNORED] * len(prompt_ids) + self._learned(row, answer_ids)

    def _apply(self, row: Row, messages: list[Message], *, generation_prompt: bool) -> str:
        try:
            text = self._tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=generation_prompt
            )
        except (TemplateError, TypeError, ValueError, KeyError) as error:
            raise RowError(row.place, f"the model's chat template refuses this row: {error}") from error
        return str(text)

    def _encode(self, text: str, *, special: bool = False) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=special)["input_ids"])

    def _following(self, prompt_ids: list[int], prompt: str, whole: str, *, special: bool = False) -> list[int]:
        """Return the answer's tokens after exactly the prompt's tokens, as they are when a server generates."""
        whole_ids = self._encode(whole, special=special)
        if whole_ids[: len(prompt_ids)] == prompt_ids:
            return whole_ids[len(prompt_ids) :]
        # The answer's first characters melt into the prompt's last token: tokenise it by itself.
        return self._encode(whole[len(prompt) :])

    def _learned(self, row: Row, answer_ids: list[int]) -> list[int]:
        """Label an answer up to its end-of-turn token; what a template adds after it is not generated."""
        ends = [i for i, token in enumerate(answer_ids) if token in self._eos_ids]
        if not ends:
            raise RowError(
                row.place,
                f"the rendered answer has no token at which generation stops ({sorted(self._eos_ids)}); add the "
                "template's end-of-turn token to eos_token_id in the model's generation_config.json",
            )
        if len(ends) > 1:
            raise RowError(row.place, "the answer's text holds an end-of-turn token; remove it from the data")
        return answer_ids[: ends[0] + 1] + [IGNORED] * (len(answer_ids) - ends[0] - 1)


def stop_token_ids(model_path: Path, tokenizer: Tokenizer) -> frozenset[int]:
    """Return the ids at which generation stops, as engines read them."""
    found: set[int] = set() if tokenizer.eos_token_id is None else {tokenizer.eos_token_id}
    for name in ("generation_config.json", "config.json"):
        path = model_path / name
        value = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id") if path.is_file() else None
        found.update(value if isinstance(value, list) else [] if value is None else [value])
    return frozenset(found)
