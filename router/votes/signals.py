"""What looking at a vote tells a cascade, and what a gate makes of the best of several samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from router.decide.best import BestRule, best_of
from router.decide.evidence import Signals
from router.decide.vote import VoteRule, value_of
from router.types import Quote

if TYPE_CHECKING:
    from router.plan import Plan

_NEVER = 1e-6  # no signal is impossible, so that a division by its chance is one


def with_votes(signals: Signals, votes: Mapping[int, VoteRule]) -> Signals:
    """A gate's signals, in which a vote's are how it ended instead of how its answer looks.

    Parameters: `votes`, by the arm's index. Both matter; the count tells more, and a look ahead
    that weighed both would be larger by the product of the two.
    """
    if not votes:
        return signals
    good, bad = signals.good.copy(), signals.bad.copy()
    width = good.shape[1]
    for index, rule in votes.items():
        for rows, said in zip((bad, good), value_of(rule).signals, strict=True):
            rows[index] = _NEVER
            # Where a gate knows fewer signals, the last stands for the votes' other ends too.
            for at, chance in enumerate(said):
                rows[index, min(at, width - 1)] += chance
            rows[index] /= rows[index].sum()
    return replace(signals, good=good, bad=bad)


def with_bests(plan: Plan, signals: Signals) -> tuple[Plan, Signals]:
    """The plan and a gate's signals, in which the best-of arms are worth what this gate makes of
    them: P(good) of the sample it picks, the calls that this takes, and how that one looks."""
    if not plan.ladder.bests:
        return plan, signals
    good, bad = signals.good.copy(), signals.bad.copy()
    options, quotes, calls = plan.options, list(plan.quotes), list(plan.calls)
    quality, expected = options.quality.copy(), options.expected.copy()
    for index, vote in plan.ladder.bests.items():
        rule = BestRule(
            vote.samples,
            vote.at_once,
            float(vote.sure),
            float(vote.concentration),
            tuple(signals.good[index].tolist()),
            tuple(signals.bad[index].tolist()),
        )
        value = best_of(rule)
        taken = float(np.interp(quality[0, index], value.quality, value.calls))
        quality[0, index] = np.interp(quality[0, index], value.quality, value.good)
        quoted = quotes[index]
        if quoted.expected is not None:
            cost = round(quoted.expected * taken / calls[index])
            quotes[index] = Quote(cost, quoted.upper, quoted.output_cap)
            expected[0, index] = cost
        calls[index] = taken
        bad[index], good[index] = value.signals
    options = replace(options, quality=quality, expected=expected)
    known = replace(plan, options=options, quotes=tuple(quotes), calls=tuple(calls))
    return known, replace(signals, good=good, bad=bad)
