"""The arms of a tier: which stand in for each other, and which are other ways to answer.

A tier's *rungs* are alternatives that the decision weighs against each other; the arms of one rung
are deployments that stand in for each other, in their order. The usual way to call each deployment
(its one effort, or the first of several) is one rung; each further effort is another, and so is a
vote of several samples.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING, Any, get_args

from router.types import Arm, Effort, Tier

if TYPE_CHECKING:
    from router.policy.deployment import Deployment

# Keys that came later. Where they are not given a policy's hash stays what it was without them.
LATER = frozenset({"deferred", "drift", "effort_params", "efforts", "logprobs", "margin", "vote"})
_EFFORTS: tuple[Effort, ...] = get_args(Effort)
_VOTE = re.compile(r"\*([2-9]|[1-9]\d+)((?:\+(?:best|sure[\d.]+|at_once))*)$")  # `Arm.vote`


def arms_of(tier: Tier, deployments: Sequence[Deployment]) -> list[Arm]:
    """A tier's arms: its usual rung first, then one rung of each further effort, lowest first, and
    one of each kind of vote, those of few samples first."""
    usual = [
        Arm(tier, at, each.model, each.asked_efforts[0]) for at, each in enumerate(deployments)
    ]
    further = [
        Arm(tier, at, each.model, effort)
        for effort in _EFFORTS
        for at, each in enumerate(deployments)
        if effort in each.asked_efforts[1:]
    ]
    votes = [
        Arm(tier, at, each.model, each.asked_efforts[0], each.vote.samples, each.vote.ending)
        for at, each in enumerate(deployments)
        if each.vote is not None
    ]
    return usual + further + sorted(votes, key=lambda arm: arm.samples)


def arm_named(name: str, tier: Tier) -> Arm:
    """The arm of a tier that a log calls `name` (`Arm.name`); of another tool's name, one that
    stands by itself."""
    place, _, model = name.partition(":")
    at = place.removeprefix(f"{tier}/")
    voted = _VOTE.search(model)
    once = model[: voted.start()] if voted else model
    rest, _, said = once.rpartition("@")
    effort = next((each for each in _EFFORTS if each == said), None)
    if effort is None:
        rest = once
    arm = Arm(tier, int(at) if at.isdecimal() else -1, rest or name, effort)
    return replace(arm, samples=int(voted[1]), ending=voted[2]) if voted else arm


def rungs_of(arms: Sequence[Arm]) -> list[int]:
    """The number of each arm's rung, rising: arms of one rung stand in for each other.

    Parameters: `arms`, in the order of `arms_of`, tier by tier.
    """
    rungs: list[int] = []
    first = 0
    for _, members in groupby(arms, key=lambda arm: arm.tier):
        seen: set[int] = set()
        ways: list[str] = []
        for arm in members:
            # The first arm of a deployment is its usual one.
            other = arm.deployment in seen and bool(arm.way)
            # Votes stand in for each other whatever their deployments' usual efforts are.
            way = (arm.vote or arm.way) if other else "usual"
            seen.add(arm.deployment)
            if way not in ways:
                ways.append(way)
            rungs.append(first + ways.index(way))
        first += len(ways)
    return rungs


def without_later(content: Any) -> Any:
    """A policy's plain content without keys that came later and are not given."""
    if isinstance(content, dict):
        return {
            key: value if key == "params" else without_later(value)
            for key, value in content.items()
            if not (key in LATER and value is None)
        }
    if isinstance(content, list):
        return [without_later(value) for value in content]
    return content
