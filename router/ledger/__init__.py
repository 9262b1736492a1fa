"""Budgets that hold: reserve before a call, settle after it, in one transaction with the log."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from router.errors import ConfigurationError
from router.ledger.base import Ledger
from router.ledger.place import identity, journal_folder
from router.ledger.url import load_postgres, scheme, sqlite_path
from router.types import Budget

if TYPE_CHECKING:
    from router.ledger.store import Store
    from router.log import Log

__all__ = ["Ledger", "open_ledger", "open_log", "store_exists"]


def open_ledger(
    url: str,
    budgets: Sequence[Budget] = (),
    *,
    durability: Literal["full", "normal"] = "full",
    busy_seconds: float | None = None,
    create: bool = True,
    lease: bool = False,
    on_outage: Literal["deny", "lease", "open"] = "deny",
    journal: str | Path | None = None,
) -> Ledger:
    """Open the ledger at a store URL; a SQLite file that does not exist is created (mode 0600).

    Parameters: `url`, "sqlite:///relative.db", "sqlite:////absolute.db", "sqlite://" (in memory,
    for this process alone), "postgresql://user@host/database" (its tables are made in a schema of
    their own) or "redis://host:port/0?log=sqlite:///log.db" (counters in Redis or Valkey, all else
    in that log; `router.ledger.redis`); `budgets`, the limits that this process enforces;
    `durability`, "full" (a committed reservation survives a power cut) or "normal" (it survives the
    death of any process, of a Redis server excepted, and commits without waiting for the disk);
    `busy_seconds`, how long a call
    may wait before it is refused: for other writers of a SQLite file (by default 10), for all that
    a server has to do (0.25); `create` False opens only a store that exists, and leaves it
    unchanged until it is used; `lease`, whether this process spends a part of the budgets in memory
    (`router.ledger.lease`); `on_outage`, what it does while the store is away: send nothing, go on
    within its leases, or go on and count (`router.ledger.outage`); `journal`, the folder for what
    cannot be written meanwhile, by default beside the SQLite file, or in the user's state directory
    for a server.
    Raises `ConfigurationError` for a URL, budget or option that is wrong, `LedgerUnavailable` for
    a store that cannot be opened, `LedgerCorrupt` for one that is damaged.
    """
    from router.ledger.ledger import BudgetLedger
    from router.ledger.outage import OutageLedger

    if on_outage == "lease" and not lease:
        raise ConfigurationError("on_outage 'lease' needs leases; set lease too")
    store = _open_store(url, durability, busy_seconds, create)
    direct = BudgetLedger(store, budgets, define=create or bool(budgets))
    try:
        outage = OutageLedger(
            direct,
            journals=journal_folder(url, journal),
            identity=identity(url) or "",
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


def _open_store(url: str, durability: str, busy_seconds: float | None, create: bool) -> Store:
    options: dict[str, Any] = {"durability": durability, "create": create}
    if busy_seconds is not None:
        options["busy_seconds"] = busy_seconds
    if scheme(url) == "postgresql":
        store: Store = load_postgres().PostgresStore(url, **options)
        return store
    if scheme(url) == "redis":
        from router.ledger.redis.store import RedisStore

        return RedisStore(url, **options)
    from router.ledger.sqlite.store import SqliteStore

    return SqliteStore(sqlite_path(url), **options)


def open_log(url: str) -> Log:
    """Open the log of an existing store, to read it and to label it.

    Parameters: `url`, "sqlite:///relative.db", "sqlite:////absolute.db", "postgresql://…" or
    "redis://…" (its log is brought up to date whenever it is read). A store in memory is private to
    its ledger: use that ledger's `log()`.
    Raises `ConfigurationError` for a wrong URL or a place without a store, `LedgerCorrupt` for a
    damaged one, `LedgerUnavailable` for a server that does not answer.
    """
    if scheme(url) == "postgresql":
        postgres = load_postgres()
        log: Log = postgres.PostgresLog(postgres.Database(url, create=False), owned=True)
        return log
    if scheme(url) == "redis":
        from router.ledger.redis.store import open_redis_log

        return open_redis_log(url)
    from router.ledger.sqlite.database import Database
    from router.ledger.sqlite.log import SqliteLog

    database = Database(sqlite_path(url), durability="full", busy_seconds=10.0, create=False)
    return SqliteLog(database, owned=True)


def store_exists(url: str) -> bool:
    """Whether there is a store at a URL that `open_ledger` would not have to make.

    Raises as `open_ledger` does.
    """
    if scheme(url) == "postgresql":
        found: bool = load_postgres().exists(url)
        return found
    if scheme(url) == "redis":  # its log is made first, and never goes
        from router.ledger.redis.url import parse

        return store_exists(parse(url).log)
    path = sqlite_path(url)
    return path is not None and Path(path).exists()
