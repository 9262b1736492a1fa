"""A durable copy of a ledger whose counters live elsewhere: it does the same steps, in their order.

A store that keeps counters in memory (Redis) queues every step that it did. A mirror does these
steps again, each once, in a store of its own, which is thereby a complete ledger: it has the log,
proves the counters, remembers what the counters' store has forgotten, and can rebuild it. Whatever
a step was allowed there, it is allowed here, because the counters are the same; a mirror that must
refuse one has found that they are not.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from router.ledger import lines
from router.ledger.matching import Amounts, Take
from router.ledger.store import Draw
from router.log.writer import to_json
from router.types import Budget, Change

if TYPE_CHECKING:
    from router.log.base import Log


@dataclass(frozen=True, slots=True)
class Place:
    """How far a copy has come: step `position` of a generation of a ledger, which was done in `run`
    of its server."""

    ledger: str
    generation: str
    run: str
    position: int


@dataclass(frozen=True, slots=True)
class Event:
    """A step that was done: its number, its kind, and what it was, as JSON."""

    seq: int
    kind: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class Copied:
    """An account as the copy has it."""

    budget: str
    scope_value: str
    window_id: str
    settled: int
    held: int
    overrun: int
    seen: int
    credited: int


@dataclass(frozen=True, slots=True)
class Kept:
    """A reservation as the copy has it. `pays`: (budget, scope value, window, meter) of each."""

    reservation_id: str
    request_id: str
    number: int
    state: str
    amounts: Amounts
    actual: int | None
    expires_at: float
    pays: tuple[tuple[str, str, str, str], ...]
    request_status: str


@dataclass(frozen=True, slots=True)
class Contents:
    """All that counters can be rebuilt from. `clocks`: (budget, kind, window, resets at);
    `limits`: (budget, scope value or None, limit)."""

    place: Place
    accounts: tuple[Copied, ...]
    clocks: tuple[tuple[str, str, str, float | None], ...]
    limits: tuple[tuple[str, str | None, int], ...]
    budgets: tuple[Budget, ...]
    reservations: tuple[Kept, ...]


@dataclass(frozen=True, slots=True)
class Past:
    """What the copy knows of one reservation; `booked` in nano-USD."""

    state: str
    amounts: Amounts
    booked: int
    request_id: str
    number: int
    expires_at: float


@dataclass(frozen=True, slots=True)
class Memory:
    """What the copy knows of some ids, having come as far as `position`.

    `request` is the status of the request that was asked about, `taken` whether its attempt is
    another reservation's already. `accounts`, by budget, scope value and window: an account that
    never was is all zeros.
    """

    position: int
    reservations: Mapping[str, Past]
    request: str | None = None
    taken: bool = False
    accounts: Mapping[tuple[str, str, str], Copied] = field(default_factory=dict)


class Mirror(Protocol):
    """A copy of one ledger. Safe to share between threads and processes."""

    def place(self) -> Place | None:
        """How far it has come, None for a copy of nothing yet."""
        ...

    def begin(self, place: Place) -> Place:
        """Begin as the copy of a ledger, if it is of none yet; return whose it is.

        Raises `ConfigurationError` for a store that is a ledger of its own.
        """
        ...

    def apply(self, events: Sequence[Event], run: str) -> None:
        """Do the steps that were not done yet, all or none, in one transaction with the place.

        Raises `LedgerCorrupt` where steps are missing, or one comes out otherwise here.
        """
        ...

    def force(self, events: Sequence[Event]) -> None:
        """Do steps of which nobody knows whether they were done, before a rebuild: each that is
        new, even above a limit, since the money is spent. The place stays."""
        ...

    def memory(
        self,
        reservation_ids: Sequence[str] = (),
        request_id: str | None = None,
        number: int = 0,
        accounts: Iterable[tuple[str, str, str]] = (),
    ) -> Memory:
        """What it knows of these reservations and accounts, and of attempt `number` of a
        request."""
        ...

    def scope_values(self, budget: str) -> list[str]:
        """The scope values that a budget has accounts for, as far as the copy has come."""
        ...

    def contents(self, *, ended_since: float | None = None) -> Contents:
        """Everything at one moment. Of reservations, those that are open or expired, and those that
        ended less than `ended_since` seconds before the latest step (None: no others)."""
        ...

    def move(self, place: Place) -> None:
        """Write down another place: the ledger was rebuilt."""
        ...

    def audit(self) -> list[Change]:
        """What people did to the budgets, as `Store.audit`, as far as the copy has come."""
        ...

    def verify(self) -> list[str]:
        """What does not agree within the copy; [] when all does."""
        ...

    def log(self) -> Log:
        """The log, as far as the copy has come."""
        ...

    def close(self) -> None: ...


# ── what is queued: steps as JSON, and back ──────────────────────────────────────────────────────
def drawn(step: Draw) -> str:
    """A draw, to which the lease's state is added once it is known."""
    return to_json(
        [
            step.lease_id,
            [json.loads(lines.done_line(step.lease_id, call)) for call in step.calls],
            [step.keep.usd, step.keep.tokens],
            step.expires_at,
            step.worst_case,
            step.now,
        ]
    )


def read_draw(values: Sequence[Any]) -> Draw:
    lease_id, calls, keep, expires_at, worst_case, now = values
    return Draw(
        lease_id,
        tuple([lines.drawn_of(call) for call in calls]),
        Amounts(*keep),
        expires_at,
        worst_case,
        now,
    )


def credited(take: Take, amount: int, now: float, note: str) -> str:
    """A credit, to which is added how much was given."""
    return to_json([take, amount, now, note])
