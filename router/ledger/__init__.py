"""Budgets that hold: reserve before a call, settle after it, in one transaction with the log."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from router.ledger.base import Ledger
from router.ledger.url import sqlite_path
from router.types import Budget

__all__ = ["Ledger", "open_ledger"]


def open_ledger(
    url: str,
    budgets: Sequence[Budget] = (),
    *,
    durability: Literal["full", "normal"] = "full",
    busy_seconds: float = 10.0,
    create: bool = True,
) -> Ledger:
    """Open the ledger at a store URL; a SQLite file that does not exist is created (mode 0600).

    Parameters: `url`, "sqlite:///relative.db", "sqlite:////absolute.db" or "sqlite://" (in memory,
    for this process alone); `budgets`, the limits that this process enforces; `durability`, "full"
    (a committed reservation survives a power cut) or "normal" (it survives the death of any
    process, and commits without waiting for the disk); `busy_seconds`, how long a call may wait
    for other writers before it is refused; `create` False opens only a store that exists, and
    leaves it unchanged until it is used.
    Raises `ConfigurationError` for a URL, budget or option that is wrong, `LedgerUnavailable` for
    a store that cannot be opened, `LedgerCorrupt` for one that is damaged.
    """
    path = sqlite_path(url)
    from router.ledger.ledger import BudgetLedger
    from router.ledger.sqlite.store import SqliteStore

    store = SqliteStore(path, durability=durability, busy_seconds=busy_seconds, create=create)
    return BudgetLedger(store, budgets, define=create or bool(budgets))
