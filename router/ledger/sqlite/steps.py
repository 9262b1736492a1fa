"""The steps of a SQLite store, each in the transaction under way.

Most of a step's time goes into statements, so there are few: counters are looked up by a budget's
latest window, entries are written by triggers.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from router.ledger.matching import Amounts
from router.ledger.sqlite.accounts import CHARGE, find, open_account, open_window
from router.ledger.sqlite.database import Undo
from router.ledger.store import Denied, Ending, Invalid, Known, NewHold, NotOpen
from router.log.writer import has_request, to_json, write_attempt, write_end, write_request
from router.types import Budget, Change, Meter, allowed

_HOLD = """
UPDATE account SET held = held + ?, seen = seen + 1, limit_n = ? WHERE id = ?
"""
_RESERVE = """
INSERT INTO reservation
  (id, request_id, number, state, amount, tokens, expires_at, changed, accounts, worst_case)
VALUES (?, ?, ?, 'open', ?, ?, ?, ?, ?, ?)
"""
_END = """
UPDATE reservation SET state = ?, actual = ?, actual_tokens = coalesce(?, tokens),
  actual_requests = ?, changed = ?, worst_case = NULL
WHERE id = ? AND state = 'open' AND request_id = ? AND number = ?
RETURNING amount, tokens, actual_tokens, accounts
"""
_CORRECT = """
UPDATE reservation SET state = 'corrected', actual = ?, actual_tokens = coalesce(?, tokens),
  actual_requests = ?, changed = ?
WHERE id = ? AND state = 'expired' RETURNING amount, tokens, actual_tokens, accounts
"""
_EXPIRE = """
UPDATE reservation SET state = 'expired', actual = amount, actual_tokens = tokens,
  actual_requests = 1, changed = ?, worst_case = NULL WHERE seq = ?
"""
# A request whose process died between two attempts has no open reservation, only old ones.
_EXPIRE_REQUESTS = """
UPDATE request SET status = 'expired', ended = :now, error = 'the process ended'
WHERE status = 'open' AND NOT EXISTS (
  SELECT 1 FROM reservation
  WHERE reservation.request_id = request.request_id AND reservation.expires_at > :now)
"""
_OPEN = """
SELECT seq, amount, tokens, accounts, worst_case FROM reservation WHERE state = 'open'
"""
_BUDGET = """
name, limit_n, window, zone, scope, on_exceed, meter, value, seconds, purpose, conditions
"""


def define(connection: sqlite3.Connection, budgets: Sequence[Budget]) -> None:
    """Write down budgets in the place of those of their names."""
    rows = [
        (
            *(b.name, b.limit, b.window, b.zone, b.scope, b.on_exceed),
            *(b.meter, b.value, b.seconds, b.purpose, json.dumps(b.when)),
        )
        for b in budgets
    ]
    connection.executemany(
        f"INSERT OR REPLACE INTO budget ({_BUDGET}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows
    )


def defined(connection: sqlite3.Connection) -> list[Budget]:
    """The budgets that were written down, by name."""
    rows = connection.execute(f"SELECT {_BUDGET} FROM budget ORDER BY name").fetchall()
    return [
        replace(Budget(*row[:-1]), when=tuple((name, value) for name, value in json.loads(row[-1])))
        for row in rows
    ]


def hold(
    connection: sqlite3.Connection, new: NewHold, fallback: str, *, checked: bool = True
) -> Denied | Known | Invalid | None:
    """Hold the takes' amounts, all or none; `checked` False holds above a limit too."""
    found = [find(connection, take) for take in new.takes]
    for position, (take, account) in enumerate(zip(new.takes, found, strict=True)):
        limit = take.limit if account.limit is None else account.limit
        if not checked or not take.amount or limit is None or limit < 0:
            continue
        used = account.settled + account.held
        if used + take.amount > allowed(take.meter, limit, account.seen):
            return known(connection, new.reservation_id) or Denied(
                position,
                account.settled,
                account.held,
                limit,
                account.seen,
                account.window_id,
                account.resets_at,
                account.oldest,
            )
    ids = []
    for take, account in zip(new.takes, found, strict=True):
        if not account.is_latest:
            open_window(connection, take)
        ids.append(account.id or open_account(connection, take))
    paying = [
        (identity, take.meter)
        for take, identity in zip(new.takes, ids, strict=True)
        if take.amount or take.meter != "share"
    ]
    try:
        connection.execute(
            _RESERVE,
            (
                new.reservation_id,
                new.request_id,
                new.number,
                new.amounts.usd,
                new.amounts.tokens,
                new.expires_at,
                new.now,
                to_json(paying),
                fallback,
            ),
        )
    except sqlite3.IntegrityError as error:
        taken = Invalid(f"its request or attempt number is taken ({error})")
        raise Undo(known(connection, new.reservation_id) or taken) from error
    connection.executemany(
        _HOLD,
        [
            (take.amount, account.admitted_under(take), identity)
            for take, account, identity in zip(new.takes, found, ids, strict=True)
        ],
    )
    if new.request is not None:
        try:
            write_request(connection, new.request)
        except sqlite3.IntegrityError as error:
            raise Undo(Invalid(f"its request or attempt number is taken ({error})")) from error
    elif not has_request(connection, new.request_id):
        raise Undo(Invalid("a first attempt must bring its request's row"))
    return None


def known(connection: sqlite3.Connection, reservation_id: str) -> Known | None:
    """The reservation of this id, None where there is none."""
    row = connection.execute(
        "SELECT state, amount, tokens, expires_at FROM reservation WHERE id = ?", (reservation_id,)
    ).fetchone()
    return row and Known(row[0], Amounts(row[1], row[2]), row[3])


def past_due(connection: sqlite3.Connection, now: float, most: int) -> list[tuple[Any, ...]]:
    """What `expire` needs of open reservations past their time, the oldest first."""
    return connection.execute(
        f"{_OPEN} AND expires_at <= ? ORDER BY expires_at LIMIT ?", (now, most)
    ).fetchall()


def open_among(connection: sqlite3.Connection, ids: Iterable[str]) -> list[tuple[Any, ...]]:
    """What `expire` needs of those of these reservations that are open."""
    rows = [connection.execute(f"{_OPEN} AND id = ?", (each,)).fetchone() for each in ids]
    return [row for row in rows if row is not None]


def expire(connection: sqlite3.Connection, rows: Sequence[tuple[Any, ...]], now: float) -> int:
    """Charge open reservations in full; return how many there were."""
    for seq, amount, tokens, accounts, worst_case in rows:
        connection.execute(_EXPIRE, (now, seq))
        whole = Amounts(amount, tokens)
        _charge(connection, accounts, held=whole, actual=whole, reserved=whole)
        write_attempt(connection, json.loads(worst_case))
    return len(rows)


def expire_requests(connection: sqlite3.Connection, now: float) -> None:
    """End the requests whose process died between two attempts."""
    connection.execute(_EXPIRE_REQUESTS, {"now": now})


def end(connection: sqlite3.Connection, ending: Ending) -> NotOpen | None:
    """End an open reservation, or correct an expired one."""
    state, requests = ("settled", 1) if ending.billed else ("released", 0)
    changes = (ending.usd, ending.tokens, requests, ending.now, ending.reservation_id)
    ended = connection.execute(_END, (state, *changes, ending.request_id, ending.number)).fetchall()
    if ended:
        [(amount, tokens, actual_tokens, accounts)] = ended
        reserved = held = Amounts(amount, tokens)
        actual = Amounts(ending.usd, actual_tokens, requests)
    else:
        row = connection.execute(
            "SELECT state, actual, request_id, number FROM reservation WHERE id = ?",
            (ending.reservation_id,),
        ).fetchone()
        if row is None:
            return NotOpen("unknown")
        if row[0] != "expired" or row[2:] != (ending.request_id, ending.number):
            return NotOpen(row[0], row[1] or 0, *row[2:])
        [(amount, tokens, actual_tokens, accounts)] = connection.execute(
            _CORRECT, changes
        ).fetchall()
        reserved, held = Amounts(amount, tokens), Amounts(0, 0, 0)
        # It was charged in full; what it really took replaces that.
        actual = Amounts(ending.usd - amount, actual_tokens - tokens, requests - 1)
    _charge(connection, accounts, held=held, actual=actual, reserved=reserved)
    write_attempt(connection, ending.attempt)
    if ending.end is not None:
        write_end(connection, ending.request_id, ending.end, ending.now)
    return None


def _charge(
    connection: sqlite3.Connection,
    accounts: str,
    *,
    held: Amounts,
    actual: Amounts,
    reserved: Amounts,
) -> None:
    """Move a reservation's amounts from held to settled, in each account that it pays from."""
    first = held.requests == 1  # not the correction of an expiry
    pairs: Iterable[tuple[int, Meter]] = json.loads(accounts)
    rows = []
    for account, meter in pairs:
        change = actual.of(meter)
        over = change - reserved.of(meter) if first else change
        rows.append((held.of(meter), change, max(0, over), account))
    connection.executemany(CHARGE, rows)


def enter(
    connection: sqlite3.Connection,
    budget: str,
    scope_value: str | None,
    kind: str,
    amount: int | None,
    now: float,
    note: str,
) -> None:
    """Write down what a person did to a budget."""
    connection.execute(
        "INSERT INTO entry (budget, scope_value, kind, amount, time, note)"
        " VALUES (?, ?, ?, ?, ?, ?)",
        (budget, scope_value, kind, amount, now, note),
    )


def audit(connection: sqlite3.Connection) -> list[Change]:
    """What people did to budgets, oldest first."""
    rows = connection.execute(
        "SELECT budget, scope_value, lower(kind), amount, time, '', note FROM entry"
        " WHERE kind IN ('LIMIT', 'CREDIT') ORDER BY id"
    ).fetchall()
    return [Change(*row) for row in rows]
