"""What a reservation and its settlement cost one process, on every store and with leases.

Each call reserves in three nested budgets and settles with rows of ordinary size. The kinds take
turns, `--calls` calls a turn, so that other load on the machine falls on all of them alike. Beside
them stands the least that each could take here: two transactions that write one row (SQLite), two
round trips (servers), an empty loop of 1,000 turns (the processor).

    python benchmarks/ledger_cost.py --calls 200 --turns 10 --json
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import sqlite3
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import psycopg
from ledger_hammer import AMOUNT, rows
from ledger_stores import STORES
from stamp import commit, machine

from router.ledger import Ledger, open_ledger
from router.types import AttemptRow, Budget, RequestEnd, Reservation

Durability = Literal["full", "normal"]
RESULTS = Path(__file__).parent / "results" / "ledger_cost.json"
SCOPES = {"user": "ann", "team": "blue"}
BUDGETS = [
    Budget("all", 2**52),
    Budget("team", 2**51, "month", "Europe/Berlin", "team"),
    Budget("user", 2**50, "day", "America/New_York", "user"),
]
# name → store, durability, whether with leases
KINDS: dict[str, tuple[str, Durability, bool]] = {
    "sqlite normal": ("sqlite", "normal", False),
    "sqlite full": ("sqlite", "full", False),
    "lease over sqlite normal": ("sqlite", "normal", True),
    "redis normal": ("redis", "normal", False),
    "redis normal, ids that others name": ("redis", "normal", False),
    "valkey normal": ("valkey", "normal", False),
    "postgres normal": ("postgres", "normal", False),
    "postgres full": ("postgres", "full", False),
}


def answered(attempt: AttemptRow) -> AttemptRow:
    """The attempt's row once its answer is there."""
    return AttemptRow(
        **{name: getattr(attempt, name) for name in ("request_id", "number", "time", "step", "arm",
        "tier", "model", "propensity", "reserved", "price_book")},
        status="answered", cost=AMOUNT // 2, cost_source="computed", latency=0.5,
        usage={"prompt_tokens": 300, "completion_tokens": 200}, input_tokens=300, output_tokens=200,
    )  # fmt: skip


def turn(ledger: Ledger, kind: str, name: str, calls: int) -> list[tuple[float, float]]:
    """Make some calls; return the seconds of each reservation and of each settlement."""
    is_new = not kind.endswith("ids that others name")
    made = [rows(f"{name}-{call}", SCOPES) for call in range(calls)]
    ends = [answered(attempt) for _, attempt in made]
    end, now, seconds = RequestEnd("answered", 1, AMOUNT), time.time(), []
    for (request, attempt), last in zip(made, ends, strict=True):
        reservation = f"{request.request_id}/1"
        began = time.perf_counter()
        ledger.reserve(Reservation(
            reservation, AMOUNT, scopes=SCOPES, now=now, expires_at=now + 600, worst_case=attempt,
            request=request, is_new=is_new,
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


def floors(folder: Path, urls: dict[str, str], turns: int) -> dict[str, dict[str, float]]:
    """The least that two steps can take here, in milliseconds, by what they are made of."""
    rows = sqlite3.connect(folder / "bare.db", isolation_level=None)
    rows.execute("PRAGMA journal_mode = WAL")
    rows.execute("PRAGMA synchronous = NORMAL")
    rows.execute("CREATE TABLE bare (id INTEGER PRIMARY KEY, text TEXT)")
    redis = urlsplit(urls["redis normal"])
    link = socket.create_connection((redis.hostname or "", redis.port or 0))
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    postgres = psycopg.connect(urls["postgres normal"], autocommit=True)

    def two_commits() -> None:
        for _ in range(2):
            rows.execute("BEGIN IMMEDIATE")
            rows.execute("INSERT INTO bare (text) VALUES ('x')")
            rows.execute("COMMIT")

    def two_pings() -> None:
        for _ in range(2):
            link.sendall(b"*1\r\n$4\r\nPING\r\n")
            link.recv(100)

    def two_selects() -> None:
        for _ in range(2):
            postgres.execute("SELECT 1", prepare=True)

    def a_loop() -> None:
        for _ in range(1000):
            pass

    found: dict[str, dict[str, float]] = {}
    for work in (two_commits, two_pings, two_selects, a_loop):
        seconds = []
        for _ in range(100 * turns):
            began = time.perf_counter()
            work()
            seconds.append(time.perf_counter() - began)
        found[work.__name__.replace("_", " ")] = quantiles(seconds)
    rows.close()
    link.close()
    postgres.close()
    return found


def measure(folder: Path, calls: int, turns: int) -> dict[str, Any]:
    """Let the kinds take turns; return their quantiles, and what the store says of its sums."""
    with ExitStack() as running:
        ledgers, urls = {}, {}
        for number, (kind, (store, durability, lease)) in enumerate(KINDS.items()):
            (place := folder / str(number)).mkdir()
            urls[kind] = running.enter_context(STORES[store](place, durability)).url
            ledgers[kind] = open_ledger(
                urls[kind], BUDGETS, durability=durability, busy_seconds=10, lease=lease
            )
            turn(ledgers[kind], kind, "warm", 50)
        seconds: dict[str, list[tuple[float, float]]] = {kind: [] for kind in KINDS}
        for number in range(turns):
            for kind, ledger in ledgers.items():
                seconds[kind] += turn(ledger, kind, f"t{number}", calls)
                time.sleep(0.5)  # what it does behind its calls is not to fall on the next
        least = floors(folder, urls, turns)
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
    return {"kinds": result, "least_ms": least}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=200, help="calls of each kind in a turn")
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--folder", help="where the stores live; a temporary folder by default")
    parser.add_argument("--json", action="store_true", help=f"write {RESULTS.name} too")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        found = measure(Path(folder), options.calls, options.turns)
    record = {
        "commit": commit(),
        "machine": machine(),
        "load": round(load, 1),
        "sqlite": sqlite3.sqlite_version,
        "processes": 1,
        "calls": options.calls * options.turns,
        **found,
    }
    print(json.dumps(record, indent=2))
    if options.json:
        RESULTS.write_text(json.dumps(record, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
