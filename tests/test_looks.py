"""Chains that can be estimated from: exploring after looks, and what the log keeps of it."""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from router.decide import (
    UNKNOWN,
    UNLIMITED,
    Bar,
    Exploration,
    Look,
    Objective,
    Options,
    Signals,
    after_look,
    choose,
    goes_on,
)
from router.errors import ProviderError
from router.gates.gate import TOGETHER
from router.gates.structural import OF_BAD, OF_GOOD
from router.ledger import Ledger, lines, open_log
from router.log.base import LoggedRequest
from router.planning.exploring import uniform
from router.types import TIERS, Budget, RequestEnd
from tests.conftest import HELLO, MakeRouter
from tests.ledger_kit import NOW, reserve, settle
from tests.pipeline_kit import BUDGET, assert_books_agree
from tests.provider import Provider, ok, status
from tests.stores import FreshStore
from tests.test_cascade import EMPTY

A = 4
RUNG = np.arange(A)
SIGNALS = Signals(np.tile(OF_GOOD, (A, 1)), np.tile(OF_BAD, (A, 1)), np.full((A, A), TOGETHER))
CASCADE = {"max_steps": 3, "gate": "structural"}
EAGER = {"rate": 0.5, "max_spend": 1, "max_quality_loss": 1}
CHEAP = {"cost_weight": 60}
MODELS = [f"t-{tier}" for tier in TIERS]


# ── deciding ───────────────────────────────────────────────────────────────────────────────────
@st.composite
def looked(draw: st.DrawFn) -> tuple[Options, np.ndarray[Any, Any]]:
    """Options after the first arm has answered."""
    n = draw(st.integers(1, 6))
    cost = draw(hnp.arrays(np.int64, (n, A), elements=st.integers(1, 10**9)))
    unknown = draw(hnp.arrays(np.bool_, (n, A), elements=st.sampled_from([False] * 9 + [True])))
    bars = draw(hnp.arrays(np.uint8, (n, A), elements=st.sampled_from([0, 0, 0, int(Bar.RULE)])))
    bars[:, 0] = Bar.ANSWERED
    called = np.zeros((n, A), bool)
    called[:, 0] = True
    options = Options(
        quality=draw(hnp.arrays(np.float64, (n, A), elements=st.floats(0, 1, width=32))),
        expected=np.where(unknown, UNKNOWN, cost),
        upper=np.where(unknown, UNKNOWN, 2 * cost),
        barred=bars,
        rung=RUNG,
        baseline=A - 1,
    )
    return options, called


explorations = st.builds(
    Exploration,
    rate=st.floats(0, 0.5),
    max_quality_loss=st.floats(0, 0.5),
    allowance=st.floats(0, 1e8),
)
objectives = st.sampled_from(
    [Objective(cost_weight=2.0), Objective(cost_weight=0.0), Objective(max_cost_per_request=10**9)]
)


def chosen_after(
    options: Options, called: Any, objective: Objective, exploration: Exploration | None
) -> Any:
    look = Look(SIGNALS, 2, called)
    choices = choose(options, objective, np.array([UNLIMITED]), priced=False, look=look)
    return choices, after_look(options, objective, choices, called, exploration)


@given(looked(), objectives, explorations)
def test_chances_after_a_look_sum_to_one_and_the_best_keeps_all_but_the_rate(
    case: Any, objective: Objective, exploration: Exploration
) -> None:
    options, called = case
    choices, onward = chosen_after(options, called, objective, exploration)
    np.testing.assert_allclose(onward.chances.sum(axis=1), 1)
    rows = np.arange(len(called))
    assert (onward.chances >= 0).all()
    assert (onward.chances[rows, onward.best] >= 1 - exploration.rate - 1e-12).all()
    goes = goes_on(choices.arm, choices.utility, options.quality, called)
    assert (onward.best == np.where(goes, choices.arm, A)).all()
    blocked = choices.barred != Bar.FREE
    assert (onward.chances[:, :A][blocked] == 0).all()


@given(looked(), objectives, explorations)
def test_what_is_explored_after_a_look_costs_at_most_the_allowance_beyond_the_best(
    case: Any, objective: Objective, exploration: Exploration
) -> None:
    options, called = case
    _, onward = chosen_after(options, called, objective, exploration)
    cost = np.concatenate([options.expected, np.zeros((len(called), 1))], axis=1)
    rows = np.arange(len(called))
    beyond = np.maximum(cost - cost[rows, onward.best][:, None], 0)
    extra = (onward.chances * beyond).sum(axis=1)
    # The smallest floats have few digits: there a sum may be off by one of them.
    assert (extra <= exploration.allowance * (1 + 1e-9) + 1e-300).all()


@given(looked(), explorations)
def test_stopping_is_explored_only_where_it_loses_little(
    case: Any, exploration: Exploration
) -> None:
    options, called = case
    objective = Objective(cost_weight=2.0)
    choices, onward = chosen_after(options, called, objective, exploration)
    price = 2.0 * options.expected / 1e9
    rows = np.arange(len(called))
    goes = onward.best < A
    best = np.minimum(onward.best, A - 1)
    comes_to = choices.utility[rows, best] + price[rows, best]
    loses = comes_to - options.quality[:, 0] > exploration.max_quality_loss + 1e-9
    assert (onward.chances[goes & loses, A] == 0).all()


@pytest.mark.parametrize(
    "kept",
    [{"promise": "certified"}, {"alarm": "drift"}],
)
def test_under_a_promise_or_an_alarm_nothing_is_explored_after_a_look(kept: Any) -> None:
    quality = np.array([[0.4, 0.6, 0.7, 0.8]])
    cost = np.array([[1, 10, 100, 1000]]) * 10**5
    barred = np.array([[Bar.ANSWERED, 0, 0, 0]], np.uint8)
    options = Options(quality, cost, 2 * cost, barred, RUNG, A - 1)
    called = np.array([[True, False, False, False]])
    objective = Objective(cost_weight=1.0, **kept)
    _, onward = chosen_after(options, called, objective, Exploration(0.5, 1.0, 1e12))
    assert sorted(onward.chances[0].tolist()) == [0, 0, 0, 0, 1]


def test_draws_fall_as_often_as_the_chances_say() -> None:
    n = 40_000
    quality = np.tile([[0.4, 0.6, 0.7, 0.8]], (n, 1))
    cost = np.tile([[1, 10, 30, 90]], (n, 1)) * 10**5
    barred = np.tile(np.array([[Bar.ANSWERED, 0, 0, 0]], np.uint8), (n, 1))
    options = Options(quality, cost, 2 * cost, barred, RUNG, A - 1)
    called = np.tile([[True, False, False, False]], (n, 1))
    draws = np.array([uniform(f"r{at}", 1) for at in range(n)])
    exploration = Exploration(0.5, 1.0, 1e12, draw=draws)
    _, onward = chosen_after(options, called, Objective(cost_weight=1.0), exploration)
    share = np.bincount(onward.taken, minlength=A + 1) / n
    error = np.sqrt(onward.chances[0] * (1 - onward.chances[0]) / n)
    assert (onward.chances[0, 1:] > 0.01).all()
    assert (np.abs(share - onward.chances[0]) <= 4.5 * error + 1e-12).all()


# ── a router ───────────────────────────────────────────────────────────────────────────────────
def logged(router: Any) -> list[LoggedRequest]:
    return list(router.ledger.log().requests())


def ask_many(router: Any, door: str, times: int) -> None:
    for _ in range(times):
        if door == "sync":
            router.completion(messages=HELLO)
        elif door == "async":
            asyncio.run(router.acompletion(messages=HELLO))
        else:
            assert list(router.completion(messages=HELLO, stream=True))


@pytest.mark.parametrize("door", ["sync", "async", "buffered"])
def test_the_log_keeps_each_look_with_its_chances_and_what_was_done(
    make_router: MakeRouter, provider: Provider, door: str
) -> None:
    cascade = {**CASCADE, "stream": "buffer"}
    router = make_router(budgets=BUDGET, cascade=cascade, objective=CHEAP, explore=EAGER)
    provider.default = EMPTY
    ask_many(router, door, 15)
    provider.default = ok()
    ask_many(router, door, 15)
    went_on = stopped = 0
    by_request: dict[str, list[Any]] = {}
    for attempt in router.ledger.log().attempts():
        by_request.setdefault(attempt.request_id, []).append(attempt)
    for request in logged(router):
        assert request.looks is not None
        assert request.looks["gate"] == "form"
        names = [view["arm"] for view in request.decision]
        calls = by_request[request.request_id]
        looks = request.looks["looks"]
        assert [names[look["answered"]] for look in looks] == [call.arm for call in calls]
        for step, look in enumerate(looks, start=1):
            chances = look["chances"]
            assert len(look["quality"]) == len(names)
            assert len(chances) == len(names) + 1
            assert sum(chances) == pytest.approx(1)
            assert chances[look["chosen"]] > 0
            if look["chosen"] >= 0:
                assert calls[step].arm == names[look["chosen"]]
                assert calls[step].propensity == pytest.approx(chances[look["chosen"]])
                went_on += 1
            else:
                assert step == len(looks) == len(calls)
                stopped += 1
            if step < CASCADE["max_steps"]:  # type: ignore[operator]
                place = (np.cumsum(chances) <= uniform(request.request_id, step)).sum()
                assert place == look["chosen"] % (len(names) + 1)
    assert min(went_on, stopped) >= 5
    assert_books_agree(router, provider)


@pytest.mark.parametrize(
    "changes", [{"cascade": CASCADE}, {"explore": EAGER}, {}], ids=["no chance", "no look", "none"]
)
def test_without_looks_or_without_chances_nothing_is_kept(
    make_router: MakeRouter, provider: Provider, changes: Any
) -> None:
    router = make_router(objective=CHEAP, **changes)
    ask_many(router, "sync", 3)
    assert [request.looks for request in logged(router)] == [None] * 3


def test_a_stream_that_begins_at_once_has_no_looks(
    make_router: MakeRouter, provider: Provider
) -> None:
    router = make_router(cascade={**CASCADE, "stream": "decide_first"}, explore=EAGER)
    ask_many(router, "stream", 2)
    assert [request.looks for request in logged(router)] == [None] * 2


def test_a_final_answer_is_marked_so_that_no_policy_is_taken_to_go_on(
    make_router: MakeRouter, provider: Provider
) -> None:
    function = {"name": "now", "arguments": "{}"}
    tools = [{"type": "function", "function": {"name": "now", "parameters": {"type": "object"}}}]
    router = make_router(cascade=CASCADE, objective=CHEAP, explore=EAGER)
    for model in MODELS:
        calling = {"id": "1", "type": "function", "function": function}
        provider.script(model, ok(tool_calls=[calling]))
    router.completion(messages=HELLO, tools=tools)
    [request] = logged(router)
    assert request.looks is not None
    [look] = request.looks["looks"]
    assert look["final"]
    assert look["chosen"] == -1
    assert look["chances"][-1] == 1


def test_a_second_call_that_fails_leaves_the_decision_to_make_it(
    make_router: MakeRouter, provider: Provider
) -> None:
    cascade = {**CASCADE, "max_steps": 2}
    cheapest = {"cost_weight": 400}
    router = make_router(budgets=BUDGET, cascade=cascade, objective=cheapest, explore=EAGER)
    for model in MODELS[1:]:
        provider.script(model, *[status(400)] * 50)
    provider.default = EMPTY
    for _ in range(12):
        with suppress(ProviderError):  # a first call that was drawn may fail too
            router.completion(messages=HELLO)
    failed = [
        request
        for request in logged(router)
        if request.looks is not None
        and len(request.looks["looks"]) == 1
        and request.looks["looks"][0]["chosen"] >= 0
    ]
    assert failed
    assert_books_agree(router, provider)


# ── stores ─────────────────────────────────────────────────────────────────────────────────────
LOOKS = {"gate": "form", "checked": False, "looks": [{"answered": 0, "chosen": -1}]}


def answered(ledger: Ledger, name: str) -> None:
    reserve(ledger, name, 100)
    settle(ledger, name, 70)


def test_every_store_keeps_looks_and_an_end_without_them_erases_none(store: FreshStore) -> None:
    ledger = store.open([Budget("all", None)])
    answered(ledger, "a")
    answered(ledger, "b")
    assert [each.looks for each in ledger.log().requests()] == [None, None]
    end = RequestEnd("answered", accepted=1, baseline=9, looks=json.dumps(LOOKS))
    ledger.finish("a", end, NOW + 1)
    assert [each.looks for each in ledger.log().requests()] == [LOOKS, None]
    ledger.finish("a", replace(end, looks=None, baseline=8), NOW + 2)
    ledger.finish("b", replace(end, looks=json.dumps({**LOOKS, "gate": "é"})), NOW + 2)
    first, second = ledger.log().requests()
    assert (first.looks, first.baseline) == (LOOKS, 8)
    assert second.looks == {**LOOKS, "gate": "é"}
    assert ledger.verify() == []
    ledger.close()
    log = open_log(store.url)
    assert [each.looks for each in log.requests()] == [LOOKS, {**LOOKS, "gate": "é"}]
    log.close()


def test_the_first_looks_of_a_store_may_be_written_by_many_at_once(store: FreshStore) -> None:
    ledger = store.open([Budget("all", None)])
    names = [f"r{at}" for at in range(8)]
    for name in names:
        answered(ledger, name)
    end = RequestEnd("answered", accepted=1, baseline=9, looks=json.dumps(LOOKS))
    others = [store.open([Budget("all", None)]) for _ in names]
    with ThreadPoolExecutor(len(names)) as threads:
        list(threads.map(lambda each: each[0].finish(each[1], end, NOW + 1),
                         zip(others, names, strict=True)))  # fmt: skip
    assert [each.looks for each in ledger.log().requests()] == [LOOKS] * len(names)
    for each in (ledger, *others):
        each.close()


def test_a_journal_keeps_looks_and_reads_the_lines_of_earlier_releases() -> None:
    end = RequestEnd("answered", accepted=1, baseline=9, looks=json.dumps(LOOKS))
    assert lines.finish_of(json.loads(lines.finish_line("a", end, NOW))) == ("a", end, NOW)
    older = ["finish", "a", ["answered", 1, 9, None], NOW]
    assert lines.finish_of(older) == ("a", replace(end, looks=None), NOW)
    plain = replace(end, looks=None)
    assert json.loads(lines.finish_line("a", plain, NOW)) == older
