"""Scores, cases, gates and what is reported: pure parts of the evaluator."""

from __future__ import annotations

import json
import re

import pytest

from luthier_eval import gates, report, results
from luthier_eval.cases import Case, Cases, build_request, read_cases
from luthier_eval.config import EvalConfig, ExampleConfig, GateConfig, MetricConfig, SideConfig, SuiteConfig
from luthier_eval.engine import Answer
from luthier_eval.judge import judge_suite
from luthier_eval.samples import run_key
from luthier_eval.scoring import exact_match, scorer, token_f1
from luthier_eval.stats import Estimate
from luthier_trainer.config import StepResult
from luthier_trainer.errors import UserError
from luthier_trainer.result import shorten

LEVEL = 0.95
EXACT = MetricConfig(name="exact", type="ExactMatch")


def make_suite(path="", **changes):
    fields = {"name": "held-out", "type": "HeldOut", "path": str(path), "uri": "pvc://data/test.jsonl"}
    return SuiteConfig(**{**fields, "metrics": (EXACT,), **changes})


def make_config(**changes):
    fields = {
        "name": "tickets-eval",
        "evaluation_uid": "u",
        "endpoint": "http://127.0.0.1:1",
        "target": SideConfig(name="target", model="target"),
        "baselines": (SideConfig(name="base", model="base"),),
        "suites": (make_suite(),),
        "gates": (GateConfig(suite="held-out", metric="exact", min_percent=70),),
        "model_digest": "sha256:m",
        "base_digest": "sha256:b",
        "artifact_path": "/nowhere",
        "serving_profile": {"maxModelLen": 256},
        "output_dir": "/nowhere",
        "result_path": "/nowhere/result.json",
    }
    return EvalConfig(**{**fields, **changes})


def make_case(number, expected="yes", *, raw=False, messages=None):
    messages = messages or ({"role": "user", "content": f"question {number}"},)
    return Case(id=f"{number:064d}", messages=tuple(messages), expected=expected, raw=raw)


def judged(right, base_right, n, **changes):
    """Judge a suite in which the target has the first `right` cases right and the base the first `base_right`."""
    config = make_config(**changes)
    cases = Cases(chosen=tuple(make_case(i) for i in range(n)), available=n, duplicates=0)
    answers = {
        side: {case.id: Answer(text="yes" if i < count else "no") for i, case in enumerate(cases.chosen)}
        for side, count in (("target", right), ("base", base_right))
    }
    suite = judge_suite(config, config.suites[0], cases, {"exact": exact_match}, answers)
    by_name = {suite.name: suite}
    decisions = tuple(gates.decide_gate(gate, by_name, level=LEVEL) for gate in config.gates)
    return results.Results(config=config, suites=(suite,), gates=decisions, versions={"python": "3"}, render="Chat")


@pytest.mark.parametrize(
    ("answer", "expected", "exact", "f1"),
    [
        ("yes", "yes", 1, 1),
        (" yes\n", "yes", 1, 1),
        ("Yes", "yes", 0, 1),
        ("", "", 1, 1),
        ("", "yes", 0, 0),
        ("the red fox", "a red fox", 0, 2 / 3),
        ("fox fox fox", "fox", 0, 0.5),
        ("!!!", "...", 0, 1),
    ],
)
def test_exact_match_and_f1(answer, expected, exact, f1):
    assert exact_match(answer, expected) == exact
    assert token_f1(answer, expected) == pytest.approx(f1)


SCHEMA = '{"type": "object", "required": ["team"], "properties": {"team": {"enum": ["billing"]}}}'


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        ('{"team": "billing"}', 1),
        ('{"team": "sales"}', 0),
        ('Sure: {"team": "billing"}', 0),
        ("", 0),
        ("[" * 100_000, 0),
        ('{"team": NaN}', 0),
    ],
)
def test_schema_validity(answer, score):
    metric = MetricConfig(name="json", type="JSONSchema", json_schema=SCHEMA)
    assert scorer(metric, where="here")(answer, "") == score


def test_a_schema_whose_pattern_runs_for_ever_gives_no_hang():
    metric = MetricConfig(name="json", type="JSONSchema", json_schema='{"pattern": "^(a+)+$"}')
    assert scorer(metric, where="here")('"' + "a" * 60 + 'b"', "") == 0


def test_a_number_that_no_float_holds_is_a_wrong_answer():
    metric = MetricConfig(name="json", type="JSONSchema", json_schema='{"multipleOf": 0.01}')
    score = scorer(metric, where="here")
    assert [score(answer, "") for answer in ("0.5", "1" + 400 * "0")] == [1, 0]


@pytest.mark.parametrize(
    "schema",
    [
        "{",
        '{"type": "wrong"}',
        '{"$ref": "http://example.com/schema.json"}',
        '{"$ref": "#/title", "title": "x"}',
        '{"$ref": "#/examples/0", "examples": [{"type": 3}]}',
        '{"$ref": "#/minimum/0", "minimum": 1}',
    ],
)
def test_a_wrong_schema_is_named(schema):
    metric = MetricConfig(name="json", type="JSONSchema", json_schema=schema)
    with pytest.raises(UserError, match=r"metrics\[0\]\.jsonSchema is not a JSON Schema"):
        scorer(metric, where="metrics[0]")


def write_rows(path, rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def test_the_chosen_cases_do_not_depend_on_the_order_of_the_file(tmp_path):
    rows = [{"prompt": f"q{i}", "completion": "a"} for i in range(20)]
    one = read_cases(make_suite(write_rows(tmp_path / "a.jsonl", rows), max_cases=5), "Raw")
    other = read_cases(make_suite(write_rows(tmp_path / "b.jsonl", [*reversed(rows), rows[3]]), max_cases=5), "Raw")
    assert [c.id for c in one.chosen] == [c.id for c in other.chosen]
    assert one.digest == other.digest
    assert (one.available, one.duplicates, other.duplicates) == (20, 0, 1)
    assert len(one.chosen) == 5


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([], "has no rows"),
        (["not json"], "pvc://data/test.jsonl:1: not JSON"),
        ([{"prompt": "q", "completion": "a"}, {"prompt": "q"}], "test.jsonl:2: no known format"),
        ([{"messages": [{"role": "user", "content": "q"}]}], "test.jsonl:1: no assistant"),
    ],
)
def test_a_broken_suite_names_file_and_line(tmp_path, rows, says):
    with pytest.raises(UserError, match=re.escape(says)) as caught:
        read_cases(make_suite(write_rows(tmp_path / "test.jsonl", rows)), "Chat")
    assert caught.value.reason == "InvalidSuite"
    assert "suite held-out" in caught.value.message


def test_a_missing_suite_is_named(tmp_path):
    with pytest.raises(UserError, match=r"suite held-out: pvc://data/test.jsonl is not there"):
        read_cases(make_suite(tmp_path / "none.jsonl"), "Chat")


CHAT = ({"role": "system", "content": "short"}, {"role": "user", "content": "q"})


@pytest.mark.parametrize(
    ("side", "roles", "system"),
    [
        ({}, "system user", "short"),
        ({"system_prompt": "long"}, "system user", "long"),
        ({"system_prompt": ""}, "user", None),
        ({"examples": (ExampleConfig(user="u", assistant="a"),)}, "system user assistant user", "short"),
    ],
)
def test_each_side_has_its_own_prompt(side, roles, system):
    case = make_case(1, messages=CHAT)
    path, body = build_request(case, SideConfig(name="s", model="m", **side), make_suite(max_tokens=9, seed=3))
    assert path == "/v1/chat/completions"
    assert " ".join(m["role"] for m in body["messages"]) == roles
    assert system is None or body["messages"][0]["content"] == system
    assert {k: body[k] for k in ("model", "max_tokens", "temperature", "seed")} == {
        "model": "m",
        "max_tokens": 9,
        "temperature": 0.0,
        "seed": 3,
    }


def test_rows_are_asked_as_the_artifact_was_trained(tmp_path):
    path = write_rows(tmp_path / "t.jsonl", [{"prompt": "2+2=", "completion": "4"}])
    side = SideConfig(name="s", model="m")
    (raw,) = read_cases(make_suite(path), "Raw").chosen
    assert build_request(raw, side, make_suite())[0] == "/v1/completions"
    assert build_request(raw, side, make_suite())[1]["prompt"] == "2+2="
    (chat,) = read_cases(make_suite(path), "Chat").chosen
    assert build_request(chat, side, make_suite())[0] == "/v1/chat/completions"
    assert raw.id != chat.id, "the answers to one are none to the other"


@pytest.mark.parametrize(
    "changes", [{"model_digest": "sha256:n"}, {"image": "server:2"}, {"serving_profile": {"maxModelLen": 512}}]
)
def test_answers_belong_to_weights_profile_and_image(changes):
    config = make_config(image="server:1")
    keys = {run_key(c, c.suites[0], c.target) for c in (config, make_config(**{"image": "server:1", **changes}))}
    assert len(keys) == 2
    assert run_key(config, config.suites[0], config.target) in keys


def between(low, high):
    return Estimate(value=(low + high) / 2, low=low, high=high, method="")


@pytest.mark.parametrize(
    ("low", "high", "outcome"),
    [
        (0.7, 0.9, "Passed"),
        (0.71, 0.9, "Passed"),
        (0.69, 0.9, "Inconclusive"),
        (0.5, 0.7, "Inconclusive"),
        (0.5, 0.69, "Failed"),
    ],
)
def test_a_gate_passes_by_the_whole_interval_only(low, high, outcome):
    assert gates.outcome_of(between(low, high), 0.7) == outcome


@pytest.mark.parametrize(
    ("outcomes", "verdict"),
    [
        ([], "Passed"),
        (["Passed"], "Passed"),
        (["Passed", "Inconclusive"], "Inconclusive"),
        (["Inconclusive", "Failed", "Passed"], "Failed"),
    ],
)
def test_the_verdict_is_the_worst_gate(outcomes, verdict):
    assert gates.combine(outcomes) == verdict


VERSUS = GateConfig(suite="held-out", metric="exact", versus_baseline="base", min_difference_percent=5)
BOTH = GateConfig(suite="held-out", metric="exact", min_percent=70, versus_baseline="base", min_difference_percent=5)


@pytest.mark.parametrize(
    ("right", "base_right", "n", "gate", "verdict"),
    [
        (126, 4, 144, None, "Passed"),
        (9, 0, 10, None, "Inconclusive"),
        (10, 0, 10, None, "Inconclusive"),
        (11, 0, 11, None, "Passed"),
        (60, 0, 144, None, "Failed"),
        (126, 4, 144, VERSUS, "Passed"),
        (126, 120, 144, VERSUS, "Inconclusive"),
        (60, 120, 144, VERSUS, "Failed"),
        (126, 4, 144, BOTH, "Passed"),
        (60, 4, 144, BOTH, "Failed"),
        (126, 124, 144, BOTH, "Inconclusive"),
    ],
)
def test_verdicts(right, base_right, n, gate, verdict):
    found = judged(right, base_right, n, **({"gates": (gate,)} if gate else {}))
    assert found.verdict == verdict
    assert found.summary.startswith(f"{verdict}: held-out exact {100 * right / n:.1f} %")


def test_a_gate_says_its_numbers_its_bound_and_how_many_cases_it_takes():
    (gate,) = judged(9, 0, 10).gates
    assert gate.message.startswith("90.0 % [55.5, 99.7] of 10, needs 70 % (no fewer than 11 cases can pass), undecided")
    assert re.search(r"about \d+ cases would decide", gate.message)


@pytest.mark.parametrize(
    ("gate", "says"),
    [
        ({"metric": "bleu"}, r"gates\[0\]: no suite computes held-out/bleu; there are held-out/exact"),
        ({"versus_baseline": "gpt"}, r"gates\[0\]: no baseline is called gpt; there are base"),
        ({"min_percent": None}, r"gates\[0\] bounds nothing"),
    ],
)
def test_names_that_do_not_fit_are_refused(gate, says):
    wrong = GateConfig(**{"suite": "held-out", "metric": "exact", "min_percent": 70, **gate})
    with pytest.raises(UserError, match=says):
        gates.check_config(make_config(gates=(wrong,)))


def test_a_side_that_is_refused_every_prompt_gives_no_verdict():
    config = make_config()
    cases = Cases(chosen=(make_case(1), make_case(2)), available=2, duplicates=0)
    refused = {case.id: Answer(error="400 too long") for case in cases.chosen}
    answers = {"target": {case.id: Answer(text="yes") for case in cases.chosen}, "base": refused}
    with pytest.raises(UserError, match="refuses every prompt of base") as caught:
        judge_suite(config, config.suites[0], cases, {"exact": exact_match}, answers)
    assert caught.value.field == "servingProfile.maxModelLen"


def test_details_of_the_largest_evaluation_fit_a_termination_message():
    metrics = tuple(MetricConfig(name=f"metric-{i}", type="ExactMatch") for i in range(16))
    suites = tuple(make_suite(name=f"suite-{i}", metrics=metrics) for i in range(16))
    baselines = tuple(SideConfig(name=f"baseline-{i}", model="base") for i in range(8))
    asked = [GateConfig(suite=s.name, metric=m.name, min_percent=70) for s in suites for m in metrics][:32]
    config = make_config(suites=suites, baselines=baselines, gates=tuple(asked))
    cases = Cases(chosen=tuple(make_case(i) for i in range(3)), available=3, duplicates=0)
    answers = {s.name: {c.id: Answer(text="yes") for c in cases.chosen} for s in (config.target, *baselines)}
    scorers = {m.name: exact_match for m in metrics}
    found = tuple(judge_suite(config, suite, cases, scorers, answers) for suite in suites[:2])
    decisions = tuple(gates.decide_gate(g, {s.name: s for s in found}, level=LEVEL) for g in asked)
    everything = results.Results(config=config, suites=found, gates=decisions, versions={}, render="Chat")
    details = results.details(everything, "{}")
    result = StepResult(outcome="Succeeded", reason="Evaluated", message=details.summary, details=details.model_dump())
    assert len(shorten(result).encode()) <= 4096
    assert (details.verdict, details.summary) == (everything.verdict, everything.summary)
    assert details.gates, "the gates are kept as long as they fit"


def test_small_details_are_whole():
    found = judged(126, 4, 144)
    details = results.details(found, results.render_results(found))
    ((metric,),) = (suite.metrics for suite in details.suites)
    assert (metric.n, metric.target.value, metric.target.low) == (144, 87.5, 80.97)
    assert metric.baselines[0].difference.value == pytest.approx(84.72)


def test_the_report_escapes_texts_asks_nobody_and_says_the_verdict_first():
    evil = "<script>alert(1)</script>"
    found = judged(126, 4, 144)
    case = make_case(1, expected=evil, messages=({"role": "user", "content": evil},))
    answers = {"target": Answer(text=evil), "base": Answer(text=evil)}
    sample = type(found.suites[0].samples[0])(case=case, answers=answers, scores={"target": 0.0, "base": 1.0})
    suite = found.suites[0].__class__(**{**vars(found.suites[0]), "samples": (sample,)})
    page = report.render_report(results.Results(**{**vars(found), "suites": (suite,)}))
    assert "<script" not in page
    assert page.count("&lt;script&gt;") == 4
    assert not re.search(r"(src|href|url\()\s*=?\s*['\"]?(https?:)?//", page)
    assert "default-src 'none'" in page
    assert page.index("Passed</b>") < page.index("<table>")
    assert "right: base" in page


def test_results_hold_every_number_and_no_text_of_a_case():
    found = judged(126, 4, 144)
    written = results.render_results(found)
    read = json.loads(written)
    assert read["verdict"] == "Passed"
    assert read["suites"][0]["metrics"][0]["target"]["method"] == "Clopper-Pearson"
    assert read["suites"][0]["metrics"][0]["baselines"][0]["mcnemar_p"] < 1e-9
    assert read["servingProfile"] == {"maxModelLen": 256}
    assert "question 1" not in written
