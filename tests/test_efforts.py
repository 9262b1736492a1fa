"""Reasoning effort as an axis: several efforts of one deployment are arms of their own."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router import Router
from router.decide import Bar
from router.errors import ModelFileError, PolicyError, RequestRejected
from router.planning.deciding import decide
from router.planning.ladder import Ladder
from router.planning.make import make_plan
from router.planning.plan import Plan
from router.policy.arms import arm_named, rungs_of
from router.policy.loader import load_policy
from router.policy.vote import Vote
from router.predict import Predictor, extract, shape_of
from router.predict.effort import EFFORT_GAIN, EFFORT_TOKENS, THINKING_TOKENS, Efforts, efforts_of
from router.prices import load_book
from router.types import Arm, Prediction, Request, Room
from tests.conftest import HELLO, MakeRouter, ladder, plain_model
from tests.pipeline_kit import BUDGET, assert_books_agree, rows
from tests.provider import Behaviour, Provider, ok, status
from tests.test_provider_shapes import anthropic, gemini

EFFORTS = ["none", "low", "high"]
TOKENS = {effort: entry["factor"] for effort, entry in EFFORT_TOKENS.items()}


def policy_with(url: str = "http://127.0.0.1:9", **tiers: Any) -> dict[str, Any]:
    """Four tiers, of which `tiers` says more about the first deployment of each."""
    made = ladder(url)
    for tier, more in tiers.items():
        made["tiers"][tier][0].update(more)
    return made


def plan_of(
    policy: dict[str, Any],
    params: dict[str, Any] | None = None,
    quality: float = 0.6,
    novel: bool = False,
    efforts: Efforts | None = None,
) -> Plan:
    prepared = Ladder.of(load_policy(policy), load_book(), efforts or Efforts(TOKENS))
    request = Request("r", HELLO, params or {}, now=1.79e9)
    level = np.full(4, quality)
    tokens = [np.full(4, value) for value in (100.0, 90.0, 250.0, 400.0)]
    prediction = Prediction(level, np.full(4, 0.1), *tokens, novel=np.array(novel))
    shape = shape_of(request.messages, request.params)
    return make_plan(prepared, request, shape, extract(request), prediction)


# ── arms ───────────────────────────────────────────────────────────────────────────────────────
def test_each_effort_is_an_arm_and_the_first_is_the_usual_one() -> None:
    policy = policy_with(mini={"efforts": ["low", "none", "high"]})
    spare = {**policy["tiers"]["mini"][0], "model": "openai/spare", "efforts": None}
    policy["tiers"]["mini"].append(spare)
    found = load_policy(policy)
    names = [arm.name for arm in found.arms() if arm.tier == "mini"]
    assert names == [
        "mini/0:openai/t-mini@low",
        "mini/1:openai/spare",
        "mini/0:openai/t-mini@none",
        "mini/0:openai/t-mini@high",
    ]
    assert rungs_of(found.arms()) == [0, 1, 1, 2, 3, 4, 5]
    again = [arm_named(arm.name, arm.tier) for arm in found.arms()]
    assert again == list(found.arms())


@given(
    st.sampled_from(["openai/m", "a*b", "m*7x", "ollama/q:4b", "m+best"]),
    st.sampled_from([None, "none", "low"]),
    st.none()
    | st.builds(
        dict,
        samples=st.integers(3, 9),
        pick=st.sampled_from(["majority", "best"]),
        at_once=st.booleans(),
        sure=st.floats(0.51, 1).map(lambda sure: round(sure, 6)),
    ),
)
def test_an_arm_is_read_back_from_its_name(model: str, effort: Any, vote: Any) -> None:
    asked = Vote(**vote) if vote else None
    arm = Arm("mini", 2, model, effort)
    if asked is not None:
        arm = replace(arm, samples=asked.samples, ending=asked.ending)
    assert arm_named(arm.name, "mini") == arm


def test_deployments_of_one_effort_stand_in_for_each_other_whatever_it_is() -> None:
    policy = policy_with(mini={"effort": "low"})
    policy["tiers"]["mini"].append({**policy["tiers"]["mini"][0], "effort": "high"})
    assert rungs_of(load_policy(policy).arms()) == [0, 1, 1, 2, 3]


@pytest.mark.parametrize(
    ("more", "key", "words"),
    [
        ({"efforts": ["low", "high"], "effort": "low"}, "effort", "either effort or efforts"),
        ({"efforts": ["low", "low"]}, "efforts", "each effort once"),
        ({"efforts": []}, "efforts", ""),
        ({"efforts": ["low", "hihg"]}, "efforts.1", "did you mean 'high'"),
        ({"effort": "low", "effort_params": {"high": {}}}, "effort_params.high", "never asked"),
        ({"effort": "low", "effort_params": {"low": {"max_tokens": 9}}}, "effort_params.low", ""),
    ],
)
def test_efforts_that_cannot_be_meant_are_refused(more: Any, key: str, words: str) -> None:
    with pytest.raises(PolicyError) as caught:
        load_policy(policy_with(mini=more))
    assert f"tiers.mini.0.{key}" in str(caught.value)
    assert words in str(caught.value)


def test_a_policy_without_efforts_keeps_its_hash() -> None:
    plain = load_policy(policy_with()).hash
    assert load_policy(policy_with(mini={"efforts": None, "effort_params": None})).hash == plain
    assert load_policy(policy_with(mini={"efforts": ["low", "high"]})).hash != plain


# ── the decision ───────────────────────────────────────────────────────────────────────────────
def test_more_effort_is_likelier_good_and_costs_its_tokens() -> None:
    plan = plan_of(policy_with(mini={"efforts": EFFORTS}))
    mini = [at for at, arm in enumerate(plan.ladder.arms) if arm.tier == "mini"]
    quality = plan.options.quality[0, mini]
    odds = np.log(quality / (1 - quality))
    assert odds - odds[0] == pytest.approx([EFFORT_GAIN[effort] for effort in EFFORTS])
    assert [plan.tokens[at] for at in mini] == [100 * TOKENS[effort] for effort in EFFORTS]
    expected = plan.options.expected[0, mini]
    assert (np.diff(expected) > 0).all()


@pytest.mark.parametrize(("cost_weight", "wanted"), [(1_000_000, "none"), (25, "low"), (0, "high")])
def test_the_same_rule_weighs_efforts_as_it_weighs_tiers(cost_weight: float, wanted: str) -> None:
    only = {"mini": policy_with()["tiers"]["mini"]}
    only["mini"][0]["efforts"] = EFFORTS
    objective = {"cost_weight": cost_weight}
    policy = ladder("http://127.0.0.1:9", tiers=only, baseline="mini", objective=objective)
    decision = decide(plan_of(policy), Room())
    assert decision.arm.effort == wanted


def test_savings_are_measured_against_the_baselines_usual_effort() -> None:
    plan = plan_of(policy_with(frontier={"efforts": ["medium", "low", "xhigh"]}))
    usual = [arm.name for arm in plan.ladder.arms].index("frontier/0:openai/t-frontier@medium")
    assert plan.baseline() == plan.quotes[usual].expected
    assert plan.options.rung[usual] == plan.options.baseline


def test_a_lower_effort_of_the_baseline_is_below_it_where_nothing_is_known() -> None:
    policy = policy_with(frontier={"efforts": ["medium", "low", "high"]})
    known, novel = plan_of(policy), plan_of(policy, novel=True)
    lower = [
        arm.name
        for at, arm in enumerate(known.ladder.arms)
        if novel.options.quality[0, at] < known.options.quality[0, at]
    ]
    assert [name.partition(":")[0] + "@" + name.rpartition("@")[2] for name in lower][-1] == (
        "frontier/0@low"
    )
    assert len(lower) == 4  # the three tiers below, and the frontier's lower effort


def test_a_request_that_sets_its_own_effort_is_not_given_another() -> None:
    policy = policy_with(mini={"efforts": EFFORTS})
    plan = plan_of(policy, {"reasoning_effort": "high"})
    barred = {
        arm.name: int(bar)
        for arm, bar in zip(plan.ladder.arms, plan.options.barred[0], strict=True)
    }
    assert [name for name, bar in barred.items() if bar == Bar.OWN_EFFORT] == [
        "mini/0:openai/t-mini@low",
        "mini/0:openai/t-mini@high",
    ]
    assert plan.tokens[1] == 100 * TOKENS["high"]  # of the effort that is really asked for


@given(st.integers(1, 20_000), st.sampled_from(EFFORTS))
def test_what_a_policys_effort_may_think_comes_on_top_of_the_callers_cap(
    asked: int, effort: str
) -> None:
    plan = plan_of(policy_with(mini={"efforts": EFFORTS}), {"max_tokens": asked})
    at = [arm.effort for arm in plan.ladder.arms].index(effort)
    answer = min(asked, 500)  # of the policy's limits
    assert plan.quotes[at].output_cap == answer + THINKING_TOKENS[effort]


# ── what a predictor says ──────────────────────────────────────────────────────────────────────
def test_a_tiers_own_gain_counts_before_the_usual_one() -> None:
    facts = dict(plain_model().facts, effort_gains={"mini@high": {"log_odds": 2.0, "std": 0.1}})
    efforts = efforts_of(facts, "m")
    assert efforts.gain("mini", "high", "none") == (2.0, 0.1)
    assert efforts.gain("mid", "high", "none") == (
        EFFORT_GAIN["high"],
        pytest.approx(0.3, abs=0.01),
    )
    assert efforts.gain("mid", "low", "low") == (0.0, 0.0)


@pytest.mark.parametrize(
    "entry",
    [
        {"mini@hihg": {"log_odds": 1, "std": 0.1}},
        {"large@high": {"log_odds": 1, "std": 0.1}},
        {"mini@high": {"log_odds": float("nan"), "std": 0.1}},
        {"mini@high": {"log_odds": 1, "std": -0.1}},
        {"mini@high": 1},
    ],
)
def test_a_model_file_with_an_impossible_gain_is_refused(entry: Any) -> None:
    with pytest.raises(ModelFileError, match="effort_gains"):
        efforts_of(dict(plain_model().facts, effort_gains=entry), "m")


def steady() -> Predictor:
    """The plain model: each tier a tenth better, and 100 tokens times the effort's factor."""
    from tests.conftest import steady_predictor

    model = steady_predictor().model
    model.facts["effort_tokens"] = EFFORT_TOKENS  # type: ignore[index]
    return Predictor(model)


# ── on the wire ────────────────────────────────────────────────────────────────────────────────
def one_tier(url: str, model: str = "openai/t-mini", **more: Any) -> dict[str, Any]:
    deployment = {**policy_with(url)["tiers"]["mini"][0], "model": model, **more}
    return {
        "tiers": {"mini": [deployment]},
        "baseline": "mini",
        "objective": {"cost_weight": 0},
        "budgets": BUDGET,
    }


def test_the_chosen_effort_is_on_the_wire_and_in_the_log_with_its_reservation(
    make_router: MakeRouter, provider: Provider
) -> None:
    router = make_router(
        predictor=steady(), **one_tier(provider.url, efforts=["none", "low", "high"])
    )
    router.completion(messages=HELLO, max_tokens=50)
    [(_, _, body)] = provider.wire
    assert body["reasoning_effort"] == "high"
    assert body["max_tokens"] == 50 + THINKING_TOKENS["high"]
    assert "allowed_openai_params" not in body
    [attempt] = rows(router)
    assert attempt.arm == "mini/0:openai/t-mini@high"
    [row] = router.ledger.log().requests()
    assert [view["arm"].rpartition("@")[2] for view in row.decision] == ["none", "low", "high"]
    assert_books_agree(router, provider)


def test_a_server_with_its_own_way_is_told_in_its_own_way(
    make_router: MakeRouter, provider: Provider
) -> None:
    switch = {
        "none": {"chat_template_kwargs": {"enable_thinking": False}},
        "high": {"chat_template_kwargs": {"enable_thinking": True}},
    }
    router = make_router(**one_tier(provider.url, efforts=["none", "high"], effort_params=switch))
    router.completion(messages=HELLO)
    [(_, _, body)] = provider.wire
    assert body["chat_template_kwargs"] == {"enable_thinking": True}
    assert "reasoning_effort" not in body


def test_a_callers_own_effort_wins_over_the_policys(
    make_router: MakeRouter, provider: Provider
) -> None:
    router = make_router(**one_tier(provider.url, efforts=["none", "low", "high"]))
    router.completion(messages=HELLO, reasoning_effort="low", max_tokens=50)
    [(_, _, body)] = provider.wire
    assert (body["reasoning_effort"], body["max_tokens"]) == ("low", 50)


def test_where_a_deployment_is_out_of_order_none_of_its_efforts_is_tried(
    make_router: MakeRouter, provider: Provider
) -> None:
    policy = one_tier(provider.url, efforts=["none", "low", "high"])
    spare = {**policy["tiers"]["mini"][0], "model": "openai/t-spare", "efforts": None}
    policy["tiers"]["mini"].append(spare)
    provider.script("t-mini", *[status(503)] * 3)
    router = make_router(**policy)
    router.completion(messages=HELLO)
    assert [body["model"] for _, _, body in provider.wire] == ["t-mini"] * 3 + ["t-spare"]
    assert_books_agree(router, provider)


def test_an_effort_that_a_provider_refuses_leaves_the_others(
    make_router: MakeRouter, provider: Provider
) -> None:
    refused = Behaviour(
        status=404, body=json.dumps({"error": {"message": "no such effort"}}).encode()
    )
    provider.script("t-mini", refused, ok())
    router = make_router(predictor=steady(), **one_tier(provider.url, efforts=["none", "high"]))
    router.completion(messages=HELLO)
    assert [body["reasoning_effort"] for _, _, body in provider.wire] == ["high", "none"]


CLAUDE, CLAUDE_ADAPTIVE = "anthropic/claude-sonnet-4-5", "anthropic/claude-sonnet-4-6"
GEMINI, GEMINI_LEVELS = "gemini/gemini-2.5-flash", "gemini/gemini-3-pro-preview"


@pytest.mark.parametrize(
    ("model", "effort", "wanted"),
    [
        (CLAUDE, "high", {"thinking": {"type": "enabled", "budget_tokens": 4096}}),
        (CLAUDE, "none", {"thinking": None}),
        (CLAUDE_ADAPTIVE, "high", {"output_config": {"effort": "high"}}),
        ("anthropic/claude-3-5-haiku-20241022", "none", {"thinking": None}),
        (GEMINI, "low", {"generationConfig.thinkingConfig.thinkingBudget": 1024}),
        (GEMINI, "none", {"generationConfig.thinkingConfig.thinkingBudget": 0}),
        (GEMINI_LEVELS, "high", {"generationConfig.thinkingConfig.thinkingLevel": "high"}),
        ("openai/gpt-5.4-mini", "low", {"reasoning_effort": "low"}),
        ("openai/gpt-4.1", "none", {"reasoning_effort": None}),
        ("hosted_vllm/own", "low", {"reasoning_effort": "low"}),
    ],
)
def test_an_effort_reaches_each_provider_in_its_own_words_and_no_other(
    provider: Provider, tmp_path: Any, model: str, effort: str, wanted: dict[str, Any]
) -> None:
    answers = {"anthropic": anthropic(False), "gemini": gemini(False)}
    provider.default = answers.get(model.partition("/")[0], provider.default)
    policy = one_tier(provider.url, model, effort=effort)
    with Router(ladder(provider.url, **policy), store=str(tmp_path / "r.db")) as router:
        router.completion(messages=HELLO, max_tokens=100)
    [(_, _, body)] = provider.wire
    for path, value in wanted.items():
        found: Any = body
        for key in path.split("."):
            found = (found or {}).get(key)
        assert found == value
    if not model.startswith(("openai/", "hosted_vllm/")):
        assert "reasoning_effort" not in json.dumps(body)
    thinking = (body.get("thinking") or {}).get("budget_tokens", 0)
    assert body.get("max_tokens", 10**9) > thinking


# ── what thinking models do not take ────────────────────────────────────────────────────────────
THINKS = {"model": "openai/gpt-5.5", "effort": "low"}


@pytest.mark.parametrize("stream", [False, True])
def test_a_wish_that_a_thinking_model_does_not_take_is_left_out_and_noted(
    make_router: MakeRouter, provider: Provider, stream: bool
) -> None:
    """Else a program that sets a temperature could not be routed to every tier."""
    tiers = {
        "frontier": [{**THINKS, "api_base": provider.url, "price": {"input": 5, "output": 10}}]
    }
    with make_router(tiers=tiers) as router:
        answer = router.completion(
            messages=HELLO, temperature=0, top_p=0.9, max_tokens=50, stream=stream
        )
        assert not stream or len(list(answer))
        assert_books_agree(router, provider)
        [attempt] = rows(router)
    [(_, _, body)] = provider.wire
    assert not {"temperature", "top_p"} & set(body)
    assert body["reasoning_effort"] == "low"
    assert attempt.note == "without temperature, top_p, which the model does not take"


def test_what_an_answer_must_be_is_never_left_out(
    make_router: MakeRouter, provider: Provider
) -> None:
    tiers = {
        "frontier": [{**THINKS, "api_base": provider.url, "price": {"input": 5, "output": 10}}]
    }
    with make_router(tiers=tiers) as router, pytest.raises(RequestRejected, match="stop"):
        router.completion(messages=HELLO, temperature=0, stop=["x"], max_tokens=50)
    assert provider.wire == []
