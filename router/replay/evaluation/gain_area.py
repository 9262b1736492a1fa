"""How well a model orders who gains from a dearer tier, and by how much one beats another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from router.types import Floats

_DRAWS_AT_ONCE = 100
INTERVAL = (2.5, 97.5)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two models on the same rows: the area of each, and the paired difference.

    The `interval` is that of 95% over resamples of groups; NaN throughout where no request gains
    more than another, so that nothing can be told.
    """

    new: float
    shipped: float
    difference: float
    interval: tuple[float, float]

    @property
    def better(self) -> bool:
        """Whether the whole interval is above 0."""
        return self.interval[0] > 0


def gain_area(
    predicted: Floats, score: Floats, columns: Sequence[int], weights: NDArray[np.floating[Any]]
) -> Floats:
    """The area under the curve of gains won when requests go to the dearest tier in the order of
    their predicted gain, as a share of what the order of an oracle wins: 1 is the oracle's, 0.5 a
    random order's, 0 the reverse of the oracle's.

    That is APGR (arXiv:2406.18665) and the Qini coefficient (Radcliffe 2007) but for the scale:
    APGR divides by the mean lead of the dearer tier, which may be 0 or negative on a ladder that
    is not monotone. With gains of two values it is the ROC's area. The mean over pairs of the
    dearest tier and each cheaper one; pairs on which all requests gain the same are left out.

    Parameters
    ----------
    predicted, score
        (N, 4): predicted quality, NaN for tiers not known, which orders nothing; recorded score,
        NaN where unknown.
    columns
        The ladder's tiers as positions among `TIERS`, rising.
    weights
        (B, N): how often each row counts, for each of B resamples.

    Returns
    -------
    (B,), NaN where no pair says anything.
    """
    top = columns[-1]
    pairs = np.full((len(columns) - 1, len(weights)), np.nan)
    for pair, column in enumerate(columns[:-1]):
        gain = score[:, top] - score[:, column]
        known = np.isfinite(gain)
        if not known.any():
            continue
        order = np.nan_to_num(predicted[known, top] - predicted[known, column])
        for start in range(0, len(weights), _DRAWS_AT_ONCE):
            part = weights[start : start + _DRAWS_AT_ONCE, known].astype(np.float64)
            won, most = (_above_random(by, gain[known], part) for by in (order, gain[known]))
            told = most > 1e-9
            area = 0.5 + 0.5 * won / np.where(told, most, 1)
            pairs[pair, start : start + len(part)] = np.where(told, area, np.nan)
    told = np.isfinite(pairs)
    mean = np.where(told, pairs, 0).sum(axis=0) / np.maximum(told.sum(axis=0), 1)
    return np.where(told.any(axis=0), mean, np.nan)


def _above_random(by: Floats, gain: Floats, weights: Floats) -> Floats:
    """The area between the curve of gains won in falling order of `by` and a random order's, up to
    a factor: the covariance of gain and rank; ties share their middle rank."""
    order = np.argsort(by, kind="stable")
    ranked = by[order]
    starts = np.concatenate([[0], np.flatnonzero(ranked[1:] != ranked[:-1]) + 1])
    count = np.add.reduceat(weights[:, order], starts, axis=1)
    won = np.add.reduceat(weights[:, order] * gain[order], starts, axis=1)
    rank = np.cumsum(count, axis=1) - count / 2
    total = weights.sum(axis=1, keepdims=True)
    found: Floats = (won * (rank / np.maximum(total, 1) - 0.5)).sum(axis=1)
    return found


def compare(
    new: Floats,
    shipped: Floats,
    score: Floats,
    columns: Sequence[int],
    drawn: NDArray[np.floating[Any]],
) -> Comparison:
    """Compare two predictions (N, 4) of the same rows, with a paired interval over resamples
    `drawn` (B, N)."""
    once = np.ones((1, len(score)))
    mine, theirs = (float(gain_area(p, score, columns, once)[0]) for p in (new, shipped))
    difference = gain_area(new, score, columns, drawn) - gain_area(shipped, score, columns, drawn)
    return Comparison(mine, theirs, mine - theirs, interval_between(difference))


def interval_between(differences: Floats) -> tuple[float, float]:
    """`interval` of paired differences, NaN in a resample that has none of the rows which tell two
    models apart: it shows no difference. Left out, a single such row would make one certain."""
    if not np.isfinite(differences).any():
        return (float("nan"), float("nan"))
    return interval(np.nan_to_num(differences, nan=0.0))


def interval(values: Floats) -> tuple[float, float]:
    """The 2.5th and the 97.5th percentile of what is known among resamples (B,)."""
    known = values[np.isfinite(values)]
    if not known.size:
        return (float("nan"), float("nan"))
    low, high = np.percentile(known, INTERVAL)
    return float(low), float(high)
