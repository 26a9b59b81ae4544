"""The generated schemas: structural rules on every node, defaults that apply, and the generator's refusals."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import pytest
from pydantic import Field

from factories import make_evaluation, make_finetunejob, make_modeldeployment
from luthier import resources
from luthier.api.base import KubeModel
from luthier.api.kinds import KINDS
from luthier.crd import UnknownConstruct, custom_resource_definition, generated_files, main, structural, to_yaml
from offline_admission import SCHEMAS, with_defaults

KNOWN_TYPES = {"object", "array", "string", "integer", "boolean"}


def nodes(schema: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from nodes(child, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if key in schema:
            yield from nodes(schema[key], f"{path}.{key}")


ALL_NODES = [node for kind, schema in SCHEMAS.items() for node in nodes(schema, kind)]
SPEC_NODES = [(path, node) for path, node in ALL_NODES if ".spec" in path]


def test_every_node_is_structural():
    for path, node in ALL_NODES:
        assert node.get("x-kubernetes-int-or-string") or node["type"] in KNOWN_TYPES, path
        assert not {"$ref", "anyOf", "allOf", "oneOf", "not", "title", "nullable"} & node.keys(), path
        assert not ("properties" in node and "additionalProperties" in node), path
        assert ("items" in node) == (node.get("type") == "array"), path


def test_every_field_has_a_description_written_for_it():
    for path, node in ALL_NODES:
        if path.endswith((".items", ".additionalProperties", ".metadata")):
            continue
        assert node.get("description", "").endswith((".", "%")), f"{path}: {node.get('description')!r}"
        assert "Base of all API models" not in node["description"], path


@pytest.mark.row(79)
def test_every_list_map_and_string_is_bounded():
    bounds = {"array": "maxItems", "string": "maxLength"}
    for path, node in ALL_NODES:
        if path.count(".") <= 1 or "enum" in node or node.get("format") == "date-time":
            continue
        bound = "maxProperties" if "additionalProperties" in node else bounds.get(node.get("type", ""))
        assert bound is None or bound in node, f"{path} has no {bound}"


@pytest.mark.row(73)
def test_no_reference_leaves_its_namespace_but_the_gateways():
    found = {path for path, _ in SPEC_NODES if path.rpartition(".")[2].lower().endswith("namespace")}
    assert found == {"ModelDeployment.spec.gateway.parentRefs.items.namespace"}


@pytest.mark.row(79)
def test_every_integer_of_a_spec_has_a_range():
    for path, node in SPEC_NODES:
        if node.get("type") == "integer" and "enum" not in node:
            assert {"minimum", "maximum"} <= node.keys() or path.endswith(".step"), path


def test_keyed_lists_require_their_keys():
    for path, node in ALL_NODES:
        for key in node.get("x-kubernetes-list-map-keys", ()):
            assert key in node["items"]["required"], path


def test_every_rule_has_a_message_for_people():
    for path, node in ALL_NODES:
        for rule in node.get("x-kubernetes-validations", ()):
            assert len(rule["message"]) > 20, path


def test_enum_values_are_camel_case():
    for path, node in ALL_NODES:
        for value in node.get("enum", ()):
            assert isinstance(value, int) or value[0].isupper(), f"{path}: {value}"


def test_status_carries_no_defaults_that_would_differ_from_what_was_written():
    for path, node in ALL_NODES:
        if ".status." in path and not path.endswith("observedGeneration"):
            assert "default" not in node, path


@pytest.mark.parametrize(
    ("obj", "path", "value"),
    [
        (make_finetunejob(), "dataset.splits.testPercent", 10),
        (make_finetunejob(), "training.learningRate", "auto"),
        (make_finetunejob(), "peft.rank", 16),
        (make_evaluation(), "servingProfile.maxModelLen", 1024),
        (make_evaluation(), "suites.0.generation.temperature", "0"),
        (make_modeldeployment(), "server.profile.dtype", "Auto"),
        (make_modeldeployment(rollout=None), "rollout.analysis.intervalSeconds", 5),
    ],
)
def test_nested_defaults_apply(obj, path, value):
    found = with_defaults(SCHEMAS[obj["kind"]], obj)["spec"]
    for part in path.split("."):
        found = found[int(part)] if part.isdigit() else found[part]
    assert found == value


def test_defaults_of_the_schema_are_those_of_the_models():
    for kind, obj in zip(KINDS, (make_finetunejob(), make_evaluation(), make_modeldeployment()), strict=True):
        defaulted = with_defaults(SCHEMAS[kind.kind], obj)["spec"]
        assert kind.spec.model_validate(obj["spec"]).to_json() == defaulted


def test_printer_columns_read_fields_that_exist():
    for kind in KINDS:
        for column in kind.columns:
            if "[?" in column.path or column.path.startswith(".metadata"):
                continue
            node = SCHEMAS[kind.kind]
            for part in column.path.strip(".").split("."):
                node = node["properties"][part]


def test_the_resource_table_and_the_kinds_agree():
    assert [(r.kind, r.plural) for r in resources.OWN] == [(k.kind, k.plural) for k in KINDS]


def test_names_and_status_subresource():
    crd = custom_resource_definition(KINDS[2])
    assert crd["metadata"]["name"] == "modeldeployments.luthier.dev"
    assert crd["spec"]["names"]["shortNames"] == ["mdep"]
    assert crd["spec"]["names"]["categories"] == ["luthier"]
    assert crd["spec"]["versions"][0]["subresources"] == {"status": {}}


def test_a_field_called_n_is_quoted_because_kubernetes_reads_a_bare_one_as_false():
    assert to_yaml({"n": {"type": "string"}}) == "'n':\n  type: string\n"


class Part(KubeModel):
    """A part."""

    size: Annotated[int, Field(default=3, description="Its size.")]


@pytest.mark.parametrize(
    "annotation",
    [int | bool, float, dict[str, Any], Any, tuple[int, str], set[str], Part | int],
    ids=["union", "float", "free dict", "any", "tuple", "set", "model or int"],
)
def test_the_generator_refuses_what_has_no_decided_form(annotation):
    model = type("Model", (KubeModel,), {"__annotations__": {"field": annotation}, "__module__": __name__})
    with pytest.raises(UnknownConstruct, match=r"Model\.field"):
        structural(model)


def test_what_stands_beside_a_reference_wins_and_its_defaults_apply():
    class Whole(KubeModel):
        """A whole."""

        part: Annotated[Part, Field(default_factory=Part, description="The part of it.")]
        other: Annotated[Part | None, Field(default=None, description="Another.")]

    properties = structural(Whole)["properties"]
    assert properties["part"]["description"] == "The part of it."
    assert properties["part"]["default"] == {"size": 3}
    assert properties["part"]["properties"]["size"]["default"] == 3
    assert properties["other"]["description"] == "Another."
    assert "default" not in properties["other"]


def test_generating_twice_changes_nothing_and_an_edit_is_noticed(tmp_path, capsys):
    assert main(["--root", str(tmp_path)]) == 0
    assert main(["--root", str(tmp_path), "--check"]) == 0
    edited = tmp_path / "docs" / "api.md"
    edited.write_text(edited.read_text() + "by hand\n")
    assert main(["--root", str(tmp_path), "--check"]) == 1
    assert "docs/api.md is stale: run `make generate`" in capsys.readouterr().err


def test_the_committed_files_are_fresh():
    assert main(["--check"]) == 0


def test_the_chart_copy_is_kept_on_uninstall():
    text = next(text for path, text in generated_files().items() if path.parts[0] == "helm")
    assert text.count("helm.sh/resource-policy: keep") == 3
    assert ".Values.crds.install" in text
