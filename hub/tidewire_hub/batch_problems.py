"""What becomes of batches that did not enter the log: asked for again, or kept for people to see."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

from tidewire_schemas import codec
from tidewire_schemas.errors import TidewireError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tidewire_hub.actions import Now
    from tidewire_hub.sessions import Session
    from tidewire_hub.stream import BatchProblem
    from tidewire_hub.voice import Voice

CHAIN_CODES: Final = ("resend", "fork", "hello_needed")
"""Problems of a device's chain of batches, or of what is known of it, which device and hub solve between them."""


def pass_on(
    voice: Voice, session: Session, problems: Sequence[BatchProblem], payloads: Sequence[bytes], now: Now
) -> bool:
    """Tell a device what the stream said of its batches (`payloads`) in one group; whether any was set aside for good.

    Where its chain broke it is told once per incarnation, though every batch behind the break made the same problem.
    """
    for problem in {(p.incarnation, p.code): p for p in problems if p.code in CHAIN_CODES}.values():
        level: Literal["info", "warning"] = "warning" if problem.code == "fork" else "info"
        voice.report(level, problem.message, device=session.device, code=problem.code)
        voice.complain(
            session,
            problem.code,
            problem.message,
            hint=problem.hint,
            incarnation=problem.incarnation,
            batch=problem.batch,
        )
    unusable = [problem for problem in problems if problem.code not in CHAIN_CODES]
    for problem in unusable:
        if problem.batch is not None:
            # Its chain stands still until it sends these changes in another way.
            voice.complain(
                session,
                problem.code,
                problem.message,
                hint=problem.hint,
                incarnation=problem.incarnation,
                batch=problem.batch,
                retry=problem.retry,
            )
    for payload, code, error in _culprits(unusable, payloads):
        voice.reject(session, voice.up_topic(session.device), payload, error, now, code=code)
    return bool(unusable)


def _culprits(problems: Sequence[BatchProblem], payloads: Sequence[bytes]) -> list[tuple[bytes, str, TidewireError]]:
    """Which of a device's batches could not be used: payload, code, error.

    The stream says the same thing once. To keep each message with its reason, several are parsed again.
    """
    if not problems:
        return []
    if len(payloads) == 1:
        (payload,) = payloads
        return [(payload, p.code, TidewireError(p.message, hint=p.hint)) for p in problems]
    found: list[tuple[bytes, str, TidewireError]] = []
    for payload in payloads:
        try:
            codec.parse_batch(payload, bytes_max=len(payload))
        except TidewireError as error:
            found.append((payload, error.code, error))
    codes = {code for _, code, _ in found}
    found += [(b"", p.code, TidewireError(p.message, hint=p.hint)) for p in problems if p.code not in codes]
    return found
