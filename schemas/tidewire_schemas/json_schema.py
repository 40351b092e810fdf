"""JSON Schema (2020-12) of every message and of every kind of topic, made from the models and their docstrings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, get_args

from pydantic import TypeAdapter
from pydantic.json_schema import models_json_schema

from tidewire_schemas import messages, shapes, snapshots, verification
from tidewire_schemas.base import Message
from tidewire_schemas.docstrings import of_module, paragraphs
from tidewire_schemas.messages import ON_TOPIC
from tidewire_schemas.topics import Kind

Schema = dict[str, Any]

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"

_DOCSTRINGS: Final[Mapping[str, Mapping[str, str]]] = {
    **of_module(messages),
    **of_module(shapes),
    **of_module(snapshots),
    **of_module(verification),
}
"""Class → field → docstring."""


def message_types(kind: Kind) -> tuple[type[Message], ...]:
    """The messages that a kind of topic carries."""
    carried = ON_TOPIC[kind]
    return (carried,) if isinstance(carried, type) else get_args(get_args(carried)[0])


def type_name(message: type[Message]) -> str:
    """What stands in the `type` field of a message."""
    return str(message.model_fields["type"].default)


def all_message_types() -> dict[str, type[Message]]:
    """Every message by the name in its `type` field."""
    return {type_name(message): message for kind in ON_TOPIC for message in message_types(kind)}


def message_schema(message: type[Message]) -> Schema:
    """The schema of one message, complete in itself."""
    return _document(type_name(message), message.model_json_schema())


def topic_schema(kind: Kind) -> Schema:
    """The schema of whatever a kind of topic carries, complete in itself."""
    schema = TypeAdapter[Any](ON_TOPIC[kind]).json_schema()
    schema.pop("discriminator", None)  # OpenAPI's word, not JSON Schema's
    return _document(f"topic:{kind}", schema)


def component_schemas() -> dict[str, Schema]:
    """The schemas of all models by name, referring to each other as an AsyncAPI document has them."""
    _, schema = models_json_schema(
        [(message, "validation") for message in all_message_types().values()],
        ref_template="#/components/schemas/{model}",
    )
    definitions: dict[str, Schema] = schema["$defs"]
    for name, definition in definitions.items():
        _describe(name, definition)
    return definitions


def _document(name: str, schema: Schema) -> Schema:
    definitions = schema.pop("$defs", {})
    for title, definition in definitions.items():
        _describe(title, definition)
    if "title" in schema:
        _describe(schema["title"], schema)
    whole = {"$schema": DIALECT, "$id": f"urn:tidewire:v1:{name}", **schema}
    if definitions:
        whole["$defs"] = definitions
    return whole


def _describe(model: str, schema: Schema) -> None:
    """Give each property the docstring that stands below its field, and drop titles that only repeat its name."""
    if "description" in schema:
        schema["description"] = paragraphs(schema["description"])
    for name, field in schema["properties"].items():
        field.pop("title", None)
        if text := _DOCSTRINGS.get(model, {}).get(name):
            field["description"] = text
