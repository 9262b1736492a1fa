"""What keeps an arm from being called just now, whatever the request: a snapshot, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from router.decide.options import Bar

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from router.types import Ints


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why an arm cannot be called now: `bar`, a code of `Bar`; `why`, in words; `wait`, seconds
    until it may be, None where that is not known."""

    bar: int
    why: str
    wait: float | None = None


Obstacles: TypeAlias = Mapping[int, Obstacle]  # by the arm's index


def obstructed(barred: NDArray[np.uint8], obstacles: Obstacles) -> NDArray[np.uint8]:
    """The bars (N, A) with those of the obstacles, where nothing else bars an arm."""
    found = barred.copy()
    for index, obstacle in obstacles.items():
        found[:, index] = np.where(found[:, index] == Bar.FREE, obstacle.bar, found[:, index])
    return found


def ways_around(
    barred: NDArray[np.uint8], obstacles: Obstacles, tier: Ints, preferred: int
) -> list[tuple[int, NDArray[np.uint8]]]:
    """The ways around the arm `preferred`, in order: sideways within its tier, then each higher
    tier, the next one first; never down. Each as its tier's index and its bars (1, A).

    Parameters: `barred` (1, A), without the obstacles; `tier` (A,), index of each arm's tier.
    """
    # What a fallback left for later may be what is next now.
    open_again = obstructed(np.where(barred == Bar.NOT_NEXT, Bar.FREE, barred), obstacles)
    free = open_again[0] == Bar.FREE
    ways = []
    for rank in sorted({int(each) for each in tier[free] if each >= tier[preferred]}):
        way = open_again.copy()
        way[0, free & (tier != rank)] = Bar.NOT_NEXT
        ways.append((rank, way))
    return ways
