-- Tidewire's own tables in the app's file. `tidewire-agent detach` removes them all.

-- Who this database is and how far it has come. Names: tables_version, device, incarnation, stream, log_id, heard_epoch;
-- epoch and seq (the checkpoint); next_batch, last_digest; history (see history.py), healing and
-- healing_tables (see healing.py), parent_digest (what batch 1 follows), ancestors (see
-- outbox.py: batches of earlier incarnations have numbers of 0 and below); released (highest own batch that the applied
-- log includes); drained (how often the change log was emptied, as its ids then begin anew); trimmed (how often the
-- newest changes may have been removed, as their ids are then given again); wanted (tables asked for), unwanted (tables
-- detached again), dead_dropped, next_dead.
CREATE TABLE IF NOT EXISTS tidewire_meta (
    name  TEXT PRIMARY KEY,
    value
) WITHOUT ROWID;

-- The attached tables. `columns`: JSON list of the columns that the triggers know, whose places are the bits of a
-- change's mask. `state`: taking (the hub's rows come first), offering (rows that were there before are sent as
-- seeds, up to key `offered`), synced, behind (too much of the log could not be applied: it is taken anew later), or
-- missing (dropped or renamed); `problem` says why. `cursor_*`: where a table that
-- was attached later stands in the log, while that is behind the checkpoint. `target`: the hub's head at attach.
-- `first_batch`: own batches before this one were sealed before it was attached and say nothing of its rows now.
CREATE TABLE IF NOT EXISTS tidewire_table (
    id           INTEGER PRIMARY KEY,
    name         TEXT NOT NULL UNIQUE COLLATE NOCASE,
    columns      TEXT NOT NULL,
    state        TEXT NOT NULL,
    first_batch  INTEGER NOT NULL,
    target       INTEGER,
    offered      TEXT,
    cursor_epoch INTEGER,
    cursor_seq   INTEGER,
    problem      TEXT
);

-- The change log: written by the triggers in the app's own transactions. `t`: tidewire_table.id. `op`: see capture.py.
-- `cols`: which columns an update changed. `k0` …: the key, natively. `row_id`: where an inserted row was stored, if that
-- is not its key: it is found there sooner than by its key, unless something has moved it, which is no change.
CREATE TABLE IF NOT EXISTS tidewire_change (
    id   INTEGER PRIMARY KEY,
    t    INTEGER NOT NULL,
    op   INTEGER NOT NULL,
    cols,
    k0, k1, k2, k3, k4, k5, k6, k7,
    row_id INTEGER
);

-- Changes up to `id` (and above the mark before) were made when this position was applied.
CREATE TABLE IF NOT EXISTS tidewire_mark (
    id    INTEGER PRIMARY KEY,
    epoch INTEGER NOT NULL,
    seq   INTEGER NOT NULL
);

-- The outbox: sealed batches, never changed afterwards, by the numbers of the present incarnation. `epoch`, `seq`: its
-- place in the applied log. `refused`: a JSON list of [table, op, key] of its rows that the hub refused. Kept for a while after the log has them.
CREATE TABLE IF NOT EXISTS tidewire_batch (
    batch     INTEGER PRIMARY KEY,
    digest    TEXT NOT NULL,
    sealed_at INTEGER NOT NULL,
    bytes     INTEGER NOT NULL,
    payload   BLOB NOT NULL,
    epoch     INTEGER,
    seq       INTEGER,
    refused   TEXT
);

-- While a table is taken over: keys that the log has touched. Any other row was there before.
CREATE TABLE IF NOT EXISTS tidewire_touched (
    t   INTEGER NOT NULL,
    key BLOB NOT NULL,
    PRIMARY KEY (t, key)
) WITHOUT ROWID;

-- Tables that are being loaded from a snapshot; at most one snapshot at a time (meta: load_snapshot, load_epoch,
-- load_seq, load_whole, load_included, load_refused). `load`: never given twice (meta: next_load). `stage`: waiting (for a manifest),
-- loading (chunk `next` of those from `first` on is due, `row` rows of it are in), sweeping (rows up to key `swept` that
-- the snapshot does not hold are gone), loaded (the other tables are not yet), ended (until changes up to stamp `until`
-- are sealed).
CREATE TABLE IF NOT EXISTS tidewire_loading (
    load   INTEGER PRIMARY KEY,
    t      INTEGER NOT NULL UNIQUE,
    whole  INTEGER NOT NULL,
    epoch  INTEGER NOT NULL,
    seq    INTEGER NOT NULL,
    stage  TEXT NOT NULL,
    first  INTEGER NOT NULL,
    chunks INTEGER NOT NULL,
    next   INTEGER NOT NULL,
    row    INTEGER NOT NULL,
    swept  TEXT,
    until  INTEGER
);

-- Keys that a load has brought, and which changes had been made by then (`stamp`).
CREATE TABLE IF NOT EXISTS tidewire_loaded (
    load  INTEGER NOT NULL,
    key   BLOB NOT NULL,
    stamp INTEGER NOT NULL,
    PRIMARY KEY (load, key)
) WITHOUT ROWID;

-- Columns that other devices have of an attached table. `arrived`: the table has the column by now, and had applied this
-- entry when it came; the hub's values are still to be taken. NULL: it does not have it. tidewire_meta: elsewhere_at is
-- the entry up to which the hub has told of them.
CREATE TABLE IF NOT EXISTS tidewire_elsewhere (
    t       INTEGER NOT NULL,
    name    TEXT NOT NULL,
    arrived INTEGER,
    PRIMARY KEY (t, name)
) WITHOUT ROWID;

-- Names (folded) under which an attached table had a column once, and has none now. Batches and the hub may know it.
CREATE TABLE IF NOT EXISTS tidewire_gone (
    t    INTEGER NOT NULL,
    name TEXT NOT NULL,
    PRIMARY KEY (t, name)
) WITHOUT ROWID;

-- While rows are offered that a hub has lost: changes that it can take only once it has the rows (see once_more.py).
-- `epoch`, `seq`: their place in the lost log. `changes`: JSON, as in a batch.
CREATE TABLE IF NOT EXISTS tidewire_again (
    epoch   INTEGER NOT NULL,
    seq     INTEGER NOT NULL,
    changes TEXT NOT NULL,
    PRIMARY KEY (epoch, seq, changes)
) WITHOUT ROWID;

-- Rows of which a change was too large to be sent: the next change of such a row sends the whole row.
CREATE TABLE IF NOT EXISTS tidewire_unsent (
    t   INTEGER NOT NULL,
    key BLOB NOT NULL,
    PRIMARY KEY (t, key)
) WITHOUT ROWID;

-- Changes of the log that could not be applied yet, as they clash with rows here: `cells` is a JSON object of column and value, `op` put or set.
CREATE TABLE IF NOT EXISTS tidewire_parked (
    t      INTEGER NOT NULL,
    key    BLOB NOT NULL,
    op     TEXT NOT NULL,
    cells  TEXT NOT NULL,
    reason TEXT NOT NULL,
    seq    INTEGER NOT NULL,
    PRIMARY KEY (t, key)
) WITHOUT ROWID;

-- This device's versions of rows that the hub refused, and what else could not be synced: for a person to look at.
CREATE TABLE IF NOT EXISTS tidewire_dead (
    id     INTEGER PRIMARY KEY,  -- never given twice: see next_dead in tidewire_meta
    at     INTEGER NOT NULL,
    "table" TEXT NOT NULL,
    op     TEXT NOT NULL,
    key    TEXT NOT NULL,
    cells  TEXT NOT NULL,
    reason TEXT NOT NULL,
    detail TEXT NOT NULL,
    batch  INTEGER,
    seq    INTEGER
);

-- Questions of programs that use the file alone: "do I hold all that the hub had when I asked?"
CREATE TABLE IF NOT EXISTS tidewire_fresh (
    nonce    TEXT PRIMARY KEY,
    asked_at INTEGER NOT NULL,
    epoch    INTEGER,
    seq      INTEGER
) WITHOUT ROWID;

-- Questions of programs that use the file alone: "are my rows as the hub's?" `tables`: JSON list, empty for all;
-- `report`: the answer, once there is one.
CREATE TABLE IF NOT EXISTS tidewire_verify (
    id       INTEGER PRIMARY KEY,
    nonce    TEXT NOT NULL UNIQUE,
    asked_at INTEGER NOT NULL,
    tables   TEXT NOT NULL,
    repair   INTEGER NOT NULL,
    report   TEXT
);
