"""Places in the log and in a device's row of batches. They look alike and must not be mixed: hence types."""

from __future__ import annotations

from typing import Annotated, Final, NamedTuple, NewType

from pydantic import Field

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


class Position(NamedTuple):
    """A checkpoint: an entry's epoch and seq. Equal pairs mean equal logs up to there. On the wire `[epoch, seq]`."""

    epoch: Annotated[int, Field(ge=0, le=SAFE_INTEGER_MAX)]
    seq: Annotated[int, Field(ge=0, le=SAFE_INTEGER_MAX)]


START: Final = Position(0, 0)
"""Before the first entry of any log."""
