"""What looking at an answer is worth: the value of calling an arm, reading what it says, and then
stopping or going on to another arm. Pure; one request and a million go through the same lines.

The value of a chain is its expected best P(good) less what its calls cost, as in cascade routing
(arXiv:2410.10347), but with the answers' evidence in it: an answer of arm b is a signal k that
good answers give with probability G_k and bad ones with B_k (a gate's `Signals`), so that by Bayes

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

    V(b) = -w c_b + sum_k P(k) max(best answer in hand | k, max of V(c | k) over arms c to follow)

in units of quality, w being the cost weight. What was paid before is spent and appears nowhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from router.decide.options import Options
    from router.types import Floats, Ints

LEAST_GAIN = 1e-9  # of going on over stopping: below it is rounding
DEEPEST = 2  # looks ahead that are weighed; a later step looks ahead again
_ROWS_AT_ONCE = 1024
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


@dataclass(frozen=True, slots=True)
class Look:
    """How a choice looks ahead. `steps`: the most calls from here on, 1 or more; `called`: (N, A),
    which arms have answered already, None for none: their quality is what is known by now.
    `comparable`: (N,), of which requests answers can be compared, None for all."""

    signals: Signals
    steps: int
    called: NDArray[np.bool_] | None = None
    comparable: NDArray[np.bool_] | None = None


def values(
    quality: Floats,
    price: Floats,
    follows: NDArray[np.bool_],
    look: Look,
) -> Floats:
    """The value (N, A) of calling each arm, looking at its answer, and stopping or going on.

    Parameters
    ----------
    quality
        (N, A): P(good answer); of arms that have answered, of the answer in hand.
    price
        (N, A): expected cost times the cost weight, so in units of quality.
    follows
        (N, A, A): whether arm c may be called after b, at [n, b, c].
    look
        What looking tells, and how many calls there may be.

    Returns
    -------
    Values that are at least `quality - price` where nothing was called. Those of arms that were
    called already mean nothing.
    """
    return _looked(quality, price, None, follows, look)[0]


def values_and_costs(
    quality: Floats,
    price: Floats,
    cost: Floats,
    follows: NDArray[np.bool_],
    look: Look,
) -> tuple[Floats, Floats]:
    """`values`, and what the calls that may follow each call are expected to cost, (N, A).

    Parameters: `cost` (N, A), of a call, in any unit; the others as in `values`.
    """
    found, later = _looked(quality, price, cost, follows, look)
    assert later is not None
    return found, later


def _looked(
    quality: Floats,
    price: Floats,
    cost: Floats | None,
    follows: NDArray[np.bool_],
    look: Look,
) -> tuple[Floats, Floats | None]:
    n, arms = quality.shape
    called = np.zeros((n, arms), dtype=bool) if look.called is None else look.called
    depth = min(look.steps - 1, DEEPEST)
    found = np.empty((n, arms))
    later = None if cost is None else np.empty((n, arms))
    for start in range(0, n, _ROWS_AT_ONCE):
        part = slice(start, start + _ROWS_AT_ONCE)
        known = None if cost is None else cost[part]
        may = look.comparable
        compared = np.ones(len(price[part]), dtype=bool) if may is None else may[part]
        tree = _Tree(
            *(price[part], known, follows[part]),
            *(look.signals, look.signals.coarse, compared),
        )
        clipped = np.clip(quality[part], _SURE, 1 - _SURE)
        for arm in range(arms):
            found[part, arm], after = tree.call(arm, clipped, called[part], depth)
            if later is not None:
                later[part, arm] = after
    return found, later


@dataclass(frozen=True, slots=True)
class _Tree:
    """The tree of what may happen, one arm at a time; `price`, `cost` and `follows` as in
    `values_and_costs`, without `cost` where nobody asks; the signals of a `first` look and of
    `later` ones; `comparable` as in `Look`."""

    price: Floats
    cost: Floats | None
    follows: NDArray[np.bool_]
    first: Signals
    later: Signals
    comparable: NDArray[np.bool_]

    def call(
        self, arm: int, quality: Floats, called: NDArray[np.bool_], depth: int
    ) -> tuple[Floats, Floats | None]:
        """V(arm), (M,), and the expected cost of what follows; the rows of `quality` and `called`
        are those of `price`, each repeated as often as signals have been seen."""
        m, times = len(quality), len(quality) // len(self.price)
        tells = called & np.repeat(self.comparable, times)[:, None]
        price = np.repeat(self.price[:, arm], times)
        # The rows of a first look are not repeated.
        signals = self.first if times == 1 else self.later
        if not depth:
            last: Floats = _last(signals, arm, quality, called, tells) - price
            return last, None if self.cost is None else np.zeros(m)
        chance, after = seen(signals, arm, quality)
        if signals.same is not None and tells.any():
            chance, after = compared(signals, arm, tells, chance, after)
        held = called.copy()
        held[:, arm] = True
        best = np.where(held[:, None, :], after, -np.inf).max(axis=2)
        later = None if self.cost is None else np.zeros(best.shape)
        k, arms = after.shape[1:]
        wide, held = after.reshape(m * k, arms), np.repeat(held, k, axis=0)
        for other in range(arms):
            may: NDArray[np.bool_] = self.follows[:, arm, other]
            if other == arm or not may.any():
                continue
            worth, then = self.call(other, wide, held, depth - 1)
            onward = worth.reshape(m, k)
            allowed = (np.repeat(may, times) & ~called[:, other])[:, None]
            if self.cost is not None and then is not None and later is not None:
                spent = np.repeat(self.cost[:, other], times)[:, None] + then.reshape(m, k)
                later = np.where(allowed & (onward > best), spent, later)
            best = np.where(allowed, np.maximum(best, onward), best)
        value: Floats = (chance * best).sum(axis=1) - price
        return value, None if later is None else (chance * later).sum(axis=1)


def seen(signals: Signals, arm: int, quality: Floats) -> tuple[Floats, Floats]:
    """What each signal of an arm's answer would tell: its chance (M, K), and P(good) of every arm
    after it, (M, K, A). Weighed by their chances the latter sum to `quality` (M, A)."""
    mine = quality[:, arm, None]
    of_good = mine * signals.good[arm]
    chance = of_good + (1 - mine) * signals.bad[arm]
    posterior = of_good / np.maximum(chance, 1e-300)
    return chance, told(signals.together[arm], arm, quality, posterior)


def compared(
    signals: Signals,
    arm: int,
    before: NDArray[np.bool_],
    chance: Floats,
    after: Floats,
) -> tuple[Floats, Floats]:
    """What `seen` said, once an arm's answer was also compared with the best one before it: first
    as if the two said the same, then as if not, (M, 2 K) and (M, 2 K, A).

    Parameters: `before` (M, A), the answers that it can be compared with, in rows without any of
    which nothing is told; `chance` (M, K) and `after` (M, K, A), as `seen` gives them.
    """
    assert signals.same is not None
    m, k, arms = after.shape
    known = np.clip(after, _SURE, 1 - _SURE).reshape(m * k, arms)
    rows, held = np.arange(m * k), np.repeat(before, k, axis=0)
    rival = np.where(held, known, -np.inf).argmax(axis=1)
    said = np.where(_any(held), signals.same[arm, rival], 1.0)
    mine, its = known[:, arm], known[rows, rival]
    both = _both(mine, its, signals.together[arm, rival])
    of_state = np.stack([1 - mine - its + both, mine + its - 2 * both, both], axis=1)
    chances, beliefs = [], []
    for like in (said, 1 - said):
        weighed = like * of_state
        total = weighed.sum(axis=1)
        sure = np.maximum(total, 1e-300)
        posterior = (weighed[:, 2] + like[:, 1] * (mine - both)) / sure
        part = told(signals.together[arm], arm, known, posterior[:, None])[:, 0]
        part[rows, rival] = (weighed[:, 2] + like[:, 1] * (its - both)) / sure
        chances.append(chance * total.reshape(m, k))
        beliefs.append(part.reshape(m, k, arms))
    return np.concatenate(chances, axis=1), np.concatenate(beliefs, axis=1)


def _last(
    signals: Signals,
    arm: int,
    quality: Floats,
    called: NDArray[np.bool_],
    tells: NDArray[np.bool_],
) -> Floats:
    """The P(good) (M,) to expect of the better of this arm's answer and the best before it,
    where no call comes after. Answers before the best are left out: what they gain is nothing
    beside the time that a look ahead spends here."""
    mine = quality[:, arm]
    if not called.any():
        return mine
    rows = np.arange(len(mine))
    rival = np.where(called, quality, -np.inf).argmax(axis=1)
    its = np.where(_any(called)[:, 0], quality[rows, rival], 0.0)
    together = signals.together[arm, rival]
    good, bad = signals.good[arm], signals.bad[arm]
    both = _both(mine, its, together)
    # Chances of each signal together with: this answer good, the other one good.
    of_mine = mine[:, None] * good
    chance = of_mine + (1 - mine)[:, None] * bad
    of_its = both[:, None] * good + (its - both)[:, None] * bad
    if signals.same is None or not tells.any():
        alone: Floats = np.maximum(of_mine, of_its).sum(axis=1)
        return alone
    some = np.maximum(chance, 1e-300)
    both = _both(of_mine / some, of_its / some, together[:, None]) * chance
    said = np.where(_any(tells), signals.same[arm, rival], 1.0)
    mine_same = said[:, 2:] * both + said[:, 1:2] * (of_mine - both)
    its_same = said[:, 2:] * both + said[:, 1:2] * (of_its - both)
    same = np.maximum(mine_same, its_same)
    apart = np.maximum(of_mine - mine_same, of_its - its_same)
    found: Floats = (same + apart).sum(axis=1)
    return found


def told(together: Floats, arm: int, quality: Floats, posterior: Floats) -> Floats:
    """P(good) of every arm once that of one arm's answer is known better: (M, K, A).

    Parameters: `together` (A,), of this arm with each; `quality` (M, A) before; `posterior` (M, K).
    """
    mine = quality[:, arm, None]
    both = _both(mine, quality, together)
    if_good, if_bad = both / mine, (quality - both) / (1 - mine)
    after: Floats = if_bad[:, None, :] + posterior[:, :, None] * (if_good - if_bad)[:, None, :]
    after[:, :, arm] = posterior
    return after


def _any(of: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Whether anything is true of a row, (M, 1)."""
    found: NDArray[np.bool_] = np.any(of, axis=1, keepdims=True)
    return found


def _both(mine: Floats, its: Floats, together: Floats) -> Floats:
    """The chance that two answers are good."""
    independent = mine * its
    found: Floats = independent + together * (np.minimum(mine, its) - independent)
    return found


def dearer(expected: Ints, rung: Ints) -> NDArray[np.bool_]:
    """Whether arm c is dearer than b or of a higher rung, (N, A, A) at [n, b, c]: what may follow.

    A ladder need not be monotone: a small model can be dearer than the one above it.
    """
    found: NDArray[np.bool_] = expected[:, None, :] > expected[:, :, None]
    found |= rung[None, :] > rung[:, None]
    return found


def followers(options: Options, free: NDArray[np.bool_], left: Ints) -> NDArray[np.bool_]:
    """Which arm may follow which, (N, A, A): a free one that is dearer or of a higher rung, where
    the bounds of both fit what is `left` (N or 1, A or 1) together."""
    upper, rung = options.upper, options.rung
    # Compared by subtracting: a sum of bounds may overflow where nothing limits.
    fits = upper[:, None, :] <= left[:, None, :] - np.maximum(upper, 0)[:, :, None]
    apart: NDArray[np.bool_] = dearer(options.expected, rung) & fits & free[:, None, :]
    apart &= ~np.eye(len(rung), dtype=bool)
    return apart


def goes_on(
    arm: Ints, utility: Floats, quality: Floats, called: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Whether calling `arm` (N,), -1 for none, is worth more than the best answer in hand."""
    held = np.where(called, quality, -np.inf).max(axis=1)
    value = utility[np.arange(len(arm)), arm]
    on: NDArray[np.bool_] = (arm >= 0) & (value > held + LEAST_GAIN)
    return on


def best_answer(quality: Floats, called: NDArray[np.bool_], last: Ints) -> Ints:
    """The arm whose answer is handed out, (N,): the likeliest of those called, of equals the last
    one called."""
    known = np.where(called, quality, -np.inf)
    best = known.argmax(axis=1)
    rows = np.arange(len(best))
    found: Ints = np.where(known[rows, last] >= known[rows, best], last, best)
    return found
