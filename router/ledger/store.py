"""What a store has to do, one atomic step each; every rule that can be kept out of it is.

`BudgetLedger` checks, works out who pays from which window, and words the errors. A store admits
all of a reservation or nothing of it, moves a reservation on exactly once, and writes the log's
rows in the same step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from router.ledger.matching import Amounts, Take
from router.types import Budget, Change, RequestEnd

if TYPE_CHECKING:
    from router.log.base import Log


class NewHold(NamedTuple):
    """A reservation to make. Rows are lists in the order of the log's columns. `is_new` as in
    `router.types.Reservation`."""

    reservation_id: str
    request_id: str
    number: int
    amounts: Amounts
    now: float
    expires_at: float
    takes: tuple[Take, ...]
    worst_case: list[Any]
    request: list[Any] | None
    is_new: bool = False


@dataclass(frozen=True, slots=True)
class Denied:
    """The take at `position` had no room. `settled` and `held` are of all windows that count,
    `limit` is the one in force, `oldest` the first window with any of them."""

    position: int
    settled: int
    held: int
    limit: int
    seen: int
    window_id: str
    resets_at: float | None
    oldest: str


@dataclass(frozen=True, slots=True)
class Known:
    """A reservation of this id exists."""

    state: str
    amounts: Amounts
    expires_at: float


@dataclass(frozen=True, slots=True)
class Invalid:
    """The reservation contradicts the log."""

    problem: str


class Ending(NamedTuple):
    """How a reservation ends: at `amounts` (`tokens` None: as many as were reserved)."""

    reservation_id: str
    request_id: str
    number: int
    billed: bool
    usd: int
    tokens: int | None
    attempt: list[Any]
    end: RequestEnd | None
    now: float


@dataclass(frozen=True, slots=True)
class NotOpen:
    """The reservation is unknown (state "unknown"), of another attempt, or has ended before."""

    state: str
    booked: int = 0  # nano-USD
    request_id: str = ""
    number: int = 0


@dataclass(frozen=True, slots=True)
class Counters:
    """An account over the windows that count. `limit` is None where the budget's own holds;
    -1 stands for unlimited. `oldest`: the first window with anything in it."""

    window_id: str
    settled: int
    held: int
    overrun: int
    seen: int
    limit: int | None
    resets_at: float | None
    oldest: str


@dataclass(frozen=True, slots=True)
class Drawn:
    """One call that was paid out of a lease: a reservation that was held and has ended.

    `amounts` were set aside for it, it took `usd` and `tokens`. `request` is its request's row; one
    that is there already stays.
    """

    reservation_id: str
    request_id: str
    number: int
    state: Literal["settled", "released", "expired"]
    amounts: Amounts
    usd: int
    tokens: int
    attempt: list[Any]
    request: list[Any] | None
    end: RequestEnd | None
    expires_at: float
    now: float

    @property
    def inside(self) -> Amounts:
        """What of it the lease covers; the rest is an overrun."""
        return Amounts(min(self.usd, self.amounts.usd), min(self.tokens, self.amounts.tokens))


@dataclass(frozen=True, slots=True)
class Draw:
    """Calls move out of a lease, and it is renewed.

    `keep`: nano-USD and tokens that the lease holds afterwards; what neither the calls took nor is
    kept goes back to the budgets. `worst_case`: the attempt row of a lease that holds `keep`.
    """

    lease_id: str
    calls: tuple[Drawn, ...]
    keep: Amounts
    expires_at: float
    worst_case: list[Any]
    now: float


class Store(Protocol):
    """Where a ledger keeps its counters. Safe to share between threads; calls may block.

    Every method raises `LedgerUnavailable` when the store does not answer in time or cannot be
    written, and `LedgerCorrupt` when its contents cannot be trusted. Then nothing has changed,
    unless it was a server's answer that was lost: a step may be asked again with the same id.
    """

    name: str

    def define(self, budgets: Sequence[Budget]) -> None:
        """Write down the budgets, so that a store can be read without its policy."""
        ...

    def hold(self, new: NewHold) -> Denied | Known | Invalid | None:
        """Hold the takes' amounts, all or none; None where they are held."""
        ...

    def end(self, ending: Ending) -> NotOpen | None:
        """End an open reservation, or correct an expired one; None where that was done."""
        ...

    def draw(self, step: Draw) -> str:
        """Move calls out of a lease, which is a reservation like any other, in one step.

        Each call appears as a reservation that has ended, in the lease's own accounts, with its
        rows; calls that are there already are passed over, so that a step whose reply was lost can
        be repeated. The lease's amounts become `keep`. Of an open lease, what it held falls to
        that; of an expired one, what it was charged.
        Returns the lease's state: "open" or "expired" where all was done. Nothing was where it is
        another: "unknown" for no such lease, "short" for one that does not hold what was taken and
        kept.
        """
        ...

    def refuse(self, request: list[Any]) -> str | None:
        """Log a request that was refused; the status of one with this id that is there already."""
        ...

    def finish(self, request_id: str, end: RequestEnd, now: float) -> bool:
        """End a request; False for one that is not in the log."""
        ...

    def expire(self, now: float) -> int:
        """Charge every open reservation past its time in full; return how many there were."""
        ...

    def read(self, takes: Sequence[Take]) -> list[Counters]:
        """The counters of accounts, at one moment."""
        ...

    def defined(self) -> list[Budget]:
        """The budgets that were written down, by name."""
        ...

    def scope_values(self, budget: str) -> list[str]:
        """The scope values that a budget has counters for."""
        ...

    def set_limit(
        self, budget: str, scope_value: str | None, limit: int | None, now: float, note: str
    ) -> None:
        """Put a limit (-1 for unlimited, None to take it back) in the place of the policy's own,
        for one scope value or, with None, for all; with an audit entry."""
        ...

    def credit(self, take: Take, amount: int, now: float, note: str) -> int:
        """Take back up to `amount` of what is settled in the windows that count, from the latest
        back; return how much. With an audit entry.

        Of an attempt that was charged when it expired, a correction may follow: then `settled` of
        a window may fall below 0, by no more than what was credited there.
        """
        ...

    def audit(self) -> list[Change]:
        """The entries of `set_limit` and `credit`, oldest first, `note` as given and no `by`."""
        ...

    def verify(self) -> list[str]:
        """Recompute every counter from entries and rows; [] when all agree."""
        ...

    def log(self) -> Log:
        """The log beside the counters."""
        ...

    def close(self) -> None:
        """Close the store; using it afterwards is `LedgerUnavailable`."""
        ...
