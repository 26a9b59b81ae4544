"""The checks by name: which setting rules each, how its sentence ends, what to do about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One check."""

    setting: str
    """The field of `ChecksConfig`."""
    what: str
    """What the rows have; follows their number."""
    hint: str

    @property
    def field(self) -> str:
        """The check's field in a FineTuneJob."""
        first, *rest = self.setting.split("_")
        return "dataset.checks." + first + "".join(word.capitalize() for word in rest)


CATALOGUE: Mapping[str, Entry] = {
    "InvalidRows": Entry(
        setting="invalid_rows",
        what="could not be read as examples and were left out",
        hint="dropped.jsonl names each line and what is wrong with it; mend the lines and run again",
    ),
    "Secrets": Entry(
        setting="secrets",
        what="hold access keys or payment card numbers",
        hint="a model repeats what it has learned: withdraw the keys, and remove them from the rows or set "
        "dataset.checks.secrets: Redact",
    ),
    "PersonalData": Entry(
        setting="personal_data",
        what="hold e-mail addresses, phone numbers or IBANs",
        hint="replace them by invented ones, or set dataset.checks.personalData: Redact; names of people are not found "
        "by this check",
    ),
    "ShortAnswers": Entry(
        setting="min_answer_characters",
        what="have an answer below dataset.checks.minAnswerCharacters",
        hint="write the answers out, or lower dataset.checks.minAnswerCharacters",
    ),
    "EmptyPrompts": Entry(
        setting="empty_prompts",
        what="have nothing before the answer",
        hint="an answer without its question teaches to say it always: add the question, or drop the rows",
    ),
    "Boilerplate": Entry(
        setting="boilerplate",
        what="have an answer that speaks of being an AI, or an open placeholder",
        hint="another model wrote these answers: rewrite them in your own words, or drop the rows",
    ),
    "Refusals": Entry(
        setting="refusals",
        what="have an answer that refuses",
        hint="keep the refusals you mean, and drop the others: the tuned model will refuse as often as its data does",
    ),
    "MixedFormat": Entry(
        setting="format_consistency",
        what="have an answer as text where others are JSON, or JSON where others are text",
        hint="decide on one form and rewrite the rarer one; a model that learned both gives both",
    ),
    "BrokenJson": Entry(
        setting="format_consistency",
        what="have an answer that begins like JSON and cannot be parsed, or wraps it in a Markdown fence",
        hint="mend the JSON, and take fences off: programs will read the bare answer",
    ),
    "ConflictingAnswers": Entry(
        setting="conflicting_answers",
        what="ask the same as another row and are answered differently",
        hint="choose the right answer where there is one; where several are right, leave them",
    ),
    "Leakage": Entry(
        setting="leakage",
        what="repeat a question or an exchange of the rows that are held out, so results on those are too good",
        hint="remove the repetitions, or set dataset.checks.leakage: Drop to take them out of training",
    ),
    "LengthOutliers": Entry(
        setting="length_outliers",
        what="have an answer ten times longer than usual",
        hint="look at them: logs or whole documents often got in by mistake",
    ),
}
