"""The three predictors of quality, fitted side by side, their penalties chosen on held-out rows.

Logistic heads read words, their embedding and dense values; a ridge reads what a dearer tier gains;
neighbours read likeness alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from router.predict.design import DENSE_SHARE, Design
from router.predict.features import DENSE_NAMES

if TYPE_CHECKING:
    from router.predict.estimators import GainRidge, LogisticHeads, PrototypeNeighbors
    from router.types import Floats

ALPHA = 10.0  # of GainRidge; learnt on public outcomes that a factor of two hardly matters
# The embedding's weight beside the words that it is made of, in the logistic heads. Columns that
# many words share are then shrunk less than a single word's: it matters most with few rows.
_EMBEDDING_SHARE = 2.0
# Columns that always weigh `DENSE_SHARE`: on exam questions, where other dense values are noise,
# these say most.
_OPTION_FACTS = [DENSE_NAMES.index(name) for name in ("option_overlap", "option_digits")]


@dataclass(frozen=True)
class Penalties:
    """What is chosen of the logistic heads: `C`, and how much dense values weigh."""

    C: float = 0.6
    dense_share: float = DENSE_SHARE


# Chosen from on inner folds. On exam questions of one form, dense values are noise.
GRID = tuple(Penalties(c, share) for c in (0.3, 0.6) for share in (0.0, DENSE_SHARE))


@dataclass(frozen=True)
class Learners:
    """Fitted predictors of quality."""

    odds: LogisticHeads
    gains: GainRidge
    neighbours: PrototypeNeighbors

    def predict(self, design: Design) -> Floats:
        """Predicted quality of each learner, (3, N, T)."""
        both = design.both
        found = (
            self.odds.predict(both),
            self.gains.predict(both),
            self.neighbours.predict(design.text),
        )
        return np.stack([column.reshape(len(design.examples), -1) for column in found])


def neighbours_of(design: Design, score: Floats, seed: int) -> PrototypeNeighbors:
    """Fit the neighbours, whose embedding the logistic heads use too, to scores (N, T)."""
    from router.predict.estimators import PrototypeNeighbors

    found: PrototypeNeighbors = PrototypeNeighbors(random_state=seed).fit(
        design.text, score, design.examples.weight
    )
    return found


def learn(
    design: Design, score: Floats, penalties: Penalties, near: PrototypeNeighbors
) -> Learners:
    """Fit the other two learners beside the neighbours, to scores (N, T)."""
    from router.predict.estimators import GainRidge

    gains = GainRidge(alpha=ALPHA).fit(design.both, score, design.examples.weight)
    return Learners(log_odds(design, score, penalties, near), gains, near)


def try_out(
    rest: Design, score: Floats, near: PrototypeNeighbors, test: Design
) -> tuple[Floats, Floats]:
    """Fit to `rest` and scores (N, T), predict `test`.

    Returns what the logistic heads predict with each penalties of `GRID`, (len(GRID), M, T), and
    what ridge and neighbours do, (2, M, T).
    """
    both = test.both
    odds = [log_odds(rest, score, penalties, near).predict(both) for penalties in GRID[1:]]
    first = learn(rest, score, GRID[0], near).predict(test)
    return np.stack([first[0], *odds]), first[1:]


def log_odds(
    design: Design, score: Floats, penalties: Penalties, near: PrototypeNeighbors
) -> LogisticHeads:
    """Fit logistic heads to words, their embedding and dense values.

    The embedding is linear in the words, so its weights are added to theirs: what comes out reads
    `Design.both`, and costs a prediction nothing more.
    """
    from scipy import sparse

    from router.predict.estimators import LogisticHeads

    components = near.components_ * _EMBEDDING_SHARE
    shares = np.full(design.dense.shape[1], DENSE_SHARE)  # a text embedder's columns keep theirs
    shares[: len(DENSE_NAMES)] = penalties.dense_share
    shares[_OPTION_FACTS] = DENSE_SHARE
    columns = [design.text, design.text @ components, design.dense * shares]
    heads = LogisticHeads(C=penalties.C).fit(
        sparse.hstack(columns, format="csr"), score, design.examples.weight
    )
    words, shared, dense = np.split(heads.coef_, np.cumsum(components.shape), axis=1)
    # `both` has its dense values times DENSE_SHARE already.
    dense *= shares / DENSE_SHARE
    heads.coef_ = np.hstack([words + shared @ components.T, dense])
    heads.n_features_in_ = heads.coef_.shape[1]
    return heads


def choose(odds: Floats, score: Floats) -> int:
    """Choose of held-out predictions (len(GRID), N, T) those whose gains have the least squared
    error; return their place."""
    wanted = gains_of(score)
    if not np.isfinite(wanted).any():  # no example has two tiers: nothing to choose by
        return GRID.index(Penalties())
    return int(np.argmin(np.nanmean((gains_of(odds) - wanted) ** 2, axis=(1, 2))))


def gains_of(quality: Floats) -> Floats:
    """What the last tier gains over each other one, (…, T - 1)."""
    return quality[..., -1:] - quality[..., :-1]
