"""The three predictors of quality, fitted side by side, their penalties chosen on held-out rows.

Logistic heads read words, their embedding and dense values; a ridge reads what a dearer tier gains;
neighbours read likeness alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from router.predict.design import DENSE_SHARE, Design
from router.predict.features import DENSE_NAMES

if TYPE_CHECKING:
    from router.predict.estimators import GainRidge, LogisticHeads, PrototypeNeighbors
    from router.predict.examples import Examples
    from router.types import Floats

ALPHA = 10.0  # of GainRidge; learnt on public outcomes that a factor of two hardly matters
# The embedding's weight beside the words that it is made of, in the logistic heads. Columns that
# many words share are then shrunk less than a single word's: it matters most with few rows.
_EMBEDDING_SHARE = 2.0


@dataclass(frozen=True)
class Penalties:
    """What is chosen of the logistic heads: `C`, how much dense values weigh, and how far labels
    are drawn towards the mean of their task."""

    C: float = 0.6
    dense_share: float = DENSE_SHARE
    task_share: float = 0.0


# Chosen from on inner folds. On exam questions of one form, dense values are noise.
GRID = tuple(Penalties(c, share) for c in (0.3, 0.6) for share in (0.0, DENSE_SHARE))
# Labels that are less noisy need less of a penalty. Only where examples have tasks to draw towards.
TASK_GRID = tuple(Penalties(1.2, share, 0.5) for share in (0.0, DENSE_SHARE))
_TASK_PRIOR_ROWS = 10.0  # how many rows' weight the mean of all has in a task's


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
    design: Design, score: Floats, chosen: Sequence[Penalties], near: PrototypeNeighbors
) -> Learners:
    """Fit the other two learners beside the neighbours, to scores (N, T).

    The logistic heads are the mean of those with each of the chosen penalties.
    """
    from router.predict.estimators import GainRidge

    gains = GainRidge(alpha=ALPHA).fit(design.both, score, design.examples.weight)
    several = [log_odds(design, score, penalties, near) for penalties in chosen]
    odds = several[0]
    odds.coef_ = np.mean([heads.coef_ for heads in several], axis=0)
    odds.intercept_ = np.mean([heads.intercept_ for heads in several], axis=0)
    return Learners(odds, gains, near)


def grid_of(examples: Examples) -> tuple[Penalties, ...]:
    """What there is to choose from: with tasks, labels may be drawn towards their task's mean."""
    tasks = np.unique(examples.task[examples.task != ""])
    return GRID + TASK_GRID if len(tasks) > 1 else GRID


def try_out(
    grid: tuple[Penalties, ...],
    rest: Design,
    score: Floats,
    near: PrototypeNeighbors,
    test: Design,
) -> tuple[Floats, Floats]:
    """Fit to `rest` and scores (N, T), predict `test`.

    Returns what the logistic heads predict with each penalties of `grid`, (len(grid), M, T), and
    what ridge and neighbours do, (2, M, T).
    """
    both = test.both
    odds = [log_odds(rest, score, penalties, near).predict(both) for penalties in grid[1:]]
    first = learn(rest, score, grid[:1], near).predict(test)
    return np.stack([first[0], *odds]), first[1:]


def towards_tasks(score: Floats, examples: Examples, share: float) -> Floats:
    """Draw labels (N, T) towards the mean label of the other rows of their task.

    One answer is a noisy label of how well a model answers such questions; its neighbours by task
    are others. Nothing but training reads a task: what is learnt is to tell it from the text. A
    row's own label has no part in the mean that it is drawn to, and a small task's mean is shrunk
    to that of all. A row without a task keeps its label.
    """
    tasked = examples.task != ""
    if not share or not tasked.any():
        return score
    names, of = np.unique(examples.task, return_inverse=True)
    known = np.isfinite(score)
    mass = np.where(known, examples.weight[:, None], 0.0)
    labels = mass * np.where(known, score, 0.0)
    total, sums = (np.zeros((len(names), score.shape[1])) for _ in range(2))
    np.add.at(total, of, mass)
    np.add.at(sums, of, labels)
    overall = labels.sum(axis=0) / np.maximum(mass.sum(axis=0), 1e-12)
    others = (sums[of] - labels + _TASK_PRIOR_ROWS * overall) / (
        total[of] - mass + _TASK_PRIOR_ROWS
    )
    drawn: Floats = np.where(tasked[:, None], score + share * (others - score), score)
    return drawn


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
    columns = [design.text, design.text @ components, design.dense * shares]
    label = towards_tasks(score, design.examples, penalties.task_share)
    heads = LogisticHeads(C=penalties.C).fit(
        sparse.hstack(columns, format="csr"), label, design.examples.weight
    )
    words, shared, dense = np.split(heads.coef_, np.cumsum(components.shape), axis=1)
    # `both` has its dense values times DENSE_SHARE already.
    dense *= shares / DENSE_SHARE
    heads.coef_ = np.hstack([words + shared @ components.T, dense])
    heads.n_features_in_ = heads.coef_.shape[1]
    return heads


def choose(odds: Floats, score: Floats) -> list[int]:
    """Choose of held-out predictions (grid, N, T) those whose gains have the least squared error,
    and all that are not worse by more than one standard error; return their places.

    Which of nearly equal ones is best is chance, and their mean is better than most of them (the
    one-standard-error rule of Breiman et al. 1984, with a mean in place of the simplest).
    """
    miss = (gains_of(odds) - gains_of(score)) ** 2
    rows = np.isfinite(miss[0]).any(axis=1)
    if not rows.any():  # no example has two tiers: nothing to choose by
        return [GRID.index(Penalties())]
    error = np.nanmean(miss[:, rows], axis=2)
    more = error - error[np.argmin(error.mean(axis=1))]
    return np.flatnonzero(more.mean(axis=1) <= _standard_error(more)).tolist()


def better(worse: Floats, found: Floats) -> bool:
    """Whether squared errors `found` (N,) are less than others by more than a standard error."""
    less = worse - found
    return bool(less.mean() > _standard_error(less))


def _standard_error(rows: Floats) -> Any:
    return rows.std(axis=-1) / np.sqrt(rows.shape[-1])


def mean_odds(probabilities: Floats) -> Floats:
    """The mean of predictions (K, …), taken of their log odds: what the mean of weights gives."""
    odds = np.log(probabilities) - np.log1p(-probabilities)
    mean: Floats = 1 / (1 + np.exp(-odds.mean(axis=0)))
    return mean


def gains_of(quality: Floats) -> Floats:
    """What the last tier gains over each other one, (…, T - 1)."""
    return quality[..., -1:] - quality[..., :-1]
