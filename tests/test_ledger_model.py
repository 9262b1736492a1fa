"""The ledger against a model in plain Python, over every order of steps Hypothesis can think of."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from router.errors import BudgetExceeded, ReservationError
from router.ledger import open_ledger
from router.types import Budget, RequestEnd
from tests.ledger_kit import NOW, attempt_row, reserve, url

DAY = 86400.0
USERS = ("", "ann", "bob")
LIMITS = st.sampled_from([0, 50, 100, 250, None])
AMOUNTS = st.integers(0, 120)


@dataclass
class Reserved:
    """The model's reservation: its amount, who pays in which window, and how it ended."""

    amount: int
    expires_at: float
    accounts: tuple[tuple[str, str, int], ...]  # budget, scope value, day
    state: str = "open"
    actual: int = 0


@dataclass
class Account:
    settled: int = 0
    held: int = 0
    overrun: int = 0


@dataclass
class Model:
    limits: dict[str, int | None]
    day: int = 0  # the latest day that a reservation opened
    reserved: dict[str, Reserved] = field(default_factory=dict)

    def account(self, key: tuple[str, str, int]) -> Account:
        account = Account()
        for each in self.reserved.values():
            if key in each.accounts:
                if each.state == "open":
                    account.held += each.amount
                else:
                    account.settled += each.actual
                    account.overrun += max(0, each.actual - each.amount)
        return account

    def keys(self, user: str, now: float) -> tuple[tuple[str, str, int], ...]:
        day = max(self.day, int(now // DAY))
        return (("day", "", day), ("total", "", 0), ("user", user, day))

    def full(self, keys: tuple[tuple[str, str, int], ...], amount: int) -> list[str]:
        """The budgets without room for `amount`."""
        names = []
        for key in keys:
            limit, account = self.limits[key[0]], self.account(key)
            if limit is not None and amount and account.settled + account.held + amount > limit:
                names.append(key[0])
        return names

    def end(self, name: str, actual: int, state: str) -> bool:
        """End a reservation; False where the ledger must refuse."""
        each = self.reserved[name]
        if each.state in ("open", "expired"):
            each.state = state if each.state == "open" else "corrected"
            each.actual = actual
            return True
        return each.actual == actual


class LedgerMachine(RuleBasedStateMachine):
    names = Bundle("names")

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.now, self.count = NOW, 0

    @initialize(day=LIMITS, total=LIMITS, user=LIMITS)
    def begin(self, day, total, user):
        self.model = Model({"day": day, "total": total, "user": user})
        self.ledger = self.open()

    @rule(name=st.sampled_from(["day", "total", "user"]), limit=LIMITS)
    def change_a_limit(self, name, limit):
        self.ledger.close()
        self.model.limits[name] = limit
        self.ledger = self.open()

    @rule(
        target=names, amount=AMOUNTS, user=st.sampled_from(USERS), ttl=st.sampled_from([60.0, DAY])
    )
    def reserve(self, amount, user, ttl):
        self.count += 1
        name = f"r{self.count}"
        keys = self.model.keys(user, self.now)
        full = self.model.full(keys, amount)
        if full:
            with pytest.raises(BudgetExceeded) as refused:
                reserve(self.ledger, name, amount, scopes={"user": user}, now=self.now, ttl=ttl)
            assert refused.value.budget == full[0]
        else:
            reserve(self.ledger, name, amount, scopes={"user": user}, now=self.now, ttl=ttl)
            self.model.reserved[name] = Reserved(amount, self.now + ttl, keys)
            self.model.day = max(self.model.day, int(self.now // DAY))
        return name

    @rule(name=names)
    def reserve_again(self, name):
        each = self.model.reserved.get(name)
        if each is None:
            return
        if each.state == "open":
            reserve(self.ledger, name, each.amount, now=self.now, ttl=DAY)
        else:
            with pytest.raises(ReservationError):
                reserve(self.ledger, name, each.amount, now=self.now, ttl=DAY)

    @rule(name=names, cost=AMOUNTS)
    def settle(self, name, cost):
        row, end = attempt_row(name, cost=cost), RequestEnd("answered", 1, 900)
        if name in self.model.reserved and self.model.end(name, cost, "settled"):
            self.ledger.settle(f"{name}/1", row, end, self.now)
        else:
            with pytest.raises(ReservationError):
                self.ledger.settle(f"{name}/1", row, end, self.now)

    @rule(name=names)
    def release(self, name):
        row = attempt_row(name, cost=0, status="failed")
        if name in self.model.reserved and self.model.end(name, 0, "released"):
            self.ledger.release(f"{name}/1", row, None, self.now)
        else:
            with pytest.raises(ReservationError):
                self.ledger.release(f"{name}/1", row, None, self.now)

    @rule()
    def expire(self):
        due = [
            each
            for each in self.model.reserved.values()
            if each.state == "open" and each.expires_at <= self.now
        ]
        assert self.ledger.expire(self.now) == len(due)
        for each in due:
            each.state, each.actual = "expired", each.amount

    @rule(seconds=st.sampled_from([1.0, 90.0, DAY / 2, 3 * DAY, -7200.0, -DAY]))
    def pass_time(self, seconds):
        self.now = max(NOW, self.now + seconds)

    @invariant()
    def the_counters_are_the_model_s(self):
        for state in self.ledger.states(self.now):
            [key] = [
                key
                for key in self.model.keys(state.scope_value, self.now)
                if key[0] == state.budget.name
            ]
            account = self.model.account(key)
            assert (state.settled, state.held, state.overrun) == (
                account.settled,
                account.held,
                account.overrun,
            )
            assert state.budget.limit == self.model.limits[key[0]]

    @invariant()
    def the_store_is_sound(self):
        assert self.ledger.verify() == []

    def open(self):
        windows = {"day": "day", "total": "total", "user": "day"}
        return open_ledger(
            url(Path(self.folder.name) / "l.db"),
            [
                Budget(name, limit, windows[name], scope="user" if name == "user" else "global")
                for name, limit in self.model.limits.items()
            ],
            durability="normal",
        )

    def teardown(self):
        if hasattr(self, "ledger"):
            self.ledger.close()
        self.folder.cleanup()


LedgerMachine.TestCase.settings = settings(
    max_examples=30,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
test_the_ledger_does_what_its_model_does_whatever_the_order = LedgerMachine.TestCase
