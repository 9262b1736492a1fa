"""Every store that a ledger can have, for the tests that hold for all of them.

A test takes the fixture `store`, and runs once for each name in `STORES`, on a store of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from router.ledger import Ledger, open_ledger
from router.types import Budget
from tests import servers

PATIENCE = 60.0  # seconds for which a call may wait: the machine may be busy


@dataclass(frozen=True)
class FreshStore:
    """A store that nothing was written to yet. `server` is False for one without a server."""

    name: str
    url: str
    server: bool

    def open(self, budgets: Sequence[Budget] = (), **options: Any) -> Ledger:
        """A ledger over it; several share it."""
        return open_ledger(
            self.url, budgets, **{"durability": "normal", "busy_seconds": PATIENCE, **options}
        )


@contextmanager
def _sqlite(folder: Path) -> Iterator[FreshStore]:
    yield FreshStore("sqlite", f"sqlite:///{folder / 'ledger.db'}", server=False)


@contextmanager
def _postgres(folder: Path) -> Iterator[FreshStore]:
    with servers.postgres().database() as url:
        yield FreshStore("postgres", url, server=True)


@contextmanager
def _redis(folder: Path) -> Iterator[FreshStore]:
    with servers.redis("redis").ledger(folder) as url:
        yield FreshStore("redis", url, server=True)


@contextmanager
def _valkey(folder: Path) -> Iterator[FreshStore]:
    with servers.redis("valkey").ledger(folder) as url:
        yield FreshStore("valkey", url, server=True)


STORES: dict[str, Callable[[Path], AbstractContextManager[FreshStore]]] = {
    "sqlite": _sqlite,
    "postgres": _postgres,
    "redis": _redis,
    "valkey": _valkey,
}


# For tests that take seconds. Valkey speaks what Redis speaks, so these run on one of the two.
heavy = pytest.mark.parametrize(
    "store", [name for name in STORES if name != "valkey"], indirect=True
)


@pytest.fixture(params=list(STORES))
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FreshStore]:
    """Every kind of store in turn, each fresh; a test fails where its server cannot be had."""
    with STORES[request.param](tmp_path) as fresh:
        yield fresh
