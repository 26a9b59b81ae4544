"""The images that a cluster itself runs on, built by buildah from the programs in the cache, and the way of any image
from buildah to a node.

Images go through a registry, whose storage all clusters of a user share: only layers that are new are sent.
"""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from localcluster import deps, versions
from localcluster.errors import ClusterError
from localcluster.progress import Progress
from localcluster.state import REGISTRY, Cluster, cache_root, locked, write_atomically

BASE = f"localhost/luthier/base:{versions.BASE}"
BASE_REFERENCE = f"{REGISTRY}/luthier/base:{versions.BASE}"
BASE_PACKAGES = ("python3", "python3-venv", "ca-certificates", "libgomp1", "libnuma1")  # vLLM needs libnuma1
PAUSE_SOURCE = Path(__file__).parent / "pause.c"


@dataclass(frozen=True, kw_only=True)
class SystemImage:
    """An image of one program. `files` maps a path in the image to the file or folder that goes there."""

    name: str
    version: str
    files: Mapping[str, Path]
    entrypoint: str
    from_scratch: bool = False
    links: Mapping[str, str] = field(default_factory=dict)

    @property
    def path(self) -> str:
        return f"system/{self.name}:{self.version}"

    @property
    def reference(self) -> str:
        return f"{REGISTRY}/{self.path}"


def storage_config() -> Path:
    """Give buildah's settings: images in our cache, layers by overlay (its default copies every layer whole)."""
    root = cache_root() / "buildah"
    path = root / "storage.conf"
    content = f'[storage]\ndriver = "overlay"\ngraphroot = "{root}/storage"\nrunroot = "{root}/run"\n'
    root.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text() != content:
        write_atomically(path, content)
    return path


def buildah(*arguments: str | Path) -> str:
    env = {**os.environ, "CONTAINERS_STORAGE_CONF": str(storage_config())}
    done = subprocess.run(["buildah", *map(str, arguments)], capture_output=True, text=True, env=env)
    if done.returncode:
        raise ClusterError(f"`buildah {' '.join(map(str, arguments))}` failed: {done.stderr.strip()}")
    return done.stdout.strip()


def ensure_base(progress: Progress) -> None:
    """Make the image that stands in for python:3.11-slim-bookworm where no hub can be reached."""
    with locked(cache_root() / "buildah" / ".base.lock"):
        if _is_built(BASE):
            return
        progress.detail("making the base image (Debian, Python): about 2 minutes, once")
        root = cache_root() / "buildah" / "base.unfinished"
        shutil.rmtree(root, ignore_errors=True)
        include = f"--include={','.join(BASE_PACKAGES)}"
        deps.run_logged(
            ["debootstrap", "--variant=minbase", include, "bookworm", root], log="debootstrap", progress=progress
        )
        for folder in ("var/cache/apt/archives", "var/lib/apt/lists"):
            shutil.rmtree(root / folder, ignore_errors=True)
        for link in ("python", "python3"):
            (root / "usr/local/bin" / link).symlink_to("/usr/bin/python3")
        _commit("scratch", {"/": root}, BASE, "--cmd", "/bin/bash")
        shutil.rmtree(root)


def system_images(progress: Progress) -> list[SystemImage]:
    """Describe the images of the cluster's own pods, and have their programs ready."""
    gateway, envoy = deps.envoy_gateway(progress), deps.envoy(progress)
    bin_ = "/usr/local/bin"
    return [
        SystemImage(
            name="pause", version=versions.PAUSE, files={"/pause": _pause(progress)}, entrypoint="/pause",
            from_scratch=True,
        ),
        SystemImage(
            name="envoy-gateway", version=versions.ENVOY_GATEWAY, files={f"{bin_}/envoy-gateway": gateway},
            entrypoint=f"{bin_}/envoy-gateway",
        ),
        SystemImage(
            name="envoy", version=versions.ENVOY, files={f"{bin_}/envoy": envoy}, entrypoint=f"{bin_}/envoy"
        ),
        SystemImage(
            name="prometheus", version=_debian_version("prometheus"), entrypoint="/usr/bin/prometheus",
            files={path: Path(path) for path in ("/usr/bin/prometheus", "/usr/share/prometheus")},
        ),
    ]  # fmt: skip


def publish(images: list[SystemImage], cluster: Cluster, progress: Progress) -> None:
    """Build and push what the registry does not have yet."""
    with locked(cache_root() / "buildah" / ".publish.lock"):
        _publish(images, cluster, progress)


def _publish(images: list[SystemImage], cluster: Cluster, progress: Progress) -> None:
    if not is_in_registry(path_in_registry(BASE)):
        push(BASE, path_in_registry(BASE), cluster)
    for image in images:
        if is_in_registry(image.path):
            continue
        progress.detail(f"building image {image.path}")
        base = "scratch" if image.from_scratch else BASE
        _commit(base, image.files, f"localhost/{image.path}", "--entrypoint", f'["{image.entrypoint}"]', "--cmd", "")
        push(f"localhost/{image.path}", image.path, cluster)


def is_in_registry(path: str) -> bool:
    repository, _, tag = path.rpartition(":")
    folder = cache_root() / "registry/docker/registry/v2/repositories" / repository / "_manifests/tags" / tag
    return (folder / "current/link").exists()


def load(image: str, cluster: Cluster, programs: Path) -> None:
    """Bring an image from buildah to the node, also where its tag was there before with other content."""
    path = path_in_registry(image)
    local = next((name for name in (image, f"{REGISTRY}/{path}", f"localhost/{path}") if _is_built(name)), None)
    if local:
        push(local, path, cluster)
    elif not is_in_registry(path):
        config = storage_config()
        raise ClusterError(f"no image {image!r} in buildah's storage ({config}) nor in the registry: build it first")
    command: list[str | Path] = [
        programs / "cri",
        "--socket",
        f"unix://{cluster.containerd_socket}",
        "pull",
        f"{REGISTRY}/{path}",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise ClusterError(f"the node cannot pull {REGISTRY}/{path}: {done.stderr.strip()}")


def path_in_registry(image: str) -> str:
    """Cut the registry's or buildah's own host from an image's name, and make its tag explicit."""
    path = image.removeprefix(f"{REGISTRY}/").removeprefix("localhost/")
    return path if ":" in path else f"{path}:latest"


def push(local: str, path: str, cluster: Cluster) -> None:
    # The default, gzip, takes minutes of processor time for torch's layer; zstd's first level takes seconds.
    quick = ("--compression-format=zstd", "--compression-level=1")
    buildah("push", "--quiet", "--tls-verify=false", *quick, local, f"docker://{cluster.registry}/{path}")


def _is_built(image: str) -> bool:
    env = {**os.environ, "CONTAINERS_STORAGE_CONF": str(storage_config())}
    return subprocess.run(["buildah", "inspect", "--type=image", image], capture_output=True, env=env).returncode == 0


def _commit(base: str, files: Mapping[str, Path], image: str, *settings: str) -> None:
    container = f"luthier-{image.rpartition('/')[2].replace(':', '-')}"
    with contextlib.suppress(ClusterError):
        buildah("rm", container)  # left by one that was killed
    buildah("from", "--pull-never", "--name", container, base)
    try:
        for target, source in files.items():
            buildah("add", "--quiet", container, source, target)
        if settings:
            buildah("config", *settings, container)
        buildah("commit", "--quiet", container, image)
    finally:
        buildah("rm", container)


def _pause(progress: Progress) -> Path:
    """Give the program that holds a pod's namespaces open: static, so that it needs nothing else in its image."""

    def build(folder: Path) -> None:
        deps.run_logged(
            ["gcc", "-static", "-Os", "-s", "-o", folder / "pause", PAUSE_SOURCE], log="build-pause", progress=progress
        )

    return deps.build_once(cache_root() / "bin" / f"pause-{versions.PAUSE}", build) / "pause"


def _debian_version(package: str) -> str:
    found = subprocess.run(["dpkg-query", "-Wf", "${Version}", package], capture_output=True, text=True, check=True)
    return "".join(letter if letter.isalnum() or letter in ".-" else "-" for letter in found.stdout)
