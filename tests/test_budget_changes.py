"""What people do to budgets in use: limits put in the place of the policy's own, and credits."""

from __future__ import annotations

import pytest

from router.errors import BudgetExceeded, ConfigurationError, InvalidRequest
from router.ledger import open_ledger
from router.types import Budget
from tests.ledger_kit import NOW, TTL, counters, release, reserve, run_all, settle

ALL = ("all", "")
DAY = 86_400.0


@pytest.fixture
def ledger(store):
    opened = store.open(
        [Budget("all", 1000, "day"), Budget("each", 500, scope="user"), Budget("open", None)],
    )
    yield opened
    assert opened.verify() == []
    opened.close()


def limits(ledger, now: float = NOW) -> dict[tuple[str, str], int | None]:
    return {(s.budget.name, s.scope_value): s.limit for s in ledger.states(now)}


def refused(ledger, name: str, amount: int, **more) -> BudgetExceeded:
    with pytest.raises(BudgetExceeded) as caught:
        reserve(ledger, name, amount, **more)
    return caught.value


# ── limits ─────────────────────────────────────────────────────────────────────────────────────
def test_f12_a_limit_that_is_set_keeps_what_was_used_and_what_is_held(ledger):
    reserve(ledger, "a", 300)
    settle(ledger, "a", 200)
    reserve(ledger, "b", 200)
    ledger.set_limit("all", 250, now=NOW)
    full = refused(ledger, "c", 1)
    assert (full.budget, full.used, full.held, full.limit) == ("all", 200, 200, 250)
    [state] = [s for s in ledger.states(NOW) if s.budget.name == "all"]
    assert (state.settled, state.held, state.limit, state.remaining) == (200, 200, 250, 0)
    settle(ledger, "b", 0)
    reserve(ledger, "d", 50)
    ledger.set_limit("all", 260, now=NOW)
    reserve(ledger, "e", 10)
    assert ledger.room({}, NOW).remaining() == 0


def test_a_free_call_under_a_lowered_limit_leaves_the_store_sound(ledger):
    reserve(ledger, "a", 300)
    ledger.set_limit("all", 100, now=NOW)
    reserve(ledger, "free", 0)
    assert ledger.verify() == []  # what was admitted under 1000 stays admitted


def test_a_limit_set_to_none_is_unlimited_and_taken_back_it_is_the_policy_s_own(ledger):
    ledger.set_limit("all", None, now=NOW)
    ledger.set_limit("each", None, now=NOW)
    reserve(ledger, "a", 5000)
    assert limits(ledger)[ALL] is None
    ledger.set_limit("all", None, now=NOW, keep=False)
    assert limits(ledger)[ALL] == 1000
    assert refused(ledger, "b", 1).held == 5000


def test_an_unlimited_budget_can_be_given_a_limit(ledger):
    ledger.set_limit("open", 100, now=NOW)
    reserve(ledger, "a", 100)
    assert refused(ledger, "b", 1).budget == "open"


def test_one_value_s_limit_goes_before_that_of_all_values(ledger):
    reserve(ledger, "before", 10, scopes={"user": "ann"})
    ledger.set_limit("each", 50, now=NOW)
    ledger.set_limit("each", 80, now=NOW, scope_value="ann")
    ledger.set_limit("each", 0, now=NOW, scope_value="eve")
    reserve(ledger, "ann", 70, scopes={"user": "ann"})
    assert refused(ledger, "ann2", 1, scopes={"user": "ann"}).limit == 80
    assert refused(ledger, "bob", 51, scopes={"user": "bob"}).limit == 50
    assert refused(ledger, "eve", 1, scopes={"user": "eve"}).limit == 0
    ledger.set_limit("each", None, now=NOW, scope_value="ann", keep=False)
    assert refused(ledger, "ann3", 1, scopes={"user": "ann"}).limit == 50
    ledger.set_limit("each", None, now=NOW, keep=False)
    reserve(ledger, "ann4", 420, scopes={"user": "ann"})
    assert refused(ledger, "eve2", 1, scopes={"user": "eve"}).limit == 0


def test_a_new_window_keeps_the_limit_that_was_set(ledger):
    reserve(ledger, "a", 10)
    ledger.set_limit("all", 40, now=NOW)
    assert refused(ledger, "b", 41, now=NOW + DAY).limit == 40
    reserve(ledger, "c", 40, now=NOW + DAY)
    assert refused(ledger, "d", 1, now=NOW + DAY).limit == 40


def test_a_limit_set_on_a_rolling_budget_holds_over_its_buckets(store):
    ledger = store.open([Budget("b", 1000, "rolling", seconds=3600)])
    reserve(ledger, "a", 300)
    ledger.set_limit("b", 350, now=NOW)
    assert refused(ledger, "b", 51, now=NOW + 600).limit == 350
    reserve(ledger, "c", 50, now=NOW + 600)
    assert ledger.verify() == []


def _reserve_elsewhere(store, answers):
    ledger = store.open([Budget("all", 1000)])
    answers.put(refused(ledger, "elsewhere", 100).limit)


def test_another_process_enforces_the_limit_that_was_set(store):
    ledger = store.open([Budget("all", 1000)])
    reserve(ledger, "a", 100)
    ledger.set_limit("all", 150, now=NOW)
    assert run_all(_reserve_elsewhere, [(store,)]) == [150]
    later = store.open([Budget("all", 2000)])  # a new policy is not asked either
    assert refused(later, "b", 51).limit == 150


@pytest.mark.parametrize("limit", [-1, 2**53 + 1, 1.0, True, "5"])
def test_a_limit_that_is_none_is_refused_and_changes_nothing(ledger, limit):
    with pytest.raises(ConfigurationError, match="limit"):
        ledger.set_limit("all", limit, now=NOW)
    assert limits(ledger)[ALL] == 1000
    assert ledger.audit() == []


def test_a_share_cannot_be_set_above_the_whole():
    ledger = open_ledger(
        "sqlite://", [Budget("s", 1, scope="tier", value="frontier", meter="share")]
    )
    ledger.set_limit("s", 1_000_000, now=NOW)
    with pytest.raises(ConfigurationError, match="millionths"):
        ledger.set_limit("s", 1_000_001, now=NOW)


@pytest.mark.parametrize("change", ["set_limit", "credit"])
def test_a_budget_that_is_unknown_and_a_value_it_does_not_have_are_refused(ledger, change):
    change = getattr(ledger, change)
    with pytest.raises(ConfigurationError, match="known: all, each, open"):
        change("al", 5, now=NOW)
    with pytest.raises(InvalidRequest, match="'ann'"):
        change("all", 5, now=NOW, scope_value="ann")
    with pytest.raises(InvalidRequest):
        change("each", 5, now=NOW, scope_value="\0")
    assert ledger.audit() == []


@pytest.mark.parametrize("use", ["call", "limit"])
def test_what_was_counted_in_one_unit_is_never_read_as_another(store, use):
    ledger = store.open([Budget("daily", 5_000_000_000, "day")])
    requests = Budget("daily", 1000, "day", meter="requests")
    store.open([requests]).close()  # nothing was counted yet
    store.open([Budget("daily", 5_000_000_000, "day")]).close()
    if use == "call":
        reserve(ledger, "a", 4_000_000_000)
    else:
        ledger.set_limit("daily", 4_000_000_000, now=NOW)
    with pytest.raises(ConfigurationError, match=r"'daily' counts requests, and .* counted usd"):
        store.open([requests])
    store.open(
        [Budget("daily", 6_000_000_000, "day"), Budget("calls", 5, meter="requests")]
    ).close()
    ledger.close()


# ── credits ────────────────────────────────────────────────────────────────────────────────────
def test_a_credit_takes_back_what_is_settled_and_no_more(store):
    ledger = store.open([Budget("all", 1000)])
    reserve(ledger, "a", 600)
    settle(ledger, "a", 500)
    reserve(ledger, "b", 300)
    assert ledger.credit("all", 200, now=NOW) == 200
    assert counters(ledger)[ALL] == (300, 300)
    assert ledger.credit("all", 301, now=NOW) == 300  # nothing of what is held
    assert ledger.credit("all", 1, now=NOW) == 0
    assert counters(ledger)[ALL] == (0, 300)
    assert refused(ledger, "c", 701).budget == "all"
    settle(ledger, "b", 300)
    assert counters(ledger)[ALL] == (300, 0)
    assert sum(row.cost or 0 for row in ledger.log().attempts()) == 800  # the log keeps the truth
    assert ledger.verify() == []


def test_a_credit_is_of_the_current_window_and_of_one_value(ledger):
    for name, user in {"a": "ann", "b": "bob"}.items():
        reserve(ledger, name, 100, scopes={"user": user})
        settle(ledger, name, 100)
    assert ledger.credit("each", 70, now=NOW, scope_value="ann") == 70
    assert ledger.credit("each", 70, now=NOW) == 0  # of those who name no user
    assert ledger.credit("all", 70, now=NOW + DAY) == 0
    assert counters(ledger) == {
        ALL: (200, 0),
        ("each", "ann"): (30, 0),
        ("each", "bob"): (100, 0),
        ("open", ""): (200, 0),
    }


def test_a_credit_of_a_rolling_budget_takes_back_from_all_of_its_window(store):
    ledger = store.open([Budget("b", 100, "rolling", seconds=3600)])
    for at, cost in enumerate([30, 30, 40]):
        reserve(ledger, f"r{at}", cost, now=NOW + 1200 * at)
        settle(ledger, f"r{at}", cost, now=NOW + 1200 * at)
    now = NOW + 2520
    assert ledger.credit("b", 50, now=now) == 50
    assert counters(ledger, now) == {("b", ""): (50, 0)}
    reserve(ledger, "fits", 50, now=now)
    assert refused(ledger, "r4", 1, now=now).resets_at == NOW + 3660
    assert ledger.credit("b", 60, now=NOW + 3660) == 20  # the first 30 have left
    assert ledger.verify() == []


def test_a_correction_after_a_credit_is_booked_and_the_credit_kept(store):
    ledger = store.open([Budget("all", 1000)])
    reserve(ledger, "a", 400)
    ledger.expire(NOW + TTL)
    assert ledger.credit("all", 400, now=NOW) == 400
    settle(ledger, "a", 150, now=NOW + TTL + 1)
    assert counters(ledger)[ALL] == (-250, 0)
    assert refused(ledger, "b", 1251).used == -250
    reserve(ledger, "c", 500)
    release(ledger, "c")
    assert ledger.room({}, NOW).remaining() == 1250
    assert ledger.verify() == []


@pytest.mark.parametrize("amount", [-1, 2**53 + 1, 1.0, True, "5"])
def test_a_credit_that_is_no_amount_is_refused(ledger, amount):
    with pytest.raises(InvalidRequest, match="not an amount"):
        ledger.credit("all", amount, now=NOW)


def test_the_audit_says_who_did_what_when_and_why(ledger):
    reserve(ledger, "a", 100, scopes={"user": "ann"})
    settle(ledger, "a", 100)
    ledger.set_limit("all", None, now=NOW + 1, by="root:x", note="month: end")
    ledger.set_limit("each", 7, now=NOW + 2, scope_value="ann", by="eve")
    ledger.set_limit("all", None, now=NOW + 3, keep=False)
    ledger.credit("each", 150, now=NOW + 4, scope_value="ann", by="bob", note="refund")
    assert [
        (c.budget, c.scope_value, c.kind, c.amount, c.time - NOW, c.by, c.note)
        for c in ledger.audit()
    ] == [
        ("all", None, "limit", -1, 1, "root x", "month: end"),
        ("each", "ann", "limit", 7, 2, "eve", ""),
        ("all", None, "limit", None, 3, "", ""),
        ("each", "ann", "credit", 100, 4, "bob", "refund"),
    ]
