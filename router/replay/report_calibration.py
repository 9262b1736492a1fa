"""Predicted P(good) of the answers that were taken, against their labels."""

from __future__ import annotations

import math
from dataclasses import dataclass

BINS = 10
_Z = 1.959963984540054  # 95%, two-sided


@dataclass(frozen=True, slots=True)
class CalibrationBin:
    """Answers predicted within [`low`, `high`): how many, the mean prediction, the mean label, and
    the 95% Wilson interval of the latter."""

    low: float
    high: float
    count: int
    predicted: float
    observed: float
    interval: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Calibration:
    """`labels` counts labelled answers with a prediction, `unpredicted` those without. `error` is
    the expected calibration error, `brier` the mean squared one, None without labels."""

    labels: int
    unpredicted: int
    error: float | None
    brier: float | None
    bins: tuple[CalibrationBin, ...]


class CalibrationBins:
    """Counts labelled answers one at a time, in bins of equal width: nothing else is kept."""

    def __init__(self) -> None:
        self._count = [0] * BINS
        self._predicted = [0.0] * BINS
        self._observed = [0.0] * BINS
        self._squares = 0.0
        self._unpredicted = 0

    def add(self, predicted: object, label: float) -> None:
        """Count one; a prediction that is none is counted as missing."""
        usable = isinstance(predicted, int | float) and not isinstance(predicted, bool)
        if not usable or not 0 <= predicted <= 1:  # type: ignore[operator]
            self._unpredicted += 1
            return
        value = float(predicted)  # type: ignore[arg-type]
        place = min(BINS - 1, int(value * BINS))
        self._count[place] += 1
        self._predicted[place] += value
        self._observed[place] += label
        self._squares += (value - label) ** 2

    def result(self) -> Calibration:
        """What was counted."""
        labels = sum(self._count)
        bins = tuple(
            CalibrationBin(
                at / BINS,
                (at + 1) / BINS,
                count,
                self._predicted[at] / count,
                self._observed[at] / count,
                wilson(self._observed[at], count),
            )
            for at, count in enumerate(self._count)
            if count
        )
        gaps = sum(each.count * abs(each.predicted - each.observed) for each in bins)
        return Calibration(
            labels,
            self._unpredicted,
            gaps / labels if labels else None,
            self._squares / labels if labels else None,
            bins,
        )


def wilson(good: float, count: int) -> tuple[float, float]:
    """The 95% score interval of a share `good / count` (Wilson 1927), `count` at least 1.

    For graded labels it is wider than needed: no label within 0 and 1 varies more than 0 or 1.
    """
    share, square = good / count, _Z**2
    centre = share + square / (2 * count)
    half = _Z * math.sqrt(share * (1 - share) / count + square / (4 * count**2))
    scale = 1 + square / count
    # At a share of 0 or 1 the bound is that share itself, which rounding would miss.
    return max(0.0, min(share, (centre - half) / scale)), min(
        1.0, max(share, (centre + half) / scale)
    )
