"""Two replicas of one operator: the same settings and the same Lease, each behind a proxy of its own."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from faults.process import Operator
from faults.proxy import FaultProxy, Write
from faults.world import World, open_world
from waiting import until


@dataclass(kw_only=True)
class Replica:
    """One of them."""

    operator: Operator
    proxy: FaultProxy

    def writes(self) -> list[Write]:
        return list(self.proxy.writes)


@dataclass(kw_only=True)
class Pair:
    """Both, in one world."""

    world: World
    replicas: tuple[Replica, Replica]

    def leader(self) -> tuple[Replica, Replica]:
        """Return who leads and who does not, as their writes say."""
        # A write is in the cluster before its proxy knows.
        until(lambda: any(replica.proxy.writes for replica in self.replicas), "one has written", seconds=10)
        first, second = self.replicas
        return (first, second) if first.proxy.writes else (second, first)

    def all_writes(self) -> list[Write]:
        """Return the writes of both, in the order in which they were stored."""
        return sorted((w for r in self.replicas for w in r.proxy.writes), key=lambda w: w.at)


@contextmanager
def open_pair(api: httpx.Client, namespace: str, folder: Path) -> Iterator[Pair]:
    """Open a world whose operator is two processes; both are started."""
    with ExitStack() as stack:
        world = stack.enter_context(open_world(api, namespace, folder, leader_elect=True))
        proxy = stack.enter_context(FaultProxy(str(api.base_url), api.tls))
        kubeconfig = proxy.write_kubeconfig(folder / f"{namespace}-second.kubeconfig")
        operator = world.operator.twin(kubeconfig=kubeconfig, log=folder / f"{namespace}-second.log")
        proxy.kill = operator.kill
        stack.callback(operator.stop)
        replicas = Replica(operator=world.operator, proxy=world.proxy), Replica(operator=operator, proxy=proxy)
        for replica in replicas:
            replica.operator.start()
        yield Pair(world=world, replicas=replicas)
        for replica in replicas:
            replica.operator.stop()
            assert "Traceback" not in replica.operator.log.read_text(errors="replace")


def kill(replica: Replica) -> float:
    """Kill one, and return when."""
    replica.operator.kill()
    return time.monotonic()
