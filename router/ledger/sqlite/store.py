"""The store in SQLite: each step is one transaction over counters, reservation, entries and log."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from router.ledger.matching import Take
from router.ledger.sqlite import steps
from router.ledger.sqlite.accounts import apply_limit, credit, read
from router.ledger.sqlite.contents import SqliteContents
from router.ledger.sqlite.database import Database
from router.ledger.sqlite.draws import draw
from router.ledger.store import Counters, Denied, Draw, Ending, Invalid, Known, NewHold, NotOpen
from router.log.writer import to_json, write_end, write_request
from router.types import Budget, RequestEnd

_EXPIRE_AT_ONCE = 200  # reservations a transaction, so that a sweep never blocks others for long


class SqliteStore(SqliteContents):
    """A `router.ledger.store.Store` in one SQLite file, or in memory for `path` None."""

    def __init__(
        self,
        path: str | None,
        *,
        durability: str = "full",
        busy_seconds: float = 10.0,
        create: bool = True,
    ):
        super().__init__(
            Database(path, durability=durability, busy_seconds=busy_seconds, create=create)
        )

    def define(self, budgets: Sequence[Budget]) -> None:
        with self._database.write() as connection:
            steps.define(connection, budgets)

    def hold(self, new: NewHold) -> Denied | Known | Invalid | None:
        fallback = to_json(new.worst_case)
        return self._database.submit(lambda connection: steps.hold(connection, new, fallback))

    def end(self, ending: Ending) -> NotOpen | None:
        return self._database.submit(lambda connection: steps.end(connection, ending))

    def draw(self, step: Draw) -> str:
        return self._database.submit(lambda connection: draw(connection, step))

    def refuse(self, request: list[object]) -> str | None:
        with self._database.write() as connection:
            try:
                write_request(connection, request)
            except sqlite3.IntegrityError:
                [status] = connection.execute(
                    "SELECT status FROM request WHERE request_id = ?", (request[0],)
                ).fetchone()
                return str(status)
        return None

    def finish(self, request_id: str, end: RequestEnd, now: float) -> bool:
        with self._database.write() as connection:
            return write_end(connection, request_id, end, now)

    def expire(self, now: float) -> int:
        total = expired = self._expire_some(now)
        while expired == _EXPIRE_AT_ONCE:
            expired = self._expire_some(now)
            total += expired
        with self._database.write() as connection:
            steps.expire_requests(connection, now)
        return total

    def _expire_some(self, now: float) -> int:
        with self._database.write() as connection:
            return steps.expire(connection, steps.past_due(connection, now, _EXPIRE_AT_ONCE), now)

    def read(self, takes: Sequence[Take]) -> list[Counters]:
        with self._database.read() as connection:
            return [read(connection, take) for take in takes]

    def defined(self) -> list[Budget]:
        with self._database.read() as connection:
            return steps.defined(connection)

    def set_limit(
        self, budget: str, scope_value: str | None, limit: int | None, now: float, note: str
    ) -> None:
        with self._database.write() as connection:
            apply_limit(connection, budget, scope_value, limit)
            steps.enter(connection, budget, scope_value, "LIMIT", limit, now, note)

    def credit(self, take: Take, amount: int, now: float, note: str) -> int:
        with self._database.write() as connection:
            given = credit(connection, take, amount)
            steps.enter(connection, take.budget, take.scope_value, "CREDIT", given, now, note)
        return given
