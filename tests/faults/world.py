"""What a life is lived in: one namespace of a real API server, and the operator behind the fault proxy."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from faults.process import Operator
from faults.proxy import FaultProxy
from hookreceiver import Receiver
from jobstage import CLAIMS, Namespace
from servingstage import Stage, prometheus_of

Json = dict[str, Any]


@dataclass(kw_only=True)
class World:
    """One run's surroundings."""

    place: Namespace
    stage: Stage
    proxy: FaultProxy
    operator: Operator
    receiver: Receiver | None = None
    """Of hooks, where a life has them."""
    notes: dict[str, Any] = field(default_factory=dict)
    """What the player remembers: it plays people, who are not killed."""

    def once(self, act: str, do: Callable[[], object]) -> None:
        """Do something a person does once."""
        if act not in self.notes:
            self.notes[act] = time.monotonic()
            do()

    @property
    def hooks(self) -> Receiver:
        """The receiver of hooks, in a life that has them."""
        assert self.receiver is not None
        return self.receiver

    def log(self) -> str:
        return self.operator.log.read_text(errors="replace") if self.operator.log.exists() else ""


@contextmanager
def open_world(
    api: httpx.Client, namespace: str, folder: Path, *, has_hooks: bool = False, **settings: object
) -> Iterator[World]:
    """Make a namespace with claims, a stage and an operator that is not started yet; take it away afterwards."""
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}
    reply = api.post("/api/v1/namespaces", json=body)
    assert reply.status_code == 201, reply.text
    place, stage = Namespace(api, namespace), Stage(api, namespace)
    place.make_claims(*CLAIMS)
    with ExitStack() as stack:
        stack.callback(api.delete, f"/api/v1/namespaces/{namespace}")
        prometheus = stack.enter_context(prometheus_of(stage))
        proxy = stack.enter_context(FaultProxy(str(api.base_url), api.tls))
        kubeconfig = proxy.write_kubeconfig(folder / f"{namespace}.kubeconfig")
        known: dict[str, Any] = {"prometheus_url": prometheus, "scrape_interval_seconds": 1, "workers": 4}
        receiver = stack.enter_context(Receiver(folder, namespace)) if has_hooks else None
        if receiver is not None:
            known |= {"hook_hosts": receiver.host, "hook_key_file": receiver.key_file, "trusts": receiver.certificate}
        log = folder / f"{namespace}.log"
        operator = Operator(kubeconfig=kubeconfig, namespace=namespace, log=log, **(known | settings))
        proxy.kill = operator.kill
        stack.callback(operator.stop)
        stage.start()
        stack.callback(stage.stop)
        yield World(place=place, stage=stage, proxy=proxy, operator=operator, receiver=receiver)


_TIME = re.compile(r"\d{4}-\d\d-\d\dT[\d:]+(\.\d+)?Z")


def plain(value: Any, *, uid: str = "", namespace: str = "") -> Any:
    """Return a value without what differs from run to run: times, UIDs and the hashes of them."""
    text = _TIME.sub("TIME", json.dumps(value, sort_keys=True))
    for word, name in ((uid, "UID"), (uid[:8], "UID8"), (namespace, "NAMESPACE")):
        if word:
            text = text.replace(word, name)
    return json.loads(text)


def conditions_of(status: Json) -> list[tuple[str, str, str]]:
    return sorted((c["type"], c["status"], c["reason"]) for c in status.get("conditions", []))


def stem(name: str) -> str:
    """Return a child's name without the hash of its owner."""
    return name.rsplit("-", 1)[0]
