"""What the commands do before they import anything large."""

from __future__ import annotations

import gc
import os
from typing import Final

_THRESHOLDS: Final = (20_000, 20, 50)
"""Of the three generations, see `gc.set_threshold`."""


def prepare() -> None:
    """Keep Python and pydantic from doing what costs time and brings nothing here.

    - The collector of reference cycles: a message of 1,000 rows is thousands of lists that hold no cycle, and neither
      does what is imported. By default it would look through all of them again and again, for a third of the time that
      reading a message takes, and a sixth of a start.
    - pydantic looks for plugins in the metadata of every installed package. Who wants one sets PYDANTIC_DISABLE_PLUGINS
      to an empty text.
    """
    gc.set_threshold(*_THRESHOLDS)
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
