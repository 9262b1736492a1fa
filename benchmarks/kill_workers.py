"""Kill workers, or the store's server, with SIGKILL at random moments, and count what was lost.

    python benchmarks/kill_workers.py sqlite --kills 1000 [--durability full]
    python benchmarks/kill_workers.py postgres --kills 200 --server-kills 20

Workers reserve, get billed by a provider in another process over a socket, and settle; all the
while one after the other is killed and replaced. Afterwards what was left open is expired, and the
provider's bill is compared with the ledger, attempt by attempt:

    lost          billed, and the ledger knows nothing of it
    undercharged  billed more than the ledger charged
    inexact       settled, and not at the billed amount
    held          still held after the sweep

Each must be 0, `verify` must find nothing, and money rows must equal log rows. A killed process is
no power cut: what the kernel was given stays.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from ledger_hammer import rows
from ledger_stores import STORES
from stamp import ROOT, commit, machine

from router.errors import LedgerUnavailable
from router.ledger import Ledger, open_ledger
from router.types import Budget, RequestEnd, Reservation
from tests.servers import until_ended

AMOUNT = 1_000_000  # nano-USD reserved by each call
TTL = 600.0
PATIENCE = 60.0  # seconds for which a worker asks a store again that does not answer
processes = multiprocessing.get_context("fork")
BUDGETS = [
    Budget("all", 10**15),
    Budget("team", 10**15, "month", "Europe/Berlin", "team"),
    Budget("user", 10**15, "day", "America/New_York", "user"),
]


class Provider:
    """Bills over a real socket: a line `id cost` is on the bill once it was read."""

    def __init__(self, folder: Path):
        self.path = str(folder / "provider")
        self.bill: dict[str, int] = {}
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(self.path)
        self._socket.listen(128)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            connection, _ = self._socket.accept()
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError), connection, connection.makefile("rwb") as lines:
            for line in lines:
                if not line.endswith(b"\n"):
                    return  # the worker died half-way: nothing was asked
                name, cost = line.split()
                self.bill[name.decode()] = int(cost)
                lines.write(b"ok\n")
                lines.flush()


def until_answered(step: Callable[[], Any]) -> Any:
    """Repeat a step while its store does not answer: each is safe to ask again."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return step()
        except LedgerUnavailable:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def work(name: str, seed: str, url: str, provider: str, durability: str) -> None:
    """Make calls until killed."""
    chance = random.Random(seed)
    bill = socket.socket(socket.AF_UNIX)
    bill.connect(provider)
    lines = bill.makefile("rwb")
    ledger: Ledger = until_answered(lambda: open_ledger(url, BUDGETS, durability=durability))
    for call in range(10**9):
        scopes = {"user": f"u{chance.randrange(8)}", "team": f"t{chance.randrange(2)}"}
        request, attempt = rows(f"{name}-{call}", scopes)
        reservation, cost = f"{request.request_id}/1", chance.randint(0, AMOUNT)
        now = time.time()
        until_answered(
            lambda: ledger.reserve(Reservation(
                reservation, AMOUNT, scopes=scopes, now=now, expires_at=now + TTL,  # noqa: B023
                worst_case=attempt, request=request, is_new=True,  # noqa: B023
            ))
        )  # fmt: skip
        lines.write(f"{reservation} {cost}\n".encode())
        lines.flush()
        if lines.readline() != b"ok\n":
            os._exit(0)  # the campaign is over
        row = replace(
            attempt, status="answered", cost=cost, cost_source="computed", latency=0.5,
            usage={"prompt_tokens": 300}, input_tokens=300, output_tokens=200,
        )  # fmt: skip
        end = RequestEnd("answered", 1, AMOUNT)
        until_answered(lambda: ledger.settle(reservation, row, end, now))  # noqa: B023


def campaign(options: argparse.Namespace) -> dict[str, Any]:
    """Run the kills and return the counts."""
    chance = random.Random(options.seed)
    began = time.perf_counter()
    with (
        tempfile.TemporaryDirectory() as folder,
        STORES[options.store](Path(folder), options.durability) as store,
    ):
        open_ledger(store.url, BUDGETS, durability=options.durability).close()
        provider = Provider(Path(folder))

        def start(number: int) -> Any:
            worker = processes.Process(
                target=work,
                args=(
                    f"w{number}",
                    f"{options.seed}/{number}",
                    store.url,
                    provider.path,
                    options.durability,
                ),
                daemon=True,
            )
            worker.start()
            return worker

        workers = [start(number) for number in range(options.workers)]
        kills = ["worker"] * options.kills + ["server"] * options.server_kills
        chance.shuffle(kills)
        for number, kind in enumerate(kills, start=options.workers):
            time.sleep(chance.uniform(0.0, options.pause if kind == "worker" else 0.5))
            if kind == "server":
                store.kill()
                time.sleep(chance.uniform(0.0, 0.3))
                store.start()
                continue
            at = chance.randrange(len(workers))
            assert workers[at].is_alive(), "a worker ended by itself"
            os.kill(workers[at].pid, signal.SIGKILL)
            workers[at].join()
            workers[at] = start(number)
        for worker in workers:
            os.kill(worker.pid, signal.SIGKILL)
            worker.join()
        until_ended(store.url, set())  # a server may yet carry out what the dead had sent
        result = judge(store.url, dict(provider.bill))
    return {
        "store": options.store, "durability": options.durability, "workers": options.workers,
        "kills": options.kills + options.workers, "server_kills": options.server_kills, **result,
        "seconds": round(time.perf_counter() - began, 1), "seed": options.seed,
        "commit": commit(), "machine": machine(),
    }  # fmt: skip


def judge(url: str, bill: dict[str, int]) -> dict[str, Any]:
    """Expire what is open, and compare the provider's bill with the ledger."""
    ledger = open_ledger(url, create=False)
    expired = ledger.expire(time.time() + TTL + 1)
    states = ledger.states(time.time())
    charged = {
        f"{row.request_id}/{row.number}": (row.cost, row.cost_source)
        for row in ledger.log().attempts()
    }
    problems = ledger.verify()
    ledger.close()
    known = {name: charged.get(name, (None, "lost")) for name in bill}
    settled = sum(s.settled for s in states if s.budget.name == "all")
    return {
        "billed": len(bill),
        "expired_at_worst_case": expired,
        "lost": sum(cost is None for cost, _ in known.values()),
        "undercharged": sum((known[name][0] or 0) < cost for name, cost in bill.items()),
        "inexact": sum(
            known[name] != (cost, "computed") and known[name][1] != "expired"
            for name, cost in bill.items()
        ),
        "held": sum(state.held for state in states),
        "settled_less_logged": settled - sum(cost or 0 for cost, _ in charged.values()),
        "verify": problems,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store", choices=sorted(STORES))
    parser.add_argument("--kills", type=int, default=1000, help="of workers")
    parser.add_argument("--server-kills", type=int, default=0)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--pause", type=float, default=0.1, help="most seconds between two kills")
    parser.add_argument("--durability", choices=("full", "normal"), default="full")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--out", type=Path, default=ROOT / "benchmarks/results/kill_workers.json",
        help="results are added to this file",
    )  # fmt: skip
    options = parser.parse_args()
    result = campaign(options)
    print(json.dumps(result, indent=1))
    results = json.loads(options.out.read_text()) if options.out.exists() else []
    options.out.write_text(json.dumps([*results, result], indent=1) + "\n")
    wanted = ("lost", "undercharged", "inexact", "held", "settled_less_logged")
    return int(any(result[name] for name in wanted) or bool(result["verify"]))


if __name__ == "__main__":
    sys.exit(main())
