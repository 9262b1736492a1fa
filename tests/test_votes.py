"""Votes over real HTTP: samples are asked, compared, billed and counted one by one."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest

from router import Router
from router.errors import BudgetExceeded, PolicyError, ProviderUnavailable
from router.log.savings import savings
from router.policy.loader import load_policy
from router.replay.off_policy.looks import seconds_of
from router.replay.off_policy.table import LeftOut, rows_of
from tests.conftest import MakeRouter, ladder, steady_predictor, usd
from tests.ledger_kit import attempt_row
from tests.pipeline_kit import BUDGET, assert_books_agree, rows
from tests.provider import Provider, ok, status

QUESTION = [
    {"role": "user", "content": "How many legs have two spiders? Answer with a number only."}
]
RIGHT, WRONG, OTHER = (ok(text=f"The answer is {n}.") for n in (16, 12, 8))
VOTE = {"samples": 5, "sure": 1}  # until nothing can overturn the leader


def voting(url: str, vote: Any = VOTE, **changes: Any) -> dict[str, Any]:
    """A policy whose nano tier is always asked for a vote."""
    policy = ladder(url, objective={"cost_weight": 0}, budgets=BUDGET, **changes)
    policy["tiers"] = {"nano": policy["tiers"]["nano"]}
    policy["tiers"]["nano"][0]["vote"] = vote
    return {**policy, "baseline": "nano"}


@pytest.fixture
def make_voting(make_router: MakeRouter, provider: Provider) -> Any:
    def make(vote: Any = VOTE, **changes: Any) -> Router:
        return make_router(**voting(provider.url, vote, **changes))

    return make


def sends(router: Router, asynchronous: bool, **arguments: Any) -> Any:
    asked = {"messages": QUESTION, **arguments}
    return asyncio.run(router.acompletion(**asked)) if asynchronous else router.completion(**asked)


# ── the count ──────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_a_vote_asks_as_few_as_can_decide_and_hands_out_the_majoritys_answer(
    make_voting: Any, provider: Provider, asynchronous: bool
) -> None:
    provider.script("t-nano", RIGHT, WRONG, RIGHT, RIGHT)
    router = make_voting()
    answer = sends(router, asynchronous)
    assert answer.choices[0].message.content == "The answer is 16."
    assert len(provider.wire) == 4  # three that could have decided it, and one that did
    routing = router.decision(answer)
    [step] = routing.steps
    assert (step.why, routing.spent) == ("3 of 4 samples agree", sum(r.cost for r in rows(router)))
    logged = rows(router)
    assert [row.arm for row in logged] == ["nano/0:openai/t-nano*5+sure1"] * 4
    assert [row.step for row in logged] == [0] * 4
    [request] = router.ledger.log().requests()
    accepted = next(row for row in logged if row.number == request.accepted)
    assert accepted.number == routing.attempts
    assert_books_agree(router, provider)


def test_where_all_agree_the_rest_is_never_asked(make_voting: Any, provider: Provider) -> None:
    provider.default = RIGHT
    make_voting().completion(messages=QUESTION)
    assert len(provider.wire) == 3


def test_a_sure_vote_ends_before_it_is_arithmetically_decided(
    make_voting: Any, provider: Provider
) -> None:
    provider.default = RIGHT
    make_voting({"samples": 9, "sure": 0.8}).completion(messages=QUESTION)
    assert len(provider.wire) == 2


def test_without_a_majority_the_first_of_the_leaders_is_handed_out(
    make_voting: Any, provider: Provider
) -> None:
    provider.script("t-nano", OTHER, WRONG, RIGHT, WRONG, OTHER)
    router = make_voting()
    answer = router.completion(messages=QUESTION)
    assert answer.choices[0].message.content in ("The answer is 8.", "The answer is 12.")
    assert router.decision(answer).steps[0].why == "2 of 4 samples agree"  # no one can pass them


def test_a_sample_that_fails_is_left_out_and_others_decide(
    make_voting: Any, provider: Provider
) -> None:
    provider.script("t-nano", status(500), RIGHT, RIGHT, RIGHT)
    router = make_voting()
    assert router.completion(messages=QUESTION).choices[0].message.content == "The answer is 16."
    assert sorted(row.status for row in rows(router)) == ["answered"] * 3 + ["failed"]
    assert_books_agree(router, provider)


def test_where_every_sample_fails_the_error_is_the_callers(
    make_voting: Any, provider: Provider
) -> None:
    provider.default = status(503)
    router = make_voting()
    with pytest.raises(ProviderUnavailable):
        router.completion(messages=QUESTION)
    assert len(provider.wire) >= 5
    [request] = router.ledger.log().requests()
    assert request.status == "failed"
    assert_books_agree(router, provider)


# ── money ──────────────────────────────────────────────────────────────────────────────────────
def test_each_sample_is_reserved_by_itself_with_its_own_cap(
    make_voting: Any, provider: Provider
) -> None:
    provider.default = RIGHT
    router = make_voting()
    router.completion(messages=QUESTION, max_tokens=64)
    decision = router.explain(QUESTION, max_tokens=64)
    upper = decision.view.quote.upper
    assert upper is not None
    assert [row.reserved for row in rows(router)] == [upper // 5] * 3
    assert [body["max_tokens"] for _, _, body in provider.wire] == [64] * 3


def test_where_a_budget_has_room_for_two_samples_two_are_asked_at_a_time(
    make_voting: Any, provider: Provider
) -> None:
    provider.default = ok(text="The answer is 16.", delay=0.2)
    router = make_voting()
    one = router.explain(QUESTION, max_tokens=64).view.quote.upper // 5
    router.close()
    tight = [{**BUDGET[0], "limit": f"{2.5 * one / 1e9:.9f}", "on_exceed": "block"}]
    router = voting_again(router, provider, tight)
    answer = router.completion(messages=QUESTION, max_tokens=64)
    assert router.decision(answer).steps[0].why == "3 of 3 samples agree"
    first, second, third = rows(router)
    assert second.time - first.time < 0.2 <= third.time - first.time  # once there was room again
    assert_books_agree(router, provider)


def voting_again(router: Router, provider: Provider, budgets: Any) -> Router:
    """Another router of the same store, under other budgets."""
    policy = {**voting(provider.url), "budgets": budgets}
    return Router(policy, store=router.store, predictor=steady_predictor())


def test_a_ceiling_on_the_request_holds_over_all_samples(
    make_voting: Any, provider: Provider
) -> None:
    provider.default = RIGHT
    router = make_voting()
    five = router.explain(QUESTION).view.quote.upper
    objective = {"max_cost_per_request": f"{(five - 1) / 1e9:.9f}"}
    policy = {**voting(provider.url), "objective": objective}
    with Router(policy, store=router.store, predictor=steady_predictor()) as bounded:
        assert bounded.explain(QUESTION).arm.samples == 1
    policy["objective"] = {"max_cost_per_request": f"{five / 1e9:.9f}"}
    with Router(policy, store=router.store, predictor=steady_predictor()) as bounded:
        assert bounded.explain(QUESTION).arm.samples == 5


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_samples_that_are_no_longer_needed_are_hung_up_on_and_billed(
    make_voting: Any, provider: Provider, asynchronous: bool
) -> None:
    slow = ok(text="The answer is 12.", delay=5.0)
    provider.script("t-nano", RIGHT, slow, RIGHT, slow, RIGHT)
    router = make_voting({"samples": 5, "sure": 1, "at_once": True})
    started = time.monotonic()
    answer = sends(router, asynchronous)
    assert time.monotonic() - started < 4
    assert answer.choices[0].message.content == "The answer is 16."
    assert len(provider.wire) == 5
    logged = rows(router)
    assert [row.status for row in logged].count("answered") == 3
    left = [row for row in logged if row.status == "abandoned"]
    assert [(row.cost, row.cost_source) for row in left] == [(left[0].reserved, "assumed")] * 2
    [request] = router.ledger.log().requests()
    assert request.status == "answered"
    assert router.decision(answer).spent == sum(row.cost for row in logged)
    assert router.ledger.states(time.time())[0].held == 0


def test_a_caller_who_leaves_a_vote_leaves_nothing_held(
    make_voting: Any, provider: Provider
) -> None:
    provider.default = ok(text="The answer is 16.", delay=3.0)
    router = make_voting()

    async def leave() -> None:
        task = asyncio.create_task(router.acompletion(messages=QUESTION))
        while len(provider.wire) < 3:
            await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(leave())
    assert [row.status for row in rows(router)] == ["abandoned"] * 3
    [request] = router.ledger.log().requests()
    assert request.status == "abandoned"
    assert router.ledger.states(time.time())[0].held == 0


# ── which requests ─────────────────────────────────────────────────────────────────────────────
CHOICE = "Which is a mammal?\nA) shark\nB) whale\nC) trout\nD) newt"
CLOSED = {
    "type": "json_schema",
    "json_schema": {
        "name": "n",
        "schema": {"type": "object", "properties": {"n": {"type": "integer"}}},
    },
}
OPEN = {
    "type": "json_schema",
    "json_schema": {
        "name": "n",
        "schema": {"type": "object", "properties": {"why": {"type": "string"}}},
    },
}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


@pytest.mark.parametrize(
    ("content", "arguments", "votes"),
    [
        (QUESTION[0]["content"], {}, True),
        (CHOICE, {}, True),
        ("Write a poem about spiders.", {}, False),
        ("Count them.", {"response_format": CLOSED}, True),
        ("Count them.", {"response_format": OPEN}, False),
        (QUESTION[0]["content"], {"tools": [TOOL]}, False),
        (QUESTION[0]["content"], {"n": 2}, False),
        (QUESTION[0]["content"], {"stream": True}, False),
    ],
)
def test_only_requests_with_comparable_answers_are_voted_on(
    make_voting: Any, content: str, arguments: dict[str, Any], votes: bool
) -> None:
    decision = make_voting().explain([{"role": "user", "content": content}], **arguments)
    assert (decision.arm.samples == 5) == votes
    if not votes:
        assert decision.arms[1].rejected == "needs answers that can be compared, or judged"


def test_a_stream_is_not_voted_on_where_its_conversation_is_let_down_to_a_lower_tier(
    make_router: MakeRouter, provider: Provider
) -> None:
    tiers = ladder(provider.url)["tiers"]
    tiers["nano"][0]["vote"] = VOTE
    router = make_router(
        tiers={tier: tiers[tier] for tier in ("nano", "frontier")},
        objective={"cost_weight": 0},
        rules=[{"name": "top", "when": {"tags": ["top"]}, "tier": "frontier"},
               {"name": "low", "when": {"tags": ["low"]}, "tier": "nano"}],
        budgets=[{"name": "all", "limit": "0.005", "window": "total", "on_exceed": "downgrade"}],
    )  # fmt: skip
    asked: dict[str, Any] = {"messages": QUESTION, "conversation_id": "c"}
    router.completion(**asked, tags=["low"], max_tokens=20)
    router.completion(**asked, tags=["top"], max_tokens=20)
    list(router.completion(**asked, stream=True))
    assert provider.models[-1] == "t-nano"
    assert rows(router)[-1].arm == "nano/0:openai/t-nano"
    assert_books_agree(router, provider)


@pytest.mark.parametrize("fixed", [{"temperature": 0}, {"temperature": 0.0}, {"seed": 7}])
def test_copies_of_one_answer_are_not_voted_on(
    make_voting: Any, make_router: MakeRouter, provider: Provider, fixed: dict[str, Any]
) -> None:
    decision = make_voting().explain(QUESTION, **fixed)
    assert decision.arm.samples == 1
    assert str(decision.arms[1].rejected).startswith("its samples would be alike")
    assert make_voting().explain(QUESTION, temperature=0.7).arm.samples == 5
    policy = voting(provider.url)
    policy["tiers"]["nano"][0]["params"] = fixed
    assert make_router(**policy).explain(QUESTION).arm.samples == 1


def test_a_policys_own_condition_says_what_is_comparable(make_voting: Any) -> None:
    router = make_voting({**VOTE, "when": {"tags": ["closed"]}})
    poem = [{"role": "user", "content": "Write a poem about spiders."}]
    assert router.explain(poem, tags=["closed"]).arm.samples == 5
    assert router.explain(QUESTION).arm.samples == 1


def test_json_answers_agree_whatever_their_spelling(make_voting: Any, provider: Provider) -> None:
    provider.script(
        "t-nano",
        ok(text='{"n": 16}'),
        ok(text='{ "n" : 12}'),
        ok(text='{"n":16}'),
        ok(text='{"n" :16}'),
    )
    router = make_voting()
    answer = router.completion(messages=QUESTION, response_format=CLOSED)
    assert json.loads(answer.choices[0].message.content) == {"n": 16}
    assert router.decision(answer).steps[0].why == "3 of 4 samples agree"


@pytest.mark.parametrize(
    ("vote", "key"),
    [
        ({"samples": 2}, "vote.samples"),
        ({"samples": 10}, "vote.samples"),
        ({"sure": 0.5}, "vote.sure"),
        ({"smaples": 5}, "vote.smaples"),
        ({"concentration": 0}, "vote.concentration"),
    ],
)
def test_a_vote_that_cannot_be_held_is_refused(vote: Any, key: str) -> None:
    with pytest.raises(PolicyError) as caught:
        load_policy(voting("http://127.0.0.1:9", vote))
    assert f"tiers.nano.0.{key}" in str(caught.value)


# ── the decision ───────────────────────────────────────────────────────────────────────────────
def test_a_vote_competes_with_one_call_and_with_dearer_tiers_by_the_same_rule(
    make_router: MakeRouter, provider: Provider
) -> None:
    tiers = ladder(provider.url)["tiers"]
    tiers["nano"][0]["vote"] = {"samples": 5, "concentration": 5}
    chosen = []
    for weight in (0, 100, 1e7):
        router = make_router(tiers=tiers, objective={"cost_weight": weight})
        decision = router.explain(QUESTION)
        chosen.append((decision.arm.tier, decision.arm.samples))
        vote = next(view for view in decision.arms if view.arm.samples > 1)
        one = decision.arms[0]
        assert vote.quality > one.quality
        assert vote.quote.upper == 5 * one.quote.upper
        assert one.quote.expected < vote.quote.expected <= 5 * one.quote.expected
        router.close()
    assert chosen[0] == ("frontier", 1)
    assert chosen[-1] == ("nano", 1)
    assert ("nano", 5) in chosen


def test_the_log_of_a_vote_can_be_reported_and_replayed(
    make_voting: Any, provider: Provider
) -> None:
    provider.default = RIGHT
    router = make_voting()
    for _ in range(3):
        router.completion(messages=QUESTION)
    report = savings(router.ledger.log())
    bill = sum(row.cost for row in rows(router))
    assert report.total.spent == bill > 0
    replayed = list(rows_of(router.ledger.log(), None, None, LeftOut()))
    assert sum(row["cost"] for row in replayed) == bill
    assert {json.loads(row["arms"])[row["chosen"]][0] for row in replayed} == {
        "nano/0:openai/t-nano*5+sure1"
    }
    assert [row["propensity"] for row in replayed] == [[0.0, 1.0]] * 3


def test_a_vote_was_bought_by_all_its_samples_and_took_as_long_as_the_slowest(
    make_voting: Any, provider: Provider
) -> None:
    provider.default = ok(text="The answer is 16.", delay=0.2)
    router = make_voting()
    router.completion(messages=QUESTION)
    samples = rows(router)
    assert len(samples) == 3
    report = savings(router.ledger.log())
    [request] = router.ledger.log().requests()
    [quoted] = [view["expected"] for view in request.decision if view["arm"] == request.chosen]
    assert report.wasted == 0
    assert report.total.bill_over_quote == sum(row.cost for row in samples) / quoted
    [replayed] = rows_of(router.ledger.log(), None, None, LeftOut())
    each = [row.latency for row in samples]
    assert max(each) <= replayed["latency"] < sum(each) - 0.2


def test_a_sample_that_failed_is_wasted_and_its_vote_has_no_bill_to_hold_against_the_quote(
    make_voting: Any, provider: Provider
) -> None:
    provider.script("t-nano", ok(cut=True), RIGHT, RIGHT, RIGHT)
    router = make_voting()
    router.completion(messages=QUESTION)
    [failed] = [row for row in rows(router) if row.status == "failed"]
    report = savings(router.ledger.log())
    assert report.wasted == failed.cost > 0
    assert report.total.bill_over_quote is None


def test_steps_of_a_chain_take_their_time_one_after_another() -> None:
    vote = [
        attempt_row("r", number, cost=1, step=1, arm="mini/0:m*3", time=at, latency=latency)
        for number, at, latency in ((2, 10.0, 2.0), (3, 10.5, 3.0), (4, 11.0, 0.5))
    ]
    first = attempt_row("r", cost=1, arm="nano/0:n", time=5.0, latency=4.0)
    assert seconds_of(vote) == 3.5
    assert seconds_of([first, *vote]) == 7.5


def test_too_little_for_one_sample_is_refused_and_nothing_is_sent(
    make_voting: Any, provider: Provider
) -> None:
    router = make_voting()
    router.close()
    tight = [{**BUDGET[0], "limit": "0.000000001", "on_exceed": "block"}]
    other = voting_again(router, provider, tight)
    with other, pytest.raises(BudgetExceeded):
        other.completion(messages=QUESTION)
    assert provider.wire == []
    assert usd("0.000000001") == 1


# ── in a cascade ───────────────────────────────────────────────────────────────────────────────
def cascading(url: str, **changes: Any) -> dict[str, Any]:
    policy = ladder(url, budgets=BUDGET, cascade={"max_steps": 2}, **changes)
    policy["tiers"] = {tier: policy["tiers"][tier] for tier in ("nano", "frontier")}
    policy["tiers"]["nano"][0]["vote"] = {**VOTE, "concentration": 5}
    return policy


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "buffered"])
def test_samples_that_agree_are_handed_out_and_those_that_do_not_escalate(
    make_router: MakeRouter, provider: Provider, asynchronous: bool, stream: bool
) -> None:
    policy = cascading(provider.url, objective={"cost_weight": 40})
    policy["cascade"]["stream"] = "buffer"
    router = make_router(**policy)
    assert router.explain(QUESTION).arm.samples == 5
    provider.default = RIGHT

    async def read(answer: Any) -> str:
        if not stream:
            return str((await answer).choices[0].message.content)
        return "".join([c.choices[0].delta.content or "" async for c in await answer])

    def asked() -> str:
        if asynchronous:
            return asyncio.run(read(router.acompletion(messages=QUESTION, stream=stream)))
        answer = router.completion(messages=QUESTION, stream=stream)
        if not stream:
            return str(answer.choices[0].message.content)
        return "".join(chunk.choices[0].delta.content or "" for chunk in answer)

    assert asked() == "The answer is 16."
    assert {row.tier for row in rows(router)} == {"nano"}
    provider.script("t-nano", RIGHT, WRONG, OTHER, WRONG, ok())
    provider.script("t-frontier", ok(text="The answer is sixteen."))
    assert asked() == "The answer is sixteen."
    logged = rows(router)
    assert [(row.tier, row.step) for row in logged[-1:]] == [("frontier", 1)]
    assert "2 of 4 samples agree" in logged[-1].note
    [_, second] = router.ledger.log().requests()
    assert [second.accepted, second.attempts] == [5, 5]
    assert_books_agree(router, provider)


def test_an_escalated_vote_is_still_the_answer_where_the_dearer_call_fails(
    make_router: MakeRouter, provider: Provider
) -> None:
    router = make_router(**cascading(provider.url, objective={"cost_weight": 40}))
    provider.script("t-nano", RIGHT, WRONG, OTHER, WRONG, ok())
    provider.script("t-frontier", *[status(503)] * 3)
    answer = router.completion(messages=QUESTION)
    assert answer.choices[0].message.content == "The answer is 12."
    [request] = router.ledger.log().requests()
    accepted = next(row for row in rows(router) if row.number == request.accepted)
    assert (accepted.tier, accepted.status) == ("nano", "answered")
    assert router.decision(answer).attempts == 7
