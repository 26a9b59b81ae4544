"""The API server's judgement without an API server: defaults, structural schema and CEL, well enough for unit tests.

`tests/cluster/test_admission.py` puts the same table to a real one.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import cache
from typing import Any

import celpy
import jsonschema
from celpy.evaluation import CELEvalError

from luthier.api.kinds import KINDS
from luthier.crd import kind_schema

Json = dict[str, Any]
SCHEMAS = {kind.kind: kind_schema(kind) for kind in KINDS}


def refusals(obj: Json, before: Json | None = None) -> list[str]:
    """Return what an API server would object to, as `path: message`."""
    schema = SCHEMAS[obj["kind"]]
    new = with_defaults(schema, obj)
    old = with_defaults(schema, before) if before else None
    return [*_unknown(schema, new, ""), *_structure(schema, new), *_cel(schema, new, old, "")]


def with_defaults(schema: Json, value: Any) -> Any:
    """Return a value with the schema's defaults filled in, outermost first, as the API server does."""
    if isinstance(value, list):
        return [with_defaults(schema["items"], item) for item in value] if "items" in schema else value
    if not isinstance(value, dict):
        return value
    out = dict(value)
    for name, child in schema.get("properties", {}).items():
        if name not in out and "default" in child:
            out[name] = copy.deepcopy(child["default"])
        if name in out:
            out[name] = with_defaults(child, out[name])
    return out


def _unknown(schema: Json, value: Any, path: str) -> Iterator[str]:
    for name, child in _children(schema, value):
        where = f"{path}.{name}".lstrip(".")
        if child is None:
            yield f'unknown field "{where}"'
        else:
            yield from _unknown(child, value[name], where)


def _children(schema: Json, value: Any) -> Iterator[tuple[Any, Json | None]]:
    if isinstance(value, list) and "items" in schema:
        yield from ((index, schema["items"]) for index in range(len(value)))
    if isinstance(value, dict):
        known = schema.get("properties", {})
        free = schema.get("additionalProperties")
        if known or free:
            yield from ((name, known.get(name, free)) for name in value)


def _structure(schema: Json, value: Json) -> Iterator[str]:
    yield from _twice(schema, value, "")
    for error in jsonschema.Draft202012Validator(_plain(schema)).iter_errors(value):
        yield f"{error.json_path.removeprefix('$.')}: {error.message} ({error.validator}: {error.validator_value})"


def _twice(schema: Json, value: Any, path: str) -> Iterator[str]:
    """Yield items of keyed lists that have the key of an earlier one."""
    if keys := schema.get("x-kubernetes-list-map-keys"):
        seen = [tuple(item.get(key) for key in keys) for item in value]
        yield from (f"{path}[{i}]: Duplicate value {key}" for i, key in enumerate(seen) if key in seen[:i])
    for name, child in _children(schema, value):
        if child is not None:
            where = f"{path}[{name}]" if isinstance(name, int) else f"{path}.{name}".lstrip(".")
            yield from _twice(child, value[name], where)


def _plain(schema: Any) -> Any:
    """Return the schema as JSON Schema: Kubernetes' own words are spelt out."""
    if isinstance(schema, list):
        return [_plain(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    out = {k: _plain(v) for k, v in schema.items()}
    if out.get("x-kubernetes-int-or-string"):
        out["type"] = ["integer", "string"]
    return out


def _cel(schema: Json, new: Any, old: Any, path: str) -> Iterator[str]:
    for rule in schema.get("x-kubernetes-validations", []):
        if "oldSelf" in rule["rule"] and old is None:
            continue
        if not _holds(rule["rule"], new, old):
            yield f"{path or '<root>'}: {rule['message']}"
    for name, child in _children(schema, new):
        if child is None:
            continue
        before = old.get(name) if isinstance(old, dict) and isinstance(new, dict) else None
        where = f"{path}[{name}]" if isinstance(name, int) else f"{path}.{name}".lstrip(".")
        yield from _cel(child, new[name], before, where)


_ENVIRONMENT = celpy.Environment()


@cache
def _program(rule: str) -> Any:
    return _ENVIRONMENT.program(_ENVIRONMENT.compile(rule), functions={"isSorted": _is_sorted})


def _is_sorted(items: Any) -> Any:
    return celpy.celtypes.BoolType(list(items) == sorted(items))


def _holds(rule: str, new: Any, old: Any) -> bool:
    names = {"self": celpy.json_to_cel(new)} | ({"oldSelf": celpy.json_to_cel(old)} if old is not None else {})
    try:
        return bool(_program(rule).evaluate(names))
    except CELEvalError:
        return False
