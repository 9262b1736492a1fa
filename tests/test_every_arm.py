"""Every kind of arm through every door, over real HTTP: wire, reservations and bills are one."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from router import Router
from router.errors import BudgetExceeded
from router.predict import Predictor
from router.predict.effort import EFFORT_TOKENS
from tests.conftest import HELLO, PRICES, MakeRouter, ladder, steady_predictor, usd
from tests.pipeline_kit import (
    BUDGET,
    PIN_NANO,
    assert_books_agree,
    cancel_once_sent,
    requests,
    rows,
)
from tests.provider import Behaviour, Provider, ok
from tests.test_compaction import errands
from tests.test_gates import wary_of_hedges
from tests.test_logprobs import SURE, UNSURE

QUESTION = [{"role": "user", "content": "How many legs have two spiders? Answer with a number."}]
LEGS = {
    "type": "json_schema",
    "json_schema": {
        "name": "legs",
        "schema": {
            "type": "object", "properties": {"legs": {"type": "integer"}}, "required": ["legs"],
        },
    },
}  # fmt: skip
USAGE = {"prompt_tokens": 20, "completion_tokens": 10, "total_tokens": 30}
GPU = {
    "hour_usd": "3.60", "regime": "marginal", "utilisation": "0.5",
    "input_tokens_per_second": 1000, "output_tokens_per_second": 500,
}  # fmt: skip
CASCADE = {"max_steps": 2, "gate": "structural", "stream": "buffer"}
LOGPROBS = {**CASCADE, "logprobs": True}
CHEAP = {"cost_weight": 60}  # at which nano is called before the frontier
VOTE = {"samples": 5, "sure": 1, "concentration": 5}
BEST = {"samples": 4, "pick": "best", "sure": 0.9, "concentration": 5}


def says(text: str, **more: Any) -> Behaviour:
    return ok(text=text, pieces=(text,), usage=USAGE, **more)


def two_tiers(url: str, **nano: Any) -> dict[str, Any]:
    tiers = ladder(url)["tiers"]
    return {"nano": [{**tiers["nano"][0], **nano}], "frontier": tiers["frontier"]}


def one_tier(url: str, **mini: Any) -> dict[str, Any]:
    return {"mini": [{**ladder(url)["tiers"]["mini"][0], **mini}]}


def flex(url: str) -> dict[str, Any]:
    tiers = ladder(url)["tiers"]
    tiers["nano"][0]["price"]["multipliers"] = {"flex": "0.5"}
    return dict(tiers)


@dataclass(frozen=True)
class Kind:
    """An arm, a request that takes it, and what then goes over the wire.

    `policy`: the policy's keys by the provider's address; `scripts`: answers by model; `models`:
    whom the request is sent to, in order; `says`: whose answer is handed out; `sent`: keys of the
    first body; `bill`: in nano-USD, None: by `PRICES`.
    """

    policy: Callable[[str], dict[str, Any]]
    scripts: dict[str, tuple[Behaviour, ...]] = field(default_factory=dict)
    models: tuple[str, ...] = ("nano",)
    says: str = "a fine answer"
    sent: dict[str, Any] = field(default_factory=dict)
    asked: dict[str, Any] = field(default_factory=lambda: {"messages": HELLO})
    own: Callable[[], dict[str, Any]] = dict  # what only a program can give
    verifier: bool = False
    bill: int | None = None


def thinking() -> dict[str, Any]:
    model = steady_predictor().model
    model.facts["effort_tokens"] = EFFORT_TOKENS  # type: ignore[index]
    return {"predictor": Predictor(model)}


def works(request: Any, response: Any) -> bool:
    return "fails" not in response.choices[0].message.content


RIGHT, WRONG, OTHER = (says(f"The answer is {n}.") for n in (16, 12, 8))
KINDS = {
    "one model": Kind(lambda url: {"rules": [PIN_NANO]}),
    "reasoning effort": Kind(
        lambda url: {
            "tiers": one_tier(url, efforts=["none", "low", "high"]),
            "baseline": "mini",
            "objective": {"cost_weight": 0},
        },
        models=("mini",), sent={"reasoning_effort": "high"}, own=thinking,
    ),
    "own hardware": Kind(
        lambda url: {
            "tiers": one_tier(url, price={"gpu": GPU}), "baseline": "mini",
        },
        models=("mini",),
        bill=20 * 1000 + 10 * 2000,  # $1 and $2 a million tokens
    ),
    "cascade, by form": Kind(
        lambda url: {"tiers": two_tiers(url), "objective": CHEAP, "cascade": CASCADE},
        scripts={"t-nano": (says(" "),)}, models=("nano", "frontier"),
    ),
    "cascade, an answer that is cut off": Kind(
        lambda url: {"tiers": two_tiers(url), "objective": CHEAP, "cascade": CASCADE},
        scripts={"t-nano": (says("First of all, we", finish_reason="length"),)},
        models=("nano", "frontier"),
    ),
    "cascade, JSON that its schema refuses": Kind(
        lambda url: {"tiers": two_tiers(url), "objective": CHEAP, "cascade": CASCADE},
        scripts={"t-nano": (says('{"legs": "many"}'),), "t-frontier": (says('{"legs": 16}'),)},
        models=("nano", "frontier"), says='{"legs": 16}',
        asked={"messages": QUESTION, "response_format": LEGS},
    ),
    "cascade, code that does not parse": Kind(
        lambda url: {"tiers": two_tiers(url), "objective": CHEAP, "cascade": CASCADE},
        scripts={"t-nano": (says("```python\nprint('hello\n```"),)},
        models=("nano", "frontier"),
    ),
    "cascade, by log-probabilities": Kind(
        lambda url: {"tiers": two_tiers(url), "objective": CHEAP, "cascade": LOGPROBS},
        scripts={
            "t-nano": (ok(text=UNSURE.text, logprobs=UNSURE.logprobs, usage=USAGE),),
            "t-frontier": (ok(text=SURE.text, logprobs=SURE.logprobs, usage=USAGE),),
        },
        models=("nano", "frontier"), says=SURE.text, sent={"logprobs": True},
    ),
    "cascade, by a learned verifier": Kind(
        lambda url: {
            "tiers": two_tiers(url), "objective": {"cost_weight": 60},
            "cascade": {"gate": "learned", "stream": "buffer"},
        },
        scripts={"t-nano": (says("Perhaps. However, I am not sure."),)},
        models=("nano", "frontier"), verifier=True,
    ),
    "cascade, by the caller's own check": Kind(
        lambda url: {"tiers": two_tiers(url), "objective": CHEAP, "cascade": CASCADE},
        scripts={"t-nano": (says("it fails"),)}, models=("nano", "frontier"),
        own=lambda: {"gates": {"tests": works}},
    ),
    "vote that agrees": Kind(
        lambda url: {
            "tiers": two_tiers(url, vote=VOTE), "cascade": CASCADE,
            "objective": {"cost_weight": 40},
        },
        scripts={"t-nano": (RIGHT, WRONG, RIGHT, RIGHT)},
        models=("nano",) * 4, says="The answer is 16.", asked={"messages": QUESTION},
    ),
    "vote that does not, and escalates": Kind(
        lambda url: {
            "tiers": two_tiers(url, vote=VOTE), "cascade": CASCADE,
            "objective": {"cost_weight": 40},
        },
        scripts={"t-nano": (RIGHT, WRONG, OTHER, WRONG)},
        models=("nano",) * 4 + ("frontier",), asked={"messages": QUESTION},
    ),
    "best of several": Kind(
        lambda url: {
            "tiers": two_tiers(url, vote=BEST), "cascade": CASCADE,
            "objective": {"cost_weight": 60},
        },
        scripts={"t-nano": (says("this fails"), says("this fails too"), says("it works"))},
        models=("nano",) * 3, says="it works", own=lambda: {"gates": {"tests": works}},
    ),
    "a price for who can wait": Kind(
        lambda url: {
            "rules": [PIN_NANO], "deferred": {"flex": True}, "tiers": flex(url),
            "timeout": {"connect": 2, "read": 5, "total": 10},
        },
        sent={"service_tier": "flex"}, bill=(20 * 200 + 10 * 1250) // 2,
        asked={"messages": HELLO, "deadline": 3600.0},
    ),
    "a compacted conversation": Kind(
        lambda url: {
            "rules": [PIN_NANO], "objective": {"cost_weight": 0},
            "conversations": {"sticky_turns": 0},
            "compaction": {"min_tokens": 2000, "keep_turns": 2, "target": 0.2},
            "tiers": {"nano": ladder(url)["tiers"]["frontier"]}, "baseline": "nano",
        },
        models=("frontier",), asked={"messages": errands(20), "conversation_id": "c"},
    ),
    "a conversation that a cheap model summarises": Kind(
        lambda url: {
            "objective": {"cost_weight": 0}, "conversations": {"sticky_turns": 0},
            "compaction": {
                "min_tokens": 2000, "keep_turns": 2, "target": 0.9, "summary": "nano",
                "max_cost": "0.05",
            },
        },
        models=("nano", "frontier"), asked={"messages": errands(40), "conversation_id": "c"},
    ),
}  # fmt: skip
DOORS = ("completion", "acompletion", "stream", "astream")


def made(
    kind: Kind, make: MakeRouter, provider: Provider, folder: Path, *budgets: dict[str, Any]
) -> Router:
    policy = {"budgets": [*BUDGET, *budgets], **kind.policy(provider.url)}
    if kind.verifier:
        policy["cascade"] = {**policy["cascade"], "verifier": wary_of_hedges(folder / "verifier")}
    for model, behaviours in kind.scripts.items():
        provider.script(model, *behaviours)
    provider.default = says("a fine answer")
    return make(**policy, **kind.own())


def asked_of(kind: Kind, door: str) -> dict[str, Any]:
    asked = dict(kind.asked)
    if "deadline" in asked:
        asked["deadline"] += time.time()
    return asked | ({"stream": True} if "stream" in door else {})


def through(door: str, router: Router, asked: dict[str, Any]) -> str:
    """What the caller reads."""

    async def read() -> str:
        answer = await router.acompletion(**asked)
        if not asked.get("stream"):
            return str(answer.choices[0].message.content)
        return "".join([c.choices[0].delta.content or "" async for c in answer if c.choices])

    if door.startswith("a"):
        return asyncio.run(read())
    answer = router.completion(**asked)
    if door == "completion":
        return str(answer.choices[0].message.content)
    return "".join(c.choices[0].delta.content or "" for c in answer if c.choices)


def bill_of(kind: Kind, provider: Provider) -> int:
    """What the provider asks for what it was sent, nano-USD: `USAGE` at `PRICES`, by hand."""
    if kind.bill is not None:
        return kind.bill
    prices = [PRICES[model.removeprefix("t-")] for model in provider.models]
    return sum(20 * usd(p["input"]) + 10 * usd(p["output"]) for p in prices) // 1_000_000


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("kind", KINDS)
def test_each_wire_request_is_one_reservation_and_is_billed_to_the_nano_dollar(
    make_router: MakeRouter, provider: Provider, tmp_path: Path, kind: str, door: str
) -> None:
    arm = KINDS[kind]
    router = made(arm, make_router, provider, tmp_path)
    assert through(door, router, asked_of(arm, door)) == arm.says
    assert provider.models == [f"t-{tier}" for tier in arm.models]
    body = provider.wire[0][2]
    assert {key: body[key] for key in arm.sent} == arm.sent
    assert sum(row.cost for row in rows(router)) == bill_of(arm, provider)
    assert [row.status for row in rows(router)] == ["answered"] * len(arm.models)
    assert_books_agree(router, provider)


class Greedy(Provider):
    """Its answers take all the tokens that they may; scripts are obeyed otherwise."""

    def _next(self, path: str, headers: dict[str, str], body: dict[str, Any]) -> Behaviour:
        found = super()._next(path, headers, body)
        most = body.get("max_completion_tokens") or body["max_tokens"]
        usage = {"prompt_tokens": 20, "completion_tokens": most, "total_tokens": 20 + most}
        return replace(found, usage=usage)


@pytest.fixture
def greedy() -> Iterator[Provider]:
    server = Greedy()
    yield server
    server.close()


def spent_by_request(router: Router) -> dict[str, int]:
    """Of the callers' requests alone: what the router does of its own accord has its own limit."""
    served = {each.request_id for each in requests(router) if each.purpose == "serve"}
    spent = dict.fromkeys(served, 0)
    for row in rows(router):
        if row.request_id in served:
            spent[row.request_id] += row.cost
    return spent


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_ceiling_holds_over_all_calls_of_a_request_whatever_they_take(
    greedy: Provider, tmp_path: Path, kind: str, door: str
) -> None:
    """Ceilings from below one call to above them all, against answers that use up their caps."""
    arm, sent = KINDS[kind], []
    for at, ceiling in enumerate((50_000, 600_000, 2_000_000, 35_000_000, 2_000_000_000)):
        greedy.scripts.clear()

        def make(at: int = at, **policy: Any) -> Router:
            own = {key: policy.pop(key) for key in ("gates", "predictor") if key in policy}
            own.setdefault("predictor", steady_predictor())
            place = tmp_path / f"{at}.db"
            return Router(ladder(greedy.url, **policy), store=f"sqlite:///{place}", **own)

        one = {"name": "one", "limit": f"{ceiling / 1e9:.9f}", "window": "total",
               "scope": "request", "on_exceed": "downgrade"}  # fmt: skip
        with made(arm, make, greedy, tmp_path / str(at), one) as router:
            before = len(greedy.wire)
            with suppress(BudgetExceeded):
                through(door, router, asked_of(arm, door))
            assert len(rows(router)) == len(greedy.wire) - before
            assert all(cost <= ceiling for cost in spent_by_request(router).values())
            assert all(state.held == 0 for state in router.budgets())
            assert router.ledger.verify() == []
            sent.append(len(greedy.wire) - before)
    assert sent == sorted(sent)
    assert sent[0] < sent[-1] == len(arm.models)  # under the last one nothing is left undone


@pytest.mark.parametrize("door", ["acompletion", "astream"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_caller_who_leaves_is_billed_for_what_was_sent_and_nothing_stays_held(
    make_router: MakeRouter, provider: Provider, tmp_path: Path, kind: str, door: str
) -> None:
    arm = KINDS[kind]
    router = made(arm, make_router, provider, tmp_path)
    for model, script in provider.scripts.items():
        provider.scripts[model] = deque(replace(each, delay=0.3) for each in script)
    provider.default = replace(provider.default, delay=0.3)

    cancel_once_sent(provider, lambda: router.acompletion(**asked_of(arm, door)))
    router.close()
    with made(arm, make_router, provider, tmp_path) as router:
        assert provider.wire
        assert sum(row.cost for row in rows(router)) >= bill_of(arm, provider)
        assert_books_agree(router, provider)
