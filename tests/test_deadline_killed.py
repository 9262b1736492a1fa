"""Workers of a queue are killed (SIGKILL) at every stage: each request is answered once, each line
of a batch is billed once, and the books agree."""

from __future__ import annotations

import json
import random
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from router import Router
from tests.batch_provider import BatchProvider
from tests.conftest import HELLO, ladder, steady_predictor
from tests.pipeline_kit import BUDGET, NANO_BILL, PIN_NANO, rows
from tests.provider import ok
from tests.test_compaction import SUMMARY, errands
from tests.test_deadline_calls import TIMEOUT, tiers
from tests.warm import Program, start

DAY = 86_400.0
LEASE = 0.5
WORKER = """
import json, sys
from router import Router
from tests.conftest import steady_predictor
policy, store = json.load(open(sys.argv[1])), sys.argv[2]
router = Router(policy, store=store, predictor=steady_predictor())
print("ready", flush=True)
router.work_queue(forever=True, poll=0.05, again=0.05, lease=float(sys.argv[3]))
"""


@pytest.fixture
def provider() -> Iterator[BatchProvider]:
    server = BatchProvider()
    yield server
    server.close()


class House:
    """A queue in a file, its router here, and workers in processes of their own. `changes` replace
    keys of its policy."""

    def __init__(self, folder: Path, provider: BatchProvider, **changes: Any):
        multipliers = {"batch": "0.25", "flex": "0.5"}
        given = {
            "budgets": BUDGET,
            "rules": [PIN_NANO],
            "timeout": TIMEOUT,
            "deferred": {"batch": True, "flex": True, "gather": 0, "flex_timeout": 30},
            "tiers": tiers(provider.url, multipliers=multipliers),
            **changes,
        }
        policy = ladder(provider.url, **given)
        self.file, self.policy = folder / "router.db", folder / "policy.json"
        self.policy.write_text(json.dumps(policy))
        self.store = f"sqlite:///{self.file}"
        self.router = Router(policy, store=self.store, predictor=steady_predictor())
        self.provider = provider

    def submit(self, count: int, seconds: float) -> list[str]:
        deadline = time.time() + seconds
        return [self.router.submit(HELLO, deadline=deadline) for _ in range(count)]

    def worker(self) -> Program:
        program = start(WORKER, str(self.policy), self.store, str(LEASE))
        assert program.stdout.readline() == "ready\n"
        return program

    def kill_when(self, happened: Callable[[], bool]) -> None:
        """Start a worker, and kill it as soon as something has happened."""
        program, began = self.worker(), time.monotonic()
        while not happened():
            assert time.monotonic() - began < 60
            time.sleep(0.001)
        program.send_signal(signal.SIGKILL)
        assert program.wait() == -signal.SIGKILL

    def count(self, query: str) -> int:
        connection = sqlite3.connect(self.file)
        try:
            return int(connection.execute(query).fetchone()[0])
        finally:
            connection.close()

    def finish(self) -> None:
        """Another worker takes over and goes on to the end; what died in flight is charged."""
        self.router.work_queue(forever=True, poll=0.05, again=0.05, lease=LEASE)
        self.router.ledger.expire(time.time() + 3 * DAY)

    def assert_answered_once(self, tickets: list[str]) -> None:
        for ticket in tickets:
            assert self.router.collect(ticket).choices[0].message.content == "a fine answer"
        assert self.router.ledger.verify() == []
        states = self.router.budgets()
        assert [state.held for state in states] == [0]
        assert [state.settled for state in states] == [
            sum(row.cost or 0 for row in rows(self.router))
        ]


@pytest.fixture
def house(tmp_path: Path, provider: BatchProvider) -> Iterator[House]:
    made = House(tmp_path, provider)
    yield made
    made.router.close()


DONE = "SELECT count(*) FROM deferred_line WHERE done = 1"
SENT = "SELECT count(*) FROM deferred_batch WHERE state = 'sent'"


def test_a_batch_whose_workers_die_before_and_amid_its_answers_is_billed_once(
    house: House, provider: BatchProvider
) -> None:
    tickets = house.submit(120, 3 * DAY)
    provider.running = False
    house.kill_when(lambda: bool(house.count(SENT)))
    provider.running = True
    house.kill_when(lambda: house.count(DONE) > 20)  # half-collected
    assert 20 < house.count(DONE) < 120
    house.finish()
    house.assert_answered_once(tickets)
    assert len(provider.batches) == 1
    assert set(Counter(name for name, _ in provider.done).values()) == {1}
    assert [row.cost for row in rows(house.router)] == [NANO_BILL // 4] * 120


def test_a_worker_that_dies_while_a_batch_is_created_leaves_one_batch(
    house: House, provider: BatchProvider
) -> None:
    """It dies between the provider's making the batch and its own knowing of it."""
    tickets = house.submit(10, 3 * DAY)
    provider.slow_replies = 1.0
    house.kill_when(lambda: bool(provider.batches))
    assert house.count(SENT) == 0
    provider.slow_replies = 0.0
    house.finish()
    house.assert_answered_once(tickets)
    assert len(provider.batches) == 1
    assert [row.cost for row in rows(house.router)] == [NANO_BILL // 4] * 10


def test_a_worker_that_dies_before_it_sends_a_batch_leaves_nothing_held(
    house: House, provider: BatchProvider
) -> None:
    tickets = house.submit(100, 3 * DAY)
    house.kill_when(
        lambda: house.count("SELECT count(*) FROM reservation WHERE state = 'open'") > 5
    )
    assert provider.batches == {}
    house.finish()
    house.assert_answered_once(tickets)
    assert len(provider.done) == 100
    costs = Counter(row.cost for row in rows(house.router))
    assert costs[NANO_BILL // 4] == 100
    assert set(costs) <= {0, NANO_BILL // 4}  # what was reserved and not sent is charged nothing


def test_a_call_whose_worker_dies_is_made_again_and_both_are_paid_for(
    house: House, provider: BatchProvider
) -> None:
    """Nobody can ask what became of a plain call, so the first is charged as reserved."""
    [ticket] = house.submit(1, 3600.0)
    provider.script("t-nano", ok(delay=30.0))
    house.kill_when(lambda: bool(provider.wire))
    house.finish()
    house.assert_answered_once([ticket])
    assert len(provider.wire) == 2
    first, second = rows(house.router)
    assert (first.status, first.cost) == ("expired", first.reserved)
    assert (second.status, second.cost) == ("answered", NANO_BILL // 2)


def test_a_summary_on_the_way_to_the_answer_is_not_taken_for_it(
    tmp_path: Path, provider: BatchProvider
) -> None:
    """A worker that dies after a conversation's summary came, and before its answer does."""
    house = House(tmp_path, provider, **{**SUMMARY, "rules": []})
    provider.script("t-nano", ok(text="Bookings B-0000 to B-0019 were looked up."))
    provider.script("t-frontier", ok(delay=30.0))
    deadline = time.time() + 3600.0
    ticket = house.router.submit(errands(20), deadline=deadline, conversation_id="c")
    house.kill_when(lambda: "t-frontier" in provider.models)
    house.finish()
    assert house.router.collect(ticket).choices[0].message.content == "a fine answer"
    assert provider.models.count("t-frontier") == 2
    house.router.close()


@pytest.mark.parametrize("seed", [1, 2])
def test_killed_at_random_moments_nothing_is_lost_and_nothing_answered_twice(
    house: House, provider: BatchProvider, seed: int
) -> None:
    chance = random.Random(seed)
    provider.default = ok(delay=0.02)
    plain, batched = house.submit(40, 3600.0), house.submit(60, 3 * DAY)
    for _ in range(6):
        program = house.worker()
        time.sleep(chance.uniform(0.0, 0.6))
        program.send_signal(signal.SIGKILL)
        program.wait()
    house.finish()
    house.assert_answered_once(plain + batched)
    assert set(Counter(name for name, _ in provider.done).values()) == {1}
    assert len(provider.done) == 60
    billed = [row for row in rows(house.router) if row.cost]
    # Each of the provider's bills has a row; a killed call's is what was reserved, sent or not.
    assert len(billed) >= len(provider.wire) + len(provider.done)
    assert sum(row.status == "answered" for row in billed) <= 100
    assert all(row.status in ("answered", "expired") for row in billed)
