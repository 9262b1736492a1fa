"""Leasing ledgers over a fresh store of each kind."""

from __future__ import annotations

from pathlib import Path

import pytest

from router.ledger import open_ledger
from router.types import Budget
from tests.outage_kit import leased
from tests.stores import PATIENCE

ALL = ("all", "")
DAY = 86400.0
BUDGETS = [
    Budget("all", 10_000_000),
    Budget("team", 6_000_000, "month", "Europe/Berlin", "team"),
    Budget("user", 4_000_000, "day", "America/New_York", "user"),
]
ANN = {"user": "ann", "team": "t"}


@pytest.fixture
def place(store) -> str:
    """The URL of a fresh store of each kind."""
    return store.url


@pytest.fixture
def cut(tmp_path) -> Path:
    return tmp_path / "cut"


def direct(place: str, budgets=BUDGETS):
    return open_ledger(place, budgets, durability="normal", busy_seconds=PATIENCE)


def leasing(place: str, budgets=BUDGETS):
    return open_ledger(place, budgets, durability="normal", busy_seconds=PATIENCE, lease=True)


def by_hand(place, cut, budgets=BUDGETS, **options):
    return leased(place, cut, budgets, flush_seconds=3600.0, **options)
