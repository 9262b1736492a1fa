"""What happens while the store is away: nothing is sent, and nothing that was sent is lost.

A reservation that was refused because the store's answer did not come may be held there all the
same: it is released at the next sweep, since nothing was sent.

A call that was paid for is settled even if the store went away meanwhile: its end is written to a
journal on the disk and replayed, once, when the store is back, at the next sweep, or by the next
process. A policy that says `on_outage: open` goes on sending; each such call is counted, journalled
and booked as an overrun later.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
import weakref
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from router.errors import LedgerUnavailable, ReservationError
from router.ledger import lines
from router.ledger.journal import Journal
from router.ledger.ledger import BudgetLedger, ending_of
from router.ledger.replay import recover, replay_line
from router.ledger.store import NewHold
from router.ledger.wrapped import WrappedLedger
from router.log.savings import UNACCOUNTED
from router.log.writer import request_values
from router.types import AttemptRow, Hold, RequestEnd, RequestRow, Reservation, Room, Scopes

OnOutage = Literal["deny", "lease", "open"]

_log = logging.getLogger("router")
_DOUBTFUL_AT_ONCE = 200  # reservations a sweep, so that it never blocks a call for long
_PAUSE = 1.0  # seconds before a store that was away is asked again by what can do without it


class OutageLedger(WrappedLedger):
    """A `BudgetLedger` that keeps what cannot be written, and writes it later.

    Parameters: `journals`, the folder for what cannot be written (None: nothing is kept, and a
    settlement that fails leaves its hold to expire in full); `identity`, the store's name in them;
    `on_outage`, "open" to go on without the store.
    """

    def __init__(
        self,
        inner: BudgetLedger,
        *,
        journals: Path | None = None,
        identity: str = "",
        on_outage: OnOutage = "deny",
    ):
        super().__init__(inner)
        self.budget_ledger, self.store = inner, inner.store
        self.journals, self.identity = journals, identity or inner.store.name
        self.opens = on_outage == "open"
        self.rows: dict[str, RequestRow] = {}  # of requests that are not in the store yet
        self._reset()
        _LIVE.add(self)

    def recover(self, now: float) -> int:
        """Replay what processes left that are gone; return how many journals there were."""
        return recover(self.store, self.journals, self.identity, now)

    def _reset(self) -> None:
        self._lock = threading.RLock()
        self._journal: Journal | None = None
        self._parked: list[list[Any]] = []
        self._ends: dict[str, int] = {}  # reservation → nano-USD, of those that are parked
        self._unheard: dict[str, tuple[NewHold, AttemptRow]] = {}  # sent without asking
        self._doubtful: dict[str, tuple[Reservation, str]] = {}  # refused, and held perhaps
        self._away_until = 0.0
        self.rows.clear()

    def room(self, scopes: Scopes, now: float) -> Room:
        if self.opens and self.is_away():
            return Room()
        try:
            return self.inner.room(scopes, now)
        except LedgerUnavailable as away:
            if not self.opens:
                raise
            self.went_away(away)
            return Room()

    def reserve(self, asked: Reservation) -> Hold:
        if self._doubtful:
            with self._lock:  # asked again, it is not released any more
                self._doubtful.pop(asked.reservation_id, None)
        if not (self.opens and self.is_away()):  # a pause never prolongs itself
            try:
                self.replay()
                return self._ask(asked)
            except LedgerUnavailable as away:
                if not self.opens:
                    if away.in_doubt:
                        self._doubtful[asked.reservation_id] = asked, str(away)
                    raise
                self.went_away(away)
        request_id = asked.worst_case.request_id
        with self._lock:
            asked = self._with_row(asked)
            new, _ = self.budget_ledger.new_hold(asked)
            self._write(lines.open_line(new))
            if asked.request is not None:
                self.rows[request_id] = asked.request
            self._unheard[asked.reservation_id] = (new, asked.worst_case)
        return Hold(asked.reservation_id, asked.amount, asked.expires_at, asked.tokens)

    def _ask(self, asked: Reservation) -> Hold:
        request_id = asked.worst_case.request_id
        if request_id not in self.rows:
            return self.inner.reserve(asked)
        with self._lock:  # of several calls one brings the row
            hold = self.inner.reserve(self._with_row(asked))
            self.rows.pop(request_id, None)
        return hold

    def _with_row(self, asked: Reservation) -> Reservation:
        """A further call of a request whose first the store has not heard of brings its row."""
        if asked.request is not None:
            return asked
        return replace(asked, request=self.rows.get(asked.worst_case.request_id))

    def settle(
        self, reservation_id: str, row: AttemptRow, end: RequestEnd | None, now: float
    ) -> None:
        self._end(reservation_id, row, end, now, billed=True)

    def release(
        self, reservation_id: str, row: AttemptRow, end: RequestEnd | None, now: float
    ) -> None:
        self._end(reservation_id, row, end, now, billed=False)

    def refuse(self, row: RequestRow) -> None:
        try:
            self.inner.refuse(row)
        except LedgerUnavailable as away:
            self._park(lines.refuse_line(request_values(row)), away)

    def finish(self, request_id: str, end: RequestEnd, now: float) -> None:
        try:
            self.replay()
            self.inner.finish(request_id, end, now)
        except LedgerUnavailable as away:
            self._park(lines.finish_line(request_id, end, now), away)

    def expire(self, now: float) -> int:
        """Sweep the store; replay what this process has parked, and what dead ones have left."""
        for new, worst_case in list(self._unheard.values()):
            if new.expires_at <= now:
                self.settle(new.reservation_id, worst_case, None, now)
        try:
            self.replay()
            self._release_doubtful(now)
            self.recover(now)
            return self.budget_ledger.expire(now)
        except LedgerUnavailable as away:
            if not self.opens:
                raise
            self.went_away(away)
            return 0

    def unbooked(self) -> int:
        with self._lock:
            return len(self._unheard) + len([line for line in self._parked if line[0] == "open"])

    def replay(self) -> None:
        """Write what is parked into the store; `LedgerUnavailable` where it is still away."""
        if not self._parked:
            return
        with self._lock:
            opened = {line[1]: line for line in self._parked if line[0] == "open"}
            while self._parked:
                at = 1 if self._parked[0][0] == "open" else 0  # it goes with its end, which is next
                replay_line(self.store, self._parked[at], opened)
                if self._parked[at][0] == "end":
                    self.rows.pop(self._parked[at][2], None)
                del self._parked[: at + 1]
            self._ends.clear()
            if self._journal is not None and not self._unheard:
                self._journal.remove()
                self._journal = None
        _log.warning("ledger %s is back; all that was parked is booked", self.store.name)

    def _release_doubtful(self, now: float) -> None:
        """Give back what may be held for calls that were refused, and so never sent."""
        for reservation_id in list(self._doubtful)[:_DOUBTFUL_AT_ONCE]:
            with self._lock:
                if reservation_id not in self._doubtful:
                    continue
                asked, why = self._doubtful[reservation_id]
                row = replace(
                    asked.worst_case, status="failed", cost=0, cost_source="computed", error=why
                )
                end = None if asked.request is None else RequestEnd("refused", None, None, why)
                ending = ending_of(reservation_id, row, end, now, billed=False)
                found = self.store.end(ending)
                if found is None or found.state != "unknown" or asked.expires_at <= now:
                    del self._doubtful[reservation_id]  # else it may still be on its way there

    def close(self) -> None:
        """Close the store. What is still parked waits in its journal for the next process."""
        try:
            self.replay()
        except LedgerUnavailable as away:
            _log.error("%s; what could not be written waits in %s", away, self.journals)
        with suppress(LedgerUnavailable):  # what is left expires in full
            self._release_doubtful(time.time())
        with self._lock:
            if self._journal is not None:
                self._journal.abandon()
                self._journal = None
        self.inner.close()

    def _end(
        self,
        reservation_id: str,
        row: AttemptRow,
        end: RequestEnd | None,
        now: float,
        *,
        billed: bool,
    ) -> None:
        with self._lock:
            unheard = self._unheard.get(reservation_id)
            parked = self._ends.get(reservation_id)
        if parked is not None:  # asked again, after its end was parked
            if parked != (row.cost or 0):
                problem = f"it ended at {parked} nano-USD, so not at {row.cost or 0}"
                raise ReservationError(reservation_id, "parked", problem)
            return
        step = self.inner.settle if billed else self.inner.release
        if unheard is None:
            try:
                self.replay()
                step(reservation_id, row, end, now)
                return
            except LedgerUnavailable as away:
                unavailable = away
        else:
            row = replace(row, note=f"{UNACCOUNTED}; {row.note}" if row.note else UNACCOUNTED)
            unavailable = LedgerUnavailable(self.store.name, "it was away when the call was sent")
        ending = ending_of(reservation_id, row, end, now, billed=billed)
        with self._lock:
            if reservation_id in self._ends:
                return  # another thread ended it meanwhile
            self._park(lines.end_line(ending), unavailable)
            self._ends[reservation_id] = ending.usd
            if unheard is not None:
                del self._unheard[reservation_id]
                self._parked.insert(-1, _plain(lines.open_line(unheard[0])))

    def _park(self, line: str, away: LedgerUnavailable) -> None:
        """Keep a step on the disk; raise `away` itself where that cannot be done either."""
        if self.journals is None:
            raise away
        with self._lock:
            try:
                self._write(line)
            except LedgerUnavailable as full:
                raise away from full
            self._parked.append(_plain(line))
        _log.error("%s; a step is parked in %s", away, self.journals)

    def _write(self, line: str) -> None:
        if self._journal is None:
            if self.journals is None:
                raise LedgerUnavailable(self.store.name, "there is no folder for a journal")
            self._journal = Journal(self.journals, self.identity)
        self._journal.append(line, sync=True)

    def is_away(self) -> bool:
        """Whether the store was away a moment ago."""
        return time.monotonic() < self._away_until

    def went_away(self, away: LedgerUnavailable) -> None:
        """Do without the store for a moment."""
        if not self.is_away():
            _log.error("%s; calls are sent without it, as the policy says", away)
        self._away_until = time.monotonic() + _PAUSE

    def forget(self) -> None:
        """In a child after a fork: what is parked is the parent's to replay."""
        if self._journal is not None:
            self._journal.abandon()
        self._reset()


def _plain(line: str) -> list[Any]:
    values: list[Any] = json.loads(line)
    return values


_LIVE: weakref.WeakSet[OutageLedger] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for ledger in list(_LIVE):
        ledger.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
