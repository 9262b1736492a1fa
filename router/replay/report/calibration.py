"""Predicted P(good) of the answers that were taken, against their labels, as many answers as each
stands for."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass

from router.log.label_weights import LabelSums, Weight

BINS = 10
_Z = 1.959963984540054  # 95%, two-sided


@dataclass(frozen=True, slots=True)
class CalibrationBin:
    """Answers predicted within [`low`, `high`): how many are labelled, how many labels of equal
    weight would tell as much, the mean prediction, the mean label, and the 95% Wilson interval of
    the latter."""

    low: float
    high: float
    count: int
    effective: float
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
        self._bins = [LabelSums() for _ in range(BINS)]  # of prediction, label and squared error
        self._unpredicted = 0

    def add(self, arm: Hashable, predicted: object, label: float, rate: float | None) -> None:
        """Count one, by the rate that its label was drawn by; a prediction that is none is counted
        as missing."""
        usable = isinstance(predicted, int | float) and not isinstance(predicted, bool)
        if not usable or not 0 <= predicted <= 1:  # type: ignore[operator]
            self._unpredicted += 1
            return
        value = float(predicted)  # type: ignore[arg-type]
        place = min(BINS - 1, int(value * BINS))
        self._count[place] += 1
        self._bins[place].add(arm, rate, value, label, (value - label) ** 2)

    def result(self, weights: Mapping[Hashable, Weight]) -> Calibration:
        """What was counted, where each arm's labels have these weights."""
        bins: list[CalibrationBin] = []
        gaps = squares = total = 0.0
        for at, count in enumerate(self._count):
            found = self._bins[at].weighed(weights)
            if found.means is None:
                continue
            predicted, observed, square = found.means
            interval = wilson(observed * found.effective, found.effective)
            bins.append(
                CalibrationBin(
                    at / BINS, (at + 1) / BINS, count, found.effective, predicted, observed,
                    interval,
                )
            )  # fmt: skip
            gaps += found.weight * abs(predicted - observed)
            squares += found.weight * square
            total += found.weight
        return Calibration(
            sum(self._count),
            self._unpredicted,
            gaps / total if total else None,
            squares / total if total else None,
            tuple(bins),
        )


def wilson(good: float, count: float) -> tuple[float, float]:
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
