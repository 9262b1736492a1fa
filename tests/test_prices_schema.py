"""How a price may be written, and what is refused."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from pydantic import ValidationError

from router.prices import PriceEntry, to_price

BASE: dict[str, Any] = {"input": "1", "output": "2"}
GPU: dict[str, Any] = {
    "hour_usd": "2",
    "input_tokens_per_second": 100,
    "output_tokens_per_second": 10,
    "utilisation": "0.5",
}
ABOVE: dict[str, Any] = {"tokens": 1000, **BASE}


@pytest.mark.parametrize("amount", ["0.075", Decimal("0.075"), "00.0750"])
def test_text_and_decimals_are_exact(amount: object) -> None:
    price = to_price(PriceEntry.model_validate({"input": amount, "output": 3}), "own/model")
    assert price.rates.input == 75_000_000
    assert price.rates.output == 3_000_000_000


@pytest.mark.parametrize(
    "amount",
    [
        0.5,
        1.0,
        True,
        float("nan"),
        "NaN",
        "Infinity",
        Decimal("Infinity"),
        "-1",
        -1,
        Decimal("-0"),
        "1001",
        1001,
        "1e-3",
        "1_000",
        " 1",
        "",
        "one",
        "0.0000000001",
        Decimal("1e-999999999"),
        Decimal("1e999999999"),
        "9" * 10_000,
        [],
    ],
    ids=lambda value: repr(value)[:20],
)
def test_an_amount_that_is_no_plain_decimal_in_range_is_refused(amount: object) -> None:
    with pytest.raises(ValidationError) as caught:
        PriceEntry.model_validate({"input": amount, "output": "2"})
    assert caught.value.errors()[0]["loc"] == ("input",)


@pytest.mark.parametrize(
    ("written", "problem"),
    [
        ({}, "give `input` and `output`, or `gpu`"),
        ({"input": "1"}, "give `input` and `output`, or `gpu`"),
        ({**BASE, "gpu": GPU}, "takes the place of input, output"),
        ({"gpu": GPU, "above": [ABOVE]}, "takes the place of above"),
        ({"gpu": {**GPU, "utilisation": 0}}, "share above 0"),
        ({"gpu": {**GPU, "utilisation": "1.1"}}, "share above 0"),
        ({"gpu": {**GPU, "count": 0}}, "greater than 0"),
        ({"gpu": {**GPU, "output_tokens_per_second": "0.001"}}, "more than $1000"),
        ({**BASE, "above": [ABOVE, ABOVE]}, "in order of `tokens`"),
        ({**BASE, "above": [{"tokens": 5, "input": "1"}]}, "Field required"),
        ({**BASE, "multipliers": {"ultra": 2}}, "'batch', 'flex' or 'priority'"),
        ({**BASE, "multipliers": {"flex": 0}}, "factor above 0"),
        ({**BASE, "off_peak": [{"from": "1:00", "to": "02:00", "multiplier": 1}]}, "pattern"),
        ({**BASE, "off_peak": [{"from": "01:00", "to": "01:00", "multiplier": 1}]}, "must differ"),
        ({**BASE, "off_peak": [{"from": "01:00", "to": "02:00"}]}, "give `multiplier`"),
        (
            {**BASE, "off_peak": [{"from": "01:00", "to": "02:00", "multiplier": 1, "input": 1}]},
            "not both",
        ),
        (
            {
                **BASE,
                "off_peak": [{"from": "01:00", "to": "02:00", "multiplier": 1, "zone": "Mars/1"}],
            },
            "not an IANA time zone",
        ),
        (
            {
                **BASE,
                "off_peak": [{"from": "01:00", "to": "02:00", "multiplier": 1, "zone": "../x"}],
            },
            "not an IANA time zone",
        ),
        (
            {**BASE, "above": [ABOVE], "off_peak": [{"from": "01:00", "to": "02:00", **BASE}]},
            "takes a `multiplier`",
        ),
        ({**BASE, "outptu": "2"}, "Extra inputs"),
    ],
)
def test_a_price_that_contradicts_itself_is_refused(written: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValidationError) as caught:
        PriceEntry.model_validate(written)
    assert problem in str(caught.value)


def test_a_written_price_cannot_be_changed() -> None:
    entry = PriceEntry.model_validate(BASE)
    with pytest.raises(ValidationError):
        entry.input = Decimal(0)  # type: ignore[misc]


def test_editors_get_a_schema_that_allows_text_and_numbers() -> None:
    schema = PriceEntry.model_json_schema()
    assert schema["additionalProperties"] is False
    kinds = {kind.get("type") for kind in schema["properties"]["input"]["anyOf"][0]["anyOf"]}
    assert kinds == {"string", "number"}
    assert "from" in schema["$defs"]["OffPeakEntry"]["properties"]
