"""What a reservation and its settlement cost: SQLite NORMAL and FULL, and leases over SQLite.

Each call reserves in three nested budgets and settles with rows of ordinary size. The kinds take
turns, `--calls` calls a turn, so that other load on the machine falls on all of them alike.

    python benchmarks/ledger_cost.py --calls 200 --turns 10 --json
"""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import tempfile
import time
from pathlib import Path
from typing import Any

from ledger_hammer import AMOUNT, rows
from stamp import commit, machine

from router.ledger import Ledger, open_ledger
from router.types import AttemptRow, Budget, RequestEnd, Reservation

RESULTS = Path(__file__).parent / "results" / "ledger_cost.json"
SCOPES = {"user": "ann", "team": "blue"}
BUDGETS = [
    Budget("all", 2**52),
    Budget("team", 2**51, "month", "Europe/Berlin", "team"),
    Budget("user", 2**50, "day", "America/New_York", "user"),
]
KINDS: dict[str, dict[str, Any]] = {
    "sqlite normal": {"durability": "normal"},
    "sqlite full": {"durability": "full"},
    "lease over sqlite normal": {"durability": "normal", "lease": True},
}


def answered(attempt: AttemptRow) -> AttemptRow:
    """The attempt's row once its answer is there."""
    return AttemptRow(
        **{name: getattr(attempt, name) for name in ("request_id", "number", "time", "step", "arm",
        "tier", "model", "propensity", "reserved", "price_book")},
        status="answered", cost=AMOUNT // 2, cost_source="computed", latency=0.5,
        usage={"prompt_tokens": 300, "completion_tokens": 200}, input_tokens=300, output_tokens=200,
    )  # fmt: skip


def turn(ledger: Ledger, name: str, calls: int) -> list[tuple[float, float]]:
    """Make some calls; return the seconds of each reservation and of each settlement."""
    made = [rows(f"{name}-{call}", SCOPES) for call in range(calls)]
    ends = [answered(attempt) for _, attempt in made]
    end, now, seconds = RequestEnd("answered", 1, AMOUNT), time.time(), []
    for (request, attempt), last in zip(made, ends, strict=True):
        reservation = f"{request.request_id}/1"
        began = time.perf_counter()
        ledger.reserve(Reservation(
            reservation, AMOUNT, scopes=SCOPES, now=now, expires_at=now + 600, worst_case=attempt,
            request=request,
        ))  # fmt: skip
        held = time.perf_counter()
        ledger.settle(reservation, last, end, now)
        seconds.append((held - began, time.perf_counter() - held))
    return seconds


def quantiles(values: list[float]) -> dict[str, float]:
    """Median, 99th percentile and maximum, in milliseconds."""
    ordered = sorted(values)
    places = {"p50": len(ordered) // 2, "p99": len(ordered) * 99 // 100, "max": -1}
    return {name: round(ordered[place] * 1e3, 4) for name, place in places.items()}


def measure(folder: str, calls: int, turns: int) -> dict[str, Any]:
    """Let the kinds take turns; return their quantiles, and what the store says of its sums."""
    ledgers = {
        kind: open_ledger(f"sqlite:///{folder}/{number}.db", BUDGETS, **options)
        for number, (kind, options) in enumerate(KINDS.items())
    }
    for ledger in ledgers.values():
        turn(ledger, "warm", 50)
    seconds: dict[str, list[tuple[float, float]]] = {kind: [] for kind in KINDS}
    for number in range(turns):
        for kind, ledger in ledgers.items():
            seconds[kind] += turn(ledger, f"t{number}", calls)
    result = {}
    for kind, ledger in ledgers.items():
        problems = ledger.verify()
        ledger.close()
        result[kind] = {
            "reserve_ms": quantiles([reserve for reserve, _ in seconds[kind]]),
            "settle_ms": quantiles([settle for _, settle in seconds[kind]]),
            "both_ms": quantiles([sum(both) for both in seconds[kind]]),
            "verify": problems,
        }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=200, help="calls of each kind in a turn")
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--folder", help="where the stores live; a temporary folder by default")
    parser.add_argument("--json", action="store_true", help=f"write {RESULTS.name} too")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        kinds = measure(folder, options.calls, options.turns)
    record = {
        "commit": commit(),
        "machine": machine(),
        "load": round(load, 1),
        "sqlite": sqlite3.sqlite_version,
        "processes": 1,
        "calls": options.calls * options.turns,
        "kinds": kinds,
    }
    print(json.dumps(record, indent=2))
    if options.json:
        RESULTS.write_text(json.dumps(record, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
