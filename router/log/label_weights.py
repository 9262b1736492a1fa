"""How many answers each label stands for, where not every answer has one.

A label that was drawn by a known rate stands for the answers that nobody else labelled, by the
inverse of its rate (Horvitz and Thompson 1952), scaled to the number of these answers of its arm
(Hájek 1971). A label that nobody drew stands for itself alone, since nobody knows why it was given.
Where an arm has too few drawn labels to carry that, or none, there is nothing better than to take
its labels to be missing at random.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Hashable

    from router.types import Floats

LEAST_DRAWN = 30  # labels of an arm, below which they cannot stand for all that nobody labelled


def carried(drawn: Floats, told: Floats) -> NDArray[np.bool_]:
    """Of which arms labels weigh by their rates: where enough were drawn, or all were.

    Parameters: the numbers of labels that were drawn and that nobody drew, of one shape.
    """
    enough: NDArray[np.bool_] = (drawn >= LEAST_DRAWN) | ((drawn > 0) & (told == 0))
    return enough


def stand_for(
    answers: Floats, labels: Floats, told: Floats, inverse: Floats, by_rate: NDArray[np.bool_]
) -> tuple[Floats, Floats, Floats]:
    """How much a label of each arm weighs: `each`, and with it `told` where nobody drew it, or
    `rated` over its rate where it was drawn.

    Parameters, arrays over arms in their last axis: the number of answers, of their labels, of
    those that nobody drew, the sum of the inverse rates of the others, and what `carried` says.
    """
    usual = np.where(labels > 0, answers / np.maximum(labels, 1e-300), 0.0)
    scale = np.where(inverse > 0, (answers - told) / np.maximum(inverse, 1e-300), 0.0)
    return (
        np.where(by_rate, 0.0, usual),
        np.broadcast_to(by_rate.astype(np.float64), usual.shape),
        np.where(by_rate, scale, 0.0),
    )


class Weight(NamedTuple):
    """What `stand_for` says of one arm."""

    each: float
    told: float
    rated: float


@dataclass(slots=True)
class _Arm:
    """Sums over the labels of one arm: of 1, and of each value that goes with a label. Over all of
    them, those that nobody drew, and those that were drawn, by their inverse rates."""

    every: list[float]
    told: list[float]
    rated: list[float]
    drawn: int = 0
    squares: float = 0.0  # of inverse rates


@dataclass(frozen=True, slots=True)
class Weighed:
    """`means` of what goes with labels, over the answers that these stand for, None without any;
    `weight`, the number of these answers; `effective`, how many labels of equal weight would tell
    as much (Kish 1965)."""

    means: tuple[float, ...] | None
    weight: float
    effective: float


@dataclass(slots=True)
class LabelSums:
    """What goes with labels, summed by arm until all are counted and their weights are known."""

    by_arm: dict[Hashable, _Arm] = field(default_factory=dict)

    def add(self, arm: Hashable, rate: float | None, *values: float) -> None:
        """Count a label of an arm's answer, by the rate that it was drawn by, if it was."""
        row = (1.0, *values)
        sums = self.by_arm.get(arm)
        if sums is None:
            zeros = [0.0] * len(row)
            sums = self.by_arm[arm] = _Arm(zeros, zeros.copy(), zeros.copy())
        factor, kind = (1.0, sums.told) if rate is None else (1.0 / rate, sums.rated)
        for place, value in enumerate(row):
            sums.every[place] += value
            kind[place] += factor * value
        if rate is not None:
            sums.drawn += 1
            sums.squares += factor**2

    def weights(self, answers: Mapping[Hashable, int]) -> dict[Hashable, Weight]:
        """What each label weighs, where these are all labels, and `answers` of each arm."""
        if not self.by_arm:
            return {}
        arms = list(self.by_arm.items())
        columns = np.array(
            [
                (answers.get(arm, 0), sums.every[0], sums.told[0], sums.rated[0], sums.drawn)
                for arm, sums in arms
            ]
        )
        count, labels, told, inverse, drawn = columns.T
        found = np.stack(stand_for(count, labels, told, inverse, carried(drawn, told)), axis=1)
        return {arm: Weight(*row) for (arm, _), row in zip(arms, found.tolist(), strict=True)}

    def weighed(self, weights: Mapping[Hashable, Weight]) -> Weighed:
        """The means of what was added, each label by its weight."""
        totals: Sequence[float] = ()
        squares = 0.0
        for arm, sums in self.by_arm.items():
            each, told, rated = weights[arm]
            mine = [
                each * a + told * b + rated * c
                for a, b, c in zip(sums.every, sums.told, sums.rated, strict=True)
            ]
            totals = [a + b for a, b in zip(totals, mine, strict=True)] if totals else mine
            squares += each**2 * sums.every[0] + told**2 * sums.told[0] + rated**2 * sums.squares
        weight = totals[0] if totals else 0.0
        if weight <= 0:
            return Weighed(None, 0.0, 0.0)
        means = tuple(total / weight for total in totals[1:])
        return Weighed(means, weight, weight**2 / squares)
