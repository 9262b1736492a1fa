"""How a price is written down: in the price book, and as the `price` of a policy's deployment.

Amounts are decimal text in US dollars ("0.075"); token rates are per million tokens. What is read
here becomes integers in `router.prices.price.Price` through `to_price`.
"""

from __future__ import annotations

import re
from decimal import Decimal
from fractions import Fraction
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from router.money import NANO_PER_USD, TOKENS_PER_PRICE, ceil_div
from router.prices.price import DAYS, Day, OffPeak, Price, Rates
from router.zones import zone_problem

MAX_RATE = 1000  # USD per million tokens, or per image or request: more is a slip of the unit
_DECIMAL_TEXT = re.compile(r"[0-9]{1,20}(\.[0-9]{1,20})?")
_CLOCK_TEXT = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])|24:00")
_SECONDS_PER_HOUR = 3600


def _decimal(value: object, places: int, low: Decimal, high: Decimal, allowed: str) -> Decimal:
    """Return a decimal within bounds; refuse floats, which have lost the text they came from."""
    if isinstance(value, str):
        number = Decimal(value) if _DECIMAL_TEXT.fullmatch(value) else None
    elif isinstance(value, int | Decimal) and not isinstance(value, bool):
        number = Decimal(value)
    else:
        number = None
    if number is None or not number.is_finite() or number.is_signed():
        raise ValueError(f"{value!r} is not {allowed}")
    # Bounds first: the exponent of what passes is small, so counting its places is cheap.
    if not low <= number <= high or (number and number.adjusted() < -places):
        raise ValueError(f"{value!r} is not {allowed}")
    if (Fraction(number) * 10**places).denominator != 1:
        raise ValueError(f"{value!r} has more than {places} decimal places")
    # Without the zeros that mean nothing: 2 and "2.00" are the same price, and the same policy.
    return Decimal(f"{number:.{places}f}".rstrip("0").rstrip("."))


def _number(places: int, low: str, high: str, allowed: str) -> Any:
    """Build the pieces of a decimal field: its validator, and its JSON Schema for editors."""

    def check(value: object) -> Decimal:
        return _decimal(value, places, Decimal(low), Decimal(high), allowed)

    number = {"type": "number", "minimum": float(low), "maximum": float(high)}
    text = {"type": "string", "pattern": f"^{_DECIMAL_TEXT.pattern}$"}
    schema = {"anyOf": [text, number], "description": allowed}
    return BeforeValidator(check), WithJsonSchema(schema)


_usd = _number(9, "0", str(MAX_RATE), f"a decimal amount of US dollars from 0 to {MAX_RATE}")
_multiplier = _number(6, "0.000001", "100", "a decimal factor above 0, up to 100")
_share = _number(6, "0.000001", "1", "a decimal share above 0, up to 1")
_speed = _number(6, "0.000001", "100000000", "a decimal number of tokens a second above 0")

Usd: TypeAlias = Annotated[Decimal, _usd[0], _usd[1]]
Multiplier: TypeAlias = Annotated[Decimal, _multiplier[0], _multiplier[1]]
Share: TypeAlias = Annotated[Decimal, _share[0], _share[1]]
Speed: TypeAlias = Annotated[Decimal, _speed[0], _speed[1]]
Clock: TypeAlias = Annotated[str, Field(pattern=f"^({_CLOCK_TEXT.pattern})$")]
Multiplied: TypeAlias = Literal["batch", "flex", "priority"]


class _Written(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _OptionalRates(_Written):
    """USD per million tokens; what is left out is charged as `Rates` says."""

    reasoning: Usd | None = None
    cache_read: Usd | None = None
    cache_write_5m: Usd | None = None
    cache_write_1h: Usd | None = None
    audio_input: Usd | None = None
    audio_output: Usd | None = None


_BUCKETS = ("input", "output", *_OptionalRates.model_fields)


class AboveEntry(_OptionalRates):
    """The rates of the whole prompt and its answer where the prompt has more than `tokens` tokens.

    It is a full set: a bucket left out here is not taken from the base rates.
    """

    tokens: int = Field(gt=0, le=1_000_000_000, strict=True)
    input: Usd
    output: Usd


class OffPeakEntry(_OptionalRates):
    """Other prices from one wall-clock time to another; give `multiplier`, or `input` and `output`.

    `days` are the days on which the window opens; one that crosses midnight runs into the next.
    """

    # `from` is a Python keyword; files say `from`.
    from_: Clock = Field(alias="from")
    to: Clock
    zone: str = "UTC"
    days: tuple[Day, ...] = Field(default=DAYS, min_length=1)
    multiplier: Multiplier | None = None
    input: Usd | None = None
    output: Usd | None = None

    @model_validator(mode="after")
    def _check(self) -> OffPeakEntry:
        own = [bucket for bucket in _BUCKETS if getattr(self, bucket) is not None]
        if self.multiplier is not None and own:
            raise ValueError(f"give `multiplier` or rates, not both: {', '.join(own)}")
        if self.multiplier is None and (self.input is None or self.output is None):
            raise ValueError("give `multiplier`, or both `input` and `output`")
        if self.from_ == self.to or self.from_ == "24:00":
            raise ValueError("`from` and `to` must differ; a whole day is 00:00 to 24:00")
        if problem := zone_problem(self.zone):
            raise ValueError(f"zone {problem}")
        return self


class GpuEntry(_Written):
    """One's own hardware: what an hour costs, and how many tokens it gives.

    `hour_usd` is the price of one GPU for an hour, `count` how many serve one copy of the model.
    Tokens per second are of all requests together, reading (`input`) or writing (`output`) at full
    load; `utilisation` is the share of paid time that the hardware is so loaded.

    `regime` says which part of that a token is charged. amortised: the hours are paid, busy or not,
    and all of them are spread over the tokens served: hour / (tokens an hour * utilisation). So
    budgets see the whole bill, and a token on idle hardware costs as much as any. marginal: only
    what is not paid without the token: busy hour / tokens an hour, where `busy_hour_usd`, the part
    of `hour_usd` that arises only under load (power; all of it where seconds of work are billed, as
    by default), has no idle time to carry. Idle hours are then in no budget.
    """

    regime: Literal["amortised", "marginal"] = "amortised"
    busy_hour_usd: Usd | None = None
    hour_usd: Usd
    count: int = Field(default=1, gt=0, le=10_000, strict=True)
    input_tokens_per_second: Speed
    output_tokens_per_second: Speed
    utilisation: Share

    @model_validator(mode="after")
    def _check_regime(self) -> GpuEntry:
        if self.busy_hour_usd is not None:
            if self.regime != "marginal":
                raise ValueError("`busy_hour_usd` goes with `regime: marginal`")
            if self.busy_hour_usd > self.hour_usd:
                raise ValueError("`busy_hour_usd` is a part of `hour_usd`, and not more")
        return self

    @property
    def whole_hour(self) -> Fraction:
        """Nano-USD of an hour of one GPU under load."""
        return Fraction(self.hour_usd) * NANO_PER_USD

    @property
    def busy_hour(self) -> Fraction:
        """Nano-USD of that which arise only under load: none where the hours are paid anyhow."""
        if self.regime == "amortised":
            return Fraction(0)
        part = self.hour_usd if self.busy_hour_usd is None else self.busy_hour_usd
        return Fraction(part) * NANO_PER_USD

    def rate(self, tokens_per_second: Decimal) -> int:
        """Return nano-USD per million tokens, rounded up: hourly price over tokens an hour."""
        marginal = self.regime == "marginal"
        hour = (self.busy_hour if marginal else self.whole_hour) * self.count
        share = Fraction(1) if marginal else Fraction(self.utilisation)
        tokens = Fraction(tokens_per_second) * _SECONDS_PER_HOUR * share
        exact = hour * TOKENS_PER_PRICE / tokens
        return ceil_div(exact.numerator, exact.denominator)


class PriceEntry(_OptionalRates):
    """A price: `input` and `output` in USD per million tokens, or `gpu` for own hardware.

    `image` and `request` are USD each. `above` prices a whole prompt by its length; `multipliers`
    are for the service tiers batch, flex and priority; `off_peak` for times of day.
    """

    input: Usd | None = None
    output: Usd | None = None
    image: Usd | None = None
    request: Usd | None = None
    above: tuple[AboveEntry, ...] = ()
    multipliers: dict[Multiplied, Multiplier] = Field(default_factory=dict)
    off_peak: tuple[OffPeakEntry, ...] = ()
    gpu: GpuEntry | None = None

    @model_validator(mode="after")
    def _check(self) -> PriceEntry:
        own = [bucket for bucket in _BUCKETS if getattr(self, bucket) is not None]
        if self.gpu is None:
            if self.input is None or self.output is None:
                raise ValueError("give `input` and `output`, or `gpu`")
        else:
            own += [name for name in ("above", "multipliers", "off_peak") if getattr(self, name)]
            if own:
                raise ValueError(f"`gpu` takes the place of {', '.join(own)}")
            for speed in (self.gpu.input_tokens_per_second, self.gpu.output_tokens_per_second):
                if self.gpu.rate(speed) > MAX_RATE * NANO_PER_USD:
                    raise ValueError(f"`gpu` comes to more than ${MAX_RATE} per million tokens")
        thresholds = [entry.tokens for entry in self.above]
        if thresholds != sorted(set(thresholds)):
            raise ValueError("`above` must be in order of `tokens`, each once")
        if self.above and any(entry.multiplier is None for entry in self.off_peak):
            raise ValueError("with `above`, an `off_peak` window takes a `multiplier`, not rates")
        return self

    def rates(self) -> Rates:
        """Return the base rates as integers: nano-USD per million tokens."""
        if self.gpu is not None:
            return Rates.of(
                input=self.gpu.rate(self.gpu.input_tokens_per_second),
                output=self.gpu.rate(self.gpu.output_tokens_per_second),
            )
        return _rates(self)


def to_price(entry: PriceEntry, model: str) -> Price:
    """Turn a written price into integers.

    Parameters: `entry`, in USD as written; `model`, the name used in errors.
    Returns a `Price` in nano-USD per million tokens (per image, per request).
    """
    return Price(
        model=model,
        rates=entry.rates(),
        above=tuple((above.tokens, _rates(above)) for above in entry.above),
        image=_nano(entry.image) or 0,
        request=_nano(entry.request) or 0,
        multipliers={name: Fraction(value) for name, value in entry.multipliers.items()},
        off_peak=tuple(_window(window) for window in entry.off_peak),
    )


def _rates(entry: PriceEntry | AboveEntry | OffPeakEntry) -> Rates:
    written = {bucket: _nano(getattr(entry, bucket)) for bucket in _BUCKETS}
    rates = {bucket: rate for bucket, rate in written.items() if rate is not None}
    return Rates.of(**rates)


def _nano(usd: Decimal | None) -> int | None:
    return None if usd is None else int(Fraction(usd) * NANO_PER_USD)


def _window(entry: OffPeakEntry) -> OffPeak:
    return OffPeak(
        start=_minute(entry.from_),
        end=_minute(entry.to),
        zone=entry.zone,
        days=frozenset(DAYS.index(day) for day in entry.days),
        multiplier=None if entry.multiplier is None else Fraction(entry.multiplier),
        rates=None if entry.multiplier is not None else _rates(entry),
    )


def _minute(clock: str) -> int:
    hours, minutes = clock.split(":")
    return int(hours) * 60 + int(minutes)
