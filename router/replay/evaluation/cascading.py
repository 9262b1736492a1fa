"""Cascades in cross-validation: a verifier for each fold, from answers of the other folds."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from router.errors import ConfigurationError
from router.replay.evaluation.chains import Called, call_chains, disagreement
from router.replay.evaluation.sweep import Sweep
from router.replay.evaluation.verifier_training import as_verifier, choose_ridge, train_verifier
from router.replay.recorded.answers import Answers, read_answers
from router.types import TIERS

if TYPE_CHECKING:
    from router.replay.evaluation.by_form import Judge
    from router.replay.recorded.outcomes import Outcomes
    from router.types import Floats, Ints

Predict = Callable[["Ints", "Ints"], "Floats"]  # rows to train on, rows to predict → quality (…, 4)
LEAST_FOLDS = 3
OF_CASCADES = ("pre_call", "disagreement")  # comparisons that stand beside every cascade


class Cascading:
    """The chains of an evaluation.

    Parameters: `max_steps`, the most calls of a query, 2 to 4; `verifier`, one that is trained
    already, None to train one for each fold.
    Raises `OutcomeFileError` for outcomes without answers.
    """

    def __init__(
        self, outcomes: Outcomes, points: int, max_steps: int, verifier: Judge | None = None
    ):
        self.outcomes, self.max_steps, self.verifier = outcomes, max_steps, verifier
        self.answers: Answers = read_answers(outcomes)
        self.called = Called.empty(points, len(outcomes), max_steps)
        self._of_pair: dict[frozenset[int], Floats] = {}

    def learn(self, fold: Ints, number: int, predict: Predict) -> Judge:
        """A verifier that saw nothing of one fold.

        Its priors for another fold are of a predictor that saw neither of the two, so that they
        are as good and as bad as those of a live request, and know nothing of the fold to judge.
        Raises `ConfigurationError` for fewer than three folds.
        """
        if self.verifier is not None:
            return self.verifier
        folds = int(fold.max()) + 1
        if folds < LEAST_FOLDS:
            raise ConfigurationError(f"a cascade needs at least {LEAST_FOLDS} folds, not {folds}")
        prior = np.full((len(fold), len(TIERS)), np.nan)
        for other in range(folds):
            if other == number:
                continue
            pair = frozenset((number, other))
            if pair not in self._of_pair:
                out = np.isin(fold, list(pair))
                both = np.full((len(fold), len(TIERS)), np.nan)
                both[out] = predict(np.flatnonzero(~out), np.flatnonzero(out))
                self._of_pair[pair] = both
            prior[fold == other] = self._of_pair[pair][fold == other]
        train = np.flatnonzero(fold != number)
        score, answers = self.outcomes.score[train], self.answers.take(train)
        columns = self.outcomes.columns
        ridge = choose_ridge(prior[train], score, answers, columns, fold[train])
        return as_verifier(train_verifier(prior[train], score, answers, columns, ridge=ridge))

    def decide(
        self, at: Ints, verifier: Judge, quality: Floats, expected: Floats, weights: Floats
    ) -> None:
        """Make the chains of the queries `at`: predicted quality and expected dollars, (…, 4)."""
        columns, mine = self.outcomes.columns, self.answers.take(at)
        part = call_chains(quality, expected, weights, columns, verifier, mine, self.max_steps)
        self.called.fill(at, part)

    def sweeps(self, alone: Sweep) -> dict[str, Sweep]:
        """The cascading router, the same decisions made once before the call, and the naive
        cascade."""
        naive = disagreement(self.answers, self.outcomes.columns)
        about = f"the router, looking at answers: up to {self.max_steps} calls"
        return {
            "router": Sweep(self.called.chosen, alone.gain, about, self.called),
            "pre_call": Sweep(alone.chosen, alone.gain, "the same predictions, one call each"),
            "disagreement": Sweep(
                naive.chosen, None, "the frontier wherever two cheap tiers disagree", naive
            ),
        }


def outer_predictions(learner: Any, examples: Any, features: Any, seed: int) -> Predict:
    """What predicts for `Cascading.learn`: trains on some rows, predicts quality of others."""
    from router.predict.model_file import ModelFile
    from router.predict.scorer import Predictor

    def predict(train: Ints, at: Ints) -> Floats:
        trained = learner(examples.take(train), seed=seed)
        model = Predictor(trained) if isinstance(trained, ModelFile) else trained
        quality: Floats = model.batch(features[at]).quality
        return quality

    return predict
