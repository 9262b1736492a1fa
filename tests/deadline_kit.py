"""A router with a queue for batches, and the provider that takes them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from router import Router
from tests.batch_provider import BatchProvider
from tests.conftest import MakeRouter
from tests.pipeline_kit import BUDGET, PIN_NANO
from tests.test_deadline_calls import TIMEOUT, tiers

DAY = 86_400.0


@pytest.fixture
def provider() -> Iterator[BatchProvider]:
    server = BatchProvider()
    yield server
    server.close()


@pytest.fixture
def make(make_router: MakeRouter, provider: BatchProvider) -> Any:
    """A router with a queue for batches of nano at half the price; `changes` as `make_router`'s."""

    def made(**changes: Any) -> Router:
        given = {
            "budgets": BUDGET,
            "rules": [PIN_NANO],
            "deferred": {"batch": True, "gather": 0},
            "timeout": TIMEOUT,
            "tiers": tiers(provider.url, multipliers={"batch": "0.5"}),
            **changes,
        }
        return make_router(**given)

    return made
