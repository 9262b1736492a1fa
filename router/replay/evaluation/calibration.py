"""How far predicted probabilities can be believed: calibration error, Brier score and AUC."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from router.types import Floats

BINS = 10
GOOD = 0.5  # a graded score of at least this counts as a good answer for the AUC


@dataclass(frozen=True, slots=True)
class Calibration:
    """`ece`: expected calibration error over bins of equal count; `brier`: mean squared error;
    `auc`: P(a good answer was predicted above a bad one), ties one half, None without both;
    `bins`: per bin the mean prediction, the mean score and the number of queries."""

    ece: float
    brier: float
    auc: float | None
    bins: tuple[tuple[float, float, int], ...]


def calibrate(predicted: Floats, score: Floats) -> Calibration:
    """Measure predictions (N,) of P(good) against recorded scores (N,), N at least 1."""
    parts = [
        part for part in np.array_split(np.argsort(predicted, kind="stable"), BINS) if part.size
    ]
    bins = tuple(
        (float(predicted[part].mean()), float(score[part].mean()), len(part)) for part in parts
    )
    return Calibration(
        ece=sum(abs(p - s) * count for p, s, count in bins) / len(predicted),
        brier=float(np.mean((predicted - score) ** 2)),
        auc=auc(predicted, score >= GOOD),
        bins=bins,
    )


def auc(predicted: Floats, good: NDArray[np.bool_]) -> float | None:
    """Area under the ROC curve, by ranks (Mann and Whitney 1947); ties count one half."""
    positives = int(good.sum())
    negatives = len(good) - positives
    if not positives or not negatives:
        return None
    _, inverse, count = np.unique(predicted, return_inverse=True, return_counts=True)
    rank = (np.cumsum(count) - (count - 1) / 2)[inverse]
    above = rank[good].sum() - positives * (positives + 1) / 2
    return float(above / (positives * negatives))


def intervals(
    predicted: Floats, score: Floats, weights: NDArray[np.floating[Any]]
) -> dict[str, list[float] | None]:
    """95% intervals of `ece`, `brier` and `auc` over resamples `weights` (B, N); bins stay."""
    order = np.argsort(predicted, kind="stable")
    total = weights.sum(axis=1)
    brier = weights @ (predicted - score) ** 2 / total
    error = np.zeros(len(weights))
    for part in np.array_split(order, BINS):
        error += np.abs(weights[:, part] @ (predicted - score)[part])
    return {
        "ece": _interval(error / total),
        "brier": _interval(brier),
        "auc": _interval(weighted_aucs(predicted, score >= GOOD, weights)),
    }


def weighted_aucs(
    predicted: Floats, good: NDArray[np.bool_], weights: NDArray[np.floating[Any]]
) -> Floats:
    """`auc` under each row of weights (B, N): (B,), NaN without good or without bad answers."""
    order = np.argsort(predicted, kind="stable")
    ranked = predicted[order]
    starts = np.concatenate([[0], np.flatnonzero(ranked[1:] != ranked[:-1]) + 1])
    found = np.full(len(weights), np.nan)
    for draw, row in enumerate(weights[:, order]):
        won = np.add.reduceat(row * good[order], starts)
        lost = np.add.reduceat(row * ~good[order], starts)
        if won.sum() and lost.sum():
            below = np.cumsum(lost) - lost / 2
            found[draw] = (won * below).sum() / (won.sum() * lost.sum())
    return found


def _interval(values: Floats) -> list[float] | None:
    return None if np.isnan(values).any() else np.percentile(values, [2.5, 97.5]).tolist()
