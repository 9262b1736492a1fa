"""The interface of every ledger: money is reserved before a call, and settled or released after.

    room → reserve → (the wire attempt) → settle | release          expire: the process died

A reservation is for one wire attempt. It is open until it is settled at the attempt's cost,
released because the attempt was not billed, or expired: then it is charged in full, since a
provider that was asked may bill. Evidence that comes after the expiry corrects it, once. Each step
is one transaction that writes the log's rows too, so the log and the budgets never disagree.

`now` and `expires_at` are unix seconds; money is nano-USD.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from router.types import (
    AttemptRow,
    Budget,
    BudgetState,
    Change,
    Hold,
    RequestEnd,
    RequestRow,
    Reservation,
    Room,
    Scopes,
)

if TYPE_CHECKING:
    from router.log.base import Log


class Ledger(Protocol):
    """Budgets and the log that proves them. Safe to share between threads; calls may block.

    Every method raises `LedgerUnavailable` when the store does not answer in time or cannot be
    written, and `LedgerCorrupt` when its contents cannot be trusted. Then nothing has changed,
    unless it was a server's answer that was lost: a step may be asked again with the same id.
    """

    def room(self, scopes: Scopes, now: float) -> Room:
        """What the budgets of these scopes allow now. A hint: only `reserve` binds."""
        ...

    def reserve(self, asked: Reservation) -> Hold:
        """Hold what is asked in every budget that matches the scopes, each what it counts, or in
        none.

        Repeating an open reservation with the same amount returns the same hold.
        Raises `BudgetExceeded` naming the first budget without room, and `ReservationError` for an
        id that was used with another amount or has ended.
        """
        ...

    def settle(
        self, reservation_id: str, row: AttemptRow, end: RequestEnd | None, now: float
    ) -> None:
        """End a reservation at `row.cost`; `end` also ends the request.

        A cost of None (no price is known) counts as 0, unknown tokens as all that were reserved.
        A cost above the amount is booked in full, as an overrun. Settling again at the same cost
        changes nothing; at another, or an unknown reservation, is a `ReservationError`. An expired
        reservation is corrected, once.
        """
        ...

    def release(
        self, reservation_id: str, row: AttemptRow, end: RequestEnd | None, now: float
    ) -> None:
        """End a reservation whose attempt is not billed. The same rules as `settle` at cost 0."""
        ...

    def refuse(self, row: RequestRow) -> None:
        """Log a request that was refused before any reservation."""
        ...

    def finish(self, request_id: str, end: RequestEnd, now: float) -> None:
        """End a request whose last attempt has ended already."""
        ...

    def expire(self, now: float) -> int:
        """Charge every open reservation past its time in full; return how many there were."""
        ...

    def budgets(self) -> list[Budget]:
        """The budgets that are defined in the store, by name."""
        ...

    def recover(self, now: float) -> int:
        """Replay what processes that are gone could not write; return how many there were."""
        ...

    def states(self, now: float) -> list[BudgetState]:
        """The current window of every budget defined in the store, for each scope value seen."""
        ...

    def set_limit(
        self,
        budget: str,
        limit: int | None,
        *,
        now: float,
        scope_value: str | None = None,
        keep: bool = True,
        by: str = "",
        note: str = "",
    ) -> None:
        """Put `limit` (None for unlimited) in the place of a budget's own, in every process.

        Usage is kept. `scope_value`: of that value alone. `keep` False takes an earlier limit back.
        Writes an audit entry: `by`, who did it, and `note`, why. Raises `ConfigurationError` for an
        unknown budget or an impossible limit, `InvalidRequest` for an impossible scope value.
        """
        ...

    def credit(
        self,
        budget: str,
        amount: int,
        *,
        now: float,
        scope_value: str = "",
        by: str = "",
        note: str = "",
    ) -> int:
        """Take back up to `amount` of what is settled in the current window; return how much.

        Of a rolling window, what was settled last is taken back first. Writes an audit entry and
        raises as `set_limit` does.
        """
        ...

    def audit(self) -> list[Change]:
        """What people did to the budgets (`set_limit`, `credit`), oldest first."""
        ...

    def verify(self) -> list[str]:
        """Recompute every counter from the store's entries and rows; [] when all agree."""
        ...

    def log(self) -> Log:
        """The log that this ledger writes, to read and to label."""
        ...

    def unbooked(self) -> int:
        """How many calls were sent without asking while the store was away, and are not yet in it.

        None are unless the policy says `on_outage: open`.
        """
        ...

    def close(self) -> None:
        """Close the store; using it afterwards is `LedgerUnavailable`."""
        ...
