"""A sweep of policies from "money is no object" to "only money counts", and what each chose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from router.decide import UNLIMITED, Objective, Options, cautious, choose
from router.money import NANO_PER_USD
from router.types import TIERS

if TYPE_CHECKING:
    from router.replay.evaluation.chains import Called
    from router.types import Floats, Ints, Prediction

_DECADES = 4.0


@dataclass(frozen=True, slots=True)
class Sweep:
    """What the L policies of one method choose: `chosen` (L, N), positions among `TIERS`.

    `gain` (N,) ranks queries by what the frontier is expected to gain over the other tier, for
    the figures of two tiers; None where the method ranks nothing. `about` says what it is.
    `called`: the chains of calls, where it makes several; `chosen` is then whose answer counts.
    """

    chosen: Ints
    gain: Floats | None = None
    about: str = ""
    called: Called | None = None


def cost_weights(expected: Floats, points: int) -> Floats:
    """The grid of cost weights, in quality per dollar: 0, then logarithmic over 8 decades.

    Three times as dense in the middle, where most decisions turn, as an even one. Its middle is
    one over the mean expected cost of a query's dearest tier, so that it depends on
    prices and prompts alone. `expected` (N, K) has no unknowns; `points` is at least 2.
    """
    dearest = float(expected.max(axis=1).mean())
    scale = 1.0 / dearest if dearest > 0 else 1.0
    even = np.linspace(-1, 1, points - 1)
    decades = _DECADES * (even + 2 * even**3) / 3
    return np.concatenate([[0.0], scale * 10.0**decades])


def choose_tiers(quality: Floats, expected: Floats, weights: Floats, columns: list[int]) -> Ints:
    """Choose for N queries at L cost weights with the rule that routes live requests.

    Parameters: predicted `quality` and `expected` dollars, both (N, 4); `weights` (L,);
    `columns`, the ladder's tiers among `TIERS`. Returns positions among `TIERS`, (L, N).
    """
    n = len(quality)
    options = Options(
        quality=np.ascontiguousarray(quality[:, columns]),
        expected=np.rint(expected[:, columns] * NANO_PER_USD).astype(np.int64),
        upper=np.zeros((n, len(columns)), dtype=np.int64),
        barred=np.zeros((n, len(columns)), dtype=np.uint8),
        rung=np.array(columns, dtype=np.int64),
        baseline=columns[-1],
    )
    room = np.full(n, UNLIMITED)
    arms = [
        choose(options, Objective(cost_weight=float(weight)), room, priced=False).arm
        for weight in weights
    ]
    return np.array(columns, dtype=np.int64)[np.stack(arms)]


def careful(prediction: Prediction, columns: list[int]) -> Floats:
    """P(good) as live requests are decided by, (N, 4): of one unlike anything in training a lower
    bound below the baseline."""
    if not prediction.novel.any():
        return prediction.quality
    below = np.arange(len(TIERS)) < columns[-1]
    lower = cautious(prediction.quality, prediction.quality_std, below)
    return np.where(prediction.novel[:, None], lower, prediction.quality)


def constant(tiers: list[int], n: int) -> Ints:
    """Each of `tiers` for every one of N queries: (len(tiers), N)."""
    return np.repeat(np.array(tiers, dtype=np.int64)[:, None], n, axis=1)
