"""A ledger around another one: what it does not change, the other does."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
    from router.ledger.base import Ledger
    from router.log.base import Log


class WrappedLedger:
    """Passes every step of `router.ledger.Ledger` on to `inner`."""

    def __init__(self, inner: Ledger):
        self.inner = inner

    def room(self, scopes: Scopes, now: float) -> Room:
        return self.inner.room(scopes, now)

    def reserve(self, asked: Reservation) -> Hold:
        return self.inner.reserve(asked)

    def settle(
        self, reservation_id: str, row: AttemptRow, end: RequestEnd | None, now: float
    ) -> None:
        self.inner.settle(reservation_id, row, end, now)

    def release(
        self, reservation_id: str, row: AttemptRow, end: RequestEnd | None, now: float
    ) -> None:
        self.inner.release(reservation_id, row, end, now)

    def refuse(self, row: RequestRow) -> None:
        self.inner.refuse(row)

    def finish(self, request_id: str, end: RequestEnd, now: float) -> None:
        self.inner.finish(request_id, end, now)

    def expire(self, now: float) -> int:
        return self.inner.expire(now)

    def recover(self, now: float) -> int:
        return self.inner.recover(now)

    def states(self, now: float) -> list[BudgetState]:
        return self.inner.states(now)

    def budgets(self) -> list[Budget]:
        return self.inner.budgets()

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
        self.inner.set_limit(
            budget, limit, now=now, scope_value=scope_value, keep=keep, by=by, note=note
        )

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
        return self.inner.credit(budget, amount, now=now, scope_value=scope_value, by=by, note=note)

    def audit(self) -> list[Change]:
        return self.inner.audit()

    def verify(self) -> list[str]:
        return self.inner.verify()

    def log(self) -> Log:
        return self.inner.log()

    def unbooked(self) -> int:
        return self.inner.unbooked()

    def close(self) -> None:
        self.inner.close()
