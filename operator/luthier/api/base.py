"""What every API model shares: the base class, the scalar types, CEL rules as data.

Leaves the fields of each kind to their own modules and the schema to `luthier.crd`.
No float appears in a spec: a decimal is a patterned string, parsed where it is used.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic.alias_generators import to_camel

GROUP = "luthier.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"


class KubeModel(BaseModel):
    """Base of all API models: camelCase outside, frozen; an older operator must read a newer object."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True, extra="ignore")

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form as Kubernetes stores it: camelCase, absent instead of null."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


class Documented(StrEnum):
    """A string constant with its meaning: `NAME = "Value", "what it means"`."""

    meaning: str

    def __new__(cls, value: str, meaning: str = "") -> Self:
        member = str.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        return member


def cel(*rules: tuple[str, str]) -> dict[str, Any]:
    """Return `json_schema_extra` that attaches CEL `(rule, message)` pairs to a model or a field."""
    return {"x-kubernetes-validations": [{"rule": rule, "message": message} for rule, message in rules]}


def list_map(*keys: str) -> dict[str, Any]:
    """Return `json_schema_extra` for a list whose items are told apart by these keys."""
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": list(keys)}


def matches(pattern: str, message: str) -> dict[str, Any]:
    """Return `Field` arguments for a patterned string whose refusal says in words what is allowed."""
    return {"pattern": pattern, "json_schema_extra": cel((f"self.matches(r'{pattern}')", message))}


NAME_PATTERN = r"^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$"
"""Names of our objects: children, labels and pod host names derived from them must fit."""

ObjectName = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")]
ItemName = Annotated[
    str,
    Field(
        min_length=1,
        max_length=40,
        **matches(NAME_PATTERN, "must start with a letter, hold only a-z, 0-9 and '-', and not end in '-'"),
    ),
]
Decimal = Annotated[
    str,
    Field(
        max_length=20,
        **matches(r"^[0-9]+(\.[0-9]+)?(e-?[0-9]{1,2})?$", 'must be a decimal in quotes, for example "0.05" or "2e-4"'),
    ),
]
"""A non-negative decimal as a string: "0.05", "2e-4"; always quoted in YAML."""

_QUANTITY_PATTERN = r"^[0-9]+(\.[0-9]+)?(m|k|Ki|M|Mi|G|Gi|T|Ti)?$"
Quantity = Annotated[
    str,
    BeforeValidator(lambda value: str(value) if type(value) is int else value),
    Field(max_length=32, pattern=_QUANTITY_PATTERN),
    WithJsonSchema(
        {
            "x-kubernetes-int-or-string": True,
            "maxLength": 32,
            "pattern": _QUANTITY_PATTERN,
            "minimum": 0,  # of a bare number, which the pattern of a text says nothing about
            "description": 'An amount: 2, "500m", "4Gi".',
        }
    ),
]
"""An amount as Kubernetes writes it; a bare whole number is read as text, as in a pod."""

PvcUri = Annotated[
    str,
    Field(
        max_length=512,
        **matches(
            r"^pvc://[a-z0-9]([-a-z0-9.]*[a-z0-9])?(/[A-Za-z0-9_][A-Za-z0-9_.=@-]*)*$",
            "must be pvc://<claim>/<path in the claim>; the path may not contain .. or empty parts",
        ),
    ),
]
"""`pvc://claim/path/in/claim`: no `..`, no absolute path, no empty segment."""

MadeUri = Annotated[str, Field(max_length=1024)]
"""A URI that we made below one of the user's: the longest `PvcUri`, names and folders of ours must fit."""

Timestamp = datetime


class Condition(KubeModel):
    """One observation of the object's state, as Kubernetes conventions describe it."""

    type: Annotated[str, Field(max_length=64, description="What is observed, for example Ready.")]
    status: Annotated[Literal["True", "False", "Unknown"], Field(description="Whether it holds.")]
    observed_generation: Annotated[
        int, Field(default=-1, description="The spec's generation this was decided for; -1 when none was.")
    ]
    last_transition_time: Annotated[
        str, Field(max_length=40, description="When status, reason or message last changed.")
    ]
    reason: Annotated[str, Field(max_length=128, description="A documented constant (docs/conditions.md).")]
    message: Annotated[str, Field(max_length=2048, description="A sentence for people, with what to do next.")]


class LocalRef(KubeModel):
    """An object of the same namespace."""

    name: Annotated[ObjectName, Field(description="Its name.")]


class Resources(KubeModel):
    """Compute resources, as in a container: quantities by resource name."""

    requests: Annotated[
        dict[str, Quantity] | None,
        Field(
            default=None, max_length=8, description='What is reserved, for example cpu: "500m", nvidia.com/gpu: "1".'
        ),
    ]
    limits: Annotated[
        dict[str, Quantity] | None, Field(default=None, max_length=8, description="What may be used at most.")
    ]


class Toleration(KubeModel):
    """A taint that the pods tolerate, as in a pod's spec."""

    key: Annotated[str | None, Field(default=None, max_length=316, description="The taint's key; absent: every key.")]
    operator: Annotated[Literal["Exists", "Equal"], Field(default="Equal", description="How value is compared.")]
    value: Annotated[str | None, Field(default=None, max_length=63, description="The taint's value.")]
    effect: Annotated[
        Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None,
        Field(default=None, description="The taint's effect; absent: every effect."),
    ]


class Scheduling(KubeModel):
    """Where the pods may run. Typed on purpose: there is no free pod template."""

    node_selector: Annotated[
        dict[str, Annotated[str, Field(max_length=63)]] | None,
        Field(default=None, max_length=16, description="Labels that the node must carry."),
    ]
    tolerations: Annotated[
        list[Toleration] | None, Field(default=None, max_length=16, description="Taints that the pods tolerate.")
    ]
    priority_class_name: Annotated[ObjectName | None, Field(default=None, description="The pods' PriorityClass.")]
    image_pull_secrets: Annotated[
        list[LocalRef] | None,
        # As in a pod: a Deployment that names one twice cannot be applied.
        Field(
            default=None,
            max_length=8,
            description="Secrets for private registries.",
            json_schema_extra=list_map("name"),
        ),
    ]


class ErrorStatus(KubeModel):
    """What went wrong, for machines; the condition's message says it to people."""

    code: Annotated[str, Field(max_length=128, description="The condition's reason.")]
    message: Annotated[str, Field(max_length=2048, description="What happened and what to do.")]
    field: Annotated[str | None, Field(default=None, max_length=256, description="The spec field to mend, if one is.")]


class ServingProfile(KubeModel):
    """How the engine is run. What is judged must be what is served: an Evaluation and a revision both carry it.

    Two profiles match when they are equal field by field, after defaults.
    """

    max_model_len: Annotated[
        int,
        Field(default=1024, ge=64, le=1_048_576, description="Context length in tokens, prompt and answer together."),
    ]
    dtype: Annotated[
        Literal["Auto", "Float32", "BFloat16", "Float16"],
        Field(default="Auto", description="Number format of weights and activations; Auto is the engine's choice."),
    ]
    quantization: Annotated[
        Literal["None"], Field(default="None", description="Weight quantisation of the engine; none in this version.")
    ]
