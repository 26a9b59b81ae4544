"""Envoy Gateway's own Helm chart, rendered once into plain manifests.

It lies in the Go module that the binary is built from, so neither a chart repository nor an image hub is asked.
"""

import hashlib
import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from localcluster import deps, versions
from localcluster.errors import ClusterError
from localcluster.images import SystemImage
from localcluster.progress import Progress
from localcluster.state import cache_root, write_atomically

NAMESPACE = "envoy-gateway-system"


def render(image: SystemImage, programs: Path, progress: Progress) -> Path:
    """Give a folder with `crds.json`, `before.yaml` (all that the deployments need) and `deployments.yaml`."""
    settings = {
        "global.images.envoyGateway.image": image.reference,
        "topologyInjector.enabled": "false",  # a webhook for zones: we have one node
        "deployment.envoyGateway.readinessProbe.periodSeconds": "1",
        # Alone, it has nobody to lead; and a busy machine shall not end it for being slow.
        "config.envoyGateway.provider.kubernetes.leaderElection.disable": "true",
        "deployment.envoyGateway.livenessProbe.timeoutSeconds": "10",
        "deployment.envoyGateway.startupProbe.failureThreshold": "300",
    }
    digest = hashlib.sha256(repr(sorted(settings.items())).encode()).hexdigest()[:8]

    def build(folder: Path) -> None:
        namespace = f"apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {NAMESPACE}"
        parts: dict[str, list[str]] = {"crds": [], "before": [namespace], "deployments": []}
        for document in _template(settings, progress).split("\n---\n"):
            parts[_part_of(document)].append(document)
        for name, documents in parts.items():
            write_atomically(folder / f"{name}.yaml", "\n---\n".join(documents))
        _shrink_crds(folder / "crds.yaml", programs / "kubectl")

    return deps.build_once(cache_root() / "charts" / f"envoy-gateway-{versions.ENVOY_GATEWAY}-{digest}", build)


def _template(settings: dict[str, str], progress: Progress) -> str:
    with tempfile.TemporaryDirectory() as temporary:
        chart = Path(temporary) / "chart"
        shutil.copytree(deps.envoy_gateway_chart(progress), chart, copy_function=shutil.copy)
        chart.chmod(0o755)  # Go's module cache is read-only
        values = (chart / "values.tmpl.yaml").read_text().replace("${GatewayImage}", "set-by-us")
        (chart / "values.yaml").write_text(values.replace("${GatewayImagePullPolicy}", "IfNotPresent"))
        sets = [f"--set={key}={value}" for key, value in settings.items()]
        command: list[str | Path] = [
            deps.helm(progress),
            "template",
            "eg",
            chart,
            f"--namespace={NAMESPACE}",
            "--include-crds",
            *sets,
        ]
        return _output_of(command)


def _part_of(document: str) -> str:
    kind = next((line for line in document.splitlines() if line.startswith("kind: ")), "")
    return {"kind: CustomResourceDefinition": "crds", "kind: Deployment": "deployments"}.get(kind, "before")


def _shrink_crds(crds: Path, kubectl: Path) -> None:
    """Leave out the descriptions: two thirds of 2 MB that the API server would parse, merge and hold at each start."""
    read = _output_of([kubectl, "patch", "--local", "-f", crds, "--type=merge", "-p", "{}", "-o", "json"])
    items = [_without_descriptions(crd) for crd in _objects(read)]
    write_atomically(crds.with_suffix(".json"), json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))
    crds.unlink()


def _objects(text: str) -> Iterator[Any]:
    """Read objects that stand one behind the other."""
    decoder = json.JSONDecoder()
    while text := text.lstrip():
        found, end = decoder.raw_decode(text)
        yield found
        text = text[end:]


def _without_descriptions(value: Any) -> Any:
    if isinstance(value, dict):
        # A text is a description; anything else is the schema of a field of that name.
        kept = ((key, inner) for key, inner in value.items() if not (key == "description" and isinstance(inner, str)))
        return {key: _without_descriptions(inner) for key, inner in kept}
    return [_without_descriptions(inner) for inner in value] if isinstance(value, list) else value


def _output_of(command: Sequence[str | Path]) -> str:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True)
    if done.returncode:
        raise ClusterError(f"Envoy Gateway's chart cannot be rendered: {done.stderr.strip()}")
    return done.stdout
