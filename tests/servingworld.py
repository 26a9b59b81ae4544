"""A world in memory for ModelDeployments: plans are applied, pods start, a gateway splits traffic, counters count.

`observe` and `decide` run unchanged on it; time is a number, and Prometheus is a list of samples.
"""

from __future__ import annotations

import copy
import itertools
import json
import math
import random
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from factories import make_evaluation, make_finetunejob, make_modeldeployment, merged
from luthier.cache import Mark
from luthier.deployment.affinity import CONTROLLER
from luthier.deployment.decide import decide
from luthier.deployment.marks import marks_of
from luthier.deployment.observe import observe
from luthier.errors import ApiError, Conflict
from luthier.headerrule import open_rule
from luthier.naming import REVISION_LABEL, ROLE_LABEL, UID_LABEL, short_hash
from luthier.packing import pruned
from luthier.plan import Call, HookAnswer, Key, Plan, Traffic
from luthier.ports import FastLane, NoFastLane, Ports, Sample
from luthier.prometheus import PrometheusError
from luthier.router import route_weights
from luthier.settings import Settings
from luthier.status import format_time
from luthier_server.counters import EDGES, Counters, Outcome, Timing, edge_label

Json = dict[str, Any]
NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)
DIGEST = "sha256:" + "a" * 64
OTHER_DIGEST = "sha256:" + "c" * 64
BASE_DIGEST = "sha256:" + "b" * 64
SCRAPE = 2


def passed_evaluation(name: str = "tickets-eval", *, digest: str = DIGEST, **status: Any) -> Json:
    return make_evaluation(
        name,
        status=merged(
            {
                "verdict": "Passed",
                "modelDigest": digest,
                "servingProfile": {"maxModelLen": 1024, "dtype": "Auto", "quantization": "None"},
                "summary": "82 % exact",
                "completionTime": "2026-01-01T10:00:00Z",
            },
            status,
        ),
    )


def tuned_job(name: str = "tickets", *, digest: str = DIGEST) -> Json:
    artifact = {
        "uri": f"pvc://artifacts/{name}/v1",
        "digest": digest,
        "kind": "Adapter",
        "baseModelUri": "pvc://models/smol",
        "baseModelDigest": BASE_DIGEST,
    }
    return make_finetunejob(name, status={"artifact": artifact})


@dataclass
class Behaviour:
    """How a revision answers: shares of its requests."""

    errors: float = 0.0
    invalid: float = 0.0
    seconds: float = 1.0
    """Every request takes so long."""
    rated: float = 0.0
    """Of its good answers, by a vote that any ready pod takes."""
    down: float = 0.0
    """Of the votes."""


@dataclass
class World:
    obj: Json = field(default_factory=make_modeldeployment)
    job: Json | None = field(default_factory=tuned_job)
    evaluation: Json | None = field(default_factory=passed_evaluation)
    now: datetime = NOW
    rate: float = 0.0
    """Requests per second at the gateway."""
    behaviour: dict[str, Behaviour] = field(default_factory=dict)
    """By revision number: "r2"."""
    beta: float = 0.1
    """Which part of the requests has the header x-cohort: beta."""
    pods_become: str = "ready"
    """What new pods become at once: ready, pending."""
    gateway_accepts: bool = True
    controller: str = CONTROLLER
    """Who runs the Gateway's class; empty: there is no Gateway."""
    features: list[Any] | None = None
    """What the Gateway's class says that it supports; None: it says nothing, as older ones."""
    reads_forbidden: bool = False
    """Whether the operator may not read Gateways, as where it is installed for some namespaces."""
    knows_policies: bool = True
    """Whether the CRDs of Envoy Gateway are installed."""
    policy_refused: str | None = None
    """Why the gateway does not take a BackendTrafficPolicy; "silent": it says nothing at all."""
    prometheus_error: str | None = None
    prometheus_hangs: bool = False
    last_day: float | None = None
    """Requests of the last 24 hours, as Prometheus says; None: it has not so much."""
    answers: dict[str, HookAnswer] = field(default_factory=dict)
    """What receivers have said, by the call's id."""
    calls: tuple[Call, ...] = ()
    """What the last pass wanted."""
    freeze: str | None = None
    """Why all rollouts rest."""
    with_edges: bool = False
    """Count requests by age: 242 more series for each pod."""
    others: list[Json] = field(default_factory=list)
    """More objects of our kinds."""
    claims: frozenset[str] = frozenset({"artifacts", "models"})
    children: dict[tuple[str, str], Json] = field(default_factory=dict)
    pods: dict[str, Json] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)
    """What was written, in order: apply, traffic, delete, status."""
    events: list[Any] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    counters: dict[str, dict[str, float]] = field(default_factory=dict)
    votes: dict[str, dict[str, dict[str, int]]] = field(default_factory=dict)
    """By the pod that took them, the revision that answered, the rating."""
    settings: Settings = field(default_factory=Settings)
    fast: FastLane = field(default_factory=NoFastLane)
    is_away: bool = False
    pass_log_at: int = 0
    """How long the log was when this pass began to write."""
    passes: int = 0
    status_writes: int = 0
    seed: int = 0
    fail_at: str | None = None
    """Die before this write: "traffic", "status after traffic", "a changed child"."""

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.prometheus = _Prometheus(self)

    # Acts of the test

    def spec(self, **changes: Any) -> None:
        self.obj["spec"] = merged(self.obj["spec"], changes)
        self.obj["metadata"]["generation"] += 1

    def successor(self, digest: str = OTHER_DIGEST, name: str = "tickets-2") -> None:
        """Make a second model, judged and passed, and ask for it."""
        self.job = tuned_job(name, digest=digest)
        self.evaluation = passed_evaluation(f"{name}-eval", digest=digest)
        self.spec(model={"fineTuneJob": {"name": name}}, requireEvaluation={"name": f"{name}-eval"})

    @property
    def status(self) -> Json:
        return self.obj.get("status", {})

    def condition(self, type_: str) -> str | None:
        """Return `True/Reason`."""
        found = next((c for c in self.status.get("conditions", []) if c["type"] == type_), None)
        return f"{found['status']}/{found['reason']}" if found else None

    def message(self, type_: str) -> str:
        return next(c["message"] for c in self.status["conditions"] if c["type"] == type_)

    def weights(self) -> dict[str, int]:
        """Return the route's weights by revision name."""
        route = self.child("HTTPRoute")
        if route is None:
            return {}
        by_service = {
            c["metadata"]["name"]: c["metadata"]["labels"][REVISION_LABEL]
            for (kind, _), c in self.children.items()
            if kind == "Service"
        }
        return {by_service[name].partition("-")[0]: w for name, w in route_weights(route).items()}

    def child(self, kind: str, revision: str | None = None) -> Json | None:
        for (k, _), child in self.children.items():
            label = child["metadata"].get("labels", {}).get(REVISION_LABEL, "")
            if k == kind and (revision is None or label.partition("-")[0] == revision):
                return child
        return None

    def replicas(self, revision: str) -> int | None:
        deployment = self.child("Deployment", revision)
        return deployment["spec"]["replicas"] if deployment else None

    def set_ready(self, revision: str, ready: bool, **container: Any) -> None:
        for pod in self.pods.values():
            if pod["metadata"]["labels"][REVISION_LABEL].partition("-")[0] == revision:
                _mark(pod, ready)
                if container:
                    pod["status"]["containerStatuses"] = [{"name": "server", **container}]

    # The machine

    def tick(self, *, times: int = 1) -> Plan:
        """Run passes at the same instant."""
        for _ in range(times):
            plan = self._pass()
        return plan

    def settle(self, *, limit: int = 12) -> Plan:
        """Run passes until one asks for no other at once and writes nothing new."""
        for _ in range(limit):
            before = (copy.deepcopy(self.children), copy.deepcopy(self.status))
            plan = self._pass()
            if before == (self.children, self.status) and plan.requeue_after != 0:
                return plan
        raise AssertionError(f"not settled after {limit} passes: {self.status.get('conditions')}")

    def run(self, seconds: float, *, until=None) -> bool:
        """Let time pass: traffic, scrapes, and a pass each two seconds. Stops when `until` holds."""
        end = self.now + timedelta(seconds=seconds)
        while self.now < end:
            self.now += timedelta(seconds=SCRAPE)
            self._traffic(SCRAPE)
            self._scrape()
            if self.is_away:
                continue
            writes = len(self.log)
            self.tick()
            if len(self.log) > writes:  # our own writes come back as events
                self.tick()
            if until is not None and until():
                return True
        return until is None

    @contextmanager
    def without_operator(self) -> Iterator[None]:
        """Let time pass without passes."""
        self.is_away = True
        yield
        self.is_away = False

    def _pass(self) -> Plan:
        self.passes += 1
        ports = Ports(
            reader=_Reader(self),
            children=_Children(self),
            own=_Own(self),
            pods=None,  # type: ignore[arg-type]
            prometheus=self.prometheus,
            settings=self.settings,
            now=self.now,
            fast=self.fast,
            freeze=lambda: self.freeze,
            answers=lambda _: {c.id: self.answers[c.id] for c in self.calls if c.id in self.answers},
        )
        obj = copy.deepcopy(self.obj)
        plan = decide(obj, _finish(observe(obj, ports)))
        self._apply(plan)
        self._report_deployments()
        self._judge_policies()
        return plan

    def _apply(self, plan: Plan) -> None:
        self.pass_log_at = len(self.log)
        if plan.status_first:
            self._write_status(plan)
        if not plan.status_first and plan.traffic is not None:
            self._route(plan.traffic)
        for manifest in (*plan.apply, *plan.extras):
            self._apply_child(manifest)
        if plan.status_first and plan.traffic is not None:
            self._route(plan.traffic)
        for ref in plan.delete:
            child = self.children.pop((ref.kind, ref.name))
            assert child["metadata"]["uid"] == ref.uid
            self.log.append(f"delete {ref.kind}")
        if not plan.status_first:
            self._write_status(plan)
        self.events += plan.events
        self.calls = plan.calls

    def _write_status(self, plan: Plan) -> None:
        if self.fail_at == "status after traffic" and "traffic" in self.log[self.pass_log_at :]:
            raise Killed
        if json.dumps(plan.status, sort_keys=True) == json.dumps(self.status, sort_keys=True):
            return
        self.obj["status"] = copy.deepcopy(plan.status)
        self.log.append("status")
        self.status_writes += 1

    def _apply_child(self, manifest: Json) -> None:
        key = (manifest["kind"], manifest["metadata"]["name"])
        old = self.children.get(key)
        new = copy.deepcopy(manifest)
        if old is not None and manifest["kind"] == "ControllerRevision":
            return
        if old is not None:
            kept = ("uid", "resourceVersion", "generation")
            new["metadata"] |= {k: old["metadata"][k] for k in kept if k in old["metadata"]}
            if "generation" in new["metadata"] and new["spec"] != old["spec"]:
                new["metadata"]["generation"] += 1
            new |= {"status": old["status"]} if "status" in old else {}
            if new == old:
                return
        else:
            new["metadata"] |= {"uid": short_hash("/".join(key), 12), "resourceVersion": "1"}
        if self.fail_at == "a changed child":
            raise Killed
        self.children[key] = new
        self.log.append(f"apply {manifest['kind']}")
        if manifest["kind"] == "Deployment":
            self._scale(new)

    def _report_deployments(self) -> None:
        """Write what the Deployment controller writes, after a pass: each pass sees pods newer than that."""
        for (kind, _), deployment in self.children.items():
            if kind != "Deployment":
                continue
            wanted = deployment["spec"]["replicas"]
            mine = [p for n, p in self.pods.items() if n.startswith(f"{deployment['metadata']['name']}-")]
            ready = sum(map(_is_ready, mine))
            available = "True" if ready >= wanted else "False"  # maxUnavailable is 0
            old = deployment.get("status", {}).get("conditions", [{"status": None}])[0]
            changed = old["status"] != available
            at = format_time(self.now) if changed else old["lastTransitionTime"]
            condition = {"type": "Available", "status": available, "lastTransitionTime": at}
            deployment["status"] = {"replicas": len(mine), "readyReplicas": ready, "conditions": [condition]}

    def _judge_policies(self) -> None:
        """Say what Envoy Gateway says of policies."""
        for (kind, _), policy in self.children.items():
            if kind == "BackendTrafficPolicy" and self.policy_refused != "silent":
                generation = policy["metadata"].setdefault("generation", 1)
                taken = self.policy_refused is None
                accepted = {"type": "Accepted", "status": str(taken), "observedGeneration": generation}
                accepted |= {"reason": "Accepted" if taken else "Conflicted", "message": self.policy_refused or ""}
                ref = {"kind": "Gateway", "namespace": "team", "name": "gateway"}
                ancestor = {"ancestorRef": ref, "controllerName": CONTROLLER, "conditions": [accepted]}
                policy["status"] = {"ancestors": [ancestor]}

    def _scale(self, deployment: Json) -> None:
        name = deployment["metadata"]["name"]
        mine = [p for p in self.pods if p.startswith(f"{name}-")]
        for pod in mine[deployment["spec"]["replicas"] :]:
            del self.pods[pod]
            self.counters.pop(pod, None)
        for number in range(len(mine), deployment["spec"]["replicas"]):
            self.add_pod(deployment, number)

    def add_pod(self, deployment: Json, number: int) -> None:
        name = f"{deployment['metadata']['name']}-rs-{number}-{len(self.log)}"
        template = deployment["spec"]["template"]
        pod = {
            "metadata": {
                "name": name,
                "uid": short_hash(name, 12),
                "labels": dict(template["metadata"]["labels"]),
                "creationTimestamp": format_time(self.now),
            },
            "status": {},
        }
        _mark(pod, self.pods_become == "ready")
        self.pods[name] = pod

    def _route(self, traffic: Traffic) -> None:
        manifest = traffic.manifest
        if self.fail_at == "traffic":
            raise Killed
        key = ("HTTPRoute", manifest["metadata"]["name"])
        old = self.children.get(key)
        spec_changed = old is None or old["spec"] != manifest["spec"]
        said = ("labels", "annotations")
        if not spec_changed and all(old["metadata"].get(k) == manifest["metadata"].get(k) for k in said):
            return
        if traffic.resource_version != (old["metadata"]["resourceVersion"] if old else None):
            raise Conflict(409, "the route is not the one that was read")
        new = copy.deepcopy(manifest)
        generation = (old["metadata"]["generation"] if old else 0) + spec_changed
        new["metadata"] |= {"uid": "route", "resourceVersion": str(len(self.log) + 10), "generation": generation}
        new["status"] = old["status"] if old else {}
        self.children[key] = new
        self.log.append("traffic")
        if self.gateway_accepts:
            condition = {"type": "Accepted", "status": "True", "observedGeneration": generation}
            parents = [{"parentRef": p, "conditions": [condition]} for p in new["spec"]["parentRefs"]]
            new["status"] = {"parents": parents}

    # Traffic

    def _traffic(self, seconds: float) -> None:
        route = self.child("HTTPRoute")
        if route is None or not self.rate:
            return
        weights = route_weights(route)
        total = sum(weights.values())
        rule = open_rule(route)
        beta = self.beta if rule is not None and rule.headers == (("x-cohort", "beta"),) else 0.0
        parts = [(service, (1 - beta) * weight / total) for service, weight in weights.items()]
        for service, part in [*parts, *([(rule.service, beta)] if rule is not None else [])]:
            pods = [p for p in self.pods if p.startswith(f"{service}-") and _is_ready(self.pods[p])]
            n = _poisson(self.random, self.rate * seconds * part)
            for _ in range(n):
                if pods:
                    self._request(self.random.choice(pods))

    def _request(self, pod: str) -> None:
        revision = self.pods[pod]["metadata"]["labels"][REVISION_LABEL].partition("-")[0]
        behaviour = self.behaviour.get(revision, Behaviour())
        c = self.counters.setdefault(pod, {})
        c["started"] = c.get("started", 0) + 1
        if self.random.random() < behaviour.errors:
            c["bad"] = c.get("bad", 0) + 1
            return
        c["checked"] = c.get("checked", 0) + 1
        c["invalid"] = c.get("invalid", 0) + (self.random.random() < behaviour.invalid)
        if behaviour.rated and self.random.random() < behaviour.rated:
            self._vote(self.pods[pod]["metadata"]["labels"][REVISION_LABEL], behaviour)
        for i, edge in enumerate(EDGES if self.with_edges else ()):
            if behaviour.seconds > edge:
                c[f"edge{i}"] = c.get(f"edge{i}", 0) + 1

    def _vote(self, revision: str, behaviour: Behaviour) -> None:
        taker = self.random.choice([name for name, pod in self.pods.items() if _is_ready(pod)])
        rating = "down" if self.random.random() < behaviour.down else "up"
        votes = self.votes.setdefault(taker, {}).setdefault(revision, {"up": 0, "down": 0})
        votes[rating] += 1

    def _scrape(self) -> None:
        at = self.now.timestamp() - 0.5
        for name, pod in self.pods.items():
            if not _is_ready(pod):
                continue
            since = datetime.fromisoformat(pod["metadata"]["creationTimestamp"]).timestamp()
            c = {**self.counters.get(name, {}), "since": since}
            base = {
                "namespace": "team",
                "pod": name,
                "pod_uid": pod["metadata"]["uid"],
                "revision": pod["metadata"]["labels"][REVISION_LABEL],
            }
            rows = [({"__name__": "luthier_requests_started_total"}, "started")]
            rows += [({"__name__": "luthier_counting_since_seconds"}, "since")]
            rows += [({"__name__": "luthier_safety_incidents_total", "severity": "critical"}, "critical")]
            rows += [({"__name__": "luthier_requests_total", "outcome": "refused"}, "bad")]
            rows += [({"__name__": "luthier_requests_total", "outcome": "server_error"}, "zero")]
            rows += [({"__name__": "luthier_requests_total", "outcome": "ok"}, "checked")]
            rows += [({"__name__": "luthier_responses_checked_total"}, "checked")]
            rows += [({"__name__": "luthier_responses_invalid_format_total"}, "invalid")]
            for i in range(len(EDGES)) if self.with_edges else ():
                # Here a request is as old as it gets at once.
                rows += [({"__name__": "luthier_request_age_exceeded_total", "edge": edge_label(EDGES[i])}, f"edge{i}")]
                rows += [({"__name__": "luthier_requests_aged_total", "edge": edge_label(EDGES[i])}, "started")]
            self.samples += [Sample(labels={**base, **extra}, value=c.get(k, 0), at=at) for extra, k in rows]
            if self.obj["spec"].get("feedback") is not None:
                self._scrape_votes(name, base, at)

    def _scrape_votes(self, pod: str, base: dict[str, str], at: float) -> None:
        """Bring the votes that a pod has taken; of its own revision from the first scrape on."""
        counted = {base["revision"]: {"up": 0, "down": 0}, **self.votes.get(pod, {})}
        for revision, by_rating in counted.items():
            for rating, value in by_rating.items():
                labels = {**base, "__name__": "luthier_feedback_total", "revision": revision, "rating": rating}
                self.samples.append(Sample(labels=labels, value=value, at=at))


def _finish(coroutine: Any) -> Any:
    """Run a coroutine whose ports answer at once: no event loop is needed."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("a port of this world waited")


class Killed(Exception):
    """The operator died here."""


def _mark(pod: Json, ready: bool) -> None:
    pod["status"]["phase"] = "Running" if ready else "Pending"
    pod["status"]["conditions"] = [{"type": "Ready", "status": "True" if ready else "False"}]


def _is_ready(pod: Json) -> bool:
    return pod["status"]["conditions"][0]["status"] == "True"


def _poisson(rng: random.Random, mean: float) -> int:
    if mean > 40:
        return max(0, round(rng.gauss(mean, math.sqrt(mean))))
    limit, n, product = math.exp(-mean), 0, rng.random()
    while product > limit:
        n, product = n + 1, product * rng.random()
    return n


@dataclass
class _Reader:
    world: World

    async def get(self, resource: Any, namespace: str, name: str) -> Json | None:
        if resource.kind == "HTTPRoute":
            return self.world.children.get((resource.kind, name))
        if self.world.reads_forbidden and resource.kind in ("Gateway", "GatewayClass"):
            raise ApiError(403, "forbidden")
        if resource.kind == "Gateway":
            return {"spec": {"gatewayClassName": "class"}} if self.world.controller else None
        if resource.kind == "GatewayClass":
            assert (namespace, name) == ("", "class")
            said = {} if self.world.features is None else {"supportedFeatures": self.world.features}
            return {"spec": {"controllerName": self.world.controller}, "status": said}
        if resource.kind == "APIResourceList":
            return {"resources": []} if self.world.knows_policies else None
        assert resource.kind == "PersistentVolumeClaim"
        return {"metadata": {"name": name}} if name in self.world.claims else None


@dataclass
class _Children:
    world: World

    def owned(self, owner_uid: str, resource: Any) -> list[Json]:
        if resource.kind == "Pod":
            found = [pruned(p) for p in self.world.pods.values() if ROLE_LABEL in p["metadata"]["labels"]]
        else:
            found = [c for (kind, _), c in self.world.children.items() if kind == resource.kind]
            found = [c for c in found if c["metadata"].get("labels", {}).get(UID_LABEL) == owner_uid]
        return sorted(found, key=lambda c: c["metadata"]["name"])


@dataclass
class _Own:
    world: World

    def get(self, key: Key) -> Json | None:
        obj = {"FineTuneJob": self.world.job, "Evaluation": self.world.evaluation}[key.kind]
        return obj if obj is not None and obj["metadata"]["name"] == key.name else None

    def marked(self, mark: Mark) -> list[Json]:
        return [obj for obj in (self.world.obj, *self.world.others) if mark in marks_of(obj)]


@dataclass
class _Prometheus:
    world: World

    async def raw(self, query: str) -> list[Sample]:
        world = self.world
        assert not world.prometheus_hangs, "a decision that needs no numbers waits for them"
        if world.prometheus_error:
            raise PrometheusError(world.prometheus_error)
        if query.startswith("count(count_over_time("):
            return [] if world.last_day is None else [Sample(labels={}, value=1, at=world.now.timestamp())]
        if query.startswith("sum(max by (pod) (increase("):
            return [Sample(labels={}, value=world.last_day or 0, at=world.now.timestamp())]
        if query.startswith("sum by (edge)"):
            return self._by_edge(query)
        match = re.fullmatch(r'\{__name__=~"(.*?)",namespace="team",pod=~"(.*?)",edge=~"(.*)"\}\[(\d+)s\]', query)
        assert match, query
        names, pods, edges, seconds = match.groups()
        after = world.now.timestamp() - int(seconds)
        edge = re.compile(edges.replace("\\\\", "\\"))
        wanted, pod = set(names.split("|")), re.compile(pods)
        recent = itertools.takewhile(lambda s: s.at > after, reversed(world.samples))
        return [
            s
            for s in recent
            if s.labels["__name__"] in wanted
            and pod.fullmatch(s.labels["pod"])
            and edge.fullmatch(s.labels.get("edge", ""))
        ]

    def _by_edge(self, query: str) -> list[Sample]:
        pods = re.search(r'pod=~"\((.*?)\)\.\*"', query)
        assert pods
        mine = [c for name, c in self.world.counters.items() if name.startswith(pods[1])]
        at = self.world.now.timestamp()
        out = [Sample(labels={}, value=sum(c.get("started", 0) for c in mine), at=at)]
        for i in range(len(EDGES)):
            value = sum(c.get(f"edge{i}", 0) for c in mine)
            out.append(Sample(labels={"edge": edge_label(EDGES[i])}, value=value, at=at))
        return out


@dataclass(frozen=True)
class Request:
    """One request to a pod: when it begins, how long it takes, how it ends."""

    start: float
    seconds: float
    outcome: Outcome = "ok"


def arrivals(rng: random.Random, rate: float, until: float, seconds: Callable[[int], float]) -> list[Request]:
    """Return independent requests; `seconds` gets the request's number."""
    now, out = 0.0, []
    while (now := now + rng.expovariate(rate)) < until:
        out.append(Request(now, seconds(len(out))))
    return out


def scrape_pod(
    pod: tuple[str, str], requests: list[Request], edges: Iterable[int] = (), *, began: float, until: int
) -> list[Sample]:
    """Return what Prometheus has of a pod (uid, name) that counts as the real ones do; times are after `began`."""
    counters, (uid, name), out = Counters(revision="r"), pod, []
    events: list[tuple[float, int, int]] = [(float(t), 2, 0) for t in range(0, until + 1, SCRAPE)]
    for i, request in enumerate(requests):
        events += [(request.start, 0, i), (request.start + request.seconds, 1, i)]
    tickets = {}
    for now, what, i in sorted(events):
        if what == 0:
            tickets[i] = counters.start(now)
        elif what == 1:
            counters.finish(tickets[i], requests[i].outcome, now=now, timing=Timing())
        else:
            rows = {("luthier_requests_started_total", "", ""): counters.started}
            rows |= {("luthier_requests_total", "outcome", o): n for o, n in counters.outcomes.items()}
            exceeded, aged = (counters.age_exceeded(now), counters.aged(now)) if edges else ([], [])
            for e in edges:
                rows["luthier_request_age_exceeded_total", "edge", edge_label(EDGES[e])] = exceeded[e]
                rows["luthier_requests_aged_total", "edge", edge_label(EDGES[e])] = aged[e]
            for (metric, label, value), n in rows.items():
                labels = {"__name__": metric, "pod": name, "pod_uid": uid} | ({label: value} if label else {})
                out.append(Sample(labels=labels, value=n, at=began + now))
    return out
