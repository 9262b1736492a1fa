"""The ledger against a model in plain Python, over every order of steps Hypothesis can think of.

It runs over every store: `case` makes a machine of each.
"""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from router.errors import BudgetExceeded, ReservationError
from router.types import RequestEnd
from tests.ledger_kit import NOW, attempt_row, reserve
from tests.ledger_model import BUDGETS, DAY, HOUR, Model, Reserved
from tests.stores import STORES, FreshStore

LIMITS = {
    "calls": st.sampled_from([None, None, 2, 5]),
    "day": st.sampled_from([0, 50, 100, 250, None]),
    "recent": st.sampled_from([None, 60, 150]),
    "share": st.sampled_from([1_000_000, 500_000, 250_000]),
    "tag": st.sampled_from([None, 80, 200]),
    "tokens": st.sampled_from([None, 100, 300]),
    "total": st.sampled_from([0, 100, 250, 1000, None]),
}
NAMES = st.sampled_from(list(BUDGETS))
USERS = st.sampled_from(["", "ann", "bob"])
TAGS = st.sampled_from([(), ("x",), ("x", "y"), ("y", "y")])
TIERS = st.sampled_from(["nano", "frontier"])
VALUES = {"user": USERS, "tag": st.sampled_from(["", "x", "y"]), "tier": st.just("frontier")}
AMOUNTS = st.just(0) | st.integers(0, 120)


class LedgerMachine(RuleBasedStateMachine):
    kind: str
    names = Bundle("names")

    def __init__(self) -> None:
        super().__init__()
        self.places = ExitStack()
        self.store = self.new_store()
        self.now, self.count = NOW, 0

    def new_store(self) -> FreshStore:
        """An empty store of the machine's kind, removed with `places`."""
        folder = Path(self.places.enter_context(tempfile.TemporaryDirectory()))
        return self.places.enter_context(STORES[self.kind](folder))

    @initialize(limits=st.fixed_dictionaries(LIMITS))
    def begin(self, limits):
        self.model = Model(limits)
        self.ledger = self.open()

    def open(self):
        budgets = [replace(b, limit=self.model.limits[b.name]) for b in BUDGETS.values()]
        return self.store.open(budgets)

    # ── people ─────────────────────────────────────────────────────────────────────────────────
    @rule(name=NAMES, data=st.data())
    def change_the_policy(self, name, data):
        self.ledger.close()
        self.model.limits[name] = data.draw(LIMITS[name])
        self.ledger = self.open()

    @rule(name=NAMES, of_all=st.booleans(), keep=st.booleans(), data=st.data())
    def set_a_limit(self, name, of_all, keep, data):
        value = None if of_all else data.draw(VALUES.get(BUDGETS[name].scope, st.just("")))
        limit = data.draw(LIMITS[name])
        self.ledger.set_limit(name, limit, now=self.now, scope_value=value, keep=keep)
        self.model.overrides.pop((name, value), None)
        if keep:
            self.model.overrides[name, value] = limit

    @rule(name=NAMES, amount=st.integers(0, 200), data=st.data())
    def credit(self, name, amount, data):
        value = data.draw(VALUES.get(BUDGETS[name].scope, st.just("")))
        given = self.ledger.credit(name, amount, now=self.now, scope_value=value)
        assert given == self.model.credit(name, value, amount, self.now)
        assert self.ledger.audit()[-1].amount == given

    # ── calls ──────────────────────────────────────────────────────────────────────────────────
    @rule(
        target=names, usd=AMOUNTS, tokens=AMOUNTS, user=USERS, tags=TAGS, tier=TIERS,
        ttl=st.sampled_from([60.0, float(DAY)]),
    )  # fmt: skip
    def reserve(self, usd, tokens, user, tags, tier, ttl):
        self.count += 1
        name, now = f"r{self.count}", self.now
        scopes = {"user": user, "tag": tags, "tier": (tier,)}
        amounts = {"usd": usd, "tokens": tokens, "requests": 1}
        pays, sees = self.model.accounts(now, user, tags, tier)
        full = self.model.full(now, pays, amounts)
        if full is None:
            reserve(self.ledger, name, usd, tokens=tokens, scopes=scopes, now=now, ttl=ttl)
            self.model.reserved[name] = Reserved(amounts, now + ttl, tuple(pays), tuple(sees))
            return name
        with pytest.raises(BudgetExceeded) as refused:
            reserve(self.ledger, name, usd, tokens=tokens, scopes=scopes, now=now, ttl=ttl)
        error = refused.value
        settled, held, _, _ = self.model.sums(full.budget, full.value, now)
        assert (error.budget, error.scope_value) == (full.budget, full.value)
        assert (error.used, error.held) == (settled, held)
        assert error.used + error.held + error.needed > error.limit
        return name

    @rule(name=names)
    def reserve_again(self, name):
        each = self.model.reserved.get(name)
        if each is None:
            return
        usd, tokens = each.amounts["usd"], each.amounts["tokens"]
        if each.state == "open":
            reserve(self.ledger, name, usd, tokens=tokens, now=self.now, ttl=DAY)
        else:
            with pytest.raises(ReservationError):
                reserve(self.ledger, name, usd, tokens=tokens, now=self.now, ttl=DAY)

    @rule(name=names, cost=AMOUNTS, tokens=AMOUNTS | st.none())
    def settle(self, name, cost, tokens):
        row = attempt_row(name, cost=cost, input_tokens=tokens, output_tokens=None)
        end = RequestEnd("answered", 1, 900)
        known = self.model.reserved.get(name)
        if tokens is None and known is not None:
            tokens = known.amounts["tokens"]
        actual = {"usd": cost, "tokens": tokens, "requests": 1}
        if known is not None and self.model.end(name, actual, "settled"):
            self.ledger.settle(f"{name}/1", row, end, self.now)
        else:
            with pytest.raises(ReservationError):
                self.ledger.settle(f"{name}/1", row, end, self.now)

    @rule(name=names)
    def release(self, name):
        row = attempt_row(name, cost=0, status="failed")
        nothing = dict.fromkeys(("usd", "tokens", "requests"), 0)
        if name in self.model.reserved and self.model.end(name, nothing, "released"):
            self.ledger.release(f"{name}/1", row, None, self.now)
        else:
            with pytest.raises(ReservationError):
                self.ledger.release(f"{name}/1", row, None, self.now)

    @rule()
    def expire(self):
        assert self.ledger.expire(self.now) == self.model.expire(self.now)

    @rule(seconds=st.sampled_from([1, 90, HOUR / 2, HOUR, DAY / 2, 3 * DAY, -600, -2 * HOUR, -DAY]))
    def pass_time(self, seconds):
        self.now = max(NOW, self.now + seconds)

    # ── what always holds ──────────────────────────────────────────────────────────────────────
    @invariant()
    def the_counters_are_the_model_s(self):
        for state in self.ledger.states(self.now):
            name, value = state.budget.name, state.scope_value
            sums = self.model.sums(name, value, self.now)
            assert (state.settled, state.held, state.overrun, state.seen) == sums, name
            assert state.limit == self.model.limit(name, value), name
            assert state.budget.limit == self.model.limits[name]

    @invariant()
    def the_store_is_sound(self):
        assert self.ledger.verify() == []

    def teardown(self):
        if hasattr(self, "ledger"):
            self.ledger.close()
        self.places.close()


def case(kind: str) -> type:
    """The machine over one kind of store. A server's steps take longer, so it makes fewer."""
    machine: Any = type(f"{kind.title()}Machine", (LedgerMachine,), {"kind": kind})
    few = kind != "sqlite"
    machine.TestCase.settings = settings(
        max_examples=8 if few else 30,
        stateful_step_count=25 if few else 40,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    found: type = machine.TestCase
    return found


for _kind in STORES:  # unittest's cases have no parameters
    globals()[f"test_the_ledger_does_what_its_model_does_whatever_the_order_on_{_kind}"] = case(
        _kind
    )
