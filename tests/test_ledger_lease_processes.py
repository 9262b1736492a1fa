"""Processes with leases that stop, die or fork: nothing is lost, and no limit is passed."""

from __future__ import annotations

import os
import random
import signal
import threading
import time

from router.errors import BudgetExceeded
from router.ledger import open_ledger
from router.types import Budget
from tests.lease_kit import ALL, ANN, by_hand, direct, leasing
from tests.lease_kit import cut as cut  # fixtures
from tests.lease_kit import place as place
from tests.ledger_kit import (
    NOW,
    counters,
    kill_at_random,
    nothing_was_lost,
    processes,
    reserve,
    run_all,
    settle,
)
from tests.outage_kit import journals
from tests.stores import PATIENCE, heavy


def test_f04_a_process_stopped_past_its_lease_corrects_the_full_charge_to_what_it_spent(place, cut):
    ledger = by_hand(place, cut)
    reserve(ledger, "a", 100, scopes=ANN)
    reserve(ledger, "b", 100, scopes=ANN)
    settle(ledger, "a", 60)
    other = direct(place)
    assert other.expire(NOW + 61) == 1
    assert counters(other)[ALL] == (40_000, 0)
    ledger._mine.flush()  # it wakes up
    assert counters(other)[ALL] == (160, 0)  # b is open, and charged until it is heard of
    settle(ledger, "b", 5, now=NOW + 70)
    ledger._mine.flush()
    assert counters(other)[ALL] == (65, 0)
    assert other.verify() == []
    assert [row.request_id for row in other.log().requests()] == ["a", "b"]


def _spend_and_die(place, journal_too):
    ledger = leasing(place)
    for call in range(40):
        reserve(ledger, f"r{call}", 100, scopes=ANN, now=time.time())
        if call % 4:
            settle(ledger, f"r{call}", 60, now=time.time())
    if not journal_too:
        for file in journals(place):
            file.unlink()
    os.kill(os.getpid(), signal.SIGKILL)


def died(place: str, journal_too: bool) -> None:
    process = processes.Process(target=_spend_and_die, args=(place, journal_too))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL


def test_after_a_crash_the_journal_returns_exactly_what_was_not_spent(place):
    died(place, journal_too=True)
    before = open_ledger(place, create=False, busy_seconds=PATIENCE)
    settled, held = counters(before, time.time())[ALL]
    assert settled + held == 40_000  # nothing is given back unasked
    after = direct(place)  # the next process replays it
    assert counters(after, time.time())[ALL] == (30 * 60 + 10 * 100, 0)
    assert after.verify() == []
    rows = list(after.log().attempts())
    assert sorted(row.status for row in rows) == ["answered"] * 30 + ["expired"] * 10
    assert sum(row.cost or 0 for row in rows) == 2_800
    assert journals(place) == []


def test_after_a_crash_without_its_journal_a_lease_is_charged_in_full(place):
    died(place, journal_too=False)
    after = direct(place)
    assert after.expire(time.time() + 61) == 1
    assert counters(after, time.time())[ALL] == (40_000, 0)
    assert after.verify() == []
    assert sum(row.cost or 0 for row in after.log().attempts()) == 40_000


def _spend_until_killed(place, bills, worker):
    chance = random.Random(worker)
    ledger = leasing(place)
    provider = os.open(bills, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    for call in range(1_000_000):
        name = f"r{worker}-{call}"
        try:
            reserve(ledger, name, 10, scopes={"user": f"u{worker % 3}", "team": "t"})
        except BudgetExceeded:
            time.sleep(0.01)
            continue
        cost = chance.randint(0, 10)
        os.write(provider, f"{name} {cost}\n".encode())
        settle(ledger, name, cost)
        time.sleep(0.001)


@heavy
def test_f03_of_leasing_processes_killed_at_random_no_bill_is_lost_or_charged_too_low(
    place, tmp_path
):
    bills = tmp_path / "bills"
    work = [(place, bills, worker) for worker in range(16)]
    kill_at_random(
        _spend_until_killed, work, at_once=4, pause=(0.02, 0.2), seed=5, bills=bills, url=place
    )
    ledger = direct(place)
    ledger.expire(NOW)  # the sweep replays the journals
    # At most the one call that each was in the middle of is charged and was not billed.
    assert nothing_was_lost(ledger, bills, least=100, budget=ALL) <= 16 * 10


def _hammer(place, worker, calls, answers):
    chance = random.Random(worker)
    budgets = [Budget("all", 400_000), Budget("user", 150_000, "day", scope="user")]
    ledger = leasing(place, budgets)
    spent = 0
    for call in range(calls):
        name = f"r{worker}-{call}"
        try:
            reserve(ledger, name, 100, scopes={"user": f"u{chance.randrange(3)}"})
        except BudgetExceeded:
            continue
        cost = chance.randint(0, 100)
        spent += cost
        settle(ledger, name, cost)
    ledger.close()
    answers.put(spent)


@heavy
def test_f02_processes_with_leases_never_pass_a_limit_and_sum_up_exactly(place):
    budgets = [Budget("all", 400_000), Budget("user", 150_000, "day", scope="user")]
    ledger = direct(place, budgets)
    worst, done = [], threading.Event()

    def sample() -> None:
        while not done.is_set():
            states = ledger.states(NOW)
            worst.extend(s.settled + s.held - (s.budget.limit or 0) for s in states)
            time.sleep(0.005)

    sampler = threading.Thread(target=sample)
    sampler.start()
    spent = run_all(_hammer, [(place, worker, 1500) for worker in range(8)])
    done.set()
    sampler.join()
    assert max(worst) <= 0
    assert ledger.verify() == []
    found = counters(ledger)
    assert found[ALL] == (sum(spent), 0)
    assert {held for _, held in found.values()} == {0}


def test_f42_a_child_starts_without_its_parents_leases(place):
    ledger = leasing(place)
    reserve(ledger, "parent", 100, scopes=ANN)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            assert ledger._mine.leases == []
            for call in range(20):
                reserve(ledger, f"child{call}", 100, scopes=ANN)
                settle(ledger, f"child{call}", 50)
            ledger.close()
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
    settle(ledger, "parent", 70)
    ledger.close()
    after = direct(place)
    assert counters(after)[ALL] == (20 * 50 + 70, 0)
    assert after.verify() == []
