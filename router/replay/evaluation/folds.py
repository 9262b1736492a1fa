"""Cross-validation of a learner on recorded outcomes: every query is decided by a model that saw
neither it nor any other spelling of it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from router.errors import OutcomeFileError
from router.predict.examples import Examples
from router.predict.model_file import ModelFile
from router.predict.scorer import Predictor
from router.replay.evaluation import comparisons
from router.replay.evaluation.cascading import Cascading, outer_predictions
from router.replay.evaluation.costs import Expected, estimate_input, learnt_costs
from router.replay.evaluation.sweep import Sweep, careful, choose_tiers, cost_weights
from router.replay.recorded.featurise import examples_of
from router.replay.recorded.outcomes import Outcomes
from router.replay.recorded.prompts import last_user_text
from router.replay.recorded.textspace import TextSpace
from router.types import TIERS, Prediction

if TYPE_CHECKING:
    from router.types import Floats, Ints

LEAST_TRAINING = 20  # queries with a score of every tier, in the smallest training part


class Predicts(Protocol):
    """What a learner returns, if not a `ModelFile`."""

    def batch(self, features: Any, /) -> Prediction: ...


Learner = Callable[..., "ModelFile | Predicts"]  # learner(examples, seed=0)
Tick = Callable[[int], None]


@dataclass(frozen=True)
class Decided:
    """What came of all folds, in the order of the outcomes.

    `fold` (N,); `prediction` and `expected_usd` (N, 4), out of fold; `weights` (F, L), the grid of
    cost weights of each fold; `sweeps` by name, that of the router as "router".
    """

    fold: Ints
    prediction: Prediction
    expected: Expected
    weights: Floats
    sweeps: dict[str, Sweep]


def deal_folds(group: NDArray[np.str_], folds: int, seed: int) -> Ints:
    """Deal whole groups to folds of nearly equal size, by a hash of seed and group: (N,)."""
    names, member, size = np.unique(group, return_inverse=True, return_counts=True)
    order = sorted(
        range(len(names)), key=lambda i: hashlib.sha256(f"{seed}:{names[i]}".encode()).digest()
    )
    before = np.concatenate([[0], np.cumsum(size[order])[:-1]])
    of_group = np.empty(len(names), dtype=np.int64)
    of_group[order] = np.minimum(before * folds // len(group), folds - 1)
    return of_group[member]


@dataclass
class CrossValidation:
    """One run over the folds.

    Parameters
    ----------
    outcomes, features
        N recorded queries with scores, and their features.
    learner
        `learner(examples, seed=seed)` trains on examples and returns a `ModelFile`, or anything
        with `batch(features) -> Prediction`.
    folds, sweep, seed
        Number of folds and of sweep points, and the seed of folds, training and shuffling.
    compare
        Names of `comparisons.NAMES`; those that train here are run, the others left alone.
    cascading
        Chains of calls beside single ones, None for single ones alone.

    Raises
    ------
    OutcomeFileError
        If a fold would be empty or leave too little to train on.
    """

    outcomes: Outcomes
    features: Any
    learner: Learner
    folds: int
    sweep: int
    seed: int
    compare: Sequence[str] = ()
    tick: Tick = field(default=lambda done: None)
    cascading: Cascading | None = None

    @cached_property
    def fold(self) -> Ints:
        found = deal_folds(self.outcomes.group, self.folds, self.seed)
        scored: NDArray[np.bool_] = np.all(
            np.isfinite(self.outcomes.score[:, self.outcomes.columns]), axis=1
        )
        sizes = np.bincount(found, minlength=self.folds)
        training = min(int(scored[found != fold].sum()) for fold in range(self.folds))
        empty = int((sizes == 0).sum())
        if empty or training < LEAST_TRAINING:
            why = f"{empty} of them would have no question"
            if not empty:
                why = (
                    f"the smallest training part has {training} scored queries, at least "
                    f"{LEAST_TRAINING} are needed"
                )
            raise OutcomeFileError(
                self.outcomes.path,
                f"{len(self.outcomes)} queries ({len(set(self.outcomes.group.tolist()))} different "
                f"questions) are too few for {self.folds} folds: {why}; record more queries, take "
                "fewer folds, or give a model that is trained already (--model)",
            )
        return found

    @property
    def tables(self) -> bool:
        """Whether there is more than one known task."""
        return len(set(self.outcomes.task.tolist()) - {""}) > 1

    def run(self) -> Decided:
        """Train and decide, fold by fold."""
        outcomes, n, columns = self.outcomes, len(self.outcomes), self.outcomes.columns
        fold = self.fold
        examples = examples_of(outcomes, self.features, self.estimated_input)
        found = {name: _Method(n, self.sweep) for name in self._trained()}
        predictions: list[Prediction] = []
        usd, how = np.full((n, len(TIERS)), np.nan), {}
        weights = np.empty((self.folds, self.sweep))
        for number in range(self.folds):
            part = _Part(self, np.flatnonzero(fold != number), np.flatnonzero(fold == number))
            train, at = part.train, part.at
            model = _predictor(self.learner(examples.take(train), seed=self.seed))
            prediction = model.batch(self.features[at])
            expected = part.expected(prediction, at)
            trained = part.expected(model.batch(self.features[train]), train)
            grid = weights[number] = cost_weights(trained.usd[:, columns], self.sweep)
            predictions.append(prediction)
            usd[at], how = expected.usd, expected.how
            quality = careful(prediction, columns)
            found["router"].fill(at, quality, expected.usd, grid, columns)
            found["router"].rank(at, prediction.quality, columns)
            if self.cascading is not None:
                predict = outer_predictions(self.learner, examples, self.features, self.seed)
                verifier = self.cascading.learn(fold, number, predict)
                self.cascading.decide(at, verifier, quality, expected.usd, grid)
            self.tick(4 * number + 1)
            if "shuffled_labels" in found:
                blind = _predictor(self.learner(self._shuffled(examples, train), seed=self.seed))
                guess = blind.batch(self.features[at])
                cost = part.expected(guess, at).usd
                found["shuffled_labels"].fill(at, guess.quality, cost, grid, columns)
            self.tick(4 * number + 2)
            if "knn" in found:
                quality, cost = comparisons.knn(outcomes, part.space(), at)
                found["knn"].fill(at, quality, _known(cost, expected.usd), grid, columns)
            self.tick(4 * number + 3)
            if "task_table" in found:
                quality, cost = comparisons.task_table(outcomes, train, at)
                found["task_table"].fill(at, quality, _known(cost, expected.usd), grid, columns)
            if "length" in found:
                mine = comparisons.length(self.lengths, train, at, columns, self.sweep)
                found["length"].chosen[:, at] = mine.chosen
                found["length"].gain[at] = mine.gain
            self.tick(4 * number + 4)
        sweeps = {name: method.sweep(_ABOUT[name]) for name, method in found.items()}
        if self.cascading is not None:
            sweeps |= self.cascading.sweeps(sweeps["router"])
        return Decided(fold, _join(predictions, fold), Expected(usd, how), weights, sweeps)

    def _trained(self) -> list[str]:
        wanted = {name for name in self.compare if name in _ABOUT}
        if not self.tables:
            wanted.discard("task_table")
        return ["router", *(name for name in _ABOUT if name in wanted)]

    @cached_property
    def estimated_input(self) -> Floats:
        return estimate_input(self.outcomes)

    @cached_property
    def texts(self) -> list[str]:
        return [last_user_text(messages) for messages in self.outcomes.messages]

    @cached_property
    def lengths(self) -> Floats:
        return np.array([len(text) for text in self.texts], dtype=np.float64)

    def _shuffled(self, examples: Examples, train: Ints) -> Examples:
        """The training examples with the outcomes of other rows: what is learnt is noise."""
        mixed = np.random.default_rng(self.seed).permutation(train)
        outcome = examples.take(mixed)
        mine = examples.take(train)
        return Examples(
            mine.features,
            outcome.score,
            outcome.output_tokens,
            mine.input_tokens,
            mine.group,
            mine.task,
            mine.weight,
        )


_ABOUT = {
    "router": "the router",
    "length": "a longer prompt goes to a dearer tier",
    "shuffled_labels": "the same learner on labels that were shuffled, once",
    "task_table": "mean score and cost of the recorded task",
    "knn": "mean score and cost of the 100 nearest prompts",
}


class _Method:
    """The decisions of one method, filled fold by fold."""

    def __init__(self, n: int, points: int):
        self.chosen: Ints = np.full((points, n), -1, dtype=np.int64)
        self.gain: Floats = np.zeros(n)

    def fill(
        self, at: Ints, quality: Floats, usd: Floats, weights: Floats, columns: list[int]
    ) -> None:
        self.chosen[:, at] = choose_tiers(quality, usd, weights, columns)
        self.rank(at, quality, columns)

    def rank(self, at: Ints, quality: Floats, columns: list[int]) -> None:
        """Rank queries by what the frontier gains over the cheapest tier."""
        self.gain[at] = quality[:, columns[-1]] - quality[:, columns[0]]

    def sweep(self, about: str) -> Sweep:
        return Sweep(self.chosen, self.gain, about)


class _Part:
    """One fold: positions of its training and test queries, and what is learnt of costs."""

    def __init__(self, run: CrossValidation, train: Ints, at: Ints):
        self._run, self.train, self.at = run, train, at
        self._space: TextSpace | None = None

    def space(self) -> TextSpace:
        if self._space is None:
            self._space = TextSpace(self._run.texts, self.train, self._run.seed)
        return self._space

    def expected(self, prediction: Prediction, at: Ints) -> Expected:
        run = self._run
        tokens = prediction.output_tokens
        return learnt_costs(run.outcomes, self.train, at, tokens, run.estimated_input, self.space)


def _predictor(trained: ModelFile | Predicts) -> Predicts:
    return Predictor(trained) if isinstance(trained, ModelFile) else trained


def _join(parts: Sequence[Prediction], fold: Ints) -> Prediction:
    """Put the predictions of folds 0, 1, … into the order of `fold` (N,)."""
    back = np.argsort(np.argsort(fold, kind="stable"), kind="stable")
    names = [one.name for one in fields(Prediction)]
    return Prediction(
        *(np.concatenate([getattr(part, name) for part in parts])[back] for name in names)
    )


def _known(cost: Floats, otherwise: Floats) -> Floats:
    """A comparison's own expected cost where every tier has one, else the router's."""
    return cost if np.isfinite(cost).any() and _complete(cost, otherwise) else otherwise


def _complete(cost: Floats, otherwise: Floats) -> bool:
    return bool((np.isfinite(cost) | ~np.isfinite(otherwise)).all())
