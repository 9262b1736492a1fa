"""Policies that look at answers, estimated from logs of chains."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path as FilePath
from typing import Any

import numpy as np
import pytest

from router.errors import LogFileError, ReplayError
from router.ledger import open_log
from router.policy import load_policy
from router.replay.off_policy.batch import LogBatch, batches_of, read_part
from router.replay.off_policy.estimate import Estimates, estimate
from router.replay.off_policy.export import export
from router.replay.off_policy.facts import Facts
from router.replay.off_policy.looks import Looks, joined, nothing
from router.replay.off_policy.measure import Question, measure
from router.replay.off_policy.paired import Moves, pair
from router.replay.off_policy.path import Path, add_policy, as_logged, path_of
from router.replay.off_policy.replay import conclude
from router.replay.off_policy.sums import LOGGED, PolicySums, Tally, add_logged, rows_of
from router.replay.off_policy.support import refusals
from router.replay.off_policy.table import LeftOut, to_table
from router.replay.off_policy.table import rows_of as table_rows
from router.replay.off_policy.target import Named, of_policy
from router.walk.looks import STOP
from tests.conftest import HELLO, MakeRouter, ladder
from tests.off_policy_kit import log
from tests.provider import Provider, ok
from tests.test_cascade import EMPTY
from tests.test_gates import saved
from tests.test_off_policy_target import ladder_of, logged

CASCADE = {"max_steps": 3, "gate": "structural", "stream": "buffer"}
EAGER = {"rate": 0.5, "max_spend": 1, "max_quality_loss": 1}
OBJECTIVES = ({"cost_weight": 60}, {"cost_weight": 400}, {"max_cost_per_request": "0.02"})
SEES = 0.85  # how often a look tells a good answer from a bad one, in the simulation


# ── a simulation with a known truth ────────────────────────────────────────────────────────────
def simulated(n: int, seed: int) -> tuple[LogBatch, Path, dict[str, float]]:
    """A log of chains of up to two calls over three arms; a target; and what that came to on the
    very requests.

    The log calls any arm first; then it stops, more often after a look that found the answer good,
    or calls a dearer arm. The target begins with the lowest arm, and goes on to the highest after
    a bad look.
    """
    rng = np.random.default_rng(seed)
    batch, every = log(n, seed, chances=(0.4, 0.35, 0.25)), np.arange(n)
    skill = np.clip(batch.quality, 0.02, 0.98)
    good = rng.random((n, 3)) < skill
    cost = np.rint(batch.expected * rng.lognormal(0, 0.2, (n, 3)))
    says_good = rng.random((n, 3)) < np.where(good, SEES, 1 - SEES)
    of_good = np.where(says_good, SEES, 1 - SEES) * skill
    seen = of_good / (of_good + np.where(says_good, 1 - SEES, SEES) * (1 - skill))
    first, looks = batch.chosen, nothing(n, 3, 2)
    looks.answered[:, 0], looks.quality[:, 0] = first, batch.quality
    looks.quality[every, 0, first] = seen[every, first]
    stops = np.where(says_good[every, first], 0.7, 0.3)
    above = np.arange(3) > first[:, None]
    onward = above * ((1 - stops) / np.maximum(above.sum(axis=1), 1))[:, None]
    looks.chances[:, 0, :3], looks.chances[:, 0, 3] = onward, 1 - onward.sum(axis=1)
    draw = (looks.chances[:, 0].cumsum(axis=1) <= rng.random(n)[:, None]).sum(axis=1)
    taken = np.minimum(draw, 3)
    goes = np.flatnonzero(taken < 3)
    looks.chosen[goes, 0] = taken[goes]
    looks.cost[goes, 0] = cost[goes, taken[goes]]
    looks.answered[goes, 1] = taken[goes]
    looks.quality[goes, 1] = looks.quality[goes, 0]
    looks.quality[goes, 1, taken[goes]] = seen[goes, taken[goes]]
    looks.chances[goes, 1, 3] = 1
    known = looks.best()
    looks.handed[:] = np.where(taken < 3, known[:, 1], known[:, 0])
    made = replace(
        batch,
        step=(taken < 3).astype(np.int64),
        cost=cost[every, first] + np.where(taken < 3, looks.cost[:, 0], 0),
        label=good[every, looks.handed].astype(float),
        looks=replace(looks, gate=(np.zeros(n, np.int64), ["form"])),
    )
    on = np.where(seen[every, first] < 0.6, np.where(first < 2, 2, STOP), STOP)
    path = Path(np.zeros(n, np.int64), np.stack([on, np.full(n, STOP)], axis=1))
    calls_again = seen[:, 0] < 0.6
    better = np.where(calls_again & (seen[:, 2] >= seen[:, 0]), good[:, 2], good[:, 0])
    paid = cost[:, 0] + np.where(calls_again, cost[:, 2], 0)
    return made, path, {"quality": float(better.mean()), "cost": float(paid.mean())}


def estimated(batch: LogBatch, path: Any) -> Estimates:
    rows, tally, sums = rows_of(batch), Tally(LOGGED), PolicySums()
    add_logged(tally, batch, rows)
    add_policy(sums, batch, rows, path)
    return estimate(tally, sums)


@pytest.mark.parametrize("estimator", ["ips", "snips", "doubly_robust"])
def test_estimates_of_a_cascade_from_a_log_of_chains_are_right_on_average(estimator: str) -> None:
    off: dict[str, list[float]] = {"quality": [], "cost": []}
    held = {"quality": 0, "cost": 0}
    for seed in range(60):
        batch, path, truth = simulated(3000, seed)
        found = estimated(batch, path)
        for name, true in truth.items():
            one = found.by_outcome[name][estimator].estimate()
            off[name].append(one.value - true)
            held[name] += one.low <= true <= one.high
    for name, each in off.items():
        error = np.std(each, ddof=1) / np.sqrt(len(each))
        assert abs(np.mean(each)) < 4 * error, name
        assert held[name] >= 52, name  # of 60, against a truth that shares the requests' luck


def test_plain_weighting_is_the_sum_written_out_row_by_row() -> None:
    batch, path, _ = simulated(500, 3)
    assert batch.looks is not None
    assert path.onward is not None
    cost = quality = 0.0
    for row in range(len(batch)):
        if batch.chosen[row] != path.first[row]:
            continue
        weight = 1 / batch.propensity[row, batch.chosen[row]]
        cost += weight * (batch.cost[row] - batch.looks.cost[row, 0])
        action = batch.looks.chosen[row, 0]
        if action != path.onward[row, 0]:
            continue
        weight /= batch.looks.chances[row, 0, action]
        cost += weight * batch.looks.cost[row, 0]
        quality += weight * batch.label[row]
    found = estimated(batch, path).by_outcome
    assert found["cost"]["ips"].values[0] == pytest.approx(cost / len(batch))
    assert found["quality"]["ips"].values[0] == pytest.approx(quality / len(batch))


def test_doubly_robust_needs_no_right_model_and_its_errors_vary_less_than_plain_weighting() -> None:
    spread: dict[str, list[float]] = {"ips": [], "doubly_robust": []}
    off = []
    for seed in range(40):
        batch, path, truth = simulated(3000, seed)
        wrong = replace(batch, quality=1 - batch.quality)
        found = estimated(wrong, path).by_outcome["quality"]
        off.append(found["doubly_robust"].values[0] - truth["quality"])
        right = estimated(batch, path).by_outcome["quality"]
        for name, each in spread.items():
            each.append(right[name].values[0] - truth["quality"])
    assert abs(np.mean(off)) < 4 * np.std(off, ddof=1) / np.sqrt(len(off))
    assert np.var(spread["doubly_robust"]) < 0.5 * np.var(spread["ips"])


def test_what_the_log_did_costs_what_it_cost_and_is_as_good_as_its_labels() -> None:
    batch, _, _ = simulated(2000, 1)
    rows, tally, sums = rows_of(batch, as_logged=True), Tally(LOGGED), PolicySums()
    add_logged(tally, batch, rows)
    add_policy(sums, batch, rows, as_logged(batch))
    found = estimate(tally, sums).by_outcome
    for estimator in ("ips", "snips", "doubly_robust"):
        assert found["cost"][estimator].values[0] == pytest.approx(batch.cost.mean())
        assert found["quality"][estimator].values[0] == pytest.approx(batch.label.mean())


def test_a_single_call_is_estimated_from_chains_that_stopped_where_they_might_not_have() -> None:
    off = []
    for seed in range(40):
        batch, _, _ = simulated(3000, seed)
        one = estimated(batch, np.full(len(batch), 1)).by_outcome["quality"]["doubly_robust"]
        off.append(one.values[0] - np.clip(batch.quality, 0.02, 0.98)[:, 1].mean())
    assert abs(np.mean(off)) < 4 * np.std(off, ddof=1) / np.sqrt(len(off))


def test_going_on_where_the_log_always_stopped_is_refused() -> None:
    batch, path, _ = simulated(2000, 0)
    assert batch.looks is not None
    onward = np.stack([np.full(len(batch), 2), np.full(len(batch), STOP)], axis=1)
    onward[batch.chosen == 2] = STOP
    never = batch.looks.chances.copy()
    never[:, 0, :3], never[:, 0, 3] = 0, 1
    stopped = replace(batch.looks, chances=never)
    found = estimated(replace(batch, looks=stopped), replace(path, onward=onward))
    assert found.unsupported > 0.9
    assert any("no chance" in reason for reason in refusals(found, Facts()))


def test_chances_after_looks_that_cannot_be_true_are_refused() -> None:
    batch, _, _ = simulated(4000, 2)
    assert batch.looks is not None
    chances = batch.looks.chances.copy()
    chances[:, 0] = np.where(chances[:, 0] > 0, 0.5 * chances[:, 0], 0)
    wrong = replace(batch, looks=replace(batch.looks, chances=chances))
    with pytest.raises(ReplayError, match="stopping, after a look"):
        conclude(measure([wrong], Question(())), "mid")


def test_parts_of_a_log_of_chains_add_up_to_the_whole() -> None:
    batch, path, _ = simulated(2000, 4)
    places = {int(each): at for at, each in enumerate(batch.request_hash)}

    def target(some: LogBatch) -> Path:
        at = np.array([places[int(each)] for each in some.request_hash])
        assert path.onward is not None
        return Path(path.first[at], path.onward[at])

    question = Question((Named("cascade", target),))
    whole = conclude(measure([batch], question), "mid")
    halves = [batch.take(np.arange(1200)), batch.take(np.arange(1200, 2000))]
    parts = conclude(measure(halves, question), "mid")
    assert parts.policies[0].figures["cost"] == whole.policies[0].figures["cost"]
    assert "direct" not in whole.policies[0].figures["cost"]
    assert whole.log["chains"] == int((batch.step > 0).sum())


def test_a_difference_between_cascades_comes_from_the_decisions_that_differ() -> None:
    batch, path, _ = simulated(4000, 5)
    stops = Path(path.first)
    question = Question((Named("OLD", lambda b: stops), Named("NEW", lambda b: path)))
    moves = Moves("OLD", "NEW", 3)
    found = pair(measure([batch], question, moves.watch), "OLD", "NEW", moves)
    assert found.cost is not None
    assert found.quality is not None
    assert found.cost["low"] > 0
    assert found.quality["low"] > 0
    assert set(moves.by_arms) == {("(stop)", "mid/0:m-mid")}


# ── real logs ──────────────────────────────────────────────────────────────────────────────────
def chains(make_router: MakeRouter, provider: Provider, times: int = 40, **changes: Any) -> Any:
    """A router that has answered requests, half of them emptily at first."""
    settings = {"cascade": CASCADE, "explore": EAGER, "objective": OBJECTIVES[0], **changes}
    router = make_router(**settings)
    for at in range(times):
        provider.default = EMPTY if at % 2 else ok()
        words = "word " * (1 + 5 * (at % 30))
        form: Any = {"response_format": {"type": "json_object"}} if at % 5 == 0 else {}
        router.completion(messages=[{"role": "user", "content": f"{at} {words} in JSON"}], **form)
    return router


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda each: next(iter(each)))
def test_a_cascade_replayed_on_its_own_log_decides_as_it_did(
    make_router: MakeRouter, provider: Provider, objective: Any
) -> None:
    router = chains(make_router, provider, objective=objective)
    [batch] = logged(router.store)
    assert batch.looks is not None
    policy = load_policy(ladder(provider.url, cascade=CASCADE, objective=objective))
    path = path_of(of_policy(ladder_of(policy))(batch))
    assert path.onward is not None
    best = batch.looks.chances.argmax(axis=2)
    width = len(batch.arms)
    there = batch.looks.there
    assert (path.first == batch.propensity.argmax(axis=1)).all()
    assert (np.where(path.onward == STOP, width, path.onward) == best)[there].all()
    assert there[:, 1].sum() >= 5
    assert path.unseen is not None
    assert not path.unseen.any()


def with_best(url: str, vote: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    """A cascading policy whose nano tier may also be asked for the best of three."""
    policy = ladder(url, cascade=CASCADE, **changes)
    policy["tiers"]["nano"][0]["vote"] = {"samples": 3, "concentration": 9, **(vote or BEST)}
    return policy


BEST = {"pick": "best", "sure": 0.6}


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda each: next(iter(each)))
def test_the_best_of_several_samples_is_replayed_as_it_was_decided(
    make_router: MakeRouter, provider: Provider, objective: Any
) -> None:
    changes = with_best(provider.url, objective=objective, explore=EAGER)
    router = chains(make_router, provider, **changes)
    streamed = [router.completion(messages=HELLO, stream=True) for _ in range(3)]
    assert all(list(each) for each in streamed)
    [batch] = logged(router.store)
    decide = of_policy(ladder_of(load_policy(with_best(provider.url, objective=objective))))
    path = path_of(decide(batch))
    assert batch.looks is not None
    assert path.onward is not None
    there, width = batch.looks.there, len(batch.arms)
    best = batch.looks.chances.argmax(axis=2)
    assert (path.first == batch.propensity.argmax(axis=1)).all()
    assert (np.where(path.onward == STOP, width, path.onward) == best)[there].all()
    [of_three] = [at for at, arm in enumerate(batch.arms) if arm.name.endswith("*3+best+sure0.6")]
    assert (batch.chosen == of_three).any()
    assert path.unseen is not None
    assert not path.unseen.any()


def test_the_log_keeps_what_the_best_of_several_is_worth_and_costs(
    make_router: MakeRouter, provider: Provider
) -> None:
    cascade = {**CASCADE, "stream": "decide_first"}
    router = make_router(**{**with_best(provider.url, objective=OBJECTIVES[0]), "cascade": cascade})
    answer = router.completion(messages=HELLO)
    router.completion(messages=HELLO, stream=True)  # which nobody looks at
    decision = router.decision(answer).decision
    looked_at, streamed = router.ledger.log().requests()
    one, three = (each for each in decision.arms if each.arm.tier == "nano")
    assert three.quality > one.quality
    by_arm = {each["arm"]: each for each in looked_at.decision}
    assert by_arm[three.arm.name]["quality"] == pytest.approx(three.quality, abs=1e-6)
    assert by_arm[three.arm.name]["expected"] == three.quote.expected
    alone = {each["arm"]: each["quality"] for each in streamed.decision}
    assert alone[three.arm.name] == pytest.approx(one.quality, abs=1e-6)


def test_a_stream_that_begins_at_once_is_never_replayed_as_the_best_of_several(
    make_router: MakeRouter, provider: Provider
) -> None:
    router = chains(make_router, provider, 20, **with_best(provider.url, explore=EAGER))
    [batch] = logged(router.store)
    [of_three] = [at for at, arm in enumerate(batch.arms) if "+best" in arm.name]
    at_once = {**CASCADE, "stream": "decide_first"}
    policy = load_policy({**with_best(provider.url, objective=OBJECTIVES[0]), "cascade": at_once})
    quality = batch.quality.copy()
    quality[:, of_three] = 0.999  # worth taking, if it could be
    batch = replace(batch, quality=quality)
    decide = of_policy(ladder_of(policy))
    assert (path_of(decide(batch)).first == of_three).all()
    streams = replace(batch, stream=np.ones(len(batch), bool))
    assert not (path_of(decide(streams)).first == of_three).any()


@pytest.mark.parametrize("vote", [{}, {"pick": "best"}, {**BEST, "at_once": True}])
def test_a_vote_that_ends_otherwise_is_another_arm_than_the_logs(
    make_router: MakeRouter, provider: Provider, vote: dict[str, Any]
) -> None:
    router = chains(make_router, provider, 6, **with_best(provider.url, explore=EAGER))
    [batch] = logged(router.store)
    other = load_policy(with_best(provider.url, vote or {"pick": "majority"}))
    with pytest.raises(ReplayError, match=r"would call nano/0:openai/t-nano\*3"):
        of_policy(ladder_of(other))(batch)


def test_a_verifiers_cascade_counts_on_comparing_whatever_the_log_says_of_it(
    make_router: MakeRouter, provider: Provider, tmp_path: FilePath
) -> None:
    agreeing = np.broadcast_to([0.05, 0.01, 0.95], (4, 4, 3))
    learned = {"path": str(tmp_path), "sha256": saved(tmp_path, same=agreeing)}
    cascade = {**CASCADE, "gate": "learned", "verifier": learned}
    router = chains(make_router, provider, cascade=cascade)
    [batch] = logged(router.store)
    assert batch.looks is not None
    assert batch.looks.compared.all()
    policy = load_policy(ladder(provider.url, cascade=cascade, objective=OBJECTIVES[0]))
    decide = of_policy(ladder_of(policy))
    path = path_of(decide(batch))
    assert (path.first == batch.propensity.argmax(axis=1)).all()
    batch.looks.compared[:] = False  # as of requests that no look was taken of
    again = path_of(decide(batch))
    assert again.hoped is not None
    assert (again.first == path.first).all()
    assert (again.hoped == path.hoped).all()


def test_looks_come_back_from_an_export_as_they_were(
    make_router: MakeRouter, provider: Provider, tmp_path: FilePath
) -> None:
    router = chains(make_router, provider, 12)
    [store] = logged(router.store)
    opened = open_log(router.store)
    exported = export(opened, str(tmp_path / "out"))
    opened.close()
    [back] = [each for part in exported.parts for each in read_part(exported, part)]
    for one, other in ((store, back), (store.take(np.arange(5)), back.take(np.arange(5)))):
        assert_same(one.looks, other.looks)
    halves = [(store.take(rows).looks, len(rows)) for rows in (np.arange(5), np.arange(5, 12))]
    assert_same(joined(halves, len(store.arms)), store.looks)


def assert_same(one: Looks | None, other: Looks | None) -> None:
    assert one is not None
    assert other is not None
    for name in Looks.__dataclass_fields__:
        if name != "gate":
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)
    assert [one.gate[1][c] for c in one.gate[0]] == [other.gate[1][c] for c in other.gate[0]]


def test_the_costs_of_a_chain_are_those_of_its_calls(
    make_router: MakeRouter, provider: Provider
) -> None:
    router = chains(make_router, provider, 12)
    [batch] = logged(router.store)
    assert batch.looks is not None
    paid: dict[str, list[int]] = {}
    for each in router.ledger.log().attempts():
        paid.setdefault(each.request_id, []).append(each.cost)
    later = [sum(costs[1:]) for costs in paid.values()]
    assert np.where(batch.looks.chosen != STOP, batch.looks.cost, 0).sum(axis=1).tolist() == later
    assert batch.cost.tolist() == [sum(costs) for costs in paid.values()]
    assert sum(later) > 0


def test_a_policy_with_another_gate_is_refused_by_name(
    make_router: MakeRouter, provider: Provider
) -> None:
    router = chains(make_router, provider, 6)
    [batch] = logged(router.store)
    other = {**CASCADE, "logprobs": True}
    policy = load_policy(ladder(provider.url, cascade=other, objective=OBJECTIVES[0]))
    with pytest.raises(ReplayError, match=r"'form\+logprobs'.*judged by 'form'"):
        of_policy(ladder_of(policy))(batch)


def test_callers_own_checks_are_those_of_the_log(
    make_router: MakeRouter, provider: Provider
) -> None:
    router = make_router(
        cascade=CASCADE, explore=EAGER, objective=OBJECTIVES[0], gates={"mine": lambda r, a: False}
    )
    for _ in range(6):
        router.completion(messages=HELLO)
    [batch] = logged(router.store)
    assert batch.looks is not None
    assert batch.looks.gate[1] == ["form+checks:mine"]
    policy = load_policy(ladder(provider.url, cascade=CASCADE, objective=OBJECTIVES[0]))
    path = path_of(of_policy(ladder_of(policy))(batch))
    assert (path.first == batch.propensity.argmax(axis=1)).all()


def test_requests_that_a_cascade_would_look_at_and_the_log_did_not_have_no_support(
    make_router: MakeRouter, provider: Provider
) -> None:
    router = chains(make_router, provider, 6)
    plain = make_router(explore=EAGER, objective=OBJECTIVES[0])
    for _ in range(4):
        plain.completion(messages=HELLO)
        list(plain.completion(messages=HELLO, stream=True))
    [batch] = logged(router.store)
    decides_first = {**CASCADE, "stream": "decide_first"}
    policy = load_policy(ladder(provider.url, cascade=decides_first, objective=OBJECTIVES[0]))
    path = path_of(of_policy(ladder_of(policy))(batch))
    assert path.unseen is not None
    assert batch.stream is not None
    assert int(path.unseen.sum()) == 4
    assert not path.unseen[batch.stream].any()


@pytest.mark.parametrize(
    ("change", "says"),
    [({"quality": [0.5]}, "has not 4 entries"), ({"chosen": 7}, "names none of its 4 arms")],
)
def test_looks_that_do_not_fit_their_arms_are_refused(
    make_router: MakeRouter, provider: Provider, change: Any, says: str
) -> None:
    router = chains(make_router, provider, 2)
    rows = list(table_rows(router.ledger.log(), None, None, LeftOut()))
    rows[0]["looks"][0].update(change)
    with pytest.raises(LogFileError, match=says):
        list(batches_of(to_table(rows), "here"))
