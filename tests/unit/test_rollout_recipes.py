"""What docs/rollouts.md tells people to type does what it says, and each field of a rollout has an example."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from luthier.api.kinds import MODEL_DEPLOYMENT
from luthier.crd import structural
from servingworld import Behaviour, World

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples" / "deployment"
PAGE = (ROOT / "docs" / "rollouts.md").read_text()


def example(name: str) -> dict[str, Any]:
    return yaml.safe_load((EXAMPLES / f"{name}.yaml").read_text())["spec"]


def serving(**spec: Any) -> World:
    world = World(rate=20)
    analysis = {"minSamples": 50, "intervalSeconds": 2, "metrics": [{"name": "ErrorRate"}]}
    world.spec(**spec, rollout={"steps": [{"setWeight": 10}, {"analysis": {}}], "analysis": analysis})
    world.settle()
    world.run(20)
    return world


def test_a_broken_stable_is_replaced_as_the_page_says():
    world = serving()
    world.with_edges = True  # as every real server has them
    world.successor()
    world.run(8)
    world.behaviour["r1"] = Behaviour(errors=0.6)
    assert world.run(300, until=lambda: world.condition("Ready") == "False/BaselineUnhealthy")
    candidate = world.status["candidate"]["name"]
    world.spec(rollout={"abort": {"revision": candidate}})
    world.settle()
    assert world.condition("Stalled") == "True/Aborted"
    rollout = example("replace-broken-stable")["rollout"]
    world.spec(rollout={**rollout, "retry": {"revision": candidate}, "abort": None})
    assert world.run(60, until=lambda: world.status["stable"]["name"].startswith("r3-"))
    assert world.status["stable"]["name"].partition("-")[2] == candidate.partition("-")[2]
    world.settle()
    assert world.weights() == {"r3": 100}


def test_fewer_replicas_start_nothing_and_make_room_for_the_candidate():
    world = serving(replicas=4)
    world.spec(replicas=example("no-spare-gpu")["replicas"], rollout={"abortScaleDownDelaySeconds": 0})
    world.settle()
    assert world.replicas("r1") == 2
    assert "candidate" not in world.status
    world.successor()
    most = 0

    def promoted() -> bool:
        nonlocal most
        most = max(most, len(world.pods))
        return world.status["stable"]["name"].startswith("r2-")

    assert world.run(300, until=promoted)
    assert most == 4
    world.spec(replicas=4)
    world.run(4)
    assert (world.replicas("r1"), world.replicas("r2")) == (0, 4)


def test_each_field_of_a_rollout_has_an_example():
    used = {path for file in EXAMPLES.glob("*.yaml") for path in _paths(yaml.safe_load(file.read_text())["spec"])}
    rollout = structural(MODEL_DEPLOYMENT.spec)["properties"]["rollout"]
    missing = {f"rollout.{path}" for path in _leaves(rollout)} - used
    assert not missing, f"add them to a manifest of {EXAMPLES.relative_to(ROOT)}"


def test_the_page_names_examples_that_exist_and_steps_that_the_schema_takes():
    linked = set(re.findall(r"examples/deployment/([\w-]+)\.yaml", PAGE))
    assert linked
    assert linked <= {file.stem for file in EXAMPLES.glob("*.yaml")}
    for block in re.findall(r"```yaml\n(rollout:\n.*?)```", PAGE, re.DOTALL):
        MODEL_DEPLOYMENT.spec.model_validate({**example("default"), **yaml.safe_load(block)})


def _paths(value: Any, path: str = "") -> Iterator[str]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _paths(inner, f"{path}.{name}" if path else name)
    elif isinstance(value, list):
        for inner in value:
            yield from _paths(inner, path)
    yield path


def _leaves(schema: dict[str, Any], path: str = "") -> Iterator[str]:
    if schema["type"] == "array":
        yield from _leaves(schema["items"], path)
    elif "properties" in schema:
        for name, inner in schema["properties"].items():
            yield from _leaves(inner, f"{path}.{name}" if path else name)
    else:
        yield path
