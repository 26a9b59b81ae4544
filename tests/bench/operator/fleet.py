"""A fleet on a control plane: settled ModelDeployments with real children; kubelet and gateway are played."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx

from apiserver import Client
from factories import make_modeldeployment
from jobstage import CLAIMS, Namespace
from luthier.naming import ROLE_LABEL
from servingstage import Stage
from waiting import until

Json = dict[str, Any]
NAMESPACE = "fleet"
GATEWAY = "gateway.networking.k8s.io/v1"
_THREADS = 8
_PAGE = 250


class Fleet:
    """So many ModelDeployments with so many pods each, of one model, each with a path of its own."""

    def __init__(self, api: Client, *, objects: int, pods: int) -> None:
        self._api = api
        self.objects = objects
        self.pods = pods
        self._pool = ThreadPoolExecutor(_THREADS)

    def make(self) -> None:
        """Make the objects; an operator has to make the rest."""
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
        assert self._api.post("/api/v1/namespaces", json=body).status_code == 201
        account = f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/default"
        until(lambda: self._api.get(account).status_code == 200, "pods may be made")
        Namespace(self._api, NAMESPACE).make_claims(*CLAIMS)
        stage = Stage(self._api, NAMESPACE)
        stage.evaluation("eval-1", "sha256:" + "1" * 64)
        self._each(range(self.objects), lambda number: stage.create("modeldeployments", self._deployment(number)))

    def settle(self, say: Callable[[str], None]) -> None:
        """Let pods become ready and routes be accepted until each object serves and nothing is left to do."""
        deadline = time.monotonic() + 300 + self.objects
        while (serving := self._play()) < self.objects:
            say(f"{serving} of {self.objects} serve")
            assert time.monotonic() < deadline, "the fleet does not settle: see the operator's log"
            time.sleep(2)

    def _deployment(self, number: int) -> Json:
        body = make_modeldeployment(
            namespace=NAMESPACE,
            model={"fineTuneJob": None, "artifactUri": "pvc://artifacts/v1", "baseModelUri": "pvc://models/smol"},
            requireEvaluation={"name": "eval-1"},
            gateway={"parentRefs": [{"name": "gateway"}], "pathPrefix": f"/model-{number}"},
            replicas=self.pods,
        )
        return {**body, "metadata": {"name": f"model-{number}"}}

    def _play(self) -> int:
        """Play kubelet and gateway once; return how many objects serve."""
        pods = self._list("api/v1", "pods", fieldSelector="status.phase=Pending", labelSelector=ROLE_LABEL)
        self._each(pods, self._start)
        self._each(
            (route for route in self._list(f"apis/{GATEWAY}", "httproutes") if "status" not in route), self._accept
        )
        found = self._list("apis/luthier.dev/v1alpha1", "modeldeployments")
        return sum(map(_is_serving, found))

    def _start(self, pod: Json) -> None:
        number = pod["metadata"]["resourceVersion"][-3:].lstrip("0") or "0"
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        kinds = ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled")
        containers = [
            {
                "name": container["name"],
                "image": container["image"],
                "imageID": f"sha256:{pod['metadata']['uid'].replace('-', '') * 2}",
                "containerID": f"containerd://{pod['metadata']['uid'].replace('-', '') * 2}",
                "ready": True,
                "started": True,
                "restartCount": 0,
                "state": {"running": {"startedAt": now}},
            }
            for container in pod["spec"]["containers"]
        ]
        status = {
            "phase": "Running",
            "podIP": f"10.0.0.{int(number) % 250 + 1}",
            "hostIP": "192.168.0.1",
            "startTime": now,
            "qosClass": "Burstable",
            "conditions": [{"type": kind, "status": "True", "lastTransitionTime": now} for kind in kinds],
            "containerStatuses": containers,
        }
        self._patch_status("api/v1", "pods", pod, status)

    def _accept(self, route: Json) -> None:
        accepted = {"type": "Accepted", "status": "True", "observedGeneration": route["metadata"]["generation"]}
        parents = [{"parentRef": ref, "conditions": [accepted]} for ref in route["spec"]["parentRefs"]]
        self._patch_status(f"apis/{GATEWAY}", "httproutes", route, {"parents": parents})

    def _patch_status(self, root: str, plural: str, obj: Json, status: Json) -> None:
        url = f"/{root}/namespaces/{NAMESPACE}/{plural}/{obj['metadata']['name']}/status"
        headers = {"Content-Type": "application/merge-patch+json"}
        reply = self._api.patch(url, json={"status": status}, headers=headers)
        assert reply.status_code in (200, 404, 409), reply.text

    def _list(self, root: str, plural: str, **query: str) -> Iterator[Json]:
        url, query = f"/{root}/namespaces/{NAMESPACE}/{plural}", {**query, "limit": str(_PAGE)}
        while True:
            reply: Json = self._get(url, query)
            yield from reply["items"]
            if not reply["metadata"].get("continue"):
                return
            query["continue"] = reply["metadata"]["continue"]

    def _get(self, url: str, query: dict[str, str]) -> Json:
        reply: httpx.Response = self._api.get(url, params=query)
        assert reply.status_code == 200, reply.text
        found: Json = reply.json()
        return found

    def _each(self, things: Iterable[Any], act: Callable[[Any], None]) -> None:
        for _ in self._pool.map(act, things):
            pass


def _is_serving(obj: Json) -> bool:
    conditions = obj.get("status", {}).get("conditions", [])
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)
