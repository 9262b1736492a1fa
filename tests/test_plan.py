"""A plan: what each arm may cost on the day of the request, and what it can take."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from decision_latency import steps
from hypothesis import given, settings
from hypothesis import strategies as st

from router.decide import Bar
from router.dispatch.bounds import input_bound
from router.errors import UnknownPrice
from router.planning.deciding import decide
from router.planning.ladder import Ladder
from router.planning.make import make_plan
from router.planning.plan import Plan
from router.policy.loader import load_policy
from router.predict import extract, shape_of
from router.predict.effort import Efforts
from router.prices import PriceBook, quote
from router.prices.book import BookEntry
from router.types import TIERS, Prediction, Quote, Request, Room
from tests.conftest import ladder as ladder_policy

MODEL = "openai/dated"
EVEN = Prediction(
    quality=np.array([0.6, 0.7, 0.8, 0.9]),
    quality_std=np.full(4, 0.1),
    output_tokens=np.full(4, 80.4),
    output_tokens_p50=np.full(4, 70.0),
    output_tokens_p90=np.full(4, 150.0),
    output_tokens_p95=np.full(4, 200.0),
    novel=np.array(False),
)
MIDNIGHT = 1_798_761_600.0  # 2027-01-01T00:00Z


def entry(day: str, dollars: str, **more: Any) -> BookEntry:
    return BookEntry.model_validate(
        {
            "model": MODEL,
            "input": dollars,
            "output": dollars,
            "effective_from": day,
            "checked": day,
            "source": "a price list",
            **more,
        }
    )


def prepared(book: PriceBook, objective: Any = None, **deployment: Any) -> Ladder:
    tiers = {"frontier": [{"model": MODEL, **deployment}]}
    policy = {"version": 1, "objective": objective or {"cost_weight": 1}, "tiers": tiers}
    return Ladder.of(load_policy(policy, book=book, now=MIDNIGHT), book, Efforts({}))


def plan_at(ladder: Ladder, now: float, params: Any = None, content: Any = "Hello there") -> Plan:
    request = Request("r", [{"role": "user", "content": content}], params or {}, now=now)
    shape = shape_of(request.messages, request.params)
    return make_plan(ladder, request, shape, extract(request), EVEN)


BOOK = PriceBook([entry("2026-06-01", "1"), entry("2027-01-01", "2")], "0" * 64)


def test_a_price_that_changes_at_midnight_is_quoted_from_midnight_on() -> None:
    ladder = prepared(BOOK)
    before, after = plan_at(ladder, MIDNIGHT - 0.001), plan_at(ladder, MIDNIGHT)
    assert before.quotes[0].upper is not None
    assert after.quotes[0].upper == 2 * before.quotes[0].upper
    assert after.quotes[0].expected == 2 * (before.quotes[0].expected or 0)
    again = plan_at(ladder, MIDNIGHT - 0.001)  # a request that comes late is priced as of its time
    assert again.quotes == before.quotes


def test_a_price_that_is_not_yet_known_is_no_price() -> None:
    early = plan_at(prepared(BOOK), MIDNIGHT - 365 * 86_400)
    assert (early.quotes[0].expected, early.quotes[0].upper) == (None, None)
    assert early.baseline() is None


def test_of_two_entries_of_one_day_the_later_line_holds() -> None:
    book = PriceBook([entry("2026-06-01", "1"), entry("2026-06-01", "3")], "0" * 64)
    price = prepared(book).prices[0].at(MIDNIGHT)
    assert price is not None
    assert price == book.price(MODEL, MIDNIGHT)
    assert price.rates.input == 3_000_000_000


def test_an_own_price_holds_at_any_time() -> None:
    ladder = prepared(BOOK, price={"input": "5", "output": "5"})
    quotes = {plan_at(ladder, now).quotes for now in (0.0, MIDNIGHT, 4e9)}
    assert len(quotes) == 1
    assert quotes.pop()[0].upper is not None


requests = st.fixed_dictionaries(
    {},
    optional={
        "max_tokens": st.integers(1, 200_000),
        "max_completion_tokens": st.integers(1, 200_000),
        "n": st.integers(1, 8),
        "service_tier": st.sampled_from(["flex", "priority", "auto", "default", "unheard-of"]),
        "audio": st.just({"voice": "x"}),
        "tools": st.just([{"type": "function", "function": {"name": "f"}}]),
    },
)
WIDE = PriceBook(
    [
        entry(
            "2026-06-01",
            "1.37",
            above=[{"tokens": 900, "input": "3", "output": "7"}],
            multipliers={"flex": "0.5", "priority": "1.75"},
            off_peak=[{"from": "22:00", "to": "06:00", "multiplier": "0.3"}],
            image="0.001",
            request="0.0001",
        ),
        entry(
            "2027-01-01",
            "2",
            audio_input="9",
            multipliers={"flex": "0.7"},
            capabilities={"context_window": 2000, "max_output_tokens": 1500, "vision": True},
        ),
    ],
    "0" * 64,
)


@given(
    requests,
    st.integers(0, 400),
    st.booleans(),
    st.sampled_from([None, "flex"]),
    st.integers(-200_000, 200_000),
)
@settings(max_examples=150, deadline=None)
def test_a_plan_quotes_what_the_price_book_says_of_that_moment(
    params: dict[str, Any], words: int, image: bool, tier: str | None, seconds: int
) -> None:
    now = MIDNIGHT + seconds
    content: list[Any] = [{"type": "text", "text": "steep slope " * words}]
    if image:
        content.append({"type": "image_url", "image_url": {"url": "https://example.com/a.png"}})
    plan = plan_at(prepared(WIDE, service_tier=tier), now, params, content)
    shape, room = plan.shape, 2000 - 64 - round(1.1 * plan.shape.input_tokens)
    asked = [params[name] for name in ("max_tokens", "max_completion_tokens") if name in params]
    cap = min(1500, max(asked, default=1500), room if room >= 16 else 0)
    samples = params.get("n", 1)
    bound = input_bound(shape, 2000)
    assert bound is not None
    try:
        expected = quote(
            WIDE.price(MODEL, now),
            input_tokens=shape.input_tokens,
            output_tokens=min(80, cap) * samples,
            input_bound=bound,
            output_cap=cap,
            images=shape.images,
            samples=samples,
            audio="audio" in params,
            service_tier=params.get("service_tier", tier),
            now=now,
        )
    except UnknownPrice:
        expected = Quote(None, None, cap)
    assert plan.quotes == (expected,)


CACHED = PriceBook([entry("2026-06-01", "1", cache_read="0.1")], "0" * 64)


def test_a_long_system_prompt_is_expected_from_the_cache_and_held_at_the_full_price() -> None:
    system = {"role": "system", "content": "Name the branch that a customer should call. " * 200}
    messages = [system, {"role": "user", "content": "Hello there"}]
    request = Request("r", messages, {}, now=MIDNIGHT)
    shape = shape_of(messages, {})
    assert shape.prefix_tokens > 1500

    def quoted(book: PriceBook) -> Quote:
        return make_plan(prepared(book), request, shape, extract(request), EVEN).quotes[0]

    plain = PriceBook([entry("2026-06-01", "1")], "0" * 64)
    assert quoted(CACHED).upper == quoted(plain).upper
    assert quoted(CACHED).expected == (quoted(plain).expected or 0) - shape.prefix_tokens * 900


def test_no_request_is_kept_from_an_arm_by_what_an_earlier_one_needed() -> None:
    ladder = Ladder.of(load_policy(ladder_policy("http://127.0.0.1:9")), BOOK, Efforts({}))
    picture = [{"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}]
    first = plan_at(ladder, MIDNIGHT)
    assert (plan_at(ladder, MIDNIGHT, content=picture).options.barred == Bar.NO_VISION).all()
    assert (plan_at(ladder, MIDNIGHT).options.barred == Bar.FREE).all()
    assert decide(first, Room()).arm == decide(plan_at(ladder, MIDNIGHT), Room()).arm
    with pytest.raises(ValueError, match="read-only"):
        first.options.barred[0, 0] = Bar.FAILED


def test_the_baseline_of_a_plan_is_its_tiers_own_quote() -> None:
    ladder = Ladder.of(load_policy(ladder_policy("http://127.0.0.1:9")), BOOK, Efforts({}))
    plan = plan_at(ladder, MIDNIGHT)
    assert plan.baseline() == plan.quotes[TIERS.index("frontier")].expected
    assert decide(plan, Room()).baseline == plan.baseline()


def test_a_ceiling_that_no_price_can_be_held_against_is_an_unknown_price() -> None:
    ladder = prepared(BOOK, objective={"max_cost_per_request": "1"})
    with pytest.raises(UnknownPrice, match="max_cost_per_request"):
        decide(plan_at(ladder, MIDNIGHT, {"service_tier": "unheard-of"}), Room())


@pytest.mark.parametrize("cost_weight", [0.5, 20, 1000])
def test_a_dearer_model_that_answers_in_a_third_of_the_tokens_wins(cost_weight: float) -> None:
    policy = ladder_policy("http://127.0.0.1:9", objective={"cost_weight": cost_weight})
    policy["tiers"] = {tier: policy["tiers"][tier] for tier in ("mini", "frontier")}
    policy["tiers"]["mini"][0]["price"] = {"input": "1", "output": "10"}
    policy["tiers"]["frontier"][0]["price"] = {"input": "1", "output": "20"}
    prepared = Ladder.of(load_policy(policy), BOOK, Efforts({}))
    request = Request("r", [{"role": "user", "content": "Add two numbers."}], {}, now=MIDNIGHT)
    shape = shape_of(request.messages, request.params)

    def chosen(frontier_tokens: float) -> str:
        tokens = np.array([0.0, 300.0, 0.0, frontier_tokens])
        said = replace(EVEN, quality=np.full(4, 0.8), output_tokens=tokens)
        return decide(make_plan(prepared, request, shape, extract(request), said), Room()).arm.tier

    assert chosen(100.0) == "frontier"  # twice the price, a third of the tokens
    assert chosen(300.0) == "mini"


def test_the_latency_benchmark_makes_a_whole_decision_of_its_steps():
    asked = Request("r", ({"role": "user", "content": "Prove that 2 is prime."},), {}, now=MIDNIGHT)
    made = {name: step() for name, step in steps(asked).items()}
    assert made["whole decision"].arm == made["choice"].arm
