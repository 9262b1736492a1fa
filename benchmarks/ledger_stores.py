"""The stores that the ledger's benchmarks run on, each fresh, with a server of its own."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

sys.path.append(str(Path(__file__).parents[1]))

from tests import servers


class RunningStore(Protocol):
    """A store's URL, and its server to kill (SIGKILL) and to start again on the same data."""

    url: str

    def kill(self) -> None: ...
    def start(self) -> None: ...


class _File:
    def __init__(self, url: str):
        self.url = url

    def kill(self) -> None:
        raise SystemExit("SQLite has no server to kill")

    start = kill


@contextmanager
def _sqlite(folder: Path, durability: str) -> Iterator[RunningStore]:
    yield _File(f"sqlite:///{folder / 'ledger.db'}")


class _Postgres:
    def __init__(self, server: servers.PostgresServer, url: str):
        self.url, self.kill, self.start = url, server.kill, server.start


@contextmanager
def _postgres(folder: Path, durability: str) -> Iterator[RunningStore]:
    os.environ["XDG_STATE_HOME"] = str(folder / "state")  # for journals
    server = servers.PostgresServer(durable=True)
    try:
        with server.database() as url:
            yield _Postgres(server, url)
    finally:
        server.stop()


class _Redis:
    def __init__(self, server: servers.RedisServer, url: str):
        self.url, self.kill, self.start = url, server.kill, server.start


@contextmanager
def _redis(folder: Path, durability: str, kind: str = "redis") -> Iterator[RunningStore]:
    os.environ["XDG_STATE_HOME"] = str(folder / "state")
    server = servers.RedisServer(kind, durable=durability == "full")
    try:
        with server.ledger(folder) as url:
            yield _Redis(server, url)
    finally:
        server.stop()


@contextmanager
def _valkey(folder: Path, durability: str) -> Iterator[RunningStore]:
    with _redis(folder, durability, "valkey") as running:
        yield running


# By name: called with a folder and "full" or "normal".
STORES: dict[str, Callable[[Path, str], AbstractContextManager[RunningStore]]] = {
    "sqlite": _sqlite,
    "postgres": _postgres,
    "redis": _redis,
    "valkey": _valkey,
}
