"""What people do by hand to children: delete one, edit one. The operator is not asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import yaml

from faults.world import World
from luthier.naming import REVISION_LABEL, ROLE_LABEL
from routes import revision_in, weights_in
from waiting import until

Json = dict[str, Any]
Damage = Callable[["Hands"], None]


class Hands:
    """A person at work in one world, with the rights of an administrator."""

    def __init__(self, api: httpx.Client, world: World) -> None:
        self._api = api
        self.world = world

    def delete(self, plural: str, name: str, *, propagation: str = "Background") -> None:
        reply = self._api.delete(self.world.stage.url(plural, name), params={"propagationPolicy": propagation})
        assert reply.status_code in (200, 202), reply.text

    def edit(self, plural: str, name: str, body: Json) -> None:
        headers = {"Content-Type": "application/merge-patch+json"}
        reply = self._api.patch(self.world.stage.url(plural, name), json=body, headers=headers)
        assert reply.status_code == 200, reply.text

    def child(self, plural: str, number: str) -> Json:
        """Return the child of a revision ("r1")."""
        found = [c for c in self.world.stage.list(plural) if _number(c) == number]
        assert len(found) == 1, f"{len(found)} {plural} of {number}"
        return found[0]

    def route(self) -> Json:
        [route] = self.world.stage.list("httproutes")
        return route

    def delete_child(self, plural: str, number: str) -> None:
        self.delete(plural, self.child(plural, number)["metadata"]["name"])

    def edit_child(self, plural: str, number: str, spec: Json) -> None:
        self.edit(plural, self.child(plural, number)["metadata"]["name"], {"spec": spec})

    def delete_route(self) -> None:
        self.delete("httproutes", self.route()["metadata"]["name"])

    def reweigh(self, weights: dict[str, int], *, forget: bool = False) -> None:
        """Give these revisions these weights; whom the route does not name joins it.

        Args:
            weights: By revision number.
            forget: Take away the operator's notes on the route as well.
        """
        until(
            lambda: self._reweigh(weights, forget=forget), "nobody else writes the route at the same time", seconds=10
        )

    def _reweigh(self, weights: dict[str, int], *, forget: bool) -> bool:
        route = self.route()
        rule = route["spec"]["rules"][0]
        known = {revision_in(b["name"]): b for b in rule["backendRefs"]}
        example = next(iter(known.values()))
        rule["backendRefs"] = [
            {**known.get(number, {**example, "name": self.child("services", number)["metadata"]["name"]}), "weight": w}
            for number, w in weights.items()
        ]
        if forget:
            route["metadata"].pop("annotations", None)
        reply = self._api.put(self.world.stage.url("httproutes", route["metadata"]["name"]), json=route)
        assert reply.status_code in (200, 409), reply.text
        return reply.status_code == 200


def children_of(world: World) -> dict[str, str]:
    """Return what serves, as it has to be: by kind and revision, with what says that it is right."""
    found = {}
    for deployment in world.stage.list("deployments"):
        spec = deployment["spec"]
        image = spec["template"]["spec"]["containers"][0]["image"]
        found[f"Deployment {_number(deployment)}"] = f"{spec['replicas']} of {image}"
    for service in world.stage.list("services"):
        selector = service["spec"].get("selector") or {}
        found[f"Service {_number(service)}"] = f"{selector.get(ROLE_LABEL)} {selector.get(REVISION_LABEL)}"
    for record in world.stage.list("controllerrevisions"):
        if number := _number(record):
            found[f"ControllerRevision {number}"] = record["data"]["hash"]
    for route in world.stage.list("httproutes"):
        found["HTTPRoute"] = ", ".join(f"{number} {weight}" for number, weight in weights_in(route).items())
        found["HTTPRoute's Gateways"] = str([p["name"] for p in route["spec"]["parentRefs"]])
    return found


def _number(child: Json) -> str:
    return child["metadata"].get("labels", {}).get(REVISION_LABEL, "").partition("-")[0]


def all_children(world: World) -> list[Json]:
    kinds = ("deployments", "services", "httproutes", "controllerrevisions")
    return [child for kind in kinds for child in world.stage.list(kind)]


def written_weights(world: World, *, since: int = 0) -> list[dict[str, int]]:
    """Return the weights of each route that the operator wrote; a conflict is none."""
    found = [w for w in world.proxy.writes[since:] if "/httproutes" in w.path and w.status != 409]
    return [weights_in(yaml.safe_load(w.body)) for w in found]
