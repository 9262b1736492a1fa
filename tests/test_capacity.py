"""Capacity over real sockets: where a request goes when its deployment cannot take it."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from router import Router
from router.capacity import Capacity, Endpoint, Ticket
from router.decide import Bar, Obstacle
from router.errors import AtCapacity, PolicyError, ProviderError, ProviderUnavailable, RateLimited
from router.policy.capacity import CapacityLimits
from router.policy.loader import load_policy
from router.replay.off_policy.table import _bar
from router.walk.spill import said
from tests.conftest import HELLO, MakeRouter, ladder, only
from tests.provider import Provider, ok, status

SMALL = {"requests_per_minute": 1}


def tiers(provider: Provider, **deployments: Any) -> dict[str, Any]:
    """The usual four tiers; a tier named in `deployments` gets one for each name, with its keys."""
    found = ladder(provider.url)["tiers"]
    for tier, names in deployments.items():
        [usual] = found[tier]
        found[tier] = [{**usual, "model": f"openai/{name}", **keys} for name, keys in names.items()]
    return found


def test_a_full_deployment_spills_sideways_before_up(
    provider: Provider, make_router: MakeRouter
) -> None:
    own = tiers(provider, mini={"t-a": {"limits": SMALL}, "t-b": {"limits": SMALL}})
    router = make_router(tiers=own, rules=[only("mini")], objective={"cost_weight": 1000})
    replies = [router.completion(messages=HELLO) for _ in range(3)]
    assert provider.models == ["t-a", "t-b", "t-mid"]
    second, third = (router.decision(reply).decision for reply in replies[1:])
    assert "fallback after mini/0:openai/t-a is at capacity: 1 requests a minute" in second.reason
    assert [view.rejected or "" for view in third.arms][1].startswith("is at capacity")
    assert third.arm.tier == "mid"
    assert router.report().failed == 0


def test_it_never_spills_down_and_waits_no_longer_than_allowed(
    provider: Provider, make_router: MakeRouter
) -> None:
    own = tiers(provider, frontier={"t-frontier": {"limits": SMALL}})
    router = make_router(tiers=own, rules=[only("frontier")])
    free = make_router(tiers=own, objective={"cost_weight": 0})
    router.completion(messages=HELLO)
    with pytest.raises(AtCapacity, match=r"frontier.*is at capacity") as caught:
        router.completion(messages=HELLO)
    assert caught.value.retry_after == pytest.approx(60, abs=5)
    free.completion(messages=HELLO)
    with pytest.raises(AtCapacity):  # no rule keeps it off the lower tiers: nothing goes down
        free.explain(HELLO)
    assert provider.models == ["t-frontier", "t-frontier"]
    assert router.report().refused == 1


def test_a_short_wait_is_waited_for(provider: Provider, make_router: MakeRouter) -> None:
    limits = {"requests_per_minute": 300, "burst_seconds": 0.2}  # one, then another after 0.2 s
    own = tiers(provider, frontier={"t-frontier": {"limits": limits}})
    router = make_router(tiers=own, rules=[only("frontier")])
    router.completion(messages=HELLO)  # litellm is loaded now
    began = time.monotonic()
    for _ in range(3):
        router.completion(messages=HELLO)
    assert time.monotonic() - began > 0.3
    assert provider.models == ["t-frontier"] * 4
    assert "once it has waited for 0." in router.explain(HELLO).reason


@pytest.mark.parametrize(("retry_after", "goes_to"), [(0.4, "t-mini"), (30, "t-mid")])
def test_a_dearer_tier_is_no_answer_to_what_has_soon_passed(
    provider: Provider, make_router: MakeRouter, retry_after: float, goes_to: str
) -> None:
    router = make_router(
        rules=[only("mini")], objective={"cost_weight": 1000},
        retry={"attempts": 1, "initial_wait": 0, "max_wait": 5},
    )  # fmt: skip
    provider.script("t-mini", status(429, retry_after=retry_after))
    router.completion(messages=HELLO)
    foreseen = router.explain(HELLO)
    assert foreseen.arm.model == f"openai/{goes_to}"
    assert ("once it has waited for 0." in foreseen.reason) == (goes_to == "t-mini")
    began = time.monotonic()
    router.completion(messages=HELLO)
    assert provider.models[-1] == goes_to
    assert time.monotonic() - began < 5


def test_a_429_with_a_time_bars_the_deployment_for_other_requests_until_then(
    provider: Provider, make_router: MakeRouter
) -> None:
    own = tiers(provider, mini={"t-a": {}, "t-b": {}})
    router = make_router(
        tiers=own, rules=[only("mini")], objective={"cost_weight": 1000},
        retry={"attempts": 1, "initial_wait": 0, "max_wait": 0.5},
    )  # fmt: skip
    router.completion(messages=HELLO)  # litellm is loaded now
    provider.script("t-a", status(429, retry_after=1))
    for _ in range(3):
        router.completion(messages=HELLO)
    assert provider.models == ["t-a", "t-a", "t-b", "t-b", "t-b"]
    assert "asked not to be called" in str(router.explain(HELLO).arms[1].rejected)
    time.sleep(1.0)
    router.completion(messages=HELLO)
    assert provider.models[-1] == "t-a"


@pytest.mark.parametrize("stream", [False, True])
def test_what_headers_say_is_left_is_heeded(
    provider: Provider, make_router: MakeRouter, stream: bool
) -> None:
    said = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "30s"}
    own = tiers(provider, mini={"t-a": {}, "t-b": {}})
    router = make_router(tiers=own, rules=[only("mini")], objective={"cost_weight": 1000})
    provider.script("t-a", ok(headers=said))
    reply = router.completion(messages=HELLO, stream=stream)
    for _ in reply if stream else ():
        pass
    router.completion(messages=HELLO)
    assert provider.models == ["t-a", "t-b"]
    rejected = str(router.explain(HELLO).arms[1].rejected)
    assert "the provider has too few requests left" in rejected


def test_max_parallel_holds_over_threads_and_streams_count_until_their_end(
    provider: Provider, make_router: MakeRouter
) -> None:
    own = tiers(provider, mini={"t-a": {"limits": {"max_parallel": 2}}, "t-b": {}})
    router = make_router(tiers=own, rules=[only("mini")], objective={"cost_weight": 1000})
    router.completion(messages=HELLO)
    provider.script("t-a", *[ok(delay=0.5)] * 4)
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda _: router.completion(messages=HELLO), range(6)))
    assert provider.models.count("t-a") == 3
    assert provider.models.count("t-b") == 4
    open_streams = [router.completion(messages=HELLO, stream=True) for _ in range(2)]
    assert router.explain(HELLO).arm.model == "openai/t-b"
    for chunk in open_streams[0]:
        assert chunk
    assert router.explain(HELLO).arm.model == "openai/t-a"
    open_streams[1].close()


def test_a_refused_reservation_gives_its_place_back(
    provider: Provider, make_router: MakeRouter
) -> None:
    from router.errors import BudgetExceeded

    own = tiers(provider, mini={"t-a": {"limits": {"max_parallel": 1, **SMALL}}})
    router = make_router(
        tiers=own, rules=[{"name": "mini", "when": {"min_input_tokens": 0}, "tier": "mini"}],
        budgets=[{"name": "none", "limit": "0.00001", "window": "day", "on_exceed": "block"}],
    )  # fmt: skip
    with pytest.raises(BudgetExceeded):
        router.completion(messages=HELLO)
    assert router.capacity.obstacles(10, [10.0] * 4) == {}
    assert provider.models == []


def test_tokens_are_counted_as_estimated_and_corrected_by_the_bill() -> None:
    now = [0.0]
    limits = CapacityLimits(tokens_per_minute=600)
    endpoint = Endpoint(lambda: now[0], limits)
    ticket = endpoint.enter(600)
    assert isinstance(ticket, Ticket)
    assert endpoint.obstacle(1) is not None
    ticket.answered(None, tokens=100)
    ticket.answered(None, tokens=100)  # once is enough
    assert endpoint.obstacle(500) is None
    assert endpoint.obstacle(501) is not None


def test_tokens_that_were_refilled_during_a_call_are_not_given_back_as_well() -> None:
    now = [0.0]
    endpoint = Endpoint(lambda: now[0], CapacityLimits(tokens_per_minute=600))
    first = endpoint.enter(600)
    now[0] = 60.0
    assert isinstance(first, Ticket)
    assert isinstance(endpoint.enter(600), Ticket)
    first.answered(None, tokens=5)
    assert endpoint.obstacle(10) is not None


def test_efforts_of_one_endpoint_share_its_capacity(provider: Provider) -> None:
    own = tiers(provider, mid={"t-x": {"limits": SMALL, "effort": "low"}},
                frontier={"t-x": {"limits": SMALL, "effort": "high"}})  # fmt: skip
    capacity = Capacity(load_policy(ladder(provider.url, tiers=own)))
    assert isinstance(capacity.enter(2, 10, 10.0), Ticket)
    assert set(capacity.obstacles(10, [10.0] * 4)) == {2, 3}


def test_a_limit_holds_exactly_over_many_threads() -> None:
    endpoint = Endpoint(lambda: 0.0, CapacityLimits(requests_per_minute=100))
    with ThreadPoolExecutor(16) as pool:
        entered = list(pool.map(lambda _: isinstance(endpoint.enter(1), Ticket), range(400)))
    assert sum(entered) == 100


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"limits": {"requests_per_hour": 5}}, "requests_per_hour"),
        ({"limits": {}}, "nothing is limited"),
        ({"limits": {"requests_per_minute": 0}}, "requests_per_minute"),
        ({"health": {"server": "tgi"}}, "server"),
        ({"health": {"server": "vllm", "url": "ftp://x"}}, "url"),
    ],
)
def test_what_a_policy_may_not_say(provider: Provider, keys: Any, named: str) -> None:
    with pytest.raises(PolicyError, match=named):
        load_policy(ladder(provider.url, tiers=tiers(provider, mini={"t-a": keys})))


def test_one_endpoint_has_one_limit(provider: Provider) -> None:
    own = tiers(provider, mid={"t-x": {"limits": SMALL}}, frontier={"t-x": {}})
    with pytest.raises(PolicyError, match="same endpoint"):
        load_policy(ladder(provider.url, tiers=own))


# ── the breaker ────────────────────────────────────────────────────────────────────────────────
FRAGILE = {"failures": 2, "open_seconds": 0.4, "longest_open_seconds": 2}
ONCE = {"attempts": 1, "initial_wait": 0, "max_wait": 0.1}


def broken(provider: Provider, make_router: MakeRouter, **changes: Any) -> Router:
    """A router whose mini tier has t-a, whose circuit is open, and t-b."""
    own = tiers(provider, mini={"t-a": {}, "t-b": {}})
    router = make_router(
        tiers=own, rules=[only("mini")], objective={"cost_weight": 1000},
        breaker=FRAGILE, retry=ONCE, **changes,
    )  # fmt: skip
    provider.script("t-a", status(500), status(503))
    for _ in range(2):
        router.completion(messages=HELLO)
    assert provider.models == ["t-a", "t-b", "t-a", "t-b"]
    provider.wire.clear()
    return router


def test_an_open_circuit_is_spilled_around_and_closes_after_a_probe(
    provider: Provider, make_router: MakeRouter
) -> None:
    router = broken(provider, make_router)
    reply = router.completion(messages=HELLO)
    assert "its circuit is open: 2 failures in a row" in router.decision(reply).decision.reason
    time.sleep(0.45)
    for _ in range(2):
        router.completion(messages=HELLO)
    assert provider.models == ["t-b", "t-a", "t-a"]


def test_exactly_one_probe_goes_whatever_the_number_of_threads(
    provider: Provider, make_router: MakeRouter
) -> None:
    router = broken(provider, make_router)
    provider.script("t-a", ok(status=500, body=b"{}", delay=0.3))
    time.sleep(0.45)
    start = threading.Barrier(8)

    def call(_: int) -> None:
        start.wait()
        router.completion(messages=HELLO)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(call, range(8)))
    assert provider.models.count("t-a") == 1
    assert provider.models.count("t-b") == 8  # the probe's own request went on to it


def test_exactly_one_probe_goes_on_an_event_loop_and_a_cancelled_one_is_replaced(
    provider: Provider, make_router: MakeRouter
) -> None:
    router = broken(provider, make_router)
    provider.script("t-a", ok(delay=0.5), ok(delay=0.3))
    time.sleep(0.45)

    async def calls() -> None:
        probe = asyncio.create_task(router.acompletion(messages=HELLO))
        while "t-a" not in provider.models:
            await asyncio.sleep(0.01)
        await asyncio.gather(*(router.acompletion(messages=HELLO) for _ in range(4)))
        assert provider.models.count("t-a") == 1
        probe.cancel()
        with pytest.raises(asyncio.CancelledError):
            await probe
        await asyncio.gather(*(router.acompletion(messages=HELLO) for _ in range(4)))

    asyncio.run(calls())
    assert provider.models.count("t-a") == 2


def test_a_request_that_the_provider_rejects_says_nothing_against_the_provider(
    provider: Provider, make_router: MakeRouter
) -> None:
    router = make_router(rules=[only("frontier")], breaker=FRAGILE, retry=ONCE)
    provider.script("t-frontier", *[status(400)] * 5)
    for _ in range(5):
        with pytest.raises(ProviderError):
            router.completion(messages=HELLO)
    assert len(provider.models) == 5


def test_the_provider_s_own_error_is_raised_where_it_opened_the_circuit(
    provider: Provider, make_router: MakeRouter
) -> None:
    router = make_router(
        rules=[only("frontier")], breaker={"failures": 2, "open_seconds": 60},
        retry={"attempts": 3, "initial_wait": 0.01, "max_wait": 0.1},
    )  # fmt: skip
    provider.script("t-frontier", *[status(500)] * 3)
    with pytest.raises(ProviderUnavailable):
        router.completion(messages=HELLO)
    with pytest.raises(AtCapacity, match="circuit is open") as caught:
        router.completion(messages=HELLO)
    assert caught.value.retry_after == pytest.approx(60, abs=5)
    assert len(provider.models) == 2


def test_a_429_without_a_time_counts_as_a_failure_one_with_a_time_does_not() -> None:
    from router.policy.capacity import BreakerOptions

    for told, closed in ((None, False), (0.0, True)):
        endpoint = Endpoint(lambda: 0.0, None, BreakerOptions(failures=1))
        ticket = endpoint.enter(1)
        assert isinstance(ticket, Ticket)
        ticket.failed(RateLimited("m", "no", status=429, retry_after=told))
        assert (endpoint.obstacle(1) is None) is closed


# ── what a log and a decision say of it ────────────────────────────────────────────────────────
def test_chances_are_those_among_the_deployments_that_could_be_called(
    provider: Provider, make_router: MakeRouter
) -> None:
    """A log's propensities must hold with what was full then: such arms had none."""
    own = tiers(provider, mini={"t-a": {"limits": SMALL}, "t-b": {"limits": SMALL}})
    router = make_router(
        tiers=own, rules=[only("mini")], objective={"cost_weight": 1},
        explore={"rate": 0.2, "max_quality_loss": 1, "max_spend": 1, "holdout": 0.1},
    )  # fmt: skip
    for endpoint in router.capacity.arms[1:3]:
        endpoint.enter(1)
    decision = router.explain(HELLO)
    chances = {view.arm.model: view.propensity for view in decision.arms}
    assert chances["openai/t-a"] == chances["openai/t-b"] == 0
    assert sum(chances.values()) == pytest.approx(1)


def test_replay_takes_full_arms_as_barred() -> None:
    for bar in (Bar.AT_CAPACITY, Bar.CIRCUIT_OPEN, Bar.UNHEALTHY):
        assert _bar(said(Obstacle(bar, "whatever", 1.0))) == bar
    assert _bar(None) == _bar("P(good) -0.1, but saves $1") == Bar.FREE


def test_a_fallback_goes_round_a_full_deployment_too(
    provider: Provider, make_router: MakeRouter
) -> None:
    own = tiers(provider, mini={"t-a": {}, "t-b": {"limits": SMALL}})
    router = make_router(
        tiers=own, rules=[only("mini")], objective={"cost_weight": 1000}, retry=ONCE
    )
    provider.script("t-a", *[status(500)] * 2)
    for _ in range(2):
        router.completion(messages=HELLO)
    assert provider.models == ["t-a", "t-b", "t-a", "t-mid"]


def test_requests_on_an_event_loop_wait_for_their_turn(
    provider: Provider, make_router: MakeRouter
) -> None:
    limits = {"max_parallel": 2}
    own = tiers(provider, frontier={"t-frontier": {"limits": limits}})
    router = make_router(
        tiers=own, rules=[only("frontier")],
        retry={"attempts": 1, "initial_wait": 0, "max_wait": 15},
    )  # fmt: skip
    provider.default = ok(delay=0.1)

    async def calls() -> None:
        await asyncio.gather(*(router.acompletion(messages=HELLO) for _ in range(6)))

    asyncio.run(calls())
    assert provider.models == ["t-frontier"] * 6
    assert router.capacity.obstacles(1, [1.0] * 4) == {}
