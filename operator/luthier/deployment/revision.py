"""Revisions: what identifies one, and the immutable record of it: pure.

A revision is a ControllerRevision that holds the resolved snapshot: URIs and digests, server options, the evidence
that admitted it, and the rendered pod template. Deployments are built from the record, so a newer operator restarts
nothing, and deleting the FineTuneJob or the Evaluation takes nothing down.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from luthier.api.base import GROUP
from luthier.api.modeldeployment import ModelDeploymentSpec, RevisionStatus
from luthier.naming import REVISION_LABEL, child_metadata, digest_json
from luthier.plan import Json, Manifest

ROLE = "revision"
COPY_ANNOTATION = f"{GROUP}/record"
"""On a revision's Deployment and Service: the record's data, so that a record that somebody deletes is made again."""
MAX_COPY_BYTES = 131_072
"""Half of what the API server takes as all annotations of an object; a longer record has no copy."""
_HASH_LENGTH = 8


@dataclass(frozen=True, kw_only=True)
class Model:
    """Resolved weights."""

    artifact_uri: str
    model_digest: str
    base_uri: str
    base_digest: str = ""
    """Empty when only the artifact itself knows it (artifactUri)."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """The Evaluation that admitted a revision, as it was then."""

    name: str
    uid: str = ""
    verdict: str = ""
    summary: str = ""
    report_uri: str = ""
    results_digest: str = ""
    completed_at: str = ""


@dataclass(frozen=True, kw_only=True)
class Revision:
    """A parsed record."""

    name: str
    number: int
    hash: str
    intent: str
    model: Model
    evidence: Evidence
    template: Json
    """The rendered pod template."""
    obj: Json = field(default_factory=dict)
    """The ControllerRevision, once it exists."""

    def status(self, *, ready: int) -> RevisionStatus:
        """Return it as status shows it."""
        return RevisionStatus(
            name=self.name,
            number=self.number,
            model_digest=self.model.model_digest,
            evaluation=self.evidence.name,
            ready_replicas=ready,
        )


def _meaning(spec: ModelDeploymentSpec) -> dict[str, Any]:
    meaning = {
        "server": spec.server.to_json(),
        "resources": spec.resources.to_json() if spec.resources else None,
        "responseSchema": spec.response_schema,
    }
    # Only when it is there: specs written before it existed mean what they meant.
    added = {"safety": spec.safety, "feedback": spec.feedback}
    return meaning | {name: value.to_json() for name, value in added.items() if value is not None}


def hash_intent(spec: ModelDeploymentSpec) -> str:
    """Return a hash of what the user wrote, with references as they are.

    It tells a spec from another one when what it refers to has been deleted.
    """
    return _short(digest_json({"model": spec.model.to_json(), **_meaning(spec)}))


def hash_revision(spec: ModelDeploymentSpec, model: Model) -> str:
    """Return a hash of what the user means, with references resolved.

    Outside: replicas, rollout, servedModelName, requireEvaluation, gateway, scheduling, and all that the operator
    renders; so an upgrade of it starts no rollout.
    """
    weights = [model.artifact_uri, model.model_digest, model.base_uri, model.base_digest]
    return _short(digest_json({"model": weights, **_meaning(spec)}))


def _short(digest: str) -> str:
    return digest.removeprefix("sha256:")[:_HASH_LENGTH]


def revision_name(number: int, hash8: str) -> str:
    """Return `r7-5f3a9c1b`: an act that names it can never mean another one."""
    return f"r{number}-{hash8}"


def hash_of(name: str) -> str:
    """Return the hash in a revision's name."""
    return name.rpartition("-")[2]


def number_of(name: str) -> int:
    """Return the number in a revision's name, 0 when it has none."""
    digits = name.partition("-")[0].removeprefix("r")
    return int(digits) if digits.isdigit() else 0


def next_number(revisions: Iterable[Revision], names: Iterable[str]) -> int:
    """Return a number above all records and all names that status still knows."""
    return max([0, *(r.number for r in revisions), *(number_of(n) for n in names)]) + 1


def build_record(owner: Json, revision: Revision) -> Manifest:
    """Return the ControllerRevision; it is made once and never changed."""
    metadata = child_metadata(owner, revision.name, role=ROLE, labels={REVISION_LABEL: revision.name})
    return {
        "apiVersion": "apps/v1",
        "kind": "ControllerRevision",
        "metadata": metadata,
        "revision": revision.number,
        "data": _data(revision),
    }


def copy_record(revision: Revision) -> dict[str, str]:
    """Return the annotation by which a record can be made again; none when the record is too long for one."""
    text = json.dumps(_data(revision), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return {COPY_ANNOTATION: text} if len(text.encode()) <= MAX_COPY_BYTES else {}


def _data(revision: Revision) -> Json:
    model, evidence = revision.model, revision.evidence
    return {
        "name": revision.name,
        "number": revision.number,
        "hash": revision.hash,
        "intent": revision.intent,
        "model": {
            "artifactUri": model.artifact_uri,
            "modelDigest": model.model_digest,
            "baseUri": model.base_uri,
            "baseDigest": model.base_digest,
        },
        "evaluation": {
            "name": evidence.name,
            "uid": evidence.uid,
            "verdict": evidence.verdict,
            "summary": evidence.summary,
            "reportUri": evidence.report_uri,
            "resultsDigest": evidence.results_digest,
            "completedAt": evidence.completed_at,
        },
        "template": revision.template,
    }


def parse_record(obj: Json) -> Revision | None:
    """Return the revision of a ControllerRevision; None when it is not one that this version wrote."""
    return _parse(obj.get("data", {}), obj)


def parse_copy(child: Json) -> Revision | None:
    """Return the revision of which a Deployment or Service has a copy, without a record; None when it has none."""
    metadata = child["metadata"]
    try:
        data = json.loads(metadata.get("annotations", {}).get(COPY_ANNOTATION, ""))
    except ValueError:
        return None
    revision = _parse(data, {})
    mine = metadata.get("labels", {}).get(REVISION_LABEL)
    return revision if revision is not None and revision.name == mine else None


def _parse(data: Json, obj: Json) -> Revision | None:
    try:
        model, evidence = data["model"], data["evaluation"]
        return Revision(
            name=data["name"],
            number=data["number"],
            hash=data["hash"],
            intent=data["intent"],
            model=Model(
                artifact_uri=model["artifactUri"],
                model_digest=model["modelDigest"],
                base_uri=model["baseUri"],
                base_digest=model["baseDigest"],
            ),
            evidence=Evidence(
                name=evidence["name"],
                uid=evidence["uid"],
                verdict=evidence["verdict"],
                summary=evidence["summary"],
                report_uri=evidence["reportUri"],
                results_digest=evidence["resultsDigest"],
                completed_at=evidence["completedAt"],
            ),
            template=data["template"],
            obj=obj,
        )
    except (KeyError, TypeError):
        return None
