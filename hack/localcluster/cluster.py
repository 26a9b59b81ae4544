"""Start, stop and show a whole cluster: the order of things, and what happens when one of them fails."""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from localcluster import addons, chart, checks, controlplane, deps, images, network, node, process, state
from localcluster.api import Api
from localcluster.cgroups import Cgroup
from localcluster.errors import ClusterError
from localcluster.progress import Progress
from localcluster.state import Cluster

STEPS = 10
PATIENCE_SECONDS = 60
"""A machine under load answers late: a cluster whose programs all live is not given up, and cleared, for that."""
# What runs when a cluster with a node is up: the registry and the recycler are ours, the rest is Kubernetes.
PROGRAMS = {
    "etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "registry", "containerd", "kubelet",
    "kube-proxy", "coredns", "recycler",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a cluster is made of, ready in the cache."""

    programs: Path
    coredns: Path
    system_images: list[images.SystemImage]
    gateway: Path

    def image(self, name: str) -> images.SystemImage:
        return next(image for image in self.system_images if image.name == name)


def fetch_parts(progress: Progress) -> Parts:
    """Have every program, image and manifest built: slow once, then nothing to do."""
    programs = controlplane.check_programs(progress)
    with progress.step("CoreDNS, Envoy Gateway, Envoy, Helm, base image"):
        coredns = deps.coredns(progress)
        system = images.system_images(progress)
        gateway = chart.render(next(image for image in system if image.name == "envoy-gateway"), programs, progress)
        images.ensure_base(progress)
    return Parts(programs=programs, coredns=coredns, system_images=system, gateway=gateway)


def up(name: str, progress: Progress) -> Cluster:
    """Start a cluster, or find it running. After a failure nothing of it runs, and its logs stay."""
    with progress.step("This machine: rights, disk, memory, packages"):
        checks.check_machine()
        checks.ensure_packages(progress)
    controlplane.sweep()
    cluster = state.claim(name, with_node=True)
    with cluster.lock():
        if is_running(cluster):
            return cluster
        if (cluster.directory / "up").exists():
            progress.detail(f"cluster {name} is not whole any more: it is cleared and started anew")
        parts = fetch_parts(progress)
        try:
            _clear(cluster, parts.programs)
            _start(cluster, parts, progress)
        except BaseException as error:
            _clear(cluster, parts.programs)
            if isinstance(error, subprocess.CalledProcessError):
                raise ClusterError(f"`{' '.join(error.cmd)}` failed: {error.stderr}") from error
            raise
        (cluster.directory / "up").touch()
    return cluster


def down(name: str, *, delete: bool = False) -> bool:
    """Stop a cluster; False where there was none. `delete` also gives up its unpacked images and its index."""
    cluster = state.find(name)
    if cluster is None:
        return False
    if cluster.index is None:
        controlplane.down(cluster)
        return True
    with cluster.lock():
        _clear(cluster, _programs_if_built())
        if delete:
            cluster.forget(keep_images=False)
            shutil.rmtree(cluster.logs, ignore_errors=True)
    return True


def is_running(cluster: Cluster) -> bool:
    """Tell whether all of it is up. Half of a cluster counts as none, and is cleared by the next start."""
    if cluster.index is None:
        return controlplane.is_running(cluster, expected=3)
    alive = {found.name for found in process.records(cluster.pids) if found.is_alive()}
    if not (cluster.directory / "up").exists() or not alive >= PROGRAMS:
        return False
    try:
        process.wait_until(lambda: _is_answering(cluster), seconds=PATIENCE_SECONDS, what="the node", every=1)
    except ClusterError:
        return False
    return True


def _is_answering(cluster: Cluster) -> bool:
    try:
        return node.is_ready(Api(cluster.kubeconfig), cluster)
    except OSError:  # the API server does not answer
        return False


def describe(cluster: Cluster) -> str:
    """Give a table of a cluster's programs with their memory, and where things are."""
    alive = {found.name: found for found in process.records(cluster.pids) if found.is_alive()}
    lines = [f"cluster {cluster.name}: {'running' if is_running(cluster) else 'not running'}"]
    expected = PROGRAMS if cluster.index is not None else {"etcd", "kube-apiserver", "kube-controller-manager"}
    for name in sorted(expected):
        found = alive.get(name)
        what = f"pid {found.pid:<8} {found.memory_bytes() / 2**20:5.0f} MiB" if found else "not running"
        lines.append(f"  {name:24} {what}")
    if cluster.index is not None:
        lines.append(
            f"  {'pods':24} {'':12} {Cgroup(cluster.namespace).memory_bytes() / 2**20:5.0f} MiB with page cache"
        )
        lines.append(
            f"node {cluster.node_name} {cluster.node_ip}, registry {cluster.registry}, namespace {cluster.namespace}"
        )
        lines.append(f"a shell in the node's network: {' '.join(network.inside(cluster))} bash")
    lines += [f"kubeconfig {cluster.kubeconfig}", f"logs {cluster.logs}"]
    return "\n".join(lines)


def _start(cluster: Cluster, parts: Parts, progress: Progress) -> None:
    with progress.step("Network namespace, image registry, system images"):
        node.prepare(cluster)
        node.start_registry(cluster)
        images.publish(parts.system_images, cluster, progress)
    controlplane.start(cluster, parts.programs, progress)
    node.start(cluster, parts.programs, parts.coredns, progress)
    kubectl = addons.Kubectl(cluster, parts.programs)
    with progress.step("Storage, Prometheus, Gateway API, Envoy Gateway"):
        addons.apply_base(cluster, kubectl)
        node.start_recycler(cluster)
        addons.apply_prometheus(kubectl, parts.image("prometheus"), images.BASE_REFERENCE)
        addons.apply_gateway(kubectl, parts.gateway, parts.image("envoy"))
    with progress.step("Pods of the system ready"):
        addons.wait_until_up(kubectl)
        _check_all_alive(cluster)


def _check_all_alive(cluster: Cluster) -> None:
    alive = {found.name for found in process.records(cluster.pids) if found.is_alive()}
    for name in sorted(PROGRAMS - alive):
        log = cluster.logs / f"{name}.log"
        raise ClusterError(f"{name} has ended; last lines of {log}:\n{process.last_lines(log)}")


def _clear(cluster: Cluster, programs: Path | None) -> None:
    node.stop(cluster, programs)
    controlplane.stop(cluster)
    cluster.forget(keep_images=True)


def _programs_if_built() -> Path | None:
    """Do not build Kubernetes to stop a cluster: where its programs are gone, its pods are killed instead."""
    built = sorted((state.cache_root() / "bin").glob("kube-*/cri"))
    return built[-1].parent if built else None
