"""What is done to batches in a queue's file: each step is one transaction.

A batch is written down before anything of it is reserved or sent (`forming`), then before it goes
to the provider (`sending`), then with the provider's id (`sent`). Whoever finds one that a dead
worker left knows by its state what may have happened.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from router.deferred.tables import storable
from router.ledger.sqlite.database import Database

BatchState = Literal["forming", "sending", "sent", "cancelling", "ended"]


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch: `place` is JSON of where it went, `made` unix seconds."""

    id: str
    state: BatchState
    place: str
    provider_id: str | None
    made: float


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a batch: the request's id in the log, its ticket, and what it is settled on."""

    request_id: str
    ticket: str
    terms: str


class BatchQueue:
    """The batches in the file of a queue, for one worker."""

    def __init__(self, database: Database, worker: str):
        self._database, self._worker = database, worker

    def form(
        self, batch: str, place: str, lines: Sequence[Line], now: float, lease: float
    ) -> list[str]:
        """Write down a batch of tickets that this worker has in hand; return the tickets that are
        in it, since others may have been cancelled meanwhile."""
        with self._database.write() as connection:
            mine = [
                line
                for line in lines
                if connection.execute(
                    "UPDATE deferred_ticket SET state = 'batched', batch = ?, request_id = ?,"
                    " tries = tries + 1, worker = NULL, lease = 0, gather_for = NULL"
                    " WHERE id = ? AND worker = ? AND state = 'waiting'",
                    (batch, line.request_id, line.ticket, self._worker),
                ).rowcount
            ]
            connection.executemany(
                "INSERT INTO deferred_line (request_id, batch, ticket, terms) VALUES (?, ?, ?, ?)",
                [(line.request_id, batch, line.ticket, line.terms) for line in mine],
            )
            connection.execute(
                "INSERT INTO deferred_batch (id, state, place, made, look, worker, lease)"
                " VALUES (?, 'forming', ?, ?, ?, ?, ?)",
                (batch, place, now, now, self._worker, lease),
            )
        return [line.ticket for line in mine]

    def move(
        self,
        batch: str,
        state: BatchState,
        *,
        look: float = 0.0,
        provider_id: str | None = None,
        release: bool = False,
    ) -> bool:
        """Move a batch to a state; False if another worker has it. `release` gives it back, to be
        looked at again from `look` on."""
        with self._database.write() as connection:
            return bool(
                connection.execute(
                    "UPDATE deferred_batch SET state = ?, look = ?,"
                    " provider_id = coalesce(?, provider_id),"
                    " worker = CASE WHEN ? THEN NULL ELSE worker END,"
                    " lease = CASE WHEN ? THEN 0 ELSE lease END WHERE id = ? AND worker = ?",
                    (state, look, provider_id, release, release, batch, self._worker),
                ).rowcount
            )

    def is_ours(self, batch: str, until: float) -> bool:
        """Whether this worker has a batch in hand until then at least."""
        with self._database.read() as connection:
            row = connection.execute(
                "SELECT 1 FROM deferred_batch WHERE id = ? AND worker = ? AND lease >= ?",
                (batch, self._worker, until),
            ).fetchone()
        return row is not None

    def claim(self, now: float, lease: float) -> list[Batch]:
        """Take in hand the batches that are to be looked at."""
        with self._database.write() as connection:
            rows = connection.execute(
                "SELECT id, state, place, provider_id, made FROM deferred_batch"
                " WHERE state != 'ended' AND look <= ? AND lease < ? ORDER BY look LIMIT 20",
                (now, now),
            ).fetchall()
            connection.executemany(
                "UPDATE deferred_batch SET worker = ?, lease = ? WHERE id = ?",
                [(self._worker, lease, row[0]) for row in rows],
            )
        return [Batch(*row) for row in rows]

    def open_lines(self, batch: str) -> dict[str, Line]:
        """The lines that have not been settled or released, by the request's id."""
        with self._database.read() as connection:
            rows = connection.execute(
                "SELECT request_id, ticket, terms FROM deferred_line WHERE batch = ? AND done = 0",
                (batch,),
            ).fetchall()
        return {row[0]: Line(*row) for row in rows}

    def first_deadline(self, batch: str) -> float | None:
        """The earliest deadline of the tickets that wait for a batch."""
        with self._database.read() as connection:
            [found] = connection.execute(
                "SELECT min(deadline) FROM deferred_ticket WHERE batch = ? AND state = 'batched'",
                (batch,),
            ).fetchone()
        return None if found is None else float(found)

    def answered(self, batch: str, line: Line, answer: str, now: float) -> bool:
        """A line was settled: its ticket has its answer, unless it has ended already."""
        return self._end(
            batch, line, "state = 'answered', answer = ?, kind = NULL, why = NULL, ended = ?,"
            " text = NULL", (answer, now),
        )  # fmt: skip

    def refused(self, batch: str, line: Line, error: tuple[str, str], now: float) -> bool:
        """A line was refused as any call like it would be: its ticket has failed."""
        return self._end(
            batch, line, "state = 'failed', kind = ?, why = ?, ended = ?, text = NULL",
            (error[0], storable(error[1]), now),
        )  # fmt: skip

    def returned(
        self, batch: str, line: Line, error: tuple[str, str], due: float, *, again: bool
    ) -> bool:
        """A line was not answered: its ticket waits, for another batch only if `again`."""
        return self._end(
            batch, line, "state = 'waiting', kind = ?, why = ?, due = ?, no_batch = ?,"
            " batch = NULL", (error[0], storable(error[1]), due, int(not again)),
        )  # fmt: skip

    def _end(self, batch: str, line: Line, change: str, values: tuple[object, ...]) -> bool:
        with self._database.write() as connection:
            connection.execute("PRAGMA secure_delete = ON")  # the text of a request that ends
            connection.execute(
                "UPDATE deferred_line SET done = 1 WHERE request_id = ?", (line.request_id,)
            )
            return bool(
                connection.execute(
                    f"UPDATE deferred_ticket SET {change}"
                    " WHERE id = ? AND batch = ? AND state = 'batched'",
                    (*values, line.ticket, batch),
                ).rowcount
            )
