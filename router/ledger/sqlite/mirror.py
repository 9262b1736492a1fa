"""A SQLite store as the durable copy of a ledger elsewhere: the same steps, in its own tables."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from router.errors import ConfigurationError, LedgerCorrupt
from router.ledger import lines
from router.ledger.matching import Amounts, Take
from router.ledger.mirror import Contents, Copied, Event, Kept, Memory, Past, Place, read_draw
from router.ledger.sqlite import steps
from router.ledger.sqlite.accounts import apply_limit, credit
from router.ledger.sqlite.contents import SqliteContents
from router.ledger.sqlite.database import Database, Undo
from router.ledger.sqlite.draws import draw
from router.ledger.store import NotOpen
from router.log.writer import to_json, write_end, write_request
from router.types import Budget, Change

_BUSY_SECONDS = 10.0  # for which a step waits for other writers of the file
_TABLE = """
CREATE TABLE IF NOT EXISTS mirror (  -- what this store is the copy of, and how far it has come
  id         INTEGER PRIMARY KEY CHECK (id = 1),
  ledger     TEXT NOT NULL,
  generation TEXT NOT NULL,
  run        TEXT NOT NULL,
  position   INTEGER NOT NULL
)
"""
_RESERVATIONS = """
SELECT reservation.id, reservation.request_id, number, state, amount, tokens, actual, expires_at,
  accounts, request.status
FROM reservation JOIN request ON request.request_id = reservation.request_id
WHERE state IN ('open', 'expired')
  OR changed >= (SELECT max(changed) FROM reservation) - ?
"""
_ACCOUNT = """
SELECT settled, held, overrun, seen, credited FROM account
WHERE budget = ? AND scope_value = ? AND window_id = ?
"""
_PAST = """
SELECT state, amount, tokens, coalesce(actual, 0), request_id, number, expires_at
FROM reservation WHERE id = ?
"""


class SqliteMirror(SqliteContents):
    """A `router.ledger.mirror.Mirror` in a SQLite file. What it has is taken out of where the
    counters live, so it waits for the disk."""

    def __init__(self, path: str, *, create: bool):
        super().__init__(
            Database(path, durability="full", busy_seconds=_BUSY_SECONDS, create=create)
        )
        try:
            # A call's look-up must not wait until somebody has read the log.
            self._memory = Database(
                path, durability="full", busy_seconds=_BUSY_SECONDS, create=False
            )
        except BaseException:
            self._database.close()
            raise

    def place(self) -> Place | None:
        with self._database.read() as connection:
            return _place(connection)

    def begin(self, place: Place) -> Place:
        with self._database.write() as connection:
            known = _place(connection)
            if known is not None:
                return known
            if connection.execute("SELECT 1 FROM reservation LIMIT 1").fetchone():
                raise ConfigurationError(
                    f"{self.name} is a ledger of its own; name a new file for the log"
                )
            connection.execute(_TABLE)
            _move(connection, place)
        return place

    def apply(self, events: Sequence[Event], run: str) -> None:
        with self._database.write() as connection:
            place = _place(connection)
            if place is None:
                raise LedgerCorrupt(self.name, "it has forgotten whose log it is")
            position = place.position
            for event in events:
                if event.seq <= position:
                    continue  # another process was faster
                if event.seq != position + 1:
                    raise LedgerCorrupt(
                        self.name, f"the steps from {position + 1} to {event.seq - 1} are missing"
                    )
                problem = _do(connection, event, forced=False)
                if problem:
                    raise LedgerCorrupt(
                        self.name, f"step {event.seq} ({event.kind}) comes out otherwise: {problem}"
                    )
                position = event.seq
            _move(connection, Place(place.ledger, place.generation, run, position))

    def force(self, events: Sequence[Event]) -> None:
        with self._database.write() as connection:
            place = _place(connection)
            position = 0 if place is None else place.position
            for event in events:
                if event.kind != "credit" or event.seq > position:  # a credit has no id of its own
                    _do(connection, event, forced=True)

    def memory(
        self,
        reservation_ids: Sequence[str] = (),
        request_id: str | None = None,
        number: int = 0,
        accounts: Iterable[tuple[str, str, str]] = (),
    ) -> Memory:
        with self._memory.read() as connection:
            [position] = connection.execute("SELECT position FROM mirror").fetchone()
            found = {}
            for each in reservation_ids:
                row = connection.execute(_PAST, (each,)).fetchone()
                if row is not None:
                    found[each] = Past(row[0], Amounts(row[1], row[2]), *row[3:])
            copied = {each: _account(connection, each) for each in accounts}
            if request_id is None:
                return Memory(position, found, accounts=copied)
            status = connection.execute(
                "SELECT status FROM request WHERE request_id = ?", (request_id,)
            ).fetchone()
            if status is None:
                return Memory(position, found, accounts=copied)
            taken = connection.execute(
                "SELECT 1 FROM reservation WHERE request_id = ? AND number = ?",
                (request_id, number),
            ).fetchone()
            return Memory(position, found, status[0], taken is not None, copied)

    def contents(self, *, ended_since: float | None = None) -> Contents:
        with self._database.read() as connection:
            place = _place(connection)
            if place is None:
                raise LedgerCorrupt(self.name, "it is not the log of another ledger")
            accounts = connection.execute(
                "SELECT id, meter, budget, scope_value, window_id, settled, held, overrun, seen,"
                " credited FROM account"
            ).fetchall()
            names = {row[0]: (row[2], row[3], row[4]) for row in accounts}
            kept = connection.execute(
                _RESERVATIONS, (-1.0 if ended_since is None else ended_since,)
            ).fetchall()
            return Contents(
                place,
                tuple(Copied(*row[2:]) for row in accounts),
                tuple(connection.execute("SELECT budget, kind, window_id, resets_at FROM clock")),
                tuple(connection.execute("SELECT budget, scope_value, limit_n FROM override")),
                tuple(steps.defined(connection)),
                tuple(_kept(row, names) for row in kept),
            )

    def move(self, place: Place) -> None:
        with self._database.write() as connection:
            _move(connection, place)

    def close(self) -> None:
        self._memory.close()
        super().close()


def _place(connection: sqlite3.Connection) -> Place | None:
    if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'mirror'").fetchone():
        return None
    row = connection.execute("SELECT ledger, generation, run, position FROM mirror").fetchone()
    return None if row is None else Place(*row)


def _account(connection: sqlite3.Connection, which: tuple[str, str, str]) -> Copied:
    row = connection.execute(_ACCOUNT, which).fetchone()
    return Copied(*which, *(row or (0, 0, 0, 0, 0)))


def _move(connection: sqlite3.Connection, place: Place) -> None:
    connection.execute(
        "INSERT OR REPLACE INTO mirror VALUES (1, ?, ?, ?, ?)",
        (place.ledger, place.generation, place.run, place.position),
    )


def _kept(row: tuple[Any, ...], names: dict[int, tuple[str, str, str]]) -> Kept:
    identity, request, number, state, amount, tokens, actual, expires_at, accounts, status = row
    pays = tuple((*names[account], meter) for account, meter in json.loads(accounts))
    return Kept(
        identity, request, number, state, Amounts(amount, tokens), actual, expires_at, pays, status
    )


def _do(connection: sqlite3.Connection, event: Event, *, forced: bool) -> str | None:
    """Do one step; what it came to, where that is not what was done."""
    step = _STEPS.get(event.kind)
    if step is None:
        return "this release knows no such step"
    return step(connection, json.loads(event.payload), forced)


def _hold(connection: sqlite3.Connection, line: list[Any], forced: bool) -> str | None:
    new = lines.hold_of(line)
    try:
        with _savepoint(connection):
            found: object = steps.hold(connection, new, to_json(new.worst_case), checked=not forced)
    except Undo as undo:
        found = undo.result
    return None if found is None else _said(found)


def _end(connection: sqlite3.Connection, line: list[Any], _: bool) -> str | None:
    found = steps.end(connection, lines.ending_of(line))
    return _said(found) if isinstance(found, NotOpen) else None


def _draw(connection: sqlite3.Connection, values: list[Any], _: bool) -> str | None:
    step, state = values
    found = draw(connection, read_draw(step))
    return None if found == state else f"here the lease is {found}, there {state}"


def _expire(connection: sqlite3.Connection, values: list[Any], _: bool) -> str | None:
    now, ids, requests = values
    done = steps.expire(connection, steps.open_among(connection, ids), now)
    if requests:
        steps.expire_requests(connection, now)
    return None if done == len(ids) else f"{done} of {len(ids)} were open"


def _refuse(connection: sqlite3.Connection, row: list[Any], _: bool) -> str | None:
    try:
        with _savepoint(connection):
            write_request(connection, row)
    except sqlite3.IntegrityError:
        return "the request is logged already"
    return None


def _finish(connection: sqlite3.Connection, line: list[Any], _: bool) -> str | None:
    done = write_end(connection, *lines.finish_of(line))
    return None if done else "the request is not logged"


def _define(connection: sqlite3.Connection, budgets: list[Any], _: bool) -> None:
    steps.define(connection, [Budget(*each) for each in budgets])


def _limit(connection: sqlite3.Connection, values: list[Any], forced: bool) -> None:
    budget, scope_value, limit, now, note = values
    apply_limit(connection, budget, scope_value, limit)
    change = Change(budget, scope_value, "limit", limit, now, "", note)
    if forced and change in steps.audit(connection):
        return  # it has no id by which it could be told from its repetition
    steps.enter(connection, budget, scope_value, "LIMIT", limit, now, note)


def _credit(connection: sqlite3.Connection, values: list[Any], _: bool) -> str | None:
    [take, amount, now, note], given = values
    taker = Take(*take)
    found = credit(connection, taker, amount)
    steps.enter(connection, taker.budget, taker.scope_value, "CREDIT", found, now, note)
    return None if found == given else f"{found} were given, there {given}"


_STEPS: dict[str, Callable[[sqlite3.Connection, list[Any], bool], str | None]] = {
    "hold": _hold,
    "end": _end,
    "draw": _draw,
    "expire": _expire,
    "refuse": _refuse,
    "finish": _finish,
    "define": _define,
    "limit": _limit,
    "credit": _credit,
}


@contextmanager
def _savepoint(connection: sqlite3.Connection) -> Iterator[None]:
    """Undo what a failed step wrote, and nothing that was before it."""
    connection.execute("SAVEPOINT step")
    try:
        yield
    except BaseException:
        connection.execute("ROLLBACK TO step")
        raise
    finally:
        connection.execute("RELEASE step")


def _said(found: object) -> str:
    return f"here it is {found}"
