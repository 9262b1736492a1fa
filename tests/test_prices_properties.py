"""Bills and bounds over prices that nobody would write: no bill exceeds its bound."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from math import ceil
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from router.prices import Price, PriceEntry, cost, load_book, quote, to_price
from router.types import Usage

NOON = 1_795_521_600.0  # 2026-11-24 12:00 UTC

amounts = st.decimals(min_value=0, max_value=1000, places=9, allow_nan=False)
optional = st.none() | amounts
factors = st.decimals(min_value=Decimal("0.000001"), max_value=100, places=6)
clocks = st.builds("{:02d}:{:02d}".format, st.integers(0, 23), st.integers(0, 59))
counts = st.integers(0, 2_000_000)
moments = st.integers(0, 4_000_000_000)
tiers = st.sampled_from((None, "default", "batch", "flex", "priority", "auto"))


@st.composite
def rate_sets(draw: st.DrawFn) -> dict[str, Decimal]:
    rates = {
        "input": draw(amounts),
        "output": draw(amounts),
        "reasoning": draw(optional),
        "cache_read": draw(optional),
        "cache_write_5m": draw(optional),
        "cache_write_1h": draw(optional),
        "audio_input": draw(amounts),
        "audio_output": draw(amounts),
    }
    return {bucket: rate for bucket, rate in rates.items() if rate is not None}


@st.composite
def entries(draw: st.DrawFn) -> PriceEntry:
    written: dict[str, Any] = draw(rate_sets())
    thresholds = sorted(draw(st.sets(st.integers(1, 1_500_000), max_size=2)))
    written["above"] = tuple({"tokens": tokens, **draw(rate_sets())} for tokens in thresholds)
    written["multipliers"] = {name: draw(factors) for name in ("batch", "flex", "priority")}
    written["image"], written["request"] = draw(optional), draw(optional)
    windows: list[dict[str, Any]] = []
    for _ in range(draw(st.integers(0, 2))):
        opens, closes = draw(clocks), draw(clocks)
        if opens != closes:
            kind = {"multiplier": draw(factors)} if thresholds else draw(rate_sets())
            zone = draw(st.sampled_from(("UTC", "Asia/Kolkata", "America/New_York")))
            windows.append({"from": opens, "to": closes, "zone": zone, **kind})
    written["off_peak"] = tuple(windows)
    return PriceEntry.model_validate(written)


@st.composite
def splits(draw: st.DrawFn, total: int, parts: int) -> list[int]:
    cuts = sorted(draw(st.integers(0, total)) for _ in range(parts - 1))
    return [high - low for low, high in zip([0, *cuts], [*cuts, total], strict=True)]


@given(st.data(), entries(), tiers, moments, moments)
@settings(max_examples=300, deadline=None)
def test_no_bill_within_the_bounds_exceeds_what_was_quoted(
    data: st.DataObject, entry: PriceEntry, tier: str | None, quoted_at: int, settled_at: int
) -> None:
    price = to_price(entry, "any/model")
    thresholds = [above.tokens for above in entry.above]
    near = [count + step for count in thresholds for step in (0, 1)]
    input_bound = data.draw(counts | st.sampled_from(near) if near else counts)
    cap, samples, images = (
        data.draw(st.integers(0, 200_000)),
        data.draw(st.integers(1, 4)),
        data.draw(st.integers(0, 5)),
    )
    audio = data.draw(st.booleans())
    used = data.draw(
        st.integers(0, input_bound)
        | st.sampled_from([count for count in (*near, input_bound) if count <= input_bound])
    )
    parts = data.draw(splits(used, 5 if audio else 4))
    answer = data.draw(splits(data.draw(st.integers(0, cap * samples)), 3 if audio else 2))
    usage = Usage(
        input=parts[0],
        cache_read=parts[1],
        cache_write_5m=parts[2],
        cache_write_1h=parts[3],
        audio_input=parts[4] if audio else 0,
        output=answer[0],
        reasoning=answer[1],
        audio_output=answer[2] if audio else 0,
        images=data.draw(st.integers(0, images)),
        requests=data.draw(st.integers(1, samples)),
    )
    quoted = quote(
        price,
        input_tokens=used,
        output_tokens=cap / 2,
        input_bound=input_bound,
        output_cap=cap,
        images=images,
        samples=samples,
        audio=audio,
        service_tier=tier,
        now=quoted_at,
    )
    assert quoted.upper is not None
    assert quoted.expected is not None
    assert 0 <= quoted.expected <= quoted.upper
    assert 0 <= cost(price, usage, service_tier=tier, now=settled_at) <= quoted.upper


def corners(
    entry: PriceEntry, bound: int, answers: int, audio: bool, tier: str | None
) -> Iterator[Fraction]:
    """Nano-USD of every way to bill `bound` and `answers` tokens in one bucket at one time."""
    price = to_price(entry, "any/model")
    factors = [Fraction(1), *price.multipliers.values()]
    factor = max(factors) if tier == "auto" else price.multipliers.get(tier or "", Fraction(1))
    for more_than, most, rates in price.bands():
        if more_than and bound <= more_than:
            continue
        for then, hour in [
            (rates, Fraction(1)),
            *(
                (window.rates or rates, window.multiplier or Fraction(1))
                for window in price.off_peak
            ),
        ]:
            prompt = [then.input, then.cache_read, then.cache_write_5m, then.cache_write_1h]
            answer = [then.output, then.reasoning]
            if audio:
                prompt.append(then.audio_input or 0)
                answer.append(then.audio_output or 0)
            tokens = bound if most is None else min(bound, most)
            charge = tokens * max(prompt) + answers * max(answer)
            yield charge * factor * hour / 1_000_000


@given(st.data(), entries(), tiers, moments)
@settings(max_examples=300, deadline=None)
def test_a_quote_is_the_bill_expected_and_the_dearest_bill_possible(
    data: st.DataObject, entry: PriceEntry, tier: str | None, now: int
) -> None:
    price = to_price(entry, "any/model")
    near = [above.tokens + step for above in entry.above for step in (0, 1)]
    bound = data.draw(counts | st.sampled_from(near) if near else counts)
    used = data.draw(st.integers(0, 2 * bound) | st.sampled_from([bound, *near]))
    cap, samples, images = (data.draw(st.integers(low, 5000)) for low in (0, 1, 0))
    output = data.draw(st.integers(0, 2 * cap * samples))
    audio = data.draw(st.booleans())
    quoted = quote(
        price,
        input_tokens=used,
        output_tokens=output,
        input_bound=bound,
        output_cap=cap,
        images=images,
        samples=samples,
        audio=audio,
        service_tier=tier,
        now=now,
    )
    likely = Usage(input=min(used, bound), output=min(output, cap * samples), images=images)
    assert quoted.expected == cost(price, likely, service_tier=tier, now=now)
    dearest = max(ceil(amount) for amount in corners(entry, bound, cap * samples, audio, tier))
    assert quoted.upper == dearest + images * price.image + samples * price.request
    assert quoted.output_cap == cap


@given(rate_sets(), st.lists(counts, min_size=8, max_size=8))
@settings(max_examples=100, deadline=None)
def test_a_bill_is_the_exact_sum_rounded_up_once(
    rates: dict[str, Decimal], tokens: list[int]
) -> None:
    usage = dict(
        zip(
            (
                "input",
                "cache_read",
                "cache_write_5m",
                "cache_write_1h",
                "audio_input",
                "output",
                "reasoning",
                "audio_output",
            ),
            tokens,
            strict=True,
        )
    )
    fallback = {"reasoning": rates["output"], "cache_read": rates["input"]}
    fallback["cache_write_5m"] = rates["input"]
    five_minutes = rates.get("cache_write_5m", rates["input"])
    fallback["cache_write_1h"] = max(rates["input"], five_minutes)
    usd = sum(
        Fraction(rates.get(bucket, fallback.get(bucket, Decimal(0)))) * count / 1_000_000
        for bucket, count in usage.items()
    )
    price = to_price(PriceEntry.model_validate(rates), "any/model")
    assert cost(price, Usage(**usage), now=NOON) == ceil(usd * 1_000_000_000)


BUCKETS = ("input", "cache_read", "cache_write_5m", "cache_write_1h", "output", "reasoning")


@given(
    entries(),
    st.lists(counts, min_size=6, max_size=6),
    st.sampled_from(BUCKETS),
    counts,
    tiers,
    moments,
)
@settings(max_examples=100, deadline=None)
def test_more_tokens_never_cost_less_where_longer_prompts_are_not_cheaper(
    entry: PriceEntry, tokens: list[int], bucket: str, more: int, tier: str | None, now: int
) -> None:
    price = _without_cheaper_bands(to_price(entry, "any/model"))
    usage = Usage(**dict(zip(BUCKETS, tokens, strict=True)))
    grown = replace(usage, **{bucket: getattr(usage, bucket) + more})
    before = cost(price, usage, service_tier=tier, now=now)
    after = cost(price, grown, service_tier=tier, now=now)
    assert isinstance(after, int)
    assert 0 <= before <= after


def _without_cheaper_bands(price: Price) -> Price:
    bands, floor = [], price.rates
    for tokens, rates in price.above:
        floor = replace(
            floor, **{name: max(getattr(floor, name), getattr(rates, name)) for name in BUCKETS}
        )
        bands.append((tokens, floor))
    return replace(price, above=tuple(bands))


@given(st.integers(0, 1_000_000))
@settings(max_examples=100, deadline=None)
def test_a_million_token_prompt_is_priced_by_the_band_it_falls_in(tokens: int) -> None:
    price = load_book().price("gpt-5.4-pro", NOON)
    assert price is not None
    rate = 30_000 if tokens <= 272_000 else 60_000
    assert cost(price, Usage(input=tokens), now=NOON) == tokens * rate
