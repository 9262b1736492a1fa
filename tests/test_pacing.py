"""Pacing: a budget is used up by its window's end and never passed, whatever the traffic does.

The streams are simulations: requests of four arms whose qualities, costs and arrival are drawn from
simple distributions, walked through a real ledger. Recorded streams are in benchmarks/pacing.py.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from router.decide import Bar, Objective, Options, choose
from router.decide.pacing import ONLY_COST
from router.decide.traffic import BIN_SECONDS
from router.ledger import open_ledger
from router.planning.pacing import SAMPLE, Pacer
from router.prices import Dated
from router.types import Budget, BudgetState, Room
from tests.ledger_kit import reserve, settle

DAY = 86_400.0
START = 1_799_971_200.0  # Friday 2027-01-15 00:00 UTC
ARMS = ["nano", "mini", "mid", "frontier"]
TIER = np.arange(4)
REQUESTS = 1500
PRICE = np.array([1, 5, 25, 100]) * 100_000  # nano-USD of a call of usual length


@dataclass(frozen=True)
class Day:
    """Simulated requests: what is predicted and what it costs, (N, 4), and when each comes."""

    quality: Any
    expected: Any
    cost: Any
    time: Any

    @property
    def upper(self) -> Any:
        return np.tile(PRICE * 4, (len(self.time), 1))


def a_day(seed: int, n: int = REQUESTS, times: Callable[..., Any] | None = None) -> Day:
    rng = np.random.default_rng(seed)
    hard = rng.random((n, 1))
    quality = 1 - hard * np.array([0.6, 0.4, 0.2, 0.1])
    length = rng.lognormal(-0.1, 0.4, (n, 1)).clip(0.2, 2)
    noise = rng.uniform(0.5, 1.5, (n, 4))
    expected = np.rint(PRICE * length).astype(np.int64)
    share = np.sort(rng.random(n) if times is None else times(rng, n))
    return Day(quality, expected, np.rint(expected * noise).astype(np.int64), START + DAY * share)


def options_of(day: Day, row: int) -> Options:
    one = slice(row, row + 1)
    return Options(
        quality=day.quality[one],
        expected=day.expected[one],
        upper=day.upper[one],
        barred=np.zeros((1, 4), np.uint8),
        rung=TIER,
        baseline=3,
    )


def a_pacer(floor: float = 0.0, requests: float | None = None) -> Pacer:
    return Pacer("daily", ARMS, TIER, floor, requests)


def daily(limit: int) -> Budget:
    return Budget("daily", limit, "day", on_exceed="downgrade")


def room_of(limit: int, settled: int = 0, held: int = 0) -> Room:
    return Room((BudgetState(daily(limit), "", "d", settled, held, 0, START + DAY, limit=limit),))


def walk(
    pacer: Pacer, day: Day, limit: int, *, later: int | None = None, url: str = "sqlite://"
) -> tuple[float, int]:
    """Walk a day through a ledger; the limit is `later` from noon on. Returns the utilisation and
    how many requests were refused."""
    budget = daily(limit)
    ledger = open_ledger(url, [budget], durability="normal")
    flying: deque[tuple[float, str, int]] = deque()
    refused = 0
    for row, now in enumerate(day.time.tolist()):
        while flying and flying[0][0] <= now:
            ends, name, cost = flying.popleft()
            settle(ledger, name, cost, now=ends)
        if later is not None and now >= START + DAY / 2 and budget.limit != later:
            budget = replace(budget, limit=later)
            ledger.close()
            ledger = open_ledger(url, [budget], durability="normal")
        options, room = options_of(day, row), ledger.room({}, now)
        objective = pacer.objective(options, room, now)
        assert objective is not None
        assert objective.pace is not None
        left = room.remaining()
        assert left is not None
        arm = -1
        for money in (left - objective.pace.kept, left):
            if arm < 0:
                arm = int(choose(options, objective, np.array([money]), priced=True).arm[0])
        if arm < 0:
            refused += 1
            continue
        reserve(ledger, str(row), int(day.upper[row, arm]), now=now)  # never more than is left
        flying.append((now + 5, str(row), int(day.cost[row, arm])))
    for ends, name, cost in flying:
        settle(ledger, name, cost, now=ends)
    [state] = ledger.states(START + DAY - 1)
    assert ledger.verify() == []
    assert (state.held, state.overrun) == (0, 0)
    assert budget.limit is not None
    assert state.settled <= budget.limit
    ledger.close()
    return state.settled / budget.limit, refused


def limit_of(day: Day, share: float) -> int:
    """A budget of a share of what always-frontier would cost."""
    return int(share * day.expected[:, 3].sum())


def earlier_counts(n: int) -> dict[int, int]:
    """Four earlier days of `n` requests each, spread evenly."""
    first = int(START // BIN_SECONDS) - 4 * 96
    return {first + at: (n * (at + 1)) // 96 - (n * at) // 96 for at in range(4 * 96)}


@pytest.mark.parametrize("share", [0.15, 0.4])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_steady_day_uses_up_its_budget(seed: int, share: float) -> None:
    day = a_day(seed)
    used, refused = walk(a_pacer(requests=REQUESTS), day, limit_of(day, share))
    assert 0.98 <= used <= 1
    assert refused == 0


def test_with_nothing_known_a_day_uses_up_its_budget_too() -> None:
    day = a_day(2)
    used, refused = walk(a_pacer(), day, limit_of(day, 0.3))
    assert 0.98 <= used <= 1
    assert refused <= 2


@pytest.mark.parametrize("wrong", [1 / 3, 3])
@pytest.mark.parametrize("how", ["said", "learnt"])
def test_a_forecast_wrong_by_3x_corrects_itself(how: str, wrong: float) -> None:
    day = a_day(3)
    pacer = a_pacer(requests=REQUESTS * wrong if how == "said" else None)
    if how == "learnt":
        pacer.learn(earlier_counts(round(REQUESTS * wrong)), START - 4 * DAY, START)
    used, refused = walk(pacer, day, limit_of(day, 0.3))
    assert 0.98 <= used <= 1
    assert refused <= 2


def test_a_burst_neither_starves_the_rest_of_the_day_nor_passes_the_budget() -> None:
    def burst(rng: Any, n: int) -> Any:
        return np.concatenate([rng.random(n - n // 3), 0.4 + rng.random(n // 3) / 96])

    day = a_day(4, times=burst)
    pacer = a_pacer()
    pacer.learn(earlier_counts(REQUESTS), START - 4 * DAY, START)
    used, refused = walk(pacer, day, limit_of(day, 0.3))
    assert 0.97 <= used <= 1
    assert refused <= 2


@pytest.mark.parametrize("factor", [1.5, 0.75])
def test_a_budget_changed_at_noon_is_used_up_as_it_now_is(factor: float, tmp_path: Any) -> None:
    day = a_day(5)
    limit = limit_of(day, 0.3)
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    used, refused = walk(a_pacer(requests=REQUESTS), day, limit, later=int(limit * factor), url=url)
    assert 0.98 <= used <= 1
    assert refused <= 2


def test_the_floor_keeps_money_back_for_gains_that_are_worth_it() -> None:
    day = a_day(6)
    used, _ = walk(a_pacer(floor=200.0, requests=REQUESTS), day, limit_of(day, 0.9))
    assert used < 0.5


# ── one request ────────────────────────────────────────────────────────────────────────────────
def weight_after(pacer: Pacer, day: Day, rows: int, limit: int, settled: int = 0) -> float:
    found = None
    for row in range(rows):
        found = pacer.objective(options_of(day, row), room_of(limit, settled), day.time[row])
    assert found is not None
    assert found.cost_weight is not None
    return found.cost_weight


def test_less_money_means_a_larger_weight_and_none_at_all_the_largest() -> None:
    day = a_day(7)
    limit = limit_of(day, 1)
    weights = [weight_after(a_pacer(requests=REQUESTS), day, 100, limit // by) for by in (1, 4, 20)]
    assert weights == sorted(weights)
    assert weights[0] < weights[1] < weights[2]
    assert weight_after(a_pacer(requests=REQUESTS), day, 100, limit, limit) == ONLY_COST


def test_what_is_in_flight_counts_as_what_it_will_cost_not_as_what_it_holds() -> None:
    day = a_day(8)
    limit, held = limit_of(day, 0.3), limit_of(day, 0.1)
    pacer, other = a_pacer(requests=REQUESTS), a_pacer(requests=REQUESTS)
    for row in range(200):
        pacer.objective(options_of(day, row), room_of(limit), day.time[row])
        other.objective(options_of(day, row), room_of(limit), day.time[row])
    held_back = pacer.objective(options_of(day, 200), room_of(limit, held=held), day.time[200])
    spent = other.objective(options_of(day, 200), room_of(limit, settled=held), day.time[200])
    assert held_back is not None
    assert held_back.pace is not None
    assert spent is not None
    assert spent.pace is not None
    assert spent.pace.left < held_back.pace.left < limit - held // 5


def test_money_is_kept_back_for_the_cheapest_reservation_but_little_of_a_small_budget() -> None:
    day = a_day(9)
    for limit, kept in ((10**9, int(PRICE[0] * 4)), (10**7, 10**7 // 50)):
        found = a_pacer().objective(options_of(day, 0), room_of(limit), START)
        assert found is not None
        assert found.pace is not None
        assert found.pace.kept == kept


def test_a_request_that_is_asked_again_is_no_traffic() -> None:
    day = a_day(10)
    once, twice = a_pacer(), a_pacer()
    for row in range(50):
        options, room = options_of(day, row), room_of(10**9)
        one = once.objective(options, room, day.time[row])
        again = None
        for new in (True, False, False):
            again = twice.objective(options, room, day.time[row], new=new)
        assert one is not None
        assert again is not None
        assert one.pace == again.pace


def test_a_budget_without_a_limit_or_another_budget_is_not_paced() -> None:
    day = a_day(11)
    assert a_pacer().objective(options_of(day, 0), Room(), START) is None
    state = BudgetState(replace(daily(1), limit=None), "", "d", 0, 0, 0, START + DAY)
    assert a_pacer().objective(options_of(day, 0), Room((state,)), START) is None


def test_where_no_usual_request_can_be_paid_for_only_cost_counts() -> None:
    day = a_day(12)
    found = a_pacer().objective(options_of(day, 0), room_of(10), START)
    assert found is not None
    assert found.cost_weight == ONLY_COST


def test_a_request_with_every_arm_barred_does_no_harm() -> None:
    day = a_day(13)
    barred = replace(options_of(day, 0), barred=np.full((1, 4), Bar.NO_VISION, np.uint8))
    pacer = a_pacer()
    assert pacer.objective(barred, room_of(10**9), START) is not None
    assert weight_after(pacer, day, 10, 10**9) < ONLY_COST


def test_a_new_price_counts_from_its_first_moment() -> None:
    """At noon the frontier's price is halved: what is usual is halved too, at the next request."""
    day = a_day(14, n=SAMPLE + 1)
    costs = Dated((0.0, START + DAY / 2), (PRICE * 1.0, PRICE * np.array([1, 1, 1, 0.5])))
    limit = limit_of(day, 0.2)
    weights = []
    for unit_costs in (costs, None):
        pacer = Pacer("daily", ARMS, TIER, 0.0, 2 * SAMPLE, unit_costs)
        for row in range(SAMPLE):
            pacer.objective(options_of(day, row), room_of(limit), START + row)
        found = pacer.objective(options_of(day, SAMPLE), room_of(limit), START + DAY / 2)
        assert found is not None
        weights.append(found.cost_weight)
    informed, ignorant = weights
    assert informed != pytest.approx(ignorant, rel=0.05)


def test_threads_share_a_pacer() -> None:
    day, pacer = a_day(15), a_pacer(requests=REQUESTS)
    problems: list[BaseException] = []

    def work() -> None:
        try:
            weight_after(pacer, day, 300, limit_of(day, 0.3))
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    found = pacer.objective(options_of(day, 0), room_of(10**9), START + 1, new=False)
    assert found is not None
    assert sum(pacer._counts.values()) == 8 * 300  # none was lost


def test_pacing_costs_a_decision_microseconds() -> None:
    """The median of three readings each; 10 µs is the aim on a quiet core, others may be busy."""
    day, pacer = a_day(16), a_pacer(requests=REQUESTS)
    room = room_of(limit_of(day, 0.3))
    taken = np.empty((3, REQUESTS))
    for reading in range(3):
        for row in range(REQUESTS):
            options, now = options_of(day, row), day.time[row]
            began = time.perf_counter_ns()
            pacer.objective(options, room, now)
            taken[reading, row] = time.perf_counter_ns() - began
    assert np.median(taken, axis=1).min() < 100_000


def test_the_objective_of_a_pace_says_what_it_was_found_from() -> None:
    found = a_pacer().objective(options_of(a_day(17), 0), room_of(10**9), START)
    assert isinstance(found, Objective)
    assert found.pace is not None
    assert found.pace.budget == "daily"
    assert 0 < found.pace.left <= 10**9
    assert found.pace.requests > 1
