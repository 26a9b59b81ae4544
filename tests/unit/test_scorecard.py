"""The scorecard of `make faults`, made of reports that no run has written."""

from __future__ import annotations

import pytest

from faults.crash import Score
from faults.rows import ROWS, Shown
from faults.scorecard import judge_rows, missed, read_report, render

PASSED = '<testcase classname="tests.cluster.test_x" name="test_{n}"><properties>{p}</properties>{more}</testcase>'
WAITING = {n for n, one in ROWS.items() if one.waits}
IMAGES_ONLY = 58
SHOWN = {n: [Shown(make="api-test", file="cluster/test_x.py", test="test")] for n in ROWS}
SHOWN |= {IMAGES_ONLY: [Shown(make="image-test", file="server/test_health.py", test="test")]}
GOOD = Score(points=570, by_life={"deployment-first": 570})


def report(more: dict[int, str] | None = None, *, without: int | None = None, properties: str = "") -> str:
    found = ""
    for number in ROWS.keys() - WAITING - {IMAGES_ONLY, without}:
        said = f'<property name="row" value="{number}"/>{properties if number == 8 else ""}'
        found += PASSED.format(n=number, p=said, more=(more or {}).get(number, ""))
    return f"<testsuites><testsuite>{found}</testsuite></testsuites>"


def outcome(text: str, score: Score = GOOD) -> tuple[list[str], str]:
    cases = read_report(text)
    verdict = judge_rows(cases, SHOWN)
    return missed(score, verdict, cases), render(score, verdict, cases)


def test_all_green_meets_all_bars_and_names_what_is_not_shown_here():
    failed, text = outcome(report())
    assert failed == []
    green = len(ROWS) - len(WAITING) - 1
    assert f"{green} green, 0 red, 1 shown elsewhere, {len(WAITING)} waiting, of {len(ROWS)}" in text
    assert f"not run here: 58 {ROWS[58].fault} (make image-test)" in text
    assert all(f"waiting: {n} {ROWS[n].fault} (for: {ROWS[n].waits})" in text for n in WAITING)


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ('<failure message="it died"/>', "failure: it died"),
        ('<error message="no server"/>', "error: no server"),
        ('<skipped type="pytest.xfail" message="not mended yet"/>', "skipped: not mended yet"),
    ],
)
def test_a_test_that_did_not_pass_makes_its_row_red(more, why):
    failed, text = outcome(report({7: more}))
    assert failed == ["row 7 is red"]
    assert f"tests/cluster/test_x: test_7 ({why})" in text


def test_a_row_whose_tests_did_not_run_is_red():
    failed, text = outcome(report(without=13))
    assert failed == ["row 13 is red"]
    assert "no test has run" in text


def test_a_file_of_tests_that_cannot_be_read_misses_a_bar():
    broken = '<testcase classname="" name="tests.cluster.test_y"><error message="collection failure"/></testcase>'
    failed, _ = outcome(report().replace("<testsuite>", f"<testsuite>{broken}", 1))
    assert failed == [": tests.cluster.test_y (error: collection failure)"]


def test_wrong_ends_and_writes_on_a_restart_miss_their_bars():
    score = Score(points=12, wrong=["deployment-first, ..."])
    counted = '<property name="settled_writes" value="2"/><property name="settled_objects" value="304"/>'
    failed, text = outcome(report(properties=counted), score)
    assert failed == ["1 wrong ends", "2 writes on a restart with everything settled"]
    assert "1 of 12 (bar: 0 of 300 or more)" in text
    assert "fewer than 300" in text
    assert "2 among 304 objects (bar: 0)" in text


def test_numbers_of_several_tests_are_the_worst_or_the_sum():
    counted = '<property name="failover_seconds" value="{}"/><property name="breaches_missed" value="1/25"/>'
    properties = counted.format("14.2") + "</properties></testcase><testcase><properties>" + counted.format("17.1")
    _, text = outcome(report(properties=properties))
    assert "failover without a leader: 17.1 s at worst of 2 (bar: 15 s; missed)" in text
    assert "kept their traffic (bar: 0): 2 of 50" in text


def test_crash_points_alone_say_nothing_of_rows():
    assert "rows" not in render(GOOD, None, [])
    assert missed(GOOD, None, []) == []
