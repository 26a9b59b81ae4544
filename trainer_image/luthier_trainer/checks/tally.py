"""Counting rows for one finding: how many, the first few of them, and what their number means for the run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from luthier_trainer.findings import MAX_EXAMPLES, Action, Example, Finding, Level

if TYPE_CHECKING:
    from luthier_trainer.records import Place

_ACTIONS: dict[str, Action] = {"Warn": "Kept", "Drop": "Dropped", "Redact": "Redacted", "Fail": "Refused"}


@dataclass(kw_only=True)
class Tally:
    """Rows that one check found."""

    rows: int = 0
    examples: list[Example] = field(default_factory=list)

    def add(self, place: Place, excerpt: str = "") -> None:
        self.rows += 1
        if len(self.examples) < MAX_EXAMPLES:
            self.examples.append(Example(file=place.file, line=place.line, excerpt=excerpt))

    def finding(self, *, code: str, mode: str, of: int, what: str, hint: str) -> Finding:
        """Return the finding; `what` follows the number of rows in its sentence, `mode` is the check's setting."""
        level: Level = "Error" if mode == "Fail" else "Warning"
        share = self.rows / of if of else 0.0
        first = f", the first at {self.examples[0].file}:{self.examples[0].line}" if self.examples else ""
        return Finding(
            code=code,
            level=level,
            action=_ACTIONS[mode],
            rows=self.rows,
            share=round(share, 6),
            message=f"{rows_text(self.rows)} ({100 * share:.1f} %) {what}{first}",
            hint=hint,
            examples=tuple(self.examples),
        )


def rows_text(count: int) -> str:
    """Return a number of rows in words."""
    return "1 row" if count == 1 else f"{count} rows"
