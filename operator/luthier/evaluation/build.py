"""The Job of an Evaluation: the engine as a native sidecar with base and adapter, the evaluator beside it. Pure.

When it is made is for `decide`. The configurations are the images' own models, so that what is written here and what
is read there cannot differ.
"""

from __future__ import annotations

import math
from typing import Final

from luthier.api.base import Resources
from luthier.api.evaluation import Baseline, EvaluationSpec, Suite
from luthier.evaluation.target import Target, used_claims
from luthier.jobs import failure_rules
from luthier.naming import ATTEMPT_LABEL
from luthier.plan import Json, Manifest
from luthier.podspec import build_container, build_job, build_pod_spec, choose_resources, whole_cpus
from luthier.settings import Settings
from luthier.volumes import Location, claim_mounts, claim_volumes, locate, scratch_mounts, scratch_volumes
from luthier_eval.config import CONFIG_ENV as EVAL_CONFIG_ENV
from luthier_eval.config import EvalConfig, ExampleConfig, GateConfig, MetricConfig, SideConfig, SuiteConfig
from luthier_server.config import CONFIG_ENV as SERVER_CONFIG_ENV
from luthier_server.config import PORT, ServerConfig

EVALUATE_ROLE: Final = "evaluate"
EVALUATOR_CONTAINER: Final = "evaluator"
ENGINE_CONTAINER: Final = "engine"
TARGET: Final = "target"
BASE: Final = "base"
_GRACE_SECONDS: Final = 30
_PROBE_SECONDS: Final = 5


def step_name(number: int) -> str:
    """Return an attempt's name, which is the suffix of its Job."""
    return f"eval-{number}"


def find_output(evaluation: Json, target: Target) -> Location:
    """Return where this Evaluation's samples, results and report go: beside the weights that they are about."""
    meta = evaluation["metadata"]
    return target.artifact.child("evaluations", f"{meta['name']}-{meta['uid'][:8]}")


def result_file(output: Location) -> Location:
    """Return where the evaluator leaves its result."""
    return output.child("step-result.json")


def build_eval_job(
    evaluation: Json, spec: EvaluationSpec, target: Target, settings: Settings, *, number: int
) -> Manifest:
    """Return one attempt. The evaluator resumes from the samples that an earlier one has left."""
    claims = used_claims(spec, target)
    return build_job(
        evaluation,
        step_name(number),
        role=EVALUATE_ROLE,
        labels={ATTEMPT_LABEL: str(number)},
        failure_rules=failure_rules(EVALUATOR_CONTAINER),
        deadline_seconds=spec.active_deadline_seconds,
        pod_spec=build_pod_spec(
            init_containers=[_engine(spec, target, settings)],
            containers=[_evaluator(evaluation, spec, target, settings)],
            volumes=[*claim_volumes(claims), *scratch_volumes(shm=True)],
            scheduling=spec.scheduling,
            grace_seconds=_GRACE_SECONDS,
        ),
    )


def _engine(spec: EvaluationSpec, target: Target, settings: Settings) -> Json:
    resources = choose_resources(spec.resources, settings.default_serving_resources)
    return build_container(
        name=ENGINE_CONTAINER,
        image=settings.server_image,
        image_pull_policy=settings.image_pull_policy,
        command=["python", "-m", "luthier_server"],
        env=_env(SERVER_CONFIG_ENV, build_server_config(spec, target, settings).model_dump_json(), resources, settings),
        resources=resources,
        mounts=[*claim_mounts([target.base.claim, target.artifact.claim]), *scratch_mounts(shm=True)],
        # A native sidecar: it starts first, and ends when the evaluator has; else the Job would never end.
        restartPolicy="Always",
        ports=[{"name": "http", "containerPort": PORT, "protocol": "TCP"}],
        startupProbe={
            "httpGet": {"path": "/luthier/ready", "port": PORT},
            "periodSeconds": _PROBE_SECONDS,
            "timeoutSeconds": 5,
            "failureThreshold": math.ceil(settings.server_startup_seconds / _PROBE_SECONDS),
        },
    )


def build_server_config(spec: EvaluationSpec, target: Target, settings: Settings) -> ServerConfig:
    """Return what the engine serves: the same profile as in production, which is what makes the judgement count."""
    profile = spec.serving_profile
    return ServerConfig(
        base_path=target.base.container_path,
        base_digest=target.base_digest,
        adapter_path=target.artifact.container_path,
        model_digest=target.digest or None,
        served_model_name=TARGET,
        base_model_name=BASE,
        max_model_len=profile.max_model_len,
        dtype=profile.dtype,
        max_lora_rank=max(16, target.rank),
        cpu_kv_cache_gib=settings.cpu_kv_cache_gib,
        # One client, which has all its answers by then.
        linger_seconds=0,
        drain_seconds=0,
    )


def _evaluator(evaluation: Json, spec: EvaluationSpec, target: Target, settings: Settings) -> Json:
    resources = settings.default_evaluator_resources
    config = build_eval_config(evaluation, spec, target, image=settings.server_image)
    return build_container(
        name=EVALUATOR_CONTAINER,
        image=settings.server_image,
        image_pull_policy=settings.image_pull_policy,
        command=["python", "-m", "luthier_eval"],
        env=_env(EVAL_CONFIG_ENV, config.model_dump_json(), resources, settings),
        resources=resources,
        mounts=[*claim_mounts(used_claims(spec, target), writable=[target.artifact.claim]), *scratch_mounts()],
    )


def build_eval_config(evaluation: Json, spec: EvaluationSpec, target: Target, *, image: str = "") -> EvalConfig:
    """Return what the evaluator asks, counts and decides."""
    output = find_output(evaluation, target)
    return EvalConfig(
        name=evaluation["metadata"]["name"],
        evaluation_uid=evaluation["metadata"]["uid"],
        endpoint=f"http://127.0.0.1:{PORT}",
        target=SideConfig(name=TARGET, model=TARGET),
        baselines=tuple(_side(baseline) for baseline in spec.baselines or ()),
        suites=tuple(_suite(suite, target) for suite in spec.suites),
        gates=tuple(
            GateConfig(
                suite=gate.suite,
                metric=gate.metric,
                min_percent=gate.min_percent,
                versus_baseline=gate.versus.baseline if gate.versus else None,
                min_difference_percent=gate.versus.min_difference_percent if gate.versus else 0,
            )
            for gate in spec.gates or ()
        ),
        confidence_percent=spec.confidence_percent,
        model_digest=target.digest,
        base_digest=target.base_digest,
        artifact_path=target.artifact.container_path,
        serving_profile=spec.serving_profile.to_json(),
        image=image,
        output_dir=output.container_path,
        result_path=result_file(output).container_path,
    )


def _side(baseline: Baseline) -> SideConfig:
    examples = tuple(ExampleConfig(user=e.user, assistant=e.assistant) for e in baseline.examples or ())
    return SideConfig(name=baseline.name, model=BASE, system_prompt=baseline.system_prompt, examples=examples)


def _suite(suite: Suite, target: Target) -> SuiteConfig:
    uri = _suite_uri(suite, target)
    return SuiteConfig(
        name=suite.name,
        type=suite.type,
        path=locate(uri).container_path,
        uri=uri,
        max_cases=suite.max_cases,
        max_tokens=suite.generation.max_tokens,
        temperature=float(suite.generation.temperature),
        seed=suite.generation.seed,
        metrics=tuple(MetricConfig(name=m.name, type=m.type, json_schema=m.json_schema) for m in suite.metrics),
    )


def _suite_uri(suite: Suite, target: Target) -> str:
    """Return a suite's file; `decide` has made sure that there is one."""
    return suite.dataset_uri or target.test_uri or ""


def _env(name: str, config: str, resources: Resources, settings: Settings) -> dict[str, str]:
    threads = settings.omp_num_threads or whole_cpus(resources)
    return {name: config, "HOME": "/tmp", "USER": "luthier", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(threads)}
