"""What an attempt is charged: the table of section 2.5 of the ledger's specification, in code.

| outcome                                                     | charged                          |
|-------------------------------------------------------------|----------------------------------|
| an answer with a valid usage report                         | its exact cost (`computed`)      |
| ... whose provider says that it cost over 1% more           | what it says (`reported`)        |
| an answer without one, from a model that does not reason    | input bound + answer's bytes     |
| an answer without one, from a model that may reason         | what was reserved (`assumed`)    |
| an HTTP error status, no connection, a cancel before that   | nothing: released                |
| a timeout, a broken stream, an unreadable reply, a cancel   | what was reserved (`assumed`)    |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from router.dispatch.usage import read_usage, reported_cost
from router.dispatch.wire import CancelledUnsent
from router.errors import ProviderError, UnknownPrice
from router.money import format_usd
from router.prices import Price, cost
from router.types import CostSource, Usage


@dataclass(frozen=True, slots=True)
class Terms:
    """The terms an attempt was reserved on; it is settled on the same, whatever changed since."""

    price: Price | None
    service_tier: str | None
    now: float  # unix seconds when it was reserved
    reserved: int  # nano-USD
    input_bound: int | None
    may_reason: bool
    images: int = 0  # in the prompt: what a price for each is charged for


@dataclass(frozen=True, slots=True)
class Charge:
    """`cost` in nano-USD, None where no price is known; `note` names an anomaly, if any.

    `billed` is False where the provider cannot bill: the attempt is released.
    """

    cost: int | None
    source: CostSource
    usage: Usage | None = None
    note: str | None = None
    billed: bool = True

    @property
    def tokens(self) -> int | None:
        """Tokens of prompt and answer, None where the provider did not say."""
        return None if self.usage is None else self.usage.input_tokens + self.usage.output_tokens


def for_answer(terms: Terms, report: Mapping[str, Any] | None, answer_bytes: int) -> Charge:
    """Charge a finished answer. `answer_bytes`: UTF-8 bytes of all text and tool calls in it."""
    usage, problem = read_usage(report)
    if terms.price is None:
        return Charge(None, "computed", usage, "price unknown")
    if usage is not None:
        assert report is not None  # it was read
        usage = replace(usage, images=terms.images)
        return _told(terms, _priced(terms, terms.price, usage, report), reported_cost(report))
    if terms.may_reason or terms.input_bound is None:
        return Charge(terms.reserved, "assumed", note=problem)
    assumed = Usage(input=terms.input_bound, output=answer_bytes, images=terms.images)
    bounded = _priced(terms, terms.price, assumed).cost
    assert bounded is not None
    return Charge(min(bounded, terms.reserved), "assumed", note=problem)


def for_failure(terms: Terms, error: BaseException) -> Charge:
    """Charge an attempt that gave no answer."""
    unsent = isinstance(error, CancelledUnsent)
    if unsent or (isinstance(error, ProviderError) and not error.request_written):
        return Charge(0, "computed", billed=False)
    if terms.price is None:
        return Charge(None, "assumed", note="price unknown")
    return Charge(terms.reserved, "assumed", note="billing unknown, charged as reserved")


def _priced(
    terms: Terms, price: Price, usage: Usage, report: Mapping[str, Any] | None = None
) -> Charge:
    tier = terms.service_tier
    served = (report or {}).get("service_tier")
    # The provider bills the tier that it served, which need not be the one that was asked for.
    # "auto" names none; litellm reads it into replies of Groq that say nothing.
    if isinstance(served, str) and served in price.tables and served != "auto":
        tier = served
    try:
        amount = cost(price, usage, service_tier=tier, now=terms.now)
    except UnknownPrice as error:  # a bucket without a rate, such as audio
        return Charge(terms.reserved, "assumed", usage, error.why)
    return Charge(amount, "computed", usage, _above(terms, amount))


def _told(terms: Terms, charge: Charge, reported: int | None) -> Charge:
    """Of a computed and a reported cost that differ by more than 1%, the larger; say both."""
    if reported is None or charge.cost is None:
        return charge
    low, high = sorted((reported, charge.cost))
    if 100 * high <= 101 * low:
        return charge
    note = f"the provider reports {format_usd(reported)}, not {format_usd(charge.cost)}"
    source = charge.source
    if reported > charge.cost:
        source = "reported"
        above = _above(terms, reported)
        note = f"{note}; {above}" if above else note
    return Charge(high, source, charge.usage, note)


def _above(terms: Terms, amount: int) -> str | None:
    return "cost above the reservation" if amount > terms.reserved else None
