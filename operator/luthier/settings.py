"""The operator's settings: typed, from the environment (`LUTHIER_*`), with defaults that work.

The chart renders its values into these variables. Objects override platform defaults in their own spec.
Complex values are JSON: `LUTHIER_DEFAULT_SERVING_RESOURCES='{"limits":{"memory":"8Gi"}}'`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from luthier.api.base import Resources


def _cpu_defaults(*, cpu: str = "500m", limit: str = "2", memory_request: str, memory_limit: str) -> Resources:
    # Requests far under the limits: a small node can hold several steps that rarely work at the same time.
    return Resources(requests={"cpu": cpu, "memory": memory_request}, limits={"cpu": limit, "memory": memory_limit})


class Settings(BaseSettings):
    """Everything a platform team may set."""

    model_config = SettingsConfigDict(env_prefix="LUTHIER_", frozen=True, extra="ignore")

    # Where the operator runs and what it watches
    namespace: str = Field(default="luthier-system", description="The operator's own namespace: its Lease is there.")
    identity: str = Field(
        default="", description="Name of this replica in the Lease; empty: host name and a random part."
    )
    watch_namespaces: Annotated[list[str], NoDecode] = Field(
        default_factory=list, description="Namespaces that are served, by commas or as JSON; empty: all."
    )
    lease_name: str = Field(default="luthier", description="The Lease that one of several replicas holds.")
    leader_elect: bool = Field(default=True, description="False only where a second replica cannot exist.")
    workers: int = Field(default=8, ge=1, le=256, description="Objects that are worked on at the same time.")
    resync_seconds: float = Field(default=600, ge=5, description="Every object is looked at again after this time.")
    health_host: str = Field(default="0.0.0.0", description="Address of /healthz, /readyz and /metrics.")
    health_port: int = Field(default=8081, ge=0, le=65_535, description="Port of the same; 0: any free one.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(default="INFO", description="Least level logged.")

    # Rollouts of all namespaces
    freeze: str = Field(default="", description="Why no rollout starts or advances; empty: they may.")
    freeze_config_map: str = Field(
        default="luthier-freeze", description="The same without a restart: while it exists in our namespace."
    )

    hook_hosts: Annotated[list[str], NoDecode] = Field(
        default_factory=list, description="Hosts, with a port other than 443, that rollout.hooks may call; empty: none."
    )
    hook_key_file: Path | None = Field(
        default=None, description="The key that calls are signed with, 32 bytes or more."
    )

    # Images of the children
    trainer_image: str = Field(default="luthier/trainer:0.1.0", description="Prepares data and trains.")
    server_image: str = Field(default="luthier/server:0.1.0", description="Serves, and evaluates.")
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = Field(
        default="IfNotPresent", description="Of every container that the operator makes."
    )

    # Analysis
    prometheus_url: str = Field(
        default="http://prometheus.monitoring.svc:9090", description="Base address; empty: there is none."
    )
    prometheus_headers: dict[str, str] = Field(
        default_factory=dict, repr=False, description="Sent with each query, for example Authorization."
    )
    prometheus_timeout_seconds: float = Field(default=5, gt=0, le=60, description="Of one query.")
    scrape_interval_seconds: float = Field(
        default=2, gt=0, le=300, description="How often Prometheus scrapes the pods."
    )

    # Defaults for pods whose object names no resources
    default_prepare_resources: Resources = Field(
        default_factory=lambda: _cpu_defaults(cpu="250m", memory_request="512Mi", memory_limit="3Gi"),
        description="The data pod.",
    )
    default_training_resources: Resources = Field(
        default_factory=lambda: _cpu_defaults(memory_request="1Gi", memory_limit="5Gi"),
        description="The training pod.",
    )
    default_serving_resources: Resources = Field(
        default_factory=lambda: _cpu_defaults(memory_request="2Gi", memory_limit="6Gi"),
        description="A serving pod, and the engine of an Evaluation.",
    )
    default_evaluator_resources: Resources = Field(
        default_factory=lambda: _cpu_defaults(cpu="100m", limit="1", memory_request="128Mi", memory_limit="1Gi"),
        description="The evaluator beside the engine.",
    )
    gpu_resource_name: str = Field(default="nvidia.com/gpu", description="What a GPU is called in resources.")
    server_startup_seconds: int = Field(default=900, ge=30, description="An engine may take this long to be ready.")
    cpu_kv_cache_gib: int = Field(default=1, ge=1, le=1024, description="The engine's cache, where there is no GPU.")
    omp_num_threads: int | None = Field(default=None, ge=1, description="Of CPU pods; absent: whole CPUs of the limit.")

    @field_validator("watch_namespaces", "hook_hosts", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        """Accept `a,b` beside `["a","b"]`: the first is what people type."""
        if not isinstance(value, str):
            return value
        text = value.strip()
        if text.startswith("["):
            return json.loads(text)
        return [part.strip() for part in text.split(",") if part.strip()]
