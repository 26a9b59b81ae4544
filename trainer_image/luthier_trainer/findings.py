"""What the data checks found, in one shape for report.json, report.html and the step's message.

A finding counts rows, shows a few of them by file and line, and says what to do next. It never holds a row's text
as it is: `excerpt` masks what a check found, and cuts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

Level = Literal["Info", "Warning", "Error"]
Action = Literal["Kept", "Dropped", "Redacted", "Truncated", "Refused"]

MAX_EXAMPLES = 5
_EXCERPT_CHARACTERS = 120
MASK = "█"


@dataclass(frozen=True, kw_only=True)
class Example:
    """One row that shows a finding; `excerpt` is masked already."""

    file: str
    line: int
    excerpt: str = ""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that a person should know of the data."""

    code: str
    """PascalCase and stable: tests, dashboards and people name it."""
    level: Level
    action: Action
    """What was done to the rows."""
    rows: int
    """Rows concerned; 0 when it is about the whole set."""
    share: float
    """`rows` of all rows read, 0 to 1."""
    message: str
    """One sentence with the numbers."""
    hint: str
    """What to do next, in words that an annotator understands."""
    examples: tuple[Example, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the finding as report.json has it; empty parts stay, so that readers need no defaults."""
        return asdict(self)


def excerpt(text: str, spans: Sequence[tuple[int, int]] = ()) -> str:
    """Return the start of a text, or what surrounds the first span, with every span (start, end) masked."""
    masked = list(text)
    for start, end in spans:
        masked[start:end] = MASK * (end - start)
    first = max(0, min((start for start, _ in spans), default=0) - _EXCERPT_CHARACTERS // 3)
    cut = "".join(masked)[first : first + _EXCERPT_CHARACTERS]
    before, after = ("…" if first else ""), ("…" if first + _EXCERPT_CHARACTERS < len(text) else "")
    return before + " ".join(cut.split()) + after


_LEVELS: tuple[Level, ...] = ("Error", "Warning", "Info")
_WHOLE_SET_WEIGHT = 0.05
"""What is about the whole set stands between what concerns many rows and what concerns a few."""


def worst_first(findings: Sequence[Finding]) -> list[Finding]:
    """Return findings in the order in which a person should read them."""
    return sorted(findings, key=lambda f: (_LEVELS.index(f.level), -(f.share or _WHOLE_SET_WEIGHT), f.code))


def about_the_set(*, code: str, message: str, hint: str, level: Level = "Warning") -> Finding:
    """Return a finding that concerns no rows in particular."""
    action: Action = "Refused" if level == "Error" else "Kept"
    return Finding(code=code, level=level, action=action, rows=0, share=0.0, message=message, hint=hint)
