"""Questions of freshness in a session: asked, asked again, answered, given up. No clock, no broker."""

from __future__ import annotations

from math import inf

from support.sessions import BOOT, LIMITS, ME, OTHER, at, feed, live, session, welcome
from tidewire_agent.session.effects import AnswerFresh, AskFresh, RequestReplay
from tidewire_schemas.messages import FreshAnswer
from tidewire_schemas.positions import START, Position

NONCE = "1" * 32


def fresh_answer(head: Position, *, boot: str = BOOT) -> FreshAnswer:
    return FreshAnswer(v=1, type="fresh_answer", incarnation=ME, boot=boot, nonce=NONCE, head=head)


def test_a_question_is_asked_once_and_again_when_no_answer_comes() -> None:
    made = live()
    assert made.ask_fresh([NONCE], 0.0) == [AskFresh(NONCE)]
    assert made.ask_fresh([NONCE], 1.0) == []
    assert made.tick(made.wake_at, 0.0) == [AskFresh(NONCE)]
    answer = fresh_answer(START)
    assert feed(made, answer) == [AnswerFresh(NONCE, START)]
    assert feed(made, answer) == []
    assert made.wake_at == inf


def test_entries_that_only_an_answer_tells_of_are_asked_for_when_they_do_not_come() -> None:
    made = live()
    made.ask_fresh([NONCE], 0.0)
    assert feed(made, fresh_answer(at(4))) == [AnswerFresh(NONCE, at(4))]
    assert RequestReplay(START, LIMITS.replay_pages) in made.tick(made.wake_at, 0.0)


def test_a_question_waits_for_the_handshake_and_is_asked_again_after_it() -> None:
    made = session()
    assert made.ask_fresh([NONCE], 0.0) == []
    made.connected(0.0)
    assert AskFresh(NONCE) in made.welcomed(welcome(), {}, 0.0)
    made.disconnected()
    made.connected(1.0)
    assert AskFresh(NONCE) in made.welcomed(welcome(handshake=made.handshake), {}, 1.0)


def test_open_questions_are_bounded() -> None:
    """Guarantee 12."""
    made = live()
    asked = made.ask_fresh([f"{n:032x}" for n in range(LIMITS.fresh_questions_max + 50)], 0.0)
    assert len(asked) == LIMITS.fresh_questions_max
    assert made.fresh_waits


def test_questions_that_were_taken_back_make_room_for_others() -> None:
    made = session()
    made.ask_fresh([f"{n:032x}" for n in range(LIMITS.fresh_questions_max)], 0.0)
    made.ask_fresh(["f" * 32], 1.0)
    assert not made.fresh_waits
    made.connected(2.0)
    assert [
        effect for effect in made.welcomed(welcome(handshake=made.handshake), {}, 2.0) if isinstance(effect, AskFresh)
    ] == [AskFresh("f" * 32)]


def test_an_answer_for_another_start_is_ignored() -> None:
    made = live()
    made.ask_fresh([NONCE], 0.0)
    assert feed(made, fresh_answer(at(4), boot=OTHER)) == []
