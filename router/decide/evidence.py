"""What an answer tells: of itself, of the arms that have not answered, and of answers before it.

An answer of arm b is a signal k that good answers give with probability G_k and bad ones with B_k
(a gate's `Signals`), so that by Bayes

    P(k) = q_b G_k + (1 - q_b) B_k        P(b good | k) = q_b G_k / P(k)

and what is thought of every other arm c moves with it, by how far the two go together: with
P(b and c good) = q_b q_c + r (min(q_b, q_c) - q_b q_c), which is independence at r = 0 and the most
that the two chances allow at r = 1. Expectations stay what they were, whatever r is, so no arm
gains or loses by being looked at; only what is done after the look can gain.

An answer that comes after others is also compared with the best of those in hand, h. They say the
same with chance s_2 where both are good, s_1 where one is, s_0 where neither is (`Signals.same`):

    P(same) = s_2 P(both) + s_1 P(one) + s_0 P(neither)
    P(b good | same) = (s_2 P(both) + s_1 P(b alone)) / P(same)        and so for h

so each signal k of a later answer is seen twice, with the same answer and with another one.

Arms come first in all arrays of many rows, (A, M): numpy takes long over many short rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from router.types import Floats, Ints

NONE = -1  # in the place of an arm
_SURE = 1e-9  # no chance is quite 0 or 1, so that a division by it is one


@dataclass(frozen=True, slots=True)
class Signals:
    """How well a gate tells good answers from bad ones, for each arm.

    `good`, `bad`: (A, K) chance of each signal from a good and from a bad answer; rows sum to 1.
    `together`: (A, A) from 0 to 1, how far two arms are good on the same requests.
    `same`: (A, A, 3), chance that two arms' answers say the same where neither is good, one is, or
    both are; three equal chances tell nothing. None where answers are not compared.
    """

    good: Floats
    bad: Floats
    together: Floats
    same: Floats | None = None

    @property
    def coarse(self) -> Signals:
        """The same with two signals an arm, one that good answers give more often and one that bad
        ones do: what a later look is reckoned with, since each signal multiplies a tree."""
        if self.good.shape[1] <= 2:
            return self
        better = self.good > self.bad
        pairs = [
            np.stack([(part * ~better).sum(axis=1), (part * better).sum(axis=1)], axis=1)
            for part in (self.good, self.bad)
        ]
        return Signals(pairs[0], pairs[1], self.together, self.same)

    def of(self, arms: Ints) -> Signals:
        """The signals of some arms, in that order."""
        pairs = np.ix_(arms, arms)
        same = None if self.same is None else self.same[pairs]
        return Signals(self.good[arms], self.bad[arms], self.together[pairs], same)


def seen(signals: Signals, arm: Ints | int, quality: Floats) -> tuple[Floats, Floats]:
    """What each signal of an arm's answer would tell: its chance (K, M), and P(good) of every arm
    after it, (A, K, M). Weighed by their chances the latter sum to `quality` (A, M).

    Parameters: `arm`, one for all or (M,).
    """
    quality = np.clip(quality, _SURE, 1 - _SURE)
    mine = quality[arm, np.arange(quality.shape[1])]
    of_good = mine * columns_of(signals.good, arm)
    chance = of_good + (1 - mine) * columns_of(signals.bad, arm)
    posterior = of_good / np.maximum(chance, 1e-300)
    return chance, told(columns_of(signals.together, arm), arm, quality, posterior)


def compared(
    signals: Signals,
    arm: Ints | int,
    before: NDArray[np.bool_],
    chance: Floats,
    after: Floats,
) -> tuple[Floats, Floats]:
    """What `seen` said, once an arm's answer was also compared with the best one before it: first
    as if the two said the same, then as if not, (2 K, M) and (A, 2 K, M).

    Parameters: `before` (A, M), the answers that it can be compared with, without any of which
    nothing is told; `chance` (K, M) and `after` (A, K, M), as `seen` gives them.
    """
    arms, k, m = after.shape
    known = np.clip(after, _SURE, 1 - _SURE).reshape(arms, k * m)
    every, arm = np.arange(k * m), np.tile(np.broadcast_to(arm, m), k)
    rival = np.where(np.tile(before, k), known, -np.inf).argmax(axis=0)
    rival = np.where(np.tile(before.any(axis=0), k), rival, NONE)
    neither, one, two = says_same(signals, arm, rival)
    mine, its = known[arm, every], known[rival, every]
    both = both_good(mine, its, signals.together[arm, rival])
    i_alone, it_alone = mine - both, its - both
    none, together = 1 - mine - it_alone, columns_of(signals.together, arm)
    chances, beliefs = [], []
    for in_both, in_one, in_none in ((two, one, neither), (1 - two, 1 - one, 1 - neither)):
        total = in_both * both + in_one * (i_alone + it_alone) + in_none * none
        posterior = (in_both * both + in_one * i_alone) / total
        part = told(together, arm, known, posterior[None])[:, 0]
        part[rival, every] = (in_both * both + in_one * it_alone) / total
        chances.append(chance * total.reshape(k, m))
        beliefs.append(part.reshape(arms, k, m))
    return np.concatenate(chances), np.concatenate(beliefs, axis=1)


def says_same(signals: Signals, arm: Ints, rival: Ints) -> Floats:
    """The chance (3, M) that an arm's answer says the same as its rival's where neither is good,
    one is, or both are; without a rival the same for all, which tells nothing."""
    assert signals.same is not None
    found: Floats = np.where(rival != NONE, signals.same[arm, rival].T, 0.5)
    return np.clip(found, _SURE, 1 - _SURE)


def told(together: Floats, arm: Ints | int, quality: Floats, posterior: Floats) -> Floats:
    """P(good) of every arm once that of one arm's answer is known better: (A, K, M).

    Parameters: `arm`, one for all or (M,); `together` (A, M) or (A, 1), of it with each; `quality`
    (A, M) before; `posterior` (K, M).
    """
    every = np.arange(quality.shape[1])
    mine = quality[arm, every]
    both = both_good(mine, quality, together)
    if_good, if_bad = both / mine, (quality - both) / (1 - mine)
    after: Floats = if_bad[:, None] + posterior * (if_good - if_bad)[:, None]
    after[arm, :, every] = posterior.T
    return after


def columns_of(table: Floats, arm: Ints | int) -> Floats:
    """Rows of a table as columns, one for each arm asked for."""
    found: Floats = table[np.atleast_1d(arm)].T
    return found


def both_good(mine: Floats, its: Floats, together: Floats) -> Floats:
    """The chance that two answers are good."""
    independent = mine * its
    found: Floats = independent + together * (np.minimum(mine, its) - independent)
    return found
