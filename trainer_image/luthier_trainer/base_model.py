"""The base model's folder: what is refused in it, its digest, its licence, its context length. No torch here.

Only safetensors weights and files without code are accepted: a model folder is data, never a program.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError, safe_open

from luthier_trainer.artifact import digest_folder
from luthier_trainer.errors import UserError, reading
from luthier_trainer.files import leads_out, read_json

REFUSED_SUFFIXES = frozenset(
    {".py", ".pyc", ".so", ".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".h5", ".joblib"}
)
"""Code, and weight formats that can hold code."""
NEEDED = ("config.json", "tokenizer.json")
_FIELD = "model.uri"


@dataclass(frozen=True, kw_only=True)
class BaseModel:
    """A base model that passed the checks."""

    path: Path
    digest: str
    licence: str | None
    context_length: int | None


def open_base_model(path: Path, uri: str) -> BaseModel:
    """Check a base model's folder and describe it.

    Raises:
        UserError: A file is missing, not readable, holds code, or is no sound safetensors file.
    """
    with reading(uri, reason="ModelUnreadable", field=_FIELD):
        return _open(path, uri)


def _open(path: Path, uri: str) -> BaseModel:
    if not path.is_dir():
        raise UserError("ModelNotFound", f"{uri} is not a folder with a model", field=_FIELD)
    if leads_out(path):
        raise UserError("ModelRefused", f"{uri} is a link that leads out; name what it points to", field=_FIELD)
    for name in NEEDED:
        if not (path / name).is_file():
            raise UserError(
                "ModelIncomplete", f"{uri} has no {name}; a folder as transformers saves it is needed", field=_FIELD
            )
    _refuse_code(path, uri)
    _check_weights(path, uri)
    config = read_json(path / "config.json")
    if not isinstance(config, dict):
        raise UserError("ModelIncomplete", f"{uri}: config.json is not a JSON object", field=_FIELD)
    return BaseModel(
        path=path,
        digest=digest_folder(path),
        licence=_declared_licence(path, config),
        context_length=_context_length(config),
    )


def _refuse_code(path: Path, uri: str) -> None:
    home = path.resolve()
    for file in sorted(path.rglob("*")):
        name = file.relative_to(path)
        if file.suffix.lower() in REFUSED_SUFFIXES:
            raise UserError(
                "ModelRefused",
                f"{uri}: {name} may hold code; remove it, only safetensors weights are used",
                field=_FIELD,
            )
        if not file.resolve().is_relative_to(home):
            raise UserError(
                "ModelRefused", f"{uri}: {name} is a link that leads out of the model's folder", field=_FIELD
            )
        if file.suffix == ".json" and _names_code(read_json(file)):
            raise UserError(
                "ModelRefused",
                f"{uri}: {name} asks for code of the model's own (auto_map); it is never run",
                field=_FIELD,
            )


def _names_code(value: Any) -> bool:
    return isinstance(value, dict) and ("auto_map" in value or value.get("trust_remote_code") is True)


def _check_weights(path: Path, uri: str) -> None:
    weights = sorted(path.glob("*.safetensors"))
    index = read_json(path / "model.safetensors.index.json")
    if isinstance(index, dict):
        listed = set(dict(index.get("weight_map", {})).values())
        if missing := sorted(listed - {w.name for w in weights}):
            raise UserError(
                "ModelIncomplete", f"{uri}: {missing[0]}, named by the weights' index, is missing", field=_FIELD
            )
    if not weights:
        raise UserError("ModelIncomplete", f"{uri} has no .safetensors weights", field=_FIELD)
    for file in weights:
        file.open("rb").close()  # of a file that may not be read, safetensors says that it isn't there
        try:
            # Opening checks the header: its size, and offsets that neither overlap nor leave a rest.
            with safe_open(file, framework="numpy"):
                pass
        except SafetensorError as error:
            raise UserError("ModelRefused", f"{uri}: {file.name} is not sound: {error}", field=_FIELD) from error


def _declared_licence(path: Path, config: dict[str, Any]) -> str | None:
    """Return the licence of the card's front matter, else of config.json."""
    declared = _front_matter(path / "README.md").get("license", config.get("license"))
    if isinstance(declared, list):
        declared = declared[0] if declared else None
    return str(declared) if declared else None


def _front_matter(card: Path) -> dict[str, Any]:
    if not card.is_file():
        return {}
    parts = card.read_text(encoding="utf-8", errors="replace").split("---\n", 2)
    if len(parts) < 3 or parts[0].strip():
        return {}
    try:
        value = yaml.safe_load(parts[1])
    except yaml.YAMLError:
        return {}
    return value if isinstance(value, dict) else {}


def check_licence(model: BaseModel, accepted: str | None, uri: str) -> None:
    """Refuse a model whose declared licence is not the one that was accepted."""
    if accepted is not None and model.licence is not None and accepted.lower() != model.licence.lower():
        raise UserError(
            "LicenceRefused",
            f"{uri} declares the licence {model.licence}, and model.licence accepts {accepted}; "
            f"set model.licence to {model.licence} if you accept it",
            field="model.licence",
        )


def _context_length(config: dict[str, Any]) -> int | None:
    text = config.get("text_config")
    value = config.get("max_position_embeddings") or (isinstance(text, dict) and text.get("max_position_embeddings"))
    return int(value) if value else None
