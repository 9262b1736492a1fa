"""Bills and bounds: what `cost` charges and what `quote` reserves."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from router.errors import UnknownPrice
from router.prices import Price, PriceEntry, cost, load_book, quote, to_price
from router.types import Usage


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


NOON = at("2026-11-24T12:00")


# Nano-USD by hand: $1 per million tokens is 1,000 nano-USD a token.
BILLS: list[tuple[str, dict[str, int], str | None, str, int]] = [
    # plain input and output
    ("gpt-5.4-mini", {"input": 1000, "output": 500}, None, "", 1000 * 750 + 500 * 4500),
    ("gpt-5.4-nano", {"input": 1, "output": 1}, None, "", 200 + 1250),
    ("deepseek/deepseek-v3", {"input": 1_000_000, "output": 1_000_000}, None, "", 1_370_000_000),
    ("deepseek/deepseek-r1", {"input": 10, "output": 100}, None, "", 10 * 550 + 100 * 2190),
    ("mistral/mistral-small-2603", {"input": 3, "output": 5}, None, "", 3 * 150 + 5 * 600),
    # a fraction of a nano-USD is rounded up, once for the whole bill: 75 + 37.5
    ("groq/openai/gpt-oss-20b", {"input": 1, "cache_read": 1}, None, "", 113),
    ("groq/openai/gpt-oss-20b", {"cache_read": 2}, None, "", 75),
    # cached and reasoning tokens
    (
        "gpt-5.4",
        {"input": 4000, "cache_read": 6000, "output": 1000},
        None,
        "",
        10_000_000 + 1_500_000 + 15_000_000,
    ),
    ("gpt-5.4", {"input": 100, "output": 200, "reasoning": 800}, None, "", 250_000 + 15_000_000),
    ("o1", {"cache_read": 1000, "reasoning": 1000}, None, "", 7_500_000 + 60_000_000),
    (
        "claude-haiku-4-5",
        {"input": 100, "cache_write_5m": 2000, "cache_read": 3000, "output": 50},
        None,
        "",
        100_000 + 2_500_000 + 300_000 + 250_000,
    ),
    ("claude-haiku-4-5", {"cache_write_1h": 1000}, None, "", 2_000_000),
    # audio
    (
        "gemini/gemini-2.5-flash",
        {"audio_input": 1000, "input": 100, "output": 10, "reasoning": 90},
        None,
        "",
        1_000_000 + 30_000 + 250_000,
    ),
    # the whole prompt and its answer change price above a length, caches counted in
    ("gpt-5.4", {"input": 272_000}, None, "", 272_000 * 2500),
    ("gpt-5.4", {"input": 272_001}, None, "", 272_001 * 5000),
    (
        "gpt-5.4",
        {"input": 271_000, "cache_read": 1_001, "output": 2},
        None,
        "",
        271_000 * 5000 + 1_001 * 500 + 2 * 22_500,
    ),
    (
        "gpt-5.4-pro",
        {"input": 1_000_000, "output": 10},
        None,
        "",
        1_000_000 * 60_000 + 10 * 270_000,
    ),
    ("claude-haiku-5-5", {"input": 100_000, "output": 1000}, None, "", 10_000_000 + 500_000),
    ("claude-haiku-5-5", {"input": 100_001, "output": 1000}, None, "", 50_000_500 + 2_500_000),
    ("gemini-2.5-pro", {"input": 200_001, "output": 1}, None, "", 200_001 * 2500 + 15_000),
    # service tiers
    ("gpt-5.4", {"input": 1000, "output": 100}, "flex", "", 2_000_000),
    ("gpt-5.4-mini", {"input": 1000, "output": 100}, "priority", "", 2_400_000),
    ("gpt-5.4-mini", {"input": 1000, "output": 100}, "default", "", 1_200_000),
    ("claude-sonnet-4-6", {"input": 10, "output": 10}, "batch", "", 90_000),
    ("gpt-4o", {"input": 10, "cache_read": 10}, "priority", "", 42_500 + 21_250),
    # times of day: half price outside 01:00-04:00 and 06:00-10:00 UTC
    ("deepseek/deepseek-v4-flash", {"input": 1000, "output": 1000}, None, "", 750_000),
    (
        "deepseek/deepseek-v4-flash",
        {"input": 1000, "output": 1000},
        None,
        "2026-11-24T09:59",
        1_500_000,
    ),
    # at weekends half price all day, for the dearer model since 23 August 2026
    ("deepseek/deepseek-v4-flash", {"output": 1000}, None, "2026-11-27T09:59", 1_200_000),
    ("deepseek/deepseek-v4-flash", {"output": 1000}, None, "2026-11-28T09:59", 600_000),
    ("deepseek/deepseek-v4-flash", {"output": 1000}, None, "2026-11-29T01:00", 600_000),
    ("deepseek/deepseek-v4-flash", {"output": 1000}, None, "2026-11-30T01:00", 1_200_000),
    ("deepseek/deepseek-v4-pro", {"output": 1000}, None, "2026-08-22T09:59", 3_960_000),
    ("deepseek/deepseek-v4-pro", {"output": 1000}, None, "2026-08-23T01:00", 1_980_000),
    # prices are those of the day of the call
    ("deepseek-chat", {"input": 1000, "output": 1000}, None, "2025-03-01T12:00", 1_370_000),
    ("deepseek-chat", {"input": 1000, "output": 1000}, None, "2025-03-01T16:30", 685_000),
    ("deepseek-chat", {"input": 1000, "output": 1000}, None, "2025-03-02T00:29", 685_000),
    ("deepseek-chat", {"input": 1000, "output": 1000}, None, "2025-03-02T00:30", 1_370_000),
    ("deepseek-chat", {"input": 1000, "output": 1000}, None, "2025-09-06T20:00", 2_240_000),
    ("deepseek-chat", {"input": 1000, "output": 1000}, None, "", 280_000 + 420_000),
    (
        "deepseek-reasoner",
        {"input": 1000, "cache_read": 1000, "reasoning": 1000},
        None,
        "2025-03-01T20:00",
        135_000 + 35_000 + 550_000,
    ),
    ("claude-opus-4-6", {"input": 200_001}, None, "2026-03-01T12:00", 200_001 * 10_000),
    ("claude-opus-4-6", {"input": 200_001}, None, "2026-03-14T12:00", 200_001 * 5_000),
    ("gemini-3.8-flash", {"input": 1000}, None, "2026-12-31T23:59", 750_000),
    ("gemini-3.8-flash", {"input": 1000}, None, "2027-01-01T00:00", 1_500_000),
]


@pytest.mark.parametrize(("model", "usage", "tier", "when", "nano"), BILLS)
def test_a_bill_from_the_book_is_exact(
    model: str, usage: dict[str, int], tier: str | None, when: str, nano: int
) -> None:
    now = at(when) if when else NOON
    price = load_book().price(model, now)
    assert price is not None
    assert cost(price, Usage(**usage), service_tier=tier, now=now) == nano


OWN_BILLS: list[tuple[dict[str, Any], dict[str, int], str | None, int]] = [
    # flat prices, which no service tier multiplies
    (
        {"input": 1, "output": 2, "image": "0.002", "request": "0.01"},
        {"input": 7, "images": 3},
        None,
        7000 + 6_000_000 + 10_000_000,
    ),
    (
        {"input": 1, "output": 2, "request": "0.01", "multipliers": {"batch": "0.5"}},
        {"input": 7, "requests": 2},
        "batch",
        3500 + 20_000_000,
    ),
    # the smallest price there is
    ({"input": "0.000000001", "output": 0}, {"input": 1}, None, 1),
    ({"input": 0, "output": 0}, {"input": 1000, "output": 1000}, None, 0),
    # own rate for reasoning; without one it is output
    ({"input": 1, "output": 2, "reasoning": 3}, {"output": 10, "reasoning": 10}, None, 50_000),
    # caches without a rate cost as much as input; an hour is never cheaper than five minutes
    ({"input": 1, "output": 2}, {"cache_read": 5, "cache_write_1h": 5}, None, 10_000),
    ({"input": 1, "output": 2, "cache_write_5m": 4}, {"cache_write_1h": 5}, None, 20_000),
    # one GPU-hour of $3.60 at 1,000 tokens a second, half of the time busy: $2 a million
    (
        {
            "gpu": {
                "hour_usd": "3.60",
                "input_tokens_per_second": 1000,
                "output_tokens_per_second": 100,
                "utilisation": "0.5",
            }
        },
        {"input": 10, "output": 10},
        None,
        20_000 + 200_000,
    ),
    # two GPUs, and a rate that is no whole number of nano-USD: 2 / (7 * 3600) * 1e6, rounded up
    (
        {
            "gpu": {
                "hour_usd": 1,
                "count": 2,
                "input_tokens_per_second": 7,
                "output_tokens_per_second": 7,
                "utilisation": 1,
            }
        },
        {"input": 1_000_000},
        None,
        79_365_079_366,
    ),
    # a service tier times an off-peak price (12:00 in UTC is 13:00 in Berlin)
    (
        {
            "input": 1,
            "output": 2,
            "multipliers": {"priority": "1.75"},
            "off_peak": [
                {"from": "13:00", "to": "13:30", "zone": "Europe/Berlin", "multiplier": "0.5"}
            ],
        },
        {"input": 8},
        "priority",
        7000,
    ),
    # the 24th is a Tuesday: Monday's window that crosses midnight ended at 12:30
    (
        {
            "input": 1,
            "output": 2,
            "off_peak": [
                {"from": "20:00", "to": "12:30", "days": ["mon"], "input": "0.1", "output": "0.2"}
            ],
        },
        {"input": 10, "cache_read": 10, "output": 10},
        None,
        4000,
    ),
    (
        {
            "input": 1,
            "output": 2,
            "off_peak": [{"from": "20:00", "to": "12:30", "days": ["tue"], "multiplier": "0.1"}],
        },
        {"input": 10},
        None,
        10_000,
    ),
    # "auto" leaves the choice to the provider: charged as the dearest
    (
        {"input": 1, "output": 2, "multipliers": {"flex": "0.5", "priority": 2}},
        {"input": 10},
        "auto",
        20_000,
    ),
]


@pytest.mark.parametrize(("written", "usage", "tier", "nano"), OWN_BILLS)
def test_a_bill_at_an_own_price_is_exact(
    written: dict[str, Any], usage: dict[str, int], tier: str | None, nano: int
) -> None:
    price = to_price(PriceEntry.model_validate(written), "own/model")
    assert cost(price, Usage(**usage), service_tier=tier, now=NOON) == nano


def test_a_service_tier_without_a_multiplier_is_an_unknown_price() -> None:
    price = to_price(PriceEntry(input=1, output=2), "own/model")
    with pytest.raises(UnknownPrice, match=r"own/model.*'priority'"):
        cost(price, Usage(input=1), service_tier="priority", now=NOON)
    with pytest.raises(UnknownPrice, match="priority"):
        quote(
            price,
            input_tokens=1,
            output_tokens=1,
            input_bound=9,
            output_cap=9,
            service_tier="priority",
            now=NOON,
        )


def test_audio_without_a_rate_is_an_unknown_price() -> None:
    price = to_price(PriceEntry(input=1, output=2), "own/model")
    for usage in (Usage(audio_input=1), Usage(audio_output=1)):
        with pytest.raises(UnknownPrice, match="audio"):
            cost(price, usage, now=NOON)
    with pytest.raises(UnknownPrice, match="audio"):
        quote(
            price,
            input_tokens=1,
            output_tokens=1,
            input_bound=9,
            output_cap=9,
            audio=True,
            now=NOON,
        )


def test_the_quote_of_an_unknown_price_is_unknown_and_not_zero() -> None:
    quoted = quote(None, input_tokens=1, output_tokens=1, input_bound=9, output_cap=7, now=NOON)
    assert (quoted.expected, quoted.upper, quoted.output_cap) == (None, None, 7)


def test_a_quote_holds_what_the_prompt_costs_just_past_a_threshold() -> None:
    price = load_book().price("gpt-5.4", NOON)
    below = quote(
        price, input_tokens=9, output_tokens=9, input_bound=272_000, output_cap=100, now=NOON
    )
    past = quote(
        price, input_tokens=9, output_tokens=9, input_bound=272_001, output_cap=100, now=NOON
    )
    assert below.upper == 272_000 * 2500 + 100 * 15_000
    assert past.upper == 272_001 * 5000 + 100 * 22_500
    assert below.expected == past.expected == 9 * 2500 + 9 * 15_000


def test_a_quote_is_no_larger_than_the_dearest_bill_where_long_prompts_are_cheaper() -> None:
    written = {"input": 10, "output": 0, "above": [{"tokens": 1000, "input": 1, "output": 0}]}
    price = to_price(PriceEntry.model_validate(written), "own/model")
    quoted = quote(price, input_tokens=9, output_tokens=9, input_bound=5000, output_cap=9, now=NOON)
    assert quoted.upper == 1000 * 10_000


def price_of(**usd: str) -> Price:
    rates = {"input": "2", "output": "8", **usd}
    return to_price(PriceEntry.model_validate(rates), "own/model")


@pytest.mark.parametrize(
    ("cache", "expected"),
    [
        ({}, 3_000 * 2_000 + 100 * 8_000),  # no rate for the cache: all of it at the full price
        ({"cache_read": "0.2"}, 1_000 * 2_000 + 2_000 * 200 + 100 * 8_000),
        # Who charges for writing does not cache by itself.
        ({"cache_read": "0.2", "cache_write_5m": "2.5"}, 3_000 * 2_000 + 100 * 8_000),
    ],
)
def test_what_every_prompt_begins_with_is_expected_at_the_price_of_a_cache_that_fills_itself(
    cache: dict[str, str], expected: int
) -> None:
    counts = {"input_tokens": 3_000, "output_tokens": 100, "input_bound": 4_000, "output_cap": 500}
    found = quote(price_of(**cache), **counts, repeated_tokens=2_000, now=0.0)
    assert found.expected == expected
    assert found.upper == quote(price_of(**cache), **counts, now=0.0).upper


def test_no_more_of_a_prompt_is_in_the_cache_than_it_has() -> None:
    price = price_of(cache_read="0.2")
    counts = {"input_tokens": 10, "output_tokens": 0, "input_bound": 40, "output_cap": 5}
    assert quote(price, **counts, repeated_tokens=2_000, now=0.0).expected == 10 * 200


def test_several_samples_share_one_prompt() -> None:
    price = load_book().price("gpt-5.4-mini", NOON)
    quoted = quote(
        price,
        input_tokens=9,
        output_tokens=30,
        input_bound=10,
        output_cap=100,
        samples=3,
        now=NOON,
    )
    assert quoted.expected == 9 * 750 + 30 * 4500
    assert quoted.upper == 10 * 750 + 300 * 4500
