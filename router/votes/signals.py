"""What looking at a vote tells a cascade: how its samples agreed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from router.decide.cascade import Signals
from router.decide.vote import VoteRule, value_of

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
