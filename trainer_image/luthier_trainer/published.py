"""Complete artifacts: finding one of exactly these inputs, so that no run is trained twice. No torch here."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from luthier_trainer.artifact import MANIFEST, ArtifactManifest, digest_folder
from luthier_trainer.config import ArtifactDetails
from luthier_trainer.errors import UserError
from luthier_trainer.files import read_json


def read_manifest(folder: Path) -> ArtifactManifest | None:
    """Return a complete artifact's manifest; None when there is none, or a damaged one."""
    try:
        return ArtifactManifest.model_validate(read_json(folder / MANIFEST))
    except ValidationError:
        return None


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
    except FileNotFoundError:  # the weights are gone
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
