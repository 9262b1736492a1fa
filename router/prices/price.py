"""What a call may cost and what it did cost: pure integer arithmetic over one `Price`.

Rates are nano-USD per million tokens, so a bill is an exact rational number; it is rounded up
once, at the end, to whole nano-USD.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from fractions import Fraction
from functools import cached_property
from typing import Literal, TypeAlias, get_args
from zoneinfo import ZoneInfo

from router.errors import UnknownPrice
from router.money import TOKENS_PER_PRICE, ceil_div
from router.types import Quote, Usage

Day: TypeAlias = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
DAYS: tuple[Day, ...] = get_args(Day)

# What providers call their ordinary service; everything else needs a multiplier.
_STANDARD = (None, "default", "standard", "standard_only")
_ONE = Fraction(1)


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

    def repeated_input(self) -> int:
        """What a text token costs that the prompts before had too.

        A provider that charges for writing the cache fills it where it is asked to, one that does
        not fills it by itself: only there can a cache be counted on.
        """
        return min(self.input, self.cache_read) if self.cache_write_5m <= self.input else self.input

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
class Line:
    """What tokens cost at one time of day: nano-USD per `per` tokens. `repeated` is for what every
    prompt begins with, `read` and `write` for what is known to be read from the cache or written
    to it."""

    input: int
    output: int
    repeated: int
    read: int
    write: int
    per: int

    @classmethod
    def of(cls, input: int, output: int, factor: Fraction, cache: Rates | None = None) -> Line:
        """Multiply rates per million tokens out, and cancel: small whole numbers are left.

        `cache`: the rates of cached tokens; they cost what others do without it.
        """
        numerator, denominator = factor.as_integer_ratio()
        cached = (input, input, input)
        if cache is not None:
            cached = (cache.repeated_input(), cache.cache_read, cache.cache_write_5m)
        amounts = [amount * numerator for amount in (input, output, *cached)]
        amounts.append(TOKENS_PER_PRICE * denominator)
        common = math.gcd(*amounts)
        return cls(*[amount // common for amount in amounts])


@dataclass(frozen=True, slots=True)
class Band:
    """What tokens cost in prompts with more than `more_than` and at most `most` tokens.

    Each has one line for ordinary hours and one for each off-peak window: `text`, in the buckets
    of plain input and output; `dearest`, in the dearest bucket of text; `dearest_audio`, in the
    dearest of all where tokens may be billed as audio, None where audio input has no rate.
    """

    more_than: int
    most: int | None
    text: tuple[Line, ...]
    dearest: tuple[Line, ...]
    dearest_audio: tuple[Line, ...] | None

    @classmethod
    def of(cls, more_than: int, most: int | None, times: Sequence[tuple[Rates, Fraction]]) -> Band:
        """Multiply out the rates of each time of day and what they are multiplied by then."""
        return cls(
            more_than,
            most,
            text=tuple(
                Line.of(rates.input, rates.output, factor, rates) for rates, factor in times
            ),
            dearest=tuple(
                Line.of(rates.dearest_input(), rates.dearest_output(), factor)
                for rates, factor in times
            ),
            dearest_audio=None
            if any(rates.audio_input is None for rates, _ in times)
            else tuple(
                Line.of(
                    max(rates.dearest_input(), rates.audio_input or 0),
                    max(rates.dearest_output(), rates.audio_output or 0),
                    factor,
                )
                for rates, factor in times
            ),
        )


@dataclass(frozen=True)
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

    @cached_property
    def tables(self) -> Mapping[str | None, tuple[Band, ...]]:
        """What `quote` reads, by service tier: the bands, multiplied out once for all requests."""
        tiers = (*_STANDARD, "auto", *self.multipliers)
        return {tier: self._table(_multiplier(self, tier)) for tier in tiers}

    def _table(self, multiplier: Fraction) -> tuple[Band, ...]:
        return tuple(
            Band.of(more_than, most, [(rates, multiplier), *self._off_peak(rates, multiplier)])
            for more_than, most, rates in self.bands()
        )

    def off_peak_at(self, now: float) -> int | None:
        """Which `off_peak` window applies at `now`, unix seconds, None where none does."""
        return next((at for at, each in enumerate(self.off_peak) if each.contains(now)), None)

    def _off_peak(self, rates: Rates, multiplier: Fraction) -> Iterator[tuple[Rates, Fraction]]:
        for window in self.off_peak:
            yield window.rates or rates, multiplier * (window.multiplier or 1)


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
    at = price.off_peak_at(now)
    window = None if at is None else price.off_peak[at]
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
    beyond_cap: int = 0,
    repeated_tokens: int = 0,
    read_tokens: int = 0,
    write_tokens: int = 0,
    images: int = 0,
    samples: int = 1,
    audio: bool = False,
    service_tier: str | None = None,
    now: float,
) -> Quote:
    """Return what one call is expected to cost and the most that it can cost, in nano-USD.

    Parameters: `input_tokens` and `output_tokens` (of all samples), expected; `input_bound`: the
    prompt tokenizes to no more; `output_cap`, what goes on the wire for one sample; `beyond_cap`,
    output tokens of one sample that a provider may bill on top of it; `repeated_tokens` of the
    prompt, expected in the provider's cache, which `upper` never counts on; in their place, where
    either is given, `read_tokens`, known to be in it, and `write_tokens`, which this call is to
    write to it; `images` in the prompt;
    `samples` asked of one prompt (`n`); `audio`, whether tokens may be billed as audio;
    `service_tier` and `now` as for `cost`.
    Returns a `Quote`; both amounts are None where `price` is None. `upper` bounds `cost` at any
    time of day and for any usage within the bounds, however it is split over the buckets, whatever
    side of a length threshold the true token count falls on.
    Raises `UnknownPrice` as `cost` does.
    """
    if price is None:
        return Quote(None, None, output_cap)
    table = price.tables.get(service_tier)
    if table is None:
        raise _unknown_service_tier(price, service_tier)
    answers = (output_cap + beyond_cap) * samples
    prompt = min(math.ceil(input_tokens), input_bound)
    answer = min(math.ceil(output_tokens), answers)
    repeated = min(repeated_tokens, prompt)
    hour = _hour(price, now) if price.off_peak else 0
    pictures = images * price.image
    expected, upper = None, 0
    for band in table:
        if band.more_than and input_bound <= band.more_than:
            break
        tokens = input_bound
        if band.most is not None and band.most < input_bound:
            tokens = band.most
        if expected is None and prompt <= tokens:
            line = band.text[hour]
            if read_tokens or write_tokens:
                read = min(read_tokens, prompt)
                written = min(write_tokens, prompt - read)
                tokens_cost = read * line.read + written * line.write
                tokens_cost += (prompt - read - written) * line.input
            else:
                tokens_cost = (prompt - repeated) * line.input + repeated * line.repeated
            expected = -(-(tokens_cost + answer * line.output) // line.per)
        # Within one band and one time of day a bill only grows with each count, and each token
        # costs no more than the band's dearest bucket: its largest corner bounds it.
        lines = band.dearest_audio if audio else band.dearest
        if lines is None:
            raise UnknownPrice(price.model, "it has no rate for audio input")
        for line in lines:
            corner = -(-(tokens * line.input + answers * line.output) // line.per)
            if corner > upper:
                upper = corner
    assert expected is not None  # no prompt is longer than its bound
    expected += pictures + price.request
    upper += pictures + samples * price.request
    return Quote(expected, upper, output_cap)


def _hour(price: Price, now: float) -> int:
    """Which line of a band holds: 0 at ordinary hours, else the number of the open window."""
    windows = enumerate(price.off_peak, start=1)
    return next((number for number, window in windows if window.contains(now)), 0)


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
        return _ONE
    if service_tier == "auto":  # the provider chooses; until its reply says which, the dearest
        return max([_ONE, *price.multipliers.values()])
    if service_tier in price.multipliers:
        return price.multipliers[service_tier]
    raise _unknown_service_tier(price, service_tier)


def _unknown_service_tier(price: Price, service_tier: str | None) -> UnknownPrice:
    known = ", ".join(("default", *sorted(price.multipliers)))
    return UnknownPrice(
        price.model, f"it has no multiplier for service tier {service_tier!r} (known: {known})"
    )
