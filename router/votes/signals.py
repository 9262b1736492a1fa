"""What looking at a vote tells a cascade, and what a gate makes of the best of several samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from router.decide.best import BestRule, best_of
from router.decide.evidence import Signals
from router.decide.vote import VoteRule, VoteValue, value_of

if TYPE_CHECKING:
    from router.policy.vote import Vote

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


def best_values(bests: Mapping[int, Vote], signals: Signals) -> dict[int, VoteValue]:
    """By the arm's index, what a gate of these signals makes of the best of several samples."""
    return {
        index: best_of(
            BestRule(
                vote.samples,
                vote.at_once,
                float(vote.sure),
                float(vote.concentration),
                tuple(signals.good[index].tolist()),
                tuple(signals.bad[index].tolist()),
            )
        )
        for index, vote in bests.items()
    }


def with_values(signals: Signals, values: Mapping[int, VoteValue]) -> Signals:
    """A gate's signals, in which a best-of arm's are those of the sample that is handed out."""
    if not values:
        return signals
    good, bad = signals.good.copy(), signals.bad.copy()
    for index, value in values.items():
        bad[index], good[index] = value.signals
    return replace(signals, good=good, bad=bad)
