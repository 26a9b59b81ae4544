"""The control groups of one node: `luthier-NAME` in every hierarchy of this machine.

Beside limiting pods they say what is ours: every process of the node, containers and their shims included, is born into
one of them. So `kill_all` finds what a killed predecessor left without guessing by name.
"""

import contextlib
import functools
import os
import signal
from pathlib import Path

from localcluster import process
from localcluster.errors import ClusterError

ROOT = Path("/sys/fs/cgroup")


class Cgroup:
    """The groups of the node of one cluster."""

    def __init__(self, name: str) -> None:
        self._name = name

    @property
    def kubelet_root(self) -> str:
        return f"/{self._name}"

    def create(self) -> None:
        for hierarchy in _hierarchies():
            group = hierarchy / self._name
            group.mkdir(exist_ok=True)
            if hierarchy.name == "cpuset":
                # A new v1 cpuset is empty, and a process cannot enter an empty one.
                for setting in ("cpuset.cpus", "cpuset.mems"):
                    (group / setting).write_text((hierarchy / setting).read_text())
        if _is_unified():
            _delegate_controllers(ROOT)
            _delegate_controllers(ROOT / self._name)
        self._system.mkdir(exist_ok=True)

    def adopt(self, pid: int) -> None:
        """Make a process, and all that it will start, the node's own."""
        (self._system / "cgroup.procs").write_text(str(pid))

    def processes(self) -> set[int]:
        """Every process in any of the groups, outside of which nothing of the node runs."""
        files = [file for group in self._groups() for file in group.rglob("cgroup.procs")]
        found: set[int] = set()
        for file in files:
            with contextlib.suppress(OSError):  # a group may vanish while we look
                found |= {int(pid) for pid in file.read_text().split()}
        return found

    def kill_all(self) -> None:
        def none_left() -> bool:
            left = self.processes()
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            return not left

        process.wait_until(none_left, seconds=20, what=f"the processes in {ROOT}/*/{self._name} to end")

    def memory_bytes(self) -> int:
        """Memory of all pods, page cache included; 0 where the kernel does not tell."""
        for file in (ROOT / "memory" / self._name / "memory.usage_in_bytes", ROOT / self._name / "memory.current"):
            if file.exists():
                return int(file.read_text())
        return 0

    def remove(self) -> None:
        for group in self._groups():
            folders = sorted((folder for folder, _, _ in os.walk(group)), key=len, reverse=True)
            for folder in folders:
                is_gone = functools.partial(_removed, folder)
                process.wait_until(is_gone, seconds=10, what=f"control group {folder} to be removable")

    @property
    def _system(self) -> Path:
        """Where the node's own programs live. One v1 hierarchy is enough, and `pids` limits nothing by itself."""
        return (ROOT if _is_unified() else ROOT / "pids") / self._name / "system"

    def _groups(self) -> list[Path]:
        return [group for group in (hierarchy / self._name for hierarchy in _hierarchies()) if group.is_dir()]


def check() -> None:
    if not _hierarchies():
        raise ClusterError(f"no control groups are mounted at {ROOT}: kubelet cannot run pods on this machine")
    if not os.access(_hierarchies()[0], os.W_OK):
        raise ClusterError(f"{_hierarchies()[0]} is read-only: kubelet cannot run pods here")


def _is_unified() -> bool:
    return (ROOT / "cgroup.controllers").exists()


def _hierarchies() -> list[Path]:
    if _is_unified():
        return [ROOT]
    # `cpu` and `cpu,cpuacct` may be one hierarchy under two names: making the group twice is harmless.
    return sorted(path for path in ROOT.glob("*") if (path / "cgroup.procs").exists())


def _delegate_controllers(group: Path) -> None:
    for controller in (ROOT / "cgroup.controllers").read_text().split():
        with contextlib.suppress(OSError):  # one that is not to be delegated (misc, rdma) is none that kubelet asks for
            (group / "cgroup.subtree_control").write_text(f"+{controller}")


def _removed(folder: str) -> bool:
    try:
        os.rmdir(folder)
    except FileNotFoundError:
        return True
    except OSError:  # still busy: the kernel is clearing up after the last process
        return False
    return True
