"""The stores that the ledger's benchmarks run on, each fresh, with a server of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol


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


STORES: dict[str, Callable[[Path], AbstractContextManager[RunningStore]]] = {"sqlite": _sqlite}
