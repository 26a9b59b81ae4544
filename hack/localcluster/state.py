"""Where a cluster keeps its files, and which addresses are its own.

A full cluster takes a small index; its addresses follow from it, so several live side by side:

    host  10.240.<i>.1  --veth--  10.240.<i>.2  node (in its own network namespace)
    pods  10.244.<i>.0/24         services  10.96.<4i>.0/22

The index stays with the name as long as its folder is there.
"""

import contextlib
import fcntl
import ipaddress
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from localcluster.errors import ClusterError
from localcluster.process import is_running_since, started_at

REGISTRY = "registry.luthier.local:5000"  # the registry's name in every manifest, whatever the cluster's index
MAX_CLUSTERS = 60
NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")


def cache_root() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "luthier"


def write_atomically(path: Path, text: str, mode: int = 0o644) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "w") as file:
        file.write(text)
    temporary.rename(path)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold `path` as a lock. The kernel lets go of it when the holder dies, however it dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with path.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if path.exists() and path.stat().st_ino == os.fstat(file.fileno()).st_ino:
                yield
                return
        # Whoever held it before us deleted it: this one would lock out nobody.


@dataclass(frozen=True, kw_only=True)
class Owner:
    """A process that a cluster must not outlive (a test run): pid and start time, since pids come back."""

    pid: int
    started: str

    @classmethod
    def current(cls) -> "Owner":
        return cls(pid=os.getpid(), started=started_at(os.getpid()) or "")

    def is_alive(self) -> bool:
        return is_running_since(self.pid, self.started)


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """A named cluster's place on this machine. `index` is None where there is only a control plane."""

    name: str
    index: int | None = None
    owner: Owner | None = None

    @property
    def directory(self) -> Path:
        return clusters_directory() / self.name

    @property
    def kubeconfig(self) -> Path:
        return self.directory / "kubeconfig"

    @property
    def pki(self) -> Path:
        return self.directory / "pki"

    @property
    def pids(self) -> Path:
        return self.directory / "pids"

    @property
    def config(self) -> Path:
        return self.directory / "config"

    @property
    def volumes(self) -> Path:
        return self.directory / "volumes"

    @property
    def logs(self) -> Path:
        """Outside the cluster's own folder, so that a failed start can be read after it was cleared away."""
        return cache_root() / "logs" / self.name

    @property
    def runtime(self) -> Path:
        """Sockets and mounts of the node; short, because a socket's path has 107 bytes."""
        return Path("/run/luthier") / self.name

    @property
    def containerd_socket(self) -> Path:
        return self.runtime / "containerd.sock"

    @property
    def node_name(self) -> str:
        return f"{self.name}-node"

    @property
    def namespace(self) -> str:
        return f"luthier-{self.name}"

    @property
    def number(self) -> int:
        if self.index is None:
            raise ClusterError(f"cluster {self.name!r} is a control plane only: it has no node and no addresses")
        return self.index

    @property
    def host_ip(self) -> str:
        return f"10.240.{self.number}.1"

    @property
    def node_ip(self) -> str:
        return f"10.240.{self.number}.2"

    @property
    def pod_cidr(self) -> str:
        return f"10.244.{self.number}.0/24"

    @property
    def service_cidr(self) -> str:
        return f"10.96.{4 * self.number}.0/22" if self.index is not None else "10.96.0.0/16"

    @property
    def service_ip(self) -> str:
        """Of the Service `kubernetes`: always the first of the range."""
        return f"10.96.{4 * (self.index or 0)}.1"

    @property
    def registry(self) -> str:
        return f"{self.host_ip}:5000"

    def save(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        write_atomically(self.directory / "cluster.json", json.dumps(asdict(self)) + "\n")

    def lock(self) -> contextlib.AbstractContextManager[None]:
        return locked(clusters_directory() / f".{self.name}.lock")

    def forget(self, *, keep_images: bool) -> None:
        """Delete the cluster's files. With `keep_images`, what containerd has unpacked and the index stay."""
        for entry in self.directory.iterdir() if self.directory.exists() else ():
            if keep_images and entry.name in {"containerd", "cluster.json"}:
                continue
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
        if not keep_images:
            shutil.rmtree(self.directory, ignore_errors=True)
            (clusters_directory() / f".{self.name}.lock").unlink(missing_ok=True)


def clusters_directory() -> Path:
    return cache_root() / "clusters"


def check_name(name: str) -> str:
    if not NAME.fullmatch(name):
        raise ClusterError(f"cluster name {name!r}: use up to 40 lower-case letters, digits and dashes")
    return name


def find(name: str) -> Cluster | None:
    """Read back a cluster's record; None where there never was one."""
    try:
        record = json.loads((clusters_directory() / check_name(name) / "cluster.json").read_text())
    except FileNotFoundError:
        return None
    owner = record["owner"]
    return Cluster(name=name, index=record["index"], owner=Owner(**owner) if owner else None)


def known() -> list[Cluster]:
    records = sorted(clusters_directory().glob("*/cluster.json"))
    return [cluster for cluster in (find(path.parent.name) for path in records) if cluster]


def claim(name: str, *, with_node: bool, owner: Owner | None = None) -> Cluster:
    """Give a name its place, the one it had before where it had one."""
    with locked(clusters_directory() / ".lock"):
        cluster = find(name)
        if cluster and (cluster.index is not None) != with_node:
            kind = "a control plane only" if with_node else "a full cluster"
            raise ClusterError(
                f"cluster {name!r} is {kind}: `hack/cluster down --delete --name {name}`, or take another name"
            )
        if cluster is None:
            index = _free_index() if with_node else None
            cluster = Cluster(name=check_name(name), index=index, owner=owner)
            cluster.save()
        return cluster


def _free_index() -> int:
    taken = {cluster.index for cluster in known()}
    # Others' networks, another user's clusters among them, are not in our cache but in the machine's routes.
    routes = subprocess.run(["ip", "-4", "route"], capture_output=True, text=True, check=True).stdout
    for index in range(MAX_CLUSTERS):
        if index not in taken and is_free(index, routes):
            return index
    raise ClusterError(
        f"all {MAX_CLUSTERS} places are taken: see `hack/cluster list`, give up some with `down --delete`"
    )


def is_free(index: int, routes: str) -> bool:
    """Tell whether no route of the machine (`ip -4 route`), the default apart, meets an index's addresses."""
    cluster = Cluster(name="x", index=index)
    ours = [ipaddress.ip_network(cidr) for cidr in (f"10.240.{index}.0/30", cluster.pod_cidr, cluster.service_cidr)]
    found = re.findall(r"^(?:\w+ )?(\d+\.\d+\.\d+\.\d+(?:/\d+)?)", routes, re.MULTILINE)
    theirs = [ipaddress.ip_network(cidr) for cidr in found]
    return not any(a.overlaps(b) for a in ours for b in theirs if b.prefixlen)
