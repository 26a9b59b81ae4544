"""The operator, put together: what watches, what decides who acts, what acts, what answers probes.

```
kopf (own thread) ──events──► own objects ─┐                      ┌► observe ► decide ► apply   (one of N workers)
list every 10 min ──────────►              ├──keys──► work queue ─┤      only while the Lease is held
children's watches ─────────► store ───────┘                      └► status, events
pods of rollouts ───────────► fast lane ───┘
```
A standby runs all of it but the workers and the fast lane.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import socket
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import aiohttp

from luthier import kube
from luthier.children import Children
from luthier.clock import ServerClock
from luthier.deployment.fastlane import MAX_POLLS_PER_SECOND, FastLane
from luthier.deployment.marks import marks_of
from luthier.errors import LuthierError
from luthier.events import EventLog
from luthier.freeze import FreezeSwitch
from luthier.health import Health, complaint
from luthier.hooks import HookCaller, poster
from luthier.kube import Kube
from luthier.lease import REQUEST_SECONDS, Elector
from luthier.metrics import Metrics
from luthier.own import OwnCache
from luthier.podhttp import PodHttp
from luthier.ports import Controller, Ports
from luthier.prometheus import PrometheusClient
from luthier.reconcile import Reconciler
from luthier.resources import MODELDEPLOYMENT, OWN, Resource
from luthier.router import HttpRouteRouter
from luthier.settings import Settings
from luthier.store import Store
from luthier.watch import Watch
from luthier.workqueue import WorkQueue

log = logging.getLogger(__name__)

POLL_SECONDS = 2.0
"""A busy serving pod may answer late; nobody waits for it but itself."""
Controllers = Mapping[str, Controller[Any]]


class App:
    """One operator process, from its first list to its last write."""

    def __init__(
        self, settings: Settings, controllers: Controllers, *, client: Any, http: aiohttp.ClientSession
    ) -> None:
        self._settings = settings
        self.identity = settings.identity or f"{socket.gethostname()}-{uuid.uuid4().hex[:8]}"
        self.metrics = Metrics()
        self.queue = WorkQueue()
        self.elector = Elector(
            Kube(client, metrics=self.metrics, write_seconds=REQUEST_SECONDS, read_seconds=REQUEST_SECONDS),
            namespace=settings.namespace,
            name=settings.lease_name,
            identity=self.identity,
        )
        may_write = self.elector.may_write if settings.leader_elect else lambda: True
        self.clock = ServerClock()
        self.kube = Kube(client, metrics=self.metrics, may_write=may_write, clock=self.clock)
        served = settings.watch_namespaces
        self.own = OwnCache(enqueue=self.queue.add, namespaces=served, marks_of=marks_of)
        self.store = Store(self.kube, metrics=self.metrics, enqueue=self.queue.add, namespaces=served)
        self._behind: asyncio.Queue[str] = asyncio.Queue()
        """Plurals that kopf has listed anew: what went before that list is known by a list of ours after it."""
        self.watch = Watch(self.own.saw, metrics=self.metrics, caught_up=self._behind.put_nowait, namespaces=served)
        self.pods = PodHttp()
        self.polled = PodHttp(seconds=POLL_SECONDS, connections=2 * MAX_POLLS_PER_SECOND)
        """For the fast lane alone: pods that hang here keep nobody waiting there."""
        self.fast = FastLane(
            own=self.own,
            children=self.store,
            pods=self.polled,
            settings=settings,
            wake=self.queue.add,
            clock=self.clock.now,
            counted=self.metrics.count_poll,
        )
        self._http = http
        self.freeze = FreezeSwitch(
            self.kube,
            namespace=settings.namespace,
            name=settings.freeze_config_map,
            always=settings.freeze,
            changed=self._look_at_rollouts,
        )
        self.hooks = HookCaller(poster(http), key_file=settings.hook_key_file, changed=self.queue.add)
        self._reconciler = self._make_reconciler(controllers)
        self.health = Health(
            metrics=self.metrics, refresh=self._refresh, unhealthy=self._unhealthy, unready=self._unready
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Work until told to stop; then the workers end first, the Lease is given back, and the watches end."""
        settings = self._settings
        await self.health.start(settings.health_host, settings.health_port)
        log.info("started", extra={"identity": self.identity, "namespaces": settings.watch_namespaces})
        lead: Callable[[], Awaitable[None]] = self._lead
        try:
            async with asyncio.TaskGroup() as group:
                watching = [group.create_task(self.store.run()), group.create_task(self._watch())]
                acting = group.create_task(self.elector.run(lead) if settings.leader_elect else self._lead())
                await stop.wait()
                log.info("stopping")
                for task in (acting, *watching):
                    task.cancel()
                    with contextlib.suppress(asyncio.CancelledError):
                        await task
        finally:
            await self.health.stop()
            await self.pods.close()
            await self.polled.close()
        log.info("stopped")

    async def _lead(self) -> None:
        """Act: look at every object once, then as events and due times come."""
        await self._load()
        await self.store.wait_synced()
        self.queue.clear()
        for key in self.own.all_keys():
            self.queue.add(key)
        await self.freeze.look()
        log.info("acting", extra={"identity": self.identity})
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self.fast.run())
                group.create_task(self.freeze.run())
                for _ in range(self._settings.workers):
                    group.create_task(self.queue.work(self._reconciler.run))
        finally:
            self.hooks.stop()

    def _look_at_rollouts(self) -> None:
        for key in self.own.all_keys():
            if key.kind == MODELDEPLOYMENT.kind:
                self.queue.add(key)

    async def _watch(self) -> None:
        """Know our objects: list them, then let kopf tell what changes, and list again every ten minutes."""
        await self._load()  # the types exist from here on; kopf looks for them only once
        async with asyncio.TaskGroup() as group:
            group.create_task(self.watch.run())
            group.create_task(self._catch_up())
            group.create_task(self._resync())

    async def _catch_up(self) -> None:
        """List again what kopf has begun to follow: at its start, when it was started again, after a gap."""
        while True:
            plurals = {await self._behind.get()}
            while not self._behind.empty():  # one for each namespace
                plurals.add(self._behind.get_nowait())
            await self._load(tuple(resource for resource in OWN if resource.plural in plurals))

    async def _resync(self) -> None:
        every = self._settings.resync_seconds
        while True:
            await asyncio.sleep(every)
            await self._load()
            for key in self.own.all_keys():
                self.queue.add(key, after=random.uniform(0, every / 10))  # no herd on Prometheus

    async def _load(self, resources: tuple[Resource, ...] = OWN) -> None:
        delay = 1.0
        while True:
            try:
                await self.own.load(self.kube, resources)
                return
            except LuthierError as error:
                log.warning("our objects cannot be listed; are the CRDs installed? %s", error)
            await asyncio.sleep(delay)
            delay = min(delay * 2, 15.0)

    def _make_reconciler(self, controllers: Controllers) -> Reconciler:
        settings = self._settings
        prometheus = PrometheusClient(
            self._http,
            url=settings.prometheus_url,
            headers=settings.prometheus_headers,
            timeout_seconds=settings.prometheus_timeout_seconds,
        )
        ports = Ports(
            reader=self.kube,
            children=self.store,
            own=self.own,
            pods=self.pods,
            prometheus=prometheus,
            settings=settings,
            now=self.clock.now(),
            fast=self.fast,
            freeze=self.freeze.reason,
            answers=self.hooks.answers,
        )
        return Reconciler(
            controllers,
            ports=ports,
            own=self.own,
            kube=self.kube,
            children=Children(self.kube, self.store),
            router=HttpRouteRouter(self.kube, self.store),
            events=EventLog(self.identity),
            metrics=self.metrics,
            clock=self.clock.now,
            calls=self.hooks.want,
        )

    def _ages(self) -> dict[str, float]:
        return {**self.watch.ages(), **self.store.ages()}

    def _unhealthy(self) -> str | None:
        return complaint(self._ages(), time.monotonic() - self.kube.last_trouble)

    def _unready(self) -> str | None:
        if not self.own.is_loaded:
            return "our objects were not listed yet: are the CRDs installed?"
        return None if self.store.is_synced() else "the children were not listed yet"

    def _refresh(self) -> None:
        self.metrics.queue_depth.set(self.queue.depth())
        self.metrics.working.set(self.queue.working())
        self.metrics.leader.set(1 if self.elector.may_write() else 0)
        self.metrics.show(self.own.all_objects())
        for resource, age in self._ages().items():
            self.metrics.watch_age.labels(resource).set(age)


async def run(settings: Settings, controllers: Controllers, stop: asyncio.Event) -> None:
    """Open what the operator needs, run it, and close it."""
    async with kube.connect() as client, aiohttp.ClientSession() as http:
        await App(settings, controllers, client=client, http=http).run(stop)
