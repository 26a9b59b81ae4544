"""What every cluster has inside, as kind's clusters would after a few more commands: storage, the Gateway API with
Envoy Gateway, Prometheus. All of it is plain manifests, applied whole.
"""

import hashlib
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
        self("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=manifest)

    def wait(self, resource: str, condition: str, *, namespace: str = "default", seconds: int = 180) -> None:
        self("wait", resource, f"--for=condition={condition}", f"--namespace={namespace}", f"--timeout={seconds}s")


def apply_base(cluster: Cluster, kubectl: Kubectl) -> None:
    kubectl.apply(node.render("base.yaml") + "".join(_volumes(cluster)))


def apply_prometheus(kubectl: Kubectl, image: SystemImage) -> None:
    kubectl.apply(node.render("prometheus.yaml", image=image.reference))


def apply_gateway(kubectl: Kubectl, chart: Path) -> None:
    """Install Envoy Gateway from its rendered chart; the definitions first, since the rest is made of them."""
    kubectl.apply((chart / "crds.yaml").read_text())
    kubectl("wait", "--for=condition=Established", "--timeout=60s", "-f", "-", stdin=(chart / "crds.yaml").read_text())
    kubectl.apply((chart / "rest.yaml").read_text())
    kubectl.apply(node.render("gateway-class.yaml"))


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
        documents = done.stdout.split("\n---\n")
        crds = [document for document in documents if "\nkind: CustomResourceDefinition" in document]
        rest = [document for document in documents if document not in crds]
        namespace = f"apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {GATEWAY_NAMESPACE}"
        write_atomically(folder / "crds.yaml", "\n---\n".join(crds))
        write_atomically(folder / "rest.yaml", "\n---\n".join([namespace, *rest]))

    return deps.build_once(cache_root() / "charts" / f"envoy-gateway-{versions.ENVOY_GATEWAY}-{digest}", build)


def _volumes(cluster: Cluster) -> list[str]:
    manifests = []
    for number in range(recycler.COUNT):
        folder = cluster.volumes / f"{number:02}"
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o777)
        manifests.append(node.render("volume.yaml", number=f"{number:02}", folder=folder, node=cluster.node_name))
    return manifests
