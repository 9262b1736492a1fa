"""What a router must beat: each comparison sees the training folds only, as the router does."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from router.replay.evaluation.sweep import Sweep, constant, cost_weights
from router.replay.recorded.outcomes import Outcomes
from router.replay.recorded.prompts import last_user_text
from router.replay.recorded.textspace import TextSpace
from router.types import TIERS

if TYPE_CHECKING:
    from router.types import Floats, Ints

NAMES = (
    "singles",
    "random_mix",
    "length",
    "shuffled_labels",
    "task_table",
    "knn",
    "litellm_heuristic",
    "oracle",
)
_TABLE_SHRINKAGE = 5.0  # a task counts as much as this many rows of the overall mean


def singles(outcomes: Outcomes) -> dict[str, Sweep]:
    """Each model of the ladder, for every query."""
    n = len(outcomes)
    return {
        f"single:{tier}": Sweep(constant([column], n), about=f"always {model}")
        for (tier, model), column in zip(outcomes.ladder.items(), outcomes.columns, strict=True)
    }


def random_mix(outcomes: Outcomes) -> Sweep:
    """The best random mix of single models, blind to the query: the hull of the singles."""
    n = len(outcomes)
    return Sweep(constant(outcomes.columns, n), np.zeros(n), "the best random mix of single models")


def length(texts_length: Floats, train: Ints, at: Ints, columns: list[int], points: int) -> Sweep:
    """The longer the prompt, the dearer the tier; no label is used.

    A prompt's rank among the training prompts, 0 to 1, plus a shift that is swept from 1 to -1,
    picks the tier: below 0 the lowest, from 1 on the highest, in equal steps between.
    """
    ranked = np.sort(texts_length[train])
    low = np.searchsorted(ranked, texts_length[at], side="left")
    high = np.searchsorted(ranked, texts_length[at], side="right")
    rank = (low + high) / (2 * len(ranked))
    shift = np.linspace(1, -1, points)[:, None]
    step = np.clip(np.floor(len(columns) * (rank + shift)), 0, len(columns) - 1)
    return Sweep(
        np.array(columns, dtype=np.int64)[step.astype(np.int64)],
        rank,
        "a longer prompt goes to a dearer tier",
    )


def task_table(outcomes: Outcomes, train: Ints, at: Ints) -> tuple[Floats, Floats]:
    """Mean score and cost of the task's training rows for each tier, both (len(at), 4).

    Few rows are drawn towards the overall mean. The recorded task is an oracle of a kind: a
    router has to guess it from the prompt.
    """
    quality, cost = (
        _task_means(values[train], outcomes.task[train], outcomes.task[at])
        for values in (outcomes.score, outcomes.cost_usd)
    )
    return quality, cost


def _task_means(values: Floats, task: NDArray[np.str_], asked: NDArray[np.str_]) -> Floats:
    overall = _mean(values)
    found = np.repeat(overall[None, :], len(asked), axis=0)
    for name in np.unique(task):
        mine = values[task == name]
        known = np.isfinite(mine)
        total = np.where(known, mine, 0.0).sum(axis=0) + _TABLE_SHRINKAGE * overall
        found[asked == name] = total / (known.sum(axis=0) + _TABLE_SHRINKAGE)
    return found


def knn(outcomes: Outcomes, space: TextSpace, at: Ints) -> tuple[Floats, Floats]:
    """Mean score and cost of the nearest training queries for each tier, both (len(at), 4)."""
    near = space.neighbours(at)
    quality = _mean(outcomes.score[near], axis=1)
    cost = _mean(outcomes.cost_usd[near], axis=1)
    overall = _mean(outcomes.score[space.train]), _mean(outcomes.cost_usd[space.train])
    return (
        np.where(np.isfinite(quality), quality, overall[0]),
        np.where(np.isfinite(cost), cost, overall[1]),
    )


def _mean(values: Floats, axis: int = 0) -> Floats:
    """The mean of what is known along `axis`, NaN where nothing is."""
    known = np.isfinite(values)
    count = known.sum(axis=axis)
    total = np.where(known, values, 0.0).sum(axis=axis)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def litellm_heuristic(outcomes: Outcomes, tick: Callable[[int], None] = lambda done: None) -> Sweep:
    """litellm's own heuristic router: one point, since it has nothing to sweep.

    Its four levels stand for our four tiers; a tier that the ladder lacks becomes the next one
    up. For two tiers its score ranks the queries.
    """
    from router.dispatch.heuristic import classify

    columns = np.array(outcomes.columns)
    chosen, score = np.empty((1, len(outcomes)), dtype=np.int64), np.empty(len(outcomes))
    asked = (last_user_text(messages) for messages in outcomes.messages)
    for i, (tier, value) in enumerate(classify(asked)):
        chosen[0, i] = columns[np.searchsorted(columns, TIERS.index(tier))]
        score[i] = value
        tick(i + 1)
    return Sweep(chosen, score, "litellm's complexity router, as installed")


def oracle(outcomes: Outcomes, points: int) -> Sweep:
    """The best recorded answer of each query, the cheapest of equals, swept by cost weights.

    No router reaches it: the best of several noisy scores is inflated by their noise.
    """
    columns = outcomes.columns
    score = outcomes.score[:, columns]
    cost = outcomes.cost_usd[:, columns]
    if not outcomes.has_cost:
        cost = np.broadcast_to(np.arange(len(columns), dtype=np.float64), score.shape)
    cost = np.where(np.isfinite(cost), cost, np.nanmean(cost, axis=0))
    score = np.nan_to_num(score)
    weights = cost_weights(cost, points)
    weights[0] = weights[1] * 1e-6  # a tie goes to the cheapest
    chosen = np.stack([np.argmax(score - weight * cost, axis=1) for weight in weights])
    return Sweep(
        np.array(columns, dtype=np.int64)[chosen],
        score[:, -1] - score[:, 0],
        "the best recorded answer of each query; inflated by the noise of scores",
    )
