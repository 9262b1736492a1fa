"""Budgets that hold: reserve before a call, settle after it, in one transaction with the log."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from router.errors import ConfigurationError
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
    lease: bool = False,
    on_outage: Literal["deny", "lease", "open"] = "deny",
    journal: str | Path | None = None,
) -> Ledger:
    """Open the ledger at a store URL; a SQLite file that does not exist is created (mode 0600).

    Parameters: `url`, "sqlite:///relative.db", "sqlite:////absolute.db" or "sqlite://" (in memory,
    for this process alone); `budgets`, the limits that this process enforces; `durability`, "full"
    (a committed reservation survives a power cut) or "normal" (it survives the death of any
    process, and commits without waiting for the disk); `busy_seconds`, how long a call may wait
    for other writers before it is refused; `create` False opens only a store that exists, and
    leaves it unchanged until it is used; `lease`, whether this process spends a part of the budgets
    in memory (`router.ledger.lease`); `on_outage`, what it does while the store is away: send
    nothing, go on within its leases, or go on and count (`router.ledger.outage`); `journal`, the
    folder for what cannot be written meanwhile, by default beside the SQLite file.
    Raises `ConfigurationError` for a URL, budget or option that is wrong, `LedgerUnavailable` for
    a store that cannot be opened, `LedgerCorrupt` for one that is damaged.
    """
    path = sqlite_path(url)
    from router.ledger.ledger import BudgetLedger
    from router.ledger.outage import OutageLedger
    from router.ledger.sqlite.store import SqliteStore

    if on_outage == "lease" and not lease:
        raise ConfigurationError("on_outage 'lease' needs leases; set lease too")
    store = SqliteStore(path, durability=durability, busy_seconds=busy_seconds, create=create)
    direct = BudgetLedger(store, budgets, define=create or bool(budgets))
    try:
        place = None if path is None else os.path.realpath(path)
        outage = OutageLedger(
            direct,
            journals=None if place is None else Path(journal or f"{place}.journal").absolute(),
            identity=place or "",
            on_outage=on_outage,
        )
        if create:
            outage.recover(time.time())
        if not lease:
            return outage
        from router.ledger.lease import LeasedLedger

        return LeasedLedger(outage, go_on=on_outage == "lease")
    except BaseException:
        direct.close()
        raise
