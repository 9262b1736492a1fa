"""From how many tokens a day on one's own hardware is cheaper than an API: exact arithmetic.

With s the share of prompt tokens, one token of the mix costs at the API
a = s * input rate + (1 - s) * output rate, and on own hardware v, the busy hour over the tokens of
an hour at full load, besides F a day for the hours that are paid anyhow. Own hardware is cheaper
from F / (a - v) tokens a day on. At full load it serves C tokens a day; where F / (a - v) is above
C, a token costs more than a even at full load, and no number of machines changes that.

Assumed: both count a text as the same number of tokens; ordinary hours; nothing is read from a
cache; the hardware costs nothing but its hours.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from router.errors import UnknownPrice
from router.money import TOKENS_PER_PRICE, ceil_div, format_usd
from router.policy.endpoints import endpoint_key
from router.prices import Price, cost
from router.types import Usage

if TYPE_CHECKING:
    from router.policy import Policy
    from router.policy.deployment import Deployment
    from router.prices import PriceBook
    from router.prices.schema import GpuEntry
    from router.types import AttemptRow

DAY = 86_400
_MINUTES = 1440  # that are held of a model
USUAL_MIX = (3, 1)  # prompt and answer tokens, where nothing is logged


class TokenCounts:
    """Tokens of a log's attempts by model: prompts' and answers', and the most that were written in
    answers to the calls of one minute."""

    def __init__(self) -> None:
        self.by_model: dict[str, list[int]] = {}
        self.busiest_minute: dict[str, int] = {}
        self._minutes: dict[str, dict[int, int]] = {}  # what was written in the latest ones

    def add(self, attempt: AttemptRow) -> None:
        """Count an attempt whose tokens are known. Attempts come in the order of their requests'
        times: one that was retried or put off, after others of a later minute."""
        if attempt.input_tokens is None or attempt.output_tokens is None:
            return
        found = self.by_model.setdefault(attempt.model, [0, 0])
        found[0] += attempt.input_tokens
        found[1] += attempt.output_tokens
        minutes, minute = self._minutes.setdefault(attempt.model, {}), int(attempt.time // 60)
        minutes[minute] = minutes.get(minute, 0) + attempt.output_tokens
        most = self.busiest_minute.get(attempt.model, 0)
        self.busiest_minute[attempt.model] = max(most, minutes[minute])
        if len(minutes) > _MINUTES:
            del minutes[min(minutes)]

    def mix(self) -> tuple[int, int]:
        """Prompt and answer tokens of all models, (0, 0) where nothing is known."""
        return (
            sum(prompt for prompt, _ in self.by_model.values()),
            sum(answer for _, answer in self.by_model.values()),
        )


@dataclass(frozen=True, slots=True)
class BreakEven:
    """One's own deployment against one at an API; tokens are of the log's mix.

    `tokens_per_day`: from so many on it is cheaper, None for never. `serves_per_day`: at full load.
    `own_full`, `own_priced` and `api` are nano-USD per million tokens: of own hardware at full
    load, all hours counted; as the policy prices it; and at the API. `fixed` is nano-USD a day that
    are paid anyhow. `measured_per_day` tokens, `measured_utilisation` and `measured_writing`, the
    tokens a second of its busiest minute's answers, are what the log shows of it, None where it
    shows nothing; `utilisation` and `writing` are what the policy says.
    """

    own_model: str
    api_model: str
    prompt_share: float
    mix_measured: bool
    tokens_per_day: int | None
    serves_per_day: int
    own_full: int
    own_priced: int
    api: int
    fixed: int
    utilisation: float
    measured_per_day: float | None
    measured_utilisation: float | None
    writing: float
    measured_writing: float | None

    @property
    def seen(self) -> str:
        """What the log shows of the policy's assumptions, in words; "" where it shows nothing."""
        if self.measured_utilisation is None:
            return ""
        text = (
            f"Busy {self.measured_utilisation:.1%} of the time; {self.utilisation:.0%} is assumed."
        )
        if self.measured_writing is None:
            return text
        text += (
            f" It wrote up to {self.measured_writing:,.0f} tokens a second in a minute; "
            f"{self.writing:,.0f} are assumed"
        )
        slow = self.measured_writing > self.writing
        return f"{text}, which is too few." if slow else f"{text}."

    @property
    def verdict(self) -> str:
        """In words."""
        if self.tokens_per_day is None:
            return (
                f"never: even at full load a million tokens cost {format_usd(self.own_full)}, "
                f"at the API {format_usd(self.api)}"
            )
        if self.tokens_per_day == 0:
            return "at any volume"
        return (
            f"from {self.tokens_per_day:,} tokens a day, "
            f"{self.tokens_per_day / self.serves_per_day:.1%} of what it can serve"
        )


def break_evens(
    policies: Iterable[Policy],
    book: PriceBook,
    now: float,
    counts: TokenCounts,
    seconds: float,
) -> tuple[BreakEven, ...]:
    """Each deployment on own hardware against each other one with a known price.

    Parameters: `now`, unix seconds, at whose prices; `counts`, what the log shows, over `seconds`.
    """
    own: dict[object, tuple[Deployment, GpuEntry]] = {}
    others: dict[object, tuple[Deployment, Price]] = {}
    for policy in policies:
        for arm in policy.arms():
            deployment = policy.deployment(arm)
            if deployment.price is not None and deployment.price.gpu is not None:
                own.setdefault(endpoint_key(deployment), (deployment, deployment.price.gpu))
            elif (price := deployment.price_at(book, now)) is not None:
                key = (deployment.model, deployment.service_tier)
                others.setdefault(key, (deployment, price))
    mix, measured = counts.mix(), True
    if not sum(mix):
        mix, measured = USUAL_MIX, False
    return tuple(
        found
        for deployment, gpu in own.values()
        for found in _against(deployment, gpu, others.values(), mix, measured, counts, seconds, now)
    )


def _against(
    deployment: Deployment,
    gpu: GpuEntry,
    others: Iterable[tuple[Deployment, Price]],
    mix: tuple[int, int],
    measured: bool,
    counts: TokenCounts,
    seconds: float,
    now: float,
) -> Iterator[BreakEven]:
    prompt = Fraction(mix[0], sum(mix))
    seconds_each = _busy_seconds(gpu, prompt, 1 - prompt)
    fixed = (gpu.whole_hour - gpu.busy_hour) * gpu.count * 24
    busy = gpu.busy_hour * gpu.count * seconds_each / 3600  # nano-USD a token
    serves = DAY / seconds_each
    own_priced = (prompt * gpu.rate(gpu.input_tokens_per_second)) + (
        (1 - prompt) * gpu.rate(gpu.output_tokens_per_second)
    )
    seen = counts.by_model.get(deployment.model)
    most = counts.busiest_minute.get(deployment.model)
    for other, price in others:
        try:
            api = _api_rate(price, prompt, other.service_tier, now)
        except UnknownPrice:
            continue
        needed = fixed / (api - busy) if api > busy else None
        if needed is not None and needed > serves:
            needed = None
        yield BreakEven(
            own_model=deployment.model,
            api_model=other.model,
            prompt_share=float(prompt),
            mix_measured=measured,
            tokens_per_day=None if needed is None else _up(needed),
            serves_per_day=int(serves),
            own_full=_up((fixed / serves + busy) * TOKENS_PER_PRICE),
            own_priced=_up(own_priced),
            api=_up(api * TOKENS_PER_PRICE),
            fixed=_up(fixed),
            utilisation=float(gpu.utilisation),
            measured_per_day=sum(seen) * DAY / seconds if seen and seconds > 0 else None,
            measured_utilisation=float(_busy_seconds(gpu, Fraction(seen[0]), Fraction(seen[1])))
            / seconds
            if seen and seconds > 0
            else None,
            writing=float(gpu.output_tokens_per_second),
            measured_writing=None if most is None else most / 60,
        )


def _busy_seconds(gpu: GpuEntry, prompt: Fraction, answer: Fraction) -> Fraction:
    """Seconds at full load that so many tokens take."""
    reading, writing = gpu.input_tokens_per_second, gpu.output_tokens_per_second
    return prompt / Fraction(reading) + answer / Fraction(writing)


def _api_rate(price: Price, prompt: Fraction, service_tier: str | None, now: float) -> Fraction:
    """Nano-USD of one token of the mix in short prompts, by the price's own arithmetic."""
    plain = Price(price.model, price.rates, multipliers=price.multipliers)
    each = [
        cost(plain, usage, service_tier=service_tier, now=now)
        for usage in (
            Usage(input=TOKENS_PER_PRICE, requests=0),
            Usage(output=TOKENS_PER_PRICE, requests=0),
        )
    ]
    return (prompt * each[0] + (1 - prompt) * each[1]) / TOKENS_PER_PRICE


def _up(amount: Fraction) -> int:
    return ceil_div(amount.numerator, amount.denominator)
