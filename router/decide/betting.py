"""Testing by betting: p-values for bounded means that are valid for any n, and tests in a row."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from router.types import Floats

# The bets' constants were chosen on simulated data (three-valued outcomes at the null's edge and
# one to three standard errors inside); the test is valid whatever they are.
SHADE = 0.85  # share of the bet that a Gaussian outcome would call for; outcomes are skewed
LARGEST_BET = 0.75  # share of the wealth that the worst outcome may take
PRIOR_VARIANCE = 0.25  # the largest variance of an outcome in [0, 1], …
PRIOR_ROWS = 4  # … counted as so many rows
BLOCKS = 64  # bets change each time that the rows left have shrunk by 1/64


def betting_p_value(x: Floats, high: float, delta: float, seed: int = 0) -> Floats:
    """P-values of the hypothesis E[x] >= 0, one for each row of independent draws at most `high`.

    A gambler starts with wealth 1 and puts a share on every draw's being negative, so wealth is
    multiplied by 1 - bet * x. Where E[x] >= 0 wealth is not expected to grow, and the chance that
    it ever reaches 1/p is at most p (Ville's inequality): 1 / (largest wealth) is a p-value for any
    n and any distribution, whatever the bets, as long as they are made before the draw is seen.

    The bets aim to reach 1/delta with the last draw: with log wealth g short of it, v the second
    moment of the draws so far and r draws left, the bet is 0.85 sqrt(2 g / (v r)) (the target is
    recalculated as in STaR-Bets, arXiv:2505.22422), at most 0.75 / high, and nothing once the
    target is reached. So `delta` only aims the power; p-values below it are not sought.

    Parameters
    ----------
    x
        Shape (P, N) or (N,): P policies on the same N queries.
    high
        The largest value that x can take; above 0. How low it may fall does not matter.
    seed
        Draws the order in which rows are looked at, one order for all policies, so that queries
        that were stored in an order (by task, by time) are as good as shuffled.

    Returns
    -------
    Shape (P,), or a scalar array for one-dimensional x.

    Raises
    ------
    ValueError
        If `high` or `delta` is out of range, or x has a value that is not finite or above `high`.
    """
    if not high > 0 or not 0 < delta < 1:
        raise ValueError(f"needs high > 0 and 0 < delta < 1, not {high} and {delta}")
    if not np.isfinite(x).all() or (x > high * (1 + 1e-12)).any():
        raise ValueError(f"x must be finite and at most {high}")
    rows = np.atleast_2d(x)
    rows = rows[:, np.random.default_rng(seed).permutation(rows.shape[1])]
    goal = -math.log(delta)
    wealth, peak = np.zeros(len(rows)), np.zeros(len(rows))  # logarithms
    squares = np.full(len(rows), PRIOR_ROWS * PRIOR_VARIANCE * high**2)
    for start, stop in _blocks(rows.shape[1]):
        short = np.where(peak >= goal, 0.0, goal - wealth)
        variance_left = squares / (PRIOR_ROWS + start) * (rows.shape[1] - start)
        bet = np.minimum(SHADE * np.sqrt(2 * short / variance_left), LARGEST_BET / high)
        block = rows[:, start:stop]
        course = wealth[:, None] + np.cumsum(np.log1p(-bet[:, None] * block), axis=1)
        peak = np.maximum(peak, course.max(axis=1))
        wealth = course[:, -1]
        squares += (block**2).sum(axis=1)
    return np.exp(-peak).reshape(np.shape(x)[:-1])


def _blocks(n: int) -> Iterator[tuple[int, int]]:
    """Cut n rows into blocks of equal bets, shorter towards the end: about 64 log(n) of them."""
    start = 0
    while start < n:
        stop = start + max(1, (n - start) // BLOCKS)
        yield start, stop
        start = stop


def fixed_sequence(blocks: Iterable[Floats], high: float, delta: float, seed: int = 0) -> int:
    """Index of the last policy before the first that cannot be rejected; -1 if it is the first.

    The probability that E[x] >= 0 for the policy returned is at most `delta`: to return any such
    policy, the first of them on the path must have been rejected.

    Parameters: `blocks`, arrays (P, N) that continue one another along the path, taken only as far
    as needed; the rest as in `betting_p_value`.
    """
    passed = 0
    for x in blocks:
        fails = np.flatnonzero(betting_p_value(x, high, delta, seed) > delta)
        if len(fails):
            return passed + int(fails[0]) - 1
        passed += len(x)
    return passed - 1
