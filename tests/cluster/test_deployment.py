"""ModelDeployments on a real API server and Deployment controller, by the real operator process.

The test plays kubelet (pods become ready), gateway (accepts the route), clients and Prometheus (raw samples of
counters that grow as the route's weights say). What the operator makes of that is its own.
"""

from __future__ import annotations

import json
import random
import re
import signal
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

import httpx
import pytest

from factories import make_evaluation, make_modeldeployment
from luthier.naming import REVISION_LABEL, ROLE_LABEL
from waiting import until

pytestmark = [pytest.mark.cluster, pytest.mark.slow]
Json = dict[str, Any]
OURS, GATEWAY = "apis/luthier.dev/v1alpha1", "apis/gateway.networking.k8s.io/v1"
ROOTS = {
    "evaluations": OURS,
    "modeldeployments": OURS,
    "httproutes": GATEWAY,
    "deployments": "apis/apps/v1",
    "controllerrevisions": "apis/apps/v1",
}
HTTPROUTE_CRD = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {
        "name": "httproutes.gateway.networking.k8s.io",
        "annotations": {"api-approved.kubernetes.io": "https://github.com/kubernetes-sigs/gateway-api/pull/3328"},
    },
    "spec": {
        "group": "gateway.networking.k8s.io",
        "scope": "Namespaced",
        "names": {"kind": "HTTPRoute", "plural": "httproutes", "singular": "httproute", "listKind": "HTTPRouteList"},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "subresources": {"status": {}},
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "properties": {
                            part: {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
                            for part in ("spec", "status")
                        },
                    }
                },
            }
        ],
    },
}
"""A stand-in for Gateway API's own CRD: its schema and defaults are met on the node, end to end."""


class Stage(threading.Thread):
    """Kubelet, gateway, clients and scraper of one namespace, four times a second."""

    def __init__(self, api: httpx.Client, namespace: str) -> None:
        super().__init__(daemon=True)
        self._http = httpx.Client(base_url=api.base_url, transport=api._transport, timeout=30)
        self.namespace = namespace
        self.rate = 40.0
        self.errors: dict[str, float] = {}
        self.broken: dict[str, Json] = {}
        """By revision number ("r2"): the container status of its pods, which never get ready."""
        self.down = False
        self.samples: list[tuple[Json, float, float]] = []
        self._counters: dict[str, list[int]] = {}
        self._random = random.Random(7)
        self._stopped = threading.Event()

    # The API

    def url(self, plural: str, name: str = "") -> str:
        base = f"/{ROOTS.get(plural, 'api/v1')}/namespaces/{self.namespace}/{plural}"
        return f"{base}/{name}" if name else base

    def get(self, plural: str, name: str) -> Json | None:
        reply = self._http.get(self.url(plural, name))
        return reply.json() if reply.status_code == 200 else None

    def list(self, plural: str) -> list[Json]:
        reply = self._http.get(self.url(plural))
        return reply.json().get("items", [])

    def create(self, plural: str, body: Json) -> None:
        reply = self._http.post(self.url(plural), json=body)
        assert reply.status_code == 201, reply.text

    def patch(self, plural: str, name: str, body: Json, *, status: bool = False) -> None:
        url = self.url(plural, name) + ("/status" if status else "")
        headers = {"Content-Type": "application/merge-patch+json"}
        reply = self._http.patch(url, json=body, headers=headers)
        assert reply.status_code in (200, 404, 409), reply.text

    # The parts

    def run(self) -> None:
        last = time.monotonic()
        while not self._stopped.wait(0.25):
            now = time.monotonic()
            pods = [p for p in self.list("pods") if p["metadata"]["labels"].get(ROLE_LABEL) == "serving"]
            routes = self.list("httproutes")
            for pod in pods:
                self._start_pod(pod)
            for route in routes:
                self._accept(route)
            self._send(pods, routes, now - last)
            self._scrape(pods)
            last = now

    def stop(self) -> None:
        self._stopped.set()
        self.join(timeout=10)

    def _start_pod(self, pod: Json) -> None:
        broken = self.broken.get(number_of(pod))
        ready = "False" if broken else "True"
        if _condition(pod, "Ready") == ready:
            return
        said: Json = {"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]}
        if broken:
            base = {"name": "server", "image": "x", "imageID": "", "ready": False, "restartCount": 0}
            said["containerStatuses"] = [base | broken]
        self.patch("pods", pod["metadata"]["name"], {"status": said}, status=True)

    def _accept(self, route: Json) -> None:
        generation = route["metadata"]["generation"]
        parents = route.get("status", {}).get("parents", [])
        if parents and parents[0]["conditions"][0]["observedGeneration"] == generation:
            return
        accepted = {"type": "Accepted", "status": "True", "observedGeneration": generation}
        said = [{"parentRef": p, "conditions": [accepted]} for p in route["spec"]["parentRefs"]]
        self.patch("httproutes", route["metadata"]["name"], {"status": {"parents": said}}, status=True)

    def _send(self, pods: list[Json], routes: list[Json], seconds: float) -> None:
        for route in routes:
            for backend in route["spec"]["rules"][0]["backendRefs"]:
                mine = [p for p in pods if p["metadata"]["name"].startswith(backend["name"] + "-")]
                for _ in range(round(self.rate * seconds * backend["weight"] / 100 + self._random.random())):
                    if mine:
                        self._request(self._random.choice(mine))

    def _request(self, pod: Json) -> None:
        counter = self._counters.setdefault(pod["metadata"]["uid"], [0, 0])
        counter[0] += 1
        counter[1] += self._random.random() < self.errors.get(number_of(pod), 0.0)

    def _scrape(self, pods: list[Json]) -> None:
        at = time.time()
        for pod in pods:
            meta = pod["metadata"]
            started, bad = self._counters.get(meta["uid"], [0, 0])
            base = {"namespace": self.namespace, "pod": meta["name"], "pod_uid": meta["uid"]}
            self.samples.append(({**base, "__name__": "luthier_requests_started_total"}, at, started))
            finished = {**base, "__name__": "luthier_requests_total", "outcome": "refused"}
            self.samples.append((finished, at, bad))

    def answer(self, query: str) -> Json:
        """Answer as Prometheus does: a matrix of raw samples."""
        match = re.fullmatch(r'\{__name__=~"(.*?)",namespace="(.*?)",pod=~"(.*?)",edge=~"(.*)"\}\[(\d+)s\]', query)
        assert match, query
        names, namespace, pods, _, seconds = match.groups()
        after, wanted, pod = time.time() - int(seconds), set(names.split("|")), re.compile(pods)
        series: dict[str, Json] = {}
        for labels, at, value in list(self.samples):
            is_asked = (
                labels["namespace"] == namespace and labels["__name__"] in wanted and pod.fullmatch(labels["pod"])
            )
            if at > after and is_asked:
                one = series.setdefault(json.dumps(labels), {"metric": labels, "values": []})
                one["values"].append([at, str(value)])
        return {"status": "success", "data": {"resultType": "matrix", "result": list(series.values())}}

    # What the test looks at

    def status(self) -> Json:
        obj = self.get("modeldeployments", "support")
        return (obj or {}).get("status", {})

    def condition(self, type_: str) -> str | None:
        found = next((c for c in self.status().get("conditions", []) if c["type"] == type_), None)
        return f"{found['status']}/{found['reason']}" if found else None

    def weights(self) -> dict[str, int]:
        found = {}
        for route in self.list("httproutes"):
            for backend in route["spec"]["rules"][0]["backendRefs"]:
                found[re.search(r"-(r\d+)-", backend["name"])[1]] = backend["weight"]
        return found

    def stable(self) -> str:
        return self.status().get("stable", {}).get("name", "-").partition("-")[0]

    def evaluation(self, name: str, digest: str, **changes: Any) -> None:
        """Make an Evaluation that has ended."""
        body = make_evaluation(name, namespace=self.namespace, suspend=True)
        self.create("evaluations", {**body, "metadata": {"name": name}})
        profile = {"maxModelLen": 1024, "dtype": "Auto", "quantization": "None"}
        status = {"verdict": "Passed", "modelDigest": digest, "servingProfile": profile}
        status |= {"completionTime": "2026-01-01T00:00:00Z", "observedGeneration": 1} | changes
        self.patch("evaluations", name, {"status": status}, status=True)

    def change(self, **spec: Any) -> None:
        self.patch("modeldeployments", "support", {"spec": spec})

    def successor(self, number: int = 2) -> None:
        """Ask for another model, judged and passed."""
        self.evaluation(f"eval-{number}", "sha256:" + str(number) * 64)
        model = {"artifactUri": f"pvc://artifacts/v{number}", "baseModelUri": "pvc://models/smol"}
        self.change(model=model, requireEvaluation={"name": f"eval-{number}"})


def number_of(pod: Json) -> str:
    return pod["metadata"]["labels"][REVISION_LABEL].partition("-")[0]


def _condition(pod: Json, type_: str) -> str | None:
    return next((c["status"] for c in pod["status"].get("conditions", []) if c["type"] == type_), None)


@pytest.fixture(scope="module")
def gateway_api(api: httpx.Client) -> None:
    """Install the route type."""
    url = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    reply = api.post(url, json=HTTPROUTE_CRD)
    assert reply.status_code in (201, 409), reply.text
    until(lambda: api.get(f"/{GATEWAY}/httproutes").status_code == 200, "HTTPRoutes are served")


@pytest.fixture
def prometheus(stage: Stage) -> Iterator[str]:
    """Yield the address of a Prometheus that has the stage's samples."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
            self.send_response(503 if stage.down else 200)
            self.end_headers()
            self.wfile.write(b"no" if stage.down else json.dumps(stage.answer(body["query"][0])).encode())

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def stage(api: httpx.Client, namespace: str, gateway_api: None) -> Iterator[Stage]:
    stage = Stage(api, namespace)
    for claim in ("artifacts", "models"):
        spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
        body = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": claim}, "spec": spec}
        stage.create("persistentvolumeclaims", body)
    stage.start()
    yield stage
    stage.stop()


@pytest.fixture
def serving(stage: Stage, operator, prometheus: str) -> Stage:
    """Return the stage with a first revision that serves all traffic."""
    stage.operator = operator(prometheus_url=prometheus, scrape_interval_seconds=1)
    stage.evaluation("eval-1", "sha256:" + "1" * 64)
    body = make_modeldeployment(
        namespace=stage.namespace,
        model={"fineTuneJob": None, "artifactUri": "pvc://artifacts/v1", "baseModelUri": "pvc://models/smol"},
        requireEvaluation={"name": "eval-1"},
        rollout={
            "steps": [{"setWeight": 10}, {"analysis": {}}, {"setWeight": 50}, {"pause": {}}],
            "abortScaleDownDelaySeconds": 0,
            "analysis": {"intervalSeconds": 1, "minSamples": 20, "metrics": [{"name": "ErrorRate"}]},
        },
    )
    stage.create("modeldeployments", {**body, "metadata": {"name": "support"}})
    until(lambda: stage.condition("Ready") == "True/Initial", "the first revision serves", seconds=60)
    assert stage.weights() == {"r1": 100}
    return stage


def history(stage: Stage) -> Json:
    return stage.status()["history"][0]


def test_a_rollout_goes_through_analysis_and_approval_to_all_traffic(serving: Stage):
    serving.successor()
    until(lambda: serving.condition("Ready") == "False/WaitingForApproval", "the pause is reached", seconds=90)
    assert serving.weights() == {"r1": 50, "r2": 50}
    name = serving.status()["candidate"]["name"]
    serving.change(rollout={"approve": {"revision": name, "step": 4}})
    until(lambda: serving.condition("Ready") == "True/Promoted", "r2 is promoted", seconds=60)
    until(lambda: serving.weights() == {"r2": 100}, "only r2 is left in the route")

    def old_is_gone() -> bool:
        old = next(d for d in serving.list("deployments") if "-r1-" in d["metadata"]["name"])
        return old["spec"]["replicas"] == 0

    until(old_is_gone, "the old revision has no pods", seconds=30)


def test_a_breach_is_taken_back_although_the_operator_is_killed_in_mid_step(serving: Stage, operator, prometheus):
    serving.change(rollout={"analysis": {"minSamples": 100_000}})
    serving.successor()
    until(lambda: serving.weights().get("r2") == 10, "r2 has traffic", seconds=60)
    serving.operator.send_signal(signal.SIGKILL)
    serving.operator.wait()
    serving.errors["r2"] = 0.6
    operator(prometheus_url=prometheus, scrape_interval_seconds=1)
    until(lambda: serving.weights() == {"r1": 100}, "the weight is back", seconds=90)
    until(lambda: serving.condition("Stalled") == "True/RolledBack", "status says so")
    assert history(serving)["reason"] == "AnalysisFailed"
    assert history(serving)["metrics"][0]["candidateBad"] >= 3
    assert serving.status()["verdict"].startswith("RolledBack(r2: errors ")
    assert serving.condition("Serving") == "True/Serving"

    def told() -> list[Json]:
        return [e for e in serving.list("events") if e["reason"] == "RolledBack"]

    assert "evidence" in until(told, "an event")[0]["message"]


def test_an_abort_and_then_another_spec(serving: Stage):
    serving.successor()
    until(lambda: serving.weights().get("r2"), "r2 has traffic", seconds=60)
    serving.change(rollout={"abort": {"revision": serving.status()["candidate"]["name"]}})
    until(lambda: serving.condition("Stalled") == "True/Aborted", "r2 is withdrawn")
    assert serving.weights() == {"r1": 100}
    serving.successor(3)
    until(lambda: serving.status().get("candidate", {}).get("name", "").startswith("r3-"), "r3 is tried", seconds=60)
    until(lambda: serving.weights().get("r3"), "r3 has traffic", seconds=60)
    serving.successor(4)
    until(lambda: serving.status().get("candidate", {}).get("name", "").startswith("r4-"), "r4 is tried", seconds=60)
    assert history(serving)["outcome"] == "Superseded"
    assert "r3" not in serving.weights()


def test_a_crash_loop_is_rejected_without_prometheus(serving: Stage):
    serving.down = True
    waiting = {"waiting": {"reason": "CrashLoopBackOff"}}
    ended = {"terminated": {"exitCode": 1, "reason": "Error", "message": "no such file"}}
    serving.broken["r2"] = {"restartCount": 3, "state": waiting, "lastState": ended}
    serving.successor()
    until(lambda: serving.condition("Stalled") == "True/RolledBack", "r2 is rejected", seconds=60)
    assert history(serving)["reason"] == "CandidateCrashLooping"
    assert "no such file" in history(serving)["message"]
    assert serving.weights() == {"r1": 100}


def test_without_prometheus_the_rollout_is_held_and_says_why(serving: Stage):
    serving.down = True
    serving.successor()
    until(lambda: serving.condition("Ready") == "False/MetricsUnavailable", "it is held", seconds=60)
    assert serving.weights() == {"r1": 100}
    serving.down = False
    until(lambda: serving.weights().get("r2"), "it goes on", seconds=60)


def test_an_evaluation_of_another_digest_makes_nothing(serving: Stage):
    serving.evaluation("failed", "sha256:" + "9" * 64, verdict="Failed")
    serving.change(requireEvaluation={"name": "failed"})
    until(lambda: serving.condition("Stalled") == "True/EvaluationNotPassed", "it is refused", seconds=30)
    assert len(serving.list("deployments")) == 1
    assert serving.weights() == {"r1": 100}


def test_a_settled_object_is_not_written_when_the_operator_starts_again(serving: Stage, operator, prometheus):
    def versions() -> list[str]:
        kinds = ("modeldeployments", "deployments", "services", "controllerrevisions", "httproutes")
        return [o["metadata"]["resourceVersion"] for kind in kinds for o in serving.list(kind)]

    before = versions()
    serving.operator.send_signal(signal.SIGKILL)
    serving.operator.wait()
    operator(prometheus_url=prometheus, scrape_interval_seconds=1)
    serving.change(rollout={"analysis": {"minSamples": 21}})  # the new process has seen this generation: it is at work
    generation = serving.get("modeldeployments", "support")["metadata"]["generation"]
    until(lambda: serving.status().get("observedGeneration") == generation, "the new one is at work", seconds=60)
    assert versions()[1:] == before[1:]
