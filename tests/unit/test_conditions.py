"""Every state of docs/conditions.md, read by the rules of kstatus and by our Argo CD health check, run as Lua."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import lupa
import pytest

from luthier.api.conditions import ARGO_HEALTH, STATES, ConditionType, Reason
from luthier.api.step_reasons import StepReason
from luthier.status import SUMMARY, summarize

ROOT = Path(__file__).resolve().parents[2]
NOW = datetime(2026, 1, 1, tzinfo=UTC)
TREES = [ROOT / "operator" / "luthier", ROOT / "server_image", ROOT / "trainer_image"]
REASON_COMES_FIRST = {"UserError", "StorageError", "RefusedError", "internal_error"}
"""Calls whose first argument is a reason."""


def conditions_of(state):
    return [{"type": c.type, "status": c.status, "reason": c.reason, "message": "because"} for c in state.conditions]


def kstatus(status, generation=1):
    """Judge as kstatus does: generation, then Reconciling and Stalled, then Ready."""
    if status.get("observedGeneration") != generation:
        return "InProgress"
    by_type = {c["type"]: c["status"] for c in status["conditions"]}
    if by_type.get("Reconciling") == "True":
        return "InProgress"
    if by_type.get("Stalled") == "True":
        return "Failed"
    return "InProgress" if by_type.get("Ready") in ("False", "Unknown") else "Current"


def argo(status):
    lua = lupa.LuaRuntime()
    obj = lua.table_from({"metadata": {"generation": 1}, **({"status": status} if status else {})}, recursive=True)
    return lua.eval(f"function(obj) {ARGO_HEALTH} end")(obj)["status"]


@pytest.mark.parametrize("state", STATES, ids=lambda s: f"{s.kind} {s.name}")
def test_state_reads_as_documented(state):
    status = {"observedGeneration": 1, "conditions": conditions_of(state)}
    assert kstatus(status) == state.kstatus
    assert argo(status) == state.argo


@pytest.mark.parametrize("state", STATES, ids=lambda s: f"{s.kind} {s.name}")
def test_summary_of_the_state_is_what_summarize_writes(state):
    summary = SUMMARY[state.kind]
    shown = conditions_of(state)
    others = [c for c in shown if c["type"] != summary]
    (expected,) = [c for c in shown if c["type"] == summary]
    written = summarize(others, kind=state.kind, reason=expected["reason"], message="m", generation=1, now=NOW)
    assert {k: written[-1][k] for k in ("status", "reason")} == {k: expected[k] for k in ("status", "reason")}


@pytest.mark.parametrize("status", [None, {"observedGeneration": -1}])
def test_an_object_that_nobody_has_looked_at_is_in_progress(status):
    assert kstatus(status or {}) == "InProgress"
    assert argo(status) == "Progressing"


def _used_reasons() -> Iterator[tuple[str, str]]:
    """Yield `(where, reason)` of each literal that is given as `reason=` or named `…_REASON`."""
    for tree in TREES:
        for path in sorted(tree.rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                for value in _reason_values(node):
                    if isinstance(value, ast.Constant) and isinstance(value.value, str) and value.value:
                        yield f"{path.relative_to(ROOT)}:{value.lineno}", value.value


def _reason_values(node: ast.AST) -> Iterator[ast.expr]:
    if isinstance(node, ast.Call):
        for keyword in node.keywords:
            if keyword.arg == "reason":
                yield from _branches(keyword.value)
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if called in REASON_COMES_FIRST and node.args:
            yield from _branches(node.args[0])
    if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id.endswith("_REASON") for t in node.targets):
        yield from _branches(node.value)


def _branches(value: ast.expr) -> Iterator[ast.expr]:
    yield from _branches(value.body) if isinstance(value, ast.IfExp) else [value]
    if isinstance(value, ast.IfExp):
        yield from _branches(value.orelse)


def test_every_reason_that_code_uses_is_documented():
    known = {*Reason, *StepReason}
    unknown = [f"{where} {reason}" for where, reason in _used_reasons() if reason not in known]
    assert unknown == [], "add them to Reason (or the images' StepReason) in luthier.api, with what a user should do"


def test_reasons_are_pascal_case_facts_with_a_meaning():
    for reason in (*Reason, *StepReason):
        assert reason.value[0].isupper()
        assert reason.value.isalnum()
        assert reason.meaning.endswith(".")


def test_every_condition_type_is_in_some_state():
    assert {c.type for state in STATES for c in state.conditions} == set(ConditionType)
