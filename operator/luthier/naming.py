"""Names, labels and hashes of what the operator makes: pure.

A child's name ends in a short hash of its owner's UID, so that an object deleted and made again under the same
name never meets the children of its former life.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from luthier.api.base import API_VERSION, GROUP

FIELD_MANAGER = "luthier"
MANAGED_BY = {"app.kubernetes.io/managed-by": "luthier"}
SELECTOR = "app.kubernetes.io/managed-by=luthier"
KIND_LABEL = f"{GROUP}/kind"
NAME_LABEL = f"{GROUP}/name"
UID_LABEL = f"{GROUP}/uid"
ROLE_LABEL = f"{GROUP}/role"
ATTEMPT_LABEL = f"{GROUP}/attempt"
REVISION_LABEL = f"{GROUP}/revision"


def short_hash(value: str, length: int = 5) -> str:
    """Return the first characters of a hash of a string, in lower-case hex."""
    return hashlib.sha256(value.encode()).hexdigest()[:length]


def digest_json(value: Any) -> str:
    """Return `sha256:<hex>` of a JSON value in canonical form."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return "sha256:" + hashlib.sha256(canonical.encode()).hexdigest()


def child_name(owner: dict[str, Any], suffix: str = "") -> str:
    """Return `<name>[-<suffix>]-<hash of uid>`; at most 63 characters for suffixes of up to 16."""
    meta = owner["metadata"]
    return "-".join(part for part in (meta["name"], suffix, short_hash(meta["uid"])) if part)


def is_child_name(owner: dict[str, Any], name: str) -> bool:
    """Say whether a name is one that `child_name` gives to this owner's children."""
    meta = owner["metadata"]
    return name.startswith(f"{meta['name']}-") and name.endswith(f"-{short_hash(meta['uid'])}")


def controller_of(obj: dict[str, Any]) -> dict[str, Any] | None:
    """Return the reference to the object's controller, when it has one."""
    references = obj["metadata"].get("ownerReferences", ())
    return next((r for r in references if r.get("controller")), None)


def controller_uid(obj: dict[str, Any]) -> str | None:
    """Return the UID of the object's controller, when it has one."""
    reference = controller_of(obj)
    return reference["uid"] if reference is not None else None


def child_metadata(
    owner: dict[str, Any], suffix: str, *, role: str, labels: dict[str, str] | None = None
) -> dict[str, Any]:
    """Return the metadata of a child: name, namespace, labels, one ownerReference; always a fresh dict."""
    meta = owner["metadata"]
    return {
        "name": child_name(owner, suffix),
        "namespace": meta["namespace"],
        "labels": child_labels(owner, role=role, labels=labels),
        "ownerReferences": [
            {
                "apiVersion": API_VERSION,
                "kind": owner["kind"],
                "name": meta["name"],
                "uid": meta["uid"],
                "controller": True,
                # No blockOwnerDeletion: it takes rights on finalizers where they are enforced (OpenShift), and an
                # object of ours that is deleted waits for no child.
            }
        ],
    }


def child_labels(owner: dict[str, Any], *, role: str, labels: dict[str, str] | None = None) -> dict[str, str]:
    """Return the labels by which a child, and its pods, find their owner."""
    meta = owner["metadata"]
    return {
        **MANAGED_BY,
        KIND_LABEL: owner["kind"],
        NAME_LABEL: meta["name"],
        UID_LABEL: meta["uid"],
        ROLE_LABEL: role,
        **(labels or {}),
    }
