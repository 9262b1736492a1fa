"""Imported calls → rows of a log, through the ledger, so that its books agree with them.

Each call is a request with one wire attempt: reserved at what it cost and settled at the same. The
ledger is opened without budgets, so imported spending counts in none. A call that is in the log is
known by its id and changes nothing; one that an interrupted import left open is ended.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from router.dispatch.usage import read_usage
from router.errors import ReservationError, UnknownPrice
from router.ledger import Ledger
from router.log import Log
from router.prices import PriceBook
from router.prices.price import cost as cost_of
from router.replay.imports.planned import Planned, Planner
from router.replay.imports.record import ImportedCall
from router.types import (
    TIERS,
    AttemptRow,
    AttemptStatus,
    CostSource,
    RequestEnd,
    RequestRow,
    Reservation,
    Usage,
)

_OPEN_SECONDS = 3600.0  # an import that is interrupted may be repeated for so long
_STANDARD = (None, "auto", "default", "standard")  # service tiers at the usual price
# 0 is what no arm that was taken can have had, so nothing weighs by it: the chance is not known.
UNKNOWN_PROPENSITY = 0.0
LATENCY_UNKNOWN = "latency unknown"


@dataclass(frozen=True, slots=True)
class Written:
    """What became of a call. `new` is False for one that was there already, and `otherwise` True
    where it is there at another cost; `labelled`, whether a label was added; `cost` in nano-USD,
    None if unknown; `source` of the cost."""

    new: bool
    otherwise: bool
    labelled: bool
    cost: int | None
    source: CostSource
    usage: Usage | None
    planned: Planned


class Writer:
    """Writes calls of one format into one ledger.

    Parameters: `format`, the format's name; `planner`, to log what a policy would have seen, None
    without a policy; `content`, whether prompts and answers are kept; `now`, unix seconds.
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        format: str,
        book: PriceBook,
        planner: Planner | None = None,
        content: bool = False,
        now: float,
    ):
        self._ledger, self._format, self._book = ledger, format, book
        self._planner, self._content, self._now = planner, content, now
        self._log: Log = ledger.log()

    def write(self, call: ImportedCall) -> Written:
        """Write a call and its label, unless they are there.

        Raises `LedgerError` where the store cannot be written.
        """
        request_id = f"{self._format}:{call.id}"
        planned = self._planner.plan(request_id, call) if self._planner else Planned()
        usage, note = read_usage(call.usage) if call.usage else (None, "usage missing")
        cost, source = self._cost(call, usage)
        # A failure that has neither tokens nor a cost was not billed.
        billed = call.error is None or bool(cost) or usage is not None
        if not billed:
            cost, source, note = 0, "computed", None
        notes = [note, None if call.latency is not None else LATENCY_UNKNOWN]
        answered: AttemptStatus = "answered" if call.error is None else "failed"
        attempt = AttemptRow(
            request_id=request_id,
            number=1,
            time=call.time,
            step=0,
            arm=planned.arm.name if planned.arm else call.model,
            tier=planned.arm.tier if planned.arm else "",
            model=planned.arm.model if planned.arm else call.model,
            propensity=UNKNOWN_PROPENSITY,
            status=answered,
            reserved=cost or 0,
            cost=cost,
            cost_source=source,
            price_book=self._book.hash,
            latency=call.latency or 0.0,
            usage=call.usage,
            input_tokens=usage.input_tokens if usage else None,
            output_tokens=usage.output_tokens if usage else None,
            error=call.error,
            note="; ".join(each for each in notes if each) or None,
            answer=self._kept(call.answer),
        )
        known = self._book_attempt(call, planned, attempt, billed=billed)
        new = known is None
        labelled = self._label(call, request_id, new=new)
        otherwise = known is not None and known.held is not None
        return Written(new, otherwise, labelled, cost, source, usage, planned)

    def _cost(self, call: ImportedCall, usage: Usage | None) -> tuple[int | None, CostSource]:
        """What a call cost: as its source says, else by the book, else unknown; nano-USD."""
        if call.cost is not None:
            return call.cost, "reported"
        price = self._book.price(call.model, call.time)
        if price is None or usage is None:
            return None, "computed"
        tier = call.params.get("service_tier")
        try:
            return cost_of(
                price, usage, service_tier=None if tier in _STANDARD else str(tier), now=call.time
            ), "computed"
        except UnknownPrice:
            return None, "computed"

    def _book_attempt(
        self, call: ImportedCall, planned: Planned, row: AttemptRow, *, billed: bool
    ) -> ReservationError | None:
        """Reserve and settle; what the ledger says of a call that was there already."""
        ended = call.time + (call.latency or 0.0)
        reservation_id = f"{row.request_id}/1"
        failed = call.error is not None
        baseline = None if failed else self._baseline(planned, row.cost)
        end = RequestEnd(row.status, None if failed else 1, baseline, call.error)
        asked = Reservation(
            reservation_id,
            row.reserved,
            {},
            call.time,
            # Whoever sweeps the store meanwhile must not take an old call for a dead one.
            max(self._now, call.time) + _OPEN_SECONDS,
            replace(row, status="expired", cost_source="expired"),
            self._request(call, planned, row),
        )
        try:
            self._ledger.reserve(asked)
        except ReservationError as known:
            if known.state == "new":  # it contradicts the store, and is not in it
                raise
            if known.state in ("open", "expired"):  # an import was interrupted, and is gone on with
                self._end(reservation_id, row, end, ended, billed=billed)
            return known
        self._end(reservation_id, row, end, ended, billed=billed)
        return None

    def _end(
        self, reservation_id: str, row: AttemptRow, end: RequestEnd, now: float, *, billed: bool
    ) -> None:
        if billed:
            self._ledger.settle(reservation_id, row, end, now)
        else:
            self._ledger.release(reservation_id, row, end, now)

    def _baseline(self, planned: Planned, cost: int | None) -> int | None:
        """Where the baseline tier itself answered, its bill is the baseline."""
        if self._planner is None:
            return None
        ladder = self._planner.ladder
        if planned.arm is not None and planned.arm.tier == TIERS[ladder.baseline]:
            return cost
        return planned.baseline

    def _request(self, call: ImportedCall, planned: Planned, row: AttemptRow) -> RequestRow:
        return RequestRow(
            request_id=row.request_id,
            time=call.time,
            status="open",
            policy=f"imported:{self._format}",
            predictor=self._planner.stamp if self._planner else "",
            price_book=self._book.hash,
            scopes=call.scopes,
            tags=call.tags,
            conversation_id=call.conversation_id,
            stream=call.stream,
            features=planned.features,
            decision=planned.decision,
            chosen=row.arm,
            reason="recorded by another tool",
            rule=planned.rule,
            baseline=planned.baseline,
            content=self._kept(call.messages),
        )

    def _label(self, call: ImportedCall, request_id: str, *, new: bool) -> bool:
        """Join a call's label, unless the log has it, or a later one of somebody else's."""
        if call.label is None or call.error is not None:
            return False
        if not new:
            logged = self._log.label(request_id)
            if logged and (logged.source != call.label_source or logged.score == call.label):
                return False
        self._log.feedback(request_id, call.label, call.label_source, now=self._now)
        return True

    def _kept(self, messages: Sequence[Any] | None) -> str | None:
        if messages is None or not self._content:
            return None
        return json.dumps(list(messages), ensure_ascii=False)
