"""Which Welcome a session takes: the one that answers what it said last, of the tables that it has told."""

from __future__ import annotations

from typing import Final

from support.sessions import BOOT, EPOCH, LOG, ME, welcome
from tidewire_agent.session.effects import ApplyPage, BeginLoad, RequestReplay, RequestSnapshot, SendHello
from tidewire_agent.session.session import Session
from tidewire_agent.session.standing import Standing
from tidewire_agent.session.states import State
from tidewire_agent.settings import AgentSettings
from tidewire_schemas.messages import Entry, Page, Welcome
from tidewire_schemas.positions import Position
from tidewire_schemas.snapshots import Snapshot

LIMITS: Final = AgentSettings.of(db="unused.db").session_limits()
HERE: Final = Position(EPOCH, 5)
HEAD: Final = Position(EPOCH, 9)


def stands(told: int) -> Standing:
    return Standing(ME, LOG, EPOCH, HERE, 0, told=told)


def answer(handshake: int, *, oldest: int = 1) -> Welcome:
    return welcome(HEAD, handshake=handshake).model_copy(update={"oldest": oldest})


def asking() -> Session:
    """A session that has said Hello, which told the hub tables for the first time."""
    made = Session(LIMITS, BOOT, stands(told=0))
    made.connected(0.0)
    made.introduced(stands(told=1), 0.0)
    return made


def page() -> Page:
    entry = Entry(seq=6, epoch=EPOCH, device="x", incarnation=ME, batch=1, digest=ME, at=0, refused=[], changes=[])
    return Page(log=LOG, prev=HERE, entries=[entry])


def test_of_two_hellos_with_other_tables_only_the_answer_to_the_second_counts() -> None:
    """Guarantee 7. A column of the second did not count when the first was answered: entries have cells of it that the
    hub has forgotten, and only the second answer tells not to take them."""
    made = asking()
    first = made.handshake
    assert SendHello() in made.reintroduce(stands(told=1), 0.1)
    made.introduced(stands(told=2), 0.1)
    assert (made.welcomed(answer(first), {}, 0.2), made.state) == ([], State.HANDSHAKING)
    effects = made.welcomed(answer(made.handshake, oldest=HEAD.seq + 1), {}, 0.3)
    assert made.state is State.LOADING
    assert any(isinstance(effect, RequestSnapshot) for effect in effects)
    assert not any(isinstance(effect, RequestReplay) for effect in effects)


def test_an_answer_that_comes_before_the_second_hello_is_read_from_the_file_does_not_count() -> None:
    made = asking()
    first = made.handshake
    made.reintroduce(stands(told=1), 0.1)
    assert made.welcomed(answer(first), {}, 0.2) == []
    assert made.state is State.HANDSHAKING


def test_the_answer_to_a_hello_that_was_only_said_again_counts_whichever_of_them_it_answers() -> None:
    made = asking()
    assert SendHello() in made.tick(made.wake_at, 0.0)
    made.introduced(stands(told=1), 20.0)
    assert made.handshake == 1
    made.welcomed(answer(1), {}, 20.1)
    assert made.state is State.CATCHING_UP
    assert made.welcomed(answer(1), {}, 20.2) == []  # the other one comes, too


def test_a_hello_that_tells_other_tables_after_a_welcome_was_taken_puts_that_in_doubt() -> None:
    """It was to be said once more, and read its tables only when the answer to the one before was there."""
    made = asking()
    made.tick(made.wake_at, 0.0)
    made.welcomed(answer(1), {}, 20.0)
    effects = made.introduced(stands(told=2), 20.1)
    assert (SendHello() in effects, made.state) == (True, State.HANDSHAKING)
    assert made.welcomed(answer(1), {}, 20.2) == []
    made.welcomed(answer(made.handshake), {}, 20.3)
    assert made.state is State.CATCHING_UP


def test_a_hello_with_the_same_tables_after_a_welcome_was_taken_changes_nothing() -> None:
    made = asking()
    made.tick(made.wake_at, 0.0)
    made.welcomed(answer(1), {}, 20.0)
    assert made.introduced(stands(told=1), 20.1) == []
    assert (made.state, made.handshake) == (State.CATCHING_UP, 1)


def test_an_answer_from_before_the_connection_was_lost_does_not_count() -> None:
    made = asking()
    made.disconnected()
    made.connected(1.0)
    assert made.welcomed(answer(1), {}, 1.1) == []
    assert made.state is State.HANDSHAKING


def test_a_hub_that_does_not_say_which_hello_it_answers_is_not_followed() -> None:
    made = asking()
    assert made.welcomed(answer(0), {}, 0.1) == []
    assert made.state is State.HANDSHAKING


def test_pages_are_applied_to_the_tables_that_the_hub_was_told() -> None:
    made = asking()
    made.welcomed(answer(1), {}, 0.1)
    assert ApplyPage(page(), told=1) in made.received(page(), 1, 0.2, 0.0)


def test_a_snapshot_that_the_present_welcome_does_not_lead_on_from_is_not_begun() -> None:
    """It was asked for in an earlier conversation."""
    made = asking()
    made.welcomed(answer(1, oldest=HEAD.seq + 1), {}, 0.1)
    for seq, begins in ((8, False), (9, True)):
        manifest = Snapshot(
            incarnation=ME,
            boot=BOOT,
            snapshot=LOG,
            log=LOG,
            position=Position(EPOCH, seq),
            chunks=0,
            bytes=0,
            tables=(),
        )
        effects = made.received(manifest, 1, 0.2, 0.0)
        assert any(isinstance(effect, BeginLoad) for effect in effects) is begins
        assert made.state is State.LOADING
