"""Cascades over real HTTP: what is called, reserved, settled, logged and handed out."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from router import Router
from router.errors import ConfigurationError, ModelFileError, PolicyError, ProviderUnavailable
from router.replay.off_policy.table import LeftOut, rows_of
from tests.conftest import HELLO, MakeRouter
from tests.pipeline_kit import BUDGET, assert_books_agree, requests, rows
from tests.provider import Behaviour, Provider, ok, status
from tests.test_gates import wary_of_hedges
from tests.test_reservation_size import SHORTEST_CAP, cut_short

# The steady predictor gives nano 0.6 and each tier a tenth more; at this weight nano is called.
CHEAP = {"cost_weight": 20}
CASCADE = {"max_steps": 2, "gate": "structural"}
EMPTY = ok(text=" ")
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "send_mail",
            "parameters": {
                "type": "object",
                "properties": {"to": {"type": "string"}},
                "required": ["to"],
            },
        },
    }
]


def calls(name: str, arguments: str) -> Behaviour:
    function = {"name": name, "arguments": arguments}
    return ok(tool_calls=[{"id": "call_1", "type": "function", "function": function}])


def steps(router: Router) -> list[tuple[int, str, str]]:
    return [(row.step, row.tier, row.status) for row in rows(router)]


def text_of(response: Any) -> str | None:
    text: str | None = response.choices[0].message.content
    return text


def test_a_good_answer_is_handed_out_after_one_call(
    make_router: MakeRouter, provider: Provider
) -> None:
    router = make_router(budgets=BUDGET, cascade=CASCADE, objective=CHEAP)
    response = router.completion(messages=HELLO)
    assert len(provider.wire) == 1
    assert text_of(response) == "a fine answer"
    routing = Router.decision(response)
    assert [step.why for step in routing.steps] == ["no fault of form"]
    assert routing.spent == routing.cost
    assert "its answer is looked at" in routing.decision.reason
    assert_books_agree(router, provider)


def test_an_empty_answer_goes_on_to_a_dearer_tier_and_the_log_names_both_steps(
    make_router: MakeRouter, provider: Provider
) -> None:
    router = make_router(budgets=BUDGET, cascade=CASCADE, objective=CHEAP)
    first = router.completion(messages=HELLO)
    cheap = provider.models[0]
    provider.script(cheap, EMPTY)
    response = router.completion(messages=HELLO)
    assert text_of(response) == "a fine answer"
    called = provider.models[1:]
    assert called[0] == cheap
    assert len(called) == 2
    assert called[1] != cheap
    logged = rows(router)[1:]
    assert [row.step for row in logged] == [0, 1]
    assert [row.status for row in logged] == ["answered", "answered"]
    assert logged[1].note is not None
    assert "empty" in logged[1].note
    assert logged[1].propensity == 1.0
    request = requests(router)[1]
    assert request.accepted == 2
    assert request.cost == sum(row.cost or 0 for row in logged)
    routing = Router.decision(response)
    assert routing.spent == request.cost
    assert routing.attempts == 2
    assert [step.why for step in routing.steps] == ["empty", "no fault of form"]
    assert routing.steps[0].quality < 0.2 < routing.steps[1].quality
    assert Router.decision(first).attempts == 1
    assert_books_agree(router, provider)


def test_async_goes_the_same_way(make_router: MakeRouter, provider: Provider) -> None:
    router = make_router(budgets=BUDGET, cascade=CASCADE, objective=CHEAP)
    router.completion(messages=HELLO)
    provider.script(provider.models[0], EMPTY)

    async def call() -> Any:
        return await router.acompletion(messages=HELLO)

    response = asyncio.run(call())
    assert [step for step, _, _ in steps(router)] == [0, 0, 1]
    assert requests(router)[1].accepted == 2
    assert text_of(response) == "a fine answer"
    assert_books_agree(router, provider)


def test_without_a_cascade_nothing_is_looked_at(
    make_router: MakeRouter, provider: Provider
) -> None:
    router = make_router(budgets=BUDGET, objective=CHEAP)
    provider.default = EMPTY
    assert text_of(router.completion(messages=HELLO)) == " "
    assert len(provider.wire) == 1


def test_a_chain_ends_after_max_steps_and_gives_the_likeliest_answer(
    make_router: MakeRouter, provider: Provider
) -> None:
    router = make_router(
        budgets=BUDGET, cascade={**CASCADE, "max_steps": 2}, objective={"cost_weight": 1}
    )
    provider.default = EMPTY
    response = router.completion(messages=HELLO)
    assert len(provider.wire) == 2
    assert requests(router)[0].status == "answered"
    routing = Router.decision(response)
    best = max(routing.steps, key=lambda step: step.quality)
    assert requests(router)[0].accepted == routing.steps.index(best) + 1
    assert_books_agree(router, provider)


def test_a_users_gate_judges_before_the_answer_is_handed_out(
    make_router: MakeRouter, provider: Provider
) -> None:
    seen = []

    def polite(request: Any, response: Any) -> bool:
        seen.append(text_of(response))
        return "please" in str(text_of(response))

    router = make_router(budgets=BUDGET, cascade=CASCADE, gates={"polite": polite})
    provider.default = ok(text="please wait")
    router.completion(messages=HELLO)
    cheap = provider.models[0]
    provider.script(cheap, ok(text="go away"))
    response = router.completion(messages=HELLO)
    assert text_of(response) == "please wait"
    assert seen == ["please wait", "go away", "please wait"]
    why = [step.why for step in Router.decision(response).steps]
    assert why == ["polite says 0", "polite says 1"]
    assert_books_agree(router, provider)


def test_a_gate_that_raises_or_abstains_has_no_verdict(
    make_router: MakeRouter, provider: Provider, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(request: Any, response: Any) -> float:
        raise ZeroDivisionError

    gates = {"broken": broken, "silent": lambda request, response: None}
    router = make_router(budgets=BUDGET, cascade=CASCADE, gates=gates)
    response = router.completion(messages=HELLO)
    assert Router.decision(response).steps[0].why == "no fault of form"
    assert "'broken' gave no verdict" in caplog.text
    assert_books_agree(router, provider)


def test_gates_without_a_cascade_are_refused(make_router: MakeRouter) -> None:
    with pytest.raises(ConfigurationError, match="cascade"):
        make_router(gates={"any": lambda request, response: True})
    with pytest.raises(ConfigurationError, match="'any'"):
        make_router(cascade=CASCADE, gates={"any": 3})


def test_a_gate_that_would_have_to_be_awaited_is_refused(make_router: MakeRouter) -> None:
    async def passes(request: Any, response: Any) -> bool:
        return True

    with pytest.raises(ConfigurationError, match="a plain function"):
        make_router(cascade=CASCADE, gates={"tests": passes})


def test_a_valid_tool_call_is_never_discarded(make_router: MakeRouter, provider: Provider) -> None:
    gates = {"no": lambda request, response: False}
    router = make_router(budgets=BUDGET, cascade=CASCADE, gates=gates)
    provider.default = calls("send_mail", '{"to": "ann"}')
    response = router.completion(messages=HELLO, tools=TOOLS)
    assert len(provider.wire) == 1
    assert response.choices[0].message.tool_calls[0].function.name == "send_mail"


@pytest.mark.parametrize(
    ("wrong", "fault"),
    [
        (calls("send_post", "{}"), "unknown_tool"),
        (calls("send_mail", '{"to": 5}'), "invalid_arguments"),
        (calls("send_mail", '{"to": '), "invalid_arguments"),
    ],
)
def test_a_tool_call_that_could_not_be_carried_out_is_replaced(
    make_router: MakeRouter, provider: Provider, wrong: Behaviour, fault: str
) -> None:
    router = make_router(budgets=BUDGET, cascade=CASCADE, objective=CHEAP)
    provider.default = calls("send_mail", '{"to": "ann"}')
    router.completion(messages=HELLO, tools=TOOLS)
    provider.script(provider.models[0], wrong)
    response = router.completion(messages=HELLO, tools=TOOLS)
    arguments = response.choices[0].message.tool_calls[0].function.arguments
    assert json.loads(arguments) == {"to": "ann"}
    assert Router.decision(response).steps[0].why == fault
    assert_books_agree(router, provider)


def test_a_request_ceiling_holds_over_the_chain(
    make_router: MakeRouter, provider: Provider
) -> None:
    """At the ceiling of one dear call there is no room for a second one after a first."""
    plain = make_router(objective=CHEAP)
    arms = {view.arm.tier: view.quote for view in plain.explain(HELLO).arms}
    dearest = arms["frontier"].upper
    assert dearest is not None
    ceiling = f"{(dearest + 1) / 1e9:.9f}"
    budget = {"name": "one", "limit": ceiling, "window": "total", "scope": "request"}
    gates = {"no": lambda request, response: False}
    router = make_router(
        budgets=[*BUDGET, budget], cascade={**CASCADE, "max_steps": 4},
        objective={"cost_weight": 0.001}, gates=gates, store="sqlite://",
    )  # fmt: skip
    response = router.completion(messages=HELLO)
    spent = sum(row.cost or 0 for row in rows(router))
    reserved = rows(router)[-1].reserved + sum(row.cost or 0 for row in rows(router)[:-1])
    assert spent <= dearest + 1
    assert reserved <= dearest + 1
    assert text_of(response) == "a fine answer"
    assert requests(router)[0].status == "answered"
    assert router.ledger.verify() == []

    capped = make_router(
        cascade={**CASCADE, "max_steps": 4}, objective={"max_cost_per_request": ceiling},
        gates=gates, store="sqlite://",
    )  # fmt: skip
    capped.completion(messages=HELLO)
    total = 0
    for row in rows(capped):
        assert total + row.reserved <= dearest + 1
        total += row.cost or 0


@pytest.mark.parametrize("then", [ok(text="the whole of it"), status(500)])
def test_a_later_answer_that_ends_at_a_predicted_cap_is_asked_for_once_more_in_full(
    make_router: MakeRouter, provider: Provider, then: Behaviour
) -> None:
    router = make_router(
        budgets=BUDGET, cascade=CASCADE, objective=CHEAP, reserve="predicted", retry={"attempts": 1}
    )
    router.completion(messages=HELLO)
    (cheap,) = provider.models
    provider.script(cheap, EMPTY)
    for tier in ("mini", "mid", "frontier"):
        provider.script(f"t-{tier}", cut_short(SHORTEST_CAP), then)
    response = router.completion(messages=HELLO)
    asked = [(body["model"], body["max_tokens"]) for _, _, body in provider.wire[1:]]
    dear = asked[-1][0]
    assert asked == [(cheap, SHORTEST_CAP), (dear, SHORTEST_CAP), (dear, 500)]
    handed, number = ("the whole of it", 3) if then.status == 200 else ("half of", 2)
    assert text_of(response) == handed
    assert requests(router)[1].accepted == number
    assert [step for step, _, _ in steps(router)[1:]] == [0, 1, 1]
    assert_books_agree(router, provider)


def test_where_no_budget_has_room_the_best_answer_so_far_is_given(
    make_router: MakeRouter, provider: Provider
) -> None:
    plain = make_router(objective=CHEAP, cascade=CASCADE)
    quote = plain.explain(HELLO).view.quote
    assert quote.upper is not None
    budget = [{"name": "all", "limit": f"{(quote.upper + 1) / 1e9:.9f}", "window": "total"}]
    provider.default = EMPTY
    router = make_router(
        budgets=[{**budget[0], "on_exceed": "block"}], cascade=CASCADE, objective=CHEAP,
        store="sqlite://",
    )  # fmt: skip
    response = router.completion(messages=HELLO)
    assert len(provider.wire) == 1
    assert text_of(response) == " "
    assert requests(router)[0].status == "answered"


def test_a_provider_that_fails_on_the_way_up_costs_the_caller_nothing(
    make_router: MakeRouter, provider: Provider
) -> None:
    router = make_router(
        budgets=BUDGET, cascade={**CASCADE, "max_steps": 2}, objective=CHEAP, retry={"attempts": 1}
    )
    router.completion(messages=HELLO)
    cheap = provider.models[0]
    provider.script(cheap, ok(text="I'm sorry, but I can't help with that."))
    for tier in ("nano", "mini", "mid", "frontier"):
        if f"t-{tier}" != cheap:
            provider.script(f"t-{tier}", *[status(500)] * 3)
    response = router.completion(messages=HELLO)
    assert "sorry" in str(text_of(response))
    request = requests(router)[1]
    assert (request.status, request.accepted) == ("answered", 1)
    assert len({row.tier for row in rows(router)[1:]}) > 1
    assert_books_agree(router, provider)


def test_a_first_call_that_fails_falls_back_before_anything_is_looked_at(
    make_router: MakeRouter, provider: Provider
) -> None:
    router = make_router(budgets=BUDGET, cascade=CASCADE, objective=CHEAP, retry={"attempts": 1})
    router.completion(messages=HELLO)
    provider.script(provider.models[0], status(500))
    router.completion(messages=HELLO)
    assert [(step, status) for step, _, status in steps(router)[1:]] == [
        (0, "failed"),
        (0, "answered"),
    ]
    provider.default = status(500)
    with pytest.raises(ProviderUnavailable):
        router.completion(messages=HELLO)
    assert_books_agree(router, provider)


def test_a_cancellation_between_two_steps_settles_what_was_sent(
    make_router: MakeRouter, provider: Provider
) -> None:
    router = make_router(budgets=BUDGET, cascade=CASCADE, objective=CHEAP)
    router.completion(messages=HELLO)
    cheap = provider.models[0]
    provider.script(cheap, EMPTY)
    provider.default = ok(delay=1.0)

    async def cancelled() -> None:
        task = asyncio.ensure_future(router.acompletion(messages=HELLO))
        while len(provider.wire) < 3:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    assert [status for _, _, status in steps(router)[1:]] == ["answered", "abandoned"]
    assert requests(router)[1].status == "abandoned"
    assert all(state.held == 0 for state in router.budgets())
    assert router.ledger.verify() == []


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_buffered_stream_begins_when_its_answer_has_passed(
    make_router: MakeRouter, provider: Provider, asynchronous: bool
) -> None:
    import litellm

    router = make_router(budgets=BUDGET, cascade={**CASCADE, "stream": "buffer"}, objective=CHEAP)
    router.completion(messages=HELLO)
    provider.script(provider.models[0], EMPTY)
    provider.default = ok(text="word " * 200)
    asked = {"messages": HELLO, "stream": True, "stream_options": {"include_usage": True}}

    async def read() -> list[Any]:
        stream = await router.acompletion(**asked)
        return [stream, [chunk async for chunk in stream]]

    if asynchronous:
        stream, chunks = asyncio.run(read())
    else:
        stream = router.completion(**asked)
        chunks = list(stream)
    assert isinstance(stream, litellm.CustomStreamWrapper)
    said = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert said == "word " * 200
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert chunks[-1].usage.completion_tokens == 10
    assert [step.why for step in stream.routing.steps] == ["empty", "no fault of form"]
    assert all("stream" not in body and "stream_options" not in body
               for _, _, body in provider.wire)  # fmt: skip
    assert requests(router)[1].stream
    assert_books_agree(router, provider)


def test_a_stream_that_is_decided_first_never_cascades(
    make_router: MakeRouter, provider: Provider
) -> None:
    gates = {"no": lambda request, response: False}
    router = make_router(budgets=BUDGET, cascade=CASCADE, gates=gates)
    stream = router.completion(messages=HELLO, stream=True)
    assert "part 0" in "".join(c.choices[0].delta.content or "" for c in stream)
    assert len(provider.wire) == 1
    assert provider.wire[0][2]["stream"] is True


def test_the_policy_says_what_a_cascade_may_be(make_router: MakeRouter) -> None:
    for wrong in (
        {"cascade": {"max_steps": 5}},
        {"cascade": {"gates": "structural"}},
        {"cascade": {"gate": "learned"}},
        {"cascade": {"verifier": {"path": "x"}}},
        {"cascade": CASCADE, "objective": {"keep_quality": 0.9}},
    ):
        with pytest.raises(PolicyError, match="cascade"):
            make_router(**wrong)


def test_explain_says_what_completion_would_do(make_router: MakeRouter) -> None:
    router = make_router(cascade=CASCADE, objective=CHEAP)
    decision = router.explain(HELLO)
    assert "its answer is looked at, up to 2 calls" in decision.reason
    assert decision.arm == Router.decision(router.completion(messages=HELLO)).decision.arm


def test_a_learned_gate_end_to_end(
    make_router: MakeRouter, provider: Provider, tmp_path: Path
) -> None:
    learned = wary_of_hedges(tmp_path / "verifier")
    router = make_router(
        budgets=BUDGET,
        cascade={"gate": "learned", "verifier": learned},
        objective={"cost_weight": 60},
    )
    router.completion(messages=HELLO)
    assert len(provider.wire) == 1
    provider.script(provider.models[0], ok(text="Perhaps. However, I am not sure."))
    response = router.completion(messages=HELLO)
    assert text_of(response) == "a fine answer"
    judged = {step.arm.split("/")[0]: step.quality for step in Router.decision(response).steps}
    assert judged[provider.models[0].removeprefix("t-")] < 0.2
    assert max(judged.values()) > 0.9
    assert_books_agree(router, provider)
    with pytest.raises(ModelFileError, match="the policy asks"):
        make_router(cascade={"gate": "learned", "verifier": {**learned, "sha256": "0" * 64}})


def test_a_chain_is_one_row_of_the_replayable_log_at_its_whole_cost(
    make_router: MakeRouter, provider: Provider
) -> None:
    router = make_router(budgets=BUDGET, cascade=CASCADE, objective=CHEAP)
    router.completion(messages=HELLO)
    provider.script(provider.models[0], EMPTY)
    router.completion(messages=HELLO)
    found = list(rows_of(router.ledger.log(), None, None, LeftOut()))
    assert [row["step"] for row in found] == [0, 1]
    assert [row["chosen"] for row in found] == [found[0]["chosen"]] * 2
    assert found[1]["cost"] == requests(router)[1].cost > found[0]["cost"]
