"""Each rule has an accepted and a refused object; the same table goes to a real API server in tests/cluster."""

from __future__ import annotations

from functools import cache

import pytest

from admission_cases import ACCEPTED, CHANGED, REFUSED
from luthier.api.kinds import KINDS
from offline_admission import SCHEMAS, refusals

SPECS = {kind.kind: kind.spec for kind in KINDS}


@cache
def _said(index):
    return refusals(REFUSED[index].object, REFUSED[index].before)


@pytest.mark.parametrize("index", range(len(REFUSED)), ids=lambda i: REFUSED[i].name)
@pytest.mark.row(43, 71, 79)
def test_refused(index):
    assert _said(index)


@pytest.mark.parametrize("obj", ACCEPTED, ids=lambda o: f"{o['kind']}-{o['metadata']['name'][:20]}")
def test_accepted_and_read_by_the_models(obj):
    assert refusals(obj) == []
    SPECS[obj["kind"]].model_validate(obj["spec"])


@pytest.mark.parametrize(("before", "after"), CHANGED, ids=lambda o: o["kind"])
def test_change_allowed(before, after):
    assert refusals(after, before) == []


def _rules(schema):
    yield from (rule["message"] for rule in schema.get("x-kubernetes-validations", ()))
    for child in schema.get("properties", {}).values():
        yield from _rules(child)
    for key in ("items", "additionalProperties"):
        if key in schema:
            yield from _rules(schema[key])


def test_every_rule_refuses_some_object_of_the_table():
    said = [message for index in range(len(REFUSED)) for message in _said(index)]
    untried = {
        message
        for schema in SCHEMAS.values()
        for message in _rules(schema)
        if not any(text.endswith(message) for text in said)
        # One line of code writes all immutability rules; the table tries two of them per kind.
        and "is immutable" not in message
    }
    assert untried == set()
