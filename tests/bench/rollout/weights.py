"""A thousand changes of weight under load: how many requests fail, and is the split what the route says?

The route is written by the operator's own Router and manifest; the operator itself is stopped meanwhile, since it
would put each weight back. A weight counts from the moment when the gateway has confirmed it (`route_in_force`), as
in a rollout.
"""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from luthier.api.modeldeployment import ModelDeploymentSpec
from luthier.deployment.build import Backend, build_route
from luthier.kube import Kube, connect
from luthier.metrics import Metrics
from luthier.naming import child_name
from luthier.plan import Manifest
from luthier.plan import Traffic as RouteWeights
from luthier.resources import HTTPROUTE, Resource
from luthier.router import HttpRouteRouter, Router, route_in_force
from luthier.store import Store
from servingnode.traffic import Request, Traffic

Json = dict[str, Any]
WEIGHTS = (50, 1, 5, 10, 25, 75, 90, 99, 0)
"""At 0 the second revision has left the route; the next one brings it in again."""
POLL_SECONDS = 0.01
DWELL_SECONDS = 0.15
"""A confirmed weight stays so long at least, so that there is something to count."""


@dataclass(kw_only=True)
class Changes:
    """What was written, and when it was in force (monotonic seconds)."""

    windows: list[tuple[int, float, float]] = field(default_factory=list)
    """The second revision's weight, from when it was confirmed until the next one was written."""
    delays: list[float] = field(default_factory=list)
    """From the write to the gateway's confirmation."""


async def change(obj: Json, names: tuple[str, str], *, changes: int, abrupt: bool) -> Changes:
    """Write weights in turn, each as soon as the one before was confirmed and used."""
    spec, done = ModelDeploymentSpec.model_validate(obj["spec"]), Changes()
    async with connect() as client:
        kube = Kube(client, metrics=Metrics())
        router = HttpRouteRouter(kube, _Unwatched(kube, metrics=Metrics(), enqueue=lambda _: None))
        for number in range(changes):
            weight = WEIGHTS[number % len(WEIGHTS)]
            backends = [Backend(revision=names[0], weight=100 - weight)]
            if weight:
                backends.append(Backend(revision=names[1], weight=weight))
            began = time.monotonic()
            await _write(router, kube, obj, build_route(obj, spec, backends), abrupt=abrupt)
            while not route_in_force(await _route(kube, obj)):
                await asyncio.sleep(POLL_SECONDS)
            confirmed = time.monotonic()
            done.delays.append(confirmed - began)
            await asyncio.sleep(DWELL_SECONDS)
            done.windows.append((weight, confirmed, time.monotonic()))
    return done


class _Unwatched(Store):
    """Knows nothing: the route is read anew each time, since nobody watches here."""

    def find(self, resource: Resource, namespace: str, name: str) -> None:
        return None


async def _write(router: Router, kube: Kube, obj: Json, manifest: Manifest, *, abrupt: bool) -> None:
    """Write until the route says what is wanted; `abrupt`: in one write, as a gateway's user would."""
    version = (await _route(kube, obj))["metadata"]["resourceVersion"]
    if abrupt:
        await kube.replace({**manifest, "metadata": {**manifest["metadata"], "resourceVersion": version}})
        return
    while await router.write(RouteWeights(manifest=manifest, resource_version=version)) is not None:
        await asyncio.sleep(POLL_SECONDS)
        version = (await _route(kube, obj))["metadata"]["resourceVersion"]


async def _route(kube: Kube, obj: Json) -> Json:
    route = await kube.get(HTTPROUTE, obj["metadata"]["namespace"], child_name(obj))
    assert route is not None, "the route is gone"
    return route


@dataclass(frozen=True, kw_only=True)
class Share:
    """How the requests of one weight were split."""

    weight: int
    mine: int
    all: int

    @property
    def deviations(self) -> float:
        """Standard deviations from the weight, if each request were drawn on its own."""
        p = self.weight / 100
        return (self.mine - self.all * p) / math.sqrt(max(self.all * p * (1 - p), 1e-9))


def shares(done: Changes, requests: list[Request], revision: str) -> list[Share]:
    """Count, by weight, the requests that began while it was in force."""
    counts: dict[int, list[int]] = defaultdict(lambda: [0, 0])
    ordered = sorted((r for r in requests if r.revision), key=lambda r: r.started)
    windows = iter(done.windows)
    weight, begin, end = next(windows)
    for request in ordered:
        while request.started >= end:
            following = next(windows, None)
            if following is None:
                return _shares(counts)
            weight, begin, end = following
        if request.started >= begin:
            counts[weight][0] += request.revision == revision
            counts[weight][1] += 1
    return _shares(counts)


def _shares(counts: dict[int, list[int]]) -> list[Share]:
    return [Share(weight=weight, mine=mine, all=n) for weight, (mine, n) in sorted(counts.items())]


def measure(
    obj: Json, names: tuple[str, str], url: str, *, kubeconfig: str, changes: int, rate: float, abrupt: bool
) -> Json:
    """Run it; return failed requests, the split by weight and the gateway's delay."""
    os.environ["KUBECONFIG"] = kubeconfig
    clients = Traffic(url=url, rate=rate, streams=0.3, behaviour={"chunk_seconds": 0.1, "answer": "a b c d e f"})
    clients.start()
    try:
        done = asyncio.run(change(obj, names, changes=changes, abrupt=abrupt))
    finally:
        clients.stop()
    delays = sorted(done.delays)
    return {
        "changes": len(done.windows),
        "requests": len(clients.done),
        "streams": sum(r.streamed for r in clients.done),
        "failed": dict(clients.failed()),
        "confirmed_p50": delays[len(delays) // 2],
        "confirmed_p99": delays[int(len(delays) * 0.99)],
        "shares": shares(done, clients.done, names[1].partition("-")[0]),
    }
