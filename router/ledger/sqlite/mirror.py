"""A SQLite store as the durable copy of a ledger elsewhere: the same steps, in its own tables."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from router.errors import ConfigurationError, LedgerCorrupt
from router.ledger.matching import Amounts, Take
from router.ledger.mirror import (
    Contents,
    Copied,
    Event,
    Kept,
    Place,
    payload,
    read_budget,
    read_draw,
    read_end,
    read_hold,
    request_end,
)
from router.ledger.sqlite import store as steps
from router.ledger.sqlite.accounts import apply_limit, credit
from router.ledger.sqlite.database import Database, Undo
from router.ledger.sqlite.draws import draw
from router.ledger.sqlite.verify import problems
from router.ledger.store import NotOpen
from router.log.reader import SqliteLog
from router.log.writer import to_json, write_end, write_request
from router.types import Change

if TYPE_CHECKING:
    from router.log.base import Log

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


class SqliteMirror:
    """A `router.ledger.mirror.Mirror` in a SQLite file."""

    def __init__(self, path: str, *, durability: str, busy_seconds: float, create: bool):
        self._database = Database(
            path, durability=durability, busy_seconds=busy_seconds, create=create
        )
        self.name = self._database.name

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

    def audit(self) -> list[Change]:
        with self._database.read() as connection:
            return steps.audit(connection)

    def verify(self) -> list[str]:
        with self._database.read() as connection:
            return problems(connection)

    def log(self, drain: Callable[[], object], finish: Callable[[], object]) -> Log:
        return CopiedLog(self._database, drain, finish)

    def close(self) -> None:
        self._database.close()


class CopiedLog(SqliteLog):
    """The log of a copy. `drain` copies what was done until now; `finish`, called by `close`, gives
    back what was opened for this log alone."""

    def __init__(
        self,
        database: Database,
        drain: Callable[[], object],
        finish: Callable[[], object],
    ):
        super().__init__(database, owned=False)
        self._drain, self._finish = drain, finish

    def close(self) -> None:
        self._finish()

    def _page(self, query: str, place: Mapping[str, float | int]) -> list[dict[str, Any]]:
        self._drain()
        return super()._page(query, place)

    def _label(self, request_id: str, score: float, source: str, now: float) -> bool:
        self._drain()
        return super()._label(request_id, score, source, now)


def _place(connection: sqlite3.Connection) -> Place | None:
    if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'mirror'").fetchone():
        return None
    row = connection.execute("SELECT ledger, generation, run, position FROM mirror").fetchone()
    return None if row is None else Place(*row)


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
    values = payload(event)
    if event.kind == "hold":
        return _hold(connection, values, forced)
    if event.kind == "end":
        found: object = steps.end(connection, read_end(values))
        return _said(found) if isinstance(found, NotOpen) else None
    if event.kind == "draw":
        state = draw(connection, read_draw(values))
        return None if state in ("open", "expired") else f"the lease is {state}"
    if event.kind == "expire":
        now, ids, requests = values
        done = steps.expire(connection, steps.open_among(connection, ids), now)
        if requests:
            connection.execute(steps.EXPIRE_REQUESTS, {"now": now})
        return None if done == len(ids) else f"{done} of {len(ids)} were open"
    return _do_other(connection, event.kind, values)


def _hold(connection: sqlite3.Connection, values: Sequence[Any], forced: bool) -> str | None:
    new = read_hold(values)
    with _savepoint(connection):
        try:
            found = steps.hold(connection, new, to_json(new.worst_case), checked=not forced)
        except Undo as undo:
            return _said(undo.result)
    return None if found is None else _said(found)


def _do_other(connection: sqlite3.Connection, kind: str, values: Sequence[Any]) -> str | None:
    if kind == "refuse":
        try:
            with _savepoint(connection):
                write_request(connection, list(values))
        except sqlite3.IntegrityError:
            return "the request is logged already"
    elif kind == "finish":
        request_id, end, now = values
        ended = request_end(end)
        if ended is None or not write_end(connection, request_id, ended, now):
            return "the request is not logged"
    elif kind == "define":
        steps.define(connection, [read_budget(each) for each in values])
    elif kind == "limit":
        budget, scope_value, limit, now, note = values
        apply_limit(connection, budget, scope_value, limit)
        steps.enter(connection, budget, scope_value, "LIMIT", limit, now, note)
    elif kind == "credit":
        take, amount, now, note = Take(*values[0]), *values[1:]
        given = credit(connection, take, amount)
        steps.enter(connection, take.budget, take.scope_value, "CREDIT", given, now, note)
    else:
        return "this release knows no such step"
    return None


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
