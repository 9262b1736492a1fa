"""Budgets and what is left in them: the part of `router.types` that policies and ledgers share.

Amounts are in the unit of a budget's meter: nano-USD, tokens, requests, or requests for a share.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from router.arms import Arm

OnExceed = Literal["block", "downgrade", "queue"]
Window = Literal["hour", "day", "week", "month", "total", "rolling"]
Meter = Literal["usd", "tokens", "requests", "share"]
Purpose = Literal["serve", "judge", "shadow", "compaction", "probe"]


@dataclass(frozen=True, slots=True)
class Budget:
    """A hard limit. `limit` in the unit of `meter`, None for unlimited; `zone` an IANA name.

    `meter` says what is counted: "usd" in nano-USD, "tokens" (prompt and answer), "requests" (wire
    attempts that were billed or are under way), or "share": the attempts of the scope value `value`
    among all that this budget sees, in millionths.
    `window` is a calendar one in `zone`, "total", or "rolling" over the last `seconds`.
    `scope` is "global", the name of a request scope ("user", "team", …), or one that the router
    knows itself ("tier", "model", "tag", "conversation", "request"): then every value of that scope
    has a budget of its own, and requests that name no value share one, "". With `value`, only that
    value has one. `when` narrows what counts to attempts whose scopes have all these values:
    pairs of a scope and a value of it, "*" for any but none. A model is named in full or without
    its provider ("gpt-5.4" for "openai/gpt-5.4"). Money that the router spends on calls of its own
    (`purpose` "judge", …) counts against budgets of that purpose alone; "any" counts all.
    """

    name: str
    limit: int | None
    window: Window = "total"
    zone: str = "UTC"
    scope: str = "global"
    on_exceed: OnExceed = "block"
    meter: Meter = "usd"
    value: str | None = None
    seconds: int | None = None
    purpose: Purpose | Literal["any"] = "serve"
    when: tuple[tuple[str, str], ...] = ()

    def counts(self, scope: str, value: str) -> bool:
        """Whether an attempt with this value of a scope may count here, as far as that goes."""
        return all(
            wanted in (value, "*" if value else None)
            or (scope == "model" and value.endswith(f"/{wanted}"))
            for name, wanted in self.when
            if name == scope
        )


@dataclass(frozen=True, slots=True)
class BudgetState:
    """One budget in its current window, in the unit of its meter.

    `limit` is what is enforced: the budget's own, or what `router budget set` has put in its place.
    `resets_at`, unix seconds: when usage next falls, None for never. `seen`: all attempts that a
    share is of.
    """

    budget: Budget
    scope_value: str
    window_id: str
    settled: int
    held: int
    overrun: int = 0
    resets_at: float | None = None
    seen: int = 0
    limit: int | None = None

    @property
    def remaining(self) -> int | None:
        """What may still be reserved, never negative; None for unlimited."""
        return self.left(1)

    def left(self, calls: int) -> int | None:
        """What so many calls together may still reserve: of a share, each makes more."""
        if self.limit is None:
            return None
        most = allowed(self.budget.meter, self.limit, self.seen + calls - 1)
        return max(0, most - self.settled - self.held)

    @property
    def depends_on_arm(self) -> bool:
        """Whether some arms' calls may count here and others' not."""
        budget = self.budget
        return any(name in ("tier", "model") for name in (budget.scope, *dict(budget.when)))

    def pays_for(self, arm: Arm) -> bool:
        """Whether a call of this arm counts here."""
        own = {"tier": arm.tier, "model": arm.model}
        return own.get(self.budget.scope, self.scope_value) == self.scope_value and all(
            self.budget.counts(name, value) for name, value in own.items()
        )


@dataclass(frozen=True, slots=True)
class Change:
    """What a person did to a budget, `time` in unix seconds, `amount` in the unit of its meter.

    "limit": `amount` was put in the place of the budget's own limit, -1 for unlimited, None to take
    that back; `scope_value` None for all values. "credit": so much of what was settled was taken
    back.
    """

    budget: str
    scope_value: str | None
    kind: Literal["limit", "credit"]
    amount: int | None
    time: float
    by: str
    note: str


def allowed(meter: Meter, limit: int, seen: int) -> int:
    """The most that settled and held may sum to, once one more attempt is seen."""
    return limit * (seen + 1) // 1_000_000 if meter == "share" else limit


@dataclass(frozen=True, slots=True)
class Room:
    """What the budgets of one request still allow."""

    budgets: tuple[BudgetState, ...] = ()

    def remaining(self) -> int | None:
        """Least remaining nano-USD of the budgets that every arm pays from; None if unlimited."""
        left = [
            state.remaining
            for state in self.budgets
            if state.remaining is not None
            and state.budget.meter == "usd"
            and not state.depends_on_arm
        ]
        return min(left) if left else None

    def lacking(
        self,
        arm: Arm,
        usd: int,
        tokens: int,
        on_exceed: OnExceed | None = None,
        *,
        calls: int = 1,
    ) -> BudgetState | None:
        """The first budget (of one kind, where named) without room for so many attempts of `arm`,
        each of which may take `usd` and `tokens`."""
        for state in self.budgets:
            budget, left = state.budget, state.left(calls)
            if left is None or on_exceed not in (None, budget.on_exceed):
                continue
            if not state.pays_for(arm):
                continue
            needed = {"usd": usd, "tokens": tokens}.get(budget.meter, 1)
            if calls * needed > left:
                return state
        return None
