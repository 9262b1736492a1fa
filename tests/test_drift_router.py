"""Drift from end to end, over real HTTP: an alarm, the safe side, a restart, an acceptance."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from router import Router
from router.cli import cli
from router.drift.record import TESTS, Watch
from router.errors import ConfigurationError
from router.policy import load_policy
from router.predict import Predictor
from router.prices import PriceBook
from router.prices.book import BookEntry
from tests.conftest import (
    HELLO,
    PRICES,
    MakeRouter,
    ladder,
    only,
    plain_model,
    steady_predictor,
)
from tests.provider import USAGE, Provider, ok
from tests.stores import FreshStore

REFUSAL = ok(text="I'm sorry, but I can't help with that.")
LONG = ok(usage={**USAGE, "completion_tokens": 400, "total_tokens": 420})
# Requests' ids are drawn anew in each run, and with them the ties: so rare a false alarm is never
# seen, and 40 changed answers after 80 others still raised one in each of 2,000 simulated runs.
RARE = {"alpha": 0.0001, "reference": 50}
WATCH: dict[str, Any] = {**RARE, "watch": ["refusals", "tokens"]}


class Clock:
    """A clock that a test turns; each look at it is a millisecond later."""

    def __init__(self) -> None:
        self.now = 1_900_000_000.0

    def __call__(self) -> float:
        self.now += 0.001
        return self.now


def at_most_nano(**drift: Any) -> dict[str, Any]:
    """A policy that sends everything to the cheapest tier, but for the baseline."""
    return {"objective": {"cost_weight": 10_000}, "drift": {**WATCH, **drift}}


def ask(router: Router, times: int, **more: Any) -> list[str]:
    """Ask so often, and return the tiers that answered."""
    answers = [router.completion(messages=HELLO, **more) for _ in range(times)]
    return [router.decision(answer).decision.arm.tier for answer in answers]


def look(router: Router, clock: Clock) -> None:
    """What the next request after a minute does, to its end."""
    clock.now += 61
    router.completion(messages=HELLO)
    assert router.drift.wait()


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_provider_that_begins_to_refuse_raises_an_alarm_and_the_baseline_answers(
    provider: Provider, make_router: MakeRouter, clock: Clock
) -> None:
    router = make_router(**at_most_nano(), clock=clock)
    assert set(ask(router, 80)) == {"nano"}
    look(router, clock)
    assert router.drift.alarms() == ()

    provider.script("t-nano", *[REFUSAL] * 200)
    ask(router, 40)
    look(router, clock)
    [alarm] = router.drift.alarms()
    assert alarm.name == "refusals/nano"
    assert "refusals by nano since about 2030-03-17" in alarm.text

    answer = router.completion(messages=HELLO)
    decision = router.decision(answer).decision
    assert decision.arm.tier == "frontier"
    assert alarm.text in decision.reason
    *_, row = router.ledger.log().requests()
    assert row.features["drift"] == alarm.text
    assert alarm.text in row.reason
    assert router.explain(HELLO).arm.tier == "frontier"


def test_a_gate_that_lets_fewer_answers_pass_raises_an_alarm(
    provider: Provider, make_router: MakeRouter, clock: Clock
) -> None:
    """The answers are well-formed, and only a caller's own check finds that they got worse."""

    def works(request: Any, response: Any) -> bool:
        return "fails" not in response.choices[0].message.content

    tiers = {name: ladder(provider.url)["tiers"][name] for name in ("nano", "frontier")}
    router = make_router(
        tiers=tiers, objective={"cost_weight": 60}, cascade={"max_steps": 2},
        drift={**RARE, "watch": ["gate"]}, gates={"tests": works}, clock=clock,
    )  # fmt: skip
    assert set(ask(router, 80)) == {"nano"}
    look(router, clock)
    assert router.drift.alarms() == ()
    provider.script("t-nano", *[ok(text="it fails")] * 200)
    ask(router, 40)
    assert provider.models[-2:] == ["t-nano", "t-frontier"]
    look(router, clock)
    [alarm] = router.drift.alarms()
    assert alarm.name == "gate"
    assert "first answers that did not pass the gate" in alarm.text
    assert ask(router, 1) == ["frontier"]


def test_an_alarm_outlives_a_restart_reaches_other_processes_and_ends_when_it_is_accepted(
    provider: Provider, make_router: MakeRouter, clock: Clock, tmp_path: Path
) -> None:
    first, other = (
        make_router(**at_most_nano(), clock=clock),
        make_router(**at_most_nano(), clock=clock),
    )
    ask(first, 60)
    assert set(ask(other, 30)) == {"nano"}
    look(first, clock)
    provider.script("t-nano", *[LONG] * 500)
    ask(first, 60)
    look(first, clock)
    assert [alarm.name for alarm in first.drift.alarms()] == ["tokens/nano"]
    # The other process learns of it with its next look, and one that starts with its first.
    clock.now += 61
    assert ask(other, 1) == ["frontier"]
    first.close()
    started = make_router(**at_most_nano(), clock=clock)
    assert started.explain(HELLO).arm.tier == "frontier"
    assert ask(started, 1) == ["frontier"]

    store = str(tmp_path / "router.db")
    shown = CliRunner().invoke(cli, ["drift", store, "--json"])
    assert shown.exit_code == 1
    [facts] = json.loads(shown.stdout)["policies"]
    assert [alarm["name"] for alarm in facts["open"]] == ["tokens/nano"]
    assert "ALARM: tokens of nano's answers" in CliRunner().invoke(cli, ["drift", store]).stdout
    assert "DRIFT under test" in CliRunner().invoke(cli, ["report", store]).stdout
    reported = json.loads(CliRunner().invoke(cli, ["report", store, "--json"]).stdout)
    assert [alarm["name"] for alarm in reported["drift"]] == ["tokens/nano"]
    [change] = reported["changes"]
    assert (change["what"], change["requests"]) == ("tokens of nano's answers", 2)
    assert change["accepted"] is None

    done = CliRunner().invoke(cli, ["drift", "accept", store, "--by", "ann", "--note", "seen"])
    assert done.exit_code == 0, done.output
    clock.now += 61
    assert ask(started, 1) == ["nano"]
    clock.now += 61
    assert ask(other, 1) == ["nano"]
    after = CliRunner().invoke(cli, ["drift", store, "--json"])
    assert after.exit_code == 0
    [facts] = json.loads(after.stdout)["policies"]
    assert [entry["what"] for entry in facts["history"]] == ["alarm", "accepted"]
    assert facts["history"][1]["by"] == "ann"
    # What is now is the reference: the longer answers are no alarm any more.
    ask(started, 80)
    look(started, clock)
    assert started.drift.alarms() == ()


def test_processes_share_one_series_of_tests_in_every_store(
    provider: Provider, make_router: MakeRouter, clock: Clock, store: FreshStore
) -> None:
    """No request counts twice, whoever looks, and what one of them finds holds for the other."""
    one, two = (make_router(**at_most_nano(), clock=clock, store=store.url) for _ in range(2))
    look(one, clock)  # which begins the tests
    asked = 0
    for router in (one, two, one, two):
        ask(router, 20)
        look(router, clock)
        asked += 21
    clock.now += 1
    one.drift.look()
    two.drift.look()
    assert one.drift.wait()
    assert two.drift.wait()
    [memo] = one.ledger.log().memos(TESTS).values()
    watch = Watch.from_json(memo.value)
    assert watch is not None
    assert watch.streams.counts[watch.names.index("refusals/nano")].sum() == asked
    provider.script("t-nano", *[REFUSAL] * 100)
    ask(two, 40)
    look(one, clock)
    assert [alarm.name for alarm in two.drift.alarms()] == ["refusals/nano"]
    clock.now += 61
    assert ask(two, 1) == ["frontier"]


def test_with_leases_nothing_is_read_while_older_calls_may_be_under_way_unseen(
    provider: Provider, make_router: MakeRouter, clock: Clock
) -> None:
    """A leased call is in the log once it has ended, so that none there is open."""
    limits = {"timeout": {"connect": 5, "read": 5, "total": 5}, "streams": {"drain_seconds": 10}}
    router = make_router(
        **at_most_nano(), **limits, ledger={"lease": True},
        budgets=[{"name": "all", "limit": "100", "window": "total"}], clock=clock,
    )  # fmt: skip
    look(router, clock)  # which begins the tests

    def counted() -> float:
        [memo] = router.ledger.log().memos(TESTS).values()
        watch = Watch.from_json(memo.value)
        assert watch is not None
        return float(watch.streams.counts[watch.names.index("refusals/nano")].sum())

    ask(router, 20)
    look(router, clock)
    assert counted() == 0
    look(router, clock)
    assert counted() == 20


def test_on_alarm_log_changes_nothing_but_is_written_down(
    provider: Provider, make_router: MakeRouter, clock: Clock
) -> None:
    router = make_router(**at_most_nano(on_alarm="log"), clock=clock)
    ask(router, 80)
    look(router, clock)
    provider.script("t-nano", *[REFUSAL] * 200)
    ask(router, 40)
    look(router, clock)
    assert [alarm.name for alarm in router.drift.alarms()] == ["refusals/nano"]
    assert ask(router, 1) == ["nano"]


def test_budgets_hold_on_the_safe_side(
    provider: Provider, make_router: MakeRouter, clock: Clock
) -> None:
    # Room for nano's calls, and never for the frontier's.
    budget = {"name": "day", "limit": "0.02", "window": "day", "on_exceed": "downgrade"}
    router = make_router(**at_most_nano(), budgets=[budget], clock=clock)
    ask(router, 80)
    look(router, clock)
    provider.script("t-nano", *[REFUSAL] * 40)
    ask(router, 40)
    look(router, clock)
    assert router.drift.alarms()
    answer = router.completion(messages=HELLO)
    decision = router.decision(answer).decision
    assert decision.arm.tier != "frontier"
    assert "budget_downgrade" in decision.reason


def test_a_ceiling_on_a_request_holds_on_the_safe_side(
    provider: Provider, make_router: MakeRouter, clock: Clock
) -> None:
    ceiling = {"max_cost_per_request": "0.01"}  # the frontier's bound is above it
    router = make_router(
        objective=ceiling, drift={**WATCH}, rules=[only("nano")], baseline="frontier", clock=clock
    )
    tiers = ask(router, 80)
    assert "frontier" not in tiers
    look(router, clock)
    provider.script(f"t-{tiers[-1]}", *[REFUSAL] * 200)
    ask(router, 40)
    look(router, clock)
    assert router.drift.alarms()
    assert "frontier" not in ask(router, 1)


def test_cascades_are_off_while_an_alarm_is_open(
    provider: Provider, make_router: MakeRouter, clock: Clock
) -> None:
    router = make_router(**at_most_nano(), cascade={"max_steps": 2}, baseline="nano", clock=clock)
    ask(router, 80)
    clock.now += 31
    look(router, clock)
    provider.script("t-nano", *[REFUSAL] * 300)
    ask(router, 40)
    clock.now += 31
    look(router, clock)
    assert "refusals/nano" in [alarm.name for alarm in router.drift.alarms()]
    routing = router.decision(router.completion(messages=HELLO))
    assert routing.steps == ()
    assert routing.decision.arm.tier == "nano"


def book(digit: str, nano: str) -> PriceBook:
    """A price book of the policy's models, at this price of nano's input."""
    entries = [
        BookEntry.model_validate(
            {
                "model": f"openai/t-{tier}",
                "input": nano if tier == "nano" else price["input"],
                "output": price["output"],
                "effective_from": "2026-01-01",
                "checked": "2026-01-01",
                "source": "a price list",
            }
        )
        for tier, price in PRICES.items()
    ]
    return PriceBook(entries, digit * 64)


def test_another_price_of_an_arm_is_an_alarm_and_another_hash_of_the_book_alone_is_not(
    provider: Provider, clock: Clock, tmp_path: Path
) -> None:
    policy = ladder(provider.url, **at_most_nano(watch=["prices"]))
    for [deployment] in policy["tiers"].values():
        del deployment["price"]

    def alarms(prices: PriceBook) -> list[str]:
        with Router(
            load_policy(policy, book=prices),
            store=f"sqlite:///{tmp_path / 'router.db'}",
            predictor=steady_predictor(),
            clock=clock,
            prices=prices,
        ) as router:
            look(router, clock)
            look(router, clock)
            return [alarm.text for alarm in router.drift.alarms()]

    assert alarms(book("a", "0.2")) == []
    assert alarms(book("b", "0.2")) == []
    [text] = alarms(book("c", "0.3"))
    assert "aaaaaaaaaaaa" in text
    assert "cccccccccccc, which prices nano/0:openai/t-nano anew" in text


def test_refusals_in_streams_are_seen_where_drift_is_watched_and_nowhere_else(
    provider: Provider, make_router: MakeRouter, clock: Clock
) -> None:
    refusal = ok(pieces=("I'm sorry, but ", "I can't help ", "with that."))
    provider.script("t-nano", refusal, refusal)
    for changes in (at_most_nano(), {**at_most_nano(), "drift": None}):
        router = make_router(**changes, clock=clock)
        assert len(list(router.completion(messages=HELLO, stream=True))) >= 3
    notes = [attempt.note or "" for attempt in router.ledger.log().attempts()]
    assert [("form: refusal" in note) for note in notes] == [True, False]


def test_a_stream_that_was_cut_is_seen_and_kept_as_that(
    provider: Provider, make_router: MakeRouter, clock: Clock
) -> None:
    provider.script("t-nano", ok(pieces=("Once upon a",), finish_reason="length"), ok())
    log = {"durability": "normal", "content": True}
    router = make_router(**at_most_nano(), clock=clock, log=log)
    for _ in range(2):
        assert list(router.completion(messages=HELLO, stream=True))
    attempts = list(router.ledger.log().attempts())
    assert [attempt.note for attempt in attempts] == ["form: truncated", None]
    assert ['"length"' in str(attempt.answer) for attempt in attempts] == [True, False]


def test_scores_are_held_against_calibration_queries_only_where_there_are_some(
    make_router: MakeRouter,
) -> None:
    with pytest.raises(ConfigurationError, match="no calibration queries"):
        make_router(drift={"scores": "calibration"})


@pytest.mark.parametrize(("quality", "alarmed"), [(0.6, False), (0.45, True)])
def test_a_promise_is_given_up_where_traffic_is_unlike_its_calibration_queries(
    make_router: MakeRouter, clock: Clock, quality: float, alarmed: bool
) -> None:
    """The predictor says 0.6 of nano for every request, and `quality` for its own queries."""
    rows = 2000
    certified = Predictor(
        plain_model(
            intercept=steady_predictor().model.arrays["intercept"],
            calibration_quality=np.tile([quality, 0.7, 0.8, 0.9], (rows, 1)),
            calibration_tokens=np.full((rows, 4), 100.0),
            calibration_input_tokens=np.full(rows, 50.0),
            calibration_score=np.ones((rows, 4)),
        )
    )
    router = make_router(
        objective={"keep_quality": 0.95, "confidence": 0.95},
        drift={**RARE, "watch": ["scores"], "scores": "calibration"},
        predictor=certified,
        clock=clock,
    )
    look(router, clock)
    assert set(ask(router, 40)) == {"nano"}
    look(router, clock)
    assert [alarm.name for alarm in router.drift.alarms()] == ["scores/nano"] * alarmed
    assert ask(router, 1) == (["frontier"] if alarmed else ["nano"])


def test_without_drift_in_the_policy_nothing_is_kept(make_router: MakeRouter, clock: Clock) -> None:
    router = make_router(clock=clock)
    ask(router, 2)
    look(router, clock)
    assert router.ledger.log().memos("") == {}
