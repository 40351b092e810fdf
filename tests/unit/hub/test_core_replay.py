"""The core serves replay: from stored bytes, within credit, fair, cached, a few pages at a time."""

from __future__ import annotations

from support.hub_core import BOOT, EPOCH, INCARNATION, Driver, entries, every, hello, only, replay_request, told
from tidewire_hub.actions import Effect, EntriesRead, Publish, ReadPage, Standing
from tidewire_schemas.errors import DatabaseError
from tidewire_schemas.messages import Problem, Replay
from tidewire_schemas.positions import START, Position


class Library(Driver):
    """A driver that answers reads from a log of so many entries, and counts them."""

    reads = 0
    padding = 0

    def serve(self, effects: list[Effect]) -> list[Effect]:
        """Answer reads until none is asked for; all other effects."""
        others: list[Effect] = []
        pending = list(effects)
        while pending:
            effect = pending.pop(0)
            if not isinstance(effect, ReadPage):
                others.append(effect)
                continue
            self.reads += 1
            last = min(self.core.head.seq, effect.after.seq + effect.entries_max)
            found: list[tuple[Position, bytes]] = []
            size = 0
            for entry in entries(effect.after.seq + 1, last, padding=self.padding):
                size += len(entry[1])
                if found and size > effect.bytes_max:
                    break
                found.append(entry)
            pending += self.core.downloads.on_page_read(effect.after, EntriesRead(True, found), self.now)
        return others

    def sent(self) -> list[Effect]:
        return self.serve(self.core.downloads.on_paced_sent(self.now))


def library(head: int, **changes: int) -> Library:
    padding = changes.pop("padding", 0)
    made = Library.make(head=Position(EPOCH, head) if head else START, **changes)
    driver = Library(made.core)
    driver.padding = padding
    return driver


def ranges(answers: list[Replay]) -> list[tuple[int, int, bool]]:
    return [(answer.page.prev.seq, answer.page.end.seq, answer.last) for answer in answers]


def test_a_device_at_the_head_gets_an_empty_last_page() -> None:
    driver = library(0)
    (answer,) = told(driver.ask("a", replay_request()), "a")
    assert (answer.page.entries, answer.page.prev, answer.last) == ([], START, True)
    assert (answer.incarnation, answer.boot) == (INCARNATION, BOOT)


def test_pages_follow_each_other_to_the_head_and_the_last_says_so() -> None:
    """Guarantee 3."""
    driver = library(600, payload_bytes_max=100_000)
    answers = told(driver.serve(driver.ask("a", replay_request())), "a")
    assert ranges(answers) == [(0, 256, False), (256, 512, False), (512, 600, True)]


def test_no_more_pages_than_were_asked_for() -> None:
    driver = library(2000)
    answers = told(driver.serve(driver.ask("a", replay_request(pages=2))), "a")
    assert ranges(answers) == [(0, 256, False), (256, 512, False)]
    answers = told(driver.serve(driver.ask("a", replay_request(Position(EPOCH, 512), pages=1))), "a")
    assert ranges(answers) == [(512, 768, False)]


def test_a_page_fits_in_a_payload() -> None:
    driver = library(100, payload_bytes_max=10_000, padding=3_000)
    effects = driver.serve(driver.ask("a", replay_request(pages=10)))
    assert max(len(effect.payload) for effect in every(Publish, effects)) <= 10_000
    assert ranges(told(effects, "a"))[0] == (0, 2, False)


def test_an_entry_above_a_payload_is_replayed_in_parts_and_counts_as_one_page() -> None:
    driver = library(1, payload_bytes_max=10_000, padding=30_000)
    published = every(Publish, driver.serve(driver.ask("a", replay_request())))
    assert len(published) > 3
    assert [effect.paced for effect in published] == [False] * (len(published) - 1) + [True]


def test_devices_that_come_back_together_cost_little_more_than_one() -> None:
    driver = library(2560, replay_in_flight_max=1000)
    for number in range(50):
        position = Position(EPOCH, number)  # each at another place
        driver.serve(driver.ask(f"device-{number}", replay_request(position, pages=64)))
    assert driver.reads <= 50 + 9


def test_500_devices_that_come_back_at_once_cost_one_read_of_each_page() -> None:
    """Guarantee 12: in the window of sixteen messages and a small cache; each asks for four pages at a time."""
    driver = library(2048, payload_bytes_max=100_000, replay_cache_bytes_max=1024 * 1024)
    at: dict[str, int] = {}
    effects = [effect for n in range(500) for effect in driver.serve(driver.ask(f"d{n}", replay_request(pages=4)))]
    while effects:
        sent = every(Publish, effects)
        assert len(sent) <= 16
        effects = []
        for publish in sent:
            device = publish.topic.split("/")[3]
            at[device] = at.get(device, 0) + 1
            effects += driver.sent()
            if at[device] == 4:
                effects += driver.serve(driver.ask(device, replay_request(Position(EPOCH, 1024))))
    assert len(at) == 500
    assert set(at.values()) == {8}
    assert driver.reads == 8


def test_devices_take_turns() -> None:
    driver = library(2560, replay_in_flight_max=2)
    effects = driver.serve(driver.ask("a", replay_request(pages=10)))
    effects += driver.serve(driver.ask("b", replay_request(pages=10)))
    for _ in range(12):
        effects += driver.sent()
    order = [effect.topic.split("/")[3] for effect in every(Publish, effects)]
    assert len(order) == 14
    for sent in range(2, 14):  # two pages of `a` were on their way when `b` asked
        assert abs(order[2:sent].count("a") - order[2:sent].count("b")) <= 2


def test_only_a_few_pages_are_on_their_way_at_once() -> None:
    """Guarantee 12."""
    driver = library(25_600, replay_in_flight_max=3)
    effects = driver.serve(driver.ask("a", replay_request(pages=64)))
    assert len(every(Publish, effects)) == 3
    assert len(every(Publish, driver.sent())) == 1


def test_one_read_at_a_time_waits_for_the_stream() -> None:
    driver = library(1000)
    only(ReadPage, driver.ask("a", replay_request(Position(EPOCH, 1))))
    assert not every(ReadPage, driver.ask("b", replay_request(Position(EPOCH, 2))))
    effects = driver.core.downloads.on_page_read(Position(EPOCH, 1), EntriesRead(True, entries(2, 256)), driver.now)
    assert {effect.after.seq for effect in every(ReadPage, effects)} <= {2, 256}


def test_a_new_request_replaces_the_one_before() -> None:
    driver = library(2560, replay_in_flight_max=1)
    driver.serve(driver.ask("a", replay_request(pages=10)))
    driver.serve(driver.ask("a", replay_request(Position(EPOCH, 1024), pages=1, boot="9" * 32)))
    (answer,) = told(driver.sent(), "a")
    assert (answer.page.prev.seq, answer.boot) == (1024, "9" * 32)
    assert not told(driver.sent(), "a")


def test_a_checkpoint_of_another_log_is_sent_to_the_handshake() -> None:
    """Guarantee 8."""
    driver = library(1000)
    request = only(ReadPage, driver.ask("a", replay_request(Position(EPOCH + 7, 5))))
    (answer,) = told(driver.core.downloads.on_page_read(request.after, EntriesRead(False, ()), driver.now), "a")
    assert isinstance(answer, Problem)
    assert (answer.code, answer.boot) == ("hello_needed", BOOT)
    assert ranges(told(driver.serve(driver.ask("b", replay_request(pages=1))), "b")) == [(0, 256, False)]


def test_a_checkpoint_ahead_of_the_head_is_sent_to_the_handshake() -> None:
    driver = library(10)
    request = only(ReadPage, driver.ask("a", replay_request(Position(EPOCH, 11))))
    (answer,) = told(driver.core.downloads.on_page_read(request.after, EntriesRead(False, ()), driver.now), "a")
    assert answer.code == "hello_needed"


def test_a_checkpoint_older_than_the_log_is_never_skipped_silently() -> None:
    """Guarantee 3."""
    driver = library(1000, oldest=500)
    (answer,) = told(driver.ask("a", replay_request(Position(EPOCH, 498))), "a")
    assert (answer.code, answer.boot) == ("replay_too_old", BOOT)
    assert only(ReadPage, driver.ask("a", replay_request(Position(EPOCH, 499))))


def test_nor_is_one_from_before_a_column_that_came_back() -> None:
    """Guarantee 6. Its entries would bring cells that the hub has forgotten."""
    driver = library(1000)
    standing = Standing(table_problems=(), on_log=True, accepted=None, recent=(), whole_since=499)
    driver.core.greetings.on_greeted("b", hello(), standing, driver.now)
    (answer,) = told(driver.ask("a", replay_request(Position(EPOCH, 498))), "a")
    assert (answer.code, answer.boot) == ("replay_too_old", BOOT)
    assert only(ReadPage, driver.ask("a", replay_request(Position(EPOCH, 499))))


def test_a_log_that_cannot_be_read_is_said_to_those_who_wait_and_to_nobody_else() -> None:
    """Guarantee 11."""
    driver = library(1000)
    request = only(ReadPage, driver.ask("a", replay_request()))
    driver.ask("b", replay_request(Position(EPOCH, 3)))
    effects = driver.core.downloads.on_read_failed(request.after, DatabaseError("I/O error"), driver.now)
    assert [answer.code for answer in told(effects, "a")] == ["database"]
    assert not told(effects, "b")
    assert only(ReadPage, effects).after.seq == 3


def test_a_lost_connection_ends_all_replays() -> None:
    driver = library(25_600, replay_in_flight_max=2)
    driver.serve(driver.ask("a", replay_request(pages=64)))
    driver.core.on_disconnected(driver.now)
    assert not driver.sent()
    assert not driver.sent()
    assert len(every(Publish, driver.serve(driver.ask("a", replay_request(pages=64))))) == 2


def test_the_page_cache_is_bounded_and_the_newest_page_is_always_sent() -> None:
    """Guarantee 12."""
    driver = library(2560, replay_cache_bytes_max=0, replay_in_flight_max=100)
    answers = told(driver.serve(driver.ask("a", replay_request(pages=20))), "a")
    assert len(answers) == 10
    assert answers[-1].last
