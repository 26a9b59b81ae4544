"""Refuse what cannot work on this machine before anything is started, naming what is missing."""

import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

from localcluster import cgroups, deps, network, versions
from localcluster.errors import ClusterError
from localcluster.progress import Progress
from localcluster.state import cache_root

GIB = 1024**3
COLD_DISK = 35 * GIB  # all images three times: built, in the registry, unpacked on the node
WARM_DISK = 5 * GIB
NODE_MEMORY = 2 * GIB  # 1.3 GiB idle, and room to breathe

_POLICY = Path("/usr/sbin/policy-rc.d")
_POLICY_TEXT = "#!/bin/sh\n# luthier: no services while packages are installed\nexit 101\n"


def check_machine() -> None:
    """Check rights, kernel, disk and memory for a cluster with a node."""
    if platform.machine() != "x86_64":
        raise ClusterError(f"this machine is {platform.machine()}: images and programs are built for x86_64 only")
    if os.geteuid() != 0:
        raise ClusterError(
            "a node needs root (namespaces, mounts, control groups): run it in a root shell (`sudo -s`), or start the "
            "API server alone with --control-plane-only; where a Docker engine runs, `kind create cluster --config "
            "kind-config.yaml` does the same job"
        )
    cgroups.check()
    _check_namespaces()
    _check_overlay()
    _check_bridge_filter()
    check_disk()
    check_memory(NODE_MEMORY, purpose="an idle cluster")


def ensure_packages(progress: Progress) -> None:
    """Install Debian's packages for the programs that are missing; elsewhere, name them."""
    missing = sorted({package for program, package in versions.PACKAGES.items() if not _is_there(program)})
    if not missing:
        return
    if shutil.which("apt-get") is None:
        raise ClusterError(f"missing programs: install (by their Debian names) {' '.join(missing)}")
    progress.detail(f"installing Debian packages: {' '.join(missing)}")
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    we_forbid_services = _forbid_services()
    try:
        deps.run_logged(["apt-get", "update", "-q"], log="apt-update", progress=progress, env=env)
        deps.run_logged(
            ["apt-get", "install", "-qy", "--no-install-recommends", *missing],
            log="apt-install",
            progress=progress,
            env=env,
        )
    finally:
        if we_forbid_services:
            _POLICY.unlink()


def _forbid_services() -> bool:
    """Keep the packages from starting daemons of their own: we only want the programs."""
    if _POLICY.exists() and _POLICY.read_text() != _POLICY_TEXT:  # ours may be left from a start that was killed
        return False
    _POLICY.write_text(_POLICY_TEXT)
    _POLICY.chmod(0o755)
    return True


def _is_there(program: str) -> bool:
    return Path(program).exists() if program.startswith("/") else shutil.which(program) is not None


def _check_namespaces() -> None:
    done = subprocess.run(["unshare", "--net", "true"], capture_output=True, text=True)
    if done.returncode:
        raise ClusterError(f"no network namespace to be had (CAP_SYS_ADMIN missing?): {done.stderr.strip()}")


def _check_overlay() -> None:
    with tempfile.TemporaryDirectory(dir=_existing(cache_root())) as folder:
        for name in ("lower", "upper", "work", "merged"):
            (Path(folder) / name).mkdir()
        layers = f"lowerdir={folder}/lower,upperdir={folder}/upper,workdir={folder}/work"
        command = ["mount", "-t", "overlay", "overlay", "-o", layers, f"{folder}/merged"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise ClusterError(
                f"no overlay mounts in {cache_root()} ({done.stderr.strip()}): `modprobe overlay`, or set "
                "XDG_CACHE_HOME to a folder on ext4 or xfs"
            )
        subprocess.run(["umount", f"{folder}/merged"], check=True)


def _check_bridge_filter() -> None:
    """Answers between pods of one bridge must pass the firewall, which alone turns Service addresses back."""
    if not network.BRIDGE_FILTER.exists() and shutil.which("modprobe"):
        subprocess.run(["modprobe", "br_netfilter"], capture_output=True, check=False)
    if not network.BRIDGE_FILTER.exists():
        raise ClusterError("the kernel has no br_netfilter: `modprobe br_netfilter`, or install the kernel's modules")


def check_disk() -> None:
    """Check for what is still to be built: the folders of the cache appear in the order of the work."""
    is_warm = (cache_root() / "registry" / "docker").exists()
    needed = WARM_DISK if is_warm else max(WARM_DISK, COLD_DISK - _used_bytes(cache_root()))
    free = shutil.disk_usage(_existing(cache_root())).free
    if free < needed:
        raise ClusterError(
            f"{free / GIB:.0f} GiB free on the disk of {cache_root()}, {needed / GIB:.0f} GiB needed: make room, or "
            "set XDG_CACHE_HOME to another disk"
        )


def _used_bytes(folder: Path) -> int:
    if not folder.exists():
        return 0
    done = subprocess.run(["du", "-sxk", folder], capture_output=True, text=True, check=False)
    return int(done.stdout.split()[0]) * 1024 if done.stdout else 0


def check_memory(needed: int, *, purpose: str) -> None:
    lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    available = next(int(line[1]) * 1024 for line in lines if line[0] == "MemAvailable:")
    if available < needed:
        raise ClusterError(
            f"{available / GIB:.1f} GiB of memory available, {needed / GIB:.0f} GiB needed for {purpose}: "
            "end something, or `hack/cluster down` another one"
        )


def _existing(path: Path) -> Path:
    return path if path.exists() else _existing(path.parent)
