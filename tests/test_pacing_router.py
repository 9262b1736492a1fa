"""Pacing in the router: what a policy may ask for, what a decision says, what a restart knows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from router import Router
from router.errors import PolicyError
from router.policy import lint, load_policy
from router.prices import load_book
from router.types import Room
from tests.conftest import HELLO, MakeRouter, ladder, steady_predictor
from tests.provider import Provider

MORNING = 1_799_999_400.0  # Friday 2027-01-15 07:50 UTC
DAILY = {"name": "daily", "limit": "0.02", "window": "day", "on_exceed": "downgrade"}
PACED: dict[str, Any] = {
    "objective": {"cost_weight": 0},
    "budgets": [DAILY],
    "pacing": {"budget": "daily", "expected_requests": 200},
}


def policy(**changes: Any) -> dict[str, Any]:
    return ladder("http://127.0.0.1:9", **{**PACED, **changes})


@pytest.mark.parametrize(
    ("changes", "key", "said"),
    [
        ({"objective": {"keep_quality": 0.9}}, "pacing", "cost weight"),
        ({"objective": {"max_cost_per_request": "0.1"}}, "pacing", "cost weight"),
        ({"pacing": {"budget": "dialy"}}, "pacing.budget", "did you mean 'daily'"),
        ({"budgets": []}, "pacing.budget", "no budget 'daily'"),
        ({"budgets": [{**DAILY, "limit": None}]}, "budgets.0.limit", "paced"),
        ({"budgets": [{**DAILY, "window": "total"}]}, "budgets.0.window", "paced"),
        ({"budgets": [{**DAILY, "scope": "user"}]}, "budgets.0.scope", "paced"),
        ({"budgets": [{**DAILY, "on_exceed": "block"}]}, "budgets.0.on_exceed", "paced"),
        ({"budgets": [{**DAILY, "when": {"team": "red"}}]}, "budgets.0.when", "paced"),
        ({"pacing": {"budget": "daily", "expected_requests": 0}}, "pacing.expected_requests", "0"),
        ({"pacing": {"budget": "daily", "window": "day"}}, "pacing.window", "unknown key"),
        ({"pacing": {}}, "pacing.budget", "missing"),
    ],
)
def test_a_pacing_that_cannot_be_is_refused(changes: Any, key: str, said: str) -> None:
    with pytest.raises(PolicyError) as caught:
        load_policy(policy(**changes))
    assert caught.value.key == key
    assert said in str(caught.value)


def test_a_small_paced_budget_is_noted_by_what_it_cannot_hold() -> None:
    def notes(limit: str) -> list[str]:
        found = load_policy(policy(budgets=[{**DAILY, "limit": limit}]))
        return [each.message for each in lint(found, load_book(), MORNING) if "pacing" in each.key]

    [note] = notes("1.00")  # the frontier reserves 4 cents for 1,000 tokens in, 500 out
    assert "openai/t-frontier reserves $0.04" in note
    assert notes("3.00") == []


def test_the_decision_says_that_pacing_set_the_weight_and_from_what(
    make_router: MakeRouter, provider: Provider
) -> None:
    router = make_router(**PACED, clock=lambda: MORNING)
    reason = Router.decision(router.completion(messages=HELLO)).decision.reason
    assert "set by pacing: budget 'daily' has $0.0" in reason
    assert "requests" in reason
    [logged] = list(router.ledger.log().requests())
    assert logged.reason == reason


def test_without_the_key_the_policys_own_objective_decides(make_router: MakeRouter) -> None:
    router = make_router(budgets=[DAILY], clock=lambda: MORNING)
    plan = router.plan(router.read(HELLO, {}))
    assert router.paced(plan, Room(), new=True) is None
    decision = router.explain(HELLO)
    assert "best value at cost_weight 20," in decision.reason
    assert "pacing" not in decision.reason


def test_explaining_is_no_traffic_and_makes_no_store(tmp_path: Path) -> None:
    store = tmp_path / "none.db"
    router = Router(
        policy(), store=f"sqlite:///{store}", predictor=steady_predictor(), clock=lambda: MORNING
    )
    reasons = {router.explain(HELLO).reason for _ in range(5)}
    assert len(reasons) == 1
    assert "pacing" in reasons.pop()
    assert not store.exists()


def test_a_tight_budget_moves_calls_to_cheaper_tiers_and_an_ample_one_does_not(
    make_router: MakeRouter, tmp_path: Path
) -> None:
    tiers = []
    for limit in ("0.05", "100"):
        router = make_router(
            **{**PACED, "budgets": [{**DAILY, "limit": limit}]},
            clock=lambda: MORNING,
            store=f"sqlite:///{tmp_path / limit}.db",
        )
        tiers.append(Router.decision(router.completion(messages=HELLO)).decision.arm.tier)
    assert tiers == ["nano", "frontier"]


def test_a_restart_and_another_process_know_the_traffic_and_the_sample(
    make_router: MakeRouter,
) -> None:
    now = [MORNING]
    first = make_router(**PACED, clock=lambda: now[0])
    for _ in range(6):
        first.completion(messages=HELLO)
        now[0] += 1
    second = make_router(**PACED, clock=lambda: now[0])
    second.completion(messages=HELLO)
    assert second._pacer is not None
    assert sum(second._pacer._counts.values()) == 7
    assert second._pacer._sample.count == 7
    assert first._pacer is not None
    now[0] += 61  # the first looks at the log again
    first.completion(messages=HELLO)
    assert sum(first._pacer._counts.values()) == 8


def test_a_log_of_other_arms_teaches_the_traffic_alone(make_router: MakeRouter) -> None:
    first = make_router(**PACED, clock=lambda: MORNING)
    for _ in range(3):
        first.completion(messages=HELLO)
    fewer = {tier: arms for tier, arms in first.policy.tiers if tier in ("nano", "frontier")}
    tiers = {
        tier: [arm.model_dump(exclude_none=True, exclude_defaults=True) for arm in arms]
        for tier, arms in fewer.items()
    }
    for arms in tiers.values():
        arms[0]["model"] += "-new"
        arms[0]["price"] = {"input": "1", "output": "2"}
    second = make_router(**PACED, tiers=tiers, clock=lambda: MORNING + 1)
    second.explain(HELLO)
    assert second._pacer is not None
    assert second._pacer._sample.count == 0
    assert sum(second._pacer._counts.values()) == 3


def test_the_log_counts_requests_by_bin_and_thins_decisions(make_router: MakeRouter) -> None:
    now = [MORNING]
    router = make_router(**PACED, clock=lambda: now[0])
    for step in (0, 1, 900, 900, 5000):
        now[0] = MORNING + step
        router.completion(messages=HELLO)
    log = router.ledger.log()
    first = int(MORNING // 900)
    counts = log.volume(MORNING, MORNING + 6000, 900)
    assert sum(counts.values()) == 5
    assert counts[first] == 2
    assert counts[first + 1] == 2
    assert log.volume(MORNING + 1, MORNING + 900, 900) == {first: 1}
    assert len(log.decisions(MORNING, MORNING + 6000)) == 5
    assert len(log.decisions(MORNING, MORNING + 6000, every=2)) == 2
    arms = {view["arm"] for view in log.decisions(MORNING, MORNING + 1)[0]}
    assert arms == {arm.name for arm in router.policy.arms()}
