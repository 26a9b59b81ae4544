"""Build, keep, send and run images with buildah.

An image is tagged with the hash of what went into it only after buildah has committed it, so a killed build is
never taken for an image. Layers, images and pip's downloads live in the cache folder.
"""

from __future__ import annotations

import configparser
import contextlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from imagebuild import recipe
from imagebuild.catalog import IMAGES, Image, with_prerequisites
from localcluster import checks, deps, images, process
from localcluster.errors import ClusterError
from localcluster.progress import Progress
from localcluster.state import cache_root, locked

ROOT = Path(__file__).resolve().parents[2]
CERTIFICATES = Path("/etc/ssl/certs")
PIP_SETTINGS = (Path("/etc/pip.conf"), Path.home() / ".pip/pip.conf", Path.home() / ".config/pip/pip.conf")


class BuildError(Exception):
    """A build, push or test run cannot be done; the message says what to do."""


def build(names: list[str]) -> dict[str, str]:
    """Build what is not there yet; return image name -> content hash for the named ones and what they use."""
    with locked(cache_root() / "buildah" / ".images.lock"):
        base = ensure_base()
        hashes: dict[str, str] = {}
        for image in with_prerequisites(names):
            parts = {argument: hashes[used] for argument, used in image.uses.items()}
            hashes[image.name] = recipe.content_hash(ROOT, image, base, parts)
            build_one(image, hashes[image.name], parts)
    return hashes


def ensure_base() -> str:
    progress = Progress(1)
    checks.ensure_packages(progress)
    images.ensure_base(progress)
    return images.BASE


def build_one(image: Image, tag: str, parts: dict[str, str]) -> None:
    reference = image.reference(tag)
    if is_built(reference):
        mark_newest(image, tag)
        say(f"{image.name:16} {tag}  unchanged")
        return
    checks.check_disk()
    say(f"{image.name:16} {tag}  building, log in {cache_root()}/logs/images/{image.name}.log")
    start = time.monotonic()
    with build_environment() as (mounts, env):
        command = [
            *("buildah", "build", "--layers", "--isolation", "chroot", "--network", "host", "--pull-never"),
            *("--build-arg", f"BASE_IMAGE={images.BASE}"),
            *(word for arg, used in parts.items() for word in ("--build-arg", f"{arg}={used_reference(image, arg)}")),
            *(("--target", image.stage) if image.stage else ()),
            *(word for mount in mounts for word in ("--volume", mount)),
            *("--file", str(ROOT / image.dockerfile), "--tag", reference, str(ROOT)),
        ]
        deps.run_logged(command, log=f"images/{image.name}", progress=Progress(1), env=env)
    mark_newest(image, tag)
    say(f"{image.name:16} {tag}  built in {time.monotonic() - start:.0f} s")


def say(text: str) -> None:
    """Tell on standard error: standard output is for what a shell reads."""
    print(text, file=sys.stderr, flush=True)


def used_reference(image: Image, argument: str) -> str:
    return IMAGES[image.uses[argument]].reference("dev")


def mark_newest(image: Image, tag: str) -> None:
    buildah("tag", image.reference(tag), image.reference("dev"))


def is_built(reference: str) -> bool:
    return bool(buildah("images", "--quiet", "--filter", f"reference={reference}"))


@contextlib.contextmanager
def build_environment() -> Iterator[tuple[list[str], dict[str, str]]]:
    """Lend the build this machine's certificates and pip settings, as mounts: neither lands in the image."""
    work = cache_root() / "buildah" / "tmp"
    work.mkdir(parents=True, exist_ok=True)
    settings = work / "pip.conf"
    settings.write_text(pip_settings())
    mounts = [f"{settings}:/etc/pip.conf:ro"]
    if CERTIFICATES.is_dir():
        mounts.append(f"{CERTIFICATES}:{CERTIFICATES}:ro")
    try:
        # buildah keeps cache mounts and half-written layers under TMPDIR.
        yield mounts, {**buildah_environment(), "TMPDIR": str(work)}
    finally:
        settings.unlink(missing_ok=True)


def pip_settings() -> str:
    """Merge pip's files and PIP_* variables into one file; folders of this machine are not there in the build."""
    merged = configparser.RawConfigParser()
    merged.read(PIP_SETTINGS)
    values = dict(merged["global"]) if merged.has_section("global") else {}
    for key, value in os.environ.items():
        if key.startswith("PIP_") and key != "PIP_CONFIG_FILE":
            values[key.removeprefix("PIP_").lower().replace("_", "-")] = value
    lines = (f"{key} = {value}" for key, value in sorted(values.items()) if key not in ("find-links", "cache-dir"))
    return "\n".join(["[global]", *lines, ""])


def push(image: Image, tag: str, registry: str, *, insecure: bool) -> None:
    for label in (tag, "dev"):
        target = f"docker://{registry}/luthier/{image.name}:{label}"
        buildah("push", "--quiet", *(["--tls-verify=false"] if insecure else []), image.reference(tag), target)


def run_in(image: Image, command: list[str], mounts: list[str], env: dict[str, str]) -> int:
    """Run a command in a throw-away container of the image, as its unprivileged user, and return its exit status."""
    container = buildah("from", "--pull-never", image.reference("dev"))
    try:
        line = [
            *("buildah", "run", "--isolation", "chroot", "--network", "host", "--user", "65532:65532"),
            *(word for mount in mounts for word in ("--volume", mount)),
            *(word for key, value in env.items() for word in ("--env", f"{key}={value}")),
            *(container, "--", *command),
        ]
        return process.run_patiently(line, env=buildah_environment())
    finally:
        buildah("rm", container)


@contextlib.contextmanager
def unpacked(image: Image) -> Iterator[Path]:
    """Give the image's file system as a folder."""
    container = buildah("from", "--pull-never", image.reference("dev"))
    try:
        yield Path(buildah("mount", container))
    finally:
        buildah("umount", container)
        buildah("rm", container)


def buildah(*arguments: str) -> str:
    try:
        return images.buildah(*arguments)
    except (ClusterError, FileNotFoundError) as error:
        raise BuildError(str(error)) from error


def buildah_environment() -> dict[str, str]:
    return {**os.environ, "CONTAINERS_STORAGE_CONF": str(images.storage_config())}
