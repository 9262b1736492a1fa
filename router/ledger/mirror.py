"""A durable copy of a ledger whose counters live elsewhere: it does the same steps, in their order.

A store that keeps counters in memory (Redis) queues every step that it did. A mirror does these
steps again, each once, in a store of its own, which is thereby a complete ledger: it has the log,
proves the counters, and can rebuild them. Whatever a step was allowed there, it is allowed here,
because the counters are the same; a mirror that must refuse one has found that they are not.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING, Any, Protocol

from router.errors import ConfigurationError
from router.ledger.matching import Amounts, Take
from router.ledger.store import Draw, Drawn, Ending, NewHold
from router.log.writer import to_json
from router.types import Budget, Change, RequestEnd

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

    def contents(self, *, ended_since: float | None = None) -> Contents:
        """Everything at one moment. Of reservations, those that are open or expired, and those that
        ended less than `ended_since` seconds before the latest step (None: no others)."""
        ...

    def move(self, place: Place) -> None:
        """Write down another place: the ledger was rebuilt."""
        ...

    def audit(self) -> list[Change]:
        """What people did to budgets, oldest first."""
        ...

    def verify(self) -> list[str]:
        """What does not agree within the copy; [] when all does."""
        ...

    def log(self, drain: Callable[[], object], finish: Callable[[], object]) -> Log:
        """The log, which calls `drain` before it is read, and `finish` when it is closed."""
        ...

    def close(self) -> None: ...


def open_mirror(url: str, *, durability: str, busy_seconds: float, create: bool) -> Mirror:
    """Open the store at `url` as a copy. Raises as `open_ledger` does."""
    scheme = url.partition("://")[0]
    if scheme != "sqlite":
        raise ConfigurationError(
            f"log={scheme}://… cannot be the log of a ledger in Redis; allowed: sqlite:///log.db"
        )
    from router.ledger.sqlite.mirror import SqliteMirror
    from router.ledger.url import sqlite_path

    path = sqlite_path(url)
    if path is None:
        raise ConfigurationError("the log of a ledger in Redis must be a file; name one")
    return SqliteMirror(path, durability=durability, busy_seconds=busy_seconds, create=create)


# ── what is queued ───────────────────────────────────────────────────────────────────────────────
def held(new: NewHold) -> str:
    """A hold, to be queued."""
    return to_json(
        [
            new.reservation_id,
            new.request_id,
            new.number,
            new.amounts.usd,
            new.amounts.tokens,
            new.now,
            new.expires_at,
            [astuple(take) for take in new.takes],
            new.worst_case,
            new.request,
        ]
    )


def ended(ending: Ending) -> str:
    """The end of a reservation, to be queued."""
    return to_json(
        [
            ending.reservation_id,
            ending.request_id,
            ending.number,
            ending.billed,
            ending.usd,
            ending.tokens,
            ending.attempt,
            None if ending.end is None else astuple(ending.end),
            ending.now,
        ]
    )


def drawn(step: Draw) -> str:
    """Calls that move out of a lease, to be queued."""
    return to_json(
        [
            step.lease_id,
            [_call(call) for call in step.calls],
            astuple(step.keep),
            step.expires_at,
            step.worst_case,
            step.now,
        ]
    )


def _call(call: Drawn) -> list[Any]:
    return [
        *(call.reservation_id, call.request_id, call.number, call.state, astuple(call.amounts)),
        *(call.usd, call.tokens, call.attempt, call.request),
        *(None if call.end is None else astuple(call.end), call.expires_at, call.now),
    ]


def read_draw(values: Sequence[Any]) -> Draw:
    lease_id, calls, keep, expires_at, worst_case, now = values
    return Draw(
        lease_id, tuple(map(_read_call, calls)), Amounts(*keep), expires_at, worst_case, now
    )


def _read_call(values: Sequence[Any]) -> Drawn:
    name, request, number, state, amounts, usd, tokens, attempt, row, end, *times = values
    return Drawn(
        name, request, number, state, Amounts(*amounts), usd, tokens, attempt, row,
        request_end(end), *times,
    )  # fmt: skip


def read_budget(values: Mapping[str, Any]) -> Budget:
    return Budget(**{**values, "when": tuple((name, value) for name, value in values["when"])})


def read_hold(values: Sequence[Any]) -> NewHold:
    reservation, request, number, usd, tokens, now, expires_at, takes, worst, row = values
    return NewHold(
        reservation,
        request,
        number,
        Amounts(usd, tokens),
        now,
        expires_at,
        tuple(Take(*take) for take in takes),
        worst,
        row,
    )


def read_end(values: Sequence[Any]) -> Ending:
    reservation, request, number, billed, usd, tokens, attempt, end, now = values
    return Ending(reservation, request, number, billed, usd, tokens, attempt, request_end(end), now)


def request_end(values: Sequence[Any] | None) -> RequestEnd | None:
    return None if values is None else RequestEnd(*values)


def payload(event: Event) -> Any:
    """What an event says, as plain values."""
    return json.loads(event.payload)


def by_name(contents: Contents) -> Mapping[tuple[str, str, str], Copied]:
    """The accounts by budget, scope value and window."""
    return {(a.budget, a.scope_value, a.window_id): a for a in contents.accounts}
