"""The node: containerd, kubelet, kube-proxy, CoreDNS and an image registry, in a network namespace.

Starts them in order and takes all of it away again, also what somebody killed with SIGKILL left lying around. The
folder of containerd (images, unpacked) is the only thing that a stop keeps.
"""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from string import Template

from localcluster import network, pki, process, state, versions
from localcluster.api import Api
from localcluster.cgroups import Cgroup
from localcluster.errors import ClusterError
from localcluster.process import Process
from localcluster.progress import Progress
from localcluster.state import Cluster

MANIFESTS = Path(__file__).parent / "manifests"
PAUSE_IMAGE = f"{state.REGISTRY}/system/pause:{versions.PAUSE}"


def prepare(cluster: Cluster) -> None:
    """Make the place: control groups, network, folders. Before the control plane, which listens on the veth pair."""
    Cgroup(cluster.namespace).create()
    network.create(cluster)
    for folder in (cluster.config, cluster.runtime, cluster.logs):
        folder.mkdir(parents=True, exist_ok=True)


def start_registry(cluster: Cluster) -> Process:
    storage = state.cache_root() / "registry"
    storage.mkdir(parents=True, exist_ok=True)
    config = cluster.config / "registry.yml"
    config.write_text(render("registry.yml", registry=cluster.registry, storage=storage))
    registry = _spawn(cluster, "registry", ["docker-registry", "serve", config], on_host=True)
    _wait_for_port(cluster, registry, cluster.host_ip, 5000)
    return registry


def start(cluster: Cluster, programs: Path, coredns: Path, progress: Progress) -> None:
    server = f"https://{cluster.host_ip}:6443"
    pki.issue_node(cluster)
    for identity in (pki.kubelet_identity(cluster), pki.PROXY, pki.DNS, pki.RECYCLER):
        pki.write_kubeconfig(cluster, identity, server=server, path=cluster.config / f"{identity.file}.kubeconfig")
    with progress.step("Container runtime, kubelet, network proxy, DNS"):
        _start_containerd(cluster)
        _start_kubelet(cluster, programs)
        _start_proxy(cluster, programs)
        _start_dns(cluster, coredns)
    with progress.step("Node ready"):
        api = Api(cluster.kubeconfig)
        kubelet = process.read_record(cluster.pids / "kubelet")
        assert kubelet is not None
        what = "the node to be Ready"
        process.wait_for_service(kubelet, lambda: is_ready(api, cluster), seconds=120, what=what, logs=cluster.logs)


def start_recycler(cluster: Cluster) -> None:
    arguments = ["-m", "localcluster.recycler", str(cluster.config / "recycler.kubeconfig"), str(cluster.volumes)]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    _spawn(cluster, "recycler", [sys.executable, *arguments], on_host=True, env=env)


def is_ready(api: Api, cluster: Cluster) -> bool:
    node = api.get(f"/api/v1/nodes/{cluster.node_name}")
    conditions = node["status"].get("conditions", []) if node else []
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)


def stop(cluster: Cluster, programs: Path | None = None) -> None:
    """Take the node away, in whatever state it is, and leave no process, mount, socket, group or interface."""
    group = Cgroup(cluster.namespace)
    running = {found.name: found for found in process.records(cluster.pids) if found.is_alive()}
    if "kubelet" in running:
        process.stop([running["kubelet"]], grace_seconds=3)  # or it would start again what we stop
    if "containerd" in running and programs:
        _clear_pods(cluster, programs)
    rest = ("kube-proxy", "coredns", "recycler", "registry", "containerd")
    process.stop([running[name] for name in rest if name in running], grace_seconds=3)
    group.kill_all()
    _remove_shim_sockets(cluster)
    _unmount_below(cluster.directory, cluster.runtime)
    network.remove(cluster)
    group.remove()
    shutil.rmtree(cluster.runtime, ignore_errors=True)
    _remove_host_traces(cluster)


def render(template: str, **values: object) -> str:
    return Template((MANIFESTS / template).read_text()).substitute({key: str(value) for key, value in values.items()})


def _spawn(
    cluster: Cluster, name: str, command: list[str | Path], *, on_host: bool = False, env: dict[str, str] | None = None
) -> Process:
    words = command if on_host else [*network.inside(cluster), *command]
    started = process.spawn(name, words, pids=cluster.pids, logs=cluster.logs, env=env)
    with contextlib.suppress(ProcessLookupError):  # ended already: whoever waits for it will say why
        Cgroup(cluster.namespace).adopt(started.pid)
    return started


def _start_containerd(cluster: Cluster) -> None:
    hosts = cluster.config / "certs.d" / state.REGISTRY / "hosts.toml"
    cni = cluster.config / "cni" / "10-luthier.conflist"
    for path in (hosts, cni):
        path.parent.mkdir(parents=True, exist_ok=True)
    hosts.write_text(render("hosts.toml", registry=cluster.registry))
    cni.write_text(json.dumps(_cni_config(cluster), indent=2))
    config = cluster.config / "containerd.toml"
    config.write_text(
        render(
            "containerd.toml", directory=cluster.directory, runtime=cluster.runtime, config=cluster.config,
            socket=cluster.containerd_socket, pause=PAUSE_IMAGE,
        )
    )  # fmt: skip
    containerd = _spawn(cluster, "containerd", ["containerd", "--config", config])
    is_up = lambda: _accepts(cluster.containerd_socket)  # noqa: E731
    process.wait_for_service(containerd, is_up, seconds=60, what="containerd's socket", logs=cluster.logs)


def _cni_config(cluster: Cluster) -> dict[str, object]:
    ranges, routes = [[{"subnet": cluster.pod_cidr}]], [{"dst": "0.0.0.0/0"}]
    ipam = {"type": "host-local", "ranges": ranges, "routes": routes, "dataDir": f"{cluster.runtime}/cni"}
    bridge = {"type": "bridge", "bridge": "cni0", "isGateway": True, "ipMasq": True, "hairpinMode": True, "ipam": ipam}
    portmap = {"type": "portmap", "capabilities": {"portMappings": True}}
    return {"cniVersion": "0.4.0", "name": cluster.namespace, "plugins": [bridge, portmap]}


def _start_kubelet(cluster: Cluster, programs: Path) -> None:
    config = cluster.config / "kubelet.json"
    config.write_text(json.dumps(_kubelet_config(cluster), indent=2))
    flags = [f"--config={config}", f"--kubeconfig={cluster.config / 'kubelet.kubeconfig'}"]
    flags += [f"--root-dir={cluster.directory / 'kubelet'}", f"--cert-dir={cluster.directory / 'kubelet/pki'}"]
    flags += [f"--node-ip={cluster.node_ip}", f"--hostname-override={cluster.node_name}"]
    _spawn(cluster, "kubelet", [programs / "kubelet", *flags])


def _kubelet_config(cluster: Cluster) -> dict[str, object]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": cluster.node_ip,
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": f"{cluster.pki}/ca.crt"},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": f"{cluster.pki}/kubelet.crt",
        "tlsPrivateKeyFile": f"{cluster.pki}/kubelet.key",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": Cgroup(cluster.namespace).kubelet_root,
        "containerRuntimeEndpoint": f"unix://{cluster.containerd_socket}",
        "clusterDNS": [cluster.node_ip],
        "clusterDomain": "cluster.local",
        "resolvConf": "",
        "podLogsDir": f"{cluster.directory}/pod-logs",
        "volumePluginDir": f"{cluster.directory}/volume-plugins",
        "failSwapOn": False,
        "localStorageCapacityIsolation": False,
        "evictionHard": {"memory.available": "200Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        # A developer's machine and its tests: notice changes soon, report them at once, pull several images at a time.
        "nodeStatusUpdateFrequency": "4s",
        "syncFrequency": "5s",
        "serializeImagePulls": False,
        "registryPullQPS": 0,
        "eventRecordQPS": 0,
        "kubeAPIQPS": 200,
        "kubeAPIBurst": 400,
        "maxPods": 110,
    }


def _start_proxy(cluster: Cluster, programs: Path) -> None:
    config = cluster.config / "proxy.json"
    settings = {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": str(cluster.config / "proxy.kubeconfig")},
        "mode": "iptables",
        "clusterCIDR": cluster.pod_cidr,
        "hostnameOverride": cluster.node_name,
        "iptables": {"minSyncPeriod": "100ms"},
        "conntrack": {"maxPerCore": 0},  # it would write a sysctl that a namespace does not have
    }
    config.write_text(json.dumps(settings, indent=2))
    _spawn(cluster, "kube-proxy", [programs / "kube-proxy", f"--config={config}"])


def _start_dns(cluster: Cluster, coredns: Path) -> None:
    config = cluster.config / "Corefile"
    config.write_text(render("Corefile", node_ip=cluster.node_ip, config=cluster.config))
    dns = _spawn(cluster, "coredns", [coredns, "-conf", config])
    _wait_for_port(cluster, dns, cluster.node_ip, 53)


def _wait_for_port(cluster: Cluster, server: Process, host: str, port: int) -> None:
    def is_open() -> bool:
        with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=1):
            return True
        return False

    process.wait_for_service(server, is_open, seconds=30, what=f"{server.name} on {host}:{port}", logs=cluster.logs)


def _accepts(path: Path) -> bool:
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        return True
    return False


def _clear_pods(cluster: Cluster, programs: Path) -> None:
    command: list[str | Path] = [programs / "cri", "--socket", f"unix://{cluster.containerd_socket}", "clear"]
    with contextlib.suppress(subprocess.TimeoutExpired):  # what it does not manage is killed by control group
        subprocess.run(command, capture_output=True, timeout=60, check=False)


def _remove_shim_sockets(cluster: Cluster) -> None:
    """Delete the sockets that containerd puts outside of its own folders, under names that only their owner knows."""
    for bundle in (cluster.runtime / "containerd").glob("io.containerd.runtime.v2.task/*/*/address"):
        Path(bundle.read_text().removeprefix("unix://")).unlink(missing_ok=True)


def _unmount_below(*folders: Path) -> None:
    mounts = [line.split()[4].replace("\\040", " ") for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for mount in reversed(mounts):  # the last mounted first
        if any(Path(mount).is_relative_to(folder) for folder in folders):
            done = subprocess.run(["umount", "--lazy", mount], capture_output=True, text=True)
            if done.returncode and "not mounted" not in done.stderr:
                raise ClusterError(f"cannot unmount {mount}: {done.stderr.strip()}")


def _remove_host_traces(cluster: Cluster) -> None:
    """Delete what programs write to fixed places of the machine: CNI's results and kubelet's links to logs."""
    for result in Path("/var/lib/cni/results").glob(f"{cluster.namespace}-*"):
        result.unlink(missing_ok=True)
    for link in Path("/var/log/containers").glob("*.log"):
        if link.is_symlink() and Path(os.readlink(link)).is_relative_to(cluster.directory):
            link.unlink(missing_ok=True)
