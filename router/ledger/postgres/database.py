"""A PostgreSQL store's connections: taken in turn, made again when lost, and errors by name."""

from __future__ import annotations

import math
import os
import random
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from psycopg import Error, pq

from router.errors import ConfigurationError, LedgerCorrupt, LedgerError, LedgerUnavailable
from router.ledger.postgres.connection import Connection, Lost, Refused, Silent
from router.ledger.postgres.schema import CREATE, SCHEMA, SCHEMA_VERSION
from router.ledger.postgres.steps import INVALID, LOCKS
from router.ledger.windows import check_clock

T = TypeVar("T")

BUSY_SECONDS = 0.25
_OPEN_SECONDS = 10.0  # opening a store is no request yet, and makes the tables of a new one
_CONNECTIONS = 8  # of one process
_ATTEMPTS = 6
_FIRST_PAUSE = 0.005  # seconds, then twice as long each time: about 0.15 s for all attempts
_OPENING_LOCK = 1
# Serialization failure, deadlock, and an id that another transaction was just making.
_TRANSIENT = ("40001", "40P01", "23505")
_STARTING_OR_STOPPING = ("57P01", "57P02", "57P03")
_CANCELLED = "57014"
# Connection, resources (a full disk, too many connections), operator intervention, input/output.
_AWAY = ("08", "53", "57", "58", "28", "3D")
_WHY = {
    "55P03": "others kept what it needs locked for too long",
    _CANCELLED: "it did not finish in time",
    "25006": "it is read-only",
    "42501": "permission is denied",
    "53100": "its disk is full",
}


class Missing(ConfigurationError):
    """There is no store at the URL, and none may be made."""


class Database:
    """The connections of one process to one store, safe to share between threads and across forks.

    Parameters: `url`, "postgresql://user@host:port/database"; `durability`, "full" or "normal";
    `busy_seconds`, how long one call may take, after which it is `LedgerUnavailable`;
    `connections`, how many may be open at once; `create`, whether the tables may be made.
    """

    def __init__(
        self,
        url: str,
        *,
        durability: str = "full",
        busy_seconds: float = BUSY_SECONDS,
        connections: int = _CONNECTIONS,
        create: bool = True,
    ):
        if durability not in ("full", "normal"):
            raise ConfigurationError(f"durability {durability!r} is unknown; allowed: full, normal")
        if not 0 < busy_seconds <= 3600:
            raise ConfigurationError(f"busy_seconds {busy_seconds!r} must be above 0, up to 3600")
        if connections < 1:
            raise ConfigurationError(f"connections {connections!r} must be at least 1")
        self._conninfo, self.name = _conninfo(url)
        self.durable = durability == "full"
        self._busy_seconds, self._size = busy_seconds, connections
        self._closed = False
        self._reset()
        _LIVE.add(self)
        try:
            self.attempt(lambda connection, deadline: None, opens=create)
        except BaseException:
            self.close()
            raise

    def call(self, statement: str, *values: Any, again: bool = True) -> Any:
        """Run a statement; return the JSON of its first column. See `Connection.call`.

        `again` False: it is not repeated where it may have been done and only its answer was lost.
        """
        return self.attempt(
            lambda connection, deadline: connection.call(statement, values, deadline), again=again
        )

    def read(self, *queries: str) -> list[list[list[str | None]]]:
        """Run queries in one transaction that sees one committed state, however long it takes."""
        script = (
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL statement_timeout = 0;"
            " SET LOCAL enable_seqscan = on; SET LOCAL enable_hashjoin = on;"
            f" SET LOCAL enable_mergejoin = on; {'; '.join(queries)}; COMMIT"
        )

        def work(connection: Connection, deadline: float) -> list[list[list[str | None]]]:
            return connection.script(script, time.monotonic() + 3600)[5:-1]

        return self.attempt(work)

    def attempt(
        self,
        work: Callable[[Connection, float], T],
        *,
        again: bool = True,
        opens: bool | None = None,
    ) -> T:
        """Do `work` on a connection, a few times over where that may help, until the deadline.

        `opens`: look at the store first, and make it where it is not there (True) or refuse it
        (False). What the step itself refuses comes as `Refused` with the SQLSTATE `INVALID`.
        """
        seconds = self._busy_seconds if opens is None else max(_OPEN_SECONDS, self._busy_seconds)
        deadline, pause = time.monotonic() + seconds, _FIRST_PAUSE
        in_doubt = False
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                with self._connection(deadline, opens) as connection:
                    return work(connection, deadline)
            except Refused as error:
                if error.sqlstate == INVALID:
                    raise
                last: Exception = error
                helps = error.sqlstate in (*_TRANSIENT, *_STARTING_OR_STOPPING)
            except Silent as error:
                last, helps = error, False
            except Lost as error:
                last, helps = error, again or not error.sent
            in_doubt = in_doubt or _may_be_done(last)
            wait = random.uniform(0.5, 1.5) * pause
            if not helps or attempt == _ATTEMPTS or time.monotonic() + wait >= deadline:
                raise self._named(last, in_doubt) from last
            time.sleep(wait)
            pause *= 2
        raise AssertionError("the last attempt returns or raises")

    def close(self) -> None:
        """Close the store for good."""
        self._closed = True
        _LIVE.discard(self)
        while self._idle:
            self._idle.pop().close()

    def _reset(self) -> None:
        self._idle: list[Connection] = []
        self._free = threading.BoundedSemaphore(self._size)

    @contextmanager
    def _connection(self, deadline: float, opens: bool | None) -> Iterator[Connection]:
        free = self._free
        if not free.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise LedgerUnavailable(
                self.name, f"all {self._size} connections of this process were busy for too long"
            )
        connection = None
        try:
            if self._closed:
                raise LedgerUnavailable(self.name, "it was closed")
            connection = self._idle.pop() if self._idle else self._connect(deadline, opens)
            yield connection
        except (Lost, Refused) as error:
            if _is_gone(error):
                while self._idle:  # so are they
                    self._idle.pop().close()
            raise
        finally:
            if connection is not None:
                if connection.usable and not self._closed:
                    self._idle.append(connection)
                else:
                    connection.close()
            free.release()

    def _connect(self, deadline: float, opens: bool | None) -> Connection:
        connection = Connection(self._conninfo, deadline)
        try:
            if opens is not None:
                self._open(connection, deadline, make=opens)
            milliseconds = self._busy_seconds * 1000  # the server's own say comes before ours
            [*_, versions, [[seconds]]] = connection.script(
                f"SET search_path = {SCHEMA}, pg_temp;"
                f"SET statement_timeout = {math.ceil(0.9 * milliseconds)};"
                f"SET lock_timeout = {math.ceil(0.8 * milliseconds)};"
                f"SET synchronous_commit = {'on' if self.durable else 'off'};"
                "SET default_transaction_isolation = 'read committed'; SET jit = off;"
                "SET plan_cache_mode = force_generic_plan; SET client_min_messages = warning;"
                "SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off;"
                "SELECT version FROM meta; SELECT extract(epoch FROM clock_timestamp())",
                deadline,
            )
            self._check_version(versions)
            check_clock(self.name, float(str(seconds)))
        except BaseException:
            connection.close()
            raise
        return connection

    def _open(self, connection: Connection, deadline: float, *, make: bool) -> None:
        if self._is_made(connection, deadline):
            return
        if not make:
            raise Missing(f"ledger {self.name} does not exist; check the URL")
        connection.script(
            f"BEGIN; SELECT pg_advisory_xact_lock({LOCKS}, {_OPENING_LOCK})", deadline
        )
        if not self._is_made(connection, deadline):  # by another, meanwhile
            connection.script(f"SET LOCAL client_min_messages = warning; {CREATE}", deadline)
        connection.script("COMMIT", deadline)

    def _is_made(self, connection: Connection, deadline: float) -> bool:
        [[[made, others]]] = connection.script(
            f"SELECT to_regclass('{SCHEMA}.meta') IS NOT NULL, (SELECT count(*) FROM pg_class"
            f" WHERE relnamespace = to_regnamespace('{SCHEMA}'))",
            deadline,
        )
        if made == "f" and others != "0":
            raise ConfigurationError(
                f"{self.name} has a schema {SCHEMA} of another program; name another database"
            )
        return made == "t"

    def _check_version(self, versions: list[list[str | None]]) -> None:
        if versions == [[str(SCHEMA_VERSION)]]:
            return
        found = ", ".join(str(version) for [version] in versions) or "none"
        raise ConfigurationError(
            f"ledger {self.name} has schema version {found}, and this release knows version "
            f"{SCHEMA_VERSION}; use the release that wrote it, or name another database"
        )

    def _named(self, error: Exception, in_doubt: bool) -> LedgerError:
        doubt = "; what was asked may have been done" if in_doubt else ""
        if isinstance(error, Lost):
            return LedgerUnavailable(self.name, f"{error}{doubt}", in_doubt=in_doubt)
        assert isinstance(error, Refused)
        why = _WHY.get(error.sqlstate, str(error))
        if error.sqlstate.startswith(_AWAY) or error.sqlstate in (*_WHY, *_TRANSIENT):
            return LedgerUnavailable(self.name, f"{why}{doubt}", in_doubt=in_doubt)
        return LedgerCorrupt(self.name, f"{why} ({error.sqlstate})")


def _may_be_done(error: Exception) -> bool:
    """Whether a step may be committed though it failed: one commits, then waits for the disk."""
    if isinstance(error, Refused):
        return error.sqlstate in (_CANCELLED, *_STARTING_OR_STOPPING)
    return isinstance(error, Lost) and error.sent


def _is_gone(error: Lost | Refused) -> bool:
    """Whether the server is gone, or was restarted."""
    if isinstance(error, Refused):
        return error.sqlstate in _STARTING_OR_STOPPING
    return not isinstance(error, Silent)


def exists(url: str) -> bool:
    """Whether there is a store at a URL yet; raises as `Database` does."""
    try:
        Database(url, create=False).close()
    except Missing:
        return False
    return True


def _conninfo(url: str) -> tuple[bytes, str]:
    """What libpq needs to connect, and a name that gives no password away."""
    try:
        options = {
            option.keyword.decode(): option.val.decode()
            for option in pq.Conninfo.parse(url.encode())
            if option.val is not None
        }
    except (Error, UnicodeError):
        raise ConfigurationError(
            "the store is not a URL that PostgreSQL understands; write "
            "postgresql://user:password@host:port/database"
        ) from None
    host = options.get("host", "")
    port = f":{options['port']}" if "port" in options else ""
    name = f"postgresql://{host}{port}/{options.get('dbname', '')}"
    options.setdefault("fallback_application_name", "tiered-router")
    options["client_encoding"] = "UTF8"
    return b" ".join(_pair(*each) for each in options.items()), name


def _pair(keyword: str, value: str) -> bytes:
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"{keyword}='{escaped}'".encode()


# A connection must not be used by two processes: a child begins with none, and with locks that no
# thread of its own holds. (psycopg closes no connection that another process made.)
_LIVE: weakref.WeakSet[Database] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for database in list(_LIVE):
        database._reset()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
