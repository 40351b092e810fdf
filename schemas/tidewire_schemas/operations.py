"""What a batch does to a row, and why a hub refuses it."""

from __future__ import annotations

from typing import Literal

Op = Literal["put", "set", "delete", "seed"]

RefusalReason = Literal[
    "key_taken",  # a concurrent insert elsewhere got this key first, and SQLite hands such keys out
    "row_absent",  # a set on a row that is not there (deleted, or never was)
    "row_reborn",  # the row was made anew elsewhere after this write's base: it is about another thing
    "row_known",  # a seed where the hub holds a row or a tombstone
    "unique",  # it clashes with another row on a UNIQUE set
    "tied",  # it belongs together with a refused row
    "reference",  # it references a refused row by a declared foreign key
    "unknown_table",  # no device has declared this table
    "unknown_column",  # the declared table has no such column
    "wrong_key",  # the key columns are not the table's, or a key value is NULL
    "overtaken",  # offered again after the hub lost it, and later writes have gone over it
    "wrong_value",  # a value that the column cannot take as it is
]
