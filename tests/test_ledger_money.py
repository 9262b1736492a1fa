"""What reserve, settle, release and expire do to the budgets, one rule a test."""

from __future__ import annotations

import math

import pytest

from router.errors import (
    BudgetExceeded,
    ConfigurationError,
    InvalidRequest,
    LedgerCorrupt,
    LedgerUnavailable,
    ReservationError,
)
from router.types import Budget, RequestEnd, Reservation
from tests.ledger_kit import (
    NOW,
    TTL,
    attempt_row,
    counters,
    release,
    request_row,
    reserve,
    settle,
)

ALL = ("all", "")


@pytest.fixture
def ledger(store):
    opened = store.open([Budget("all", 1000)])
    yield opened
    assert opened.verify() == []
    opened.close()


def test_a_settled_call_moves_its_cost_from_held_to_settled(ledger):
    hold = reserve(ledger, "a", 400)
    assert (hold.reservation_id, hold.amount, hold.expires_at) == ("a/1", 400, NOW + TTL)
    assert counters(ledger) == {ALL: (0, 400)}
    settle(ledger, "a", 150)
    assert counters(ledger) == {ALL: (150, 0)}


def test_a_released_call_costs_nothing(ledger):
    reserve(ledger, "a", 400)
    release(ledger, "a")
    assert counters(ledger) == {ALL: (0, 0)}


def test_a_reservation_may_fill_the_limit_to_the_last_nano_dollar_and_no_further(ledger):
    reserve(ledger, "a", 1000)
    with pytest.raises(BudgetExceeded):
        reserve(ledger, "b", 1)
    assert counters(ledger) == {ALL: (0, 1000)}


def test_a_refused_reservation_says_how_the_budget_stands(store):
    ledger = store.open([Budget("daily", 1000, "day", "UTC", "user")])
    scopes = {"user": "ann"}
    reserve(ledger, "a", 300, scopes=scopes)
    settle(ledger, "a", 200)
    reserve(ledger, "b", 500, scopes=scopes)
    with pytest.raises(BudgetExceeded) as refused:
        reserve(ledger, "c", 301, scopes=scopes)
    error = refused.value
    assert (error.budget, error.scope_value) == ("daily", "ann")
    assert (error.used, error.held, error.limit, error.needed) == (200, 500, 1000, 301)
    assert error.resets_at == 1_800_057_600  # the next midnight


def test_room_is_what_a_reservation_would_find(store, ledger):
    assert ledger.room({}, NOW).remaining() == 1000
    reserve(ledger, "a", 400)
    settle(ledger, "a", 100)
    reserve(ledger, "b", 300)
    assert ledger.room({}, NOW).remaining() == 600
    assert store.open().room({}, NOW).remaining() is None


def test_each_value_of_a_scope_has_a_budget_of_its_own(store):
    ledger = store.open([Budget("each", 100, scope="user")])
    reserve(ledger, "a", 100, scopes={"user": "ann"})
    reserve(ledger, "b", 100, scopes={"user": "bob"})
    reserve(ledger, "c", 60)  # who names no user shares one budget with everyone who does not
    with pytest.raises(BudgetExceeded):
        reserve(ledger, "d", 60, scopes={"team": "red"})
    assert counters(ledger) == {
        ("each", ""): (0, 60),
        ("each", "ann"): (0, 100),
        ("each", "bob"): (0, 100),
    }


def test_an_expired_reservation_is_charged_in_full_and_its_request_marked(ledger):
    reserve(ledger, "a", 400)
    assert ledger.expire(NOW + TTL - 1) == 0
    assert ledger.expire(NOW + TTL) == 1
    assert counters(ledger) == {ALL: (400, 0)}
    [request], [attempt] = ledger.log().requests(), ledger.log().attempts()
    assert (request.status, request.cost) == ("expired", 400)
    assert (attempt.status, attempt.cost, attempt.cost_source) == ("expired", 400, "expired")
    assert ledger.expire(NOW + TTL) == 0


def test_a_request_that_died_between_two_attempts_is_marked_expired(ledger):
    reserve(ledger, "a", 400)
    row = attempt_row("a", cost=0, status="failed")
    ledger.release("a/1", row, None, NOW)
    ledger.expire(NOW + TTL - 1)
    assert [request.status for request in ledger.log().requests()] == ["open"]
    ledger.expire(NOW + TTL)
    assert [request.status for request in ledger.log().requests()] == ["expired"]


def test_an_unknown_price_without_a_budget_is_logged_as_unknown_not_as_zero(store):
    ledger = store.open()
    worst = attempt_row("a", cost=None, status="expired", cost_source="expired")
    ledger.reserve(Reservation(
        "a/1", 0, scopes={}, now=NOW, expires_at=NOW + TTL, worst_case=worst,
        request=request_row("a"),
    ))  # fmt: skip
    settle(ledger, "a", None)
    [request], [attempt] = ledger.log().requests(), ledger.log().attempts()
    assert request.cost is None
    assert attempt.cost is None
    assert ledger.verify() == []


def test_a_refused_request_is_logged_without_any_attempt(ledger):
    row = request_row("a", status="refused", error="BudgetExceeded")
    ledger.refuse(row)
    ledger.refuse(row)  # asked again after a lost reply
    [request] = ledger.log().requests()
    assert (request.status, request.error, request.attempts) == ("refused", "BudgetExceeded", 0)
    with pytest.raises(ReservationError):
        ledger.refuse(request_row("a", status="failed"))


def test_finish_ends_a_request_whose_attempts_have_ended(ledger):
    reserve(ledger, "a", 400)
    ledger.release("a/1", attempt_row("a", cost=0, status="failed"), None, NOW)
    ledger.finish("a", RequestEnd("failed", None, None, error="no tier left"), NOW + 5)
    [request] = ledger.log().requests()
    assert (request.status, request.error, request.ended) == ("failed", "no tier left", NOW + 5)
    with pytest.raises(ReservationError, match="no such request"):
        ledger.finish("b", RequestEnd("failed", None, None), NOW)


def test_f05_double_settle_is_a_no_op_at_the_same_cost_and_an_error_at_another(ledger):
    reserve(ledger, "a", 400)
    settle(ledger, "a", 150)
    settle(ledger, "a", 150)
    with pytest.raises(ReservationError, match="150"):
        settle(ledger, "a", 151)
    with pytest.raises(ReservationError):
        release(ledger, "a")
    assert counters(ledger) == {ALL: (150, 0)}


def test_f05_settle_after_release_is_an_error_and_changes_nothing(ledger):
    reserve(ledger, "a", 400)
    release(ledger, "a")
    release(ledger, "a")
    with pytest.raises(ReservationError, match="released"):
        settle(ledger, "a", 150)
    assert counters(ledger) == {ALL: (0, 0)}


def test_f04_a_settlement_after_expiry_corrects_the_charge_once(ledger):
    reserve(ledger, "a", 400)
    ledger.expire(NOW + TTL)
    settle(ledger, "a", 150, now=NOW + TTL + 1)
    assert counters(ledger) == {ALL: (150, 0)}
    settle(ledger, "a", 150, now=NOW + TTL + 2)
    with pytest.raises(ReservationError, match="corrected"):
        settle(ledger, "a", 160, now=NOW + TTL + 3)
    assert counters(ledger) == {ALL: (150, 0)}
    [request], [attempt] = ledger.log().requests(), ledger.log().attempts()
    assert (request.status, request.accepted, request.cost) == ("answered", 1, 150)
    assert (attempt.status, attempt.cost_source) == ("answered", "computed")


def test_f04_a_correction_may_be_upwards_and_is_then_an_overrun(ledger):
    reserve(ledger, "a", 400)
    ledger.expire(NOW + TTL)
    settle(ledger, "a", 450, now=NOW + TTL + 1)
    [state] = ledger.states(NOW)
    assert (state.settled, state.held, state.overrun) == (450, 0, 50)


def test_f07_a_reservation_repeated_after_a_lost_reply_holds_once(ledger):
    assert reserve(ledger, "a", 700) == reserve(ledger, "a", 700)
    assert counters(ledger) == {ALL: (0, 700)}
    with pytest.raises(ReservationError, match="700"):
        reserve(ledger, "a", 600)
    settle(ledger, "a", 700)
    with pytest.raises(ReservationError, match="ended"):
        reserve(ledger, "a", 700)  # a second call under one hold would be unpaid


def test_f08_where_one_nested_budget_is_full_nothing_is_held_in_any(store):
    ledger = store.open(
        [Budget("all", 1000), Budget("team", 100, scope="team"), Budget("user", 500, scope="user")],
    )
    with pytest.raises(BudgetExceeded) as refused:
        reserve(ledger, "a", 101, scopes={"team": "red", "user": "ann"})
    assert refused.value.budget == "team"
    assert counters(ledger) == {ALL: (0, 0)}
    assert list(ledger.log().requests()) == []


def test_budgets_are_taken_from_in_the_order_of_their_names_whatever_order_they_are_given_in(store):
    """So that no two processes ever wait for each other, where a store locks one after another."""
    budgets = [Budget("c", 10), Budget("a", 10), Budget("b", 10)]
    for order in (budgets, budgets[::-1]):
        ledger = store.open(order)
        with pytest.raises(BudgetExceeded) as refused:
            reserve(ledger, "a", 11)
        assert refused.value.budget == "a"
        assert [state.budget.name for state in ledger.room({}, NOW).budgets] == ["a", "b", "c"]


def test_more_reservations_than_one_transaction_takes_all_expire(store):
    ledger = store.open([Budget("all", None)])
    for call in range(450):
        reserve(ledger, f"r{call}", 1)
    assert ledger.expire(NOW + TTL) == 450
    assert counters(ledger) == {ALL: (450, 0)}


def test_f10_a_bill_above_the_reservation_is_booked_in_full_and_the_next_call_denied(ledger):
    reserve(ledger, "a", 400)
    settle(ledger, "a", 1300)
    [state] = ledger.states(NOW)
    assert (state.settled, state.held, state.overrun, state.remaining) == (1300, 0, 900, 0)
    with pytest.raises(BudgetExceeded):
        reserve(ledger, "b", 1)


def test_a_call_that_costs_nothing_is_admitted_even_above_the_limit(ledger):
    reserve(ledger, "a", 400)
    settle(ledger, "a", 1300)
    assert reserve(ledger, "free", 0).amount == 0


def test_a_call_that_was_reserved_at_nothing_and_cost_something_is_an_overrun(ledger):
    reserve(ledger, "a", 0)
    settle(ledger, "a", 70)
    [state] = ledger.states(NOW)
    assert (state.settled, state.overrun) == (70, 70)


def test_f11_a_limit_of_zero_denies_whatever_has_a_price_and_none_denies_nothing(store):
    closed = store.open([Budget("closed", 0)])
    with pytest.raises(BudgetExceeded):
        reserve(closed, "a", 1)
    assert reserve(closed, "b", 0).amount == 0
    unlimited = store.open([Budget("open", None)])
    for name in range(3):
        reserve(unlimited, f"r{name}", 2**53)
    assert counters(unlimited)["open", ""] == (0, 3 * 2**53)


def test_counters_never_turn_into_floats_however_much_is_spent(store):
    ledger = store.open([Budget("open", None)])
    for name in range(1023):
        reserve(ledger, f"r{name}", 2**53)
    with pytest.raises(LedgerCorrupt):  # the sum would leave 64 bits
        reserve(ledger, "one more", 2**53)
    assert counters(ledger) == {("open", ""): (0, 1023 * 2**53)}


@pytest.mark.parametrize("amount", [-1, 2**53 + 1, 1.0, True, "1", math.nan])
def test_an_amount_that_is_no_nano_usd_is_refused(ledger, amount):
    with pytest.raises(ReservationError, match="not an amount"):
        reserve(ledger, "a", amount)
    reserve(ledger, "b", 10)
    with pytest.raises(ReservationError, match="not an amount"):
        settle(ledger, "b", amount)


def test_a_reservation_that_does_not_fit_its_rows_is_refused(ledger):
    def attempt(**changes):
        arguments = {
            "scopes": {},
            "now": NOW,
            "expires_at": NOW + TTL,
            "worst_case": attempt_row("a", cost=100),
            "request": request_row("a"),
        }
        ledger.reserve(Reservation("a/1", 100, **{**arguments, **changes}))

    for changes, problem in [
        ({"worst_case": attempt_row("a", cost=99)}, "must cost its amount"),
        ({"worst_case": attempt_row("a", cost=None)}, "must cost its amount"),
        ({"expires_at": NOW}, "must be after now"),
        ({"expires_at": math.inf}, "must be after now"),
        ({"request": request_row("b")}, "not its attempt's"),
        ({"request": None}, "must bring its request"),
    ]:
        with pytest.raises(ReservationError, match=problem):
            attempt(**changes)
    assert counters(ledger) == {ALL: (0, 0)}


def test_an_attempt_number_is_reserved_once(ledger):
    reserve(ledger, "a", 100)
    with pytest.raises(ReservationError, match="taken"):
        ledger.reserve(Reservation(
            "other-id", 100, scopes={}, now=NOW, expires_at=NOW + TTL,
            worst_case=attempt_row("a", 1, cost=100), request=None,
        ))  # fmt: skip
    with pytest.raises(ReservationError, match="taken"):
        reserve(ledger, "a", 100, number=2, first=True)
    assert counters(ledger) == {ALL: (0, 100)}


def test_a_settlement_must_be_of_the_attempt_that_was_reserved(ledger):
    reserve(ledger, "a", 100)
    with pytest.raises(ReservationError, match="attempt 1 of request a"):
        ledger.settle("a/1", attempt_row("a", 2, cost=50), None, NOW)
    with pytest.raises(ReservationError, match="never reserved"):
        settle(ledger, "b", 50)
    with pytest.raises(ReservationError, match="settle it"):
        ledger.release("a/1", attempt_row("a", cost=50), None, NOW)
    assert counters(ledger) == {ALL: (0, 100)}


@pytest.mark.parametrize("value", ["x" * 257, "\ud800", 7])
def test_a_scope_value_that_cannot_name_a_budget_is_refused(store, value):
    ledger = store.open([Budget("each", 100, scope="user")])
    with pytest.raises(InvalidRequest, match=r"scopes\.user"):
        reserve(ledger, "a", 1, scopes={"user": value})
    with pytest.raises(InvalidRequest):
        ledger.room({"user": value}, NOW)


@pytest.mark.parametrize(
    "budgets",
    [
        [Budget("a", 1), Budget("a", 2)],
        [Budget("", 1)],
        [Budget("a", -1)],
        [Budget("a", 1.5)],
        [Budget("a", True)],
        [Budget("a", 2**53 + 1)],
        [Budget("a", 1, zone="Mars/Olympus")],
        [Budget("a", 1, zone="")],
        [Budget("a", 1, window="fortnight")],
    ],
)
def test_a_budget_that_makes_no_sense_is_refused_when_the_ledger_opens(store, budgets):
    with pytest.raises(ConfigurationError):
        store.open(budgets)


def test_a_closed_ledger_refuses(store, ledger):
    other = store.open([Budget("all", 1000)])
    other.close()
    with pytest.raises(LedgerUnavailable, match="closed"):
        reserve(other, "a", 1)
