"""Whatever is applied, as long as it is JSON: it is refused with a field's name, or comes to a clear condition.

How many: LUTHIER_RANDOM (2000 take about a minute); which: LUTHIER_SEED.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, given, seed, settings

from factories import make_finetunejob
from faults.lives import begin_first, first_serves
from faults.random_objects import objects
from faults.world import World, open_world
from luthier.resources import BY_KIND
from servingstage import install_routes
from waiting import until

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.flood]
Json = dict[str, Any]
COUNT, SEED = int(os.environ.get("LUTHIER_RANDOM", "2000")), int(os.environ.get("LUTHIER_SEED", "7"))
SUMMARIES = ("Succeeded", "Ready")
FIELD = re.compile(r"\b(spec|metadata)\b")


@pytest.mark.row(68)
def test_every_object_is_refused_by_name_of_a_field_or_comes_to_a_clear_condition(api, namespace, tmp_path):
    install_routes(api)
    with open_world(api, f"{namespace}-any", tmp_path) as world:
        world.operator.start()
        bystanders = make_bystanders(world)
        accepted, refused = apply_all(api, world)
        print(f"seed {SEED}: {len(accepted)} accepted, {refused} refused")
        assert len(accepted) > COUNT / 5
        assert refused > COUNT / 10
        unclear: dict[str, Json] = {}

        def are_clear() -> bool:
            nonlocal unclear
            unclear = {name: obj for name, obj in accepted.items() if not is_clear(world, obj, name)}
            return not unclear

        try:
            until(are_clear, "all have a condition", seconds=30 + COUNT / 20)
        except AssertionError:
            pytest.fail(f"{len(unclear)} without a clear condition, of them: {json.dumps(next(iter(unclear.items())))}")
        print(Counter(reasons(world, obj, name) for name, obj in accepted.items()))
        assert bystanders == [look_at(world, *one) for one in BYSTANDERS]
        assert children_of_support(world) == world.notes["support"]
        log = world.log()
        assert "Traceback" not in log, log[log.index("Traceback") - 2000 :][:6000]
        assert world.operator.is_alive()


def apply_all(api, world: World) -> tuple[dict[str, Json], int]:
    """Apply random objects; return those that were accepted, by name, and how many were not."""
    accepted: dict[str, Json] = {}
    refused = 0
    serving = world.place.get("modeldeployments", "support")["spec"]

    @seed(SEED)
    @settings(max_examples=COUNT, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(objects(serving))
    def apply_one(obj: Json) -> None:
        nonlocal refused
        name = f"any-{len(accepted) + refused}"
        url = world.place.url(BY_KIND[obj["kind"]].plural)
        body = {**obj, "metadata": {"name": name}}
        reply = api.post(url, json=body, params={"fieldValidation": "Strict"})
        if reply.status_code == 201:
            accepted[name] = reply.json()
            return
        refused += 1
        assert reply.status_code in (400, 422), f"{reply.text}\n{json.dumps(body)}"
        assert names_a_field(reply.json()), f"{reply.text}\n{json.dumps(body)}"

    apply_one()
    return accepted, refused


def names_a_field(refusal: Json) -> bool:
    fields = [cause.get("field", "") for cause in refusal.get("details", {}).get("causes", [])]
    # What is no JSON of this type at all has no causes: unknown fields, and numbers that are too long.
    return any(map(FIELD.match, fields)) if fields else bool(FIELD.search(refusal["message"]))


def is_clear(world: World, obj: Json, name: str) -> bool:
    status = world.place.status(BY_KIND[obj["kind"]].plural, name)
    conditions = status.get("conditions", [])
    return (
        status.get("observedGeneration") == obj["metadata"]["generation"]
        and any(c["type"] in SUMMARIES for c in conditions)
        and all(c["reason"] and c["reason"] != "InternalError" and c["message"] for c in conditions)
    )


def reasons(world: World, obj: Json, name: str) -> str:
    conditions = world.place.status(BY_KIND[obj["kind"]].plural, name)["conditions"]
    return f"{obj['kind']} {next(c['reason'] for c in conditions if c['type'] in SUMMARIES)}"


# Bystanders: what nobody asked to be changed

BYSTANDERS = (("finetunejobs", "bystander"), ("configmaps", "bystander"), ("persistentvolumeclaims", "data"))


def make_bystanders(world: World) -> list[Json]:
    world.place.make("finetunejobs", make_finetunejob("bystander", suspend=True))
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "bystander"}, "data": {"a": "b"}}
    world.place.create("configmaps", config)
    begin_first(world)
    until(lambda: first_serves(world), "the first revision serves")
    until(lambda: world.place.status("finetunejobs", "bystander").get("conditions"), "the bystander is suspended")
    world.notes["support"] = children_of_support(world)
    return [look_at(world, *one) for one in BYSTANDERS]


def look_at(world: World, plural: str, name: str) -> Json | None:
    return world.place.get(plural, name)


def children_of_support(world: World) -> list[str]:
    """Return the specs of the children of the ModelDeployment that serves already."""
    uid = world.place.get("modeldeployments", "support")["metadata"]["uid"]
    kinds = ("deployments", "services", "httproutes", "controllerrevisions")
    found = [child for kind in kinds for child in world.stage.list(kind)]
    mine = [c for c in found if uid in json.dumps(c["metadata"].get("ownerReferences", []))]
    return sorted(json.dumps([c["metadata"]["name"], c.get("spec"), c.get("data")], sort_keys=True) for c in mine)
