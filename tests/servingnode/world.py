"""One namespace with a gateway, a claim full of stand-in models, and ModelDeployments of them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from factories import make_evaluation
from standin.model import Behaviour
from waiting import until

Json = dict[str, Any]
IMAGE = "registry.luthier.local:5000/luthier/standin"
RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
}
PROFILE = {"maxModelLen": 1024, "dtype": "Auto", "quantization": "None"}


@dataclass(kw_only=True)
class ServingNode:
    """One namespace of a running cluster; everything in it is the test's own."""

    env: Mapping[str, str]
    """Environment of kubectl."""
    namespace: str
    image: str
    """The stand-in's image, by its content."""
    digests: dict[str, str] = field(default_factory=dict)
    """By model."""

    # kubectl

    def kubectl(self, *words: str, stdin: str | None = None, check: bool = True) -> str:
        command = ["kubectl", "-n", self.namespace, *words]
        done = subprocess.run(command, env=dict(self.env), input=stdin, capture_output=True, text=True, timeout=180)
        assert done.returncode == 0 or not check, f"{' '.join(command)}: {done.stderr or done.stdout}"
        return done.stdout

    def apply(self, *objects: Json) -> None:
        self.kubectl("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))

    def get(self, kind: str, name: str) -> Json:
        out = self.kubectl("get", kind, name, "-o", "json", "--ignore-not-found")
        found: Json = json.loads(out) if out.strip() else {}
        return found

    def items(self, kind: str, selector: str = "") -> list[Json]:
        found: list[Json] = json.loads(self.kubectl("get", kind, "-l", selector, "-o", "json"))["items"]
        return found

    # the place

    def prepare(self, models: Mapping[str, Behaviour]) -> None:
        """Make the namespace, its gateway and its models; wait until the gateway has an address and they are there."""
        self.kubectl("create", "namespace", self.namespace)
        self.kubectl("label", "namespace", self.namespace, "pod-security.kubernetes.io/enforce=restricted")
        self.apply(self._claim(), self._gateway(), self._models_job(models))
        until(
            lambda: self.get("job", "models").get("status", {}).get("succeeded"), "the models are written", seconds=120
        )
        lines = self.kubectl("logs", "job/models").splitlines()
        self.digests = dict(zip(models, lines, strict=True))

    def clear(self) -> None:
        self.kubectl("delete", "namespace", self.namespace, "--ignore-not-found", "--wait=false")

    def _claim(self) -> Json:
        spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
        return self._named("v1", "PersistentVolumeClaim", "models", spec)

    def _gateway(self) -> Json:
        listener = {"name": "http", "port": 8080, "protocol": "HTTP"}
        spec = {"gatewayClassName": "envoy", "listeners": [listener]}
        return self._named("gateway.networking.k8s.io/v1", "Gateway", "llm", spec)

    def _models_job(self, models: Mapping[str, Behaviour]) -> Json:
        """Write the base and each model; print the digests, one a line."""
        lines = ["python -m luthier_server base /models/base > /dev/null"]
        for name, behaviour in models.items():
            told = behaviour.model_dump_json(exclude_defaults=True)
            lines.append(f"python -m luthier_server artifact /models/{name} /models/base '{told}'")
        container = {
            "name": "models",
            "image": self.image,
            "command": ["sh", "-ec", "\n".join(lines)],
            "securityContext": RESTRICTED,
            "volumeMounts": [{"name": "models", "mountPath": "/models"}],
        }
        identity = {"runAsNonRoot": True, "runAsUser": 65532, "runAsGroup": 65532, "fsGroup": 65532}
        pod = {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "securityContext": {**identity, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [container],
            "volumes": [{"name": "models", "persistentVolumeClaim": {"claimName": "models"}}],
        }
        return self._named("batch/v1", "Job", "models", {"backoffLimit": 0, "template": {"spec": pod}})

    def _named(self, version: str, kind: str, name: str, spec: Json) -> Json:
        return {"apiVersion": version, "kind": kind, "metadata": {"name": name}, "spec": spec}

    # what is served

    def judge(self, model: str) -> None:
        """Make an Evaluation that has passed for exactly this model; it is suspended, so nobody runs it."""
        target = {
            "fineTuneJob": None,
            "artifactUri": f"pvc://models/{model}",
            "baseModelUri": "pvc://models/base",
        }
        suite = {
            "name": "held-out",
            "type": "HeldOut",
            "datasetUri": "pvc://models/x.jsonl",
            "metrics": [{"name": "exact", "type": "ExactMatch"}],
        }
        gates = [{"suite": "held-out", "metric": "exact", "minPercent": 70}]
        judged = make_evaluation(model, target=target, suites=[suite], gates=gates, suspend=True)
        self.apply({**judged, "metadata": {"name": model}})
        status = {
            "verdict": "Passed",
            "modelDigest": self.digests[model],
            "servingProfile": PROFILE,
            "completionTime": "2026-01-01T00:00:00Z",
            "observedGeneration": 1,
        }
        patch = json.dumps({"status": status})
        self.kubectl("patch", "evl", model, "--subresource=status", "--type=merge", "-p", patch)

    def deploy(self, model: str, **spec: Any) -> None:
        """Ask for a model; everything else of the spec stays, where it is not given."""
        self.judge(model)
        source = {"artifactUri": f"pvc://models/{model}", "baseModelUri": "pvc://models/base"}
        wanted = {"model": source, "requireEvaluation": {"name": model}, **spec}
        if self.get("mdep", "support"):
            self.kubectl("patch", "mdep", "support", "--type=merge", "-p", json.dumps({"spec": wanted}))
        else:
            small = {"requests": {"cpu": "20m", "memory": "64Mi"}, "limits": {"cpu": "1", "memory": "512Mi"}}
            base = {"gateway": {"parentRefs": [{"name": "llm"}]}, "resources": small}
            self.apply(self._named("luthier.dev/v1alpha1", "ModelDeployment", "support", {**base, **wanted}))

    def status(self) -> Json:
        found: Json = self.get("mdep", "support").get("status", {})
        return found

    def weight(self) -> int:
        """Return the candidate's share, as status shows it."""
        return int((self.status().get("weights") or {}).get("candidate", 0))

    def pods(self, revision: str) -> list[Json]:
        return self.items("pods", f"luthier.dev/revision={revision}")

    def has_ended(self, number: int, outcome: str) -> bool:
        newest = (self.status().get("history") or [{}])[0]
        return newest.get("revision", "").startswith(f"r{number}-") and newest.get("outcome") == outcome

    def address(self) -> str:
        """Return the gateway's URL, as this host reaches it."""
        words = ("-n", "envoy-gateway-system", "get", "service", "-l")
        selector = f"gateway.envoyproxy.io/owning-gateway-namespace={self.namespace}"
        out = subprocess.run(
            ["kubectl", *words, selector, "-o", "json"], env=dict(self.env), capture_output=True, text=True, check=True
        ).stdout
        (service,) = json.loads(out)["items"]
        return f"http://{service['spec']['clusterIP']}:8080"
