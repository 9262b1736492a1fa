"""What a budget counts, whose calls count, and which ones: one rule a test, through the ledger."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.errors import BudgetExceeded, ConfigurationError
from router.ledger import open_ledger
from router.types import Arm, Budget, Reservation
from tests.ledger_kit import NOW, TTL, attempt_row, counters, release, request_row, reserve, settle

PRO = Arm("frontier", 0, "openai/gpt-pro")
TIERS = st.sampled_from(["nano", "mini", "mid", "frontier"])


@pytest.fixture
def opened(store):
    return lambda *budgets: store.open(budgets)


# ── meters ─────────────────────────────────────────────────────────────────────────────────────
def test_a_budget_of_tokens_holds_the_bound_and_settles_what_was_used(opened):
    ledger = opened(Budget("b", 1000, meter="tokens"))
    reserve(ledger, "a", 5, tokens=600)
    assert counters(ledger) == {("b", ""): (0, 600)}
    settle(ledger, "a", 5, input_tokens=100, output_tokens=50)
    assert counters(ledger) == {("b", ""): (150, 0)}
    with pytest.raises(BudgetExceeded) as refused:
        reserve(ledger, "b", 5, tokens=851)
    error = refused.value
    assert (error.meter, error.used, error.needed, error.limit) == ("tokens", 150, 851, 1000)
    assert "150 tokens used" in str(error)
    reserve(ledger, "c", 5, tokens=850)
    assert ledger.verify() == []


def test_tokens_that_nobody_reported_count_as_all_that_were_reserved(opened):
    ledger = opened(Budget("b", 1000, meter="tokens"))
    reserve(ledger, "a", 5, tokens=600)
    settle(ledger, "a", 5, input_tokens=None, output_tokens=None)
    assert counters(ledger) == {("b", ""): (600, 0)}


def test_more_tokens_than_reserved_are_an_overrun(opened):
    ledger = opened(Budget("b", 1000, meter="tokens"))
    reserve(ledger, "a", 5, tokens=600)
    settle(ledger, "a", 5, input_tokens=1000, output_tokens=200)
    [state] = ledger.states(NOW)
    assert (state.settled, state.overrun, state.remaining) == (1200, 600, 0)
    assert ledger.verify() == []


def test_expired_tokens_are_charged_in_full_and_corrected_once(opened):
    ledger = opened(Budget("b", 1000, meter="tokens"))
    reserve(ledger, "a", 5, tokens=600)
    ledger.expire(NOW + TTL)
    assert counters(ledger) == {("b", ""): (600, 0)}
    settle(ledger, "a", 5, now=NOW + TTL + 1, input_tokens=70, output_tokens=30)
    assert counters(ledger) == {("b", ""): (100, 0)}
    assert ledger.verify() == []


def test_a_budget_of_requests_counts_attempts_that_are_billed_or_under_way(opened):
    ledger = opened(Budget("b", 2, meter="requests"))
    reserve(ledger, "a", 5)
    reserve(ledger, "b", 0)  # a call without a price counts too
    with pytest.raises(BudgetExceeded) as refused:
        reserve(ledger, "c", 5)
    assert (refused.value.needed, refused.value.held, refused.value.limit) == (1, 2, 2)
    settle(ledger, "a", 5)
    release(ledger, "b")
    assert counters(ledger) == {("b", ""): (1, 0)}
    reserve(ledger, "d", 5)
    ledger.expire(NOW + TTL)
    assert counters(ledger) == {("b", ""): (2, 0)}
    release(ledger, "d", now=NOW + TTL + 1)  # evidence that it was never billed
    assert counters(ledger) == {("b", ""): (1, 0)}
    assert ledger.verify() == []


def test_a_share_limits_one_value_s_attempts_among_all(opened):
    share = Budget("s", 250_000, scope="tier", value="frontier", meter="share")
    ledger = opened(share)
    for name in range(2):
        with pytest.raises(BudgetExceeded, match="'s' of 'frontier'"):
            reserve(ledger, f"early{name}", 5, scopes={"tier": ("frontier",)})
        reserve(ledger, f"n{name}", 5, scopes={"tier": ("nano",)})
    reserve(ledger, "n3", 5, scopes={"tier": ("nano",)})
    reserve(ledger, "top", 5, scopes={"tier": ("frontier",)})  # one of four
    [state] = ledger.states(NOW)
    assert (state.held, state.seen, state.remaining) == (1, 4, 0)
    with pytest.raises(BudgetExceeded) as refused:
        reserve(ledger, "second", 5, scopes={"tier": ("frontier",)})
    assert (refused.value.meter, refused.value.limit) == ("share", 1)
    assert ledger.verify() == []


def test_a_share_of_a_tag_leaves_room_for_whoever_has_another_tag(opened):
    ledger = opened(Budget("s", 0, scope="tag", value="bulk", meter="share"))
    assert ledger.room({"tag": ("chat",)}, NOW).lacking(PRO, 1, 1) is None
    assert ledger.room({"tag": ("chat", "bulk")}, NOW).lacking(PRO, 1, 1) is not None


@settings(max_examples=60, deadline=None)
@given(
    limit=st.integers(0, 1_000_000),
    steps=st.lists(st.tuples(TIERS, st.sampled_from(["settle", "release", "expire", "hold"]))),
)
def test_the_frontier_s_share_of_all_attempts_is_never_above_its_limit(limit, steps):
    ledger = open_ledger(
        "sqlite://", [Budget("s", limit, scope="tier", value="frontier", meter="share")]
    )
    seen = top = 0
    for at, (tier, then) in enumerate(steps):
        name = f"r{at}"
        fits = tier != "frontier" or (top + 1) * 1_000_000 <= limit * (seen + 1)
        try:
            reserve(ledger, name, 5, scopes={"tier": (tier,)})
        except BudgetExceeded:
            assert not fits
            continue
        assert fits
        seen += 1
        top += tier == "frontier"
        assert top * 1_000_000 <= limit * seen
        if then == "settle":
            settle(ledger, name, 3)
        elif then == "release":
            release(ledger, name)
            top -= tier == "frontier"
        elif then == "expire":
            ledger.expire(NOW + TTL)
    assert ledger.verify() == []
    ledger.close()


def test_budgets_of_several_meters_hold_all_or_nothing(opened):
    ledger = opened(
        Budget("calls", 10, meter="requests"),
        Budget("money", 1000),
        Budget("share", 500_000, scope="tier", value="frontier", meter="share"),
        Budget("tokens", 100, meter="tokens"),
    )
    for amount, tokens, tier, full in [
        (1001, 10, "nano", "money"),
        (10, 101, "nano", "tokens"),
        (10, 10, "frontier", "share"),
    ]:
        with pytest.raises(BudgetExceeded) as refused:
            reserve(ledger, f"{full}", amount, tokens=tokens, scopes={"tier": (tier,)})
        assert refused.value.budget == full
    assert {sum(each) for each in counters(ledger).values()} == {0}
    assert [state.seen for state in ledger.states(NOW)] == [0, 0, 0, 0]
    reserve(ledger, "fits", 400, tokens=90, scopes={"tier": ("nano",)})
    settle(ledger, "fits", 300, input_tokens=20, output_tokens=30)
    assert [state.settled for state in ledger.states(NOW)] == [1, 300, 0, 50]
    assert ledger.verify() == []


# ── whose ──────────────────────────────────────────────────────────────────────────────────────
def test_every_tag_of_a_request_pays_once(opened):
    ledger = opened(Budget("t", 100, scope="tag"))
    reserve(ledger, "a", 60, scopes={"tag": ("x", "y", "x")})
    assert counters(ledger) == {("t", "x"): (0, 60), ("t", "y"): (0, 60)}
    with pytest.raises(BudgetExceeded) as refused:
        reserve(ledger, "b", 50, scopes={"tag": ("z", "y")})
    assert refused.value.scope_value == "y"
    assert counters(ledger) == {("t", "x"): (0, 60), ("t", "y"): (0, 60)}
    reserve(ledger, "c", 50, scopes={"tag": ("z",)})
    reserve(ledger, "d", 100, scopes={"tag": ()})
    with pytest.raises(BudgetExceeded):
        reserve(ledger, "e", 1)  # whoever names no tag shares one budget
    assert ledger.verify() == []


def test_a_budget_with_a_value_is_of_that_value_alone(opened):
    ledger = opened(Budget("b", 100, scope="tag", value="bulk"))
    reserve(ledger, "a", 1000, scopes={"tag": ("chat",)})
    reserve(ledger, "b", 1000)
    assert counters(ledger) == {("b", "bulk"): (0, 0)}
    with pytest.raises(BudgetExceeded):
        reserve(ledger, "c", 101, scopes={"tag": ("chat", "bulk")})


def test_a_tier_s_budget_is_paid_by_calls_on_that_tier(opened):
    ledger = opened(Budget("b", 100, scope="tier", value="frontier"))
    reserve(ledger, "a", 1000, scopes={"tier": ("nano",)})
    reserve(ledger, "b", 100, scopes={"tier": ("frontier",)})
    with pytest.raises(BudgetExceeded):
        reserve(ledger, "c", 1, scopes={"tier": ("frontier",)})
    room = ledger.room({"tier": ("nano", "frontier")}, NOW)
    assert room.lacking(PRO, 1, 0) is not None
    assert room.lacking(Arm("nano", 0, "m"), 1, 0) is None
    assert room.remaining() is None  # not every tier pays from it


@pytest.mark.parametrize(
    ("limit", "meter", "fits"),
    [(100, "usd", 3), (100, "tokens", 5), (4, "requests", 4), (500_000, "share", 12)],
)
def test_room_for_so_many_calls_is_room_for_one_after_the_other(opened, limit, meter, fits):
    ledger = opened(Budget("b", limit, scope="tier", value="frontier", meter=meter))
    for at in range(12):
        reserve(ledger, f"seen{at}", 0, scopes={"tier": ("nano",)})
    scopes = {"tier": ("frontier",)}
    room = ledger.room(scopes, NOW)
    assert room.lacking(PRO, 30, 20, calls=fits) is None
    assert room.lacking(PRO, 30, 20, calls=fits + 1) is not None
    for at in range(fits):
        reserve(ledger, f"r{at}", 30, scopes=scopes, tokens=20)
    with pytest.raises(BudgetExceeded):
        reserve(ledger, "more", 30, scopes=scopes, tokens=20)


def test_a_budget_s_conditions_all_have_to_hold(opened):
    ledger = opened(
        Budget("b", 100, scope="user", when=(("tag", "nightly"), ("user", "*"), ("model", "pro")))
    )
    all_hold = {"user": "ann", "tag": ("x", "nightly"), "model": ("openai/pro",)}
    for at, change in enumerate(
        [{"tag": ("x",)}, {"user": ""}, {"model": ("openai/gpt-pro",)}, {"model": ("openai/pro2",)}]
    ):
        reserve(ledger, f"free{at}", 1000, scopes={**all_hold, **change})
    reserve(ledger, "a", 100, scopes=all_hold)
    reserve(ledger, "b", 100, scopes={**all_hold, "user": "bob", "model": ("pro",)})
    with pytest.raises(BudgetExceeded):
        reserve(ledger, "c", 1, scopes=all_hold)
    assert counters(ledger) == {("b", "ann"): (0, 100), ("b", "bob"): (0, 100)}
    again = ledger.store.defined()
    assert again[0].when == (("tag", "nightly"), ("user", "*"), ("model", "pro"))


def test_the_store_knows_the_definition_that_a_policy_gave_last(opened):
    first = Budget("b", 100, "rolling", seconds=60, when=(("user", "ann"), ("tag", "*")))
    later = Budget("b", 50, "day", "Asia/Tokyo", "user", "queue", "tokens", when=(("tag", "x"),))
    for budget in (first, later):
        ledger = opened(budget)
        assert ledger.budgets() == [budget]
        ledger.close()


def test_room_counts_a_condition_on_the_model_for_its_arms_alone(opened):
    ledger = opened(Budget("b", 0, when=(("model", "gpt-pro"),)))
    other = Arm("frontier", 1, "openai/other")
    room = ledger.room({"model": (PRO.model, other.model)}, NOW)
    assert room.lacking(PRO, 1, 1) is not None
    assert room.lacking(other, 1, 1) is None
    assert room.remaining() is None


def test_a_conversation_and_a_request_have_ceilings_of_their_own(opened):
    ledger = opened(Budget("chat", 100, scope="conversation"), Budget("one", 70, scope="request"))
    first = {"conversation": "c1", "request": "r1"}
    reserve(ledger, "r1", 50, scopes=first)
    settle(ledger, "r1", 40)
    with pytest.raises(BudgetExceeded) as refused:
        reserve(ledger, "r1", 31, number=2, scopes=first)
    assert refused.value.budget == "one"
    reserve(ledger, "r1", 30, number=2, scopes=first)
    with pytest.raises(BudgetExceeded) as refused:
        reserve(ledger, "r2", 31, scopes={"conversation": "c1", "request": "r2"})
    assert refused.value.budget == "chat"
    reserve(ledger, "r3", 70, scopes={"conversation": "c2", "request": "r3"})
    assert ledger.verify() == []


def test_what_the_router_spends_itself_is_counted_apart(opened):
    ledger = opened(
        Budget("answers", 100),
        Budget("everything", 150, purpose="any"),
        Budget("judging", 40, purpose="judge"),
    )
    reserve(ledger, "a", 100)
    reserve(ledger, "j", 40, scopes={"purpose": "judge"})
    with pytest.raises(BudgetExceeded) as refused:
        reserve(ledger, "j2", 1, scopes={"purpose": "judge"})
    assert refused.value.budget == "judging"
    with pytest.raises(BudgetExceeded) as refused:
        reserve(ledger, "p", 11, scopes={"purpose": "probe"})
    assert refused.value.budget == "everything"
    reserve(ledger, "s", 10, scopes={"purpose": "shadow"})
    assert counters(ledger) == {
        ("answers", ""): (0, 100), ("everything", ""): (0, 150), ("judging", ""): (0, 40)
    }  # fmt: skip


def test_overhead_is_what_the_router_spent_itself_and_serves_nobody(opened):
    from router.log.savings import savings

    ledger = opened()
    reserve(ledger, "a", 100)
    settle(ledger, "a", 60)
    for name, purpose, cost in [("j", "judge", 7), ("p", "probe", 3), ("u", "shadow", None)]:
        amount = 10 if cost is not None else 0
        ledger.reserve(Reservation(
            f"{name}/1", amount, scopes={"purpose": purpose}, now=NOW, expires_at=NOW + TTL,
            worst_case=attempt_row(name, cost=amount if cost is not None else None),
            request=request_row(name, purpose=purpose, tags=("test",)),
        ))  # fmt: skip
        settle(ledger, name, cost)
    ledger.refuse(request_row("k", purpose="judge", status="refused"))
    report = savings(ledger.log())
    assert (report.overhead, report.unknown_cost) == (10, 1)
    total = report.total
    assert (total.requests, total.attempts, total.spent, total.baseline) == (1, 1, 60, 900)
    assert (report.refused, report.failed, report.wasted) == (0, 0, 0)
    assert report.by_tag["test"].requests == report.by_tier["mini"].attempts == 1
    assert report.net_saved == 900 - 60 - 10
    assert report.as_dict()["overhead_usd"] == 10 / 1e9


@pytest.mark.parametrize(
    "budget",
    [
        Budget("a", 1, meter="euros"),
        Budget("a", 1, purpose="judges"),
        Budget("a", 1, on_exceed="panic"),
        Budget("a", None, scope="tier", value="frontier", meter="share"),
        Budget("a", 1, scope="tier", meter="share"),
        Budget("a", 1, value="x", meter="share"),
        Budget("a", 1_000_001, scope="tier", value="frontier", meter="share"),
        Budget("a", 1, value="x"),
        Budget("a", 1, "rolling"),
        Budget("a", 1, "rolling", seconds=0),
        Budget("a", 1, "rolling", seconds=1.5),
        Budget("a", 1, "rolling", seconds=10**9),
    ],
)
def test_a_kind_of_budget_that_makes_no_sense_is_refused(opened, budget):
    with pytest.raises(ConfigurationError, match="'a'"):
        opened(budget)
