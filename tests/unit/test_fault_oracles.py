"""The oracles of the crash harness find what they are for: each is shown a run that went wrong."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from faults.crash import Run, compare
from faults.order import order_violations
from faults.proxy import Write
from faults.verdicts import verdict_violations
from luthier.deployment.build import WITHDRAWN_ANNOTATION
from servingstage import Stage

Json = dict[str, Any]
ROOT = "/apis/luthier.dev/v1alpha1/namespaces/team"
DEPLOYMENT, EVALUATION, JOB = (
    f"{ROOT}/{name}/status" for name in ("modeldeployments/support", "evaluations/eval", "finetunejobs/tickets")
)
ROUTE = "/apis/gateway.networking.k8s.io/v1/namespaces/team/httproutes/support"
TAKEN_BACK = {"revision": "r2-abc", "outcome": "RolledBack", "reason": "AnalysisFailed", "step": 2, "weight": 25}


def written(*bodies: tuple[str, Json], status: int = 200) -> list[Write]:
    return [
        Write(number=n, method="PATCH", path=path, status=status, body=json.dumps(body).encode(), at=float(n))
        for n, (path, body) in enumerate(bodies, start=1)
    ]


def history(*entries: Json) -> tuple[str, Json]:
    return DEPLOYMENT, {"status": {"history": list(entries)}}


def succeeded(status: str, reason: str) -> tuple[str, Json]:
    return JOB, {"status": {"conditions": [{"type": "Succeeded", "status": status, "reason": reason}]}}


def route(note: str = "", **weights: int) -> tuple[str, Json]:
    backends = [{"name": f"support-{number}-abc-1234", "weight": weight} for number, weight in weights.items()]
    annotations = {WITHDRAWN_ANNOTATION: json.dumps({"revision": note})} if note else {}
    return ROUTE, {"metadata": {"annotations": annotations}, "spec": {"rules": [{"backendRefs": backends}]}}


@pytest.mark.parametrize(
    ("sentence", "writes", "found"),
    [
        ("a verdict that stays", [history(TAKEN_BACK), history({"revision": "r3-abc"}, TAKEN_BACK)], None),
        ("a verdict that changes", [history(TAKEN_BACK), history({**TAKEN_BACK, "outcome": "Promoted"})], "r2-abc"),
        ("a verdict at another weight", [history(TAKEN_BACK), history({**TAKEN_BACK, "weight": 50})], "r2-abc"),
        ("a verdict that is forgotten", [history(TAKEN_BACK), history()], "r2-abc"),
        (
            "an Evaluation that is judged twice",
            [(EVALUATION, {"status": {"verdict": v, "gates": []}}) for v in ("Passed", "Failed")],
            "the model",
        ),
        ("a run that ends twice", [succeeded("False", "InvalidRow"), succeeded("True", "Succeeded")], "the run"),
        ("a run that ends once", [succeeded("Unknown", "Running"), succeeded("True", "Succeeded")], None),
        ("a share before", [route(r1=75, r2=25), history(TAKEN_BACK), route(r1=100)], None),
        ("a share after the verdict", [history(TAKEN_BACK), route(r1=75, r2=25)], "after it was taken back"),
        (
            "a share that goes by parts",
            [route("r2-abc", r1=25, r2=75), route("r2-abc", r1=50, r2=50), route(r1=100)],
            None,
        ),
        (
            "a part that comes back",
            [route("r2-abc", r1=50, r2=50), route("r2-abc", r1=25, r2=75)],
            "after it was taken back",
        ),
        (
            "an interruption, which is no end",
            [history({**TAKEN_BACK, "outcome": "Interrupted"}), history({**TAKEN_BACK, "outcome": "Promoted"})],
            None,
        ),
        ("a share after the route's note", [route("r2-abc", r1=100), route(r1=75, r2=25)], "after it was taken back"),
    ],
)
def test_what_was_judged_stays_judged(sentence, writes, found):
    problems = list(verdict_violations(written(*writes)))
    assert bool(problems) == (found is not None), sentence
    assert all(found in problem for problem in problems)
    assert list(verdict_violations(written(*writes, status=409))) == [], "a conflict stores nothing"


UNDISTURBED = Run(
    life="deployment-rolled-back",
    rule=None,
    state={"history": [["r2-abc", "RolledBack", "AnalysisFailed", 2, 25]]},
    writes=("PATCH a",) * 10,
    fired=False,
    starts=1,
    seconds=1.0,
)


def test_another_verdict_after_a_crash_is_another_end():
    crashed = replace(UNDISTURBED, state={"history": [["r2-abc", "Aborted", "Aborted", 2, 25]]})
    [problem] = compare(UNDISTURBED, crashed)
    assert problem.startswith("history: ")
    assert compare(UNDISTURBED, replace(UNDISTURBED, seconds=60.0)) == [], "later is no difference"


def seen(*timeline: tuple[dict[str, int], dict[str, int]], judged: dict[int, int], **options: Any) -> list[str]:
    stage = Stage.__new__(Stage)
    stage.timeline = list(timeline)
    return list(stage.violations(judged, **options))


def test_only_who_may_return_gets_traffic_back():
    there_and_back = (({"r1": 50, "r2": 50}, {}), ({"r1": 100}, {}), ({"r1": 50, "r2": 50}, {}))
    assert seen(*there_and_back, judged={}) == ["r2 was taken back, and then got 50 %"]
    assert seen(*there_and_back, judged={}, may_return=frozenset({"r2"})) == []


def test_a_step_on_evidence_from_before_the_weight_is_found():
    enough = (({"r1": 75, "r2": 25}, {}), ({"r1": 50, "r2": 50}, {"r2": 200}), ({"r2": 100}, {"r2": 200}))
    assert seen(*enough, judged={25: 200, 50: 200}) == []
    old = (*enough[:2], ({"r2": 100}, {"r2": 90}))
    assert seen(*old, judged={25: 200, 50: 200}) == ["r2 went from 50 % to 100 % on 90 requests"]


def test_who_has_had_all_traffic_gets_it_back_by_parts_without_a_number():
    back = (
        ({"r1": 100}, {}),
        ({"r1": 5, "r2": 95}, {"r1": 200}),
        ({"r1": 50, "r2": 50}, {}),
        ({"r1": 100}, {"r1": 26}),
    )
    assert seen(*back, judged={50: 40}) == []
    onward = (({"r1": 100}, {}), ({"r1": 50, "r2": 50}, {"r1": 200}), ({"r1": 5, "r2": 95}, {"r2": 26}))
    assert seen(*onward, judged={50: 40}) == ["r2 went from 50 % to 95 % on 26 requests"]
    next_one = (({"r2": 100}, {}), ({"r2": 50, "r3": 50}, {"r2": 200}), ({"r3": 100}, {"r2": 200, "r3": 26}))
    assert seen(*next_one, judged={50: 40}) == ["r3 went from 50 % to 100 % on 26 requests"]


def test_a_verdict_that_a_person_wiped_may_be_missing_and_is_never_another_one():
    again = [history(TAKEN_BACK), history(), history({**TAKEN_BACK, "step": 0, "weight": 0})]
    assert list(verdict_violations(written(*again), may_forget=True)) == []
    other = [history(TAKEN_BACK), history(), history({**TAKEN_BACK, "outcome": "Promoted", "reason": "Promoted"})]
    [problem] = verdict_violations(written(*other), may_forget=True)
    assert "r2-abc" in problem
    share = [history(TAKEN_BACK), history(), route(r1=75, r2=25)]
    assert list(verdict_violations(written(*share), may_forget=True))


def test_a_share_that_its_ready_pods_do_not_carry_is_found():
    stage = Stage.__new__(Stage)
    stage.shares = [({"r1": 5, "r2": 95}, {"r1": 1, "r2": 2}), ({"r1": 50, "r2": 50}, {"r1": 1, "r2": 2})]
    assert list(stage.overloads(2)) == []
    stage.shares = [({"r1": 100}, {"r1": 1, "r2": 2}), ({"r1": 90, "r2": 10}, {"r1": 2})]
    assert list(stage.overloads(2)) == [
        "weights {'r1': 100}, but 1 of 2 pods of r1 were ready",
        "weights {'r1': 90, 'r2': 10}, but 0 of 2 pods of r2 were ready",
    ]


def with_header(service: str) -> tuple[str, Json]:
    path, body = route(r1=100)
    match = {"headers": [{"name": "x-cohort", "value": "beta"}]}
    body["spec"]["rules"].append({"matches": [match], "backendRefs": [{"name": service}]})
    return path, body


def at_step(step: int) -> tuple[str, Json]:
    rollout = {"steps": [{"abTest": {}}, {"setWeight": 50}], "step": step, "weight": 0}
    sides = {"stable": {"name": "r1-abc"}, "candidate": {"name": "r2-abc"}}
    return DEPLOYMENT, {"status": {**sides, "rollout": rollout}}


@pytest.mark.parametrize(
    ("writes", "is_found"),
    [
        ([at_step(1), with_header("support-r2-abc-1234")], False),
        ([at_step(0), with_header("support-r2-abc-1234"), at_step(1)], True),
        ([at_step(1), with_header("support-r3-abc-1234")], True),
        ([at_step(2), with_header("support-r2-abc-1234")], True),
        ([at_step(2), route(r1=100)], False),
    ],
)
def test_a_header_counts_only_where_status_says_so_before(writes, is_found):
    problems = list(order_violations(written(*writes), routes=[{"r1": 100}], status={}))
    assert ["status is at no A/B test of it" in problem for problem in problems] == [True] * is_found
