"""Complete artifacts: finding one of exactly these inputs, so that no run is trained twice. No torch here."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from luthier_trainer.artifact import MANIFEST, ArtifactManifest, digest_folder
from luthier_trainer.config import ArtifactDetails
from luthier_trainer.errors import UserError
from luthier_trainer.files import read_json


def read_manifest(folder: Path) -> ArtifactManifest | None:
    """Return a complete artifact's manifest; None when there is none, or one that is damaged or not ours to read."""
    try:
        return ArtifactManifest.model_validate(read_json(folder / MANIFEST))
    except (ValidationError, PermissionError):
        return None


def find_equal(folder: Path, *, dataset: str, training: str, base: str) -> ArtifactDetails | None:
    """Return a whole artifact of exactly these inputs: the run's own, else one beside it.

    Folders are named by the object's UID, and an object that is restored or applied anew has another one.
    """
    beside = sorted(path for path in folder.parent.glob("[!.]*") if path != folder)
    found = (find_artifact(place, dataset=dataset, training=training, base=base) for place in (folder, *beside))
    return next((artifact for artifact in found if artifact is not None), None)


def find_artifact(folder: Path, *, dataset: str, training: str, base: str) -> ArtifactDetails | None:
    """Return the artifact that a run of exactly these inputs has left in the folder, if it is whole."""
    manifest = read_manifest(folder)
    if manifest is None or (manifest.dataset_digest, manifest.training_digest, manifest.base_digest) != (
        dataset,
        training,
        base,
    ):
        return None
    try:
        digest = digest_folder(folder, base_digest=base)
    except (FileNotFoundError, PermissionError):  # the weights are gone, or not ours to read
        return None
    if digest != manifest.model_digest:
        return None
    return ArtifactDetails(path=str(folder), digest=manifest.model_digest, base_digest=base)


def refuse_occupied(folder: Path) -> None:
    """Refuse a folder that holds anything: artifacts are never overwritten."""
    if folder.exists() and any(folder.iterdir()):
        raise UserError(
            "ArtifactExists",
            f"{folder} already holds something that is not this run's artifact, and artifacts are never overwritten; "
            "choose another output.uri or move it away",
            field="output.uri",
        )
