"""The manifests of a ModelDeployment's children: pure, each a fresh dict.

Per revision one Deployment and one Service; one HTTPRoute for all. What the API server would default is written out
where it is compared with what is stored.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from luthier.api.base import GROUP
from luthier.api.modeldeployment import HeaderMatch, ModelDeploymentSpec
from luthier.deployment.feedback import feedback_config, key_mounts, key_volumes
from luthier.deployment.revision import Model, Revision, copy_record
from luthier.naming import REVISION_LABEL, ROLE_LABEL, UID_LABEL, child_labels, child_metadata, child_name
from luthier.plan import Json, Manifest
from luthier.podspec import build_container, build_pod_spec, choose_resources, whole_cpus
from luthier.settings import Settings
from luthier.volumes import claim_mounts, claim_volumes, container_path, locate, scratch_mounts, scratch_volumes
from luthier_server.config import CONFIG_ENV, PORT, REVISION_HEADER, ServerConfig

ROLE = "serving"
ROUTE_ROLE = "route"
CONTAINER = "server"
OUTCOME_ANNOTATION = f"{GROUP}/outcome"
"""On a Deployment that was taken back: survives a lost status, so that a rejected revision stays rejected."""
WITHDRAWN_ANNOTATION = f"{GROUP}/withdrawn"
"""On the route, written with the weight 0: a rollback whose status write was lost is finished, not undone."""
DRAIN_SECONDS = 5
"""Before SIGTERM: gateways need a moment to learn that a pod is going."""
STOP_SECONDS = 15
"""What a pod needs to stop beside the answers that it lets end: noticing, and giving memory back."""
_PROBE_SECONDS = 2


def build_template(owner: Json, spec: ModelDeploymentSpec, model: Model, *, name: str, settings: Settings) -> Json:
    """Return the pod template of a new revision; it goes into the record and stays as it is."""
    resources = choose_resources(spec.resources, settings.default_serving_resources)
    claims = {locate(model.artifact_uri).claim, locate(model.base_uri).claim}
    config = ServerConfig(
        base_path=container_path(model.base_uri),
        base_digest=model.base_digest,
        adapter_path=container_path(model.artifact_uri),
        model_digest=model.model_digest,
        served_model_name=spec.served_model_name or owner["metadata"]["name"],
        revision=name,
        max_model_len=spec.server.profile.max_model_len,
        dtype=spec.server.profile.dtype,
        max_num_seqs=spec.server.max_num_seqs,
        enforce_eager=spec.server.enforce_eager,
        response_schema=spec.response_schema,
        forbidden_texts=tuple(spec.safety.forbidden_texts) if spec.safety else (),
        feedback=feedback_config(spec),
        cpu_kv_cache_gib=settings.cpu_kv_cache_gib,
        drain_seconds=spec.gateway.request_timeout_seconds,
    )
    threads = settings.omp_num_threads or whole_cpus(resources)
    container = build_container(
        name=CONTAINER,
        image=settings.server_image,
        image_pull_policy=settings.image_pull_policy,
        command=["python", "-m", "luthier_server"],
        env={
            CONFIG_ENV: config.model_dump_json(exclude_defaults=True),
            "OMP_NUM_THREADS": str(threads),
            "HOME": "/tmp",
        },
        resources=resources,
        mounts=[*claim_mounts(claims), *key_mounts(spec), *scratch_mounts(shm=True)],
        ports=[{"name": "http", "containerPort": PORT, "protocol": "TCP"}],
        startupProbe=_probe("ready", failures=math.ceil(settings.server_startup_seconds / _PROBE_SECONDS)),
        readinessProbe=_probe("ready", failures=3),
        livenessProbe={**_probe("live", failures=6), "periodSeconds": 10},
        lifecycle={"preStop": {"sleep": {"seconds": DRAIN_SECONDS}}},
        # What the server says about weights that it refuses reaches the condition by this way.
        terminationMessagePolicy="FallbackToLogsOnError",
    )
    return {
        "metadata": {
            "labels": child_labels(owner, role=ROLE, labels={REVISION_LABEL: name}),
            "annotations": {
                "prometheus.io/scrape": "true",
                "prometheus.io/port": str(PORT),
                "prometheus.io/path": "/metrics",
            },
        },
        "spec": build_pod_spec(
            containers=[container],
            volumes=[*claim_volumes(claims), *key_volumes(owner, spec), *scratch_volumes(shm=True)],
            scheduling=spec.scheduling,
            # Idle pods stop at once; one with an answer in progress stays as long as the gateway waits for it.
            grace_seconds=DRAIN_SECONDS + config.linger_seconds + config.drain_seconds + STOP_SECONDS,
        ),
    }


def _probe(path: str, *, failures: int) -> Json:
    return {
        "httpGet": {"path": f"/luthier/{path}", "port": "http"},
        "periodSeconds": _PROBE_SECONDS,
        "timeoutSeconds": 5,
        "failureThreshold": failures,
    }


def build_deployment(owner: Json, revision: Revision, *, replicas: int, outcome: str | None = None) -> Manifest:
    """Return a revision's Deployment, from its record."""
    labels = {REVISION_LABEL: revision.name}
    metadata = child_metadata(owner, revision.name, role=ROLE, labels=labels)
    metadata["annotations"] = copy_record(revision) | ({OUTCOME_ANNOTATION: outcome} if outcome else {})
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata,
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": selector(owner, revision.name)},
            # The template never changes; if somebody edits it by hand, its way back costs no serving pod.
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
            "revisionHistoryLimit": 0,
            "template": revision.template,
        },
    }


def build_service(owner: Json, revision: Revision) -> Manifest:
    """Return a revision's Service: a backend of the route."""
    metadata = child_metadata(owner, revision.name, role=ROLE, labels={REVISION_LABEL: revision.name})
    metadata["annotations"] = copy_record(revision)
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata,
        "spec": {
            "type": "ClusterIP",
            "selector": selector(owner, revision.name),
            "ports": [{"name": "http", "port": PORT, "targetPort": "http", "protocol": "TCP"}],
        },
    }


def selector(owner: Json, name: str) -> dict[str, str]:
    """Return the labels by which a revision's pods are found; never changed, as selectors are immutable."""
    return {UID_LABEL: owner["metadata"]["uid"], ROLE_LABEL: ROLE, REVISION_LABEL: name}


@dataclass(frozen=True, kw_only=True)
class Backend:
    """One revision's share of the traffic."""

    revision: str
    weight: int


@dataclass(frozen=True, kw_only=True)
class Cohort:
    """Requests that go to one revision, whatever the weights say."""

    revision: str
    headers: tuple[HeaderMatch, ...]


def build_route(
    owner: Json,
    spec: ModelDeploymentSpec,
    backends: Sequence[Backend],
    *,
    cohort: Cohort | None = None,
    annotations: Mapping[str, str] | None = None,
) -> Manifest:
    """Return the HTTPRoute: one rule with explicit weights, and one more for an A/B test.

    Each backend has a filter of its own: Envoy Gateway folds a rule's backends into one cluster otherwise, and
    nothing could be told apart in the gateway's counters.
    """
    metadata = child_metadata(owner, "", role=ROUTE_ROLE)
    if annotations:
        metadata["annotations"] = dict(annotations)
    route: Json = {
        "parentRefs": [_parent(ref.to_json(), owner) for ref in spec.gateway.parent_refs],
        "rules": [_rule(spec, [_backend(owner, backend) for backend in backends])],
    }
    if cohort is not None:
        only = Backend(revision=cohort.revision, weight=100)
        route["rules"].append(_rule(spec, [_backend(owner, only)], headers=cohort.headers))
    if spec.gateway.hostnames:
        route["hostnames"] = list(spec.gateway.hostnames)
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": metadata,
        "spec": route,
    }


def _rule(spec: ModelDeploymentSpec, backends: list[Json], *, headers: Sequence[HeaderMatch] = ()) -> Json:
    match: Json = {"path": {"type": "PathPrefix", "value": spec.gateway.path_prefix}}
    if headers:
        match["headers"] = [{"type": "Exact", "name": h.name, "value": h.value} for h in headers]
    return {
        "matches": [match],
        "backendRefs": backends,
        # The gateway's own default of 15 s would cut long answers off.
        "timeouts": {"request": f"{spec.gateway.request_timeout_seconds}s"},
    }


def _parent(ref: Json, owner: Json) -> Json:
    return {
        "group": "gateway.networking.k8s.io",
        "kind": "Gateway",
        "namespace": owner["metadata"]["namespace"],
        **ref,
    }


def _backend(owner: Json, backend: Backend) -> Json:
    headers = [{"name": REVISION_HEADER, "value": backend.revision}]
    return {
        "group": "",
        "kind": "Service",
        "name": child_name(owner, backend.revision),
        "port": PORT,
        "weight": backend.weight,
        "filters": [{"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": headers}}],
    }
