"""What all messages have in common."""

from __future__ import annotations

from typing import Annotated, Any, Final, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

VERSION: Final = 1

PAYLOAD_BYTES_MIN: Final = 1024
"""No side may ask for smaller messages than this: a part must hold more than its own header."""

Version = Annotated[int, Field(ge=VERSION, le=VERSION), WithJsonSchema({"const": VERSION})]
"""The protocol's version. Not a Literal, which would take `true` and `1.0` as well."""


def _demand_v_and_type(schema: dict[str, Any]) -> None:
    """Python may leave them to their defaults, the wire may not."""
    required = schema.get("required", [])
    schema["required"] = [*(name for name in ("v", "type") if name in schema["properties"]), *required]


class Message(BaseModel):
    """Base of all messages: frozen, no unknown fields, no coercion."""

    model_config = ConfigDict(
        defer_build=True, frozen=True, extra="forbid", strict=True, json_schema_extra=_demand_v_and_type
    )

    v: Version = VERSION

    @model_validator(mode="after")
    def _says_what_it_is(self, info: ValidationInfo) -> Self:
        if info.mode == "json" and not {"v", "type"} <= self.model_fields_set:
            raise PydanticCustomError("missing", "`v` and `type` are required")
        return self


class Component(BaseModel):
    """Base of what messages are made of."""

    model_config = ConfigDict(defer_build=True, frozen=True, extra="forbid", strict=True)
