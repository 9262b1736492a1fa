"""What a policy decides on logged requests, by the function that routes live ones.

Predictions, quotes and what an arm lacks are those of the log: the decision is what this policy
would have made then, in a conversation with the caches and the escalation that the log's was in.
Budgets, pacing and exploring are left out: they depend on what came before.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from router.decide import UNKNOWN, UNLIMITED, Bar, Objective, Options, cautious, choose
from router.errors import ReplayError
from router.replay.off_policy.batch import LogBatch
from router.replay.off_policy.onward import Gates, follow
from router.replay.off_policy.path import Path

if TYPE_CHECKING:
    from router.planning.ladder import Ladder
    from router.policy.rules import Rule
    from router.types import Ints

# What a policy decides on a batch: (N,) positions among the batch's arms, -1 where it refuses; or,
# of one that may make more than one call, its `Path`.
Target = Callable[[LogBatch], "Ints | Path"]


@dataclass(frozen=True, slots=True)
class Named:
    """A target, what reports call it, and what tells it from others of its name."""

    name: str
    decide: Target
    stamp: str = ""


def of_policy(ladder: Ladder, objective: Objective | None = None) -> Target:
    """The decisions of a policy, by `objective` instead of its own where given.

    Raises `ReplayError` for a rule that reads what the log does not keep.
    """
    for rule in ladder.policy.rules:
        if rule.when.regex is not None or rule.when.metadata is not None:
            raise ReplayError(
                f"rule {rule.name!r} of policy {ladder.policy.name!r} reads the "
                f"{'text' if rule.when.regex else 'metadata'} of requests, which the log does not "
                "keep; give it tags, needs or lengths instead, or leave it out"
            )
    return partial(_decide, Gates(ladder), objective or ladder.objective)


def always(batch: LogBatch, *, tier: int) -> Ints:
    """The first arm of a tier that can take a request; -1 where none can."""
    able = np.isin(batch.barred, (Bar.FREE, Bar.HELD_ABOVE)) & (batch.tier == tier)
    return np.where(able.any(axis=1), able.argmax(axis=1), -1)


def _decide(gates: Gates, objective: Objective, batch: LogBatch) -> Ints | Path:
    ladder = gates.ladder
    place = {arm.key: at for at, arm in enumerate(batch.arms)}
    keys = [(arm.tier, arm.model, arm.way) for arm in ladder.arms]
    at = np.array([place.get(key, -1) for key in keys])
    _refuse_unlogged(ladder, at, batch)
    kept = np.flatnonzero(at >= 0)
    columns, tier, rung = at[kept], ladder.tier[kept], ladder.rung[kept]
    quality = batch.quality[:, columns]
    if batch.novel.any():
        lower = cautious(quality, batch.quality_std[:, columns], ladder.below_baseline[kept])
        quality = np.where(batch.novel[:, None], lower, quality)
    barred = batch.barred[:, columns]
    if not ladder.policy.conversations.sticky_turns:
        barred = np.where(barred == Bar.HELD_ABOVE, Bar.FREE, barred)
    options = Options(
        quality=quality,
        expected=batch.expected[:, columns],
        upper=batch.upper[:, columns],
        barred=_ruled(ladder.policy.rules, batch, barred, tier),
        rung=rung,
        baseline=ladder.baseline_rung,
    )
    options = _let_down(options, objective, priced=ladder.must_be_priced)
    if ladder.policy.cascade is not None:
        return follow(gates, objective, batch, options, columns, kept)
    room = np.full(len(batch), UNLIMITED)
    chosen = choose(options, objective, room, priced=ladder.must_be_priced).arm
    target: Ints = np.where(chosen >= 0, columns[chosen], -1)
    return target


def _let_down(options: Options, objective: Objective, *, priced: bool) -> Options:
    """The options, without the tier that a conversation is kept at or above where nothing else is
    left to it."""
    held = options.barred == Bar.HELD_ABOVE
    if not held.any():
        return options
    room = np.full(len(held), UNLIMITED)
    stuck = choose(options, objective, room, priced=priced).arm < 0
    barred = np.where(held & stuck[:, None], Bar.FREE, options.barred)
    return replace(options, barred=barred)


def _refuse_unlogged(ladder: Ladder, at: Ints, batch: LogBatch) -> None:
    """Refuse a policy one of whose rungs is led by an arm that some of the log's requests lack."""
    for index, arm in enumerate(ladder.arms):
        leads = index == 0 or ladder.rung[index - 1] != ladder.rung[index]
        if leads and at[index] < 0:
            codes, names = batch.policy
            whose = ", ".join(names[code] for code in np.unique(codes).tolist())
            raise ReplayError(
                f"policy {ladder.policy.name!r} would call {arm.name}, of which the log has no "
                f"prediction, quote or answer in requests of {whose}; log it as an arm first (a "
                "shadow tier, or explore), or read only days that have it"
            )


def _ruled(
    rules: Sequence[Rule], batch: LogBatch, barred: NDArray[np.uint8], tier: Ints
) -> NDArray[np.uint8]:
    """Bar the arms that the first rule that holds does not allow."""
    if not rules:
        return barred
    barred = barred.copy()
    names = np.array(["nano", "mini", "mid", "frontier"])[tier]
    open_ = np.ones(len(batch), dtype=bool)
    for rule in rules:
        when = rule.when
        holds = open_.copy()
        if when.tags is not None:
            holds &= _has_all(batch.tags, when.tags)
        if when.needs is not None:
            holds &= _has_all(batch.needs, when.needs)
        if when.min_input_tokens is not None:
            holds &= batch.input_tokens >= when.min_input_tokens
        if when.max_input_tokens is not None:
            holds &= batch.input_tokens <= when.max_input_tokens
        ruled_out = holds[:, None] & ~np.isin(names, rule.tiers)
        barred[ruled_out & np.isin(barred, (Bar.FREE, Bar.HELD_ABOVE))] = Bar.RULE
        open_ &= ~holds
    return barred


def _has_all(words: tuple[Ints, list[str]], wanted: Sequence[str]) -> NDArray[np.bool_]:
    codes, texts = words
    has = np.array([set(wanted) <= set(json.loads(text or "[]")) for text in texts], dtype=bool)
    found: NDArray[np.bool_] = has[codes]
    return found


def known_costs(batch: LogBatch, arm: Ints) -> NDArray[np.float64]:
    """The expected nano-USD of one arm of each row, NaN where unknown or -1."""
    rows = np.arange(len(batch))
    expected = batch.expected[rows, arm].astype(np.float64)
    return np.where((arm < 0) | (expected == UNKNOWN), np.nan, expected)
