"""All checks in one pass: rows are screened one by one, kept ones are counted, and at the end there are findings.

`screen` may change a row or take it out; `keep` counts what stays; `conclude` compares and says what was found. What a
check does with its rows is its setting, so the same counts warn here and refuse there.
"""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from luthier_trainer.checks.across import Across
from luthier_trainer.checks.answers import find_boilerplate, is_refusal, json_form
from luthier_trainer.checks.catalogue import CATALOGUE
from luthier_trainer.checks.categories import category_findings
from luthier_trainer.checks.sensitive import SECRET_KINDS, Hit, Placeholders, find_sensitive
from luthier_trainer.checks.tally import Tally
from luthier_trainer.config import ChecksConfig
from luthier_trainer.findings import MASK, Finding, excerpt
from luthier_trainer.records import Place
from luthier_trainer.rows import Row

_OUTLIER_FACTOR = 10
_OUTLIER_MIN_CHARACTERS = 200
_JSON_EXPECTED_PERCENT = 20
"""From this share of JSON answers on, the data is taken to teach JSON."""
_FORM_CODES = {"Json": ord("J"), "Broken": ord("B"), "Text": ord("T")}


@dataclass(frozen=True, kw_only=True)
class Drop:
    """A row that does not go on, and why."""

    code: str
    detail: str


@dataclass(frozen=True, kw_only=True)
class Conclusion:
    """What was found, and which kept rows go after all."""

    findings: list[Finding]
    drops: dict[int, Drop]
    categories: dict[str, dict[str, int]]


class Collector:
    """The checks of one data set."""

    def __init__(self, config: ChecksConfig) -> None:
        self._config = config
        self._tallies: defaultdict[str, Tally] = defaultdict(Tally)
        self._across = Across()
        self._forms = bytearray()
        self._lengths = array("q")
        self._categories: list[str | None] = []

    def screen(self, row: Row) -> Row | Drop:
        """Return the row as it goes on, or why it does not."""
        screened = self._screen_sensitive(row)
        return screened if isinstance(screened, Drop) else self._screen_words(screened)

    def _screen_sensitive(self, row: Row) -> Row | Drop:
        if self._config.secrets == "Off" and self._config.personal_data == "Off":
            return row
        found = [(text, hits) for text in row.texts if (hits := find_sensitive(text))]
        redacted: set[str] = set()
        for code, mode, secret in (
            ("Secrets", self._config.secrets, True),
            ("PersonalData", self._config.personal_data, False),
        ):
            own = [(text, hits) for text, hits in found if any((h.kind in SECRET_KINDS) == secret for h in hits)]
            if not own or mode == "Off":
                continue
            text, hits = own[0]
            kinds = sorted({h.kind for _, hits in own for h in hits if (h.kind in SECRET_KINDS) == secret})
            self._tallies[code].add(row.place, _shown(text, hits, secret=secret))
            if mode == "Drop":
                return Drop(code=code, detail=f"holds {', '.join(kinds)}")
            if mode == "Redact":
                redacted.update(kinds)
        return _redacted(row, redacted) if redacted else row

    def _screen_words(self, row: Row) -> Row | Drop:
        config, (*before, last) = self._config, row.texts
        answers = row.answers
        phrase = next(((a, span) for a in answers if (span := find_boilerplate(a))), None)
        for code, mode, is_found, shown in (
            ("ShortAnswers", "Drop", min(len(a.strip()) for a in answers) < config.min_answer_characters, ""),
            ("EmptyPrompts", config.empty_prompts, not any(text.strip() for text in before), ""),
            ("Boilerplate", config.boilerplate, phrase is not None, phrase[0][slice(*phrase[1])] if phrase else ""),
            ("Refusals", config.refusals, is_refusal(last), ""),
        ):
            if mode == "Off" or not is_found:
                continue
            self._tallies[code].add(row.place, shown)
            if mode == "Drop":
                return Drop(code=code, detail=CATALOGUE[code].what)
        return row

    def keep(self, row: Row) -> None:
        """Count a row that goes into the set."""
        answer = row.texts[-1]
        self._across.add(row)
        self._forms.append(_FORM_CODES[json_form(answer)])
        self._lengths.append(len(answer))
        self._categories.append(row.category)

    def conclude(self, *, splits: Sequence[str], places: Sequence[Place], rows_read: int) -> Conclusion:
        """Compare the rows, and say what all checks found; `splits` and `places` are those of the kept rows."""
        config = self._config
        leaking = self._across.leaking(splits) if config.leakage != "Off" else []
        by_row = {
            "ConflictingAnswers": self._across.conflicting() if config.conflicting_answers != "Off" else [],
            "Leakage": leaking,
            **self._formats(),
            "LengthOutliers": self._outliers() if config.length_outliers != "Off" else [],
        }
        for code, rows in by_row.items():
            for row in rows:
                self._tallies[code].add(places[row])
        findings = [
            tally.finding(code=code, mode=self._mode(code), of=rows_read, what=entry.what, hint=entry.hint)
            for code, entry in CATALOGUE.items()
            if (tally := self._tallies.get(code)) is not None
        ]
        counts = self._count_categories(splits)
        if config.categories is not None:
            findings += category_findings(config.categories, counts, kept=len(splits))
        drops = {}
        if config.leakage == "Drop":
            drops = {row: Drop(code="Leakage", detail=CATALOGUE["Leakage"].what) for row in leaking}
        return Conclusion(findings=findings, drops=drops, categories={k or "": dict(c) for k, c in counts.items()})

    def _mode(self, code: str) -> str:
        return "Drop" if code == "ShortAnswers" else str(getattr(self._config, CATALOGUE[code].setting))

    def _formats(self) -> dict[str, list[int]]:
        """Return the rows whose answer is no JSON where most or many are, or the other way round."""
        if self._config.format_consistency == "Off":
            return {}
        json_rows, text_rows = self._forms.count(_FORM_CODES["Json"]), self._forms.count(_FORM_CODES["Text"])
        mixed: list[int] = []
        if json_rows and text_rows and 100 * json_rows >= _JSON_EXPECTED_PERCENT * len(self._forms):
            rarer = _FORM_CODES["Text" if text_rows <= json_rows else "Json"]
            mixed = [row for row, form in enumerate(self._forms) if form == rarer]
        broken = [row for row, form in enumerate(self._forms) if form == _FORM_CODES["Broken"]]
        return {"MixedFormat": mixed, "BrokenJson": broken}

    def _outliers(self) -> list[int]:
        median = sorted(self._lengths)[len(self._lengths) // 2] if self._lengths else 0
        limit = max(_OUTLIER_FACTOR * median, _OUTLIER_MIN_CHARACTERS)
        return [row for row, length in enumerate(self._lengths) if length > limit]

    def _count_categories(self, splits: Sequence[str]) -> dict[str | None, Counter[str]]:
        counts: dict[str | None, Counter[str]] = {}
        if self._config.categories is not None:
            for category, split in zip(self._categories, splits, strict=True):
                counts.setdefault(category, Counter())[split] += 1
        return counts


def _shown(text: str, hits: list[Hit], *, secret: bool) -> str:
    """Return an excerpt around the first hit of a check; those of the other one beside it are masked too."""
    own = [(hit.start, hit.end) for hit in hits if (hit.kind in SECRET_KINDS) == secret]
    masked = list(text)
    for hit in hits:
        masked[hit.start : hit.end] = MASK * (hit.end - hit.start)
    return excerpt("".join(masked), own)


def _redacted(row: Row, kinds: set[str]) -> Row:
    placeholders = Placeholders()
    return row.with_texts(
        lambda text: placeholders.redact(text, (hit for hit in find_sensitive(text) if hit.kind in kinds))
    )
