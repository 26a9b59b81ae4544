"""Each check finds its rows, says where they stand, and does what its setting says."""

from __future__ import annotations

import json
import tracemalloc

import pytest

from luthier_trainer.checks.collector import Collector, Conclusion, Drop
from luthier_trainer.config import CategoriesConfig, ChecksConfig, RequiredCategory
from luthier_trainer.findings import worst_first
from luthier_trainer.records import Place
from luthier_trainer.rows import Row

QUESTION = "How do I reset the password of my router?"


def row(answer: str, question: str = QUESTION, *, line: int = 1, category: str | None = None) -> Row:
    messages = ({"role": "user", "content": question}, {"role": "assistant", "content": answer})
    return Row(place=Place(file="pvc://d/a.jsonl", line=line), kind="Messages", messages=messages, category=category)


def conclude(rows: list[Row], splits: list[str] | None = None, **checks) -> Conclusion:
    """Run rows through the checks as the one pass does."""
    collector = Collector(ChecksConfig(**checks))
    kept = [r for r in (collector.screen(r) for r in rows) if isinstance(r, Row)]
    for r in kept:
        collector.keep(r)
    return collector.conclude(
        splits=splits or ["train"] * len(kept), places=[r.place for r in kept], rows_read=len(rows)
    )


def found(conclusion: Conclusion) -> dict[str, list[int]]:
    return {f.code: [e.line for e in f.examples] for f in conclusion.findings}


CLEAN = row("Hold the button for ten seconds.", line=9)
CASES = {
    "Secrets": [row("Use AKIA" + "IOSFODNN7EXAMPLE for that."), CLEAN],
    "PersonalData": [row("Write to ada@example.org for help."), CLEAN],
    "EmptyPrompts": [row("Hold the button.", " "), CLEAN],
    "Boilerplate": [row("As an AI language model, I have no router."), CLEAN],
    "Refusals": [row("I'm sorry, but I can't help with that."), CLEAN],
    "MixedFormat": [
        row("billing", "Where does ticket one go?"),
        *(row('{"team": "a"}', f"Where does {n} go?", line=9) for n in range(3)),
    ],
    "BrokenJson": [row('{"team": "billing"', "Where does ticket one go?"), CLEAN],
    "ConflictingAnswers": [row("Press it."), row("Never press it.", QUESTION.upper(), line=2)],
    "LengthOutliers": [row("long " * 200, "one"), *(row("short", f"another {n}", line=9) for n in range(5))],
}
SETTINGS = {
    "Secrets": "secrets", "PersonalData": "personal_data", "EmptyPrompts": "empty_prompts",
    "Boilerplate": "boilerplate", "Refusals": "refusals", "MixedFormat": "format_consistency",
    "BrokenJson": "format_consistency", "ConflictingAnswers": "conflicting_answers",
    "LengthOutliers": "length_outliers",
}  # fmt: skip
ALONE = {name: "Off" for name in SETTINGS.values()} | {"leakage": "Off"}


@pytest.mark.parametrize("code", CASES)
def test_each_check_finds_its_rows_and_only_those(code):
    lines = [1, 2] if code == "ConflictingAnswers" else [1]
    assert found(conclude(CASES[code], **{**ALONE, SETTINGS[code]: "Warn"})) == {code: lines}


@pytest.mark.parametrize("code", CASES)
def test_a_check_that_is_off_finds_nothing(code):
    assert found(conclude(CASES[code], **ALONE)) == {}


@pytest.mark.parametrize("code", CASES)
def test_a_check_that_fails_makes_an_error_of_its_finding(code):
    (finding,) = conclude(CASES[code], **{**ALONE, SETTINGS[code]: "Fail"}).findings
    assert (finding.level, finding.action) == ("Error", "Refused")
    assert finding.rows == len(finding.examples) > 0
    assert finding.message.startswith(("1 row (", "2 rows ("))
    assert "pvc://d/a.jsonl:1" in finding.message


@pytest.mark.parametrize("code", ["Secrets", "PersonalData", "EmptyPrompts", "Boilerplate", "Refusals"])
def test_a_row_may_be_dropped_with_its_reason(code):
    screened = Collector(ChecksConfig(**{**ALONE, SETTINGS[code]: "Drop"})).screen(CASES[code][0])
    assert isinstance(screened, Drop)
    assert (screened.code, bool(screened.detail)) == (code, True)


def test_clean_rows_have_no_findings():
    answers = ["Hold the button for ten seconds.", "Look under it.", "Ask your provider."]
    assert conclude([row(a, f"{QUESTION} ({n})") for n, a in enumerate(answers)]).findings == []


def test_redaction_changes_every_text_of_the_row_alike():
    screened = Collector(ChecksConfig(secrets="Redact", personal_data="Redact")).screen(
        row("Sent to ada@example.org.", "I am ada@example.org, card 4111 1111 1111 1111")
    )
    assert isinstance(screened, Row)
    assert screened.texts == ["I am [EMAIL_1], card [CARD_1]", "Sent to [EMAIL_1]."]


def test_redaction_of_one_kind_leaves_the_other():
    screened = Collector(ChecksConfig(secrets="Warn", personal_data="Redact")).screen(
        row("ok", "ada@example.org, card 4111 1111 1111 1111")
    )
    assert isinstance(screened, Row)
    assert screened.texts[0] == "[EMAIL_1], card 4111 1111 1111 1111"


def test_an_example_masks_what_the_other_check_found_beside_it():
    findings = conclude([row("ok", "ada@example.org has card 4111 1111 1111 1111")]).findings
    shown = json.dumps([f.to_json() for f in findings], ensure_ascii=False)
    assert {f.code for f in findings} == {"Secrets", "PersonalData"}
    assert "█" in shown
    assert "ada" not in shown
    assert "1111" not in shown


LEAK = [
    row("Press it.", "A question that is long enough"),
    row("Press it!", "a question  that is long ENOUGH?", line=2),
]


@pytest.mark.parametrize(
    ("splits", "leaking"),
    [
        (["train", "test"], [1]),
        (["test", "train"], [2]),
        (["validation", "test"], [1]),
        (["train", "train"], []),
        (["test", "test"], []),
    ],
)
def test_a_row_leaks_into_the_split_that_is_held_further_out(splits, leaking):
    concluded = conclude(LEAK, splits, leakage="Drop")
    assert [number + 1 for number in concluded.drops] == leaking
    assert found(concluded).get("Leakage", []) == leaking


def test_short_turns_that_many_conversations_share_are_no_leak():
    assert conclude([row("Hi!", "hello"), row("Hi!", "hello", line=2)], ["train", "test"]).findings == []


def test_a_later_turn_with_its_answer_leaks_too():
    turn = [{"role": "user", "content": "Where is the reset button of model X2?"},
            {"role": "assistant", "content": "Under the cover on the left."}]  # fmt: skip
    start = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "Hi!"}]
    place = Place(file="f", line=1)
    rows = [
        Row(place=place, kind="Messages", messages=tuple([*start, *turn])),
        Row(place=place, kind="Messages", messages=tuple(turn)),
    ]
    assert list(found(conclude(rows, ["train", "test"]))) == ["Leakage"]


def test_texts_without_a_prompt_do_not_contradict_each_other():
    rows = [Row(place=Place(file="f", line=n), kind="Completion", completion=f"text {n}") for n in (1, 2)]
    assert conclude(rows, empty_prompts="Off").findings == []


def test_answers_below_the_smallest_length_are_dropped():
    concluded = conclude([row("ok"), CLEAN], min_answer_characters=3)
    assert found(concluded) == {"ShortAnswers": [1]}
    assert concluded.findings[0].action == "Dropped"


def test_categories_are_counted_by_split_and_compared():
    rows = [row("x", f"question {n}", category="billing" if n else None) for n in range(10)]
    config = CategoriesConfig(required=(RequiredCategory(name="login", min_rows=2),), max_percent=50)
    concluded = conclude(rows, ["train"] * 8 + ["test"] * 2, categories=config)
    assert concluded.categories == {"": {"train": 1}, "billing": {"train": 7, "test": 2}}
    by_code = {f.code: f for f in concluded.findings}
    assert set(by_code) == {"RequiredCategories", "RowsWithoutCategory", "CategoryImbalance"}
    assert by_code["RequiredCategories"].level == "Error"
    assert by_code["RequiredCategories"].message == "required categories have too few rows: login (0 of 2)"
    assert "billing" not in "".join(f.message for f in concluded.findings)


def test_memory_holds_numbers_of_a_row_and_not_its_text():
    collector = Collector(ChecksConfig())
    tracemalloc.start()
    for n in range(1000):
        collector.keep(row(f"answer {n} " * 1000, f"question {n} " * 1000))
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size < 200_000, "1,000 rows of 20 KB"


def test_the_worst_finding_comes_first():
    findings = conclude(
        [*CASES["Refusals"], *CASES["Secrets"], *CASES["PersonalData"], *CASES["PersonalData"]],
        conflicting_answers="Off",
    ).findings
    assert [f.code for f in worst_first(findings)] == ["Secrets", "PersonalData", "Refusals"]
