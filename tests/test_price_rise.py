"""A call that goes out after a dated price rise is reserved, and held to ceilings, at the price of
its own moment, whatever the price was when it was decided on."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from router import Router
from router.errors import BudgetExceeded, NoCapableDeployment
from router.policy import load_policy
from router.prices import PriceBook
from router.prices.book import BookEntry
from tests.conftest import HELLO, ladder, steady_predictor
from tests.pipeline_kit import assert_books_agree, requests, rows
from tests.provider import Provider, status

RISE = datetime(2026, 6, 1, tzinfo=UTC).timestamp()
BOOK = PriceBook(
    [
        BookEntry.model_validate(
            {
                "model": "openai/t-nano",
                "effective_from": day,
                "checked": day,
                "source": "a price list",
                "input": rate,
                "output": rate,
            }
        )
        for day, rate in (("2026-01-01", "1"), ("2026-06-01", "100"))
    ],
    "0" * 64,
)


def routed(provider: Provider, tmp_path: Path, sent: int, **changes: Any) -> Router:
    """A router of one tier whose price rises a hundredfold once so many calls were sent."""
    policy = ladder(provider.url, baseline="nano", **changes)
    [nano] = policy["tiers"]["nano"]
    del nano["price"]
    policy["tiers"] = {"nano": [nano]}
    return Router(
        load_policy(policy, book=BOOK),
        store=f"sqlite:///{tmp_path / 'router.db'}",
        predictor=steady_predictor(),
        prices=BOOK,
        clock=lambda: RISE + 5 if len(provider.wire) >= sent else RISE - 5,
    )


def all_of(limit: str) -> list[dict[str, str]]:
    return [{"name": "all", "limit": limit, "window": "total"}]


def test_a_retry_after_a_price_rise_is_reserved_at_the_new_price(
    provider: Provider, tmp_path: Path
) -> None:
    provider.script("t-nano", status(429, retry_after=0.01))
    with routed(provider, tmp_path, 1, budgets=all_of("5")) as router:
        router.completion(messages=HELLO)
        first, second = rows(router)
        assert second.reserved == 100 * first.reserved
        assert 0 < (second.cost or 0) <= second.reserved
        assert_books_agree(router, provider)


def test_no_budget_is_overrun_by_a_retry_after_a_price_rise(
    provider: Provider, tmp_path: Path
) -> None:
    provider.script("t-nano", status(429, retry_after=0.01))
    with routed(provider, tmp_path, 1, budgets=all_of("0.002")) as router:
        with pytest.raises(BudgetExceeded):
            router.completion(messages=HELLO)
        assert len(provider.wire) == 1
        [state] = router.budgets()
        assert (state.settled, state.held, state.overrun) == (0, 0, 0)
        assert requests(router)[-1].status == "refused"


def test_no_ceiling_of_a_request_is_passed_by_a_retry_after_a_price_rise(
    provider: Provider, tmp_path: Path
) -> None:
    objective = {"max_cost_per_request": "0.002"}
    provider.script("t-nano", status(429, retry_after=0.01))
    with routed(provider, tmp_path, 1, objective=objective) as router:
        with pytest.raises(NoCapableDeployment, match="max_cost_per_request"):
            router.completion(messages=HELLO)
        assert len(provider.wire) == 1


def test_at_the_same_price_nothing_is_quoted_again(provider: Provider, tmp_path: Path) -> None:
    provider.script("t-nano", status(429, retry_after=0.01))
    with routed(provider, tmp_path, 9, budgets=all_of("0.002")) as router:
        router.completion(messages=HELLO)
        first, second = rows(router)
        assert second.reserved == first.reserved
