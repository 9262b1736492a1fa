"""Training a verifier of answers on recorded ones (scikit-learn, the extra `train`).

The priors it starts from must be out of fold, as those of live requests are: a predictor is too
sure of rows that it was trained on, and a verifier that learnt from such priors would believe them.
"""

from __future__ import annotations

from itertools import permutations
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from router.errors import ConfigurationError
from router.gates.verifier import BINS, NAMES, Verifier, inputs, odds
from router.predict.model_file import ModelFile
from router.replay.answers import Answers
from router.replay.rows import TRAIN_EXTRA
from router.types import TIERS

if TYPE_CHECKING:
    from router.types import Floats

_T = len(TIERS)
_RIDGE = 1.0  # scikit-learn's C: inputs are standardised, rows are thousands
_ITERATIONS = 300


def train_verifier(
    quality: Floats, score: Floats, answers: Answers, columns: list[int]
) -> dict[str, NDArray[Any]]:
    """Fit a verifier; return its arrays (`router.gates.verifier.Verifier`).

    Parameters
    ----------
    quality
        (N, 4): predicted P(good), each by a model that did not see the query; NaN where a tier is
        not there.
    score
        (N, 4) recorded, 0 to 1; rows without a score of every tier are left out.
    columns
        The ladder's tiers among `TIERS`.
    """
    known = np.isfinite(score[:, columns]).all(axis=1)
    quality, score, answers = quality[known], score[known], answers.take(np.flatnonzero(known))
    arrays: dict[str, NDArray[Any]] = {
        "weights": np.zeros((2 * _T, _T, len(NAMES))),
        "intercept": np.zeros((2 * _T, _T)),
    }
    prior = odds(np.where(np.isnan(quality), 0.5, quality))
    for last in columns:
        _fit(arrays, 0, last, columns, [(prior, ())], score, answers)
    first = {last: _after(arrays, quality, answers, (), last) for last in columns}
    arrays["good"], arrays["bad"] = _signals(quality, first, score, columns)
    arrays["together"] = _together(quality, score, columns)
    # Later answers: after one other first, then, with what that taught, after two others too.
    paths: dict[tuple[int, ...], Floats] = {(a,): first[a] for a in columns}
    for _ in range(2):
        for last in columns:
            before = [(odds(q), path) for path, q in paths.items() if last not in path]
            _fit(arrays, 1, last, columns, before, score, answers)
        paths = {(a,): first[a] for a in columns}
        for a, b in permutations(columns, 2):
            paths[a, b] = _after(arrays, first[a], answers, (a,), b)
    return arrays


def as_verifier(arrays: dict[str, NDArray[Any]]) -> Verifier:
    """A verifier of arrays that were not saved."""
    return Verifier(ModelFile("verifier", "0" * 64, {"inputs": list(NAMES)}, arrays))


def _after(
    arrays: dict[str, NDArray[Any]],
    quality: Floats,
    answers: Answers,
    path: tuple[int, ...],
    last: int,
) -> Floats:
    neutral = {"good": np.ones((_T, 2)), "bad": np.ones((_T, 2)), "together": np.zeros((_T, _T))}
    verifier = as_verifier({**neutral, **arrays})
    return verifier.posterior(quality, answers.shape[:, last], path, last, answers.alike)


def _fit(
    arrays: dict[str, NDArray[Any]],
    later: int,
    last: int,
    columns: list[int],
    before: list[tuple[Floats, tuple[int, ...]]],
    score: Floats,
    answers: Answers,
) -> None:
    """Fit the models of one tier's answer for every target, on all the ways that lead to it."""
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError:
        raise ConfigurationError(f"training a verifier needs scikit-learn: {TRAIN_EXTRA}") from None
    for target in columns:
        shape = answers.shape[:, last]
        x = np.concatenate(
            [inputs(prior, shape, path, last, answers.alike, target) for prior, path in before]
        )
        y = np.tile(score[:, target], len(before))
        centre, scale = x.mean(axis=0), x.std(axis=0)
        scale[scale < 1e-9] = np.inf  # what does not vary weighs nothing
        standard = (x - centre) / scale
        # A score between 0 and 1 is so much of a good answer, and the rest of a bad one.
        weight = np.concatenate([y, 1 - y]) / len(before)
        label = np.repeat([1, 0], len(y))
        some = weight > 0
        if len(set(label[some].tolist())) < 2:
            arrays["intercept"][last + _T * later, target] = 6.0 if label[some][0] else -6.0
            continue
        # Many rows, few inputs: Newton's steps are few, each one product of a small matrix.
        model = LogisticRegression(C=_RIDGE, solver="newton-cholesky", max_iter=_ITERATIONS)
        model.fit(np.tile(standard, (2, 1))[some], label[some], sample_weight=weight[some])
        slope = model.coef_[0] / scale
        arrays["weights"][last + _T * later, target] = slope
        arrays["intercept"][last + _T * later, target] = float(model.intercept_[0] - slope @ centre)


def _signals(
    quality: Floats, first: dict[int, Floats], score: Floats, columns: list[int]
) -> tuple[Floats, Floats]:
    """How often good and bad first answers give each of `BINS` equally frequent shifts of odds."""
    good, bad = np.ones((2, _T, BINS))
    for tier in columns:
        shift = odds(first[tier][:, tier]) - odds(quality[:, tier])
        edges = np.quantile(shift, np.arange(1, BINS) / BINS)
        signal = np.searchsorted(edges, shift)
        good[tier] += np.bincount(signal, score[:, tier], minlength=BINS)
        bad[tier] += np.bincount(signal, 1 - score[:, tier], minlength=BINS)
    return good / good.sum(axis=1, keepdims=True), bad / bad.sum(axis=1, keepdims=True)


def _together(quality: Floats, score: Floats, columns: list[int]) -> Floats:
    """How far tiers are good on the same requests beyond what predictions say: by moments, the r
    of `router.decide.cascade` that gives as many shared good answers as were recorded."""
    found = np.zeros((_T, _T))
    for one in columns:
        for other in columns:
            independent = quality[:, one] * quality[:, other]
            most = np.minimum(quality[:, one], quality[:, other]) - independent
            more = (score[:, one] * score[:, other] - independent).sum()
            found[one, other] = np.clip(more / max(float(most.sum()), 1e-9), 0, 1)
    return found
