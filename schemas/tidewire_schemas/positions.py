"""Places in the log and in a device's row of batches. They look alike and must not be mixed: hence types."""

from __future__ import annotations

from typing import Annotated, Any, Final, NamedTuple, NewType

from pydantic import Field, GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

SAFE_INTEGER_MAX: Final = 2**53 - 1
"""Numbers of the protocol stay below this, so that every JSON reader keeps them exact."""

Seq = NewType("Seq", int)
"""Place of an entry in a stream's log: contiguous from 1; 0 is "before the first"."""

Epoch = NewType("Epoch", int)
"""Which leadership numbered an entry: greater is later; 0 only together with seq 0."""

BatchNo = NewType("BatchNo", int)
"""A device's own number of a batch: contiguous from 1 within one incarnation; 0 is "none yet"."""

Count = Annotated[int, Field(ge=0, le=SAFE_INTEGER_MAX)]
"""A non-negative integer that every JSON reader keeps exact."""

Ordinal = Annotated[int, Field(ge=1, le=SAFE_INTEGER_MAX)]
"""The same, counted from 1."""

Millis = Annotated[int, Field(ge=-SAFE_INTEGER_MAX, le=SAFE_INTEGER_MAX)]
"""Milliseconds since 1970 by the writer's clock, which may be wrong: for people only."""


class Position(NamedTuple):
    """A checkpoint: an entry's epoch and seq. Equal pairs mean equal logs up to there. On the wire `[epoch, seq]`."""

    epoch: int
    seq: int

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """An array of two: pydantic's own schema of a NamedTuple would take an object as well."""
        count = core_schema.int_schema(ge=0, le=SAFE_INTEGER_MAX, strict=True)
        pair = core_schema.tuple_schema([count, count])
        return core_schema.no_info_after_validator_function(cls._make, pair)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: Any) -> dict[str, Any]:
        """`[epoch, seq]`, in words that every draft of JSON Schema has."""
        count = {"type": "integer", "minimum": 0, "maximum": SAFE_INTEGER_MAX}
        return {"type": "array", "title": "Position", "items": count, "minItems": 2, "maxItems": 2}


START: Final = Position(0, 0)
"""Before the first entry of any log."""
