"""etcd, kube-apiserver, kube-controller-manager and kube-scheduler as plain processes on this machine.

Alone (`ControlPlane`, `--control-plane-only`) they listen on loopback at free ports and need no rights: enough for
tests of CRDs, RBAC, server-side apply, garbage collection and Jobs, since nothing there runs a pod. Under a node
(`node.py`) the API server listens on the host's end of the veth pair instead, where pods reach it.
"""

import random
import shutil
import socket
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from localcluster import deps, pki, process, state
from localcluster.api import Api
from localcluster.errors import ClusterError
from localcluster.progress import Progress
from localcluster.state import Cluster

_START_ATTEMPTS = 3  # somebody may take a free port between our look and the program's bind


@dataclass(frozen=True, kw_only=True)
class Endpoints:
    """Where the control plane listens."""

    api_host: str
    api_port: int
    etcd_port: int

    @property
    def server(self) -> str:
        return f"https://{self.api_host}:{self.api_port}"

    @property
    def etcd(self) -> str:
        return f"https://127.0.0.1:{self.etcd_port}"


class ControlPlane:
    """A control plane for as long as a `with` block lasts; its owner is this process.

    What a killed owner left behind is cleared by the next start of any control plane.
    """

    def __init__(self, name: str, *, quiet: bool = True) -> None:
        self._name = state.check_name(name)
        self._quiet = quiet
        self.cluster: Cluster | None = None

    @property
    def kubeconfig(self) -> Path:
        if self.cluster is None:
            raise ClusterError("the control plane is not running: use it in a `with` block")
        return self.cluster.kubeconfig

    @property
    def kubectl(self) -> Path:
        return deps.kube(Progress(1, quiet=self._quiet)) / "kubectl"

    def __enter__(self) -> Self:
        sweep()
        self.cluster = up(self._name, Progress(3, quiet=self._quiet), owner=state.Owner.current())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.cluster is not None:
            down(self.cluster)
            self.cluster = None


def up(name: str, progress: Progress, *, owner: state.Owner | None = None) -> Cluster:
    """Start a control plane on loopback, or find it running."""
    programs = check_programs(progress)
    cluster = state.claim(name, with_node=False, owner=owner)
    with cluster.lock():
        if is_running(cluster, expected=3):
            return cluster
        stop(cluster)
        for attempt in range(1, _START_ATTEMPTS + 1):
            try:
                cluster.save()
                start(cluster, programs, progress)
                return cluster
            except BaseException as error:
                stop(cluster)
                cluster.forget(keep_images=False)
                if attempt == _START_ATTEMPTS or "address already in use" not in str(error):
                    raise
    raise AssertionError("unreachable")


def down(cluster: Cluster) -> None:
    with cluster.lock():
        stop(cluster)
        shutil.rmtree(cluster.logs, ignore_errors=True)
        cluster.forget(keep_images=False)


def sweep() -> None:
    """Clear control planes whose owner is gone."""
    for cluster in state.known():
        if cluster.owner is not None and not cluster.owner.is_alive():
            down(cluster)


def check_programs(progress: Progress) -> Path:
    if shutil.which("openssl") is None:
        raise ClusterError("the certificates are made by `openssl`, which is not in PATH: install the package openssl")
    with progress.step("Programs"):
        return deps.kube(progress)


def is_running(cluster: Cluster, *, expected: int) -> bool:
    running = [process for process in process.records(cluster.pids) if process.is_alive()]
    return len(running) >= expected and cluster.kubeconfig.exists() and Api(cluster.kubeconfig).is_ready()


def start(cluster: Cluster, programs: Path, progress: Progress) -> None:
    endpoints = _endpoints(cluster)
    with progress.step("Certificates"):
        pki.issue_control_plane(cluster)
        for identity in (pki.CONTROLLER_MANAGER, pki.SCHEDULER):
            path = cluster.config / f"{identity.file}.kubeconfig"
            pki.write_kubeconfig(cluster, identity, server=endpoints.server, path=path)
    with progress.step("API server, etcd, controllers"):
        _start_etcd(cluster, programs, endpoints)
        api_server = process.spawn(
            "kube-apiserver", [programs / "kube-apiserver", *_api_server_flags(cluster, endpoints)],
            pids=cluster.pids, logs=cluster.logs,
        )  # fmt: skip
        pki.write_kubeconfig(cluster, pki.ADMIN, server=endpoints.server, path=cluster.kubeconfig)
        is_ready = Api(cluster.kubeconfig).is_ready
        what = "the API server to be ready"
        process.wait_for_service(api_server, is_ready, seconds=300, what=what, logs=cluster.logs)
        # Not before: the controller manager gives up after ten seconds without a healthy server.
        _start_controllers(cluster, programs)


def stop(cluster: Cluster) -> None:
    """Stop what the records name. etcd goes last, or the others fill their logs with its absence."""
    running = process.records(cluster.pids)
    process.stop([found for found in running if found.name != "etcd"], grace_seconds=2)
    process.stop([found for found in running if found.name == "etcd"], grace_seconds=2)
    shutil.rmtree(cluster.pids, ignore_errors=True)
    shutil.rmtree(cluster.directory / "etcd", ignore_errors=True)


def _endpoints(cluster: Cluster) -> Endpoints:
    if cluster.index is not None:
        return Endpoints(api_host=cluster.host_ip, api_port=6443, etcd_port=_free_port())
    return Endpoints(api_host="127.0.0.1", api_port=_free_port(), etcd_port=_free_port())


def _free_port() -> int:
    """Find a free port below the range from which the kernel gives ports to clients."""
    for _ in range(200):
        port = random.randrange(20000, 32000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise ClusterError("no free TCP port between 20000 and 32000 on 127.0.0.1")


def _start_etcd(cluster: Cluster, programs: Path, endpoints: Endpoints) -> None:
    pki_of = cluster.pki
    process.spawn(
        "etcd",
        [
            programs / "etcd", "--name=default", f"--data-dir={cluster.directory / 'etcd'}",
            f"--listen-client-urls={endpoints.etcd}", f"--advertise-client-urls={endpoints.etcd}",
            "--listen-peer-urls=http://127.0.0.1:0",
            f"--cert-file={pki_of / 'etcd.crt'}", f"--key-file={pki_of / 'etcd.key'}",
            "--client-cert-auth", f"--trusted-ca-file={pki_of / 'etcd-ca.crt'}",
            "--unsafe-no-fsync", "--log-level=warn",  # a lost database is a new cluster: nothing to protect
        ],
        pids=cluster.pids, logs=cluster.logs,
    )  # fmt: skip


def _api_server_flags(cluster: Cluster, endpoints: Endpoints) -> list[str]:
    pki_of = cluster.pki
    flags = [
        f"--bind-address={endpoints.api_host}", f"--secure-port={endpoints.api_port}",
        f"--advertise-address={endpoints.api_host}",
        f"--tls-cert-file={pki_of / 'apiserver.crt'}", f"--tls-private-key-file={pki_of / 'apiserver.key'}",
        f"--client-ca-file={pki_of / 'ca.crt'}",
        f"--etcd-servers={endpoints.etcd}", f"--etcd-cafile={pki_of / 'etcd-ca.crt'}",
        f"--etcd-certfile={pki_of / 'etcd-client.crt'}", f"--etcd-keyfile={pki_of / 'etcd-client.key'}",
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        f"--service-account-key-file={pki_of / 'service-account.pub'}",
        f"--service-account-signing-key-file={pki_of / 'service-account.key'}",
        f"--service-cluster-ip-range={cluster.service_cidr}",
        "--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction", "--allow-privileged=true",
        f"--cert-dir={cluster.directory / 'apiserver'}",
    ]  # fmt: skip
    if cluster.index is None:
        # There is no pod to reach us by the Service `kubernetes`, and loopback must not stand in its endpoints.
        return [*flags, "--endpoint-reconciler-type=none"]
    return [
        *flags,
        "--kubelet-preferred-address-types=InternalIP",  # the host cannot resolve the node's name
        f"--kubelet-certificate-authority={pki_of / 'ca.crt'}",
        f"--kubelet-client-certificate={pki_of / 'kubelet-client.crt'}",
        f"--kubelet-client-key={pki_of / 'kubelet-client.key'}",
    ]


def _start_controllers(cluster: Cluster, programs: Path) -> None:
    kubeconfig = cluster.config / "controller-manager.kubeconfig"
    flags = [
        f"--kubeconfig={kubeconfig}", f"--authentication-kubeconfig={kubeconfig}",
        f"--authorization-kubeconfig={kubeconfig}", "--secure-port=0", "--leader-elect=false",
        "--use-service-account-credentials", f"--root-ca-file={cluster.pki / 'ca.crt'}",
        f"--service-account-private-key-file={cluster.pki / 'service-account.key'}",
        f"--service-cluster-ip-range={cluster.service_cidr}",
        "--kube-api-qps=200", "--kube-api-burst=400", "--pvclaimbinder-sync-period=3s",
        "--node-monitor-grace-period=2m",  # a busy machine is no dead node
    ]  # fmt: skip
    if cluster.index is not None:
        flags += ["--allocate-node-cidrs", f"--cluster-cidr={cluster.pod_cidr}", "--node-cidr-mask-size=24"]
    command: list[str | Path] = [programs / "kube-controller-manager", *flags]
    process.spawn("kube-controller-manager", command, pids=cluster.pids, logs=cluster.logs)
    if cluster.index is not None:
        kubeconfig = cluster.config / "scheduler.kubeconfig"
        flags = [f"--kubeconfig={kubeconfig}", f"--authentication-kubeconfig={kubeconfig}"]
        flags += [f"--authorization-kubeconfig={kubeconfig}", "--secure-port=0", "--leader-elect=false"]
        command = [programs / "kube-scheduler", *flags]
        process.spawn("kube-scheduler", command, pids=cluster.pids, logs=cluster.logs)
