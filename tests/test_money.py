"""Money: exact integers of nano-USD, from text through decimals, and no other way in."""

from __future__ import annotations

import time
from decimal import Decimal, localcontext
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.dispatch.usage import reported_cost
from router.money import MAX_NANO, InvalidAmount, format_usd, parse_usd, usd_text
from router.policy import load_policy


@given(st.integers(0, MAX_NANO // 10**9 * 10**9))
def test_every_amount_survives_being_written_and_read(nano: int) -> None:
    assert parse_usd(usd_text(nano)) == nano


@pytest.mark.parametrize("cents", range(1, 1000, 7))
def test_cents_are_exact(cents: int) -> None:
    assert parse_usd(f"{cents // 100}.{cents % 100:02d}") == cents * 10_000_000


@pytest.mark.parametrize(
    "amount",
    [0.1, True, None, "NaN", "Infinity", "-1", "-0", "1e400", "", "ten", "0.0000000001", "9007200"],
)
def test_what_is_no_exact_amount_is_refused(amount: Any) -> None:
    with pytest.raises(InvalidAmount):
        parse_usd(amount)


def test_an_amount_is_exact_whatever_precision_the_program_has_set() -> None:
    with localcontext(prec=3):
        assert parse_usd("12.3456") == 12_345_600_000
        assert parse_usd(Decimal("1234.567891234")) == 1_234_567_891_234
        assert reported_cost({"cost": 0.0123456789}) == 12_345_679
        policy = load_policy({
            "version": 1, "objective": {"cost_weight": 0},
            "tiers": {"frontier": [{"model": "openai/gpt-5.4"}]},
            "budgets": [{"name": "all", "limit": Decimal("1234.5678")}],
        })  # fmt: skip
    assert policy.budget_list()[0].limit == 1_234_567_800_000


@pytest.mark.parametrize("amount", ["1e-99999999", "1e99999999", Decimal("1e-400000")])
def test_a_short_text_for_a_huge_number_is_refused_at_once(amount: Any) -> None:
    started = time.perf_counter()
    with pytest.raises(InvalidAmount):
        parse_usd(amount)
    assert time.perf_counter() - started < 0.5


@pytest.mark.parametrize(
    ("nano", "text"),
    [
        (None, "unknown"),
        (0, "$0.00"),
        (12_345_000_000, "$12.35"),
        (12_300_000, "$0.0123"),
        (4_100, "$0.0000041"),
        (-2_500_000_000, "-$2.50"),
    ],
)
def test_amounts_are_shown_with_the_digits_that_matter(nano: int | None, text: str) -> None:
    assert format_usd(nano) == text
