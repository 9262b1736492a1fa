"""What calling an arm is worth, where its answer is looked at: then the chain stops, or goes on to
another arm. Pure; one request and a million go through the same lines.

The value of a chain is its expected best P(good) less what its calls cost, as in cascade routing
(arXiv:2410.10347), but with the answers' evidence in it (`router.decide.evidence`): over the
signals k that arm b's answer may give,

    V(b) = -w c_b + sum_k P(k) max(best answer in hand | k, max of V(c | k) over arms c to follow)

in units of quality, w being the cost weight. What was paid before is spent and appears nowhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from router.decide.evidence import NONE, Signals, both_good, columns_of, compared, says_same, seen

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from router.decide.options import Options
    from router.types import Floats, Ints

LEAST_GAIN = 1e-9  # of going on over stopping: below it is rounding
DEEPEST = 2  # looks ahead that are weighed; a later step looks ahead again
_ROWS_AT_ONCE = 256


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
    return values_and_costs(quality, price, None, follows, look)[0]


def values_and_costs(
    quality: Floats, price: Floats, cost: Floats | None, follows: NDArray[np.bool_], look: Look
) -> tuple[Floats, Floats]:
    """`values`, and what the calls that may follow each call are expected to cost, (N, A).

    Parameters: `cost` (N, A), of a call, in any unit, None where nobody asks: then what follows
    costs 0; the others as in `values`.
    """
    n, arms = quality.shape
    called = np.zeros((n, arms), dtype=bool) if look.called is None else look.called
    comparable = np.ones(n, dtype=bool) if look.comparable is None else look.comparable
    tree = _Tree(price, cost, follows, comparable, look.signals.coarse)
    depth = min(look.steps - 1, DEEPEST)
    parts = []
    for start in range(0, max(n, 1), _ROWS_AT_ONCE):  # of no rows too
        rows = np.arange(start, min(start + _ROWS_AT_ONCE, n))
        row, arm = np.tile(rows, arms), np.repeat(np.arange(arms), len(rows))
        known, done = quality[row].T, called[row].T
        in_hand = np.where(done, known, -np.inf)
        best = np.where(done.any(axis=0), in_hand.argmax(axis=0), NONE)
        its = np.where(best == NONE, 0.0, in_hand.max(axis=0))
        calls = _Calls(row, arm, known[arm, np.arange(len(arm))], best, its)
        worth = tree.worth(look.signals, calls, known, done, depth)
        parts.append([part.reshape(arms, len(rows)).T for part in worth])
    found, later = (np.concatenate(each) for each in zip(*parts, strict=True))
    return found, later


@dataclass(frozen=True, slots=True)
class _Calls:
    """M calls that may be made: of `arm` for the requests `row`, with P(good) `mine`, after an
    answer of `best` as the best in hand, with P(good) `its`: `NONE` and 0 before the first."""

    row: Ints
    arm: Ints
    mine: Floats
    best: Ints
    its: Floats


@dataclass(frozen=True, slots=True)
class _Tree:
    """The tree of what may happen, all calls of a depth at once; `price`, `cost` and `follows` as
    in `values_and_costs`, without `cost` where nobody asks; `comparable` as in `Look`; `later`, the
    signals of all looks but the first.

    Arms come first, as in `router.decide.evidence`.
    """

    price: Floats
    cost: Floats | None
    follows: NDArray[np.bool_]
    comparable: NDArray[np.bool_]
    later: Signals

    def worth(
        self,
        signals: Signals,
        calls: _Calls,
        quality: Floats,
        called: NDArray[np.bool_],
        depth: int,
    ) -> tuple[Floats, Floats]:
        """V (M,) of calls, and what those that may follow them are expected to cost; `quality` and
        `called` (A, M): what is known and who has answered before."""
        row, arm = calls.row, calls.arm
        if not depth:
            return self.last(signals, calls)
        chance, after = seen(signals, arm, quality)
        tells = called & self.comparable[row]
        if signals.same is not None and tells.any():
            chance, after = compared(signals, arm, tells, chance, after)
        arms, k, m = after.shape
        held = called.copy()
        held[arm, np.arange(m)] = True
        in_hand = np.where(held[:, None], after, -np.inf)
        value, later = in_hand.max(axis=0), np.zeros((k, m))
        other, before = np.nonzero(self.follows[row, arm].T & ~held)
        if len(before):
            # Each call that may follow, after each signal.
            follow = _Calls(
                np.tile(row[before], k),
                np.tile(other, k),
                after[other, :, before].T.reshape(-1),
                in_hand.argmax(axis=0)[:, before].reshape(-1),
                value[:, before].reshape(-1),
            )
            if depth == 1:
                worth, more = self.last(self.later, follow)
            else:
                known, done = after[:, :, before].reshape(arms, -1), np.tile(held[:, before], k)
                worth, more = self.worth(self.later, follow, known, done, depth - 1)
            onward = np.full((arms, k, m), -np.inf)
            onward[other, :, before] = worth.reshape(k, -1).T
            onward_best = onward.max(axis=0)
            if self.cost is not None:
                spent = np.zeros((arms, k, m))
                more = self.cost[follow.row, follow.arm] + more
                spent[other, :, before] = more.reshape(k, -1).T
                taken = np.take_along_axis(spent, onward.argmax(axis=0)[None], axis=0)[0]
                later = np.where(onward_best > value + LEAST_GAIN, taken, 0.0)
            value = np.maximum(value, onward_best)
        price = self.price[row, arm]
        return (chance * value).sum(axis=0) - price, (chance * later).sum(axis=0)

    def last(self, signals: Signals, calls: _Calls) -> tuple[Floats, Floats]:
        """V (M,) of calls that none comes after: what is to be expected of the better of its answer
        and the best before it; and that what follows costs nothing. Answers before the best are
        left out: what they gain is nothing beside the time that a look ahead spends here."""
        price = self.price[calls.row, calls.arm]
        return self.better_of_two(signals, calls) - price, np.zeros(len(price))

    def better_of_two(self, signals: Signals, calls: _Calls) -> Floats:
        """The P(good) (M,) to be expected of the better of two answers, once one was looked at."""
        mine, its, arm, best = calls.mine, calls.its, calls.arm, calls.best
        if (best == NONE).all():
            return mine
        together = signals.together[arm, best]
        good, bad = columns_of(signals.good, arm), columns_of(signals.bad, arm)
        both = both_good(mine, its, together)
        # Chances of each signal together with: this answer good, the other one good.
        of_mine, of_its = mine * good, both * good + (its - both) * bad
        rival = np.where(self.comparable[calls.row], best, NONE)
        if signals.same is None or (rival == NONE).all():
            alone: Floats = np.maximum(of_mine, of_its).sum(axis=0)
            return alone
        chance = of_mine + (1 - mine) * bad
        some = np.maximum(chance, 1e-300)
        both = both_good(of_mine / some, of_its / some, together) * chance
        _, one, two = says_same(signals, arm, rival)
        mine_same = two * both + one * (of_mine - both)
        its_same = two * both + one * (of_its - both)
        same = np.maximum(mine_same, its_same)
        apart = np.maximum(of_mine - mine_same, of_its - its_same)
        found: Floats = (same + apart).sum(axis=0)
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
