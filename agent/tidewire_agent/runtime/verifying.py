"""Verifications at work: performs the steps of `session/verification.py`, for whoever asked in the file and by itself.

One at a time. Sealing, applying and sending go on meanwhile: a table is scanned on a thread and a connection of its
own.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from math import inf
from typing import Final

from tidewire_agent.errors import DatabaseNotUsable
from tidewire_agent.runtime.patient_database import PatientDatabase
from tidewire_agent.runtime.session_shell import SessionShell
from tidewire_agent.runtime.troubles import BROKER, Troubles
from tidewire_agent.runtime.verify_findings import VerifyFindings
from tidewire_agent.session import complaints
from tidewire_agent.session.effects import Trouble
from tidewire_agent.session.states import FOLLOWING, State
from tidewire_agent.session.verification import Bounds, Wish, verification
from tidewire_agent.session.verify_steps import (
    AskHub,
    ListTables,
    NoAnswer,
    ReadRows,
    RepairRows,
    Result,
    Scan,
    ScanTable,
    Step,
)
from tidewire_agent.settings import AgentSettings
from tidewire_agent.store.verify import scan
from tidewire_agent.store.verify_questions import VerifyQuestion
from tidewire_agent.verify_report import VerifyReport, told
from tidewire_link.errors import SubscriptionDenied
from tidewire_schemas import verification as wire
from tidewire_schemas.errors import DatabaseError
from tidewire_schemas.verification import VerifyAnswer, VerifyRequest

ROWS_DIFFER: Final = "rows_differ"
"""Code of the problem that says that rows are not as the log says."""

_KEEPS_FROM_ASKING: Final = frozenset({BROKER, SubscriptionDenied.code, *complaints.SOLVED_BY_WELCOME})
"""Codes of problems that are in the way of a handshake."""

ORDERS_MAX: Final = 16
"""Comparisons asked for at the hub that may wait."""

_ASKED_TIMES: Final = 3
"""How often a question is asked that gets no answer."""

_LOOK_S: Final = 0.05
"""How often to look whether what is waited for is there."""

_LEVEL_WAIT_S: Final = 2.0
"""How long to wait for entries that the hub's answer counts in: without them there are more rows to look at."""

_log = logging.getLogger("tidewire.agent")


class Verifications:
    """Compares the rows of one database with the hub's, now and then and when somebody asks.

    Args:
        report_changed: called when there is a new `report`.
    """

    def __init__(
        self,
        settings: AgentSettings,
        database: PatientDatabase,
        shell: SessionShell,
        troubles: Troubles,
        *,
        report_changed: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._database = database
        self._shell = shell
        self._troubles = troubles
        self._report_changed = report_changed
        self._path = settings.db.resolve()
        self._bounds = Bounds(rows_max=settings.verify_rows_max, listed_max=settings.verify_listed_max)
        self._news = asyncio.Event()
        self._ended = threading.Event()
        self._nonces: set[str] = set()
        self._orders: deque[wire.VerifyNow] = deque()
        self._answer: asyncio.Future[VerifyAnswer] | None = None
        self._findings = VerifyFindings()
        self.report: VerifyReport | None = None
        """What is known of all tables, since the last one."""

    def asked(self, questions: Sequence[VerifyQuestion]) -> None:
        """There are questions in the file."""
        if questions:
            self._news.set()

    def take(self, message: VerifyAnswer | wire.VerifyNow) -> None:
        """The hub has sent something for verifications."""
        if isinstance(message, VerifyAnswer):
            self._answered(message)
        else:
            self._ordered(message)

    def _ordered(self, order: wire.VerifyNow) -> None:
        """A person at the hub wants a comparison. Where many wait, the newest are let be: they may ask again."""
        if order not in self._orders and len(self._orders) < ORDERS_MAX:
            self._orders.append(order)
            self._news.set()

    def _answered(self, answer: VerifyAnswer) -> None:
        """The hub says what rows it holds."""
        ours = answer.boot == self._shell.boot and answer.nonce in self._nonces
        if ours and self._answer is not None and not self._answer.done():
            self._answer.set_result(answer)

    async def run(self) -> None:
        """Work until cancelled."""
        try:
            interval_s = self._settings.verify_interval_s or inf
            due = time.monotonic() + interval_s * random.random()  # devices that start together do not verify together
            while True:
                await self._until(due)
                question = await self._question()
                if question is not None:
                    report = await self._verify(Wish(question.tables, question.repair))
                    await self._tell(question, report)
                elif self._orders:
                    report = await self._verify(Wish(self._orders[0].tables))
                    nonce = self._orders.popleft().nonce
                    self._shell.tell_hub(told(report, nonce, self._shell.incarnation, self._shell.boot))
                elif time.monotonic() >= due:
                    due = time.monotonic() + interval_s
                    await self._verify(Wish())
        finally:
            self._ended.set()

    async def _until(self, due: float) -> None:
        """Until there is a question, or it is time."""
        while not self._news.is_set() and time.monotonic() < due:
            try:
                async with asyncio.timeout(min(due - time.monotonic(), self._settings.verify_timeout_s)):
                    await self._news.wait()
            except TimeoutError:
                pass

    async def _tell(self, question: VerifyQuestion, report: VerifyReport) -> None:
        await self._database.run(lambda store: store.questions.answer(question.nonce, report))

    async def _question(self) -> VerifyQuestion | None:
        self._news.clear()
        waiting = await self._database.run(lambda store: store.questions.open())
        if len(waiting) + len(self._orders) > 1:
            self._news.set()
        return waiting[0] if waiting else None

    # ── one verification ──────────────────────────────────────────────────────────────────────────────────────────

    async def _verify(self, wish: Wish) -> VerifyReport:
        position = self._shell.position
        work = verification(wish, self._bounds)
        step = next(work)
        while True:
            result = await self._perform(step)
            try:
                step = work.send(result)
            except StopIteration as end:
                found = end.value
                break
        at = int(time.time() * 1000)
        report = VerifyReport(at=at, position=position, tables=tuple(found.tables), problem=found.problem)
        self._say(report, of_all=not wish.tables)
        return report

    def _say(self, report: VerifyReport, *, of_all: bool) -> None:
        for table in report.tables:
            level = logging.WARNING if table.differing else logging.INFO
            _log.log(
                level,
                "verified table %s: %d rows, %d differ, %d repaired, %d wait, %d unsettled%s",
                table.table,
                table.rows,
                table.differing,
                table.repaired,
                table.pending,
                table.unsettled,
                f": {table.problem}" if table.problem else "",
            )
        self.report = self._findings.take(report, of_all=of_all)
        wrong = self._findings.differing
        if wrong:
            count, tables = sum(table.wrong for table in wrong), ", ".join(table.table for table in wrong)
            text = f"{count} rows are not as the log says, in {tables}"
            self._troubles.say(Trouble(ROWS_DIFFER, text, "`tidewire-agent verify` lists them, `--repair` mends them"))
        else:
            self._troubles.clear(ROWS_DIFFER)
        self._report_changed()

    async def _perform(self, step: Step) -> Result:
        match step:
            case ListTables(tables):
                return await self._database.run(lambda store: store.verifier.subjects(tables))
            case AskHub():
                return await self._ask(step)
            case ScanTable():
                return await self._scan(step)
            case ReadRows(subject, keys):
                return await self._database.run(lambda store: store.verifier.read(subject, keys))
            case RepairRows(subject, position, repairs):
                return await self._database.run(lambda store: store.verifier.repair(subject, position, repairs))

    async def _ask(self, step: AskHub) -> VerifyAnswer | NoAnswer:
        settled = FOLLOWING | {State.HALTED}  # a person must decide: no use in waiting
        await self._within(self._settings.verify_timeout_s, lambda: self._shell.state in settled)
        if self._shell.state not in FOLLOWING:
            return NoAnswer(self._why_not())
        self._nonces.clear()
        self._answer = asyncio.get_running_loop().create_future()
        for _ in range(_ASKED_TIMES):
            nonce = secrets.token_hex(16)
            self._nonces.add(nonce)  # an answer to the same question, asked before, will do
            self._shell.tell_hub(self._request(step, nonce))
            done, _ = await asyncio.wait([self._answer], timeout=self._settings.verify_timeout_s)
            if done:
                return self._answer.result()
        return NoAnswer("the hub did not answer" if self._shell.state in FOLLOWING else self._why_not())

    def _why_not(self) -> str:
        """Why the hub cannot be asked."""
        reasons = [str(trouble) for trouble in self._troubles.all if trouble.code in _KEEPS_FROM_ASKING]
        state = self._shell.state.value
        return f"the agent is {state}: {'; '.join(reasons) or 'it waits for the hub'}"

    def _request(self, step: AskHub, nonce: str) -> VerifyRequest:
        subject = step.subject
        return VerifyRequest(
            incarnation=self._shell.incarnation,
            boot=self._shell.boot,
            nonce=nonce,
            table=subject.table,
            columns=subject.columns,
            key=subject.key,
            ranges=step.ranges,
            rows=list(step.rows),
        )

    async def _scan(self, step: ScanTable) -> Scan | None:
        await self._within(_LEVEL_WAIT_S, lambda: self._shell.position.seq >= step.after.seq)
        table = await self._database.run(lambda store: store.verifier.table(step.subject))
        if table is None:
            return None
        rows_max = self._settings.verify_rows_max
        try:
            return await asyncio.to_thread(scan, self._path, table, step, rows_max=rows_max, rest=self._rest)
        except DatabaseError as error:
            _log.info("cannot compare table %s: %s", table.name, error)
            return None

    def _rest(self, seconds: float) -> None:
        """On the scanning thread."""
        if self._ended.wait(seconds):
            raise DatabaseNotUsable("the agent is stopping")

    async def _within(self, seconds: float, there: Callable[[], bool]) -> bool:
        """Whether it is there within so many seconds."""
        end = time.monotonic() + seconds
        while not there():  # nothing tells of it
            if time.monotonic() > end:
                return False
            await asyncio.sleep(_LOOK_S)
        return True
