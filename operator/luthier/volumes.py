"""From `pvc://claim/path` to volumes, mounts and paths inside a container: pure.

A claim is mounted whole under `/mnt/claims/<claim>`, so that a URI and its path inside any of our containers differ
in the prefix only. Whether a claim exists is for `observe`; URIs were checked by the API server (`PvcUri`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from luthier.naming import short_hash
from luthier.plan import Json

SCHEME = "pvc://"
CLAIMS_ROOT = "/mnt/claims"
TMP_VOLUME = "tmp"
SHM_VOLUME = "shm"


@dataclass(frozen=True, kw_only=True)
class Location:
    """A place in a claim; `path` has no leading or trailing slash and may be empty."""

    claim: str
    path: str

    @property
    def uri(self) -> str:
        return f"{SCHEME}{self.claim}/{self.path}" if self.path else f"{SCHEME}{self.claim}"

    @property
    def container_path(self) -> str:
        root = f"{CLAIMS_ROOT}/{self.claim}"
        return f"{root}/{self.path}" if self.path else root

    def child(self, *parts: str) -> Location:
        """Return a place below this one."""
        return Location(claim=self.claim, path="/".join(part for part in (self.path, *parts) if part))


def locate(uri: str) -> Location:
    """Split a URI into claim and path."""
    if not uri.startswith(SCHEME):
        raise ValueError(f"not a {SCHEME} URI: {uri!r}")
    claim, _, path = uri.removeprefix(SCHEME).partition("/")
    return Location(claim=claim, path=path.strip("/"))


def container_path(uri: str) -> str:
    """Return where a URI's place is inside our containers."""
    return locate(uri).container_path


def uri_of(path: str) -> str:
    """Return the URI of a path inside our containers: the reverse of `container_path`."""
    return SCHEME + path.removeprefix(f"{CLAIMS_ROOT}/")


def claim_volumes(claims: Iterable[str]) -> list[Json]:
    """Return the pod's volumes for these claims, each once, in order of name."""
    return [
        {"name": _volume_name(claim), "persistentVolumeClaim": {"claimName": claim}} for claim in sorted(set(claims))
    ]


def claim_mounts(claims: Iterable[str], *, writable: Iterable[str] = ()) -> list[Json]:
    """Return a container's mounts for these claims; read-only but for the writable ones."""
    written = set(writable)
    mounts: list[Json] = []
    for claim in sorted(set(claims) | written):
        mount: Json = {"name": _volume_name(claim), "mountPath": f"{CLAIMS_ROOT}/{claim}"}
        if claim not in written:
            mount["readOnly"] = True
        mounts.append(mount)
    return mounts


def scratch_volumes(*, shm: bool = False) -> list[Json]:
    """Return /tmp and, for torch and the engine, a memory-backed /dev/shm (counted in the pod's memory limit)."""
    volumes: list[Json] = [{"name": TMP_VOLUME, "emptyDir": {}}]
    if shm:
        volumes.append({"name": SHM_VOLUME, "emptyDir": {"medium": "Memory"}})
    return volumes


def scratch_mounts(*, shm: bool = False) -> list[Json]:
    """Return the mounts of `scratch_volumes`."""
    mounts: list[Json] = [{"name": TMP_VOLUME, "mountPath": "/tmp"}]
    if shm:
        mounts.append({"name": SHM_VOLUME, "mountPath": "/dev/shm"})
    return mounts


def _volume_name(claim: str) -> str:
    # A claim's name may hold dots and 253 characters; a volume's name may not.
    return f"claim-{short_hash(claim, 10)}"
