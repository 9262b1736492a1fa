"""Replayed decisions are the live ones: the same function, rules and bars, on the log's numbers."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.errors import ReplayError
from router.ledger import open_log
from router.planning.ladder import Ladder
from router.policy import load_policy
from router.policy.rules import Rule, match
from router.predict.effort import Efforts
from router.prices import load_book
from router.replay.off_policy.batch import LogBatch, read_log, read_part
from router.replay.off_policy.export import export, open_exported
from router.replay.off_policy.table import LeftOut
from router.replay.off_policy.target import always, of_policy
from router.types import Request, Shape
from tests.conftest import HELLO, MakeRouter, ladder
from tests.off_policy_kit import ARMS, log
from tests.provider import Provider

EAGER = {"rate": 0.3, "max_spend": 1, "max_quality_loss": 1, "holdout": 0.1}


def policy_of(**changes: Any) -> Any:
    """A policy whose arms are those of the kit's logs."""
    tiers = {
        arm.tier: [{"model": arm.model, "price": {"input": "1", "output": "1"}}] for arm in ARMS
    }
    return load_policy(
        {
            "version": 1,
            "name": "it",
            "baseline": "mid",
            "objective": {"cost_weight": 10},
            "tiers": tiers,
            **changes,
        }
    )


def ladder_of(policy: Any) -> Ladder:
    return Ladder.of(policy, load_book(), Efforts({}))


def logged(url: str) -> list[LogBatch]:
    opened = open_log(url)
    try:
        return list(read_log(opened, None, None, LeftOut()))
    finally:
        opened.close()


def test_a_policy_replayed_on_its_own_log_decides_as_it_did(
    make_router: MakeRouter, provider: Provider
) -> None:
    changes = {
        "explore": EAGER,
        "objective": {"cost_weight": 150},
        "rules": [
            {"name": "long", "when": {"min_input_tokens": 200}, "at_least": "mid"},
            {"name": "vip", "when": {"tags": ["vip"]}, "tier": "mini"},
        ],
    }
    router = make_router(**changes)
    for at in range(60):
        words = "word " * (1 + 7 * (at % 50))
        tools = {"tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]}
        router.completion(
            messages=[{"role": "user", "content": f"{at} {words}"}],
            tags=["vip"] if at % 7 == 0 else [],
            **(tools if at % 5 == 0 else {}),
        )
    [batch] = logged(router.store)
    again = of_policy(ladder_of(load_policy(ladder(provider.url, **changes))))(batch)
    best = batch.propensity.argmax(axis=1)
    assert len(batch) == 60
    assert len(set(best.tolist())) >= 2
    assert (again == best).all()


def test_what_a_log_keeps_comes_back_from_its_export(
    make_router: MakeRouter, tmp_path: Any
) -> None:
    router = make_router(explore=EAGER)
    for at in range(25):
        response = router.completion(messages=HELLO, conversation_id=f"c{at % 4}")
        if at % 2:
            router.feedback(response, 1.0)
    [store] = logged(router.store)
    opened = open_log(router.store)
    exported = export(opened, str(tmp_path / "out"))
    opened.close()
    assert exported.rows == 25
    assert open_exported(str(tmp_path / "out")).parts == exported.parts
    [back] = [b for part in exported.parts for b in read_part(exported, part)]
    for name in LogBatch.__dataclass_fields__:
        mine, theirs = getattr(store, name), getattr(back, name)
        if isinstance(mine, np.ndarray):
            np.testing.assert_array_equal(mine, theirs, err_msg=name)
        elif name == "arms" or mine is None:
            assert mine == theirs
        else:
            assert [mine[1][code] for code in mine[0]] == [theirs[1][code] for code in theirs[0]]
    assert len(set(back.cluster.tolist())) == 4


rules = st.lists(
    st.builds(
        lambda number, when, kind, tier: Rule.model_validate(
            {"name": f"r{number}", "when": when, kind: tier}
        ),
        st.integers(0, 10**6),
        st.fixed_dictionaries(
            {},
            optional={
                "tags": st.sampled_from([("a",), ("b",), ("a", "b")]),
                "needs": st.sampled_from([("vision",), ("tools",), ("tools", "vision")]),
                "min_input_tokens": st.integers(0, 500),
                "max_input_tokens": st.integers(500, 5000),
            },
        ).filter(bool),
        st.sampled_from(["tier", "at_least", "at_most"]),
        st.sampled_from(["nano", "mini", "mid"]),
    ),
    min_size=1,
    max_size=3,
    unique_by=lambda rule: rule.name,
)


@given(rules, st.integers(0, 100))
@settings(max_examples=60, deadline=None)
def test_rules_hold_for_arrays_as_for_one_request(found: list[Rule], seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, tags, needs = 40, [[], ["a"], ["b"], ["a", "b"]], [[], ["vision"], ["tools", "vision"]]
    batch = log(
        n,
        seed,
        tags=(rng.integers(0, 4, n), [json.dumps(each) for each in tags]),
        needs=(rng.integers(0, 3, n), [json.dumps(each) for each in needs]),
    )
    policy = policy_of(rules=[rule.model_dump(exclude_none=True) for rule in found])
    chosen = of_policy(ladder_of(policy))(batch)
    for row in range(n):
        shape = Shape(
            int(batch.input_tokens[row]), 0, 1, 0, 0, 0,
            frozenset(needs[batch.needs[0][row]]), "",
        )  # fmt: skip
        request = Request("r", [], {}, 0.0, tags=tuple(tags[batch.tags[0][row]]))
        rule = match(policy.rules, request, shape)
        allowed = ["nano", "mini", "mid"] if rule is None else rule.tiers
        assert ARMS[chosen[row]].tier in allowed


def test_a_rule_that_reads_text_is_refused_by_name() -> None:
    policy = policy_of(rules=[{"name": "greeting", "when": {"regex": "hello"}, "tier": "nano"}])
    with pytest.raises(ReplayError, match=r"'greeting'.*text"):
        of_policy(ladder_of(policy))


def test_a_policy_with_an_arm_that_the_log_never_saw_is_refused_by_name() -> None:
    policy = policy_of()
    other = policy_of(
        tiers={
            "nano": [{"model": "new-nano", "price": {"input": "1", "output": "1"}}],
            "mid": [{"model": "m-mid", "price": {"input": "1", "output": "1"}}],
        }
    )
    assert of_policy(ladder_of(policy))(log(10)).shape == (10,)
    said = "nano/0:new-nano, of which the log has no prediction.* in requests of p@1; "
    with pytest.raises(ReplayError, match=said):
        of_policy(ladder_of(other))(log(10))


def test_what_an_arm_lacks_bars_it_for_every_policy() -> None:
    from router.decide import Bar

    barred = np.zeros((50, 3), np.uint8)
    barred[:, 0] = Bar.NO_VISION
    cheapest = ladder_of(policy_of(objective={"cost_weight": 1e9}))
    assert (of_policy(cheapest)(log(50)) == 0).all()
    assert (of_policy(cheapest)(log(50, barred=barred)) == 1).all()


def test_a_policy_replayed_on_its_own_log_keeps_conversations_where_they_were_escalated_to(
    make_router: MakeRouter, provider: Provider
) -> None:
    changes = {"objective": {"cost_weight": 150}, "conversations": {"sticky_turns": 3}}
    rule = {"name": "vip", "when": {"tags": ["vip"]}, "at_least": "mid"}
    router = make_router(**changes, rules=[rule])
    for tags in ([], ["vip"], [], []):
        router.completion(messages=HELLO, tags=tags, conversation_id="c")
    [batch] = logged(router.store)
    best = batch.propensity.argmax(axis=1).tolist()
    assert best[0] < best[1] == best[2] == best[3]  # it was escalated, and stayed

    def again(**more: Any) -> list[int]:
        policy = load_policy(ladder(provider.url, **{**changes, **more}))
        return list(of_policy(ladder_of(policy))(batch))

    assert again(rules=[rule]) == best
    plain = again(rules=[rule], conversations={"sticky_turns": 0})
    assert plain[2:] == [best[0]] * 2  # a policy that keeps to no escalation goes down at once
    assert list(always(batch, tier=0)) == [0] * 4  # and one that has a single tier knows of none


def test_an_escalation_gives_way_in_replay_where_it_leaves_no_arm() -> None:
    from router.decide import Bar

    barred = np.zeros((50, 3), np.uint8)
    barred[:, :2], barred[:, 2] = Bar.HELD_ABOVE, Bar.NO_VISION
    cheapest = {"objective": {"cost_weight": 1e9}}
    batch = log(50, barred=barred)
    assert (of_policy(ladder_of(policy_of(**cheapest)))(batch) == 0).all()
    rule = {"name": "all", "when": {"min_input_tokens": 0}, "at_least": "mini"}
    assert (of_policy(ladder_of(policy_of(**cheapest, rules=[rule])))(batch) == 1).all()


def test_novel_requests_are_decided_by_lower_bounds_as_live_ones_are() -> None:
    weight = ladder_of(policy_of(objective={"cost_weight": 1.0}))
    batch = log(200, quality_std=np.full((200, 3), 0.3))
    known = of_policy(weight)(batch)
    novel = of_policy(weight)(
        log(200, quality_std=np.full((200, 3), 0.3), novel=np.ones(200, dtype=bool))
    )
    assert (novel >= known).all()
    assert (novel > known).any()
