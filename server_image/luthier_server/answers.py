"""Do answers meet the response schema? Takes whole chat answers out of replies and checks them.

Only an answer that the model itself ended is judged (`finish_reason` stop): one that was cut at the client's
`max_tokens`, calls a tool or was refused says nothing about the format.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NoReturn

from jsonschema.exceptions import SchemaError
from jsonschema.protocols import Validator
from jsonschema.validators import validator_for
from referencing import Registry, Resource
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

from luthier_server.stream import data_of

_COMPLETE = "stop"


class AnswerFormat:
    """A compiled JSON Schema for the text of answers."""

    def __init__(self, schema: str) -> None:
        """Compile the schema.

        Raises:
            ValueError: The text is not a JSON Schema, or it points to a schema outside of itself.
        """
        parsed = json.loads(schema)
        kind = validator_for(parsed)
        try:
            kind.check_schema(parsed)
        except SchemaError as error:
            raise ValueError(error.message) from None
        _resolve_references(parsed, kind)
        # An empty registry: no reference is ever fetched.
        self._validator: Validator = kind(parsed, registry=Registry())

    def accepts(self, answer: str) -> bool:
        """Tell whether the whole text is JSON that the schema allows."""
        try:
            return self._validator.is_valid(json.loads(answer, parse_constant=_refuse_constant))
        except (ValueError, RecursionError, ArithmeticError):  # the last: multipleOf of a number beyond any float
            return False


def answers_in_reply(body: bytes) -> list[str]:
    """Return the complete answers in the body of a chat completion."""
    try:
        reply = json.loads(body)
    except ValueError:
        return []
    return [
        content
        for choice in _choices(reply)
        if choice.get("finish_reason") == _COMPLETE
        and isinstance(content := _mapping(choice.get("message")).get("content"), str)
    ]


def answers_in_events(events: list[bytes]) -> list[str]:
    """Return the complete answers in the events of a streamed chat completion."""
    texts: dict[int, list[str]] = {}
    complete: set[int] = set()
    for event in events:
        for choice in _choices(data_of(event)):
            index = choice.get("index", 0)
            if isinstance(text := _mapping(choice.get("delta")).get("content"), str):
                texts.setdefault(index, []).append(text)
            if choice.get("finish_reason") == _COMPLETE:
                complete.add(index)
    return ["".join(texts.get(index, [])) for index in sorted(complete)]


def _choices(reply: Any) -> list[dict[str, Any]]:
    choices = reply.get("choices") if isinstance(reply, dict) else None
    return [choice for choice in choices if isinstance(choice, dict)] if isinstance(choices, list) else []


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _resolve_references(schema: Any, kind: type[Validator]) -> None:
    """Follow each reference once, so that a wrong one stops the start and not every answer."""
    resolver = Registry().resolver_with_root(Resource.from_contents(schema, default_specification=DRAFT202012))
    for reference in _references(schema):
        try:
            found = resolver.lookup(reference).contents
        except (Unresolvable, TypeError):  # the latter: the path goes on below a number
            raise ValueError(f"$ref {reference!r} points to nothing inside the schema; none is fetched") from None
        try:
            kind.check_schema(found)
        except SchemaError as error:
            raise ValueError(f"$ref {reference!r} points to what is no schema: {error.message}") from None


def _references(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        for key, value in schema.items():
            if key in ("$ref", "$dynamicRef") and isinstance(value, str):
                yield value
            yield from _references(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from _references(value)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
