"""What stands around ModelDeployments on a real API server: kubelet, gateway, clients and a Prometheus, played.

Pods become ready, the route is accepted, counters grow as the route's weights say, and Prometheus has raw samples.
"""

from __future__ import annotations

import json
import math
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

import httpx

from factories import make_evaluation
from fastworld import told
from luthier.headerrule import OpenRule, open_rule
from luthier.naming import REVISION_LABEL, ROLE_LABEL
from luthier.router import route_weights
from podservers import PodServers
from routes import weights_in
from waiting import until

Json = dict[str, Any]
OURS, GATEWAY = "apis/luthier.dev/v1alpha1", "apis/gateway.networking.k8s.io/v1"
ROOTS = {
    "evaluations": OURS,
    "modeldeployments": OURS,
    "httproutes": GATEWAY,
    "gateways": GATEWAY,
    "backendtrafficpolicies": "apis/gateway.envoyproxy.io/v1alpha1",
    "jobs": "apis/batch/v1",
    "deployments": "apis/apps/v1",
    "controllerrevisions": "apis/apps/v1",
}
POLICIES = "apis/gateway.envoyproxy.io/v1alpha1"


def _crd(root: str, kind: str, plural: str, *, scope: str = "Namespaced") -> Json:
    """Return a stand-in for a gateway's own CRD: its schema and defaults are met on the node, end to end."""
    _, group, version = root.split("/")
    free = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    schema = {"type": "object", "properties": {"spec": free, "status": free}}
    approval = "https://github.com/kubernetes-sigs/gateway-api/pull/3328"
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}", "annotations": {"api-approved.kubernetes.io": approval}},
        "spec": {
            "group": group,
            "scope": scope,
            "names": {"kind": kind, "plural": plural, "singular": kind.lower(), "listKind": f"{kind}List"},
            "versions": [
                {
                    "name": version,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "schema": {"openAPIV3Schema": schema},
                }
            ],
        },
    }


CRDS = [
    _crd(GATEWAY, "HTTPRoute", "httproutes"),
    _crd(GATEWAY, "Gateway", "gateways"),
    _crd(GATEWAY, "GatewayClass", "gatewayclasses", scope="Cluster"),
    _crd(POLICIES, "BackendTrafficPolicy", "backendtrafficpolicies"),
]
KIND_OF_GATEWAY = {"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway"}
ENVOY = "gateway.envoyproxy.io/gatewayclass-controller"


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
        self.lags: Callable[[Json], bool] = lambda route: False
        """Which routes the gateway has not taken up yet: requests go where the one before says."""
        self.beta = 0.25
        """Which part of the requests has the header of an A/B test."""
        self._rules: dict[str, OpenRule | None] = {}
        """The second rule of each route as the gateway has it, by its UID."""
        self._taken: dict[str, dict[str, int]] = {}
        """Backends of each route as the gateway has them, by its UID."""
        self.started_at: str | None = None
        """When the containers have started, if the kubelet says so."""
        self.pending: set[str] = set()
        """By revision number: its new pods find no place."""
        self.down = False
        self.takes_policies = False
        """Whether it is Envoy Gateway, and takes every BackendTrafficPolicy."""
        self.last_day: float | None = None
        """Requests of the last 24 hours that Prometheus tells of; None: it has not so much."""
        self.delay = 0.0
        """Seconds until Prometheus answers."""
        self.reply: Callable[[Json], bytes] = lambda answer: json.dumps(answer).encode()
        """What it sends for an answer."""
        self.down_votes: dict[str, float] = {}
        """By revision number: all its requests are voted on, this share of them down, at any pod."""
        self._votes: dict[str, dict[str, list[int]]] = {}
        """By the pod that took them, the revision that answered: [up, down]."""
        self.incidents: dict[str, int] = {}
        """Critical ones, by revision number."""
        self.servers = PodServers(self._told)
        self.speaks = False
        """Whether new pods have an address and answer the fast lane."""
        self.mangle: Callable[[list[Json]], list[Json]] = lambda rows: rows
        """What Prometheus makes of its series before it answers."""
        self.samples: list[tuple[Json, float, float]] = []
        self._counters: dict[str, list[int]] = {}
        self._since: dict[str, tuple[str, float]] = {}
        """By pod that speaks: its revision, and when it began to count."""
        self.timeline: list[tuple[dict[str, int], dict[str, int]]] = []
        """Each route that was written: its weights, and the requests that each revision got under the one before."""
        self.shares: list[tuple[dict[str, int], dict[str, int]]] = []
        """Each route that was written, and how many pods of each revision were ready then."""
        self._ready: dict[str, int] = {}
        self._sent: dict[str, int] = {}
        self._noted: set[tuple[str, int]] = set()
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

    def delete(self, plural: str, name: str) -> None:
        """Delete an object at once: a pod has no kubelet here that would end it."""
        reply = self._http.request("DELETE", self.url(plural, name), json={"gracePeriodSeconds": 0})
        assert reply.status_code in (200, 202, 404), reply.text

    def open_gateway(self, controller: str = ENVOY) -> None:
        """Make the Gateway, of a class that this controller runs."""
        name = controller.partition(".")[0]
        kinds = {"apiVersion": "gateway.networking.k8s.io/v1", "kind": "GatewayClass"}
        body = {**kinds, "metadata": {"name": name}, "spec": {"controllerName": controller}}
        reply = self._http.post(f"/{GATEWAY}/gatewayclasses", json=body)
        assert reply.status_code in (201, 409), reply.text
        self.create("gateways", {"metadata": {"name": "gateway"}, "spec": {"gatewayClassName": name}} | KIND_OF_GATEWAY)
        self.takes_policies = controller == ENVOY

    # The parts

    def run(self) -> None:
        last = time.monotonic()
        while not self._stopped.wait(0.25):
            now = time.monotonic()
            pods = [p for p in self.list("pods") if p["metadata"]["labels"].get(ROLE_LABEL) == "serving"]
            routes = self.list("httproutes")
            # Nobody but this thread makes pods ready: so many were ready when those routes were written.
            self._ready = Counter(number_of(pod) for pod in pods if _condition(pod, "Ready") == "True")
            for pod in pods:
                self._start_pod(pod)
            for route in routes:
                self._accept(route)
            if self.takes_policies:
                self._take_policies()
            self._send(pods, routes, now - last)
            self._scrape(pods)
            last = now

    def stop(self) -> None:
        self._stopped.set()
        self.join(timeout=10)
        self.servers.close()

    def wait(self, seconds: float) -> None:
        """Wait, but not beyond the end of the stage."""
        self._stopped.wait(seconds)

    def _start_pod(self, pod: Json) -> None:
        if pod["status"].get("phase") == "Failed":
            return
        if number_of(pod) in self.pending and _condition(pod, "Ready") is None:
            return
        broken = self.broken.get(number_of(pod))
        ready = "False" if broken else "True"
        if _condition(pod, "Ready") == ready:
            return
        said: Json = {"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]}
        if broken:
            base = {"name": "server", "image": "x", "imageID": "", "ready": False, "restartCount": 0}
            said["containerStatuses"] = [base | broken]
        elif self.started_at:
            state = {"running": {"startedAt": self.started_at}}
            base = {"name": "server", "image": "x", "imageID": "", "ready": True, "restartCount": 0}
            said["containerStatuses"] = [base | {"state": state}]
        if self.speaks:
            meta = pod["metadata"]
            self._since.setdefault(meta["uid"], (number_of(pod), round(time.time(), 3)))
            said["podIP"] = self.servers.address_of(meta["uid"])
            said["podIPs"] = [{"ip": said["podIP"]}]
        self.patch("pods", pod["metadata"]["name"], {"status": said}, status=True)

    def _told(self, uid: str) -> Json:
        """Return what a pod answers to the fast lane."""
        number, since = self._since[uid]
        started, bad = self._counters.get(uid, [0, 0])
        counters = {"started": started, "bad": bad, "critical": self.incidents.get(number, 0)}
        return told(since=since, counters=counters)

    def evict(self, revision: str) -> None:
        """Take a pod of a revision away, as a kubelet does under pressure: the object stays, failed."""
        pod = next(p for p in self.list("pods") if number_of(p) == revision and p["status"].get("phase") != "Failed")
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        target = {"type": "DisruptionTarget", "status": "True", "reason": "TerminationByKubelet", "message": "memory"}
        conditions = [{"type": "Ready", "status": "False"}, target | {"lastTransitionTime": now}]
        status = {"phase": "Failed", "reason": "Evicted", "conditions": conditions}
        self.patch("pods", pod["metadata"]["name"], {"status": status}, status=True)

    def _accept(self, route: Json) -> None:
        if self.lags(route):
            return
        self._taken[route["metadata"]["uid"]] = route_weights(route)
        self._rules[route["metadata"]["uid"]] = open_rule(route)
        generation = route["metadata"]["generation"]
        parents = route.get("status", {}).get("parents", [])
        if parents and parents[0]["conditions"][0]["observedGeneration"] == generation:
            return
        self._note(route)
        accepted = {"type": "Accepted", "status": "True", "observedGeneration": generation}
        said = [{"parentRef": p, "conditions": [accepted]} for p in route["spec"]["parentRefs"]]
        self.patch("httproutes", route["metadata"]["name"], {"status": {"parents": said}}, status=True)

    def _take_policies(self) -> None:
        for policy in self.list("backendtrafficpolicies"):
            if policy.get("status"):
                continue
            accepted = {"type": "Accepted", "status": "True", "observedGeneration": policy["metadata"]["generation"]}
            ref = {"kind": "Gateway", "namespace": self.namespace, "name": "gateway"}
            ancestor = {"ancestorRef": ref, "controllerName": ENVOY, "conditions": [accepted]}
            name = policy["metadata"]["name"]
            self.patch("backendtrafficpolicies", name, {"status": {"ancestors": [ancestor]}}, status=True)

    def _send(self, pods: list[Json], routes: list[Json], seconds: float) -> None:
        for route in routes:
            for service, weight in self._parts(route["metadata"]["uid"]):
                mine = [p for p in pods if p["metadata"]["name"].startswith(service + "-")]
                for _ in range(round(self.rate * seconds * weight / 100 + self._random.random()) if weight else 0):
                    if mine:
                        self._request(self._random.choice(mine))
                        self._vote(mine[0], self._random.choice(pods))

    def _parts(self, uid: str) -> Iterator[tuple[str, float]]:
        """Yield which part of the requests goes to a Service, in percent."""
        rule = self._rules.get(uid)
        others = 1 - self.beta if rule is not None else 1.0
        for service, weight in self._taken.get(uid, {}).items():
            yield service, weight * others
        if rule is not None:
            yield rule.service, 100 * self.beta

    def _note(self, route: Json) -> None:
        key = (route["metadata"]["uid"], route["metadata"]["generation"])
        if key in self._noted:  # its acceptance could not be written the last time
            return
        self._noted.add(key)
        found = weights_in(route)
        self.shares.append((found, self._ready))
        if not self.timeline or self.timeline[-1][0] != found:
            self.timeline.append((found, self._sent))
            self._sent = {}

    def violations(self, judged: dict[int, int], *, may_return: frozenset[str] = frozenset()) -> Iterator[str]:
        """Say what no rollout may do, in the routes that were seen.

        Args:
            judged: How many requests a candidate needs at a weight before it may get more. Who has had all traffic is
                no candidate any more: what comes back to it, by parts too, waits for no number.
            may_return: Revisions that may get traffic again after they had none.
        """
        ended: set[str] = set()
        proven: set[str] = set()
        before: dict[str, int] = {}
        for weights, sent in self.timeline:
            if sum(weights.values()) != 100:
                yield f"weights {weights} are not 100 together"
            for revision, weight in weights.items():
                had = before.get(revision, 0)
                if weight > had and revision in ended:
                    yield f"{revision} was taken back, and then got {weight} %"
                is_candidate = revision not in proven
                if weight > had and is_candidate and sent.get(revision, 0) < judged.get(had, 0):
                    yield f"{revision} went from {had} % to {weight} % on {sent.get(revision, 0)} requests"
            ended |= {revision for revision in before if revision not in weights} - may_return
            proven |= {revision for revision, weight in weights.items() if weight == 100}
            before = weights

    def overloads(self, replicas: int, *, since: int = 0) -> Iterator[str]:
        """Say which route gave a revision more than its ready pods carry.

        Args:
            replicas: How many pods carry all traffic. A rest of up to 20 % goes back at once; weights are whole.
            since: How many routes are not judged: of a time when there were fewer pods.
        """
        for weights, ready in self.shares[since:]:
            for revision, weight in weights.items():
                needed = math.ceil(replicas * ((80 if weight == 100 else weight) - 1) / 100)
                if ready.get(revision, 0) < (max(1, needed) if weight else 0):
                    yield f"weights {weights}, but {ready.get(revision, 0)} of {replicas} pods of {revision} were ready"

    def reset(self, number: str) -> None:
        """Let the counters of a revision's pods begin again at 0, as after a restart of their containers."""
        serving = [p for p in self.list("pods") if REVISION_LABEL in p["metadata"]["labels"]]
        mine = {p["metadata"]["uid"] for p in serving if number_of(p) == number}
        for uid in mine & self._counters.keys():
            self._counters[uid] = [0, 0]

    def _request(self, pod: Json) -> None:
        counter = self._counters.setdefault(pod["metadata"]["uid"], [0, 0])
        counter[0] += 1
        counter[1] += self._random.random() < self.errors.get(number_of(pod), 0.0)
        self._sent[number_of(pod)] = self._sent.get(number_of(pod), 0) + 1

    def _vote(self, answered: Json, taken_by: Json) -> None:
        share = self.down_votes.get(number_of(answered))
        if share is not None:
            by_revision = self._votes.setdefault(taken_by["metadata"]["uid"], {})
            votes = by_revision.setdefault(answered["metadata"]["labels"][REVISION_LABEL], [0, 0])
            votes[self._random.random() < share] += 1

    def _scrape(self, pods: list[Json]) -> None:
        at = time.time()
        for pod in pods:
            meta = pod["metadata"]
            started, bad = self._counters.get(meta["uid"], [0, 0])
            base = {"namespace": self.namespace, "pod": meta["name"], "pod_uid": meta["uid"]}
            self.samples.append(({**base, "__name__": "luthier_requests_started_total"}, at, started))
            finished = {**base, "__name__": "luthier_requests_total", "outcome": "refused"}
            self.samples.append((finished, at, bad))
            if meta["uid"] in self._since:
                _, since = self._since[meta["uid"]]
                self.samples.append(({**base, "__name__": "luthier_counting_since_seconds"}, at, since))
            counted = {meta["labels"][REVISION_LABEL]: [0, 0], **self._votes.get(meta["uid"], {})}
            for revision, both in counted.items() if self.down_votes else ():
                for rating, value in zip(("up", "down"), both, strict=True):
                    vote = {"__name__": "luthier_feedback_total", "revision": revision, "rating": rating}
                    self.samples.append(({**base, **vote}, at, value))
            critical = {**base, "__name__": "luthier_safety_incidents_total", "severity": "critical"}
            self.samples.append((critical, at, self.incidents.get(number_of(pod), 0)))

    def answer(self, query: str) -> Json:
        """Answer as Prometheus does: a matrix of raw samples, or one number for a whole day."""
        if "[24h]" in query or "offset 23h" in query:
            told = [] if self.last_day is None else [{"metric": {}, "value": [time.time(), str(self.last_day)]}]
            return {"status": "success", "data": {"resultType": "vector", "result": told}}
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
        return {"status": "success", "data": {"resultType": "matrix", "result": self.mangle(list(series.values()))}}

    # What the test looks at

    def status(self) -> Json:
        obj = self.get("modeldeployments", "support")
        return (obj or {}).get("status", {})

    def condition(self, type_: str) -> str | None:
        found = next((c for c in self.status().get("conditions", []) if c["type"] == type_), None)
        return f"{found['status']}/{found['reason']}" if found else None

    def weights(self) -> dict[str, int]:
        return {number: weight for route in self.list("httproutes") for number, weight in weights_in(route).items()}

    def newest_routes(self) -> list[dict[str, int]]:
        """Return the weights, and before them those that they replaced."""
        now = self.weights()
        return [*[weights for weights, _ in self.timeline if weights != now][-1:], now]

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

    def refused(self, **spec: Any) -> str:
        """Try a change that the API server must not take, and return what it says."""
        headers = {"Content-Type": "application/merge-patch+json"}
        reply = self._http.patch(self.url("modeldeployments", "support"), json={"spec": spec}, headers=headers)
        assert reply.status_code in (403, 422), reply.text
        return str(reply.json()["message"])

    def pods_of(self, revision: str) -> list[Json]:
        return [p for p in self.list("pods") if number_of(p) == revision]

    def successor(self, number: int = 2) -> None:
        """Ask for another model, judged and passed."""
        self.evaluation(f"eval-{number}", "sha256:" + (str(number) * 64)[:64])
        model = {"artifactUri": f"pvc://artifacts/v{number}", "baseModelUri": "pvc://models/smol"}
        self.change(model=model, requireEvaluation={"name": f"eval-{number}"})


def number_of(pod: Json) -> str:
    return pod["metadata"]["labels"][REVISION_LABEL].partition("-")[0]


def _condition(pod: Json, type_: str) -> str | None:
    return next((c["status"] for c in pod["status"].get("conditions", []) if c["type"] == type_), None)


def install_routes(api: httpx.Client) -> None:
    """Install the route type, and what is around it."""
    for crd in CRDS:
        reply = api.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", json=crd)
        assert reply.status_code in (201, 409), reply.text
    for root, plural in ((GATEWAY, "httproutes"), (GATEWAY, "gatewayclasses"), (POLICIES, "backendtrafficpolicies")):
        until(lambda url=f"/{root}/{plural}": api.get(url).status_code == 200, f"{plural} are served")


@contextmanager
def prometheus_of(stage: Stage) -> Iterator[str]:
    """Yield the address of a Prometheus that has the stage's samples."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
            stage.wait(stage.delay)
            self.send_response(503 if stage.down else 200)
            self.end_headers()
            with suppress(ConnectionError):  # who waits no longer
                self.wfile.write(b"no" if stage.down else stage.reply(stage.answer(body["query"][0])))

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()
