"""Votes on answers: the key that signs their ids, and how a revision's pods get it: pure.

The key is one Secret of the ModelDeployment, the same for all revisions, since any pod counts votes on any revision's
answers. The operator can make it and cannot read it: so what it looks like is never decided here, and whether it is
there is not asked. It is made whenever a pod that mounts it has not started; one that is there stays as it is.
"""

from __future__ import annotations

from collections.abc import Sequence

from luthier.api.modeldeployment import ModelDeploymentSpec
from luthier.deployment.revision import Revision
from luthier.jobs import is_deleting
from luthier.naming import child_metadata, child_name
from luthier.plan import Json, Manifest
from luthier.status import find_condition
from luthier_server.config import FeedbackConfig

ROLE = "feedback-key"
SUFFIX = "feedback"
KEY_TYPE = "luthier.dev/feedback-key"
KEY_FOLDER = "/var/run/luthier/feedback"
VOLUME = "feedback-key"


def feedback_config(spec: ModelDeploymentSpec) -> FeedbackConfig | None:
    """Return what the server is told; None: no votes are taken."""
    if spec.feedback is None:
        return None
    return FeedbackConfig(key_folder=KEY_FOLDER, identity_header=spec.feedback.identity_header)


def key_volumes(owner: Json, spec: ModelDeploymentSpec) -> list[Json]:
    """Return the pod's volume of the key. Without the Secret a pod waits, and is made to wait no longer."""
    if spec.feedback is None:
        return []
    # 0440: the server's user is no owner of the files, and its group is.
    return [{"name": VOLUME, "secret": {"secretName": child_name(owner, SUFFIX), "defaultMode": 0o440}}]


def key_mounts(spec: ModelDeploymentSpec) -> list[Json]:
    """Return the container's mount of the key."""
    return [{"name": VOLUME, "mountPath": KEY_FOLDER, "readOnly": True}] if spec.feedback is not None else []


def build_key(owner: Json) -> Manifest:
    """Return the Secret, without the key: whoever creates it puts a new one in."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": KEY_TYPE,
        "metadata": child_metadata(owner, SUFFIX, role=ROLE),
    }


def waits_for_key(revision: Revision, pods: Sequence[Json], *, replicas: int) -> bool:
    """Say whether a pod of a revision is still to start, and cannot without the key."""
    volumes = revision.template["spec"].get("volumes", ())
    has_key = any(volume["name"] == VOLUME and "secret" in volume for volume in volumes)
    return has_key and sum(map(_has_started, pods)) < replicas


def _has_started(pod: Json) -> bool:
    status = pod.get("status", {})
    ready = find_condition(status.get("conditions", []), "Ready")
    is_running = status.get("phase") == "Running" or (ready is not None and ready["status"] == "True")
    return is_running and not is_deleting(pod)
