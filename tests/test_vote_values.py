"""What votes are worth: the enumeration against simulation, and rules that hold for any counts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.decide.vote import (
    MAJORITY,
    OPEN,
    UNANIMOUS,
    WRONG_VALUES,
    VoteRule,
    ending,
    value_of,
)

RULES = st.builds(
    VoteRule,
    samples=st.integers(3, 7),
    at_once=st.booleans(),
    sure=st.sampled_from([0.8, 0.95, 1.0]),
    concentration=st.floats(0.05, 20),
)
QUALITY = st.floats(0.02, 0.98)


def simulated(rule: VoteRule, quality: float, votes: int, seed: int) -> tuple[float, float]:
    """How often the answer handed out was right, and how many samples were paid for: votes held
    one by one on samples of requests whose chances are drawn (a simulation)."""
    rng = np.random.default_rng(seed)
    right = paid = 0
    for _ in range(votes):
        chance = rng.beta(quality * rule.concentration, (1 - quality) * rule.concentration)
        groups: dict[int, int] = {}

        def counts(found: dict[int, int]) -> list[int]:
            return sorted(found.values(), reverse=True)

        while more := rule.wanted(quality, counts(groups)):
            for _ in range(more):
                said = 0 if rng.random() < chance else int(rng.integers(1, WRONG_VALUES + 1))
                groups[said] = groups.get(said, 0) + 1
                if rule.at_once and rule.decided(quality, counts(groups)):
                    break
            if rule.decided(quality, counts(groups)):
                break
        right += max(groups, key=lambda said: groups[said]) == 0
        paid += rule.samples if rule.at_once else sum(groups.values())
    return right / votes, paid / votes


@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize(("sure", "concentration"), [(0.95, 0.4), (1.0, 3.0), (0.8, 10.0)])
def test_the_enumeration_is_what_votes_really_come_to(
    sure: float, concentration: float, at_once: bool
) -> None:
    rule = VoteRule(5, at_once, sure, concentration)
    value = value_of(rule)
    for quality in (0.3, 0.55, 0.85):
        good, paid = simulated(rule, quality, 4000, seed=int(quality * 100))
        error = 4 * np.sqrt(0.25 / 4000)
        assert np.interp(quality, value.quality, value.good) == pytest.approx(good, abs=error)
        assert np.interp(quality, value.quality, value.calls) == pytest.approx(paid, abs=0.12)


# Below a chance of 1 in 4, of as many answers, agreement speaks for a wrong one.
@given(RULES, st.floats(0.25, 0.98), st.lists(st.integers(1, 4), min_size=1, max_size=4))
@settings(max_examples=200, deadline=None)
def test_the_leader_is_the_likelier_right_the_more_samples_gave_its_answer(
    rule: VoteRule, quality: float, counts: list[int]
) -> None:
    ordered = sorted(counts, reverse=True)
    good = rule.leader_good(quality, ordered)
    assert 0 < good < 1 or good == pytest.approx(1)
    more = rule.leader_good(quality, [ordered[0] + 1, *ordered[1:]])
    assert more >= good - 1e-12


@given(RULES, QUALITY)
@settings(max_examples=40, deadline=None)
def test_of_one_sample_nothing_is_known_but_the_prediction(rule: VoteRule, quality: float) -> None:
    assert rule.leader_good(quality, [1]) == pytest.approx(quality)


@given(RULES, QUALITY, st.lists(st.integers(0, WRONG_VALUES), min_size=1, max_size=7))
@settings(max_examples=200, deadline=None)
def test_a_vote_asks_for_no_more_than_its_samples_and_ends_where_it_is_decided(
    rule: VoteRule, quality: float, said: list[int]
) -> None:
    groups: dict[int, int] = {}
    for each in said[: rule.samples]:
        groups[each] = groups.get(each, 0) + 1
    counts = sorted(groups.values(), reverse=True)
    wanted = rule.wanted(quality, counts)
    assert 0 <= wanted <= rule.samples - sum(counts)
    assert (wanted == 0) == rule.decided(quality, counts)
    if wanted and not rule.at_once:
        # One fewer could not decide it, whatever they said.
        assert not rule.decided(quality, [counts[0] + wanted - 1, *counts[1:]])


@given(RULES, QUALITY, st.lists(st.integers(0, WRONG_VALUES), min_size=7, max_size=7))
@settings(max_examples=200, deadline=None)
def test_stopping_where_nobody_can_pass_the_leader_never_changes_who_wins(
    rule: VoteRule, quality: float, said: list[int]
) -> None:
    to_the_end = VoteRule(rule.samples, rule.at_once, 1.0, rule.concentration)
    groups: dict[int, int] = {}
    for each in said[: rule.samples]:
        groups[each] = groups.get(each, 0) + 1
        counts = sorted(groups.values(), reverse=True)
        if len(counts) > 0 and sum(counts) > 1 and to_the_end.decided(quality, counts):
            break
    leader = max(groups, key=lambda one: groups[one])
    whole: dict[int, int] = {}
    for each in said[: rule.samples]:
        whole[each] = whole.get(each, 0) + 1
    assert whole[leader] == max(whole.values())


@given(RULES)
@settings(max_examples=30, deadline=None)
def test_a_vote_is_worth_no_less_than_nothing_and_its_signals_are_chances(rule: VoteRule) -> None:
    value = value_of(rule)
    assert ((value.good > 0) & (value.good < 1)).all()
    if rule.sure == 1:  # where a vote ends earlier than at the last a little may be lost
        assert (np.diff(value.good) > 0).all()
    assert value.calls.min() >= 2 - 1e-9
    assert value.calls.max() <= rule.samples + 1e-9
    assert value.signals.sum(axis=1) == pytest.approx([1, 1], abs=1e-4)
    # Unanimity speaks for an answer, no majority against it.
    bad, good = value.signals
    assert good[UNANIMOUS] > bad[UNANIMOUS]
    assert good[OPEN] <= bad[OPEN] + 1e-9


def test_the_likelier_samples_differ_the_more_a_vote_gains() -> None:
    gains = []
    for concentration in (0.05, 0.4, 2, 10):
        value = value_of(VoteRule(5, False, 1.0, concentration))
        gains.append(float(np.interp(0.7, value.quality, value.good)) - 0.7)
    assert gains == sorted(gains)
    assert gains[0] < 0.02 < 0.1 < gains[-1]


def test_how_a_vote_ended_is_told_by_its_counts() -> None:
    found = [ending(c) for c in ([3], [3, 1], [2, 2, 1])]
    assert found == [UNANIMOUS, MAJORITY, OPEN]
