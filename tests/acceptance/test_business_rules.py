"""What shops do, on several devices at once: triggers keep a stock, cascades, REPLACE, unique e-mails, old copies."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from support.processes import Device, Site
from support.proxy import TcpProxy
from support.waiting import wait_for

SHOP = """
CREATE TABLE product (id INTEGER PRIMARY KEY, sku TEXT NOT NULL UNIQUE, name TEXT, stock INTEGER NOT NULL);
CREATE TABLE orders (id TEXT PRIMARY KEY, product INTEGER NOT NULL REFERENCES product ON DELETE CASCADE, n INTEGER);
CREATE TABLE line (
    id TEXT PRIMARY KEY, order_id TEXT NOT NULL REFERENCES orders ON DELETE CASCADE ON UPDATE CASCADE, note TEXT
);
CREATE TABLE audit (id TEXT PRIMARY KEY, what TEXT);
CREATE TRIGGER lower_stock AFTER INSERT ON orders BEGIN
    UPDATE product SET stock = stock - NEW.n WHERE id = NEW.product;
    INSERT INTO audit VALUES ('order ' || NEW.id, 'stock lowered by ' || NEW.n);
END;
CREATE TRIGGER raise_stock AFTER DELETE ON orders BEGIN
    UPDATE product SET stock = stock + OLD.n WHERE id = OLD.product;
END;
"""
USERS = "CREATE TABLE users (id TEXT PRIMARY KEY, email TEXT UNIQUE, name TEXT)"
ITEMS = "CREATE TABLE items (id INTEGER PRIMARY KEY, name TEXT, n INTEGER)"

STOCK = 10_000
ORDERS = 200


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with Site(tmp_path) as running:
        yield running


def run(device: Device, *statements: str) -> None:
    """As `Device.sql`; nothing may fail."""
    done = device.sql(*statements)
    assert not done.stderr, done.stderr


def wait_sealed(device: Device, batches: int) -> None:
    """Until all it has written is in so many batches that nobody has heard of."""

    def sealed() -> bool:
        standing = device.standing()
        return (standing.changes, standing.batches) == (0, batches)

    wait_for(sealed, 20, what=f"{device.device} has sealed {batches} batches")


def business_of(device: Device, product: int) -> None:
    """Orders of a product of its own and of one that all sell; some are cancelled, and products are replaced."""
    name = device.device
    for first in range(0, ORDERS, 20):
        statements = []
        for n in range(first, first + 20):
            statements += [
                f"INSERT INTO orders VALUES ('{name}-{n}', {product}, 1);",
                f"INSERT INTO line VALUES ('{name}-{n}-a', '{name}-{n}', 'first'), ('{name}-{n}-b', '{name}-{n}', '');",
                f"INSERT INTO orders VALUES ('{name}-shared-{n}', 1, 2);",
            ]
        statements += [
            f"DELETE FROM orders WHERE id = '{name}-{first}';",
            f"UPDATE orders SET id = '{name}-renamed-{first}' WHERE id = '{name}-{first + 1}';",
            # Takes the SKU from the product that has it: the row goes, and SQLite fires no trigger for that.
            f"REPLACE INTO product VALUES ({product * 100 + first}, 'sku {name}', 'from {first}', {first});",
        ]
        run(device, *statements)


def test_triggers_cascades_and_replace_on_two_devices_at_once_end_equal_and_nothing_is_counted_twice(
    site: Site,
) -> None:
    a, b, c = (site.device(name, SHOP).start() for name in "abc")
    run(
        c,
        f"INSERT INTO product VALUES (1, 'shared', 'sold by both', {STOCK}), (2, 'of a', '', {STOCK}), "
        f"(3, 'of b', '', {STOCK});",
    )
    site.wait_at_rest()
    with ThreadPoolExecutor(2) as both:
        for done in [both.submit(business_of, a, 2), both.submit(business_of, b, 3)]:
            done.result()
    site.wait_at_rest()
    site.assert_equal()
    cancelled = ORDERS // 20
    expected = [(2, STOCK - ORDERS + cancelled), (3, STOCK - ORDERS + cancelled)]
    for device in (a, b, c):
        assert device.query("SELECT id, stock FROM product WHERE id IN (2, 3) ORDER BY id") == expected
        assert device.query("SELECT count(*) FROM audit") == [(4 * ORDERS,)]
        assert device.query("SELECT count(*) FROM orders") == [(4 * ORDERS - 2 * cancelled,)]
        assert device.query("SELECT count(*) FROM line") == [(2 * (2 * ORDERS - 2 * cancelled),)]
        assert device.query("SELECT count(*) FROM line WHERE order_id LIKE '%renamed%'") == [(4 * cancelled,)]
        assert device.query("SELECT id, stock FROM product WHERE sku IN ('sku a', 'sku b') ORDER BY id") == [
            (2 * 100 + ORDERS - 20, ORDERS - 20),
            (3 * 100 + ORDERS - 20, ORDERS - 20),
        ]
        assert device.query("PRAGMA foreign_key_check") == []


def test_of_two_equal_emails_taken_offline_one_stays_everywhere_and_the_other_is_a_dead_letter(site: Site) -> None:
    a, b, c = (site.device(name, USERS).start() for name in "abc")
    site.wait_at_rest()
    for device in (a, b):
        assert device.stop() == 0
        run(
            device,
            f"INSERT INTO users VALUES ('{device.device}-1', 'same@example.com', 'from {device.device}');",
            f"INSERT INTO users VALUES ('{device.device}-2', '{device.device}@example.com', 'fine');",
        )
    a.start()
    site.wait_at_rest(a, c)
    b.start()
    site.wait_at_rest()
    site.assert_equal()
    for device in (a, b, c):
        assert device.query("SELECT id FROM users ORDER BY id") == [("a-1",), ("a-2",), ("b-2",)]
    assert a.dead() == c.dead() == []
    (letter,) = b.dead()
    assert (letter["reason"], letter["key"]) == ("unique", ["b-1"])
    assert letter["cells"] == {"email": "same@example.com", "name": "from b"}


def test_a_device_attached_with_an_old_copy_of_the_tables_changes_nothing_for_the_others(
    site: Site, tmp_path: Path
) -> None:
    a, b = (site.device(name, ITEMS).start() for name in "ab")
    run(a, *(f"INSERT INTO items VALUES ({n}, 'first {n}', 0);" for n in range(500)))
    site.wait_at_rest()
    with closing(sqlite3.connect(tmp_path / "last-month.db")) as copy:
        copy.execute(ITEMS)
        copy.executemany("INSERT INTO items VALUES (?, ?, ?)", a.query("SELECT * FROM items"))
        copy.execute("UPDATE items SET name = 'written into the copy' WHERE id IN (100, 300, 450)")
        copy.commit()
    run(
        b,
        "UPDATE items SET name = 'of today', n = 1 WHERE id < 200;",
        "DELETE FROM items WHERE id >= 400;",
        "INSERT INTO items VALUES (1000, 'new', 1);",
        "DELETE FROM items WHERE id = 0; INSERT INTO items VALUES (0, 'another thing', 2);",
    )
    site.wait_at_rest()
    before, digests = a.query("SELECT * FROM items ORDER BY id"), site.hub_digests()

    late = site.device("late", ITEMS)
    late.db.unlink()
    shutil.copy(tmp_path / "last-month.db", late.db)
    late.start()
    site.wait_at_rest()
    site.assert_equal()
    assert site.hub_digests() == digests
    for device in (a, b, late):
        assert device.query("SELECT * FROM items ORDER BY id") == before
    assert a.dead() == b.dead() == []
    # What no entry of the log has ever said is listed where it came from.
    assert [(letter["key"], letter["reason"], letter["cells"]["name"]) for letter in late.dead()] == [
        ([n], "row_known", "written into the copy") for n in (100, 300, 450)
    ]


@pytest.mark.fault("a batch refused while later ones are in flight")
def test_a_batch_that_is_refused_with_later_ones_of_its_row_in_flight_ends_equal_and_is_listed(site: Site) -> None:
    """Guarantee 5, too: the later batches follow in their order."""
    with TcpProxy(site.broker.port) as cable:
        a = site.device("a", ITEMS).start()
        b = site.device("b", ITEMS, "--offline-changes-max", "1")  # so that each transaction is a batch
        b.broker = cable.url
        b.start()
        site.wait_at_rest()
        cable.refuse()
        b.wait_state("offline")
        run(a, "INSERT INTO items VALUES (1, 'from a', 0), (2, 'from a', 0);")
        site.wait_at_rest(a)

        for batch, statement in enumerate(
            (
                "INSERT INTO items VALUES (1, 'from b', 10), (7, 'only b', 10);",
                "UPDATE items SET n = 11 WHERE id IN (1, 7);",
                "UPDATE items SET name = 'renamed by b' WHERE id IN (1, 7);",
                "BEGIN; DELETE FROM items WHERE id = 1; INSERT INTO items VALUES (1, 'born again at b', 12); COMMIT;",
                "UPDATE items SET id = 2 WHERE id = 1;",
            ),
            start=1,
        ):
            run(b, statement)
            wait_sealed(b, batch)

        cable.allow()
        b.wait_state("live")
        site.wait_at_rest()
        site.assert_equal()
        for device in (a, b):
            assert device.query("SELECT * FROM items ORDER BY id") == [
                (1, "from a", 0),
                (2, "from a", 0),
                (7, "renamed by b", 11),
            ]
        assert a.dead() == []
        letters = b.dead()
        assert [letter["batch"] for letter in letters] == sorted(letter["batch"] for letter in letters)
        assert {letter["batch"] for letter in letters} == {1, 2, 3, 4, 5}
        assert {letter["key"][0] for letter in letters} <= {1, 2}
        first = letters[0]
        assert (first["reason"], first["key"], first["cells"]) == ("key_taken", [1], {"name": "from b", "n": 10})
