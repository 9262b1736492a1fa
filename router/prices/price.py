"""What a call may cost and what it did cost: pure integer arithmetic over one `Price`.

Rates are nano-USD per million tokens, so a bill is an exact rational number; it is rounded up
once, at the end, to whole nano-USD.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from fractions import Fraction
from typing import Literal, TypeAlias, get_args
from zoneinfo import ZoneInfo

from router.errors import UnknownPrice
from router.money import TOKENS_PER_PRICE, ceil_div
from router.types import Quote, Usage

Day: TypeAlias = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
DAYS: tuple[Day, ...] = get_args(Day)

# What providers call their ordinary service; everything else needs a multiplier.
_STANDARD = (None, "default", "standard", "standard_only")


@dataclass(frozen=True, slots=True)
class Rates:
    """Nano-USD per million tokens of each bucket. Audio is None where no rate is known."""

    input: int
    output: int
    reasoning: int
    cache_read: int
    cache_write_5m: int
    cache_write_1h: int
    audio_input: int | None = None
    audio_output: int | None = None

    @classmethod
    def of(
        cls,
        *,
        input: int,
        output: int,
        reasoning: int | None = None,
        cache_read: int | None = None,
        cache_write_5m: int | None = None,
        cache_write_1h: int | None = None,
        audio_input: int | None = None,
        audio_output: int | None = None,
    ) -> Rates:
        """Fill what is not given so that nothing is charged too little: reasoning as output, the
        cache as input, an hour's cache write as no less than one of five minutes."""
        write_5m = input if cache_write_5m is None else cache_write_5m
        write_1h = max(input, write_5m) if cache_write_1h is None else cache_write_1h
        return cls(
            input=input,
            output=output,
            reasoning=output if reasoning is None else reasoning,
            cache_read=input if cache_read is None else cache_read,
            cache_write_5m=write_5m,
            cache_write_1h=write_1h,
            audio_input=audio_input,
            audio_output=audio_output,
        )

    def dearest_input(self) -> int:
        """The most that any text token of a prompt may cost."""
        return max(self.input, self.cache_read, self.cache_write_5m, self.cache_write_1h)

    def dearest_output(self) -> int:
        """The most that any text or reasoning token of an answer may cost."""
        return max(self.output, self.reasoning)


@dataclass(frozen=True, slots=True)
class OffPeak:
    """A daily window with other prices: `start` and `end` in minutes after midnight in `zone`.

    `days` are the weekdays (0 is Monday) on which it opens. A `multiplier` scales the token rates,
    `rates` replaces them; one of the two is None.
    """

    start: int
    end: int
    zone: str
    days: frozenset[int]
    multiplier: Fraction | None
    rates: Rates | None

    def contains(self, now: float) -> bool:
        """Say whether `now`, in unix seconds, lies in the window; `end` itself is outside."""
        local = datetime.fromtimestamp(now, ZoneInfo(self.zone))
        minute, day = local.hour * 60 + local.minute, local.weekday()
        if self.start < self.end:
            return self.start <= minute < self.end and day in self.days
        opened_today = minute >= self.start and day in self.days
        opened_yesterday = minute < self.end and (day - 1) % 7 in self.days
        return opened_today or opened_yesterday


@dataclass(frozen=True, slots=True)
class Price:
    """The price of one model. `above` is (tokens, rates) in rising order of tokens: a prompt with
    more tokens than that is charged at those rates from its first token on, its answer too.

    `image` and `request` are nano-USD each and are never multiplied. `multipliers` are by service
    tier. Of several `off_peak` windows the first that is open applies.
    """

    model: str
    rates: Rates
    above: tuple[tuple[int, Rates], ...] = ()
    image: int = 0
    request: int = 0
    multipliers: Mapping[str, Fraction] = field(default_factory=dict)
    off_peak: tuple[OffPeak, ...] = ()

    def bands(self) -> Iterator[tuple[int, int | None, Rates]]:
        """Yield (more than, at most, rates) for each range of prompt length, the shortest first."""
        starts = [0, *(tokens for tokens, _ in self.above)]
        rates = [self.rates, *(rates for _, rates in self.above)]
        yield from zip(starts, [*starts[1:], None], rates, strict=True)


def cost(price: Price, usage: Usage, *, service_tier: str | None = None, now: float) -> int:
    """Return what one finished call cost.

    Parameters: `usage`, billed units; `service_tier`, as the provider names it (None for the
    standard one); `now`, unix seconds, decides on off-peak prices.
    Returns nano-USD: the exact sum over buckets, rounded up once.
    Raises `UnknownPrice` for a service tier without a multiplier and for audio without a rate.
    """
    rates = next(
        band for _, most, band in price.bands() if most is None or usage.input_tokens <= most
    )
    multiplier = _multiplier(price, service_tier)
    window = next((window for window in price.off_peak if window.contains(now)), None)
    if window is not None:
        rates = rates if window.rates is None else window.rates
        multiplier *= 1 if window.multiplier is None else window.multiplier
    return _total(price, _token_charge(price, rates, usage), multiplier, usage)


def quote(
    price: Price | None,
    *,
    input_tokens: float,
    output_tokens: float,
    input_bound: int,
    output_cap: int,
    images: int = 0,
    samples: int = 1,
    audio: bool = False,
    service_tier: str | None = None,
    now: float,
) -> Quote:
    """Return what one call is expected to cost and the most that it can cost, in nano-USD.

    Parameters: `input_tokens` and `output_tokens` (of all samples), expected; `input_bound`: the
    prompt tokenizes to no more; `output_cap`, what goes on the wire for one sample; `images` in the
    prompt; `samples` asked of one prompt (`n`); `audio`, whether tokens may be billed as audio;
    `service_tier` and `now` as for `cost`.
    Returns a `Quote`; both amounts are None where `price` is None. `upper` bounds `cost` at any
    time of day and for any usage within the bounds, however it is split over the buckets, whatever
    side of a length threshold the true token count falls on.
    Raises `UnknownPrice` as `cost` does.
    """
    if price is None:
        return Quote(None, None, output_cap)
    upper = _upper(price, input_bound, output_cap * samples, images, samples, audio, service_tier)
    likely = Usage(
        input=min(math.ceil(input_tokens), input_bound),
        output=min(math.ceil(output_tokens), output_cap * samples),
        images=images,
    )
    return Quote(cost(price, likely, service_tier=service_tier, now=now), upper, output_cap)


def _upper(
    price: Price,
    input_bound: int,
    output_bound: int,
    images: int,
    requests: int,
    audio: bool,
    service_tier: str | None,
) -> int:
    # Within one band and one time of day a bill only grows with each count, and each token costs
    # no more than the band's dearest bucket: its largest corner bounds it.
    multiplier = _multiplier(price, service_tier)
    flat = Usage(images=images, requests=requests)
    bounds = []
    for more_than, most, rates in price.bands():
        if more_than and input_bound <= more_than:
            break
        tokens = input_bound if most is None else min(input_bound, most)
        for rates_then, factor in _times_of_day(price, rates):
            charge = tokens * _dearest(price, rates_then, "input", audio)
            charge += output_bound * _dearest(price, rates_then, "output", audio)
            bounds.append(_total(price, charge, multiplier * factor, flat))
    return max(bounds)


def _times_of_day(price: Price, rates: Rates) -> Iterator[tuple[Rates, Fraction]]:
    yield rates, Fraction(1)
    for window in price.off_peak:
        yield window.rates or rates, window.multiplier or Fraction(1)


def _dearest(price: Price, rates: Rates, side: str, audio: bool) -> int:
    text = rates.dearest_input() if side == "input" else rates.dearest_output()
    if not audio:
        return text
    spoken = rates.audio_input if side == "input" else rates.audio_output
    if spoken is None and side == "input":
        raise UnknownPrice(price.model, "it has no rate for audio input")
    return max(text, spoken or 0)


def _token_charge(price: Price, rates: Rates, usage: Usage) -> int:
    """Tokens times rates, before the division by a million."""
    charge = 0
    for count, rate, name in (
        (usage.input, rates.input, "input"),
        (usage.cache_read, rates.cache_read, "cache_read"),
        (usage.cache_write_5m, rates.cache_write_5m, "cache_write_5m"),
        (usage.cache_write_1h, rates.cache_write_1h, "cache_write_1h"),
        (usage.audio_input, rates.audio_input, "audio_input"),
        (usage.output, rates.output, "output"),
        (usage.reasoning, rates.reasoning, "reasoning"),
        (usage.audio_output, rates.audio_output, "audio_output"),
    ):
        if rate is None:
            if count:
                raise UnknownPrice(price.model, f"{count} {name} tokens, and no rate for them")
            continue
        charge += count * rate
    return charge


def _total(price: Price, token_charge: int, multiplier: Fraction, usage: Usage) -> int:
    tokens = ceil_div(
        token_charge * multiplier.numerator, TOKENS_PER_PRICE * multiplier.denominator
    )
    return tokens + usage.images * price.image + usage.requests * price.request


def _multiplier(price: Price, service_tier: str | None) -> Fraction:
    if service_tier in _STANDARD:
        return Fraction(1)
    if service_tier == "auto":  # the provider chooses; until its reply says which, the dearest
        return max([Fraction(1), *price.multipliers.values()])
    if service_tier in price.multipliers:
        return price.multipliers[service_tier]
    known = ", ".join(("default", *sorted(price.multipliers)))
    raise UnknownPrice(
        price.model, f"it has no multiplier for service tier {service_tier!r} (known: {known})"
    )
