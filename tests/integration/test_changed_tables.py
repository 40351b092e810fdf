"""A change of the tables is told to the hub before anything that was written since is sent: whatever comes between."""

from __future__ import annotations

import random
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from support.fleet import NOW_MS, Fleet
from support.processes import Site
from tidewire_agent.errors import DatabaseBusy
from tidewire_agent.runtime import filework
from tidewire_agent.session.effects import ApplyPage
from tidewire_agent.store.edge_store import EdgeStore
from tidewire_agent.store.settings import StoreSettings

NOTES = "CREATE TABLE notes (id INTEGER PRIMARY KEY, body TEXT)"
TAGS = "CREATE TABLE tags (id INTEGER PRIMARY KEY)"
ADD_COLUMN = "ALTER TABLE notes ADD COLUMN tag TEXT; INSERT INTO notes VALUES (2, 'body', 'tag')"
REBUILD_WITH_COLUMN = """
    BEGIN;
    CREATE TABLE other (id INTEGER PRIMARY KEY, body TEXT, tag TEXT);
    INSERT INTO other SELECT id, body, 'tag' FROM notes;
    DROP TABLE notes;
    ALTER TABLE other RENAME TO notes;
    COMMIT;
"""


def test_a_new_column_is_news_until_a_hello_tells_it(fleet: Fleet) -> None:
    a = fleet.edge("a", NOTES)
    assert not filework.look(a.store, NOW_MS).shapes_changed
    a.sql(ADD_COLUMN)
    assert a.store.refresh()
    assert filework.look(a.store, NOW_MS).shapes_changed
    assert filework.look(a.store, NOW_MS).shapes_changed
    filework.hello(a.store, "0" * 32)
    assert not filework.look(a.store, NOW_MS).shapes_changed


def test_a_new_column_is_news_after_a_lock_that_kept_it_from_being_sealed(fleet: Fleet) -> None:
    a = fleet.edge("a", NOTES, settings=StoreSettings(busy_timeout_s=0.05))
    a.sql(ADD_COLUMN)
    a.store.refresh()
    a.app.execute("BEGIN IMMEDIATE")
    with pytest.raises(DatabaseBusy):
        filework.look(a.store, NOW_MS)
    a.app.execute("COMMIT")
    assert filework.look(a.store, NOW_MS).shapes_changed


def test_a_rebuilt_table_is_news_also_to_a_page_that_comes_too_early_for_it(fleet: Fleet) -> None:
    a, b = fleet.edge("a", NOTES), fleet.edge("b", NOTES)
    a.sql("INSERT INTO notes VALUES (1, 'one')")
    fleet.sync()
    a.sql("INSERT INTO notes VALUES (2, 'two')")
    fleet.push(a)
    page = fleet.page(b.store.replay_from)
    b.sql(REBUILD_WITH_COLUMN)
    done = filework.apply_some(b.store, ApplyPage(page, b.store.tables.told_count))
    assert done.applied is None
    assert done.standing.position == b.store.replay_from < page.prev
    assert done.shapes_changed
    assert filework.look(b.store, NOW_MS).shapes_changed


def test_a_page_that_came_before_a_new_column_was_told_waits_for_the_answer(fleet: Fleet) -> None:
    """Guarantee 7. The log may hold cells of such a column that do not count any more: only the answer tells."""
    a, b = fleet.edge("a", NOTES), fleet.edge("b", NOTES)
    fleet.sync()
    a.sql("INSERT INTO notes VALUES (1, 'one')")
    fleet.push(a)
    page = ApplyPage(fleet.page(b.store.replay_from), b.store.tables.told_count)
    b.sql("ALTER TABLE notes ADD COLUMN tag TEXT")
    assert filework.apply_some(b.store, page).applied is None
    filework.hello(b.store, "0" * 32)
    done = filework.apply_some(b.store, page)
    assert done.applied is None
    assert b.app.execute("SELECT count(*) FROM notes").fetchone() == (0,)
    done = filework.apply_some(b.store, ApplyPage(page.page, done.standing.told))
    assert done.applied is not None
    assert b.app.execute("SELECT id, body, tag FROM notes").fetchall() == [(1, "one", None)]


def test_a_table_that_was_detached_and_attached_again_is_news(fleet: Fleet) -> None:
    a = fleet.edge("a", f"{NOTES}; {TAGS}")
    with closing(EdgeStore.open(a.path, device=None)) as other:
        assert other.detach_table("notes")
        assert other.attach(["notes"])[0].attached
    assert filework.look(a.store, NOW_MS).shapes_changed


def test_tables_that_another_process_detaches_are_no_longer_followed(fleet: Fleet) -> None:
    a = fleet.edge("a", f"{NOTES}; {TAGS}")
    fleet.sync()
    with closing(EdgeStore.open(a.path, device=None)) as other:
        assert other.detach_table("tags")
        a.store.follow(fleet.stream.log_id, fleet.stream.epoch, fleet.stream.head)
        assert [shape.name for shape in a.store.tables.shapes()] == ["notes"]
        assert other.detach_table("notes")
        a.store.renumber(None, None)
        assert a.store.tables.shapes() == ()
    assert a.store.tables.news


def test_outbox_is_read_only_as_far_as_it_is_known_to_be_sealed(fleet: Fleet) -> None:
    a = fleet.edge("a", NOTES)
    for key in range(4):
        a.sql(f"INSERT INTO notes VALUES ({key}, 'x')")
        a.seal()
    read = filework.outbox(a.store, after=1, sealed=3, count_max=10, bytes_max=10**6)
    assert [batch.batch for batch in read] == [2, 3]


def test_columns_added_beside_an_app_that_writes_lose_no_row_of_it(tmp_path: Path) -> None:
    """Guarantee 1."""
    with Site(tmp_path) as site:
        a = site.device("a", "CREATE TABLE notes (id TEXT PRIMARY KEY, body TEXT)").start()
        written = 0
        with closing(sqlite3.connect(a.db, isolation_level=None, timeout=5)) as app:
            for column in range(10):
                until = time.monotonic() + random.uniform(0.1, 0.3)
                while time.monotonic() < until:
                    app.execute("INSERT INTO notes (id, body) VALUES (?, 'x')", (written,))
                    written += 1
                app.execute(f"ALTER TABLE notes ADD COLUMN c{column} TEXT")
                for _ in range(20):
                    app.execute(f"INSERT INTO notes (id, body, c{column}) VALUES (?, 'x', 'new')", (written,))
                    written += 1
        site.wait_at_rest(a)
        assert a.query("SELECT count(*) FROM notes") == [(written,)]
        assert a.dead() == []
        assert a.problems == set()
