"""Budget definitions and counters in SQLite: what matches, what is left, taking from it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence

from router.errors import BudgetExceeded, ConfigurationError, InvalidRequest
from router.ledger.windows import time_zone, window
from router.money import MAX_NANO
from router.types import Budget, BudgetState

MAX_SCOPE_VALUE = 256  # characters: a name, not a place to store things

_TAKE = """
UPDATE account SET held = held + :amount, limit_nano = max(limit_nano, :limit)
WHERE budget = :budget AND scope_value = :value
  AND window_id = (SELECT window_id FROM clock
                   WHERE budget = :budget AND window = :window AND zone = :zone
                     AND (resets_at IS NULL OR resets_at > :now))
  AND (:limit IS NULL OR :amount = 0 OR settled + held + :amount <= :limit)
RETURNING id
"""
_LATEST = """
SELECT window_id, resets_at FROM clock WHERE budget = :budget AND window = :window AND zone = :zone
"""


def checked(budgets: Iterable[Budget]) -> tuple[Budget, ...]:
    """Return the budgets sorted by name, the order in which every process takes from them.

    Raises `ConfigurationError` for a name used twice, a limit that is no amount, an unknown window
    or zone.
    """
    by_name: dict[str, Budget] = {}
    for budget in budgets:
        if not budget.name or budget.name in by_name:
            raise ConfigurationError(f"budget name {budget.name!r} is empty or used twice")
        limit = budget.limit
        if limit is not None and (type(limit) is not int or not 0 <= limit <= MAX_NANO):
            raise ConfigurationError(
                f"budget {budget.name!r}: limit {limit!r} must be an integer of nano-USD from 0 to "
                f"2**53, or None for unlimited"
            )
        time_zone(budget.zone)
        window(budget, 0.0)
        by_name[budget.name] = budget
    return tuple(by_name[name] for name in sorted(by_name))


def matching(budgets: Sequence[Budget], scopes: Mapping[str, str]) -> list[tuple[Budget, str]]:
    """Return each budget with the scope value whose money a request with these scopes spends."""
    for name, value in scopes.items():
        if not isinstance(value, str) or len(value) > MAX_SCOPE_VALUE or not _encodable(value):
            raise InvalidRequest(
                f"scopes.{name}",
                f"{value!r:.80} cannot name whose budget pays",
                value=value,
                allowed=f"Unicode text of at most {MAX_SCOPE_VALUE} characters",
            )
    return [
        (budget, "" if budget.scope == "global" else scopes.get(budget.scope, ""))
        for budget in budgets
    ]


def define(connection: sqlite3.Connection, budgets: Sequence[Budget]) -> None:
    """Write down the budgets, so that a store can be read without its policy."""
    connection.executemany(
        "INSERT OR REPLACE INTO budget (name, limit_nano, window, zone, scope, on_exceed)"
        " VALUES (?, ?, ?, ?, ?, ?)",
        [(b.name, b.limit, b.window, b.zone, b.scope, b.on_exceed) for b in budgets],
    )


def take(
    connection: sqlite3.Connection, budget: Budget, value: str, amount: int, now: float
) -> int:
    """Hold `amount` in one budget's current window, opening the window if need be.

    Returns the account's id. Raises `BudgetExceeded`; the caller's transaction then undoes the
    other budgets' holds.
    """
    place = {
        "budget": budget.name,
        "value": value,
        "window": budget.window,
        "zone": budget.zone,
        "limit": budget.limit,
        "amount": amount,
        "now": now,
    }
    taken = connection.execute(_TAKE, place).fetchall()
    if not taken:
        # Full, or the first of its window.
        identity, resets_at = _open_window(connection, budget, now)
        connection.execute(
            "INSERT OR IGNORE INTO account (budget, scope_value, window_id, limit_nano)"
            " VALUES (?, ?, ?, ?)",
            (budget.name, value, identity, budget.limit),
        )
        taken = connection.execute(_TAKE, place).fetchall()
    if not taken:
        settled, held = connection.execute(
            "SELECT settled, held FROM account"
            " WHERE budget = ? AND scope_value = ? AND window_id = ?",
            (budget.name, value, identity),
        ).fetchone()
        assert budget.limit is not None  # an unlimited budget takes anything
        raise BudgetExceeded(
            budget.name,
            needed=amount,
            used=settled,
            held=held,
            limit=budget.limit,
            scope_value=value,
            resets_at=resets_at,
        )
    return int(taken[0][0])


def state(connection: sqlite3.Connection, budget: Budget, value: str, now: float) -> BudgetState:
    """Return one budget's counters in the window that a reservation would be held in now."""
    identity, resets_at = _current(connection, budget, now)
    counters = connection.execute(
        "SELECT settled, held, overrun FROM account"
        " WHERE budget = ? AND scope_value = ? AND window_id = ?",
        (budget.name, value, identity),
    ).fetchone()
    settled, held, overrun = counters or (0, 0, 0)  # no account: the window is new
    return BudgetState(budget, value, identity, settled, held, overrun, resets_at)


def all_states(connection: sqlite3.Connection, now: float) -> list[BudgetState]:
    """Return the state of every budget that is written down, for each scope value seen."""
    states = []
    for row in connection.execute(
        "SELECT name, limit_nano, window, zone, scope, on_exceed FROM budget ORDER BY name"
    ).fetchall():
        budget = Budget(*row)
        values = [""]
        if budget.scope != "global":
            values = [
                value
                for [value] in connection.execute(
                    "SELECT DISTINCT scope_value FROM account WHERE budget = ? ORDER BY 1",
                    (budget.name,),
                )
            ]
        states += [state(connection, budget, value, now) for value in values]
    return states


def _current(
    connection: sqlite3.Connection, budget: Budget, now: float
) -> tuple[str, float | None]:
    """The window for `now`, but never one before the latest opened: clocks are set back."""
    latest = connection.execute(
        _LATEST, {"budget": budget.name, "window": budget.window, "zone": budget.zone}
    ).fetchone()
    if latest is not None and (latest[1] is None or now < latest[1]):
        return str(latest[0]), latest[1]
    return window(budget, now)


def _open_window(
    connection: sqlite3.Connection, budget: Budget, now: float
) -> tuple[str, float | None]:
    identity, resets_at = _current(connection, budget, now)
    connection.execute(
        "INSERT OR REPLACE INTO clock (budget, window, zone, window_id, resets_at)"
        " VALUES (?, ?, ?, ?, ?)",
        (budget.name, budget.window, budget.zone, identity, resets_at),
    )
    return identity, resets_at


def _encodable(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
