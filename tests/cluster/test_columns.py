"""What `kubectl get mdep` prints: the API server's own table of statuses that the operator's decisions made."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest

from servinglife import serving
from servingworld import Behaviour, World

pytestmark = pytest.mark.cluster
TABLE = {"accept": "application/json;as=Table;v=v1;g=meta.k8s.io"}
STEPS = [{"setWeight": 10}, {"analysis": {}}, {"setWeight": 50}, {"pause": {}}]


def settled() -> World:
    return serving(steps=STEPS)


def in_a_step() -> World:
    world = serving(steps=STEPS)
    world.successor()
    world.run(10)
    return world


def at_a_pause() -> World:
    world = serving(steps=STEPS)
    world.successor()
    assert world.run(300, until=lambda: world.condition("Ready") == "False/WaitingForApproval")
    world.settle()
    return world


def rolled_back() -> World:
    world = serving(steps=STEPS)
    world.behaviour["r2"] = Behaviour(errors=0.2)
    world.successor()
    assert world.run(300, until=lambda: "candidate" not in world.status)
    world.settle()
    return world


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (settled, ("True", "r1", "-", "-", "0%", r"Promoted\(r1\)")),
        (in_a_step, ("True", "r1", "r2", "2/5", "10%", r"NotYet\(\d+/50\)")),
        (at_a_pause, ("True", "r1", "r2", "4/5", "50%", r"WaitingForApproval\(r2\)")),
        (rolled_back, ("True", "r1", "-", "-", "0%", r"RolledBack\(r2: errors \d+% vs 0%, \d+ req\)")),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_the_table_of_the_api_server(make, expected, api, namespace, kubectl):
    world = make()
    path = store(api, namespace, world)
    table = api.get(path, headers=TABLE).json()
    shown = [c["name"].upper() for c in table["columnDefinitions"] if c["priority"] == 0]
    assert shown == ["NAME", "SERVING", "STABLE", "CANDIDATE", "STEP", "WEIGHT", "VERDICT", "SINCE"]
    name, *cells, since, message = table["rows"][0]["cells"]
    assert name == "support"
    assert all(re.fullmatch(want, cell) for want, cell in zip(expected, cells, strict=True)), cells
    assert re.fullmatch(r"\d+[smhdy]\w*", since), "a time, not an error"
    assert message == world.message("Ready")
    assert "<none>" not in kubectl("get", "mdep", "-n", namespace).stdout


def store(api: Any, namespace: str, world: World) -> str:
    """Make the object as the world has it, and return its address."""
    obj = copy.deepcopy(world.obj)
    status = obj.pop("status")
    obj["metadata"] = {"name": obj["metadata"]["name"], "namespace": namespace}
    path = f"/apis/luthier.dev/v1alpha1/namespaces/{namespace}/modeldeployments"
    made = api.post(path, json=obj)
    assert made.status_code == 201, made.text
    written = api.put(f"{path}/{obj['metadata']['name']}/status", json={**made.json(), "status": status})
    assert written.status_code == 200, written.text
    assert written.json()["status"] == status, "the schema keeps every field"
    return f"{path}/{obj['metadata']['name']}"
