"""The picture in docs/analysis.md shows what the test does today."""

from __future__ import annotations

from draw_analysis import BREACH_AT, PATH, SECONDS, draw, evidence_over_time


def test_the_picture_is_the_one_that_the_script_draws():
    assert PATH.read_text() == draw(), "run python hack/draw_analysis.py"


def test_it_tells_the_truth():
    assert len(evidence_over_time(0.01, 3)) == SECONDS
    worse, worst = len(evidence_over_time(0.06, 3)), len(evidence_over_time(0.20, 3))
    assert BREACH_AT < worst < worse < SECONDS
