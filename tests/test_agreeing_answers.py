"""Cascades whose answers are compared, with nothing trained, over real HTTP."""

from __future__ import annotations

from typing import Any

import pytest

from router import Router
from tests.conftest import HELLO, MakeRouter
from tests.pipeline_kit import BUDGET, assert_books_agree, requests
from tests.provider import Provider, ok
from tests.test_cascade import CASCADE, text_of

ASKS_A_NUMBER = [{"role": "user", "content": "How many are left? Answer with a number."}]


def says(provider: Provider, **numbers: str) -> None:
    for tier, number in numbers.items():
        provider.script(f"t-{tier}", ok(text=f"The answer is {number}."))


def called(router: Router, response: Any) -> list[str]:
    return [step.arm.partition("/")[0] for step in Router.decision(response).steps]


def agreeing(make_router: MakeRouter) -> Router:
    return make_router(
        budgets=BUDGET, cascade={**CASCADE, "max_steps": 3}, objective={"cost_weight": 40}
    )


def test_two_cheap_tiers_that_agree_are_believed(
    make_router: MakeRouter, provider: Provider
) -> None:
    router = agreeing(make_router)
    says(provider, nano="16", mini="16")
    response = router.completion(messages=ASKS_A_NUMBER)
    assert called(router, response) == ["nano", "mini"]
    steps_taken = Router.decision(response).steps
    assert steps_taken[1].why == "no fault of form; says the same as nano"
    assert steps_taken[1].quality > 0.9
    assert_books_agree(router, provider)


def test_where_two_differ_a_third_decides_between_them(
    make_router: MakeRouter, provider: Provider
) -> None:
    """16, 12, 16: two by two, the first was given up before the third could speak for it."""
    router = agreeing(make_router)
    says(provider, nano="16", mini="12", mid="16")
    response = router.completion(messages=ASKS_A_NUMBER)
    assert called(router, response) == ["nano", "mini", "mid"]
    assert text_of(response) == "The answer is 16."
    says(provider, nano="16", mini="12", mid="12")
    response = router.completion(messages=ASKS_A_NUMBER)
    assert text_of(response) == "The answer is 12."
    assert_books_agree(router, provider)


def test_wordings_that_differ_say_nothing_and_no_second_opinion_is_bought(
    make_router: MakeRouter, provider: Provider
) -> None:
    router = agreeing(make_router)
    response = router.completion(messages=HELLO)
    assert len(called(router, response)) == 1
    # A form that can be checked fails: what comes after it is not held to say something else.
    provider.script(provider.models[0], ok(text="I cannot help with that."))
    response = router.completion(messages=HELLO)
    steps_taken = Router.decision(response).steps
    assert len(steps_taken) == 2
    assert steps_taken[1].quality > 0.7


def test_a_log_keeps_whether_answers_were_compared(
    make_router: MakeRouter, provider: Provider
) -> None:
    explore = {"rate": 0.05, "max_spend": 1, "max_quality_loss": 1}
    cascade = {**CASCADE, "max_steps": 3}
    router = make_router(cascade=cascade, objective={"cost_weight": 40}, explore=explore)
    says(provider, nano="16", mini="16")
    router.completion(messages=ASKS_A_NUMBER)
    router.completion(messages=HELLO)
    kept = [each.looks for each in requests(router)]
    assert [looks is not None and looks["compared"] for looks in kept] == [True, False]


@pytest.mark.parametrize("text", ["[" * 50_000, '{"a": ' * 50_000, "", "\\boxed{" * 20_000])
def test_an_answer_that_cannot_be_read_is_handed_out_all_the_same(
    make_router: MakeRouter, provider: Provider, text: str
) -> None:
    router = agreeing(make_router)
    schema = {"name": "left", "schema": {"type": "integer"}}
    asked = {"type": "json_schema", "json_schema": schema}
    for extra in ({}, {"response_format": asked}):
        provider.default = ok(text=text)
        response = router.completion(messages=ASKS_A_NUMBER, **extra)
        assert (text_of(response) or "") == text
    assert_books_agree(router, provider)
