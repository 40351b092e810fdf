-- The fold of a stream's log. One schema for all synced tables: nothing a device declares becomes DDL.

CREATE TABLE meta (
    id        INTEGER PRIMARY KEY CHECK (id = 1),
    log_id    TEXT    NOT NULL,
    epoch     INTEGER NOT NULL,       -- position of the newest entry folded in
    seq       INTEGER NOT NULL,
    catalogue BLOB    NOT NULL        -- the tables as they were when rows were last brought in line with them
);

CREATE TABLE device (                 -- and each life of its database, as "device/incarnation"
    id   INTEGER PRIMARY KEY,
    name TEXT    NOT NULL UNIQUE
);

CREATE TABLE lineage (                -- lives that go on from another one of the same device
    life   INTEGER PRIMARY KEY,
    parent INTEGER NOT NULL,
    seq    INTEGER NOT NULL           -- the last entry of the parent that is its own, too
);

CREATE TABLE offered (                -- entries that the hub had lost and devices offered again, with their old places
    seq       INTEGER PRIMARY KEY,
    was_epoch INTEGER NOT NULL,
    was_seq   INTEGER NOT NULL
);

CREATE TABLE row (
    id       INTEGER PRIMARY KEY,
    table_id INTEGER NOT NULL,        -- place of the table in the catalogue, from 1
    key      BLOB    NOT NULL,        -- keys.key_bytes: equal for all keys that SQLite holds equal
    cells    BLOB,                    -- [["column",value],…] sorted, NULLs left out: what the row's digest is made of.
                                      -- NULL: a tombstone
    born_seq INTEGER NOT NULL,        -- the entry that made the row, and whose it is
    born_by  INTEGER NOT NULL,
    seq      INTEGER,                 -- who wrote the row last as a whole, or deleted it; NULL: as born
    by       INTEGER,
    cells_by BLOB                     -- {"column":[seq,"device/incarnation"],…} for columns that someone wrote after that
);

CREATE UNIQUE INDEX row_key ON row (table_id, key);

CREATE TABLE unique_value (
    table_id INTEGER NOT NULL,
    number   INTEGER NOT NULL,        -- place of the unique set in the table's shape, from 0
    value    BLOB    NOT NULL,
    key      BLOB    NOT NULL,
    PRIMARY KEY (table_id, number, value, key)
) WITHOUT ROWID;

CREATE TABLE total (
    table_id INTEGER PRIMARY KEY,
    rows     INTEGER NOT NULL,
    digest   TEXT    NOT NULL
);

CREATE TABLE chain (
    device      INTEGER NOT NULL,
    incarnation TEXT    NOT NULL,
    batch       INTEGER NOT NULL,
    digest      TEXT    NOT NULL,
    seq         INTEGER NOT NULL,
    PRIMARY KEY (device, incarnation, batch)
) WITHOUT ROWID;

CREATE TABLE conflict (
    id          INTEGER PRIMARY KEY,
    seq         INTEGER NOT NULL,
    at          INTEGER NOT NULL,
    device      TEXT    NOT NULL,     -- whose entry it is,
    incarnation TEXT    NOT NULL,     -- and which of that one's batches
    batch       INTEGER NOT NULL,
    table_name  TEXT    NOT NULL,
    key         BLOB    NOT NULL,     -- wire values
    op          TEXT    NOT NULL,     -- of a refused row; else empty
    kind        TEXT    NOT NULL,
    detail      TEXT    NOT NULL,
    loser       TEXT    NOT NULL,
    lost        BLOB    NOT NULL      -- {"column":value,…}
);
