"""The stores that the ledger's benchmarks run on, each fresh, with a server of its own."""

from __future__ import annotations

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
def _sqlite(folder: Path) -> Iterator[RunningStore]:
    yield _File(f"sqlite:///{folder / 'ledger.db'}")


class _Postgres:
    def __init__(self, server: servers.PostgresServer, url: str):
        self.url, self.kill, self.start = url, server.kill, server.start


@contextmanager
def _postgres(folder: Path) -> Iterator[RunningStore]:
    server = servers.PostgresServer(durable=True)
    try:
        with server.database() as url:
            yield _Postgres(server, url)
    finally:
        server.stop()


STORES: dict[str, Callable[[Path], AbstractContextManager[RunningStore]]] = {
    "sqlite": _sqlite,
    "postgres": _postgres,
}
