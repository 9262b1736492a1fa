"""The counters in SQLite: finding those of a budget's current window, and opening windows."""

from __future__ import annotations

import sqlite3
from typing import NamedTuple

from router.ledger.matching import Take
from router.ledger.store import Counters

# The window asked for, or a later one that was opened already: clocks are set back.
_CURRENT = """
SELECT account.id, settled, held, seen, limit_n, override_n, account.window_id,
  account.window_id IS clock.window_id
FROM (SELECT ? AS budget) AS asked
LEFT JOIN clock ON clock.budget = asked.budget AND clock.kind = ?
CROSS JOIN account
WHERE account.budget = asked.budget AND scope_value = ?
  AND account.window_id = max(?, coalesce(clock.window_id, ''))
"""
_SUM = """
SELECT coalesce(sum(settled), 0), coalesce(sum(held), 0), coalesce(sum(overrun), 0),
  coalesce(sum(seen), 0), coalesce(min(CASE WHEN settled + held > 0 THEN window_id END), '')
FROM account
WHERE budget = ? AND scope_value = ? AND window_id BETWEEN ? AND ?
"""
_OVERRIDE = """
SELECT limit_n FROM override
WHERE budget = :budget AND (override.scope_value = {value} OR override.scope_value IS NULL)
ORDER BY override.scope_value IS NULL LIMIT 1
"""
_OVERRIDE_OF = _OVERRIDE.format(value=":value")
CHARGE = """
UPDATE account SET held = held - ?, settled = settled + ?, overrun = overrun + ? WHERE id = ?
"""


class Found(NamedTuple):
    """The account of the latest window, `id` 0 where none was opened yet.

    `settled`, `held` and `seen` are of all windows that count. `is_latest`: whether the clock of
    the take's kind stands at that window, which may have been opened by the clock of another zone.
    """

    id: int
    is_latest: bool
    window_id: str
    settled: int
    held: int
    seen: int
    limit: int | None  # an override; -1 for unlimited
    highest: int | None  # the highest limit that anything was admitted under
    resets_at: float | None
    oldest: str

    def admitted_under(self, take: Take) -> int | None:
        """The highest limit, this admission's included; None once it was unlimited."""
        limit = take.limit if self.limit is None else None if self.limit < 0 else self.limit
        if limit is None or self.highest is None:
            return None
        return max(limit, self.highest)


def find(connection: sqlite3.Connection, take: Take) -> Found:
    """Return the account that a take's amount goes to, without opening its window."""
    row = connection.execute(
        _CURRENT, (take.budget, take.kind, take.scope_value, take.window_id)
    ).fetchone()
    if row is None:
        new = read(connection, take)
        return Found(
            0,
            False,
            new.window_id,
            new.settled,
            new.held,
            new.seen,
            new.limit,
            0,
            new.resets_at,
            new.oldest,
        )
    identity, settled, held, seen, highest, override, window_id, is_latest = row
    oldest: str = window_id
    if take.rolls:
        settled, held, _, seen, oldest = _sum(connection, take, window_id)
    resets_at = _resets_at(connection, take, window_id)
    return Found(
        identity,
        bool(is_latest),
        window_id,
        settled,
        held,
        seen,
        override,
        highest,
        resets_at,
        oldest,
    )


def open_window(connection: sqlite3.Connection, take: Take) -> None:
    """Set the clock of a take's kind to its window, unless it is further already."""
    connection.execute(
        "INSERT INTO clock (budget, kind, window_id, resets_at) VALUES (?, ?, ?, ?)"
        " ON CONFLICT DO UPDATE SET window_id = excluded.window_id,"
        " resets_at = excluded.resets_at WHERE excluded.window_id > window_id",
        (take.budget, take.kind, take.window_id, take.resets_at),
    )


def open_account(connection: sqlite3.Connection, take: Take) -> int:
    """Open an account in the latest window of a take's kind; return its id."""
    made = connection.execute(
        "INSERT INTO account (budget, scope_value, window_id, meter, limit_n, override_n)"
        " SELECT ?, ?, window_id, ?, 0, ? FROM clock WHERE budget = ? AND kind = ?",
        (
            take.budget,
            take.scope_value,
            take.meter,
            _override(connection, take),
            take.budget,
            take.kind,
        ),
    )
    assert made.lastrowid is not None
    return made.lastrowid


def read(connection: sqlite3.Connection, take: Take) -> Counters:
    """Return the counters of an account, without opening a window."""
    window_id = _latest(connection, take)
    settled, held, overrun, seen, oldest = _sum(connection, take, window_id)
    return Counters(
        window_id,
        settled,
        held,
        overrun,
        seen,
        _override(connection, take),
        _resets_at(connection, take, window_id),
        oldest,
    )


def apply_limit(
    connection: sqlite3.Connection, budget: str, scope_value: str | None, limit: int | None
) -> None:
    """Write an override, or with None take it back, and put what holds now into the accounts."""
    connection.execute(
        "DELETE FROM override WHERE budget = ? AND scope_value IS ?", (budget, scope_value)
    )
    if limit is not None:
        connection.execute("INSERT INTO override VALUES (?, ?, ?)", (budget, scope_value, limit))
    connection.execute(
        "UPDATE account"
        f" SET override_n = ({_OVERRIDE.format(value='account.scope_value')})"
        " WHERE budget = :budget",
        {"budget": budget},
    )


def credit(connection: sqlite3.Connection, take: Take, amount: int) -> int:
    """Take up to `amount` off what is settled in the windows that count; return how much."""
    latest = _latest(connection, take)
    accounts = connection.execute(
        "SELECT id, settled FROM account WHERE budget = ? AND scope_value = ?"
        " AND window_id BETWEEN ? AND ? AND settled > 0 ORDER BY window_id DESC",
        (take.budget, take.scope_value, take.counted_since(latest), latest),
    ).fetchall()
    left = amount
    for identity, settled in accounts:
        given = min(left, settled)
        connection.execute(
            "UPDATE account SET settled = settled - ?, credited = credited + ? WHERE id = ?",
            (given, given, identity),
        )
        left -= given
    return amount - left


def _latest(connection: sqlite3.Connection, take: Take) -> str:
    latest = connection.execute(
        "SELECT window_id FROM clock WHERE budget = ? AND kind = ?", (take.budget, take.kind)
    ).fetchone()
    return max(take.window_id, latest[0] if latest else "")


def _override(connection: sqlite3.Connection, take: Take) -> int | None:
    place = {"budget": take.budget, "value": take.scope_value}
    row = connection.execute(_OVERRIDE_OF, place).fetchone()
    return None if row is None else int(row[0])


def _sum(
    connection: sqlite3.Connection, take: Take, window_id: str
) -> tuple[int, int, int, int, str]:
    since = take.counted_since(window_id)
    row: tuple[int, int, int, int, str] = connection.execute(
        _SUM, (take.budget, take.scope_value, since, window_id)
    ).fetchone()
    return row


def _resets_at(connection: sqlite3.Connection, take: Take, window_id: str) -> float | None:
    if window_id == take.window_id:
        return take.resets_at
    [resets_at] = connection.execute(
        "SELECT resets_at FROM clock WHERE budget = ? AND kind = ?", (take.budget, take.kind)
    ).fetchone()
    return None if resets_at is None else float(resets_at)
