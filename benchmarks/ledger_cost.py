"""What a reservation and its settlement cost one process, on every store and with leases.

Each call reserves in three nested budgets and settles with rows of ordinary size. The kinds take
turns, `--calls` calls a turn, so that other load on the machine falls on all of them alike. Beside
them stands the least that each could take here: two transactions that write one row, and two that
write what a call leaves behind into plain tables, without a check, an index or a trigger (SQLite),
two round trips (servers), an empty loop of 1,000 turns (the processor).

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
from uuid import uuid4

import psycopg
from ledger_hammer import AMOUNT, rows
from ledger_stores import STORES
from stamp import commit, machine

from router.ledger import Ledger, open_ledger
from router.log.writer import attempt_values, request_values, to_json
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


_PLAIN = """
CREATE TABLE account (id INTEGER PRIMARY KEY, held INTEGER, settled INTEGER);
INSERT INTO account VALUES (1, 0, 0), (2, 0, 0), (3, 0, 0);
CREATE TABLE reservation (id TEXT PRIMARY KEY, state TEXT, amount INTEGER, worst_case TEXT);
CREATE TABLE entry (id INTEGER PRIMARY KEY, reservation TEXT, kind TEXT, amount INTEGER);
CREATE TABLE request (id TEXT PRIMARY KEY, row TEXT, status TEXT);
CREATE TABLE attempt (id INTEGER PRIMARY KEY, row TEXT);
"""


class PlainRows:
    """What a call leaves behind, as no ledger would write it: nothing is looked at or refused."""

    def __init__(self, connection: sqlite3.Connection):
        connection.executescript(_PLAIN)
        self._do, self._do_each = connection.execute, connection.executemany
        request, attempt = rows("plain", SCOPES)
        self._request = to_json(request_values(request))
        self._worst_case = to_json(attempt_values(attempt))
        self._answer = to_json(attempt_values(answered(attempt)))

    def two_commits(self) -> None:
        do, name = self._do, uuid4().hex
        do("BEGIN IMMEDIATE")
        do("INSERT INTO reservation VALUES (?, 'open', ?, ?)", (name, AMOUNT, self._worst_case))
        do("INSERT INTO entry VALUES (NULL, ?, 'HOLD', ?)", (name, AMOUNT))
        self._do_each(
            "UPDATE account SET held = held + ? WHERE id = ?", [(AMOUNT, n) for n in (1, 2, 3)]
        )
        do("INSERT INTO request VALUES (?, ?, 'open')", (name, self._request))
        do("COMMIT")
        do("BEGIN IMMEDIATE")
        do("UPDATE reservation SET state = 'settled', worst_case = NULL WHERE id = ?", (name,))
        do("INSERT INTO entry VALUES (NULL, ?, 'POST', ?)", (name, AMOUNT // 2))
        self._do_each(
            "UPDATE account SET held = held - ?, settled = settled + ? WHERE id = ?",
            [(AMOUNT, AMOUNT // 2, n) for n in (1, 2, 3)],
        )
        do("INSERT INTO attempt VALUES (NULL, ?)", (self._answer,))
        do("UPDATE request SET status = 'answered' WHERE id = ?", (name,))
        do("COMMIT")


def floors(folder: Path, urls: dict[str, str], turns: int) -> dict[str, dict[str, float]]:
    """The least that two steps can take here, in milliseconds, by what they are made of."""
    bare, plain = (sqlite3.connect(folder / f"{name}.db", isolation_level=None) for name in "ab")
    for connection in (bare, plain):
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA wal_autocheckpoint = 0")
    bare.execute("CREATE TABLE bare (id INTEGER PRIMARY KEY, text TEXT)")
    plain_rows = PlainRows(plain)
    redis = urlsplit(urls["redis normal"])
    link = socket.create_connection((redis.hostname or "", redis.port or 0))
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    postgres = psycopg.connect(urls["postgres normal"], autocommit=True)

    def two_commits() -> None:
        for _ in range(2):
            bare.execute("BEGIN IMMEDIATE")
            bare.execute("INSERT INTO bare (text) VALUES ('x')")
            bare.execute("COMMIT")

    def two_commits_of_plain_rows() -> None:
        plain_rows.two_commits()

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
    for work in (two_commits, two_commits_of_plain_rows, two_pings, two_selects, a_loop):
        seconds = []
        for _ in range(100 * turns):
            began = time.perf_counter()
            work()
            seconds.append(time.perf_counter() - began)
        found[work.__name__.replace("_", " ")] = quantiles(seconds)
    bare.close()
    plain.close()
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
