"""Best of n: samples are judged by the cascade's gate, and the likeliest good one is handed out."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.decide.best import BestRule, best_of
from router.errors import PolicyError
from router.policy.loader import load_policy
from tests.conftest import HELLO, MakeRouter, ladder
from tests.pipeline_kit import BUDGET, assert_books_agree, rows
from tests.provider import Provider, ok, status

BEST = {"samples": 4, "pick": "best", "sure": 0.9, "concentration": 5}


def picking(url: str, vote: Any = BEST, **changes: Any) -> dict[str, Any]:
    policy = ladder(url, budgets=BUDGET, cascade={"max_steps": 2}, **changes)
    policy["tiers"] = {tier: policy["tiers"][tier] for tier in ("nano", "frontier")}
    policy["tiers"]["nano"][0]["vote"] = vote
    return policy


def passes(request: Any, response: Any) -> bool:
    """A caller's own check, such as tests that the code must pass."""
    return "works" in response.choices[0].message.content


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_samples_are_asked_for_until_one_passes(
    make_router: MakeRouter, provider: Provider, asynchronous: bool
) -> None:
    router = make_router(
        **picking(provider.url, objective={"cost_weight": 60}), gates={"tests": passes}
    )
    assert router.explain(HELLO).arm.samples == 4
    provider.script("t-nano", ok(text="this fails"), ok(text="this fails too"), ok(text="it works"))
    if asynchronous:
        answer = asyncio.run(router.acompletion(messages=HELLO))
    else:
        answer = router.completion(messages=HELLO)
    assert answer.choices[0].message.content == "it works"
    assert len(provider.wire) == 3
    routing = router.decision(answer)
    assert routing.steps[0].why.startswith("the best of 3 samples; tests says")
    assert routing.spent == sum(row.cost for row in rows(router))
    [request] = router.ledger.log().requests()
    assert request.accepted == 3
    assert_books_agree(router, provider)


def test_all_at_once_the_first_of_the_best_is_handed_out(
    make_router: MakeRouter, provider: Provider
) -> None:
    objective = {"cost_weight": 60}
    vote = {**BEST, "at_once": True}
    router = make_router(**picking(provider.url, vote, objective=objective), gates={"t": passes})
    provider.script("t-nano", ok(text="no"), status(500), ok(text="works"), ok(text="no"))
    answer = router.completion(messages=HELLO)
    assert answer.choices[0].message.content == "works"
    assert len(provider.wire) == 4
    assert_books_agree(router, provider)


def test_where_no_sample_passes_a_dearer_tier_is_asked(
    make_router: MakeRouter, provider: Provider
) -> None:
    router = make_router(
        **picking(provider.url, objective={"cost_weight": 60}), gates={"tests": passes}
    )
    provider.script("t-nano", *[ok(text="this fails")] * 4)
    provider.script("t-frontier", ok(text="it works"))
    answer = router.completion(messages=HELLO)
    assert answer.choices[0].message.content == "it works"
    assert [row.tier for row in rows(router)] == ["nano"] * 4 + ["frontier"]
    assert_books_agree(router, provider)


def test_a_check_sees_each_sample_once(make_router: MakeRouter, provider: Provider) -> None:
    seen: list[str] = []

    def gate(request: Any, response: Any) -> bool:
        seen.append(response.choices[0].message.content)
        return passes(request, response)

    router = make_router(
        **picking(provider.url, objective={"cost_weight": 60}), gates={"tests": gate}
    )
    provider.script("t-nano", ok(text="no"), ok(text="works"))
    router.completion(messages=HELLO)
    assert seen == ["no", "works"]


def test_a_stream_that_is_not_looked_at_has_no_best(
    make_router: MakeRouter, provider: Provider
) -> None:
    router = make_router(**picking(provider.url, objective={"cost_weight": 60}))
    assert router.explain(HELLO, stream=True).arm.samples == 1


def test_best_needs_a_gate(provider: Provider) -> None:
    policy = picking(provider.url)
    del policy["cascade"]
    with pytest.raises(PolicyError, match=r"tiers\.nano\.0\.vote\.pick"):
        load_policy(policy)


# ── what it is worth ───────────────────────────────────────────────────────────────────────────
def chances(width: int) -> Any:
    return st.lists(st.floats(0.05, 1), min_size=width, max_size=width).map(
        lambda each: tuple((np.array(each) / sum(each)).tolist())
    )


RULES = st.builds(
    BestRule,
    samples=st.integers(2, 5),
    at_once=st.booleans(),
    sure=st.sampled_from([0.8, 0.95, 1.0]),
    concentration=st.floats(0.05, 20),
    good=chances(3),
    bad=chances(3),
)


@given(RULES)
@settings(max_examples=40, deadline=None)
def test_the_best_of_several_is_no_worse_than_one_and_no_better_than_any_being_good(
    rule: BestRule,
) -> None:
    value = best_of(rule)
    assert (value.good >= value.quality - 1e-9).all()
    c, any_bad = rule.concentration, np.ones_like(value.quality)
    for number in range(rule.samples):
        any_bad = any_bad * ((1 - value.quality) * c + number) / (c + number)
    assert (value.good <= 1 - any_bad + 1e-9).all()
    assert ((value.calls >= 1 - 1e-9) & (value.calls <= rule.samples + 1e-9)).all()


@pytest.mark.parametrize("at_once", [False, True])
def test_the_enumeration_is_what_picking_really_comes_to(at_once: bool) -> None:
    rule = BestRule(4, at_once, 0.9, 3.0, (0.7, 0.2, 0.1), (0.1, 0.2, 0.7))
    value, rng = best_of(rule), np.random.default_rng(0)
    good, bad = np.array(rule.good), np.array(rule.bad)
    for quality in (0.3, 0.6):
        posterior = quality * good / (quality * good + (1 - quality) * bad)
        right = paid = 0
        for _ in range(4000):
            chance, best = rng.beta(quality * 3.0, (1 - quality) * 3.0), (-1.0, False)
            for _ in range(rule.samples):
                is_good = bool(rng.random() < chance)
                signal = rng.choice(3, p=good if is_good else bad)
                best = max(best, (float(posterior[signal]), is_good), key=lambda each: each[0])
                paid += 1
                if not at_once and best[0] >= rule.sure:
                    break
            right += best[1]
        assert np.interp(quality, value.quality, value.good) == pytest.approx(
            right / 4000, abs=0.03
        )
        assert np.interp(quality, value.quality, value.calls) == pytest.approx(paid / 4000, abs=0.1)
