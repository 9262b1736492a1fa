"""Many tasks, threads and processes on one budget; processes that die, stop or fork."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import signal
import sys
import threading
import time
import traceback
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from router.errors import BudgetExceeded, LedgerUnavailable, ReservationError
from router.ledger import open_ledger
from router.ledger.sqlite import forks
from router.types import Budget
from tests.ledger_kit import (
    NOW,
    TTL,
    counters,
    kill_at_random,
    light,
    nothing_was_lost,
    processes,
    release,
    reserve,
    run_all,
    settle,
)
from tests.stores import FreshStore, heavy

ALL = ("all", "")
NESTED = [
    Budget("all", 60_000),
    Budget("team", 34_000, "month", "Europe/Berlin", "team"),
    Budget("user", 20_000, "day", "America/New_York", "user"),
]


@heavy
def test_f01_of_ten_thousand_tasks_exactly_the_thousand_that_fit_get_a_hold(store):
    ledger = store.open([Budget("all", 1_000_000)])

    def one(name: str) -> bool:
        try:
            reserve(ledger, name, 1000)
        except BudgetExceeded:
            return False
        return True

    async def everything() -> list[bool]:
        return await asyncio.gather(*(asyncio.to_thread(one, f"r{n}") for n in range(10_000)))

    held = asyncio.run(everything())
    assert sum(held) == 1000
    assert counters(ledger) == {ALL: (0, 1_000_000)}
    assert ledger.verify() == []


def test_f42_threads_share_one_ledger(store):
    share_among_threads(store.open([Budget("all", None)]))


def test_f42_threads_share_one_ledger_in_memory():
    share_among_threads(open_ledger("sqlite://", [Budget("all", None)]))


def share_among_threads(ledger) -> None:
    def work(thread: int) -> None:
        for call in range(40):
            name = f"r{thread}-{call}"
            reserve(ledger, name, 100)
            assert ledger.room({}, NOW).remaining() is None
            settle(ledger, name, call) if call % 2 else release(ledger, name)

    with ThreadPoolExecutor(16) as threads:
        list(threads.map(work, range(16)))
    assert counters(ledger) == {ALL: (16 * sum(range(1, 40, 2)), 0)}
    assert ledger.verify() == []


def _spend(store, worker, calls, answers):
    chance = random.Random(worker)
    budgets = list(NESTED)
    chance.shuffle(budgets)
    ledger = store.open(budgets)
    outcome: Counter[str] = Counter()
    for call in range(calls):
        name = f"r{worker}-{call}"
        scopes = {"user": f"u{chance.randrange(4)}", "team": f"t{chance.randrange(2)}"}
        try:
            reserve(ledger, name, 100, scopes=scopes)
        except BudgetExceeded:
            outcome["denied"] += 1
        else:
            outcome["held"] += 1
            settle(ledger, name, chance.randint(0, 100))
    ledger.close()
    answers.put(outcome)


@heavy
def test_f02_f09_64_processes_that_name_their_budgets_in_any_order_never_pass_a_limit(store):
    ledger = store.open(NESTED)
    worst, done = [], threading.Event()

    def sample() -> None:
        for number in itertools.count():
            if done.is_set():
                return
            scopes = {"user": f"u{number % 4}", "team": f"t{number % 2}"}
            for state in ledger.room(scopes, NOW).budgets:
                assert state.budget.limit is not None
                worst.append(state.settled + state.held - state.budget.limit)
            time.sleep(0.002)

    before = deadlocks(store)
    sampler = threading.Thread(target=sample)
    sampler.start()
    outcomes = run_all(_spend, [(store, worker, 25) for worker in range(64)])
    done.set()
    sampler.join()
    total = sum(outcomes, Counter())
    assert total["held"] + total["denied"] == 64 * 25
    assert total["denied"] > 0
    assert len(worst) > 100
    assert max(worst) <= 0
    assert ledger.verify() == []
    assert {held for _, held in counters(ledger).values()} == {0}
    ledger.close()
    assert deadlocks(store) == before  # one would be asked again, and be seen in no outcome


def deadlocks(store) -> int:
    """How many the server of a store has broken up, of those whose sessions have ended."""
    if store.name != "postgres":
        return 0
    import psycopg

    with psycopg.connect(store.url) as connection:
        row = connection.execute(
            "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
        ).fetchone()
    assert row is not None
    return int(row[0])


def _reserve_same(store, start, answers):
    ledger = store.open([Budget("all", 10_000)])
    holds = []
    for call in range(20):
        start.wait(60)  # both ask at the same moment
        holds.append(reserve(ledger, f"r{call}", 100))
    answers.put(holds)


def test_f06_one_id_from_two_processes_is_one_hold(store):
    start = light.Barrier(2)
    first, second = run_all(_reserve_same, [(store, start), (store, start)])
    assert first == second
    ledger = store.open([Budget("all", 10_000)])
    assert counters(ledger) == {ALL: (0, 2000)}
    assert ledger.verify() == []


# Never used up, so that whoever is killed is in the middle of a call.
AMPLE = [replace(budget, limit=100 * (budget.limit or 0)) for budget in NESTED]


def _bill_and_settle(store, bills, worker):
    """Reserve, be billed (a line in a file that survives), settle; until killed."""
    chance = random.Random(worker)
    ledger = store.open(AMPLE)
    provider = os.open(bills, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    for call in range(1_000_000):
        name, scopes = f"r{worker}-{call}", {"user": f"u{worker % 3}", "team": "t"}
        reserve(ledger, name, 10, scopes=scopes)
        cost = chance.randint(0, 10)
        os.write(provider, f"{name} {cost}\n".encode())
        time.sleep(0.001)  # 8 that never rest would hand the check a hundred times the rows
        settle(ledger, name, cost)


@heavy
def test_f03_of_processes_killed_at_random_no_bill_is_lost_or_charged_too_low(store, tmp_path):
    bills = tmp_path / "bills"
    work = [(store, str(bills), worker) for worker in range(40)]
    kill_at_random(
        _bill_and_settle, work, at_once=8, pause=(0, 0.05), seed=3, bills=bills, url=store.url
    )
    ledger = store.open(AMPLE)
    ledger.expire(NOW + TTL)
    nothing_was_lost(ledger, bills, least=40, budget=ALL)
    open_requests = [row for row in ledger.log().requests() if row.status == "open"]
    assert open_requests == []


def test_a_process_that_dies_between_reserve_and_settle_is_charged_in_full(store):

    def die() -> None:
        reserve(store.open([Budget("all", 1000)]), "a", 300)
        os.kill(os.getpid(), signal.SIGKILL)

    process = processes.Process(target=die)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    ledger = store.open([Budget("all", 1000)])
    assert counters(ledger) == {ALL: (0, 300)}
    ledger.expire(NOW + TTL)
    assert counters(ledger) == {ALL: (300, 0)}


def _settle_late(store, ready, resume, answers):
    ledger = store.open([Budget("all", 1000)])
    reserve(ledger, "a", 300)
    ready.set()
    resume.wait()
    settle(ledger, "a", 120, now=NOW + TTL + 1)
    answers.put("settled")


def test_f04_a_process_stopped_past_its_time_is_charged_and_corrects_that_once(store):
    answers = processes.Queue()
    ready, resume = processes.Event(), processes.Event()
    process = processes.Process(target=_settle_late, args=(store, ready, resume, answers))
    process.start()
    assert ready.wait(20)
    os.kill(process.pid, signal.SIGSTOP)
    ledger = store.open([Budget("all", 1000)])
    assert ledger.expire(NOW + TTL) == 1
    assert counters(ledger) == {ALL: (300, 0)}
    os.kill(process.pid, signal.SIGCONT)
    resume.set()
    assert answers.get(timeout=20) == "settled"
    process.join()
    assert counters(ledger) == {ALL: (120, 0)}
    with pytest.raises(ReservationError):
        settle(ledger, "a", 119)
    assert ledger.verify() == []


def test_f42_a_ledger_opened_before_a_fork_serves_parent_and_child(store):
    ledger = store.open([Budget("all", None)])
    reserve(ledger, "parent", 100)
    children = []
    for child in range(4):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                for call in range(20):
                    reserve(ledger, f"c{child}-{call}", 100)
                    settle(ledger, f"c{child}-{call}", 50)
                code = 0
            finally:
                os._exit(code)
        children.append(pid)
        reserve(ledger, f"p{child}", 100)
    ledger.close()  # the children's work must survive the parent's leaving first
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0, 0, 0, 0]
    after = store.open([Budget("all", None)])
    assert counters(after) == {ALL: (4 * 20 * 50, 500)}
    assert after.verify() == []


def test_f42_a_ledger_in_memory_refuses_to_serve_two_processes():
    ledger = open_ledger("sqlite://", [Budget("all", 1000)])
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            reserve(ledger, "child", 100)
        except LedgerUnavailable:
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
    reserve(ledger, "parent", 100)
    assert counters(ledger) == {ALL: (0, 100)}


def opened_descriptors(path: str) -> int:
    """How many descriptors of this process are of the file at `path`."""
    of_file, found = os.stat(path), 0
    for descriptor in range(3, 1024):
        with contextlib.suppress(OSError):
            found += os.path.samestat(os.fstat(descriptor), of_file)
    return found


def test_f42_a_store_that_is_just_being_dropped_does_not_pass_through_a_fork(tmp_path):
    """SQLite in the child would take the parent's locks for its own."""
    path = str(tmp_path / "ledger.db")
    dropped = [open_ledger(f"sqlite:///{path}", [Budget("all", 1000)])]
    assert opened_descriptors(path) > 0
    with forks.OPENING:  # where whoever closes what was dropped now waits
        thread = threading.Thread(target=dropped.clear)
        thread.start()
        thread.join(timeout=0.2)
        pid = os.fork()
        if pid == 0:
            code = 255
            try:
                code = opened_descriptors(path)
            finally:
                os._exit(code)
    thread.join()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert opened_descriptors(path) == 0


def fork_ten(ledger, round_: int = 0) -> None:
    """Fork ten children, each of which reserves and settles 10, or is killed after 20 seconds."""
    for child in range(10):
        pid = os.fork()
        if pid == 0:
            signal.alarm(20)
            code = 1
            try:
                reserve(ledger, f"c{round_}-{child}", 10)
                settle(ledger, f"c{round_}-{child}", 10)
                code = 0
            except BaseException:
                # pytest's own report never sees what a forked child raised
                traceback.print_exc(file=sys.__stderr__)
            finally:
                os._exit(code)
        assert os.waitpid(pid, 0)[1] == 0


@heavy
def test_f42_a_fork_while_other_threads_open_and_close_stores_does_not_hang_the_child(
    store, tmp_path
):
    ledger = store.open([Budget("all", None)])
    stop = threading.Event()

    def work(thread: int) -> None:
        place = f"sqlite:///{tmp_path / f'other{thread}.db'}"
        opened = store if store.server else FreshStore("other", place, server=False)
        for turn in itertools.count():
            if stop.is_set():
                return
            other = opened.open([Budget("all", None)])
            other.room({}, 0.0)
            if turn % 2:
                other.close()  # the others are left to the garbage collector

    with ThreadPoolExecutor(3) as threads:
        working = [threads.submit(work, thread) for thread in range(3)]
        try:
            for round_ in range(3):
                fork_ten(ledger, round_)
        finally:
            stop.set()
    assert [each.result() for each in working] == [None] * 3


@heavy
def test_f42_a_fork_in_the_middle_of_other_threads_work_breaks_neither(store):
    ledger = store.open([Budget("all", None)])
    stop = threading.Event()

    def work(thread: int) -> int:
        calls = 0
        while not stop.is_set():
            reserve(ledger, f"t{thread}-{calls}", 10)
            settle(ledger, f"t{thread}-{calls}", 10)
            calls += 1
        return calls

    with ThreadPoolExecutor(4) as threads:
        working = [threads.submit(work, thread) for thread in range(4)]
        try:
            fork_ten(ledger)
        finally:
            stop.set()
    calls = sum(each.result() for each in working)
    assert counters(ledger) == {ALL: ((calls + 10) * 10, 0)}
    assert ledger.verify() == []
