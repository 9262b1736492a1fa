"""Ledgers on Redis and Valkey: on servers that tests share, and on one that a test may break."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from router.ledger import Ledger, open_ledger
from router.types import Budget
from tests import servers
from tests.ledger_kit import reserve, settle
from tests.proxy import Proxy
from tests.servers import RedisServer, redis

_names = itertools.count()
ALL = ("all", "")
KINDS = ("redis", "valkey")
ON_BOTH = pytest.mark.parametrize("kind", KINDS)
BUDGET = Budget("all", 1_000_000)


def place_of(server: RedisServer, folder: Path, name: str | None = None, **more: object) -> str:
    """The URL of a ledger on a server, with its log in `folder`."""
    return server.url(folder, name or f"f{next(_names)}", **more)


def opened(place: str, *budgets: Budget, **options) -> Ledger:
    return open_ledger(place, budgets or (BUDGET,), durability="normal", **options)


@pytest.fixture
def kind() -> str:
    return "redis"


@pytest.fixture
def place(kind, tmp_path):
    """A ledger's URL on the server of that kind that all tests share."""
    with servers.redis(kind).ledger(tmp_path) as url:
        yield url


@pytest.fixture(params=["valkey", "redis"])
def own(request):
    """A server of this test's own, to be broken. It waits for the disk: one that does not may lose
    its last moments when it is killed while the disk is busy, and that is another test's matter."""
    started = RedisServer(request.param, durable=True)
    yield started
    started.stop()


@pytest.fixture
def proxy():
    made = Proxy(redis("valkey").port)
    yield made
    made.close()


def spent(ledger: Ledger, calls: int, cost: int = 60, name: str = "r") -> None:
    for call in range(calls):
        reserve(ledger, f"{name}{call}", 100)
        settle(ledger, f"{name}{call}", cost)


def forget_everything(own: RedisServer, ledger: str) -> None:
    own.ask("FLUSHALL")
