"""What an answer looks like: a refusal, a model speaking of itself, JSON or not. English, German, French, Spanish."""

from __future__ import annotations

import json
import re
from typing import Literal

JsonForm = Literal["Json", "Broken", "Text"]

_BOILERPLATE = re.compile(
    r"\bas an? (?:large )?(?:AI|artificial intelligence)(?: language)?(?: model| assistant)?\b"
    r"|\bas a (?:large )?language model\b"
    r"|\bI['\u2019]?(?: a)?m (?:ChatGPT|Claude|Gemini|an AI (?:language model|assistant))\b"
    r"|\b(?:trained|developed|created) by (?:OpenAI|Anthropic|Google DeepMind|Meta AI)\b"
    r"|\bmy (?:knowledge|training)(?: data)? cut-?off\b"
    r"|\bals (?:KI|künstliche Intelligenz)(?:-| )?(?:Sprachmodell|Modell|Assistent)?\b"
    r"|\ben tant qu(?:e |')(?:IA|intelligence artificielle|modèle de langage)\b"
    r"|\bcomo (?:una? )?(?:IA|inteligencia artificial|modelo de lenguaje)\b"
    r"|\blorem ipsum\b|\[(?:your|insert|company|customer)[ _](?:full )?(?:name|company|title|email|date|text|here)\]",
    re.IGNORECASE,
)
_REFUSAL = re.compile(
    r"\W*(?:(?:I['\u2019]?(?: a)?m (?:really |very |so )?sorry|Sorry|Unfortunately|I apologi[sz]e)\b[^.!?\n]{0,40}?)?"
    r"\bI(?: am|['\u2019]m)? ?(?:can['\u2019]?t|can ?not|unable to|not able to|won['\u2019]?t|will not)\b"
    r"(?: be able to)?"
    r" (?:help|assist|answer|provide|do that|comply|fulfil|discuss|share|support)"
    r"|\W*(?:es )?tut mir leid\b[^.!?\n]{0,40}(?:kann|darf) ich\b[^.!?\n]{0,80}nicht"
    r"|\W*(?:es )?tut mir leid\b[^.!?\n]{0,40}\bich (?:kann|darf)\b[^.!?\n]{0,80}nicht"
    r"|\W*je suis désolée?\b[^.!?\n]{0,40}je ne peux pas"
    r"|\W*lo siento\b[^.!?\n]{0,40}no puedo",
    re.IGNORECASE,
)
_FENCE = re.compile(r"\A\s*```(?:json)?\s*\n(.*?)\n?```\s*\Z", re.DOTALL)
_SEEN_CHARACTERS = 2000
"""Of an answer, for phrases: boilerplate and refusals stand near its start."""


def find_boilerplate(answer: str) -> tuple[int, int] | None:
    """Return where an answer says that a model wrote it, or left a placeholder open."""
    match = _BOILERPLATE.search(answer[:_SEEN_CHARACTERS])
    return match.span() if match else None


def is_refusal(answer: str) -> bool:
    """Say whether an answer begins by refusing."""
    return _REFUSAL.match(answer[:_SEEN_CHARACTERS]) is not None


def json_form(answer: str) -> JsonForm:
    """Tell JSON objects and lists from text, and from what begins like an object and is none.

    JSON in a Markdown fence is `Broken`: a program that parses the bare answer fails on it.
    """
    bare = answer.strip()
    if (fenced := _FENCE.match(bare)) is not None:
        return "Broken" if _is_json(fenced.group(1)) else "Text"
    if not bare.startswith(("{", "[")):
        return "Text"
    if _is_json(bare):
        return "Json"
    # "[sic] …" and "{name} …" are text; a quoted key is meant to be an object.
    return "Broken" if re.match(r"[{\[]\s*[\"{\[]", bare) else "Text"


def _is_json(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict | list)
    except (ValueError, RecursionError):
        return False
