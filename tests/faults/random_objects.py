"""Random objects of our kinds, from the CRDs' own schemas: valid ones with fields exchanged for others, right or wrong.

A field's values come from its schema (bounds, pattern, enumeration), from just outside of it, and from what people
paste: other types, long texts, letters that break parsers.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
from hypothesis import strategies as st

from factories import make_evaluation, make_finetunejob, make_modeldeployment

Json = dict[str, Any]
Path_ = tuple[str | int, ...]
CRDS = Path(__file__).resolve().parents[2] / "crds"
CALM = {("spec", "replicas"): st.integers(1, 3)}
"""What would only keep the cluster busy."""

WORDS = st.sampled_from(
    [
        "",
        " ",
        "a",
        "A",
        "x" * 70,
        "é",
        "\U0001f600",
        "$(HOME)",
        "{{x}}",
        "../..",
        "a\nb",
        "null",
        "-1",
        "1e400",
        "\u2028",
    ]
)
ANYTHING = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    WORDS,
    st.lists(WORDS, max_size=2),
    st.dictionaries(WORDS, WORDS, max_size=2),
)
URIS = st.sampled_from(
    [f"pvc://{claim}/{path}" for claim in ("models", "data", "artifacts", "nowhere") for path in ("a", "b/c.jsonl")]
)


def objects(serving: Json) -> st.SearchStrategy[Json]:
    """Return objects of all three kinds, without names.

    Args:
        serving: The spec of a ModelDeployment that is admitted where these objects go.
    """
    folders = {"fineTuneJob": None, "artifactUri": "pvc://artifacts/other", "baseModelUri": "pvc://models/smol"}
    bases = [
        make_finetunejob(),
        make_finetunejob(workspace=None, suspend=True),
        make_evaluation(target=folders, suites=[{**suite, "datasetUri": "pvc://data/x"} for suite in SUITES]),
        make_evaluation(),
        make_modeldeployment(),
        {**make_modeldeployment(), "spec": serving},
    ]
    return st.sampled_from(bases).flatmap(_changed)


SUITES = [
    {"name": "held-out", "type": "HeldOut", "metrics": [{"name": "exact", "type": "ExactMatch"}]},
    {"name": "general", "type": "Regression", "metrics": [{"name": "f1", "type": "F1"}]},
]


@st.composite
def _changed(draw: Callable[..., Any], base: Json) -> Json:
    """Return a base with a few fields exchanged, left out, or added."""
    obj = {"apiVersion": base["apiVersion"], "kind": base["kind"], "spec": copy.deepcopy(base["spec"])}
    schema = schema_of(base["kind"])
    for _ in range(draw(st.integers(0, 3))):
        where = draw(st.sampled_from(sorted(set(_paths(schema, ("spec",))), key=str)))
        _put(obj, where, draw(_values(schema, where)))
    if draw(st.integers(0, 9)) == 0:
        known = draw(st.sampled_from(sorted(_paths(schema, ("spec",)), key=str)))
        _put(obj, (*known[:-1], "unheardOf"), draw(ANYTHING))
    return obj


MISSING = object()


def _values(schema: Json, where: Path_) -> st.SearchStrategy[Any]:
    if where in CALM:
        return CALM[where]
    here = _at(schema, where)
    return st.integers(0, 14).flatmap(
        lambda roll: (
            st.just(MISSING) if roll == 0 else ANYTHING if roll == 1 else _near(here) if roll == 2 else valid(here)
        )
    )


def valid(schema: Json) -> st.SearchStrategy[Any]:
    """Return values that a schema allows; CEL rules are not looked at."""
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if schema.get("x-kubernetes-int-or-string"):
        return st.one_of(st.integers(0, 64), st.sampled_from(["500m", "1Gi", "2", "0.5", "64Mi"]))
    match schema.get("type"):
        case "integer":
            return st.integers(schema.get("minimum", -(2**31)), schema.get("maximum", 2**31 - 1))
        case "boolean":
            return st.booleans()
        case "string":
            return _texts(schema)
        case "array":
            most = min(schema.get("maxItems", 4), 4)
            return st.lists(valid(schema["items"]), min_size=schema.get("minItems", 0), max_size=most)
        case "object":
            return _dicts(schema)
    raise AssertionError(f"a schema that is new here: {schema}")


def _texts(schema: Json) -> st.SearchStrategy[str]:
    longest = schema.get("maxLength", 64)
    if "pattern" not in schema:
        return st.text(
            st.characters(exclude_categories=["Cs"]), min_size=schema.get("minLength", 0), max_size=min(longest, 40)
        )
    if schema["pattern"].startswith("^pvc:"):
        return URIS
    found = st.from_regex(schema["pattern"].removesuffix("$") + r"\Z", alphabet=st.characters(max_codepoint=0x7F))
    return found.filter(lambda text: schema.get("minLength", 0) <= len(text) <= longest)


def _dicts(schema: Json) -> st.SearchStrategy[Json]:
    if "additionalProperties" in schema:
        names = st.one_of(st.sampled_from(["cpu", "memory", "nvidia.com/gpu", "zone"]), WORDS)
        return st.dictionaries(
            names, valid(schema["additionalProperties"]), max_size=min(schema.get("maxProperties", 3), 3)
        )
    required = set(schema.get("required", ()))
    fields = {name: valid(child) for name, child in schema.get("properties", {}).items()}
    return st.fixed_dictionaries(
        {name: values for name, values in fields.items() if name in required},
        optional={name: values for name, values in fields.items() if name not in required},
    )


def _near(schema: Json) -> st.SearchStrategy[Any]:
    """Return values just outside of a schema, or at its edge."""
    edges: list[Any] = [schema[word] + by for word in ("minimum", "maximum") if word in schema for by in (-1, 0, 1)]
    if (longest := schema.get("maxLength")) is not None:
        edges += ["a" * longest, "a" * (longest + 1), ""]
    if schema.get("type") == "array":
        edges += [[], [{}], [None]]
    if schema.get("type") == "object":
        edges += [{}, {"unheardOf": 1}]
    return st.sampled_from(edges) if edges else WORDS


@cache
def schema_of(kind: str) -> Json:
    [path] = [p for p in CRDS.glob("*.yaml") if p.name == f"{kind.lower()}s.luthier.dev.yaml"]
    root: Json = yaml.safe_load(path.read_text())["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return root


def _paths(schema: Json, where: Path_) -> Iterator[Path_]:
    """Yield where the schema has fields; of lists, the first two items."""
    here = _at(schema, where)
    for name in here.get("properties", {}):
        yield (*where, name)
        yield from _paths(schema, (*where, name))
    if "items" in here:
        for index in (0, 1):
            yield from _paths(schema, (*where, index))


def _at(schema: Json, where: Path_) -> Json:
    for part in where:
        schema = schema["items"] if isinstance(part, int) else schema["properties"][part]
    return schema


def _put(obj: Json, where: Path_, value: Any) -> None:
    """Set or remove a field; what is in its way is replaced, what is missing on the way is made."""
    here: Any = obj
    for part, following in pairwise(where):
        fresh: Any = [] if isinstance(following, int) else {}
        here = _step(here, part, fresh)
    last = where[-1]
    if value is MISSING:
        here.pop(last, None)
    else:
        here[last] = value


def _step(here: Any, part: str | int, fresh: Any) -> Any:
    if isinstance(part, int):
        part = min(part, len(here))
        if part == len(here):
            here.append(fresh)
    if not isinstance(here[part] if isinstance(part, int) else here.get(part), type(fresh)):
        here[part] = fresh
    return here[part]
