"""Many objects that have nothing left to do, and what a start among them costs."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from factories import make_evaluation, make_finetunejob
from faults.world import World
from waiting import until

Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Start:
    """What one start of the operator among so many objects took."""

    objects: int
    seconds: float
    resident_mib: float
    peak_mib: float
    writes: tuple[str, ...]

    def __str__(self) -> str:
        return (
            f"{self.objects} settled objects: each looked at within {self.seconds:.1f} s, "
            f"{self.resident_mib:.0f} MiB resident (peak {self.peak_mib:.0f}), {len(self.writes)} writes"
        )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def multiply(api: httpx.Client, world: World, count: int) -> None:
    """Make so many objects more: trained, judged, suspended and waiting for ever, a quarter each.

    The first two are what the world's own `tickets` and `tickets-eval` have become.
    """
    trained, judged = world.place.get("finetunejobs", "tickets"), world.place.get("evaluations", "tickets-eval")
    assert trained is not None
    assert judged is not None

    def make(number: int) -> None:
        name = f"many-{number}"
        match number % 4:
            case 0:
                _put(api, world, "finetunejobs", {**trained, "metadata": {"name": name}})
            case 1:
                _put(api, world, "evaluations", {**judged, "metadata": {"name": name}})
            case 2:
                world.place.make("finetunejobs", make_finetunejob(name, suspend=True))
            case 3:
                world.place.make("evaluations", make_evaluation(name, target={"fineTuneJob": {"name": "nobody"}}))

    with ThreadPoolExecutor(8) as pool:
        for _ in pool.map(make, range(count)):
            pass


def _put(api: httpx.Client, world: World, plural: str, obj: Json) -> None:
    made = world.place.create(plural, {key: value for key, value in obj.items() if key != "status"})
    reply = api.put(
        f"{world.place.url(plural, obj['metadata']['name'])}/status", json={**made, "status": obj["status"]}
    )
    assert reply.status_code == 200, reply.text


def start_among(world: World, count: int, *, port: int) -> Start:
    """Start the operator, and wait until it has looked at all objects and has nothing more to do."""
    world.proxy.arm()
    began = time.monotonic()
    world.operator.start()
    until(lambda: _passes(port) >= count, f"all {count} objects were looked at", seconds=60 + count / 20)
    until(lambda: _is_idle(port), "nothing is left to do", seconds=120)
    seconds = time.monotonic() - began
    return Start(
        objects=count,
        seconds=seconds,
        resident_mib=_memory(world.operator.pid, "VmRSS"),
        peak_mib=_memory(world.operator.pid, "VmHWM"),
        writes=tuple(f"{write.method} {write.path}" for write in world.proxy.writes),
    )


def _passes(port: int) -> float:
    return sum(value for name, labels, value in _metrics(port) if name == "luthier_reconciles_total")


def _is_idle(port: int) -> bool:
    found = {
        name: value for name, _, value in _metrics(port) if name in ("luthier_queue_depth", "luthier_queue_working")
    }
    return bool(found) and not any(found.values())


_LINE = re.compile(r"(\w+)(?:\{(.*)\})? (\S+)")


def _metrics(port: int) -> Iterator[tuple[str, str, float]]:
    try:
        text = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=10, trust_env=False).text
    except httpx.TransportError:  # it does not listen yet, or is busy
        return
    for line in text.splitlines():
        if not line.startswith("#") and (found := _LINE.fullmatch(line)):
            yield found[1], found[2] or "", float(found[3])


def _memory(pid: int, what: str) -> float:
    found = re.search(rf"{what}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found, what
    return int(found[1]) / 1024
