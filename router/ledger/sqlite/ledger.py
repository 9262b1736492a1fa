"""The ledger in SQLite: each step is one transaction over budgets, reservation, entries and log."""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Mapping, Sequence

from router.errors import ReservationError
from router.ledger.sqlite.budgets import all_states, checked, define, matching, state, take
from router.ledger.sqlite.database import Database
from router.ledger.sqlite.verify import problems
from router.log.reader import SqliteLog
from router.log.writer import (
    attempt_values,
    has_request,
    request_values,
    to_json,
    write_attempt,
    write_end,
    write_request,
)
from router.money import MAX_NANO
from router.types import AttemptRow, Budget, BudgetState, Hold, RequestEnd, RequestRow, Room

_EXPIRE_AT_ONCE = 200  # reservations a transaction, so that a sweep never blocks others for long

_FIND = """
SELECT seq, state, amount, actual, accounts, request_id, number FROM reservation WHERE id = ?
"""
_END = """
UPDATE reservation SET state = ?, actual = ?, worst_case = NULL WHERE seq = ?
"""
_CHARGE = """
UPDATE account SET held = held - ?, settled = settled + ?, overrun = overrun + ?
WHERE id IN (SELECT value FROM json_each(?))
"""
# A request whose process died between two attempts has no open reservation, only old ones.
_EXPIRE_REQUESTS = """
UPDATE request SET status = 'expired', ended = :now, error = 'the process ended'
WHERE status = 'open' AND NOT EXISTS (
  SELECT 1 FROM reservation
  WHERE reservation.request_id = request.request_id AND reservation.expires_at > :now)
"""


class SqliteLedger:
    """A `router.ledger.Ledger` in one SQLite file, or in memory for `path` None."""

    def __init__(
        self,
        path: str | None,
        budgets: Sequence[Budget],
        *,
        durability: str = "full",
        busy_seconds: float = 10.0,
        create: bool = True,
    ):
        self._budgets = checked(budgets)
        self._database = Database(
            path, durability=durability, busy_seconds=busy_seconds, create=create
        )
        if create or budgets:  # a store that cannot be written is refused now, not at a call
            try:
                with self._database.write() as connection:
                    define(connection, self._budgets)
            except BaseException:
                self.close()
                raise

    def room(self, scopes: Mapping[str, str], now: float) -> Room:
        pairs = matching(self._budgets, scopes)
        if not pairs:
            return Room()
        with self._database.read() as connection:
            return Room(tuple(state(connection, budget, value, now) for budget, value in pairs))

    def reserve(
        self,
        reservation_id: str,
        amount: int,
        *,
        scopes: Mapping[str, str],
        now: float,
        expires_at: float,
        worst_case: AttemptRow,
        request: RequestRow | None,
    ) -> Hold:
        _check_reserve(reservation_id, amount, now, expires_at, worst_case, request)
        pairs = matching(self._budgets, scopes)
        fallback = to_json(attempt_values(worst_case))
        first = None if request is None else request_values(request)
        with self._database.write() as connection:
            known = connection.execute(
                "SELECT state, amount, expires_at FROM reservation WHERE id = ?", (reservation_id,)
            ).fetchone()
            if known is not None:
                return _repeated(reservation_id, amount, *known)
            accounts = [take(connection, budget, value, amount, now) for budget, value in pairs]
            try:
                seq = connection.execute(
                    "INSERT INTO reservation (id, request_id, number, state, amount, expires_at,"
                    " accounts, worst_case) VALUES (?, ?, ?, 'open', ?, ?, ?, ?)",
                    (
                        reservation_id,
                        worst_case.request_id,
                        worst_case.number,
                        amount,
                        expires_at,
                        json.dumps(accounts),
                        fallback,
                    ),
                ).lastrowid
                if first is not None:
                    write_request(connection, first)
                elif not has_request(connection, worst_case.request_id):
                    raise ReservationError(
                        reservation_id, "new", "a first attempt must bring its request's row"
                    )
            except sqlite3.IntegrityError as error:
                raise ReservationError(
                    reservation_id, "new", f"its request or attempt number is taken ({error})"
                ) from error
            _enter(connection, seq, "HOLD", amount, now)
        return Hold(reservation_id, amount, expires_at)

    def settle(
        self, reservation_id: str, row: AttemptRow, end: RequestEnd | None, now: float
    ) -> None:
        self._end(reservation_id, row, row.cost or 0, end, now, billed=True)

    def release(
        self, reservation_id: str, row: AttemptRow, end: RequestEnd | None, now: float
    ) -> None:
        if row.cost:
            raise ReservationError(
                reservation_id, "open", f"a released attempt costs 0, not {row.cost}; settle it"
            )
        self._end(reservation_id, row, 0, end, now, billed=False)

    def refuse(self, row: RequestRow) -> None:
        values = request_values(row)
        with self._database.write() as connection:
            try:
                write_request(connection, values)
            except sqlite3.IntegrityError:
                [status] = connection.execute(
                    "SELECT status FROM request WHERE request_id = ?", (row.request_id,)
                ).fetchone()
                if status != row.status:  # the same refusal again is a lost reply
                    raise ReservationError(
                        row.request_id, status, "the request is in the log already; finish it"
                    ) from None

    def finish(self, request_id: str, end: RequestEnd, now: float) -> None:
        with self._database.write() as connection:
            if not write_end(connection, request_id, end, now):
                raise ReservationError(request_id, "unknown", "no such request is in the log")

    def expire(self, now: float) -> int:
        total = expired = self._expire_some(now)
        while expired == _EXPIRE_AT_ONCE:
            expired = self._expire_some(now)
            total += expired
        with self._database.write() as connection:
            connection.execute(_EXPIRE_REQUESTS, {"now": now})
        return total

    def _expire_some(self, now: float) -> int:
        with self._database.write() as connection:
            rows = connection.execute(
                "SELECT seq, amount, accounts, worst_case FROM reservation"
                " WHERE state = 'open' AND expires_at <= ? ORDER BY expires_at LIMIT ?",
                (now, _EXPIRE_AT_ONCE),
            ).fetchall()
            for seq, amount, accounts, worst_case in rows:
                connection.execute(_END, ("expired", amount, seq))
                connection.execute(_CHARGE, (amount, amount, 0, accounts))
                _enter(connection, seq, "EXPIRE", amount, now)
                write_attempt(connection, json.loads(worst_case))
        return len(rows)

    def states(self, now: float) -> list[BudgetState]:
        with self._database.read() as connection:
            return all_states(connection, now)

    def verify(self) -> list[str]:
        with self._database.read() as connection:
            return problems(connection)

    def log(self) -> SqliteLog:
        return SqliteLog(self._database, owned=False)

    def close(self) -> None:
        self._database.close()

    def _end(
        self,
        reservation_id: str,
        row: AttemptRow,
        actual: int,
        end: RequestEnd | None,
        now: float,
        *,
        billed: bool,
    ) -> None:
        _check_amount(reservation_id, actual)
        values = attempt_values(row)
        with self._database.write() as connection:
            found = connection.execute(_FIND, (reservation_id,)).fetchone()
            if found is None:
                raise ReservationError(reservation_id, "unknown", "it was never reserved here")
            seq, state, amount, booked, accounts, request_id, number = found
            if (row.request_id, row.number) != (request_id, number):
                raise ReservationError(
                    reservation_id, state, f"it is for attempt {number} of request {request_id}"
                )
            if state not in ("open", "expired"):
                if booked == actual:
                    return  # asked again after a lost reply
                raise ReservationError(
                    reservation_id, state, f"it ended at {booked} nano-USD, so not at {actual}"
                )
            overrun = max(0, actual - amount)
            if state == "open":
                after, kind = ("settled", "POST") if billed else ("released", "VOID")
                connection.execute(_CHARGE, (amount, actual, overrun, accounts))
                _enter(connection, seq, kind, actual, now)
            else:
                after = "corrected"
                connection.execute(_CHARGE, (0, actual - amount, overrun, accounts))
                _enter(connection, seq, "CORRECT", actual - amount, now)
            if overrun:
                _enter(connection, seq, "OVERRUN", overrun, now)
            connection.execute(_END, (after, actual, seq))
            write_attempt(connection, values)
            if end is not None:
                write_end(connection, request_id, end, now)


def _enter(
    connection: sqlite3.Connection, seq: int | None, kind: str, amount: int, now: float
) -> None:
    connection.execute(
        "INSERT INTO entry (reservation, kind, amount, time) VALUES (?, ?, ?, ?)",
        (seq, kind, amount, now),
    )


def _repeated(reservation_id: str, amount: int, state: str, held: int, expires_at: float) -> Hold:
    """Answer a reservation that exists already: the reply to the first asking may be lost."""
    if held != amount:
        raise ReservationError(reservation_id, state, f"it holds {held} nano-USD, not {amount}")
    if state != "open":
        raise ReservationError(reservation_id, state, "it has ended; a new attempt needs a new id")
    return Hold(reservation_id, held, expires_at)


def _check_reserve(
    reservation_id: str,
    amount: int,
    now: float,
    expires_at: float,
    worst_case: AttemptRow,
    request: RequestRow | None,
) -> None:
    _check_amount(reservation_id, amount)
    if worst_case.cost != amount and not (worst_case.cost is None and amount == 0):
        problem = f"its worst case costs {worst_case.cost}, and must cost its amount, {amount}"
    elif not math.isfinite(expires_at) or expires_at <= now:
        problem = f"expires_at {expires_at} must be after now, {now}"
    elif request is not None and request.request_id != worst_case.request_id:
        problem = f"request {request.request_id!r} is not its attempt's, {worst_case.request_id!r}"
    else:
        return
    raise ReservationError(reservation_id, "new", problem)


def _check_amount(reservation_id: str, amount: int) -> None:
    if type(amount) is not int or not 0 <= amount <= MAX_NANO:
        raise ReservationError(
            reservation_id, "new", f"{amount!r} is not an amount of nano-USD from 0 to 2**53"
        )
