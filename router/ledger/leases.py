"""Leases as records: how large one is, what is left of it, and how it looks in the log."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from router.ledger import lines as read
from router.ledger.matching import Account, Amounts
from router.ledger.store import Drawn, Ending, NewHold
from router.log.writer import attempt_values, request_values
from router.money import MAX_NANO
from router.types import AttemptRow, BudgetState, Hold, RequestEnd, RequestRow

_PART = 100  # a lease is this part of what remains,
_CALLS = 10  # or as much as so many calls like the one that asks for it;
_ROOM = 10  # and at most this part of what remains
_UNLIMITED_CALLS = 1000
_NAME = "lease"


@dataclass(slots=True)
class Call:
    """A call that was reserved inside a lease and has not ended."""

    lease: Lease
    hold: Hold
    request_id: str
    number: int
    worst_case: AttemptRow
    request: RequestRow | None
    rows: tuple[list[Any] | None, list[Any]] | None = None  # as they stand in the journal

    @property
    def amounts(self) -> Amounts:
        return Amounts(self.hold.amount, self.hold.tokens)

    def request_values(self) -> list[Any] | None:
        """Its request's row as the log takes it."""
        if self.rows is not None:
            return self.rows[0]
        return None if self.request is None else request_values(self.request)


@dataclass(slots=True)
class Lease:
    """A chunk of some accounts that this process holds, and what became of it.

    `usd` and `tokens` are what no call has; `until`, when a window of its accounts ends;
    `usable_until`, that or when it must be renewed; `state`, what the store called it last.
    """

    id: str
    key: tuple[Any, ...]
    accounts: Sequence[Account]
    usd: int
    tokens: int
    until: float
    expires_at: float
    usable_until: float
    used_at: float
    kept: Amounts  # what the store holds for it
    retired: bool = False
    state: str = "open"
    open: dict[str, Call] = field(default_factory=dict)
    ended: list[Drawn] = field(default_factory=list)  # not in the store yet

    def keep(self, drawing: int) -> Amounts:
        """What the store must hold on to, once the first `drawing` ended calls are drawn."""
        usd, tokens = self.usd, self.tokens
        for call in self.open.values():
            usd, tokens = usd + call.hold.amount, tokens + call.hold.tokens
        for drawn in self.ended[drawing:]:
            usd, tokens = usd + drawn.inside.usd, tokens + drawn.inside.tokens
        return Amounts(usd, tokens)

    def retire(self) -> None:
        """Give no more calls out of it; what no call has goes back with the next draw."""
        self.retired, self.usd, self.tokens = True, 0, 0


def chunk(asked: int, remaining: int | None) -> int | None:
    """How much to lease where `remaining` is left, None where that is too near the limit.

    Parameters: `asked` by the call that wants it and `remaining`, None without a limit, in one
    unit. 1% of what remains, at least ten calls' worth, and never above a tenth of what remains: so
    it shrinks with the budget, and the last hundred calls' worth is not leased at all.
    """
    if remaining is None:
        return min(_UNLIMITED_CALLS * asked, MAX_NANO // 2)
    size = max(remaining // _PART, _CALLS * asked)
    return size if size <= remaining // _ROOM else None


def chunks(states: Sequence[BudgetState], asked: Amounts) -> Amounts | None:
    """The amounts to lease from accounts in these states; None where any is too near its limit."""
    sizes = []
    for meter in ("usd", "tokens"):
        left = [s.remaining for s in states if s.budget.meter == meter and s.remaining is not None]
        size = chunk(asked.usd if meter == "usd" else asked.tokens, min(left) if left else None)
        if size is None:
            return None
        sizes.append(size)
    return Amounts(*sizes)


def leasable(accounts: Sequence[Account]) -> bool:
    """Whether these accounts can be leased: a count of requests and a share are of single calls,
    and a budget of one request is too small to hold a part of it back."""
    return all(
        account.budget.meter in ("usd", "tokens") and account.budget.scope != "request"
        for account in accounts
    )


def new_lease_hold(
    lease_id: str, accounts: Sequence[Account], amounts: Amounts, now: float, expires_at: float
) -> NewHold:
    """The reservation that a lease is: it expires like any other, in full."""
    takes = tuple([account.take(amounts._replace(requests=0), now) for account in accounts])
    return NewHold(
        lease_id,
        lease_id,
        1,
        amounts,
        now,
        expires_at,
        takes,
        attempt_values(worst_case_row(lease_id, amounts.usd, now)),
        request_values(_request_row(lease_id, now)),
    )


def worst_case_row(lease_id: str, usd: int, now: float) -> AttemptRow:
    """What the log says if a lease expires with `usd` nano-USD that nobody accounted for."""
    return AttemptRow(
        request_id=lease_id,
        number=1,
        time=now,
        step=0,
        arm=_NAME,
        tier=_NAME,
        model=_NAME,
        propensity=1.0,
        status="expired",
        reserved=usd,
        cost=usd,
        cost_source="expired",
        price_book="",
        latency=0.0,
        note="a process died with this much leased",
    )


def returned(lease_id: str, now: float) -> Ending:
    """The end of a lease: what no call took of it goes back."""
    row = replace(worst_case_row(lease_id, 0, now), status="abandoned", note=None)
    return Ending(
        lease_id,
        lease_id,
        1,
        False,
        0,
        0,
        attempt_values(row),
        RequestEnd("returned", accepted=None, baseline=None),
        now,
    )


def _request_row(lease_id: str, now: float) -> RequestRow:
    return RequestRow(
        request_id=lease_id,
        time=now,
        status="open",
        policy="",
        predictor="",
        price_book="",
        scopes={},
        tags=(),
        conversation_id=None,
        stream=False,
        features={},
        decision=(),
        chosen=_NAME,
        reason="a part of the budgets that a process spends by itself",
        rule=None,
        baseline=None,
    )


def recovered(lines: Sequence[Any]) -> dict[str, list[Drawn]]:
    """The calls of each lease in a dead process's journal. Those that had not ended are charged at
    their bound: their provider may bill."""
    calls: dict[str, dict[str, Drawn]] = {}
    rows: dict[str, tuple[list[Any] | None, list[Any]]] = {}
    for line in lines:
        if line[0] == "lease":
            calls.setdefault(line[1], {})
        elif line[0] == "hold":
            calls.setdefault(line[1], {})[line[2]] = _lost(*line[2:])
        elif line[0] == "rows":
            rows[line[1]] = (line[2], line[3])
        elif line[0] == "done":
            calls.setdefault(line[1], {})[line[2]] = read.drawn_of(line)
        elif line[0] == "gone":
            calls.pop(line[1], None)
    return {
        lease_id: [_with_rows(call, rows) for call in of_lease.values()]
        for lease_id, of_lease in calls.items()
    }


def _lost(
    reservation_id: str, request_id: str, number: int, amount: int, tokens: int, now: float
) -> Drawn:
    """A call of which no more than its reservation is known."""
    attempt = replace(
        worst_case_row(request_id, amount, now), number=number, note="its process died"
    )
    request = replace(_request_row(request_id, now), chosen="unknown", reason="its process died")
    return Drawn(
        reservation_id,
        request_id,
        number,
        "expired",
        Amounts(amount, tokens),
        amount,
        tokens,
        attempt_values(attempt),
        request_values(request),
        None,
        now,
        now,
    )


def _with_rows(call: Drawn, rows: dict[str, tuple[list[Any] | None, list[Any]]]) -> Drawn:
    if call.state != "expired" or call.reservation_id not in rows:
        return call
    request, attempt = rows[call.reservation_id]
    return replace(call, request=request, attempt=attempt)
