"""The world of `servingworld` with pods that tell their counters themselves, as the fast lane polls them."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from luthier.deployment.replies import parse_reply
from luthier.naming import REVISION_LABEL
from luthier.ports import PodReply
from luthier_server.counters import EDGES
from servingworld import World

Json = dict[str, Any]


def told(
    *, since: float, counters: dict[str, float] | None = None, aged: bool = True, votes: Json | None = None
) -> Json:
    """Return a pod's reply, as JSON, from counters as this world keeps them; `votes` are [up, down] by revision."""
    c = {name: int(value) for name, value in (counters or {}).items()}
    outcomes = dict.fromkeys(("ok", "server_error", "stream_broken", "overloaded", "client_abort"), 0)
    return {
        "revision": "r",
        "countingSince": since,
        "started": c.get("started", 0),
        "outcomes": {**outcomes, "refused": c.get("bad", 0)},
        "checked": c.get("checked", 0),
        "invalidFormat": c.get("invalid", 0),
        "safetyIncidents": {"critical": c.get("critical", 0)},
        "ageExceeded": [c.get(f"edge{i}", 0) for i in range(len(EDGES))],
        "refusals": c.get("refusals", 0),
        **({"votes": votes} if votes is not None else {}),
        "younger": [0 if aged else c.get("started", 0)] * len(EDGES),
    }


STEPS = [{"setWeight": 10}, {"analysis": {}}, {"setWeight": 50}, {"analysis": {}}]
ANALYSIS = {"minSamples": 50, "intervalSeconds": 2, "metrics": [{"name": "ErrorRate"}]}


def serving(**rollout: Any) -> World:
    """Return a world whose first revision serves all traffic."""
    world = World(rate=20)
    analysis = {**ANALYSIS, **rollout.pop("analysis", {})}
    world.spec(rollout={"steps": STEPS, "analysis": analysis, **rollout})
    world.settle()
    world.run(20)
    return world


def entry(world: World) -> Json:
    """Return the newest entry of the history."""
    newest: Json = world.status["history"][0]
    return newest


@dataclass
class Polled:
    """A fast lane whose pods always answer, a scrape's time apart."""

    world: World
    said: list[PodReply] = field(default_factory=list)
    is_deaf: bool = False

    def replies(self, uid: str) -> tuple[PodReply, ...]:
        now = self.world.now.timestamp()
        self.said = [r for r in self.said if r.at > now - 120 and r.name in self.world.pods]
        return () if self.is_deaf else tuple(self.said)

    def poll(self) -> None:
        for name, pod in self.world.pods.items():
            since = datetime.fromisoformat(pod["metadata"]["creationTimestamp"]).timestamp()
            votes = {r: [v["up"], v["down"]] for r, v in self.world.votes.get(name, {}).items()}
            shown = {pod["metadata"]["labels"][REVISION_LABEL]: [0, 0], **votes}
            value = told(since=since, counters=self.world.counters.get(name, {}), votes=shown)
            reply = parse_reply(value, uid=pod["metadata"]["uid"], name=name, at=self.world.now.timestamp())
            assert reply is not None
            self.said.append(reply)


def poll(world: World) -> Polled:
    """Let the fast lane of a world poll whenever Prometheus would scrape."""
    lane = Polled(world)
    scrape = world._scrape

    def both() -> None:
        lane.poll()
        scrape()

    world.fast, world._scrape = lane, both  # type: ignore[method-assign]
    return lane
