"""What every cluster has inside, as kind's clusters would after a few more commands: storage, the Gateway API with
Envoy Gateway, Prometheus. All of it is plain manifests, applied whole.
"""

import hashlib
import json
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from localcluster import deps, node, recycler, versions
from localcluster.errors import ClusterError
from localcluster.images import SystemImage
from localcluster.progress import Progress
from localcluster.state import Cluster, cache_root, write_atomically

GATEWAY_NAMESPACE = "envoy-gateway-system"


class Kubectl:
    """kubectl with a cluster's admin rights."""

    def __init__(self, cluster: Cluster, programs: Path) -> None:
        self._command = [str(programs / "kubectl"), f"--kubeconfig={cluster.kubeconfig}"]

    def __call__(self, *arguments: str, stdin: str | None = None) -> str:
        done = subprocess.run([*self._command, *arguments], input=stdin, capture_output=True, text=True)
        if done.returncode:
            raise ClusterError(f"`kubectl {' '.join(arguments)}` failed: {done.stderr.strip()}")
        return done.stdout

    def apply(self, manifest: str) -> None:
        self("apply", "--server-side", "--force-conflicts", "--validate=false", "-f", "-", stdin=manifest)

    def wait(self, resource: str, condition: str, *, namespace: str = "default", seconds: int = 180) -> None:
        self("wait", resource, f"--for=condition={condition}", f"--namespace={namespace}", f"--timeout={seconds}s")


def apply_base(cluster: Cluster, kubectl: Kubectl) -> None:
    kubectl.apply(node.render("base.yaml") + "".join(_volumes(cluster)))


def apply_prometheus(kubectl: Kubectl, image: SystemImage, python: str) -> None:
    kubectl.apply(node.render("prometheus.yaml", image=image.reference, python=python))
    settings = {path.name: path.read_text() for path in (node.MANIFESTS / "prometheus").iterdir()}
    where = {"name": "prometheus", "namespace": "monitoring"}
    kubectl.apply(json.dumps({"apiVersion": "v1", "kind": "ConfigMap", "metadata": where, "data": settings}))


def apply_gateway(kubectl: Kubectl, chart: Path) -> None:
    """Install Envoy Gateway from its rendered chart, in the order in which the parts need each other."""
    crds = (chart / "crds.yaml").read_text()
    kubectl.apply(crds)
    kubectl("wait", "--for=condition=Established", "--timeout=60s", "-f", "-", stdin=crds)
    kubectl.apply((chart / "before.yaml").read_text())
    kubectl.apply(node.render("gateway-class.yaml"))
    # Made by a Job of the chart. A pod that misses a Secret is tried again ever more seldom.
    kubectl("wait", "secret/envoy-gateway", "--for=create", f"--namespace={GATEWAY_NAMESPACE}", "--timeout=180s")
    kubectl.apply((chart / "deployments.yaml").read_text())


def wait_until_up(kubectl: Kubectl) -> None:
    kubectl.wait("deployment/envoy-gateway", "Available", namespace=GATEWAY_NAMESPACE)
    kubectl.wait("gatewayclass/envoy", "Accepted")
    kubectl.wait("deployment/prometheus", "Available", namespace="monitoring")


def render_gateway_chart(images: Sequence[SystemImage], progress: Progress) -> Path:
    """Render Envoy Gateway's own chart once; it lies in the module that its binary is built from."""
    reference = {image.name: image.reference for image in images}
    settings = {
        "global.images.envoyGateway.image": reference["envoy-gateway"],
        "global.images.envoyProxy.image": reference["envoy"],
        "topologyInjector.enabled": "false",  # a webhook for zones: we have one node
        "deployment.envoyGateway.readinessProbe.periodSeconds": "1",
    }
    digest = hashlib.sha256(repr(sorted(settings.items())).encode()).hexdigest()[:8]

    def build(folder: Path) -> None:
        with tempfile.TemporaryDirectory() as temporary:
            chart = Path(temporary) / "chart"
            shutil.copytree(deps.envoy_gateway_chart(), chart, copy_function=shutil.copy)
            values = (chart / "values.tmpl.yaml").read_text()
            values = values.replace("${GatewayImage}", "set-below").replace("${GatewayImagePullPolicy}", "IfNotPresent")
            chart.chmod(0o755)  # Go's module cache is read-only
            (chart / "values.yaml").write_text(values)
            helm = [deps.helm(progress), "template", "eg", chart, f"--namespace={GATEWAY_NAMESPACE}", "--include-crds"]
            sets = [f"--set={key}={value}" for key, value in settings.items()]
            done = subprocess.run([*map(str, helm), *sets], capture_output=True, text=True)
        if done.returncode:
            raise ClusterError(f"Envoy Gateway's chart does not render: {done.stderr.strip()}")
        namespace = f"apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {GATEWAY_NAMESPACE}"
        files: dict[str, list[str]] = {"crds": [], "before": [namespace], "deployments": []}
        for document in done.stdout.split("\n---\n"):
            files[_part_of_chart(document)].append(document)
        for name, documents in files.items():
            write_atomically(folder / f"{name}.yaml", "\n---\n".join(documents))

    return deps.build_once(cache_root() / "charts" / f"envoy-gateway-{versions.ENVOY_GATEWAY}-{digest}", build)


def _part_of_chart(document: str) -> str:
    kind = next((line for line in document.splitlines() if line.startswith("kind: ")), "")
    return {"kind: CustomResourceDefinition": "crds", "kind: Deployment": "deployments"}.get(kind, "before")


def _volumes(cluster: Cluster) -> list[str]:
    manifests = []
    for number in range(recycler.COUNT):
        folder = cluster.volumes / f"{number:02}"
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o777)
        manifests.append(node.render("volume.yaml", number=f"{number:02}", folder=folder, node=cluster.node_name))
    return manifests
