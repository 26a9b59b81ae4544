"""The parts that all our pods share: security, scheduling, resources, containers, Jobs: pure.

Every pod meets Pod Security `restricted`, runs as one fixed user with a read-only root, and carries no API token.
What runs in a pod is for each kind's `build`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from luthier.api.base import Resources, Scheduling
from luthier.naming import child_labels, child_metadata
from luthier.plan import Json, Manifest

USER_ID = 65532
"""The non-root user of our images; also the group of mounted volumes."""

_SUFFIXES = {
    "Ki": Decimal(2**10),
    "Mi": Decimal(2**20),
    "Gi": Decimal(2**30),
    "Ti": Decimal(2**40),
    "Pi": Decimal(2**50),
    "Ei": Decimal(2**60),
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("1e-3"),
    "k": Decimal(10**3),
    "M": Decimal(10**6),
    "G": Decimal(10**9),
    "T": Decimal(10**12),
    "P": Decimal(10**15),
    "E": Decimal(10**18),
    "": Decimal(1),
}


def parse_quantity(text: str) -> Decimal:
    """Return a Kubernetes quantity as a number: "500m" is 0.5, "2Gi" is 2147483648.

    Raises:
        ValueError: It is none.
    """
    suffix = next(suffix for suffix in _SUFFIXES if text.endswith(suffix))
    try:
        number = Decimal(text.removesuffix(suffix)) * _SUFFIXES[suffix]
    except ArithmeticError:  # InvalidOperation for text, Overflow
        number = Decimal("NaN")
    if not number.is_finite():
        raise ValueError(f"not a quantity: {text!r}")
    return number


def choose_resources(wanted: Resources | None, default: Resources) -> Resources:
    """Return the object's resources, or the platform's default: never a mixture, which nobody would have written."""
    return wanted if wanted is not None and (wanted.requests or wanted.limits) else default


def requested(resources: Resources, name: str) -> Decimal:
    """Return what is reserved of a resource; Kubernetes takes the limit where no request is given."""
    text = (resources.requests or {}).get(name) or (resources.limits or {}).get(name)
    return parse_quantity(text) if text else Decimal(0)


def whole_cpus(resources: Resources) -> int:
    """Return the CPUs that threads may be started for: the limit, else the request, rounded down, at least 1."""
    text = (resources.limits or {}).get("cpu") or (resources.requests or {}).get("cpu")
    return max(1, int(parse_quantity(text))) if text else 1


def build_env(values: Mapping[str, str]) -> list[Json]:
    """Return environment variables in a fixed order, each as the container is to see it.

    The kubelet replaces `$(NAME)` and `$$` in values; prompts and schemas of users may hold both.
    """
    return [{"name": name, "value": value.replace("$", "$$")} for name, value in sorted(values.items())]


def read_env(container: Json, name: str) -> str:
    """Return an environment variable as the container sees it: the reverse of `build_env`."""
    value: str = next(e["value"] for e in container["env"] if e["name"] == name)
    return value.replace("$$", "$")


def build_container(
    *,
    name: str,
    image: str,
    command: Sequence[str],
    env: Mapping[str, str],
    resources: Resources,
    mounts: Sequence[Json],
    image_pull_policy: str = "IfNotPresent",
    **fields: Any,
) -> Json:
    """Return a restricted container; `fields` are further ones in Kubernetes' spelling (ports, probes)."""
    return {
        "name": name,
        "image": image,
        "imagePullPolicy": image_pull_policy,
        "command": list(command),
        "env": build_env(env),
        "resources": resources.to_json(),
        "volumeMounts": list(mounts),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
        **fields,
    }


def build_pod_spec(
    *,
    containers: Sequence[Json],
    volumes: Sequence[Json],
    scheduling: Scheduling | None,
    grace_seconds: int,
    init_containers: Sequence[Json] = (),
    **fields: Any,
) -> Json:
    """Return a pod spec under Pod Security `restricted`, without a service account token."""
    spec: Json = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": grace_seconds,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER_ID,
            "runAsGroup": USER_ID,
            "fsGroup": USER_ID,
            # Large volumes: walking every file at each start would take minutes.
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": list(containers),
        "volumes": list(volumes),
        **(scheduling.to_json() if scheduling else {}),
        **fields,
    }
    if init_containers:
        spec["initContainers"] = list(init_containers)
    return spec


def build_job(
    owner: Json,
    suffix: str,
    *,
    role: str,
    pod_spec: Json,
    failure_rules: Sequence[Json],
    labels: Mapping[str, str] | None = None,
    deadline_seconds: int | None = None,
    indexed: bool = False,
) -> Manifest:
    """Return a Job that is one attempt: it never retries by itself, the operator classifies and tries again."""
    extra = dict(labels or {})
    spec: Json = {
        "backoffLimit": 0,
        "completions": 1,
        "parallelism": 1,
        "completionMode": "Indexed" if indexed else "NonIndexed",
        "podFailurePolicy": {"rules": list(failure_rules)},
        "template": {
            "metadata": {"labels": child_labels(owner, role=role, labels=extra)},
            "spec": {**pod_spec, "restartPolicy": "Never"},
        },
    }
    if deadline_seconds is not None:
        spec["activeDeadlineSeconds"] = deadline_seconds
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": child_metadata(owner, suffix, role=role, labels=extra),
        "spec": spec,
    }
