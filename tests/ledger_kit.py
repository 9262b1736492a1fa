"""What the ledger's and the log's tests share: rows, a small driver, and processes."""

from __future__ import annotations

import multiprocessing
import os
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from router.ledger import Ledger, open_ledger
from router.types import AttemptRow, Budget, Hold, RequestEnd, RequestRow, Reservation, Scopes
from tests.servers import sessions, until_ended

NOW = 1_800_000_000.0  # Friday 2027-01-15 08:00 UTC
TTL = 600.0

processes = multiprocessing.get_context("fork" if hasattr(os, "fork") else "spawn")

# Processes forked from one that has only what the ledger needs: a fork of a test run that has
# litellm and scikit-learn takes ten times as long. Targets must be functions of a module.
light = multiprocessing.get_context("forkserver" if hasattr(os, "fork") else "spawn")
light.set_forkserver_preload(
    [
        "tests.test_budget_changes",
        "tests.test_ledger_concurrency",
        "tests.test_ledger_lease_processes",
        "router.ledger.postgres.store",
        "router.ledger.redis.store",
        "router.ledger.outage",
        "psycopg",
        "redis.connection",
    ]
)
_STATE = "XDG_STATE_HOME"


def light_process(target: Any, arguments: tuple[Any, ...]) -> Any:
    """A light process, not started yet, with this test's folder for journals."""
    return light.Process(target=_run, args=(os.environ.get(_STATE), target, arguments))


def _run(state: str | None, target: Any, arguments: tuple[Any, ...]) -> None:
    if state is not None:
        os.environ[_STATE] = state
    target(*arguments)


def url(path: Path) -> str:
    return f"sqlite:///{path}"


def request_row(
    request_id: str, *, scopes: Mapping[str, str] | None = None, **changes: Any
) -> RequestRow:
    row = RequestRow(
        request_id=request_id,
        time=NOW,
        status="open",
        policy="default@1f",
        predictor="default@2e",
        price_book="3d",
        scopes=scopes or {},
        tags=("test",),
        conversation_id=None,
        stream=False,
        features={"words": 12.0},
        decision=({"arm": "mini/0:m", "tier": "mini", "propensity": 1.0, "expected": 50},),
        chosen="mini/0:m",
        reason="cheapest",
        rule=None,
        baseline=900,
    )
    return replace(row, **changes)


def attempt_row(
    request_id: str, number: int = 1, *, cost: int | None, **changes: Any
) -> AttemptRow:
    row = AttemptRow(
        request_id=request_id,
        number=number,
        time=NOW,
        step=0,
        arm="mini/0:m",
        tier="mini",
        model="m",
        propensity=1.0,
        status="answered",
        reserved=100,
        cost=cost,
        cost_source="computed",
        price_book="3d",
        latency=0.5,
        usage={"prompt_tokens": 3, "completion_tokens": 4},
        input_tokens=3,
        output_tokens=4,
    )
    return replace(row, **changes)


def reserve(
    ledger: Ledger,
    name: str,
    amount: int,
    *,
    number: int = 1,
    scopes: Scopes | None = None,
    tokens: int = 0,
    now: float = NOW,
    ttl: float = TTL,
    first: bool | None = None,
    is_new: bool = False,
) -> Hold:
    """Reserve for attempt `number` of request `name`, under the id "name/number"."""
    first = number == 1 if first is None else first
    return ledger.reserve(
        Reservation(
            f"{name}/{number}",
            amount,
            scopes=scopes or {},
            tokens=tokens,
            now=now,
            expires_at=now + ttl,
            worst_case=attempt_row(
                name, number, cost=amount, status="expired", cost_source="expired", reserved=amount
            ),
            request=request_row(name) if first else None,
            is_new=is_new,
        )
    )


def settle(
    ledger: Ledger,
    name: str,
    cost: int | None,
    *,
    number: int = 1,
    now: float = NOW,
    **changes: Any,
) -> None:
    """Settle attempt `number` of request `name`; `changes` are of its row."""
    end = RequestEnd("answered", accepted=number, baseline=900)
    ledger.settle(f"{name}/{number}", attempt_row(name, number, cost=cost, **changes), end, now)


def release(ledger: Ledger, name: str, *, number: int = 1, now: float = NOW) -> None:
    row = attempt_row(name, number, cost=0, status="failed", usage=None, error="connection refused")
    end = RequestEnd("failed", accepted=None, baseline=None, error="connection refused")
    ledger.release(f"{name}/{number}", row, end, now)


def counters(ledger: Ledger, now: float = NOW) -> dict[tuple[str, str], tuple[int, int]]:
    """(budget, scope value) → (settled, held) in the current windows."""
    return {
        (state.budget.name, state.scope_value): (state.settled, state.held)
        for state in ledger.states(now)
    }


def run_all(target: Any, arguments: list[tuple[Any, ...]]) -> list[Any]:
    """Run `target(*arguments, answer)` in a process each; return what each put into `answer`."""
    answers = light.Queue()
    running = [light_process(target, (*each, answers)) for each in arguments]
    for process in running:
        process.start()
    results = [answers.get(timeout=100) for _ in running]
    for process in running:
        process.join(timeout=10)
        assert process.exitcode == 0
    return results


def kill_at_random(
    target: Any,
    arguments: list[tuple[Any, ...]],
    *,
    at_once: int,
    pause: tuple[float, float],
    seed: int,
    bills: Path,
    url: str,
) -> None:
    """Run `target` in a process for each of the arguments, `at_once` side by side, and kill each at
    a random moment: `pause` seconds after some of them have written to `bills`. Their store's
    server, at `url`, has then carried out whatever they had asked of it."""
    others = sessions(url)
    chance, before = random.Random(seed), 0
    running: list[Any] = []
    for each in arguments:
        process = light_process(target, each)
        process.start()
        running.append(process)
        if len(running) == at_once:
            deadline = time.monotonic() + 60
            while not bills.exists() or bills.stat().st_size <= before:
                assert time.monotonic() < deadline
                time.sleep(0.001)
            before = bills.stat().st_size
            time.sleep(chance.uniform(*pause))
            victim = running.pop(chance.randrange(at_once))
            victim.kill()
            victim.join()
    for process in running:
        process.kill()
        process.join()
    until_ended(url, others)


def nothing_was_lost(ledger: Ledger, bills: Path, least: int, budget: tuple[str, str]) -> int:
    """Hold the ledger against a provider's bills, a line "request nano-USD" each, after all that
    was open has expired; return by how much more was charged than billed."""
    held = {budget: held for budget, (_, held) in counters(ledger).items() if held}
    assert held == {}, held
    assert ledger.verify() == []
    charged = {row.request_id: row.cost or 0 for row in ledger.log().attempts()}
    billed = {name: int(cost) for name, cost in map(str.split, bills.read_text().splitlines())}
    assert len(billed) > least
    assert [name for name in billed if name not in charged] == []
    assert [name for name, cost in billed.items() if charged[name] < cost] == []
    assert counters(ledger)[budget][0] == sum(charged.values())
    return sum(charged.values()) - sum(billed.values())


def closed_store(folder: Path, budgets: Sequence[Budget]) -> Path:
    """A closed store with fifty settled calls."""
    place = folder / "l.db"
    ledger = open_ledger(url(place), budgets, durability="normal")
    for call in range(50):
        reserve(ledger, f"r{call}", 100)
        settle(ledger, f"r{call}", 60)
    ledger.close()
    return place


def in_child(work: Any, *arguments: Any) -> str:
    """Run `work` in a process of its own, without root's power over permissions; its answer."""
    answers = processes.Queue()

    def run() -> None:
        if os.getuid() == 0:
            os.setgid(65534)
            os.setuid(65534)
        try:
            answers.put(work(*arguments))
        except BaseException as error:
            answers.put(f"{type(error).__name__}: {error}")
            raise

    process = processes.Process(target=run)
    process.start()
    answer = answers.get(timeout=60)
    process.join()
    return answer
