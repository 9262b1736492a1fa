"""What a line of a batch is settled on, as JSON: whoever settles it need not be who sent it, and
neither policy nor price book need be what they were."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from typing import Any

from router.dispatch.charge import Charge, Terms
from router.prices.price import Price, Rates
from router.types import AttemptRow


@dataclass(frozen=True, slots=True)
class LineTerms:
    """`row` is the attempt as it stands if nothing is heard of it; `baseline` expected nano-USD of
    the baseline tier's own answer, and `is_baseline` whether this is one; `lowered`, whether the
    cap on the wire is a prediction's and not the one that was asked for."""

    row: AttemptRow
    terms: Terms
    baseline: int | None
    is_baseline: bool
    lowered: bool = False

    @property
    def reservation_id(self) -> str:
        return f"{self.row.request_id}/{self.row.number}"

    def settled(
        self,
        status: Any,
        charge: Charge,
        now: float,
        *,
        report: Mapping[str, Any] | None = None,
        error: str | None = None,
        answer: str | None = None,
        form: str | None = None,
    ) -> AttemptRow:
        """The attempt's row at its end. `form`: what is wrong with its answer by its form."""
        usage = charge.usage
        return replace(
            self.row,
            status=status,
            cost=charge.cost,
            cost_source=charge.source,
            latency=max(0.0, now - self.row.time),
            usage=report,
            input_tokens=usage.input_tokens if usage else None,
            output_tokens=usage.output_tokens if usage else None,
            error=error,
            note="; ".join(filter(None, ("batch", form, charge.note))),
            answer=answer,
        )


def to_text(line: LineTerms) -> str:
    content = {
        "row": asdict(line.row),
        "terms": {**asdict(replace(line.terms, price=None)), "price": _priced(line.terms.price)},
        "baseline": line.baseline,
        "is_baseline": line.is_baseline,
        "lowered": line.lowered,
    }
    return json.dumps(content, ensure_ascii=False)


def of_text(text: str) -> LineTerms:
    content = json.loads(text)
    terms = {**content["terms"], "price": _price(content["terms"]["price"])}
    return LineTerms(
        AttemptRow(**content["row"]),
        Terms(**terms),
        content["baseline"],
        content["is_baseline"],
        content.get("lowered", False),  # of a line that an earlier release sent
    )


def _priced(price: Price | None) -> Any:
    """A price without hours: a batch is offered only where there are none."""
    if price is None:
        return None
    return {
        "model": price.model,
        "rates": asdict(price.rates),
        "above": [[tokens, asdict(rates)] for tokens, rates in price.above],
        "image": price.image,
        "request": price.request,
        "multipliers": {name: str(factor) for name, factor in price.multipliers.items()},
    }


def _price(content: Any) -> Price | None:
    if content is None:
        return None
    return Price(
        model=content["model"],
        rates=Rates(**content["rates"]),
        above=tuple((tokens, Rates(**rates)) for tokens, rates in content["above"]),
        image=content["image"],
        request=content["request"],
        multipliers={name: Fraction(text) for name, text in content["multipliers"].items()},
    )
