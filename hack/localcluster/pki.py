"""Keys, certificates and kubeconfigs of one cluster: made anew at each start, by openssl.

Two authorities: `ca` for Kubernetes, `etcd-ca` for the database, which would otherwise let every holder of a cluster
certificate read all secrets.
"""

import base64
import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from localcluster.errors import ClusterError
from localcluster.state import Cluster, write_atomically

_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc", "-days", "3650")


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Somebody with a certificate: the subject is the user (CN) and group (O) that RBAC sees."""

    file: str
    user: str
    group: str = ""
    names: Sequence[str] = ()
    authority: str = "ca"

    @property
    def subject(self) -> str:
        return (f"/O={self.group}" if self.group else "") + f"/CN={self.user}"


ADMIN = Identity(file="admin", user="kubernetes-admin", group="system:masters")
CONTROLLER_MANAGER = Identity(file="controller-manager", user="system:kube-controller-manager")
SCHEDULER = Identity(file="scheduler", user="system:kube-scheduler")
PROXY = Identity(file="proxy", user="system:kube-proxy")
DNS = Identity(file="dns", user="luthier:coredns")
RECYCLER = Identity(file="recycler", user="luthier:recycler")


def issue_control_plane(cluster: Cluster) -> None:
    addresses = [f"IP:{cluster.host_ip}"] if cluster.index is not None else []
    service = ("kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local")
    names = [f"DNS:{name}" for name in (*service, "localhost")]
    _authority(cluster.pki, "ca")
    _authority(cluster.pki, "etcd-ca")
    for identity in (
        Identity(
            file="apiserver",
            user="kube-apiserver",
            names=[*names, *addresses, f"IP:{cluster.service_ip}", "IP:127.0.0.1"],
        ),
        Identity(file="etcd", user="etcd", names=["IP:127.0.0.1"], authority="etcd-ca"),
        Identity(file="etcd-client", user="kube-apiserver", authority="etcd-ca"),
        # Lets the API server read logs and run commands through kubelet.
        Identity(file="kubelet-client", user="kube-apiserver-kubelet-client", group="system:masters"),
        ADMIN,
        CONTROLLER_MANAGER,
        SCHEDULER,
    ):
        _issue(cluster.pki, identity)
    key = cluster.pki / "service-account.key"
    _openssl("genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", key)
    _openssl("pkey", "-in", key, "-pubout", "-out", key.with_suffix(".pub"))


def kubelet_identity(cluster: Cluster) -> Identity:
    """Of kubelet, as a client of the API server and as a server of logs and exec."""
    names = [f"DNS:{cluster.node_name}", f"IP:{cluster.node_ip}"]
    return Identity(file="kubelet", user=f"system:node:{cluster.node_name}", group="system:nodes", names=names)


def issue_node(cluster: Cluster) -> None:
    for identity in (kubelet_identity(cluster), PROXY, DNS, RECYCLER):
        _issue(cluster.pki, identity)


def write_kubeconfig(cluster: Cluster, identity: Identity, *, server: str, path: Path) -> None:
    """Write a kubeconfig that holds all it needs, so that it may be copied elsewhere on this machine."""
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {
                "name": cluster.name,
                "cluster": {"server": server, "certificate-authority-data": _base64(cluster.pki / "ca.crt")},
            }
        ],
        "users": [
            {
                "name": identity.user,
                "user": {
                    "client-certificate-data": _base64(cluster.pki / f"{identity.file}.crt"),
                    "client-key-data": _base64(cluster.pki / f"{identity.file}.key"),
                },
            }
        ],
        "contexts": [
            {"name": f"luthier-{cluster.name}", "context": {"cluster": cluster.name, "user": identity.user}}
        ],
        "current-context": f"luthier-{cluster.name}",
    }  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(content, indent=2) + "\n", mode=0o600)


def _base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def _authority(directory: Path, name: str) -> None:
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    _openssl(
        "req", "-x509", *_KEY, "-subj", f"/CN=luthier-{name}", "-out", directory / f"{name}.crt",
        "-keyout", directory / f"{name}.key", "-addext", "keyUsage=critical,keyCertSign,digitalSignature",
    )  # fmt: skip


def _issue(directory: Path, identity: Identity) -> None:
    alternative = ["-addext", f"subjectAltName={','.join(identity.names)}"] if identity.names else []
    _openssl(
        "req", "-x509", *_KEY, "-subj", identity.subject, "-out", directory / f"{identity.file}.crt",
        "-keyout", directory / f"{identity.file}.key",
        "-CA", directory / f"{identity.authority}.crt", "-CAkey", directory / f"{identity.authority}.key",
        "-addext", "basicConstraints=critical,CA:FALSE", "-addext", "extendedKeyUsage=serverAuth,clientAuth",
        *alternative,
    )  # fmt: skip


def _openssl(*arguments: str | Path) -> None:
    done = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        raise ClusterError(f"openssl {arguments[0]} failed (version 3.0 or newer is needed): {done.stderr.strip()}")
