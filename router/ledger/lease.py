"""The lease tier: a process holds a part of the budgets and spends it without asking the store.

A lease is an ordinary reservation of the accounts that a request pays from. Calls are reserved and
settled inside it in memory, in microseconds; a background thread moves them into the store in
batches, money and rows in one step (`Store.draw`). Since the store holds the lease as a whole,
settled + held never passes a limit anywhere, whatever the processes do.

What is relaxed: "no byte leaves for a provider before its hold is committed" (I4) is kept by the
lease's hold, not by a hold of each call. Each call stands in this process's journal before it is
sent, though, which survives the process (not a power cut): the next process returns exactly what
was not spent. Without the journal, an expired lease is charged in full.
"""

from __future__ import annotations

import atexit
import logging
import os
import time
import weakref
from contextlib import suppress
from dataclasses import replace
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any

from router.errors import BudgetExceeded, ConfigurationError, LedgerUnavailable, ReservationError
from router.ledger import journal, lines
from router.ledger.holdings import Holdings
from router.ledger.leases import Call, leasable
from router.ledger.ledger import check_reserve, check_reserved, tokens_of
from router.ledger.matching import Account, Amounts, accounts_of
from router.ledger.outage import OutageLedger
from router.ledger.store import Drawn
from router.ledger.wrapped import WrappedLedger
from router.log.writer import attempt_values
from router.types import AttemptRow, BudgetState, Hold, RequestEnd, Reservation, Room, Scopes

if TYPE_CHECKING:
    from router.log.base import Log

_log = logging.getLogger("router")

_KNOWN = 4096  # sets of accounts, and rooms, that are remembered
_ROOM_SECONDS = 1.0  # how old a hint may be


class LeasedLedger(WrappedLedger):
    """A `router.ledger.Ledger` whose calls are paid out of leases where there is room for them.

    Parameters: `seconds`, how long a lease is held without being renewed; one that is not used for
    a quarter of that goes back. `go_on`: whether a process goes on within its leases while the
    store is away. `flush_seconds`: how often the store is told.
    Accounts that count requests or shares or are of a single request, and budgets near their limit,
    are asked directly.
    """

    def __init__(
        self,
        inner: OutageLedger,
        *,
        seconds: float = 60.0,
        go_on: bool = False,
        flush_seconds: float = 0.25,
    ):
        super().__init__(inner)
        if inner.journals is None or not journal.SUPPORTED:
            raise ConfigurationError(
                "ledger.lease needs a store that other processes can reach, and a POSIX system"
            )
        self._outage, self._budgets = inner, inner.budget_ledger.enforced
        self._new = partial(Holdings, inner, seconds=seconds, go_on=go_on, pause=flush_seconds)
        self._go_on = go_on
        scopes = {budget.scope for budget in self._budgets}
        scopes |= {name for budget in self._budgets for name, _ in budget.when}
        self._names = (*sorted(scopes - {"global", "purpose"}), "purpose")
        self._known: dict[tuple[Any, ...], list[Account] | None] = {}
        self._rooms: dict[tuple[Account, ...], tuple[float, Room]] = {}
        self._mine = self._new()
        _LIVE.add(self)

    def reserve(self, asked: Reservation) -> Hold:
        key = tuple(map(asked.scopes.get, self._names))
        hold = self._inside(key, asked)
        if hold is None:
            check_reserve(asked)
            if self._grow(key, asked.scopes, Amounts(asked.amount, asked.tokens), asked.now):
                hold = self._inside(key, asked)
        if hold is not None:
            return hold
        if asked.request is None and asked.worst_case.request_id in self._mine.requests:
            with self._mine.turn:  # it brings its request's row, and no flush does meanwhile
                self._mine.flush()
                return self._ask(asked)
        return self._ask(asked)

    def _ask(self, asked: Reservation) -> Hold:
        """Reserve in the store itself, for what is leased and not needed if there is no room."""
        try:
            return self.inner.reserve(asked)
        except BudgetExceeded as full:
            self._rooms.clear()
            if not self._mine.give_back(full.budget, full.scope_value):
                raise
        return self.inner.reserve(asked)

    def _inside(self, key: tuple[Any, ...], asked: Reservation) -> Hold | None:
        """Reserve in the lease of these accounts; None where there is none, or none with the room.

        Every call takes this way, so it is short: no row is made into text here.
        """
        mine, name, now = self._mine, asked.reservation_id, asked.now
        amount, tokens, request = asked.amount, asked.tokens, asked.request
        worst_case, request_id = asked.worst_case, asked.worst_case.request_id
        if not (
            type(amount) is type(tokens) is int
            and amount >= 0 <= tokens
            and worst_case.cost == amount
            and now < asked.expires_at < inf
            and (request is None or request.request_id == request_id)
            and lines.PLAIN(name)
            and (request_id in name or lines.PLAIN(request_id))
        ):
            return None
        with mine.lock:
            try:
                lease = mine.active.get(key)
            except TypeError:
                return None  # a scope value that is no text is refused by name on the other way
            if (
                lease is None
                or amount > lease.usd
                or tokens > lease.tokens
                or now >= lease.usable_until
            ):
                return None
            if name in mine.calls or name in mine.pending:
                return self._again(name, amount, tokens)
            assert mine.journal is not None  # there is a lease
            try:
                mine.journal.append(
                    lines.hold_line(
                        lease.id, name, request_id, worst_case.number, amount, tokens, now
                    )
                )
            except LedgerUnavailable as full:
                _log.error("%s; the store is asked for each call instead", full)
                return None
            if request is None:
                request = mine.requests.get(request_id)
            else:
                mine.requests[request_id] = request
            lease.usd -= amount
            lease.tokens -= tokens
            lease.used_at = now
            hold = Hold(name, amount, asked.expires_at, tokens)
            call = Call(lease, hold, request_id, worst_case.number, worst_case, request)
            lease.open[name] = mine.calls[name] = call
        return hold

    def _again(self, name: str, amount: int, tokens: int) -> Hold:
        """Answer an id that is in use here: the reply to the first asking may be lost."""
        call = self._mine.calls.get(name)
        if call is None:
            raise ReservationError(name, "ended", "it has ended; a new attempt needs a new id")
        hold = call.hold
        if (hold.amount, hold.tokens) != (amount, tokens):
            raise ReservationError(
                name,
                "open",
                f"it holds {hold.amount} nano-USD and {hold.tokens} tokens, not {amount} and "
                f"{tokens}",
            )
        return hold

    def settle(
        self, reservation_id: str, row: AttemptRow, end: RequestEnd | None, now: float
    ) -> None:
        if not self._end(reservation_id, row, tokens_of(row), end, now, "settled"):
            self.inner.settle(reservation_id, row, end, now)

    def release(
        self, reservation_id: str, row: AttemptRow, end: RequestEnd | None, now: float
    ) -> None:
        if row.cost or not self._end(reservation_id, row, 0, end, now, "released"):
            self.inner.release(reservation_id, row, end, now)

    def _end(
        self,
        reservation_id: str,
        row: AttemptRow,
        tokens: int | None,
        end: RequestEnd | None,
        now: float,
        state: Any,
    ) -> bool:
        """End a call of a lease; False for any other, and for one that has ended."""
        mine = self._mine
        mine.offset = now - time.monotonic()
        call = mine.calls.get(reservation_id)
        if call is None:
            if reservation_id in mine.pending:
                mine.flush()
            return False
        usd = row.cost or 0
        check_reserved(reservation_id, usd)
        if (row.request_id, row.number) != (call.request_id, call.number):
            raise ReservationError(
                reservation_id,
                "open",
                f"it is for attempt {call.number} of request {call.request_id}",
            )
        drawn = Drawn(
            reservation_id,
            call.request_id,
            call.number,
            state,
            call.amounts,
            usd,
            call.amounts.tokens if tokens is None else tokens,
            attempt_values(row),
            call.request_values(),
            end,
            call.hold.expires_at,
            now,
        )
        line = lines.done_line(call.lease.id, drawn)
        with mine.lock:
            if mine.calls.pop(reservation_id, None) is None:
                return False  # another thread has ended it
            lease = call.lease
            del lease.open[reservation_id]
            if not lease.retired:
                lease.usd += call.amounts.usd - drawn.inside.usd
                lease.tokens += call.amounts.tokens - drawn.inside.tokens
            lease.ended.append(drawn)
            mine.pending[reservation_id] = drawn
            if mine.journal is not None:
                with suppress(LedgerUnavailable):  # a journal without it charges it in full
                    mine.journal.append(line)
        return True

    def _grow(self, key: tuple[Any, ...], scopes: Scopes, asked: Amounts, now: float) -> bool:
        """Take a lease that has room for what is asked, or find one; False where there is none."""
        mine = self._mine
        mine.offset = now - time.monotonic()
        accounts = self._accounts(key, scopes)
        if accounts is None or (self._outage.opens and self._outage.is_away()):
            return False
        with mine.turn:
            if mine.fits(key, asked, now):
                return True
            try:
                return mine.lease(key, accounts, asked, now)
            except LedgerUnavailable as away:
                mine.is_away(away)
                if mine.fits(key, asked, now):
                    return True
                if not self._outage.opens:
                    raise
                self._outage.went_away(away)
                return False

    def _accounts(self, key: tuple[Any, ...], scopes: Scopes) -> list[Account] | None:
        """The accounts that pay; None where they cannot be leased."""
        try:
            return self._known[key]
        except (KeyError, TypeError):
            accounts = accounts_of(self._budgets, scopes)
        if len(self._known) >= _KNOWN:
            self._known.clear()
        found = self._known[key] = accounts if leasable(accounts) else None
        return found

    def room(self, scopes: Scopes, now: float) -> Room:
        """As `Ledger.room`, at most a second old; what is leased here and not spent counts in."""
        accounts = tuple(accounts_of(self._budgets, scopes))
        if not leasable(accounts):
            return self.inner.room(scopes, now)
        known, age = self._rooms.get(accounts), time.monotonic()
        if known is not None and age - known[0] < _ROOM_SECONDS:
            return known[1]
        try:
            room = self._with_own(self.inner.room(scopes, now))
        except LedgerUnavailable as away:
            self._mine.is_away(away)
            if known is None or not self._go_on:
                raise
            return known[1]
        if len(self._rooms) >= _KNOWN:
            self._rooms.clear()
        self._rooms[accounts] = (age, room)
        return room

    def _with_own(self, room: Room) -> Room:
        free = self._mine.free()
        states = []
        for state in room.budgets:
            own = free.get((state.budget.name, state.scope_value), Amounts(0, 0))
            mine = own.of(state.budget.meter)
            states.append(replace(state, held=max(0, state.held - mine)))
        return Room(tuple(states))

    def finish(self, request_id: str, end: RequestEnd, now: float) -> None:
        if request_id in self._mine.requests:
            self._mine.flush()
        self.inner.finish(request_id, end, now)

    def expire(self, now: float) -> int:
        """Charge calls past their time in full, of this process's leases and of the store."""
        late = [call for call in list(self._mine.calls.values()) if call.hold.expires_at <= now]
        self._charge(late, now)
        self._mine.flush()
        try:
            return len(late) + self.inner.expire(now)
        except LedgerUnavailable as away:
            if not (self._go_on and self._mine.leases):
                raise
            self._mine.is_away(away)
            return len(late)

    def _charge(self, calls: list[Call], now: float) -> None:
        for call in calls:
            self._end(call.hold.reservation_id, call.worst_case, None, None, now, "expired")

    def states(self, now: float) -> list[BudgetState]:
        self._mine.flush()
        return self.inner.states(now)

    def verify(self) -> list[str]:
        self._mine.flush()
        return self.inner.verify()

    def log(self) -> Log:
        self._mine.flush()
        return self.inner.log()

    def close(self) -> None:
        """Move all into the store and return what is left; calls that are open are charged in full
        until they are heard of."""
        self._charge(list(self._mine.calls.values()), self._mine.now)
        self._mine.close()
        self.inner.close()

    def forget(self) -> None:
        """In a child after a fork: the leases are the parent's."""
        if self._mine.journal is not None:
            self._mine.journal.abandon()
        self._mine = self._new()


_LIVE: weakref.WeakSet[LeasedLedger] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for ledger in list(_LIVE):
        ledger.forget()


@atexit.register
def _close_all() -> None:
    for ledger in list(_LIVE):
        with suppress(Exception):
            ledger.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
