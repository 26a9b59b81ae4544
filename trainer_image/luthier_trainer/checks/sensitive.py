"""Secrets and personal data in a text: where they stand and what they are. Patterns and check digits, no model.

What has a check digit (cards by Luhn, IBANs by mod 97) is only found when it is right: an order number is no card.
Names and addresses of streets have no pattern and are not found.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

Kind = Literal["Secret", "Card", "Email", "Phone", "Iban"]
SECRET_KINDS: frozenset[Kind] = frozenset({"Secret", "Card"})
"""What must never be learned; the other kinds are personal data."""


@dataclass(frozen=True, kw_only=True)
class Hit:
    """One thing found: `text[start:end]`."""

    kind: Kind
    start: int
    end: int


_KEYS = (
    r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b",  # Amazon Web Services
    r"\bgh[pousr]_[A-Za-z0-9]{36,255}\b",  # GitHub
    r"\bgithub_pat_[A-Za-z0-9_]{40,255}\b",
    r"\bglpat-[A-Za-z0-9_-]{20,64}",  # GitLab
    r"\bsk-[A-Za-z0-9_-]{20,255}",  # OpenAI, Anthropic
    r"\b[sr]k_live_[A-Za-z0-9]{20,255}\b",  # Stripe
    r"\bxox[abeoprs]-[A-Za-z0-9-]{10,255}",  # Slack
    r"\bAIza[A-Za-z0-9_-]{35}",  # Google
    r"\bhf_[A-Za-z0-9]{30,64}\b",  # Hugging Face
    r"\beyJ[A-Za-z0-9_-]{10,4096}\.eyJ[A-Za-z0-9_-]{10,8192}\.[A-Za-z0-9_-]{10,2048}",  # JSON Web Token
    r"-----BEGIN (?:[A-Z]{1,16} ){0,3}PRIVATE KEY-----(?:[A-Za-z0-9+/=\s]{1,16384}-----END [A-Z ]{1,48}-----)?",
)
_SECRET = re.compile("|".join(_KEYS))
# A run of name characters is only tried from its start, so that a long text without "@" costs one look a character.
_EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}(?![\w-])")
_PHONE = re.compile(
    r"(?<![\w+])(?<!\d[ /-])(?:"
    r"\+\d[\d ()/.-]{6,20}\d"  # international
    r"|\(?\d{3}\)?[ .-]\d{3}[ .-]\d{4}"  # North America
    r"|0\d{2,4}[ /-]\d{3,8}(?:[ -]\d{2,4}){0,2}"  # national, with the area's code
    r")(?!\w)(?![ -]\d)"
)
_PHONE_DIGITS = range(8, 16)
_CARD = re.compile(r"(?<![\d.])\d(?:[ -]?\d){12,18}(?!\d)")
_IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]){11,30}\b")
_IBAN_LENGTHS = {
    "AT": 20, "BE": 16, "BG": 22, "CH": 21, "CY": 28, "CZ": 24, "DE": 22, "DK": 18, "EE": 20, "ES": 24, "FI": 18,
    "FR": 27, "GB": 22, "GR": 27, "HR": 21, "HU": 28, "IE": 22, "IS": 26, "IT": 27, "LI": 21, "LT": 20, "LU": 20,
    "LV": 21, "MT": 31, "NL": 18, "NO": 15, "PL": 28, "PT": 25, "RO": 24, "SA": 24, "SE": 24, "SI": 19, "SK": 24,
    "TR": 26, "UA": 29, "AE": 23,
}  # fmt: skip


def find_sensitive(text: str) -> list[Hit]:
    """Return what is found, in the order of the text, without overlaps: the kind that is named first below wins."""
    finders: tuple[tuple[Kind, Iterable[tuple[int, int]]], ...] = (
        ("Secret", _spans(_SECRET, text)),
        ("Email", _spans(_EMAIL, text) if "@" in text else ()),
        ("Iban", _ibans(text)),
        ("Card", (span for span in _spans(_CARD, text) if is_card(text[slice(*span)]))),
        ("Phone", (span for span in _spans(_PHONE, text) if _digits(text[slice(*span)]) in _PHONE_DIGITS)),
    )
    hits: list[Hit] = []
    taken = bytearray(len(text))
    for kind, spans in finders:
        for start, end in spans:
            if taken.find(1, start, end) < 0:
                taken[start:end] = b"\1" * (end - start)
                hits.append(Hit(kind=kind, start=start, end=end))
    return sorted(hits, key=lambda hit: hit.start)


class Placeholders:
    """What stands for each value of one row: the same value, the same placeholder."""

    def __init__(self) -> None:
        self._names: dict[tuple[Kind, str], str] = {}
        self._counts: Counter[Kind] = Counter()

    def redact(self, text: str, hits: Iterable[Hit]) -> str:
        """Return a text with a placeholder for each hit."""
        parts, end = [], 0
        for hit in hits:
            parts += [text[end : hit.start], self._name(hit.kind, text[hit.start : hit.end])]
            end = hit.end
        return "".join([*parts, text[end:]])

    def _name(self, kind: Kind, value: str) -> str:
        if (kind, value) not in self._names:
            self._counts[kind] += 1
            self._names[kind, value] = f"[{kind.upper()}_{self._counts[kind]}]"
        return self._names[kind, value]


def is_card(text: str) -> bool:
    """Say whether digits are a payment card's: an issuer's prefix and length, and Luhn's check digit."""
    digits = [int(c) for c in text if c.isdigit()]
    return _has_issuer("".join(map(str, digits))) and _luhn(digits)


def _has_issuer(number: str) -> bool:
    length, two, four = len(number), int(number[:2]), int(number[:4])
    return (
        (number[0] == "4" and length in (13, 16, 19))
        or (length == 16 and (51 <= two <= 55 or 2221 <= four <= 2720 or two in (35, 65) or four == 6011))
        or (length == 15 and two in (34, 37))
        or (length == 14 and two in (30, 36, 38))
    )


def _luhn(digits: list[int]) -> bool:
    doubled = (sum(divmod(2 * digit, 10)) for digit in digits[-2::-2])
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def _spans(pattern: re.Pattern[str], text: str) -> Iterator[tuple[int, int]]:
    return (match.span() for match in pattern.finditer(text))


def _ibans(text: str) -> Iterator[tuple[int, int]]:
    """Find IBANs by their country's length: words in capitals that follow do not belong to them."""
    for match in _IBAN.finditer(text):
        length = _IBAN_LENGTHS.get(text[match.start() : match.start() + 2])
        end, taken = match.start(), 0
        while length is not None and taken < length and end < match.end():
            taken += text[end] != " "
            end += 1
        if taken == length and is_iban(text[match.start() : end]):
            yield match.start(), end


def is_iban(text: str) -> bool:
    """Say whether the check digits of an IBAN are right (ISO 7064, mod 97)."""
    compact = text.replace(" ", "")
    return int("".join(str(int(c, 36)) for c in compact[4:] + compact[:4])) % 97 == 1


def _digits(text: str) -> int:
    return sum(c.isdigit() for c in text)
