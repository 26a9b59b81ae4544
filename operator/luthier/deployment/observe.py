"""All that a ModelDeployment's decision needs, read into one value. Chooses nothing but what to ask Prometheus."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from luthier.api.modeldeployment import ModelDeploymentSpec, ModelDeploymentStatus, RolloutStatus
from luthier.deployment import aftermath, analysis, queries
from luthier.deployment.acts import read_acts
from luthier.deployment.admission import Hold, admit, resolve_model
from luthier.deployment.affinity import SeenAffinity, observe_affinity
from luthier.deployment.analysis import Measured
from luthier.deployment.build import ROLE
from luthier.deployment.capability import find_unsupported
from luthier.deployment.counters import (
    AGE_EXCEEDED,
    AGED,
    CHECKED,
    FINISHED,
    INCIDENTS,
    INVALID,
    REFUSALS,
    SINCE,
    STARTED,
    VOTES,
)
from luthier.deployment.lastday import LastDay, read_last_day
from luthier.deployment.look import NOT_ASKED, fails_by_pods, pod_prefix
from luthier.deployment.marks import addresses_of
from luthier.deployment.memory import Memory, begin, load
from luthier.deployment.metrics import Gate
from luthier.deployment.pods import Loss, Trouble, find_loss, find_trouble, ready_ids
from luthier.deployment.queries import Answer
from luthier.deployment.revision import Model, Revision, hash_of, hash_revision, parse_copy, parse_record
from luthier.deployment.rollout import as_begun
from luthier.deployment.watching import judged_gates
from luthier.draft import read_spec
from luthier.headerrule import open_rule
from luthier.naming import REVISION_LABEL, ROLE_LABEL, child_name, controller_uid
from luthier.plan import HookAnswer, Json, Key
from luthier.ports import Ports, Sample
from luthier.prometheus import PrometheusError, quote, quote_any, select_pods
from luthier.resources import CONTROLLERREVISION, DEPLOYMENT, HTTPROUTE, POD, PVC, SERVICE
from luthier.router import route_weights
from luthier.settings import Settings
from luthier.volumes import locate

_MARGIN_SECONDS = 60
_MARGIN_SCRAPES = 2
"""Read so much more than is new, whichever is longer, so that each pod's earlier sample is there."""
_P95_WINDOW = "10m"


@dataclass(frozen=True, kw_only=True)
class Observed:
    """What there is, at one time."""

    now: datetime
    settings: Settings
    fine_tune_job: Json | None = None
    evaluation: Json | None = None
    missing_claims: tuple[str, ...] = ()
    revisions: tuple[Revision, ...] = ()
    """Records, oldest first; without `obj` where only a copy is left."""
    deployments: tuple[Json, ...] = ()
    services: tuple[Json, ...] = ()
    pods: tuple[Json, ...] = ()
    route: Json | None = None
    rival: str | None = None
    """namespace/name of an older ModelDeployment that wants the same requests."""
    measured: Measured | None = None
    freeze: str | None = None
    """Why all rollouts rest; None: they may go."""
    answers: Mapping[str, HookAnswer] = field(default_factory=dict)
    """What receivers of calls have said, by the call's id."""
    affinity: SeenAffinity | None = None
    """Whether conversations can be kept on a revision; None: nobody asks for it."""
    unsupported: str | None = None
    """What the Gateway's class cannot do of what the route asks for; read before the first weight."""
    last_day: LastDay | None = None
    """How much traffic there was; None: nothing depends on it now."""
    followed: tuple[Sample, ...] = ()
    """Started requests of a revision that has just been taken back."""

    def revision(self, name: str) -> Revision | None:
        """Return a record by its revision's name."""
        return next((r for r in self.revisions if r.name == name), None)

    def deployment(self, name: str) -> Json | None:
        """Return a revision's Deployment."""
        return next((d for d in self.deployments if revision_of(d) == name), None)

    def pods_of(self, name: str) -> tuple[Json, ...]:
        """Return a revision's pods."""
        return tuple(p for p in self.pods if revision_of(p) == name)


def revision_of(child: Json) -> str:
    """Return the revision that a child belongs to."""
    return str(child["metadata"].get("labels", {}).get(REVISION_LABEL, ""))


async def observe(obj: Json, ports: Ports) -> Observed:
    """Read children from the store, our other kinds from the watch, samples from Prometheus."""
    spec = read_spec(ModelDeploymentSpec, obj)
    status = ModelDeploymentStatus.model_validate(obj.get("status") or {})
    meta = obj["metadata"]
    namespace, uid = meta["namespace"], meta["uid"]
    job, evaluation = (ports.own.get(key) for key in reference_keys(obj))
    deployments, services = (tuple(ports.children.owned(uid, kind)) for kind in (DEPLOYMENT, SERVICE))
    seen = Observed(
        now=ports.now,
        settings=ports.settings,
        fine_tune_job=job if spec.model.fine_tune_job else None,
        evaluation=evaluation,
        missing_claims=await _missing_claims(
            namespace, spec, status, resolve_model(spec, job=job, evaluation=evaluation), ports
        ),
        revisions=_revisions(ports.children.owned(uid, CONTROLLERREVISION), (*deployments, *services)),
        deployments=deployments,
        services=services,
        pods=tuple(p for p in ports.children.owned(uid, POD) if p["metadata"]["labels"].get(ROLE_LABEL) == ROLE),
        route=await _route(obj, ports),
        rival=find_rival(obj, _neighbours(obj, ports)),
        freeze=ports.freeze(),
        answers=ports.answers(Key(kind=obj["kind"], namespace=namespace, name=meta["name"])),
    )
    if _is_urgent(obj, spec, status, seen):
        return seen
    begun = as_begun(spec, status.rollout)
    by_pods = replace(seen, measured=Measured(replies=ports.fast.replies(uid), error=NOT_ASKED))
    if not _is_pinned(status) and fails_by_pods(obj, begun, status, by_pods):
        return by_pods  # proven: nothing that Prometheus could say would change it
    # Reads of the API server, which may hang or fail: no traffic that has to be taken back waits for them.
    seen = replace(seen, affinity=await observe_affinity(obj, begun.rollout.affinity, spec.gateway.parent_refs, ports))
    if _is_before_weight(spec, status, seen):
        steps = begun.rollout.steps or []
        unsupported = await find_unsupported(obj, steps, spec.gateway.parent_refs, ports.reader)
        seen = replace(seen, unsupported=unsupported)
    if _is_pinned(status):
        return seen  # what a pin brings back is not judged
    measured = await _measure(obj, begun, status, ports)
    is_down = measured is not None and measured.error is not None
    return replace(
        seen,
        measured=measured,
        followed=() if is_down else await _follow(obj, status, ports),
        last_day=await _last_day(obj, spec, status, seen, ports),
    )


def _revisions(records: Iterable[Json], others: Iterable[Json]) -> tuple[Revision, ...]:
    """Read the records; where somebody has deleted one, the copy that another child of its revision has."""
    there = {revision_of(record): parse_record(record) for record in records}
    copies = {copy.name: copy for child in others if (copy := parse_copy(child)) is not None}
    return tuple(sorted((r for r in (copies | there).values() if r is not None), key=lambda r: r.number))


async def _route(obj: Json, ports: Ports) -> Json | None:
    """Return the route. The store knows children by their labels: without them, it still carries the traffic."""
    name, meta = child_name(obj), obj["metadata"]
    known = next((r for r in ports.children.owned(meta["uid"], HTTPROUTE) if r["metadata"]["name"] == name), None)
    if known is not None:
        return known
    live = await ports.reader.get(HTTPROUTE, meta["namespace"], name)
    return live if live is not None and controller_uid(live) == meta["uid"] else None


def _is_urgent(obj: Json, spec: ModelDeploymentSpec, status: ModelDeploymentStatus, seen: Observed) -> bool:
    """Say whether the candidate loses its traffic whatever the numbers say: that does not wait for Prometheus."""
    candidate = status.candidate
    if candidate is None:
        return False
    if candidate.name in read_acts(obj, spec).aborts or trouble_of(spec, status, seen) is not None:
        return True
    service, rule = child_name(obj, candidate.name), open_rule(seen.route or {})
    if not route_weights(seen.route or {}).get(service, 0) and (rule is None or rule.service != service):
        return False
    return not ready_ids(seen.pods_of(candidate.name)) or loss_of(spec, status, seen) is not None


def _is_pinned(status: ModelDeploymentStatus) -> bool:
    act = status.rollout.act if status.rollout else None
    return act is not None and act.act == "Pin" and status.candidate is not None


def _is_before_weight(spec: ModelDeploymentSpec, status: ModelDeploymentStatus, seen: Observed) -> bool:
    """Say whether a revision may start in this pass, or has, and got no traffic yet."""
    if status.candidate is not None:
        return status.rollout is not None and status.rollout.step == 0
    model = resolve_model(spec, job=seen.fine_tune_job, evaluation=seen.evaluation)
    if not isinstance(model, Model):
        return False
    return status.stable is None or hash_of(status.stable.name) != hash_revision(spec, model)


def loss_of(spec: ModelDeploymentSpec, status: ModelDeploymentStatus, seen: Observed) -> Loss | None:
    """Return what the platform newly took from a candidate that now has fewer pods than it should."""
    candidate, rollout = status.candidate, status.rollout
    if candidate is None or rollout is None or status.stable is None or rollout.step == 0:
        return None
    pods, before = seen.pods_of(candidate.name), rollout.interruption
    if len(ready_ids(pods)) >= _asked_for(seen.deployment(candidate.name), spec.replicas):
        return None
    known = before.resumed_at if before and before.resumed_at else rollout.started_at
    return None if before and before.at else find_loss(pods, after=known, now=seen.now)


def trouble_of(spec: ModelDeploymentSpec, status: ModelDeploymentStatus, seen: Observed) -> Trouble | None:
    """Return what the candidate's own pods say against it."""
    candidate, rollout = status.candidate, status.rollout
    if candidate is None or rollout is None:
        return None
    deadline = timedelta(seconds=spec.progress_deadline_seconds)
    resumed_at = rollout.interruption.resumed_at if rollout.interruption else None
    return find_trouble(
        seen.pods_of(candidate.name),
        seen.deployment(candidate.name),
        replicas=_asked_for(seen.deployment(candidate.name), spec.replicas),
        since=max(rollout.started_at, resumed_at or rollout.started_at),
        # Whoever suspends or freezes a rollout stops its clock too; what the platform took is no fault of it.
        deadline=timedelta.max if spec.suspend or seen.freeze is not None or is_interrupted(rollout) else deadline,
        now=seen.now,
    )


def is_interrupted(rollout: RolloutStatus) -> bool:
    """Say whether the candidate waits for pods that the platform took away."""
    return rollout.interruption is not None and rollout.interruption.at is not None


def _asked_for(deployment: Json | None, replicas: int) -> int:
    """Return how many pods the candidate's Deployment should have now: they follow the weight."""
    return min(replicas, int(deployment["spec"].get("replicas", 1))) if deployment else replicas


def reference_keys(obj: Json) -> tuple[Key, Key]:
    """Return the keys of the FineTuneJob (empty name when there is none) and of the Evaluation."""
    namespace, spec = obj["metadata"]["namespace"], obj["spec"]
    job = spec["model"].get("fineTuneJob", {}).get("name", "")
    evaluation = spec["requireEvaluation"]["name"]
    return (
        Key(kind="FineTuneJob", namespace=namespace, name=job),
        Key(kind="Evaluation", namespace=namespace, name=evaluation),
    )


def _neighbours(obj: Json, ports: Ports) -> list[Json]:
    """Return the ModelDeployments that share an address with this one, which may be among them."""
    return [other for address in addresses_of(obj) for other in ports.own.marked(address)]


def find_rival(obj: Json, others: Iterable[Json]) -> str | None:
    """Return the ModelDeployment, if it is not this one, to which an address that all of them share belongs.

    They belong to the oldest of those that have a revision; while none has, to the oldest of all.
    """
    known = {o["metadata"]["uid"]: o for o in (*others, obj)}.values()
    holders = [o for o in known if {"stable", "candidate"} & o.get("status", {}).keys()]
    oldest = min(holders or known, key=lambda o: (o["metadata"]["creationTimestamp"], o["metadata"]["uid"]))["metadata"]
    return None if oldest["uid"] == obj["metadata"]["uid"] else f"{oldest['namespace']}/{oldest['name']}"


async def _missing_claims(
    namespace: str, spec: ModelDeploymentSpec, status: ModelDeploymentStatus, model: object, ports: Ports
) -> tuple[str, ...]:
    """Look for the claims only when they matter: before a new candidate is made."""
    if not isinstance(model, Model) or status.candidate is not None:
        return ()
    if status.stable is not None and hash_of(status.stable.name) == hash_revision(spec, model):
        return ()
    claims = sorted({locate(model.artifact_uri).claim, locate(model.base_uri).claim})
    return tuple([claim for claim in claims if await ports.reader.get(PVC, namespace, claim) is None])


async def _last_day(
    obj: Json, spec: ModelDeploymentSpec, status: ModelDeploymentStatus, seen: Observed, ports: Ports
) -> LastDay | None:
    """Ask how much traffic there is when it matters: a rollout by the default plan may start in this pass."""
    if status.stable is None or status.candidate is not None or spec.rollout.steps is not None:
        return None
    model = resolve_model(spec, job=seen.fine_tune_job, evaluation=seen.evaluation)
    if not isinstance(model, Model) or spec.suspend or seen.freeze is not None:
        return None
    retried = {hash_of(name) for name in read_acts(obj, spec).retries}
    ended = {hash_of(name) for name in (status.stable.name, status.rejected) if name} - retried
    if hash_revision(spec, model) in ended or isinstance(admit(spec, model, seen.evaluation, now=ports.now), Hold):
        return None
    # By a pattern, not by the revisions that there are: who served yesterday may be pruned by now.
    any_revision = pod_prefix(obj, "r[0-9]+-[0-9a-f]+")
    return await read_last_day(ports.prometheus, namespace=obj["metadata"]["namespace"], prefixes=[any_revision])


async def _measure(
    obj: Json, spec: ModelDeploymentSpec, status: ModelDeploymentStatus, ports: Ports
) -> Measured | None:
    """Read the counters of both sides. Already before the first weight: nothing starts that could not be judged."""
    rollout, candidate, stable = status.rollout, status.candidate, status.stable
    if rollout is None or candidate is None or stable is None:
        return None
    gating = judged_gates(spec, rollout)
    now = ports.now.timestamp()
    stored = load(rollout.analysis.state if rollout.analysis else None)
    memory = stored or begin(now)
    namespace = obj["metadata"]["namespace"]
    both = (pod_prefix(obj, candidate.name), pod_prefix(obj, stable.name))
    scrape = ports.settings.scrape_interval_seconds
    query = render_query(namespace, both, memory, gating, now=now, scrape_seconds=scrape)
    try:
        samples = await ports.prometheus.raw(query)
        p95_edge = None
        if memory.wants_edge(gating, now):
            p95_edge = analysis.choose_p95_edge(await ports.prometheus.raw(render_p95_query(namespace, both[1])))
    except PrometheusError as error:
        return Measured(error=str(error), query=query, replies=ports.fast.replies(obj["metadata"]["uid"]))
    # Asked for in the query too; what stands between may not look at that.
    mine = tuple(s for s in samples if s.labels.get("namespace") == namespace)
    answers = await _answers(spec, rollout, namespace, both, ports)
    replies = ports.fast.replies(obj["metadata"]["uid"])
    return Measured(samples=mine, query=query, p95_edge=p95_edge, replies=replies, answers=answers)


async def _answers(
    spec: ModelDeploymentSpec, rollout: RolloutStatus, namespace: str, prefixes: tuple[str, str], ports: Ports
) -> tuple[Answer, ...]:
    """Ask the custom metrics that are due. What cannot be asked is no measurement, and no reason to stop."""
    wanted = spec.rollout.analysis.queries or []
    in_force_at = rollout.weight_in_force_at if rollout.weight else None
    answers = []
    for query in queries.due(wanted, rollout.analysis, in_force_at=in_force_at, now=ports.now):
        sides = prefixes if queries.is_relative(query) else prefixes[:1]
        try:
            texts = [queries.render(query, namespace=namespace, prefix=prefix) for prefix in sides]
            values = [queries.single_value(await ports.prometheus.raw(text)) for text in texts]
        except (PrometheusError, ValueError) as error:
            answers.append(Answer(name=query.name, problem=str(error)))
            continue
        answers.append(Answer(name=query.name, candidate=values[0], stable=values[1] if len(values) > 1 else None))
    return tuple(answers)


async def _follow(obj: Json, status: ModelDeploymentStatus, ports: Ports) -> tuple[Sample, ...]:
    """Read what still reaches a revision whose weight is 0; nothing is decided by it, so nothing waits for it."""
    entry = aftermath.followed_entry(status.history, ports.now)
    if entry is None or entry.weight_written_at is None:
        return ()
    pods = select_pods(obj["metadata"]["namespace"], (pod_prefix(obj, entry.revision),))
    selector = f"__name__=~{quote(STARTED)},{pods},edge=~{quote_any(('',))}"
    seconds = int((ports.now - entry.weight_written_at).total_seconds()) + _MARGIN_SECONDS
    try:
        return tuple(await ports.prometheus.raw(f"{{{selector}}}[{seconds}s]"))
    except PrometheusError:
        return ()


def render_query(
    namespace: str,
    prefixes: tuple[str, ...],
    memory: Memory,
    gating: tuple[Gate, ...],
    *,
    now: float,
    scrape_seconds: float,
) -> str:
    """Return the query of all raw counters since the last look that is in the memory."""
    edges = memory.edges(gating).labels()
    names = [
        STARTED,
        FINISHED,
        SINCE,
        INCIDENTS,
        *([CHECKED, INVALID] if any(g.bad == "invalid" for g in gating) else []),
        *([REFUSALS] if any(g.bad == "refusals" for g in gating) else []),
        *([VOTES] if any(g.is_vote for g in gating) else []),
    ]
    names += [AGE_EXCEEDED, AGED] if edges else []
    # An empty alternative matches the series that have no such label.
    selector = f"__name__=~{quote('|'.join(names))},{select_pods(namespace, prefixes)},edge=~{quote_any(('', *edges))}"
    margin = max(_MARGIN_SECONDS, math.ceil(_MARGIN_SCRAPES * scrape_seconds))
    seconds = int(max(0.0, now - memory.at)) + margin
    return f"{{{selector}}}[{seconds}s]"


def render_p95_query(namespace: str, prefix: str) -> str:
    """Return the query of the stable's requests by age, and of all, of the last minutes."""
    pods = select_pods(namespace, (prefix,))
    slower = f"sum by (edge) (increase({AGE_EXCEEDED}{{{pods}}}[{_P95_WINDOW}]))"
    return f"{slower} or sum (increase({STARTED}{{{pods}}}[{_P95_WINDOW}]))"
