"""A ledger in plain Python, which adds up a list anew for each question.

What it lacks in speed it makes up in having nothing to get out of step: no counters, no windows
that are opened, no transactions.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from router.types import Budget

DAY, HOUR, BUCKET = 86_400, 3_600, 60
METERS = ("usd", "tokens", "requests")

BUDGETS = {
    budget.name: budget
    for budget in (
        Budget("calls", None, "rolling", seconds=HOUR, meter="requests"),
        Budget("day", None, "day"),
        Budget("recent", None, "rolling", seconds=HOUR, scope="user"),
        Budget("share", 1_000_000, scope="tier", value="frontier", meter="share"),
        Budget("tag", None, scope="tag"),
        Budget("tokens", None, "day", scope="user", meter="tokens"),
        Budget("total", None),
    )
}


@dataclass(frozen=True)
class Account:
    """One budget's counters for one scope value, in the window with this number."""

    budget: str
    value: str
    window: int


@dataclass
class Reserved:
    """A reservation, how it ended, and who pays what meter."""

    amounts: dict[str, int]
    expires_at: float
    pays: tuple[Account, ...]
    sees: tuple[Account, ...]
    state: str = "open"
    actual: dict[str, int] = field(default_factory=dict)


@dataclass
class Model:
    limits: dict[str, int | None]
    overrides: dict[tuple[str, str | None], int | None] = field(default_factory=dict)
    credited: Counter[Account] = field(default_factory=Counter)
    reserved: dict[str, Reserved] = field(default_factory=dict)

    # ── windows ────────────────────────────────────────────────────────────────────────────────
    def windows(self, budget: str, now: float) -> tuple[int, int]:
        """The first and the latest window that count; none is earlier than one that was used."""
        length = {"day": DAY, "rolling": BUCKET}.get(BUDGETS[budget].window)
        if length is None:
            return 0, 0
        here = int(now // length)
        used = [a.window for r in self.reserved.values() for a in r.sees if a.budget == budget]
        latest = max([here, *used])
        return (here - HOUR // BUCKET if length == BUCKET else latest), latest

    def accounts(
        self, now: float, user: str, tags: tuple[str, ...], tier: str
    ) -> tuple[list[Account], list[Account]]:
        """The accounts that a call pays from, and those that see it, by name."""
        values = {"user": [user], "tag": list(dict.fromkeys(tags)) or [""], "tier": ["frontier"]}
        sees = [
            Account(name, value, self.windows(name, now)[1])
            for name, budget in BUDGETS.items()
            for value in values.get(budget.scope, [""])
        ]
        return [a for a in sees if a.budget != "share" or tier == "frontier"], sees

    # ── sums ───────────────────────────────────────────────────────────────────────────────────
    def sums(self, budget: str, value: str, now: float) -> tuple[int, int, int, int]:
        """settled, held, overrun and seen over the windows that count."""
        first, last = self.windows(budget, now)
        meter = BUDGETS[budget].meter
        meter = "requests" if meter == "share" else meter
        settled = held = overrun = seen = 0
        for each in self.reserved.values():
            for account in each.sees:
                counts = account.budget == budget and account.value == value
                seen += counts and first <= account.window <= last
            for account in each.pays:
                if (account.budget, account.value) != (budget, value):
                    continue
                if not first <= account.window <= last:
                    continue
                if each.state == "open":
                    held += each.amounts[meter]
                else:
                    settled += each.actual[meter]
                    overrun += max(0, each.actual[meter] - each.amounts[meter])
        for account, given in self.credited.items():
            if (account.budget, account.value) == (budget, value):
                settled -= given if first <= account.window <= last else 0
        return settled, held, overrun, seen

    def limit(self, budget: str, value: str) -> int | None:
        for key in ((budget, value), (budget, None)):
            if key in self.overrides:
                return self.overrides[key]
        return self.limits[budget]

    def full(self, now: float, pays: list[Account], amounts: dict[str, int]) -> Account | None:
        """The first account without room."""
        for account in pays:
            meter = BUDGETS[account.budget].meter
            limit = self.limit(account.budget, account.value)
            amount = amounts["requests" if meter == "share" else meter]
            settled, held, _, seen = self.sums(account.budget, account.value, now)
            if limit is None or not amount:
                continue
            most = limit * (seen + 1) // 1_000_000 if meter == "share" else limit
            if settled + held + amount > most:
                return account
        return None

    # ── steps ──────────────────────────────────────────────────────────────────────────────────
    def end(self, name: str, actual: dict[str, int], state: str) -> bool:
        """End a reservation; False where the ledger must refuse."""
        each = self.reserved[name]
        if each.state in ("open", "expired"):
            each.state = state if each.state == "open" else "corrected"
            each.actual = actual
            return True
        return each.actual["usd"] == actual["usd"]

    def expire(self, now: float) -> int:
        due = [r for r in self.reserved.values() if r.state == "open" and r.expires_at <= now]
        for each in due:
            each.state, each.actual = "expired", each.amounts
        return len(due)

    def credit(self, budget: str, value: str, amount: int, now: float) -> int:
        """Take back from the latest window first, from none more than is settled in it."""
        first, last = self.windows(budget, now)
        left = amount
        for window in range(last, first - 1, -1):
            account = Account(budget, value, window)
            given = min(left, max(0, self._settled_in(account)))
            self.credited[account] += given
            left -= given
        return amount - left

    def _settled_in(self, account: Account) -> int:
        meter = BUDGETS[account.budget].meter
        meter = "requests" if meter == "share" else meter
        ended = [r for r in self.reserved.values() if r.state != "open" and account in r.pays]
        return sum(r.actual[meter] for r in ended) - self.credited[account]
