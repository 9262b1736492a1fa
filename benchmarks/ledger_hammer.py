"""Many processes spend from the same small budgets in one store, as fast as they can.

Each call reserves in three nested budgets (all requests, the user's day, the team's month) and
settles at a random cost up to the reservation. The limit runs out before the calls do. A sampler
reads the counters all the while and notes the most that settled + held ever was above a limit.

    python benchmarks/ledger_hammer.py sqlite --processes 64 --calls 500 --json
    python benchmarks/ledger_hammer.py postgres --durability full
    python benchmarks/ledger_hammer.py postgresql://user@host/database

A store's name starts a fresh one, with a server of its own where it needs one.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import sqlite3
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from ledger_stores import STORES
from stamp import commit, machine

from router.errors import BudgetExceeded, LedgerUnavailable
from router.ledger import open_ledger
from router.types import AttemptRow, Budget, RequestEnd, RequestRow, Reservation

RESULTS = Path(__file__).parent / "results" / "ledger_hammer.json"
AMOUNT = 1_000_000  # nano-USD reserved by each call
NOW = 1_800_000_000.0
USERS, TEAMS = 8, 2


def budgets(calls: int) -> list[Budget]:
    """Room for about four in five of the calls, since a call costs half of its reservation."""
    everyone = calls * AMOUNT * 2 // 5
    return [
        Budget("all", everyone),
        Budget("team", everyone // TEAMS * 21 // 20, "month", "Europe/Berlin", "team"),
        Budget("user", everyone // USERS * 11 // 10, "day", "America/New_York", "user"),
    ]


def rows(request_id: str, scopes: dict[str, str]) -> tuple[RequestRow, AttemptRow]:
    """A request of ordinary size, and its attempt as it would expire."""
    views = [
        {"arm": arm, "tier": arm, "model": f"provider/{arm}", "quality": 0.5, "expected": 500_000,
         "upper": AMOUNT, "propensity": 0.25, "rejected": None}
        for arm in ("nano", "mini", "mid", "frontier")
    ]  # fmt: skip
    request = RequestRow(
        request_id=request_id, time=NOW, status="open", policy="default@0", predictor="default@0",
        price_book="0", scopes=scopes, tags=(), conversation_id=None, stream=False,
        features={f"feature_{index}": index / 7 for index in range(16)}, decision=tuple(views),
        chosen="mini", reason="cheapest that keeps quality", rule=None, baseline=AMOUNT,
    )  # fmt: skip
    attempt = AttemptRow(
        request_id=request_id, number=1, time=NOW, step=0, arm="mini", tier="mini",
        model="provider/mini", propensity=0.25, status="expired", reserved=AMOUNT, cost=AMOUNT,
        cost_source="expired", price_book="0", latency=0.0,
    )  # fmt: skip
    return request, attempt


def work(worker: int, options: argparse.Namespace, url: str, start: Any, out: Any) -> None:
    """Make one process's calls, and send back the seconds that each took."""
    chance = random.Random(options.seed * 100_003 + worker)
    ledger = open_ledger(
        url, budgets(options.processes * options.calls), durability=options.durability,
        busy_seconds=options.busy_seconds,
    )  # fmt: skip
    reserves, settles, bills, counts = [], [], [], {"settled": 0, "denied": 0, "unavailable": 0}
    start.wait()
    for call in range(options.calls):
        scopes = {"user": f"u{chance.randrange(USERS)}", "team": f"t{chance.randrange(TEAMS)}"}
        request, attempt = rows(f"r{worker}-{call}", scopes)
        reservation, began = f"{request.request_id}/1", time.perf_counter()
        try:
            ledger.reserve(Reservation(
                reservation, AMOUNT, scopes=scopes, now=NOW, expires_at=NOW + 600,
                worst_case=attempt, request=request, is_new=True,
            ))  # fmt: skip
            held = time.perf_counter()
            reserves.append(held - began)
            answered = AttemptRow(
                **{name: getattr(attempt, name) for name in ("request_id", "number", "time", "step",
                "arm", "tier", "model", "propensity", "reserved", "price_book")},
                status="answered", cost=chance.randint(0, AMOUNT), cost_source="computed",
                latency=0.5, usage={"prompt_tokens": 300, "completion_tokens": 200},
                input_tokens=300, output_tokens=200,
            )  # fmt: skip
            assert answered.cost is not None
            bills.append((request.request_id, answered.cost))
            began = time.perf_counter()
            ledger.settle(reservation, answered, RequestEnd("answered", 1, AMOUNT), NOW)
            settles.append(time.perf_counter() - began)
            counts["settled"] += 1
        except BudgetExceeded:
            reserves.append(time.perf_counter() - began)
            counts["denied"] += 1
        except LedgerUnavailable:
            counts["unavailable"] += 1
    ledger.close()
    out.put((reserves, settles, counts, bills))


def sample(url: str, stop: Any, out: Any) -> None:
    """Read the counters until told to stop; report the worst overshoot of a committed state."""
    ledger = open_ledger(url, create=False)
    worst, samples = -(2**63), 0
    while not stop.is_set():
        for state in ledger.states(NOW):
            assert state.budget.limit is not None
            worst = max(worst, state.settled + state.held - state.budget.limit)
        samples += 1
        time.sleep(0.002)
    ledger.close()
    out.put((worst, samples))


def hammer(options: argparse.Namespace, url: str) -> dict[str, Any]:
    """Run all processes on one empty store, and verify what they leave."""
    open_ledger(
        url, budgets(options.processes * options.calls), durability=options.durability
    ).close()
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    start, stop = context.Barrier(options.processes + 1), context.Event()
    out, seen = context.Queue(), context.Queue()
    workers = [
        context.Process(target=work, args=(worker, options, url, start, out))
        for worker in range(options.processes)
    ]
    sampler = context.Process(target=sample, args=(url, stop, seen))
    for process in [*workers, sampler]:
        process.start()
    start.wait()
    began = time.perf_counter()
    parts = [out.get() for _ in workers]
    elapsed = time.perf_counter() - began
    stop.set()
    overshoot, samples = seen.get()
    for process in [*workers, sampler]:
        process.join()
    ledger = open_ledger(url, create=False)
    problems, states = ledger.verify(), ledger.states(NOW)
    counts = {name: sum(part[2][name] for part in parts) for name in parts[0][2]}
    limits = [state.settled + state.held - (state.budget.limit or 0) for state in states]
    charged = {row.request_id: row.cost for row in ledger.log().attempts()}
    bills = dict(bill for part in parts for bill in part[3])
    return {
        "calls": options.processes * options.calls,
        "calls_per_second": round(options.processes * options.calls / elapsed),
        "seconds": round(elapsed, 2),
        **counts,
        "reserve_ms": quantiles([value for part in parts for value in part[0]]),
        "settle_ms": quantiles([value for part in parts for value in part[1]]),
        "overshoot_nano": max(0, overshoot, *limits),
        "closest_to_limit_nano": max(overshoot, *limits),
        "samples": samples,
        "held_at_end": sum(state.held for state in states),
        "billed_nano": sum(bills.values()),
        "charged_as_billed": bills == charged,
        "verify": problems,
    }


def quantiles(values: list[float]) -> dict[str, float]:
    """Median, 99th percentile and maximum, in milliseconds."""
    ordered = sorted(values) or [0.0]
    places = {"p50": len(ordered) // 2, "p99": len(ordered) * 99 // 100, "max": -1}
    return {name: round(ordered[place] * 1e3, 3) for name, place in places.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store", nargs="?", default="sqlite", help=f"{', '.join(STORES)}, or a URL")
    parser.add_argument("--processes", type=int, default=64)
    parser.add_argument("--calls", type=int, default=500, help="calls of each process")
    parser.add_argument("--durability", choices=("full", "normal"), default="normal")
    parser.add_argument("--busy-seconds", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", help="where the store lives; a temporary folder by default")
    parser.add_argument("--json", action="store_true", help=f"append to {RESULTS.name} too")
    options = parser.parse_args()
    if "://" in options.store:
        result = hammer(options, options.store)
    else:
        with (
            tempfile.TemporaryDirectory(dir=options.folder) as folder,
            STORES[options.store](Path(folder), options.durability) as store,
        ):
            result = hammer(options, store.url)
    record = {
        "commit": commit(),
        "machine": machine(),
        "store": options.store.partition("://")[0],
        "sqlite": sqlite3.sqlite_version,
        "processes": options.processes,
        "durability": options.durability,
        "seed": options.seed,
        **result,
    }
    print(json.dumps(record, indent=2))
    if options.json:
        known = json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else []
        same = ("store", "processes", "durability", "calls")
        known = [old for old in known if any(old.get(name) != record[name] for name in same)]
        RESULTS.write_text(json.dumps([*known, record], indent=2) + "\n", "utf-8")
    wrong = result["overshoot_nano"] or result["verify"] or not result["charged_as_billed"]
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
