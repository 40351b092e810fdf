"""What a worn disk does: a byte of a file is another one."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Final

ONE_BIT: Final = tuple(1 << bit for bit in range(8))


def flip_at(path: Path, place: int, bits: int = 1) -> None:
    """Change one byte of a file."""
    with path.open("r+b", buffering=0) as file:
        file.seek(place)
        (byte,) = file.read(1)
        file.seek(place)
        file.write(bytes([byte ^ bits]))


def flip_in(path: Path, content: bytes, offset: int = 0) -> int:
    """Change one byte of the first such content, or that many bytes after its begin; where it is."""
    place = path.read_bytes().index(content) + offset
    flip_at(path, place)
    return place


def flip_somewhere(path: Path, chance: random.Random) -> str:
    """Change one bit somewhere, seldom in a stretch of zeros: there nothing stands mostly; says where."""
    content = path.read_bytes()
    place = chance.randrange(len(content))
    for _ in range(20):
        if content[place]:
            break
        place = chance.randrange(len(content))
    bits = chance.choice(ONE_BIT)
    flip_at(path, place, bits)
    return f"bit {bits:#04x} of byte {place} of {len(content)} in {path.name}"
