"""Leases: a chunk is held, spent in memory, and told in batches; the limit holds all the same."""

from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from router.errors import BudgetExceeded, ConfigurationError, InvalidRequest, ReservationError
from router.ledger import open_ledger
from router.ledger.leases import chunk
from router.ledger.matching import Amounts
from router.ledger.store import Draw
from router.types import Budget, Reservation
from tests.lease_kit import ALL, ANN, BUDGETS, DAY, by_hand, direct, leasing
from tests.lease_kit import cut as cut  # fixtures
from tests.lease_kit import place as place
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
from tests.outage_kit import journals, store_of


@pytest.mark.parametrize(
    ("asked", "remaining", "size"),
    [
        (100, 1_000_000, 10_000),  # 1%
        (5_000, 1_000_000, 50_000),  # ten calls
        (10_000, 1_000_000, 100_000),  # at most a tenth of what remains
        (10_001, 1_000_000, None),
        (1, 0, None),
        (100, 9_999, None),  # near the limit each call asks
        (100, 10_000, 1_000),
        (7, None, 7_000),
        (0, 500, 5),
    ],
)
def test_a_lease_is_a_part_of_what_remains_and_none_is_taken_near_the_limit(asked, remaining, size):
    assert chunk(asked, remaining) == size


def test_calls_of_a_lease_ask_the_store_once_and_end_up_there_to_the_nano_dollar(place, cut):
    ledger = by_hand(place, cut)
    for call in range(300):
        reserve(ledger, f"r{call}", 100, scopes=ANN)
        settle(ledger, f"r{call}", call % 100) if call % 3 else release(ledger, f"r{call}")
    assert store_of(ledger).steps == ["defined", "define", "read", "hold"]
    before = counters(direct(place))
    assert before[ALL] == (0, 40_000)  # 1% of the least, all of it held
    spent = sum(call % 100 for call in range(300) if call % 3)
    assert counters(ledger)[ALL] == (spent, 40_000 - spent)
    assert ledger.verify() == []
    ledger.close()
    after = direct(place)
    assert set(counters(after).values()) == {(spent, 0)}
    assert after.verify() == []
    rows = list(after.log().attempts())
    assert len(rows) == len(list(after.log().requests())) == 300
    assert sum(row.cost or 0 for row in rows) == spent
    assert journals(place) == []


def test_a_lease_is_no_request_of_the_log_while_it_is_held_either(place, cut):
    ledger = by_hand(place, cut)
    reserve(ledger, "a", 100, scopes=ANN)
    settle(ledger, "a", 60)
    log = ledger.log()  # which moves the call into the store; the lease stays
    assert counters(direct(place))[ALL] == (60, 40_000 - 60)
    assert [(row.request_id, row.status) for row in log.requests()] == [("a", "answered")]
    assert [row.request_id for row in log.attempts()] == ["a"]
    assert list(log.volume(NOW - 1, NOW + 1, 60).values()) == [1]
    assert len(log.decisions(NOW - 1, NOW + 1)) == 1
    ledger.close()


def test_in_every_committed_state_money_and_rows_of_leases_agree(place):
    ledger = leasing(place)
    other, done, problems = direct(place), threading.Event(), []

    def look() -> None:
        while not done.is_set():
            problems.extend(other.verify())

    looking = threading.Thread(target=look)
    looking.start()

    def work(thread: int) -> None:
        chance = random.Random(thread)
        for call in range(150):
            name = f"r{thread}-{call}"
            reserve(ledger, name, 100, scopes=ANN)
            settle(ledger, name, chance.randint(0, 130))

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(work, range(4)))
    done.set()
    looking.join()
    assert problems == []
    ledger.close()
    assert other.verify() == []
    assert {held for _, held in counters(other).values()} == {0}
    assert counters(other)[ALL][0] == sum(row.cost or 0 for row in other.log().attempts())


def test_a_bill_above_the_reservation_is_booked_in_full_as_an_overrun(place, cut):
    ledger = by_hand(place, cut)
    reserve(ledger, "a", 100, scopes=ANN)
    settle(ledger, "a", 350)
    state = ledger.states(NOW)[0]
    assert (state.settled, state.overrun) == (350, 250)
    ledger.close()
    assert direct(place).verify() == []


def test_a_refusal_names_the_true_state_and_the_last_nano_dollar_can_be_spent(place, cut):
    ledger = by_hand(place, cut, [Budget("all", 10_000)])
    for call in range(100):
        reserve(ledger, f"r{call}", 100)
        settle(ledger, f"r{call}", 99)
    with pytest.raises(BudgetExceeded) as refused:
        reserve(ledger, "more", 101)
    error = refused.value
    assert (error.used, error.held, error.limit) == (9_900, 0, 10_000)
    reserve(ledger, "last", 100)
    assert counters(ledger) == {ALL: (9_900, 100)}


def test_a_window_that_ends_ends_the_lease_and_f47_its_calls_settle_in_the_old_one(place, cut):
    midnight = NOW - NOW % DAY + DAY
    ledger = by_hand(place, cut, [Budget("all", 100_000_000, "day")])
    for call in range(1000):
        reserve(ledger, f"r{call}", 1000, now=midnight - 1)
    reserve(ledger, "new", 1000, now=midnight)
    for call in range(1000):
        settle(ledger, f"r{call}", 400, now=midnight + 1)
    settle(ledger, "new", 7, now=midnight + 1)
    ledger.close()
    after = direct(place, [])
    [state] = after.states(midnight + 1)
    assert (state.settled, state.held) == (7, 0)
    assert sum(row.cost or 0 for row in after.log().attempts()) == 400_007
    assert after.verify() == []  # so the old window has the rest


def test_an_id_is_answered_again_refused_with_another_amount_and_settled_once(place, cut):
    ledger = by_hand(place, cut)
    first = reserve(ledger, "a", 100, scopes=ANN)
    assert reserve(ledger, "a", 100, scopes=ANN) == first
    with pytest.raises(ReservationError):
        reserve(ledger, "a", 99, scopes=ANN)
    settle(ledger, "a", 60)
    settle(ledger, "a", 60)
    with pytest.raises(ReservationError):
        settle(ledger, "a", 61)
    assert counters(ledger)[ALL][0] == 60
    with pytest.raises(ReservationError):
        settle(ledger, "b", 1)


def test_a_call_past_its_time_is_charged_in_full_and_corrected_once(place, cut):
    ledger = by_hand(place, cut)
    reserve(ledger, "a", 100, scopes=ANN)
    assert ledger.expire(NOW + TTL) == 1
    assert counters(ledger, NOW + TTL)[ALL][0] == 100
    settle(ledger, "a", 30, now=NOW + TTL)
    with pytest.raises(ReservationError):
        settle(ledger, "a", 31, now=NOW + TTL)
    assert counters(ledger, NOW + TTL)[ALL][0] == 30
    assert ledger.verify() == []


def test_a_second_attempt_finds_its_request_whichever_way_the_first_one_went(place, cut):
    ledger = by_hand(place, cut, [Budget("all", 100_000), Budget("nano", 900, scope="tier")])
    cheap, dear = {"tier": "mini"}, {"tier": "nano"}
    reserve(ledger, "a", 50, scopes={"tier": "big"})  # from a lease
    release(ledger, "a")
    reserve(ledger, "a", 100, number=2, scopes=dear)  # asked directly: near its limit
    settle(ledger, "a", 90, number=2)
    reserve(ledger, "b", 100, scopes=dear)
    release(ledger, "b")
    reserve(ledger, "b", 5, number=2, scopes=cheap)
    settle(ledger, "b", 4, number=2)
    assert ledger.verify() == []
    assert {row.request_id: row.attempts for row in ledger.log().requests() if row.attempts} == {
        "a": 2,
        "b": 2,
    }


def test_what_counts_requests_or_shares_or_one_request_is_asked_directly(place, cut):
    budgets = [
        Budget("all", 1_000_000),
        Budget("calls", 3, meter="requests", scope="user"),
        Budget("each", 500, scope="request"),
    ]
    ledger = by_hand(place, cut, budgets)
    for call in range(3):
        reserve(ledger, f"r{call}", 100, scopes={"user": "ann", "request": f"r{call}"})
    with pytest.raises(BudgetExceeded) as refused:
        reserve(ledger, "r4", 100, scopes={"user": "ann", "request": "r4"})
    assert refused.value.budget == "calls"
    assert store_of(ledger).steps.count("hold") == 4
    assert counters(ledger)[ALL] == (0, 300)


def test_a_budget_with_a_condition_pays_only_for_the_calls_that_meet_it(place, cut):
    when = Budget("night", 1_000_000, when=(("job", "night"),))
    ledger = by_hand(place, cut, [Budget("all", 1_000_000), when])
    for call, job in enumerate(["day", "night", "day", "night", "night"]):
        reserve(ledger, f"r{call}", 100, scopes={"job": job})
        settle(ledger, f"r{call}", 10)
    assert store_of(ledger).steps.count("hold") == 2
    ledger.close()
    assert counters(direct(place, [])) == {ALL: (50, 0), ("night", ""): (30, 0)}


def test_tokens_are_leased_as_money_is(place, cut):
    ledger = by_hand(place, cut, [Budget("all", None), Budget("tokens", 100_000, meter="tokens")])
    for call in range(50):
        name = f"r{call}"
        ledger.reserve(Reservation(
            f"{name}/1", 100, scopes={}, now=NOW, expires_at=NOW + TTL, tokens=90,
            worst_case=attempt_row(name, cost=100), request=request_row(name),
        ))  # fmt: skip
        settle(ledger, name, 60)  # of 7 tokens
    assert store_of(ledger).steps.count("hold") == 1
    assert counters(ledger)["tokens", ""][0] == 350
    assert ledger.verify() == []


@pytest.mark.parametrize("value", [7, ["ann"], "a\0b", "x" * 300])
def test_a_scope_value_that_cannot_name_a_budget_is_refused(place, cut, value):
    ledger = by_hand(place, cut)
    reserve(ledger, "a", 100, scopes=ANN)
    with pytest.raises(InvalidRequest):
        reserve(ledger, "b", 100, scopes={"user": value})


def test_room_counts_what_is_leased_here_as_free_and_asks_at_most_once_a_second(place, cut):
    ledger = by_hand(place, cut)
    reserve(ledger, "a", 100, scopes=ANN)
    reads = store_of(ledger).steps.count("read")
    rooms = {ledger.room(ANN, NOW).remaining() for _ in range(20)}
    assert rooms == {4_000_000 - 100}
    assert store_of(ledger).steps.count("read") == reads + 1


def test_a_lost_reply_of_a_draw_changes_nothing_twice(place, cut):
    ledger = by_hand(place, cut)
    for call in range(20):
        reserve(ledger, f"r{call}", 100, scopes=ANN)
        settle(ledger, f"r{call}", 70)
    store_of(ledger).lose_replies = 1
    ledger.log()  # flushes; the reply is lost
    reserve(ledger, "more", 100, scopes=ANN)
    settle(ledger, "more", 30)
    ledger.close()
    after = direct(place)
    assert counters(after)[ALL] == (20 * 70 + 30, 0)
    assert after.verify() == []
    assert len(list(after.log().attempts())) == 21


def test_a_lease_whose_reply_was_lost_is_given_back(place, cut):
    ledger = by_hand(place, cut)
    reserve(ledger, "warm", 3_900_000, scopes=ANN)  # near the limit: directly
    release(ledger, "warm")
    store = store_of(ledger)
    real, lost = store._store.hold, []

    def hold(new):
        answer = real(new)
        if new.reservation_id.startswith("lease/") and not lost:
            lost.append(new)
            store.lose_replies = 1
        return answer

    store._store.hold = hold
    with pytest.raises(Exception, match="lost"):
        reserve(ledger, "a", 100, scopes=ANN)
    ledger.log()
    assert counters(direct(place))[ALL] == (0, 0)


def test_a_draw_of_more_than_a_lease_holds_is_refused_and_changes_nothing(place, cut):
    ledger = by_hand(place, cut)
    reserve(ledger, "a", 100, scopes=ANN)
    [lease] = ledger._mine.leases
    for lease_id, keep, says in [
        (lease.id, Amounts(40_001, 0), "short"),
        ("lease/none", Amounts(0, 0), "unknown"),
    ]:
        step = Draw(lease_id, (), keep, NOW + 60, [], NOW)
        assert store_of(ledger).draw(step) == says
    assert counters(direct(place))[ALL] == (0, 40_000)


def test_calls_of_a_lease_that_the_store_lost_are_booked_as_overruns(place, cut):
    ledger = by_hand(place, cut)
    reserve(ledger, "a", 100, scopes=ANN)
    [lease] = ledger._mine.leases
    other = direct(place)
    row = attempt_row(lease.id, cost=0)
    other.release(lease.id, row, None, NOW)  # somebody else ended it
    settle(ledger, "a", 60)
    state = ledger.states(NOW)[0]
    assert (state.settled, state.held, state.overrun) == (60, 0, 60)
    assert ledger.verify() == []


def test_a_lease_that_is_not_used_goes_back_and_one_in_use_is_renewed(place, cut):
    ledger = by_hand(place, cut)
    reserve(ledger, "a", 100, scopes=ANN)
    ledger._mine.offset += 40  # seconds later
    ledger._mine.flush()
    assert counters(direct(place))[ALL] == (0, 40_000)
    assert direct(place).expire(NOW + 61) == 0  # it was renewed
    settle(ledger, "a", 60, now=NOW + 41)
    ledger._mine.offset += 40
    ledger._mine.flush()
    assert counters(direct(place))[ALL] == (60, 0)


def test_closing_with_calls_under_way_charges_them_in_full_until_they_are_heard_of(place):
    ledger = leasing(place)
    reserve(ledger, "a", 100, scopes=ANN)
    ledger.close()
    assert counters(direct(place))[ALL] == (100, 0)
    settle(ledger, "a", 40)  # to a closed ledger: parked
    other = direct(place)
    assert counters(other)[ALL] == (100, 0)  # this process lives: its journal is its own


def test_a_store_that_no_other_process_can_reach_is_not_leased():
    with pytest.raises(ConfigurationError):
        open_ledger("sqlite://", BUDGETS, lease=True)


@pytest.mark.parametrize("others", [900, 985])  # which leave no room without what is leased
def test_samples_beyond_a_lease_bring_their_requests_row(place, cut, others):
    budgets = [Budget("all", 1000)]
    ledger, other = by_hand(place, cut, budgets), by_hand(place, cut, budgets)
    for call in range(8):  # of the ten that a lease is for
        reserve(ledger, f"r{call}", 1)
        settle(ledger, f"r{call}", 1)
    reserve(other, "big", others)
    reserve(ledger, "vote", 1)
    for number in (2, 3, 4):
        reserve(ledger, "vote", 2, number=number)
    for number in (4, 1, 3, 2):
        settle(ledger, "vote", 1, number=number)
    ledger.close()
    after = direct(place, budgets)
    assert counters(after) == {ALL: (12, others)}
    assert after.verify() == []
    assert [row.request_id for row in after.log().requests()].count("vote") == 1
