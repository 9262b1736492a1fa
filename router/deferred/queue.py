"""The queue of requests that wait, in a SQLite file: who has which in hand, and how each ended.

Every step is one transaction. What a worker has in hand it leases, and renews while it lives; once
a lease has lapsed another takes over. A step of a worker whose lease was taken changes nothing.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from router.deferred.tables import prepare, storable
from router.errors import ConfigurationError
from router.ledger.sqlite.database import Database
from router.ledger.url import scheme, sqlite_path

State = Literal["waiting", "sending", "batched", "answered", "failed", "cancelled", "collected"]
_COLUMNS = (
    "id, state, submitted, deadline, due, text, answer, kind, why, tries, request_id, batch,"
    " gather_for, no_batch, ended"
)
_FREE = "text = NULL, worker = NULL, lease = 0, gather_for = NULL"
MISSED = "DeadlineMissed"
_MOST_LOST = 10  # a request that its workers die of is not sent for ever: each time may be billed


@dataclass(frozen=True, slots=True)
class Ticket:
    """A queued request. `kind` and `why` say how it failed, or why it still waits."""

    id: str
    state: State
    submitted: float
    deadline: float
    due: float
    text: str | None
    answer: str | None
    kind: str | None
    why: str | None
    tries: int
    request_id: str | None
    batch: str | None
    gather_for: str | None
    no_batch: int
    ended: float | None


class Queue:
    """A queue in the SQLite file of a store URL.

    Raises `ConfigurationError` for a URL of another kind, or of a store in memory; later steps
    raise `LedgerUnavailable` and `LedgerCorrupt` as the ledger's do.
    """

    def __init__(self, url: str, *, durability: str = "full", create: bool = True):
        path = sqlite_path(url) if scheme(url) == "sqlite" else None
        if path is None:
            raise ConfigurationError(
                f"queued requests wait in a SQLite file, and the store is {url.partition('?')[0]}; "
                "name a file for them, as in deferred: {queue: sqlite:///queue.db}"
            )
        self._database = Database(path, durability=durability, busy_seconds=10.0, create=create)
        try:
            self._prepare(create)
        except BaseException:
            self._database.close()
            raise

    def _prepare(self, create: bool) -> None:
        with self._database.write() as connection:
            prepare(connection, self._database.name, create=create)

    def close(self) -> None:
        self._database.close()

    # ── the caller's side ──────────────────────────────────────────────────────────────────────
    def add(self, ticket: str, text: str, now: float, deadline: float) -> None:
        """Put a request into the queue; when this returns it is on the disk."""
        with self._write() as connection:
            connection.execute(
                "INSERT INTO deferred_ticket (id, state, submitted, deadline, due, text)"
                " VALUES (?, 'waiting', ?, ?, ?, ?)",
                (ticket, now, deadline, now, text),
            )

    def ticket(self, ticket: str) -> Ticket | None:
        with self._database.read() as connection:
            return _one(connection, ticket)

    def tickets(self) -> list[Ticket]:
        """All tickets, the oldest first."""
        with self._database.read() as connection:
            rows = connection.execute(
                f"SELECT {_COLUMNS} FROM deferred_ticket ORDER BY submitted, id"
            ).fetchall()
        return [Ticket(*row) for row in rows]

    def collect(self, ticket: str) -> Ticket | None:
        """The ticket; if it was answered, its answer is deleted here with this step."""
        with self._write() as connection:
            found = _one(connection, ticket)
            if found is not None and found.state == "answered":
                connection.execute(
                    "UPDATE deferred_ticket SET state = 'collected', answer = NULL WHERE id = ?",
                    (ticket,),
                )
        return found

    def cancel(self, ticket: str, now: float) -> Ticket | None:
        """Cancel a ticket that waits or is in a batch; return it as it was before."""
        with self._write() as connection:
            found = _one(connection, ticket)
            if found is not None and found.state in ("waiting", "batched"):
                connection.execute(
                    "UPDATE deferred_ticket SET state = 'cancelled', kind = 'Cancelled', why ="
                    f" 'it was cancelled', ended = ?, {_FREE} WHERE id = ?",
                    (now, ticket),
                )
        return found

    # ── the worker's side ──────────────────────────────────────────────────────────────────────
    def tidy(self, now: float, retention: float) -> None:
        """Take back what dead workers had in hand, end what is too late, forget what is old.

        A call whose reply was kept has its answer, though its worker died before the queue was
        told; one without may be made again, as a new request: what the first may have cost is
        charged when its reservation expires.
        """
        with self._write() as connection:
            connection.execute(
                f"UPDATE deferred_ticket SET state = 'answered', ended = ?, {_FREE}"
                " WHERE state = 'sending' AND lease < ? AND answer IS NOT NULL",
                (now, now),
            )
            connection.execute(
                "UPDATE deferred_ticket SET state = 'waiting', due = ?, worker = NULL, lease = 0,"
                " lost = lost + 1 WHERE state = 'sending' AND lease < ?",
                (now, now),
            )
            connection.execute(
                "UPDATE deferred_ticket SET state = 'failed', ended = ?, kind = 'WorkersDied',"
                f" why = lost || ' workers died while they sent it', {_FREE}"
                " WHERE state = 'waiting' AND lost >= ?",
                (now, _MOST_LOST),
            )
            connection.execute(
                "UPDATE deferred_ticket SET state = 'failed', ended = ?,"
                " why = 'no answer by its deadline' || coalesce('; ' || kind || ': ' || why, ''),"
                f" kind = '{MISSED}', {_FREE} WHERE deadline <= ? AND"
                " (state = 'batched' OR (state = 'waiting' AND lease < ?))",
                (now, now, now),
            )
            connection.execute("DELETE FROM deferred_ticket WHERE ended < ?", (now - retention,))
            connection.execute(
                "DELETE FROM deferred_line WHERE batch IN"
                " (SELECT id FROM deferred_batch WHERE state = 'ended' AND made < ?)",
                (now - retention,),
            )
            connection.execute(
                "DELETE FROM deferred_batch WHERE state = 'ended' AND made < ?", (now - retention,)
            )

    def claim(
        self, worker: str, now: float, lease: float, most: int, arm: str | None = None
    ) -> list[Ticket]:
        """Take waiting tickets in hand until `lease`: those that are due, or all that wait for the
        next batch of an arm."""
        which = "gather_for IS NULL AND due <= ?" if arm is None else "gather_for = ?"
        with self._write() as connection:
            rows = connection.execute(
                f"SELECT {_COLUMNS} FROM deferred_ticket WHERE state = 'waiting' AND lease < ?"
                f" AND {which} ORDER BY due, id LIMIT ?",
                (now, now if arm is None else arm, most),
            ).fetchall()
            connection.executemany(
                "UPDATE deferred_ticket SET worker = ?, lease = ? WHERE id = ?",
                [(worker, lease, row[0]) for row in rows],
            )
        return [Ticket(*row) for row in rows]

    def gathered(self, now: float) -> list[str]:
        """The arms whose next batch is due."""
        with self._database.read() as connection:
            rows = connection.execute(
                "SELECT gather_for FROM deferred_ticket WHERE state = 'waiting' AND lease < ?"
                " AND gather_for IS NOT NULL GROUP BY gather_for HAVING min(due) <= ?",
                (now, now),
            ).fetchall()
        return [arm for [arm] in rows]

    def renew(self, worker: str, lease: float) -> None:
        """Keep all that a worker has in hand until `lease`."""
        with self._write() as connection:
            for table in ("deferred_ticket", "deferred_batch"):
                connection.execute(
                    f"UPDATE {table} SET lease = ? WHERE worker = ?", (lease, worker)
                )

    def postpone(
        self,
        ticket: str,
        worker: str,
        due: float,
        *,
        error: tuple[str, str] | None = None,
        gather_for: str | None = None,
        no_batch: bool = False,
    ) -> None:
        """Give a ticket back until `due`; `error` is why it could not be sent, `no_batch` keeps it
        out of batches from now on. A reply that was kept is dropped: the call went on, and came to
        nothing."""
        kind, why = _stored(error)
        with self._write() as connection:
            connection.execute(
                "UPDATE deferred_ticket SET state = 'waiting', answer = NULL, due = ?, kind = ?,"
                " why = ?, gather_for = ?, no_batch = max(no_batch, ?), worker = NULL, lease = 0"
                " WHERE id = ? AND worker = ?",
                (due, kind, why, gather_for, no_batch, ticket, worker),
            )

    def begin(self, ticket: str, worker: str, request_id: str) -> bool:
        """Note that a ticket's call is made now, as this request; False if it is no longer ours."""
        with self._write() as connection:
            return bool(
                connection.execute(
                    "UPDATE deferred_ticket SET state = 'sending', tries = tries + 1,"
                    " request_id = ?, gather_for = NULL WHERE id = ? AND worker = ?"
                    " AND state = 'waiting'",
                    (request_id, ticket, worker),
                ).rowcount
            )

    def keep(self, ticket: str, worker: str, answer: str) -> None:
        """Keep a reply of a call that goes on: it was paid for, whatever happens next."""
        with self._write() as connection:
            connection.execute(
                "UPDATE deferred_ticket SET answer = ? WHERE id = ? AND worker = ?",
                (answer, ticket, worker),
            )

    def finish(
        self,
        ticket: str,
        worker: str,
        now: float,
        *,
        answer: str | None = None,
        error: tuple[str, str] | None = None,
    ) -> None:
        """End a ticket with its answer or its error, and delete the request's text."""
        kind, why = _stored(error)
        with self._write() as connection:
            connection.execute(
                "UPDATE deferred_ticket SET state = ?, answer = ?, kind = ?, why = ?, ended = ?,"
                f" {_FREE} WHERE id = ? AND worker = ?",
                ("answered" if error is None else "failed", answer, kind, why, now, ticket, worker),
            )

    def next_look(self) -> float | None:
        """When something has to be done next, in unix seconds; None where nothing waits."""
        with self._database.read() as connection:
            [moment] = connection.execute(
                "SELECT min(moment) FROM ("
                " SELECT min(max(lease, min(due, deadline))) AS moment FROM deferred_ticket"
                "  WHERE state = 'waiting'"
                " UNION ALL SELECT min(lease) FROM deferred_ticket WHERE state = 'sending'"
                " UNION ALL SELECT min(max(lease, look)) FROM deferred_batch"
                "  WHERE state != 'ended')"
            ).fetchone()
        return None if moment is None else float(moment)

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        """A transaction whose deleted text is overwritten in the file."""
        with self._database.write() as connection:
            connection.execute("PRAGMA secure_delete = ON")
            yield connection

    @property
    def database(self) -> Database:
        """For what is done to batches (`router.deferred.batch_queue`)."""
        return self._database


def _one(connection: sqlite3.Connection, ticket: str) -> Ticket | None:
    row: Sequence[object] | None = connection.execute(
        f"SELECT {_COLUMNS} FROM deferred_ticket WHERE id = ?", (ticket,)
    ).fetchone()
    return None if row is None else Ticket(*row)  # type: ignore[arg-type]


def _stored(error: tuple[str, str] | None) -> tuple[str | None, str | None]:
    return (None, None) if error is None else (error[0], storable(error[1]))
