"""Log-probabilities as evidence: asked for on the wire, read by the gate, kept from the caller."""

from __future__ import annotations

import asyncio
import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router import Router, load_policy
from router.decide.evidence import seen
from router.dispatch.logprobs import logprob_arguments
from router.gates import confidence
from router.gates.answer import Answer, answer_of_kept
from router.gates.confidence import Confidence, confidence_of
from router.gates.gate import Gate
from router.policy.deployment import Deployment
from router.types import Request
from tests.conftest import HELLO, MakeRouter, ladder
from tests.pipeline_kit import BUDGET, assert_books_agree, rows
from tests.provider import Behaviour, Provider, ok
from tests.test_cascade import CASCADE, CHEAP, text_of

LOGPROBS = {**CASCADE, "logprobs": True}


def answer(letter: str, p: float, rival: float) -> Behaviour:
    """ "The answer is X." with this chance of the letter and of its best rival."""
    tokens = [
        ("The", -0.1, {"My": -3.0}),
        (" answer", 0.0, {" result": -9.0}),
        (" is", 0.0, {":": -9.0}),
        (f" {letter}", math.log(p), {" Z": math.log(rival)}),
        (".", 0.0, {"!": -9.0}),
    ]
    return ok(text=f"The answer is {letter}.", logprobs=tuple(tokens))


SURE, UNSURE = answer("B", 0.97, 0.01), answer("B", 0.4, 0.35)


def test_an_unsure_answer_goes_on_and_a_sure_one_does_not(
    make_router: MakeRouter, provider: Provider
) -> None:
    router = make_router(budgets=BUDGET, cascade=LOGPROBS, objective=CHEAP)
    provider.default = SURE
    sure = router.completion(messages=HELLO)
    assert len(provider.wire) == 1
    assert [step.why for step in Router.decision(sure).steps] == ["no fault of form; tokens sure"]
    provider.script(provider.models[0], UNSURE)
    unsure = router.completion(messages=HELLO)
    first, second = Router.decision(unsure).steps
    assert first.why == "no fault of form; tokens unsure"
    assert second.why == "no fault of form; tokens sure"
    assert first.quality < Router.decision(sure).steps[0].quality
    for _, _, body in provider.wire:
        assert (body["logprobs"], body["top_logprobs"]) == (True, 2)
    for response in (sure, unsure):
        assert getattr(response.choices[0], "logprobs", None) is None
        assert "logprobs" not in response.model_dump()["choices"][0]
    assert "tokens unsure" in str(rows(router)[2].note)
    assert_books_agree(router, provider)


def test_async_asks_for_them_too(make_router: MakeRouter, provider: Provider) -> None:
    router = make_router(cascade=LOGPROBS, objective=CHEAP)
    provider.default = SURE
    response = asyncio.run(router.acompletion(messages=HELLO))
    assert provider.wire[0][2]["logprobs"] is True
    assert getattr(response.choices[0], "logprobs", None) is None
    assert "tokens sure" in Router.decision(response).steps[0].why


@pytest.mark.parametrize("asked", [{"logprobs": True}, {"logprobs": True, "top_logprobs": 5}])
def test_a_caller_who_asks_gets_what_they_asked_for(
    make_router: MakeRouter, provider: Provider, asked: dict[str, Any]
) -> None:
    router = make_router(cascade=LOGPROBS, objective=CHEAP)
    provider.default = SURE
    response = router.completion(messages=HELLO, **asked)
    sent = provider.wire[0][2]
    assert {name: sent[name] for name in sent if "logprobs" in name} == asked
    content = response.choices[0].logprobs.content
    assert "".join(each.token for each in content) == text_of(response)
    assert "tokens sure" in Router.decision(response).steps[0].why


def test_a_caller_who_refuses_them_is_not_overruled(
    make_router: MakeRouter, provider: Provider
) -> None:
    router = make_router(cascade=LOGPROBS, objective=CHEAP)
    provider.default = SURE
    response = router.completion(messages=HELLO, logprobs=False)
    assert provider.wire[0][2]["logprobs"] is False
    assert Router.decision(response).steps[0].why == "no fault of form"


@pytest.mark.parametrize("asked", [{}, {"logprobs": True}])
def test_a_buffered_stream_shows_what_its_caller_asked_for(
    make_router: MakeRouter, provider: Provider, asked: dict[str, Any]
) -> None:
    router = make_router(cascade={**LOGPROBS, "stream": "buffer"}, objective=CHEAP)
    provider.default = SURE
    chunks = list(router.completion(messages=HELLO, stream=True, **asked))
    shown = [c.choices[0].logprobs for c in chunks if getattr(c.choices[0], "logprobs", None)]
    said = "".join(each.token for one in shown for each in one.content)
    assert said == ("The answer is B." if asked else "")
    assert provider.wire[0][2]["logprobs"] is True


def test_nothing_is_asked_for_where_nobody_looks_or_the_policy_does_not_say(
    make_router: MakeRouter, provider: Provider
) -> None:
    list(make_router(cascade=LOGPROBS, objective=CHEAP).completion(messages=HELLO, stream=True))
    make_router(cascade=CASCADE, objective=CHEAP).completion(messages=HELLO)
    make_router(cascade={**CASCADE, "logprobs": False}, objective=CHEAP).completion(messages=HELLO)
    assert len(provider.wire) == 3
    assert [body for _, _, body in provider.wire if "logprobs" in body] == []


def test_a_deployment_that_does_not_take_them_is_not_asked(
    make_router: MakeRouter, provider: Provider
) -> None:
    tiers = ladder(provider.url)["tiers"]
    for deployments in tiers.values():
        deployments[0]["capabilities"]["logprobs"] = False
    router = make_router(cascade=LOGPROBS, objective=CHEAP, tiers=tiers)
    response = router.completion(messages=HELLO)
    assert "logprobs" not in provider.wire[0][2]
    assert Router.decision(response).steps[0].why == "no fault of form"


def test_a_provider_that_gives_none_costs_nothing(
    make_router: MakeRouter, provider: Provider
) -> None:
    response = make_router(cascade=LOGPROBS, objective=CHEAP).completion(messages=HELLO)
    assert provider.wire[0][2]["logprobs"] is True
    assert Router.decision(response).steps[0].why == "no fault of form"


@pytest.mark.parametrize(
    ("deployment", "sent"),
    [
        ({"model": "openai/gpt-4o-mini"}, {"logprobs": True, "top_logprobs": 2}),
        ({"model": "hosted_vllm/mine"}, {"logprobs": True, "top_logprobs": 2}),
        ({"model": "anthropic/claude-sonnet-4-5"}, {}),
        ({"model": "openai/o3-mini"}, {}),
        ({"model": "gemini/gemini-2.5-flash"}, {}),
        ({"model": "no-such-provider/x"}, {}),
        ({"model": "openai/gpt-4o-mini", "effort": "high"}, {}),
        ({"model": "openai/gpt-4o-mini", "capabilities": {"logprobs": False}}, {}),
        (
            {"model": "gemini/gemini-2.5-flash", "capabilities": {"logprobs": True}},
            {"logprobs": True, "top_logprobs": 2},
        ),
    ],
)
def test_who_is_asked(deployment: dict[str, Any], sent: dict[str, Any]) -> None:
    assert logprob_arguments(Deployment.model_validate(deployment)) == sent


def test_a_log_that_keeps_answers_keeps_what_they_come_to(
    make_router: MakeRouter, provider: Provider
) -> None:
    log = {"durability": "normal", "content": True}
    router = make_router(cascade=LOGPROBS, objective=CHEAP, log=log)
    provider.default = UNSURE
    router.completion(messages=HELLO)
    kept = str(rows(router)[0].answer)
    assert json.loads(kept)[0]["content"] == "The answer is B."
    read = answer_of_kept(kept)
    assert read is not None
    assert read.confidence is not None
    assert read.confidence.margin == pytest.approx(math.log(0.4 / 0.35))
    assert read.confidence.level == 2


def test_a_policy_that_does_not_say_keeps_the_hash_it_had() -> None:
    """As it was before there was such a key; logs and lints name policies by it."""
    before = "7d569301075b1998fb2e9defabfcc9abbbf9ddc14f114ed09e72170d6e6857ce"
    plain, said = (
        load_policy({**ladder("http://127.0.0.1:1/v1"), "cascade": cascade}).hash
        for cascade in (CASCADE, LOGPROBS)
    )
    assert plain == before
    assert said != before


def tokens(*of: tuple[str, float], top: dict[str, float] | None = None) -> dict[str, Any]:
    shown = [{"token": name, "logprob": value} for name, value in (top or {}).items()]
    return {"content": [{"token": t, "logprob": p, "top_logprobs": shown} for t, p in of]}


def test_the_margin_is_of_the_final_answers_tokens() -> None:
    said = tokens(("Maybe", -2.0), (" A", -3.0), ("? ", -1.0), ("The answer is ", 0.0), ("B", -0.1))
    found = confidence_of(said, "Maybe A? The answer is B")
    assert found is not None
    assert found.lowest == -3.0
    assert found.mean == pytest.approx(-6.1 / 5)
    p = math.exp(-0.1)
    assert found.margin == pytest.approx(math.log(p / (1 - p)))  # no rival was told
    rival = tokens(("7", -1.5), top={"7": -1.5, "8": -0.3})
    found = confidence_of(rival, "7")
    assert found is not None
    assert found.margin == pytest.approx(-1.2)  # a rival was likelier
    assert found.level == 2


def test_what_cannot_be_read_is_no_evidence() -> None:
    for bad in (None, {}, {"content": None}, {"content": []}, "nonsense", 3, {"content": "abc"}):
        assert confidence_of(bad, "x") is None
    for odd in (float("nan"), -math.inf, -(10**400)):
        assert confidence_of(tokens(("x", odd)), "x") is None
    found = confidence_of(tokens(("x", -9999.0)), "y")  # tokens of another text: no margin
    assert found == Confidence(-20.0, -20.0, None)
    assert confidence_of(json.dumps(tokens(("B", -0.2))), "B") == confidence_of(
        tokens(("B", -0.2)), "B"
    )


@given(
    st.lists(
        st.tuples(st.text(max_size=5), st.floats(-50, 0), st.floats(-50, 0)), min_size=1, max_size=8
    )
)
def test_any_log_probabilities_can_be_read_and_kept(said: list[tuple[str, float, float]]) -> None:
    content = [
        {"token": t, "logprob": p, "top_logprobs": [{"token": "?", "logprob": other}]}
        for t, p, other in said
    ]
    found = confidence_of({"content": content}, "".join(t for t, _, _ in said))
    assert found is not None
    assert -20 <= found.lowest <= found.mean + 1e-9
    assert found.mean <= 0
    assert found.level in range(3)
    assert confidence_of(json.dumps(found.as_dict()), "") == found


@given(st.floats(0.02, 0.98), st.booleans())
def test_what_a_look_will_tell_is_on_average_what_was_known(q: float, told: bool) -> None:
    """The look ahead and the look itself are the same evidence, weighed by its chances."""
    gate, tier = Gate(), np.array([0, 3])
    request = Request("r", [{"role": "user", "content": "?"}], {}, now=0.0)
    signals = gate.signals(False, tier, (True, told))
    np.testing.assert_allclose(signals.good.sum(axis=1), 1)
    np.testing.assert_allclose(signals.bad.sum(axis=1), 1)
    chance, after = seen(signals, 0, np.array([[q], [0.9]]))
    np.testing.assert_allclose((chance * after).sum(axis=1), [[q], [0.9]])
    for level in range(3):
        margin = (5.0, 1.5, 0.1)[level]
        said = {0: (Answer("B", confidence=Confidence(-0.1, -0.2, margin)),)}
        verdict = gate.look(request, None, said, 0, np.array([q, 0.9]), tier)
        np.testing.assert_allclose(verdict.quality, after[:, level, 0])
        assert verdict.why.endswith(confidence.LEVELS[level])
