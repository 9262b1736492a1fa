"""Connections to one SQLite store: transactions, waiting one's turn, forks, and errors by name."""

from __future__ import annotations

import os
import random
import sqlite3
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from router.errors import ConfigurationError, LedgerCorrupt, LedgerError, LedgerUnavailable
from router.ledger.sqlite import forks
from router.ledger.sqlite.files import (
    check_schema,
    identity,
    is_frozen,
    prepare_file,
    write_schema,
)
from router.ledger.sqlite.forks import Slot

T = TypeVar("T")

_JOBS_AT_ONCE = 64  # so that nobody does others' work for long
_BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
_DAMAGED = (
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_CONSTRAINT,
    sqlite3.SQLITE_ERROR,  # a table or column is missing
    sqlite3.SQLITE_SCHEMA,
)
_WHY = {
    sqlite3.SQLITE_BUSY: "other processes kept it locked for too long",
    sqlite3.SQLITE_LOCKED: "other threads kept it locked for too long",
    sqlite3.SQLITE_READONLY: "it is read-only",
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened",
    sqlite3.SQLITE_PERM: "permission is denied",
    sqlite3.SQLITE_NOTADB: "it is not a SQLite file",
}
_SWAPPED = "the file, its -wal or its -shm was deleted or replaced while in use"
_WRITTEN = "it can only be read here, and was written to meanwhile; open it again"
_FIRST_PAUSE, _LONGEST_PAUSE = 0.001, 0.020  # seconds, while another process writes
# One commit in so many moves the write-ahead log into the file, by chance: about once in 16 MB,
# however many processes write. Once in 4 MB, as SQLite does, is more than one call in a hundred.
_COMMITS_A_CHECKPOINT = 450
_LOG_BYTES = 64 * 2**20  # that it keeps of the disk
_CHECKPOINT_WAIT = 50  # milliseconds for other processes' transactions to end
_CHANCE = random.Random()  # of its own: an application's seed is not to be used up
if hasattr(os, "register_at_fork"):  # or all children would do it at once, and late
    os.register_at_fork(after_in_child=_CHANCE.seed)
# SQLite itself refuses a file that was cut short. Flipped bits need a whole reading, which takes
# about 4 ms a MiB: a small file gets it when it is opened, a large one by `router ledger verify`.
_CHECK_AT_OPEN_BYTES = 4 * 2**20


class Undo(Exception):
    """Raised by a job: undo what it wrote, and answer it with `result`."""

    def __init__(self, result: object):
        self.result = result


class _Job:
    """Work for the writer, and what became of it."""

    def __init__(self, work: Callable[[sqlite3.Connection], Any]):
        self.work = work
        self.done = False
        self.result: Any = None
        self.error: BaseException | None = None


class _Turn:
    """A slot's connection, for this thread alone, with SQLite's errors turned into ours.

    Not a generator: those of a step take twice as long as the lock itself.
    """

    __slots__ = ("_database", "_deadline", "_slot")

    def __init__(self, database: Database, slot: Slot, deadline: float):
        self._database, self._slot, self._deadline = database, slot, deadline

    def __enter__(self) -> sqlite3.Connection:
        lock = self._slot.lock
        if not lock.acquire(False) and not lock.acquire(
            timeout=max(0.0, self._deadline - time.monotonic())
        ):
            raise LedgerUnavailable(self._database.name, "other threads kept it busy for too long")
        try:
            connection = self._database._connection(self._slot)
            if connection.in_transaction:  # an interrupt came between its beginning and its care
                connection.rollback()
            return connection
        except BaseException as error:
            self.__exit__(type(error), error)
            raise

    def __exit__(self, _: object, error: BaseException | None, *__: object) -> None:
        self._slot.lock.release()
        # A ProgrammingError is a mistake in this library, not in the store.
        if isinstance(error, sqlite3.Error) and not isinstance(error, sqlite3.ProgrammingError):
            raise self._database._named(error) from error


class _Transaction:
    """A transaction of the writer: committed at the end, undone by any exception."""

    __slots__ = ("_connection", "_database", "_deadline")

    def __init__(self, database: Database, connection: sqlite3.Connection, deadline: float):
        self._database, self._connection, self._deadline = database, connection, deadline

    def __enter__(self) -> None:
        self._database._begin(self._connection, self._deadline)
        try:
            self._database._same_file()
        except BaseException:
            self._connection.rollback()
            raise

    def __exit__(self, failed: object, *_: object) -> None:
        try:
            if failed is None:
                self._connection.execute("COMMIT")
        finally:
            if self._connection.in_transaction:
                self._connection.rollback()


class Database:
    """One SQLite store, safe to share between threads and across forks.

    SQLite admits one writer at a time, so all writes of a process go through one connection, and
    its reads through another: threads then wait for each other on a lock instead of polling the
    file. Whoever gets the writer's turn does the jobs of all who wait, in one transaction (group
    commit; "flat combining", Hendler et al. 2010): one commit serves them all, and a thread that is
    alone hands nothing over. `path` None is a private database in memory, where both connections
    are the same.
    """

    def __init__(self, path: str | None, *, durability: str, busy_seconds: float, create: bool):
        if sqlite3.sqlite_version_info < (3, 35):
            raise ConfigurationError(
                f"SQLite {sqlite3.sqlite_version} is too old; this library needs 3.35 or later"
            )
        if durability not in ("full", "normal"):
            raise ConfigurationError(f"durability {durability!r} is unknown; allowed: full, normal")
        if not 0 <= busy_seconds <= 3600:
            raise ConfigurationError(f"busy_seconds {busy_seconds!r} must be from 0 to 3600")
        if path is None and not create:
            raise ConfigurationError(
                "a store in memory is private to the ledger that made it; name a file"
            )
        self.name = path or "in memory"
        self._path = None if path is None else os.path.realpath(path)
        self._durability, self._busy_seconds = durability, busy_seconds
        self._closed = False
        self._writer = Slot(busy_seconds)
        self._reader = self._writer if path is None else Slot(busy_seconds)
        self._jobs: deque[_Job] = self._writer.waiting
        with forks.OPENING:
            if self._path is not None:
                prepare_file(self._path, create=create)
            forks.SLOTS.update(self._slots())
        # A store that nobody closed; at the process's end the system does it.
        weakref.finalize(self, forks.retire, *self._slots()).atexit = False
        try:
            with self.read() as connection:
                self._check(connection)
        except BaseException:
            self.close()
            raise

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """A transaction that is alone in writing: committed at the end, undone by any exception."""
        deadline = time.monotonic() + self._busy_seconds
        with self._turn(self._writer, deadline) as connection:
            self._checkpoint(connection)
            with _Transaction(self, connection, deadline):
                yield connection

    def submit(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do `work` in a transaction that it may share with others' work; return its result.

        What others do and fail at does not touch it. It must leave the connection's transaction
        alone, and may be done anew if another job of its transaction failed.
        """
        job = _Job(work)
        self._jobs.append(job)
        deadline = time.monotonic() + self._busy_seconds
        try:
            with self._turn(self._writer, deadline) as connection:
                self._checkpoint(connection)
                while not job.done:
                    self._do_jobs(connection, deadline)
        except BaseException:
            if not job.done and not self._is_under_way(job):
                raise
        if job.error is not None:
            raise job.error
        result: T = job.result
        return result

    def _is_under_way(self, job: _Job) -> bool:
        """Take back a job whose time is up, or wait for whoever is doing it: it may be committed,
        and who handed it in must know."""
        while not job.done:
            try:
                self._jobs.remove(job)
            except ValueError:
                with self._writer.lock:  # that thread gives up at its own deadline
                    pass
            else:
                return False
        return True

    def _do_jobs(self, connection: sqlite3.Connection, deadline: float) -> None:
        """Do the jobs that wait, in one transaction; if that fails, each in its own."""
        jobs = [self._jobs.popleft() for _ in range(min(len(self._jobs), _JOBS_AT_ONCE))]
        if len(jobs) > 1:
            try:
                with _Transaction(self, connection, deadline):
                    for job in jobs:
                        job.result = job.work(connection)
            except Exception:
                pass
            except BaseException:
                self._jobs.extendleft(reversed(jobs))
                raise
            else:
                for job in jobs:
                    job.done = True
                return
        for at, job in enumerate(jobs):
            try:
                with _Transaction(self, connection, deadline):
                    job.result = job.work(connection)
            except Undo as undo:
                job.result = undo.result
            except sqlite3.ProgrammingError as error:
                job.error = error  # a mistake in this library, not in the store
            except sqlite3.Error as error:
                job.error = self._named(error)
                job.error.__cause__ = error
            except Exception as error:
                job.error = error
            except BaseException:
                self._jobs.extendleft(reversed(jobs[at:]))
                raise
            job.done = True

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """A transaction that sees one committed state throughout and never waits for a writer."""
        with self._turn(self._reader, time.monotonic() + self._busy_seconds) as connection:
            connection.execute("BEGIN")
            try:
                yield connection
            finally:
                connection.rollback()
                if self._reader.frozen and not self._reader.unchanged:
                    raise LedgerUnavailable(self.name, _WRITTEN)

    def close(self) -> None:
        """Close the store for good."""
        self._closed = True
        for slot in self._slots():
            with slot.lock:
                forks.retire(slot)

    def _slots(self) -> set[Slot]:
        """Both connections; of a store in memory they are one."""
        return {self._writer, self._reader}

    def _turn(self, slot: Slot, deadline: float) -> _Turn:
        return _Turn(self, slot, deadline)

    def _connection(self, slot: Slot) -> sqlite3.Connection:
        if self._closed:
            raise LedgerUnavailable(self.name, "it was closed")
        if slot.connection is None:
            with forks.OPENING:
                slot.connection, slot.pid = self._connect(slot), os.getpid()
        elif slot.pid != os.getpid():
            # SQLite's locks do not pass through a fork. Python's own forks close the connection
            # first (`forks`); a copy of memory, or a fork that Python did not see, cannot be saved.
            raise LedgerUnavailable(self.name, "it was open across a fork; open it in the child")
        return slot.connection

    def _connect(self, slot: Slot) -> sqlite3.Connection:
        if self._path is None:
            connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
            write_schema(connection)
            return connection
        # In this order: whoever begins to write in between is seen.
        before, slot.frozen = identity(self._path), is_frozen(self._path)
        # Neither creates a file; an immutable one needs no log, nor the index that one would have.
        mode = "ro&immutable=1" if slot.frozen else "rw"
        connection = sqlite3.connect(
            f"{Path(self._path).as_uri()}?mode={mode}",
            uri=True,
            timeout=self._busy_seconds,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=256,
        )
        try:
            check_schema(connection, self.name)
            connection.execute(f"PRAGMA synchronous = {self._durability}")
            connection.execute(
                "PRAGMA fullfsync = ON"
            )  # macOS: fsync alone does not reach the disk
            connection.execute("PRAGMA cell_size_check = ON")
            connection.execute("PRAGMA trusted_schema = OFF")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA wal_autocheckpoint = 0")  # `_checkpoint` does it
            connection.execute(f"PRAGMA journal_size_limit = {_LOG_BYTES}")
            if slot is self._reader:
                connection.execute("PRAGMA query_only = ON")
            else:
                connection.execute("PRAGMA busy_timeout = 0")  # `_begin` waits, and more fairly
            connection.execute("PRAGMA user_version").fetchone()  # which opens log and index
            slot.path = self._path
            slot.identity = before if slot.frozen else identity(self._path)
            self._refuse_two_logs(slot.identity)
        except OSError as error:
            connection.close()
            raise LedgerUnavailable(self.name, str(error)) from error
        except BaseException:
            connection.close()
            raise
        return connection

    def _begin(self, connection: sqlite3.Connection, deadline: float) -> None:
        """Take SQLite's write lock, or give up at the deadline.

        SQLite's own waiting backs off to 100 ms, so that who has waited long is overtaken by who
        comes late. With 64 processes on 2 cores, pauses of up to 100 ms made some wait 3.6 s, and
        random ones of up to 20 ms about 1 s, at a like throughput. Pauses that shrink below 4 ms
        spend the processor on asking (a tenth of the throughput). A queue by `flock` was fairer
        with 8 processes and not with 64, and cannot be left at a deadline.
        """
        pause = _FIRST_PAUSE
        while True:
            try:
                connection.execute("BEGIN IMMEDIATE")
                return
            except sqlite3.OperationalError as error:
                now = time.monotonic()
                if error.sqlite_errorcode & 0xFF not in _BUSY or now >= deadline:
                    raise
                time.sleep(min(random.uniform(0.5, 1.5) * pause, deadline - now))
                pause = min(2 * pause, _LONGEST_PAUSE)

    def _same_file(self) -> None:
        """Refuse to write into a file that was deleted or swapped: others would not see it."""
        if not self._writer.unchanged:
            raise LedgerCorrupt(self.name, _SWAPPED)

    def _refuse_two_logs(self, found: tuple[int, ...]) -> None:
        """Refuse a file whose log or index was swapped while this process had it open: SQLite gives
        all connections of a process to one file the index that the first of them opened."""
        if any(each[:2] == found[:2] and each != found for each in forks.in_use()):
            raise LedgerCorrupt(self.name, f"{_SWAPPED}; end this process first")

    def _checkpoint(self, connection: sqlite3.Connection) -> None:
        """Now and then, move the write-ahead log into the file, so that it begins anew.

        SQLite's own way, after every commit that finds the log long, hardly ever gets to the end
        while other processes write, and pays for each try: 64 of them left a log of 400 MB. This
        way holds the write lock. A reader of an old state stands in the way for `_CHECKPOINT_WAIT`;
        the log then grows until a later try. Whether it fails or not, what is committed stays so.
        It comes before a transaction, not after one: the first commit into a log begun anew waits
        for the disk too (0.5 ms), and so only one call of two is late.
        """
        due = self._path is not None and _CHANCE.random() * _COMMITS_A_CHECKPOINT <= 1
        if not due or not self._writer.unchanged:  # in that case the log may be another file's
            return
        with suppress(sqlite3.Error):
            connection.execute(f"PRAGMA busy_timeout = {_CHECKPOINT_WAIT}")
            connection.execute("PRAGMA wal_checkpoint(RESTART)")
        connection.execute("PRAGMA busy_timeout = 0")

    def _check(self, connection: sqlite3.Connection) -> None:
        if self._path is None or os.path.getsize(self._path) > _CHECK_AT_OPEN_BYTES:
            return
        [result] = connection.execute("PRAGMA integrity_check(1)").fetchone()
        if result != "ok":
            raise LedgerCorrupt(self.name, str(result))

    def _named(self, error: sqlite3.Error) -> LedgerError:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
        if code in _DAMAGED:
            return LedgerCorrupt(self.name, _WHY.get(code, str(error)))
        return LedgerUnavailable(self.name, _WHY.get(code, str(error)))
