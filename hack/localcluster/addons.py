"""What every cluster has inside, as kind's clusters would after a few more commands: storage, the Gateway API with
Envoy Gateway, Prometheus. All of it is plain manifests, applied whole.
"""

import json
import subprocess
from pathlib import Path

from localcluster import chart, node, recycler
from localcluster.errors import ClusterError
from localcluster.images import SystemImage
from localcluster.state import Cluster


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
    name = "monitoring"
    settings = {path.name: path.read_text() for path in (node.MANIFESTS / "prometheus").iterdir()}
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
    config = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "prometheus", "namespace": name},
        "data": settings,
    }
    # The settings first: a pod that misses them is tried again ever more seldom.
    manifests = [
        json.dumps(namespace),
        json.dumps(config),
        node.render("prometheus.yaml", image=image.reference, python=python),
    ]
    kubectl.apply("\n---\n".join(manifests))


def apply_gateway(kubectl: Kubectl, rendered: Path, envoy: SystemImage) -> None:
    """Install Envoy Gateway from its rendered chart, in the order in which the parts need each other."""
    crds = (rendered / "crds.json").read_text()
    kubectl.apply(crds)
    kubectl("wait", "--for=condition=Established", "--timeout=60s", "-f", "-", stdin=crds)
    kubectl.apply((rendered / "before.yaml").read_text())
    kubectl.apply(node.render("gateway-class.yaml", image=envoy.reference))
    # Made by a Job of the chart.
    kubectl("wait", "secret/envoy-gateway", "--for=create", f"--namespace={chart.NAMESPACE}", "--timeout=180s")
    kubectl.apply((rendered / "deployments.yaml").read_text())


def wait_until_up(kubectl: Kubectl) -> None:
    kubectl.wait("deployment/envoy-gateway", "Available", namespace=chart.NAMESPACE)
    kubectl.wait("gatewayclass/envoy", "Accepted")
    kubectl.wait("deployment/prometheus", "Available", namespace="monitoring")


def _volumes(cluster: Cluster) -> list[str]:
    manifests = []
    for number in range(recycler.COUNT):
        folder = cluster.volumes / f"{number:02}"
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o777)
        manifests.append(node.render("volume.yaml", number=f"{number:02}", folder=folder, node=cluster.node_name))
    return manifests
