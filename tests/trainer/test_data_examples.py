"""The small files of examples/data: each shows one finding, and the data step says what docs/data.md says of it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from luthier_trainer.errors import UserError
from luthier_trainer.prepare import prepare

EXAMPLES = Path(__file__).parents[2] / "examples" / "data"
DIRTY = EXAMPLES / "dirty"
SMALL = {"FewExamples", "LicenceNotDeclared", "FormatsSeen"}
"""What every one of these sets has, because it is small and the tests' model names no licence."""
WARNED = {
    "personal-data": ("PersonalData", [9, 10]),
    "empty-prompts": ("EmptyPrompts", [9]),
    "boilerplate": ("Boilerplate", [9, 10]),
    "refusals": ("Refusals", [9]),
    "exact-duplicates": ("ExactDuplicates", [9, 10]),
    "conflicting-answers": ("ConflictingAnswers", [7, 9]),
    "mixed-format": ("MixedFormat", [5]),
    "broken-json": ("BrokenJson", [5, 6]),
    "length-outliers": ("LengthOutliers", [9]),
}
REFUSED = {
    "secrets": ({}, "DataRefused", "dataset.checks.secrets", r"Secrets: 2 rows .*secrets\.jsonl:9"),
    "too-few": ({"min_examples": 4}, "TooFewExamples", "dataset.checks.minExamples", "3 of 3 rows"),
    "invalid-rows": ({}, "InvalidRows", "dataset.sources", r":9: not JSON: .*:10: no known format: .* answer, quest"),
    "too-long": (
        {"max_length": 128}, "TooManyRowsTooLong", "dataset.checks.maxDroppedPercent",
        r"1 of 9 rows \(11\.1 %\) .* the first at .*too-long\.jsonl:9",
    ),
    "categories": (
        {"checks": {"categories": {"required": [{"name": "login", "min_rows": 2}]}}}, "DataRefused",
        "dataset.checks.categories", r"login \(0 of 2\)",
    ),
}  # fmt: skip
DROPPED = {
    "short-answers": ({"checks": {"min_answer_characters": 2}}, "ShortAnswers", 1),
    "refusals": ({"checks": {"refusals": "Drop"}}, "Refusals", 1),
    "boilerplate": ({"checks": {"boilerplate": "Drop"}}, "Boilerplate", 2),
    "invalid-rows": ({"checks": {"invalid_rows": "Drop"}, "max_dropped_percent": 20}, "Invalid", 2),
    "leakage": ({"checks": {"leakage": "Drop"}, "test_percent": 30, "render": "Chat"}, "Leakage", None),
}


def report(config) -> dict:
    prepare(config)
    return json.loads((Path(config.data_dir) / "report.json").read_text())


@pytest.mark.parametrize("name", WARNED)
def test_a_dirty_file_has_its_finding_at_its_lines_and_no_other(prepare_config, name):
    code, lines = WARNED[name]
    described = report(prepare_config(DIRTY / f"{name}.jsonl"))
    findings = {f["code"]: f for f in described["findings"]}
    assert set(findings) - SMALL == {code}
    found = findings[code]
    assert [e["line"] for e in found["examples"]] == lines
    assert found["rows"] == len(lines)
    assert found["share"] == pytest.approx(len(lines) / described["rows"]["read"], abs=1e-5)
    assert found["hint"]


@pytest.mark.parametrize("name", REFUSED)
def test_a_dirty_file_is_refused_with_the_way_out(prepare_config, name):
    changes, reason, field, message = REFUSED[name]
    with pytest.raises(UserError, match=message) as error:
        prepare(prepare_config(DIRTY / f"{name}.jsonl", **changes))
    assert (error.value.reason, error.value.field) == (reason, field)


@pytest.mark.parametrize("name", DROPPED)
def test_rows_that_a_check_drops_are_named_with_reason_and_line(prepare_config, name):
    changes, reason, count = DROPPED[name]
    config = prepare_config(DIRTY / f"{name}.jsonl", **changes)
    dropped = report(config)["rows"]["droppedFor"]
    entries = [json.loads(line) for line in (Path(config.data_dir) / "dropped.jsonl").read_text().splitlines()]
    assert dropped == {reason: len(entries)}
    assert len(entries) == count if count else len(entries) > 5
    assert all(e["reason"] == reason and e["line"] > 0 and e["detail"] for e in entries)


def test_no_planted_value_is_in_any_report(prepare_config):
    planted = re.compile("AKIA|4111|ada@|1234567|0532")
    config = prepare_config(DIRTY / "personal-data.jsonl")
    assert not planted.search(json.dumps(report(config)) + prepare(config).message)
    config = prepare_config(DIRTY / "secrets.jsonl")
    with pytest.raises(UserError) as error:
        prepare(config)
    assert not planted.search(error.value.message + (Path(config.data_dir) / "refused.json").read_text())


@pytest.mark.parametrize("name", ["clean.jsonl", "clean.json", "clean.jsonl.gz", "clean.csv", "instruction.jsonl"])
def test_a_clean_file_of_each_kind_has_no_finding(prepare_config, tmp_path, name):
    fields = {"prompt": "question", "completion": "reply", "category": "topic"} if name == "clean.csv" else {}
    config = prepare_config(EXAMPLES / name)
    source = config.sources[0].model_copy(update={"fields": fields})
    found = report(config.model_copy(update={"sources": (source,)}))
    assert {f["code"] for f in found["findings"]} == SMALL
    assert found["rows"]["train"] == 8


def test_preference_pairs_are_taken_by_name(prepare_config):
    config = prepare_config(EXAMPLES / "preference.jsonl")
    with pytest.raises(UserError, match="preference pair"):
        prepare(config)
    source = config.sources[0].model_copy(update={"format": "Preference"})
    found = report(config.model_copy(update={"sources": (source,)}))
    assert {f["code"] for f in found["findings"]} == {*SMALL, "RejectedUnused"}


def test_every_dirty_file_is_used_here():
    assert {path.stem for path in DIRTY.iterdir()} == {*WARNED, *REFUSED, *DROPPED}
