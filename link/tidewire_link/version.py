"""Tidewire's version: the build takes it from here, and so does a program, which need not look for its own metadata."""

from typing import Final

VERSION: Final = "0.1.0"
