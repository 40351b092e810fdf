"""One group of batches on its way into the log: parsed, placed, resolved and numbered, in an open state transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from pydantic_core import to_json

from tidewire_hub.catalogue import Catalogue
from tidewire_hub.commit import Acked, BatchProblem, Commit, Incoming
from tidewire_hub.dedupe import Again, Fork, Resend, place_of
from tidewire_hub.effects import effects_of
from tidewire_hub.log.port import StoredEntry
from tidewire_hub.projection import without_forgotten
from tidewire_hub.refusals import lost_by, refusals_of
from tidewire_hub.reoffer import Ranks, what_counts
from tidewire_hub.resolve import resolve
from tidewire_hub.resolve_ops import RowOp
from tidewire_hub.state.plain import plain_runs
from tidewire_hub.state.store import Folded, State
from tidewire_schemas.codec import ParsedBatch, encode_entry, encode_runs, parse_batch
from tidewire_schemas.digest import message_digest
from tidewire_schemas.errors import DatabaseError, MessageError
from tidewire_schemas.messages import Batch, Parent
from tidewire_schemas.names import fold
from tidewire_schemas.positions import Epoch, Position, Seq


class Poisoned(Exception):
    """A batch that cannot become an entry, found half-way: the group is done again without it."""

    def __init__(self, index: int, problem: BatchProblem) -> None:
        super().__init__(problem.message)
        self.index = index
        self.problem = problem


class EntryTooLarge(MessageError):
    """What the hub would have to say about a batch is above what devices take in one message."""

    code = "entry_too_large"
    hint = "write less in one transaction: each refused row travels with the hub's row in its place"

    def __init__(self, *, size: int, limit: int) -> None:
        super().__init__(f"the entry would have {size} bytes, above entry_bytes_max={limit}")


class Sequencer:
    """Makes the entries of one group commit. Writes the state; appending to the log is the caller's."""

    def __init__(
        self,
        state: State,
        *,
        epoch: Epoch,
        head: Position,
        at_ms: int,
        batch_bytes_max: int,
        entry_bytes_max: int,
        position_at: Callable[[Seq], Position | None],
    ) -> None:
        self._position_at: Final = position_at
        self._state: Final = state
        self._epoch: Final = epoch
        self._at_ms: Final = at_ms
        self._batch_bytes_max: Final = batch_bytes_max
        self._entry_bytes_max: Final = entry_bytes_max
        self._head: Final = head.seq
        self._next = head.seq + 1
        self._commit: Final = Commit(head)
        self._problems: Final[dict[BatchProblem, None]] = {}

    def take_all(
        self, incoming: Sequence[Incoming], poisoned: Mapping[int, BatchProblem], enough: Callable[[], bool]
    ) -> Commit:
        """Take every batch in its turn, at least one, until `enough`. Those in `poisoned` (by index) get that problem.

        Raises:
            Poisoned: a batch cannot become an entry; the state must be rolled back.
        """
        for index, item in enumerate(incoming):
            problem = poisoned.get(index)
            if problem is None:
                problem = self._take(index, item)
            if problem is not None:
                self._problems[problem] = None  # once: a gap makes the same one for every batch in flight
            if enough():
                self._commit.left = len(incoming) - index - 1
                break
        self._commit.problems.extend(self._problems)
        return self._commit

    def _take(self, index: int, item: Incoming) -> BatchProblem | None:
        try:
            parsed = parse_batch(item.payload, bytes_max=self._batch_bytes_max)
        except MessageError as error:
            return BatchProblem(item.device, None, error.code, error.message, error.hint, error.retry)
        batch = parsed.batch
        digest = message_digest(item.payload)
        chains = self._state.chains
        newest = chains.newest(item.device, batch.incarnation, 1)
        place = place_of(
            batch,
            digest,
            newest[0] if newest else None,
            point_at=lambda number: chains.at(item.device, batch.incarnation, number),
            parent_of=lambda parent: chains.find(item.device, parent),
        )
        if isinstance(place, Again):
            point = place.point
            self._ack(item.device, batch.incarnation, point.batch, point.digest, Seq(point.seq))
            return None
        if isinstance(place, Resend | Fork):
            return _misplaced(item.device, batch, place)
        if not item.greeted and (unknown := _unknown(batch, self._state.catalogue)) is not None:
            return BatchProblem(
                item.device, batch.incarnation, "hello_needed", f"{unknown} is not known here", "", True, batch.batch
            )
        try:
            self._sequence(item.device, parsed, digest, place.parent)
        except (DatabaseError, sqlite3.OperationalError, MemoryError):
            raise  # the machine's fault, not the batch's
        except EntryTooLarge as error:
            problem = BatchProblem(
                item.device, batch.incarnation, error.code, error.message, error.hint, batch=batch.batch
            )
            raise Poisoned(index, problem) from error
        except Exception as error:  # a fault of this program: it must not stop the other devices
            raise Poisoned(index, _broken(item.device, batch, error)) from error
        return None

    def _sequence(self, device: str, parsed: ParsedBatch, digest: str, parent: Parent | None) -> None:
        """Give a batch the next number, and fold it."""
        batch = parsed.batch
        entry = Folded(
            position=Position(self._epoch, self._next),
            device=device,
            incarnation=batch.incarnation,
            batch=batch.batch,
            digest=digest,
            at=self._at_ms,
            parent=parent,
            was=batch.was,
        )
        self._state.meet(entry)
        plain = None if batch.was else plain_runs(batch.changes, self._state.catalogue)
        if plain is not None and self._state.take_plain(plain, entry):
            self._add(entry, b"[]", parsed.changes_json, b"")
        else:
            self._resolve(entry, parsed)
        self._ack(device, batch.incarnation, batch.batch, digest, Seq(self._next))
        self._next += 1
        self._commit.rows += sum(len(run.rows) for run in batch.changes)

    def _resolve(self, entry: Folded, parsed: ParsedBatch) -> None:
        view = self._state.view()
        life = self._state.life_of(entry)._replace(known_before=self._known_before)
        runs = without_forgotten(parsed.batch.changes, self._state.catalogue)
        overtaken: list[RowOp] = []
        if entry.was is not None:
            ranks = Ranks(entry.was, self._position_at, self._state.offered)
            runs, overtaken = what_counts(runs, self._state.catalogue, view, ranks)
        resolution = resolve(runs, life, self._state.catalogue, view)
        effects = effects_of(resolution.accepted, entry.position.seq, life, view)
        not_taken = [*overtaken, *resolution.refused]
        refused = refusals_of(not_taken, effects, view)
        lost = lost_by(not_taken)
        if resolution.changes is None and runs is parsed.batch.changes:
            changes = parsed.changes_json
        else:
            changes = encode_runs(runs if resolution.changes is None else resolution.changes)
        self._add(entry, to_json(refused), changes, to_json(lost) if lost else b"")
        self._commit.refused += len(refused)
        self._commit.conflicts += self._state.take(effects, view, entry._replace(refused=refused, lost=lost))

    def _known_before(self, seq: int, base: int) -> bool:
        """See `Life`: only a device that stands where the two branches of the log part knows the one that was lost."""
        was = self._state.offered(seq)
        if was is None:
            return False
        after = self._position_at(Seq(base + 1))
        epoch = after.epoch if after is not None else self._epoch if base >= self._head else 0
        return epoch > was.epoch

    def _add(self, entry: Folded, refused_json: bytes, changes_json: bytes, lost: bytes) -> None:
        data = encode_entry(
            seq=entry.position.seq,
            epoch=entry.position.epoch,
            device=entry.device,
            incarnation=entry.incarnation,
            batch=entry.batch,
            digest=entry.digest,
            at=entry.at,
            refused_json=refused_json,
            changes_json=changes_json,
            parent=entry.parent,
            was=entry.was,
        )
        if len(data) > self._entry_bytes_max:
            raise EntryTooLarge(size=len(data), limit=self._entry_bytes_max)
        self._commit.entries.append(StoredEntry(entry.position, data, lost))

    def _ack(self, device: str, incarnation: str, batch: int, digest: str, seq: Seq) -> None:
        self._commit.acks.append(Acked(device, incarnation, batch, digest, seq))


def _unknown(batch: Batch, catalogue: Catalogue) -> str | None:
    """A table or a column of a batch of which no device has told, None where all are known."""
    for run in without_forgotten(batch.changes, catalogue):
        table = catalogue.find(run.table)
        if table is None:
            return f"table {run.table!r}"
        for name in run.columns:
            if fold(name) not in table.columns:
                return f"column {name!r} of table {run.table!r}"
    return None


def _misplaced(device: str, batch: Batch, place: Resend | Fork) -> BatchProblem:
    if isinstance(place, Resend):
        return BatchProblem(
            device,
            batch.incarnation,
            "resend",
            f"batches from {place.batch} on are missing here",
            retry=True,
            batch=place.batch,
        )
    return BatchProblem(
        device,
        batch.incarnation,
        "fork",
        f"the log has another batch {place.batch} of this incarnation, or another one before it",
        hint="say Hello: a copy or an older state of this database wrote under the same incarnation",
        batch=place.batch,
    )


def _broken(device: str, batch: Batch, error: Exception) -> BatchProblem:
    return BatchProblem(
        device,
        batch.incarnation,
        "internal",
        f"batch {batch.batch} could not be resolved: {type(error).__name__}",
        hint="see the hub's log, and report it: this is a fault of Tidewire",
        batch=batch.batch,
    )
