"""What a process has leased, and how it gets into the store and back: the slow half of leases.

Two locks: `turn` of who speaks to the store, and `lock` of what is in memory, which is held for
microseconds and taken last.
"""

from __future__ import annotations

import logging
import math
import threading
import time
import uuid
import weakref
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from router.errors import LedgerUnavailable
from router.ledger import lines
from router.ledger.journal import Journal
from router.ledger.leases import Call, Lease, chunks, new_lease_hold, returned, worst_case_row
from router.ledger.matching import Account, Amounts
from router.ledger.outage import OutageLedger
from router.ledger.replay import book
from router.ledger.store import Draw, Drawn, Ending, NewHold
from router.log.writer import attempt_values

_log = logging.getLogger("router")

_LOST = ("unknown", "short", "settled", "released", "corrected")  # states of a lease
_BATCH = 500  # calls a step, so that a flush never blocks others for long
_JOURNAL_BYTES = 4 * 2**20  # before it is written anew without what the store has


class Holdings:
    """The leases of one process, its open calls, and those that the store does not have yet.

    Parameters: `seconds`, how long a lease is held without being renewed; `go_on`, whether leases
    are spent while the store is away; `pause`, seconds between two flushes.
    """

    def __init__(self, outage: OutageLedger, *, seconds: float, go_on: bool, pause: float):
        self._outage, self._budget_ledger, self._store = (
            outage,
            outage.budget_ledger,
            outage.store,
        )
        self._seconds, self._go_on, self._pause = seconds, go_on, pause
        self.lock = threading.Lock()
        self.turn = threading.RLock()
        self.active: dict[tuple[Any, ...], Lease] = {}
        self.leases: list[Lease] = []
        self.calls: dict[str, Call] = {}
        self.pending: dict[str, Drawn] = {}  # ended, and not in the store yet
        self.requests = outage.rows  # so that a call outside the leases brings one along
        self.journal: Journal | None = None
        self.offset = time.time() - time.monotonic()  # of the callers' clock
        self._flusher: _Flusher | None = None
        self._away = False

    @property
    def now(self) -> float:
        """The callers' time, carried on from their last call."""
        return time.monotonic() + self.offset

    def lease(
        self, key: tuple[Any, ...], accounts: Sequence[Account], asked: Amounts, now: float
    ) -> bool:
        self._outage.replay()
        states = self._budget_ledger.states_of(accounts, now)
        amounts = chunks(states, asked)
        with self.lock:
            old = self.active.pop(key, None)
            if old is not None:
                old.retire()
        if amounts is None:
            return False
        lease_id = f"lease/{uuid.uuid4().hex}"
        expires_at = now + self._seconds
        if not self._announce(lease_id):
            return False
        hold = new_lease_hold(lease_id, accounts, amounts, now, expires_at)
        ends = [take.resets_at for take in hold.takes if take.resets_at is not None]
        until = min(ends, default=math.inf)
        lease = Lease(
            lease_id,
            key,
            accounts,
            amounts.usd,
            amounts.tokens,
            until,
            expires_at,
            min(until, expires_at),
            now,
            amounts,
        )
        try:
            denied = self._store.hold(hold)
        except LedgerUnavailable:
            with self.lock:  # it may be held all the same: then a flush gives it back
                lease.retire()
                self.leases.append(lease)
            raise
        if denied is not None:
            return False
        with self.lock:
            self._back()
            self.active[key] = lease
            self.leases.append(lease)
            if self._flusher is None:
                self._flusher = _Flusher(self, self._pause)
        return True

    def _announce(self, lease_id: str) -> bool:
        """Write a lease into the journal before it is taken; False where that cannot be done."""
        assert self._outage.journals is not None  # seen to at the start
        try:
            if self.journal is None:
                self.journal = Journal(self._outage.journals, self._outage.identity)
            self.journal.append(lines.lease_line(lease_id))
        except LedgerUnavailable as full:
            _log.error("%s; nothing is leased without a journal", full)
            return False
        return True

    def fits(self, key: tuple[Any, ...], asked: Amounts, now: float) -> bool:
        """Whether the lease of these accounts has the room."""
        with self.lock:
            lease = self.active.get(key)
            return (
                lease is not None
                and asked.usd <= lease.usd
                and asked.tokens <= lease.tokens
                and now < lease.usable_until
            )

    def free(self) -> dict[tuple[str, str], Amounts]:
        """What is leased and no call has, by budget and scope value."""
        free: dict[tuple[str, str], Amounts] = {}
        with self.lock:
            for lease in self.active.values():
                for account in lease.accounts:
                    place = account.budget.name, account.value
                    found = free.get(place, Amounts(0, 0))
                    free[place] = Amounts(found.usd + lease.usd, found.tokens + lease.tokens)
        return free

    def give_back(self, budget: str, value: str) -> bool:
        """Return what no call has of one account; False where nothing of it is leased."""
        with self.turn:
            with self.lock:
                some = [
                    lease
                    for lease in self.leases
                    if any((a.budget.name, a.value) == (budget, value) for a in lease.accounts)
                ]
                for lease in some:
                    self._retire(lease)
            if some:
                self.flush()
        return bool(some)

    def flush(self) -> None:
        """Move ended calls into the store, renew leases, and return those that are not needed.

        Raises nothing where the store is away: the calls stay, in memory and in the journal.
        """
        with self.turn:
            now = self.now
            try:
                for lease in list(self.leases):
                    self._flush_one(lease, now)
                self._tidy()
            except LedgerUnavailable as away:
                self.is_away(away)

    def _flush_one(self, lease: Lease, now: float) -> None:
        with self.lock:
            idle = not lease.open and now - lease.used_at > self._seconds / 4
            if now >= lease.until or (idle and not self._away):
                self._retire(lease)
        self._write_rows(lease)
        while True:
            with self.lock:
                calls = tuple(lease.ended[:_BATCH])
                keep = lease.keep(len(calls))
                done = lease.retired and not lease.open and not lease.ended
            if done and lease.state != "expired":
                break
            due = lease.state == "open" and lease.expires_at - now < self._seconds / 2
            if not calls and not due and (keep == lease.kept or lease.state in _LOST):
                break
            self._draw(lease, calls, keep, now)
        if done:
            self._finish(lease, now)

    def _draw(self, lease: Lease, calls: tuple[Drawn, ...], keep: Amounts, now: float) -> None:
        expires_at = now + self._seconds
        worst = attempt_values(worst_case_row(lease.id, keep.usd, now))
        if lease.state not in _LOST:
            lease.state = self._store.draw(Draw(lease.id, calls, keep, expires_at, worst, now))
        if lease.state in _LOST and calls:
            _log.error("lease %s is %s; its calls are booked as overruns", lease.id, lease.state)
            for call in calls:
                self._book(lease, call)
        with self.lock:
            lease.expires_at, lease.kept = expires_at, keep
            lease.usable_until = min(lease.until, expires_at)
            self._back()
            del lease.ended[: len(calls)]
            for call in calls:
                self.pending.pop(call.reservation_id, None)
                self.requests.pop(call.request_id, None)
            if lease.state != "open":
                self._retire(lease)

    def _finish(self, lease: Lease, now: float) -> None:
        ending = returned(lease.id, now)
        if lease.state == "open":
            self._store.end(ending)
        elif lease.state == "expired" and ending.end is not None:
            self._store.finish(lease.id, ending.end, now)
        with self.lock:
            self.leases.remove(lease)
            if self.journal is not None:
                with suppress(LedgerUnavailable):
                    self.journal.append(lines.gone_line(lease.id))

    def _retire(self, lease: Lease) -> None:
        lease.retire()
        if self.active.get(lease.key) is lease:
            del self.active[lease.key]

    def _book(self, lease: Lease, call: Drawn) -> None:
        takes = tuple([account.take(call.amounts, call.now) for account in lease.accounts])
        new = NewHold(
            call.reservation_id,
            call.request_id,
            call.number,
            call.amounts,
            call.now,
            call.now + self._seconds,
            takes,
            call.attempt,
            call.request,
        )
        billed = call.state != "released"
        ending = Ending(
            call.reservation_id,
            call.request_id,
            call.number,
            billed,
            call.usd,
            call.tokens,
            call.attempt,
            call.end,
            call.now,
        )
        book(self._store, new, ending)

    def _write_rows(self, lease: Lease) -> None:
        """Put the rows of open calls into the journal, off the calls' own way."""
        for call in list(lease.open.values()):
            if call.rows is not None:
                continue
            rows = call.request_values(), attempt_values(call.worst_case)
            with self.lock, suppress(LedgerUnavailable):
                if self.journal is not None:
                    self.journal.append(lines.rows_line(call.hold.reservation_id, *rows))
                    call.rows = rows

    def _tidy(self) -> None:
        """Shorten the journal by what the store has."""
        with self.lock:
            if self.journal is None or self.journal.size < _JOURNAL_BYTES:
                return
            left = [lines.lease_line(lease.id) for lease in self.leases]
            for call in self.calls.values():
                call.rows = None
                hold = call.hold
                left.append(
                    lines.hold_line(
                        call.lease.id,
                        hold.reservation_id,
                        call.request_id,
                        call.number,
                        hold.amount,
                        hold.tokens,
                        call.worst_case.time,
                    )
                )
            for lease in self.leases:
                left += [lines.done_line(lease.id, call) for call in lease.ended]
            self.journal.rewrite(left)

    def is_away(self, away: LedgerUnavailable) -> None:
        with self.lock:
            first, self._away = not self._away, True
            for lease in self.leases:
                lease.usable_until = lease.until if self._go_on else -math.inf
            if self.journal is not None:
                with suppress(LedgerUnavailable):
                    self.journal.sync()
        if first and self.leases:
            _log.error("%s; ended calls wait in the journal", away)

    def _back(self) -> None:
        """The store answers again."""
        if self._away:
            self._away = False
            for lease in self.leases:
                lease.usable_until = min(lease.until, lease.expires_at)

    def close(self) -> None:
        """Give everything back; where the store is away, the next process does."""
        if self._flusher is not None:
            self._flusher.stop()
            self._flusher = None
        with self.lock:
            for lease in self.leases:
                self._retire(lease)
        self.flush()
        with self.lock:
            if self.journal is not None:
                if self.leases:
                    self.journal.abandon()
                else:
                    self.journal.remove()
                self.journal = None


class _Flusher(threading.Thread):
    """Flushes leases every now and then, until it is closed or forgotten."""

    def __init__(self, holdings: Holdings, pause: float):
        super().__init__(name="router-ledger-flush", daemon=True)
        self._holdings, self._pause = weakref.ref(holdings), pause
        self._stopped = threading.Event()
        self.start()

    def run(self) -> None:
        while not self._stopped.wait(self._pause):
            holdings = self._holdings()
            if holdings is None:
                return
            try:
                holdings.flush()
            except Exception:
                _log.exception("a flush of leases failed")
            del holdings

    def stop(self) -> None:
        self._stopped.set()
        if threading.current_thread() is not self:
            self.join()
