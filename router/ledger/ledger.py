"""The ledger over any store: checks, who pays, and what is said when there is no room."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from router.errors import BudgetExceeded, ConfigurationError, InvalidRequest, ReservationError
from router.ledger.matching import (
    Account,
    Amounts,
    Take,
    accounts_of,
    check_limit,
    check_value,
    checked,
)
from router.ledger.store import Counters, Denied, Ending, Invalid, Known, NewHold, Store
from router.ledger.windows import bucket_leaves
from router.log.writer import attempt_values, request_values
from router.money import MAX_NANO
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
    allowed,
)

if TYPE_CHECKING:
    from router.log.base import Log

UNLIMITED = -1  # a limit that was set to none
_STATES_AT_ONCE = 500  # accounts, so that a server answers in time however many there are


class BudgetLedger:
    """A `router.ledger.Ledger` over a `Store`.

    Parameters: `budgets`, the limits that this process enforces; `define`, whether they are written
    down in the store (which finds out whether it can be written).
    """

    def __init__(self, store: Store, budgets: Sequence[Budget] = (), *, define: bool = True):
        self.store = store
        try:
            self.enforced = checked(budgets)
            if define:
                self._check_meters()
                store.define(self.enforced)
        except BaseException:
            store.close()
            raise

    def _check_meters(self) -> None:
        """Refuse to read what was counted in one unit as an amount of another."""
        before = {budget.name: budget.meter for budget in self.store.defined()}
        for budget in self.enforced:
            name, meter = budget.name, budget.meter
            was = before.get(name, meter)
            if was != meter and self._is_used(name):
                raise ConfigurationError(
                    f"budget {name!r} counts {meter}, and {self.store.name} has counted {was} "
                    f"under this name; give it another name, or let it count {was} again"
                )

    def _is_used(self, name: str) -> bool:
        """Whether the store keeps amounts of a budget: counters, or what a person changed."""
        return bool(self.store.scope_values(name)) or any(
            change.budget == name for change in self.store.audit()
        )

    def room(self, scopes: Scopes, now: float) -> Room:
        accounts = [account for account in accounts_of(self.enforced, scopes) if account.counts]
        return Room(tuple(self.states_of(accounts, now))) if accounts else Room()

    def reserve(self, asked: Reservation) -> Hold:
        new, accounts = self.new_hold(asked)
        found = self.store.hold(new)
        if found is None:
            return Hold(asked.reservation_id, asked.amount, asked.expires_at, asked.tokens)
        if isinstance(found, Denied):
            raise _exceeded(accounts[found.position].budget, new.takes[found.position], found)
        if isinstance(found, Invalid):
            raise ReservationError(asked.reservation_id, "new", found.problem)
        return _repeated(asked.reservation_id, new.amounts, found)

    def new_hold(self, asked: Reservation) -> tuple[NewHold, list[Account]]:
        """What a store is asked for a reservation, and the accounts of its takes, in their order.

        Raises `ReservationError` for one that contradicts itself.
        """
        check_reserve(asked)
        accounts, amounts = (
            accounts_of(self.enforced, asked.scopes),
            Amounts(asked.amount, asked.tokens),
        )
        new = NewHold(
            asked.reservation_id,
            asked.worst_case.request_id,
            asked.worst_case.number,
            amounts,
            asked.now,
            asked.expires_at,
            tuple([account.take(amounts, asked.now) for account in accounts]),
            attempt_values(asked.worst_case),
            None if asked.request is None else request_values(asked.request),
            asked.is_new,
        )
        return new, accounts

    def settle(
        self, reservation_id: str, row: AttemptRow, end: RequestEnd | None, now: float
    ) -> None:
        self._end(ending_of(reservation_id, row, end, now, billed=True))

    def release(
        self, reservation_id: str, row: AttemptRow, end: RequestEnd | None, now: float
    ) -> None:
        if row.cost:
            raise ReservationError(
                reservation_id, "open", f"a released attempt costs 0, not {row.cost}; settle it"
            )
        self._end(ending_of(reservation_id, row, end, now, billed=False))

    def refuse(self, row: RequestRow) -> None:
        status = self.store.refuse(request_values(row))
        if status not in (None, row.status):  # the same refusal again is a lost reply
            raise ReservationError(
                row.request_id, str(status), "the request is in the log already; finish it"
            )

    def finish(self, request_id: str, end: RequestEnd, now: float) -> None:
        if not self.store.finish(request_id, end, now):
            raise ReservationError(request_id, "unknown", "no such request is in the log")

    def expire(self, now: float) -> int:
        return self.store.expire(now)

    def budgets(self) -> list[Budget]:
        return self.store.defined()

    def recover(self, now: float) -> int:
        return 0

    def states(self, now: float) -> list[BudgetState]:
        accounts = []
        for budget in self.store.defined():
            if budget.scope == "global" or budget.value is not None:
                values = [budget.value or ""]
            else:
                values = self.store.scope_values(budget.name)
            accounts += [Account(budget, value) for value in values]
        parts = range(0, len(accounts), _STATES_AT_ONCE)
        return [
            state
            for at in parts
            for state in self.states_of(accounts[at : at + _STATES_AT_ONCE], now)
        ]

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
        known = self._defined(budget)
        if limit is not None:
            check_limit(known, limit)
        _check_whose(known, scope_value)
        wanted = (UNLIMITED if limit is None else limit) if keep else None
        self.store.set_limit(budget, scope_value, wanted, now, _signed(by, note))

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
        known = self._defined(budget)
        if type(amount) is not int or not 0 <= amount <= MAX_NANO:
            raise InvalidRequest(
                "amount",
                f"budget {budget!r}: {amount!r} is not an amount",
                value=amount,
                allowed="an integer from 0 to 2**53",
            )
        _check_whose(known, scope_value)
        take = Account(known, scope_value).take(Amounts(), now)
        return self.store.credit(take, amount, now, _signed(by, note))

    def audit(self) -> list[Change]:
        return [_unsigned(change) for change in self.store.audit()]

    def verify(self) -> list[str]:
        return self.store.verify()

    def log(self) -> Log:
        return self.store.log()

    def unbooked(self) -> int:
        return 0

    def close(self) -> None:
        self.store.close()

    def _defined(self, name: str) -> Budget:
        known = {budget.name: budget for budget in self.store.defined()}
        if name not in known:
            raise ConfigurationError(
                f"budget {name!r} is unknown in {self.store.name}; known: "
                f"{', '.join(known) or 'none'}"
            )
        return known[name]

    def states_of(self, accounts: Sequence[Account], now: float) -> list[BudgetState]:
        """The states of some accounts, in their order, at one moment."""
        if not accounts:
            return []
        counters = self.store.read([account.take(Amounts(), now) for account in accounts])
        return [_state(*both) for both in zip(accounts, counters, strict=True)]

    def _end(self, ending: Ending) -> None:
        check_reserved(ending.reservation_id, ending.usd)
        found = self.store.end(ending)
        if found is None:
            return
        if found.state == "unknown":
            problem = "it was never reserved here"
        elif (ending.request_id, ending.number) != (found.request_id, found.number):
            problem = f"it is for attempt {found.number} of request {found.request_id}"
        elif found.booked != ending.usd:
            problem = f"it ended at {found.booked} nano-USD, so not at {ending.usd}"
        else:
            return  # at the same amount it is asked again after a lost reply
        raise ReservationError(ending.reservation_id, found.state, problem)


def ending_of(
    reservation_id: str, row: AttemptRow, end: RequestEnd | None, now: float, *, billed: bool
) -> Ending:
    """How a reservation ends by its attempt's row: at its cost, or at nothing if not `billed`."""
    return Ending(
        reservation_id,
        row.request_id,
        row.number,
        billed,
        (row.cost or 0) if billed else 0,
        tokens_of(row) if billed else 0,
        attempt_values(row),
        end,
        now,
    )


def _state(account: Account, found: Counters) -> BudgetState:
    limit = account.budget.limit
    if found.limit is not None:
        limit = None if found.limit == UNLIMITED else found.limit
    return BudgetState(
        budget=account.budget,
        scope_value=account.value,
        window_id=found.window_id,
        settled=found.settled,
        held=found.held,
        overrun=found.overrun,
        resets_at=_falls(account.budget, found.oldest, found.resets_at),
        seen=found.seen,
        limit=limit,
    )


def _falls(budget: Budget, oldest: str, resets_at: float | None) -> float | None:
    """When usage next falls: a rolling window's does when its oldest part leaves."""
    return bucket_leaves(budget, oldest) if budget.window == "rolling" and oldest else resets_at


def _exceeded(budget: Budget, take: Take, denied: Denied) -> BudgetExceeded:
    return BudgetExceeded(
        budget.name,
        needed=take.amount,
        used=denied.settled,
        held=denied.held,
        limit=allowed(budget.meter, denied.limit, denied.seen),
        scope_value=take.scope_value,
        resets_at=_falls(budget, denied.oldest, denied.resets_at),
        meter=budget.meter,
        on_exceed=budget.on_exceed,
    )


def _signed(by: str, note: str) -> str:
    """The note of an audit entry, as stores keep it: who and why."""
    return f"{by.replace(':', ' ')}: {note}"


def _unsigned(change: Change) -> Change:
    by, _, note = change.note.partition(": ")
    return replace(change, by=by, note=note)


def _repeated(reservation_id: str, amounts: Amounts, known: Known) -> Hold:
    """Answer a reservation that exists already: the reply to the first asking may be lost."""
    if (known.amounts.usd, known.amounts.tokens) != (amounts.usd, amounts.tokens):
        raise ReservationError(
            reservation_id,
            known.state,
            f"it holds {known.amounts.usd} nano-USD and {known.amounts.tokens} tokens, not "
            f"{amounts.usd} and {amounts.tokens}",
            held=known.amounts.usd if known.amounts.usd != amounts.usd else None,
        )
    if known.state != "open":
        raise ReservationError(
            reservation_id, known.state, "it has ended; a new attempt needs a new id"
        )
    return Hold(reservation_id, amounts.usd, known.expires_at, amounts.tokens)


def tokens_of(row: AttemptRow) -> int | None:
    """The tokens that an attempt took, None where neither count is known."""
    known = [count for count in (row.input_tokens, row.output_tokens) if count is not None]
    return min(sum(known), MAX_NANO) if known else None


def check_reserve(asked: Reservation) -> None:
    """Raise `ReservationError` for a reservation that contradicts itself."""
    worst_case, request = asked.worst_case, asked.request
    check_reserved(asked.reservation_id, asked.amount)
    check_reserved(asked.reservation_id, asked.tokens)
    if worst_case.cost != asked.amount and not (worst_case.cost is None and asked.amount == 0):
        problem = (
            f"its worst case costs {worst_case.cost}, and must cost its amount, {asked.amount}"
        )
    elif not math.isfinite(asked.expires_at) or asked.expires_at <= asked.now:
        problem = f"expires_at {asked.expires_at} must be after now, {asked.now}"
    elif request is not None and request.request_id != worst_case.request_id:
        problem = f"request {request.request_id!r} is not its attempt's, {worst_case.request_id!r}"
    else:
        return
    raise ReservationError(asked.reservation_id, "new", problem)


def check_reserved(reservation_id: str, amount: int) -> None:
    """Raise `ReservationError` for what is no amount."""
    if type(amount) is not int or not 0 <= amount <= MAX_NANO:
        raise ReservationError(
            reservation_id, "new", f"{amount!r} is not an amount of nano-USD from 0 to 2**53"
        )


def _check_whose(budget: Budget, scope_value: str | None) -> None:
    """Refuse a value whose counters no request can reach: a change of them would do nothing."""
    only = "" if budget.scope == "global" else budget.value
    if scope_value is not None and only is not None and scope_value != only:
        raise InvalidRequest(
            "scope_value",
            f"budget {budget.name!r} has no counters of its own for {scope_value!r}",
            value=scope_value,
            allowed=f"{only!r} alone",
        )
    if scope_value is not None:
        check_value(budget.scope, scope_value)
