"""Training a verifier of answers on recorded ones.

The priors it starts from must be out of fold, as those of live requests are: a predictor is too
sure of rows that it was trained on, and a verifier that learnt from such priors would believe them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import permutations
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from router.gates.gate import TOGETHER
from router.gates.reading import LOGPROBS
from router.gates.verifier import BINS, NAMES, Verifier, inputs, odds
from router.predict.model_file import ModelFile
from router.replay.recorded.answers import Answers
from router.types import TIERS

if TYPE_CHECKING:
    from router.types import Floats

_T = len(TIERS)
RIDGES = (1.0, 10.0, 100.0, 1000.0)  # rows' worth of belief that an answer tells nothing
LEAST_ROWS = 20  # of fewer an answer's model stays with what was thought before
AGREE = 0.5  # of -1 to 1: from here two answers count as the same in looks ahead
_NEWTON_STEPS = 50
_FOLDS = 3
_SHAPE = len(TIERS)  # where the answer's shape begins among the inputs


def train_verifier(
    quality: Floats,
    score: Floats,
    answers: Answers,
    columns: Sequence[int],
    *,
    ridge: float = RIDGES[0],
    weight: Floats | None = None,
    names: Collection[str] = NAMES,
) -> dict[str, NDArray[Any]]:
    """Fit a verifier; return its arrays (`router.gates.verifier.Verifier`).

    Parameters
    ----------
    quality
        (N, 4): predicted P(good), each by a model that did not see the query; NaN where a tier is
        not there.
    score
        (N, 4) recorded, 0 to 1; NaN where unknown, as a log knows one of each request's.
    columns
        The ladder's tiers among `TIERS`.
    ridge
        How strongly each model is drawn to "an answer tells nothing", as by so many rows.
    weight
        (N,): how much each query counts; 1 each if None.
    names
        Which of `NAMES` may be read; the others get no weight.
    """
    arrays: dict[str, NDArray[Any]] = {
        "weights": np.zeros((2 * _T, _T, len(NAMES))),
        "intercept": np.zeros((2 * _T, _T)),
    }
    for target in range(_T):
        arrays["weights"][:, target, target] = 1.0  # what was thought before stays
    each = np.ones(len(score)) if weight is None else weight
    unread = np.array([name not in names for name in NAMES])
    fit = _Fit(arrays, score, answers, columns, ridge, each, unread)
    prior = odds(np.where(np.isnan(quality), 0.5, quality))
    for last in columns:
        fit(0, last, [(prior, ())])
    first = {last: _after(arrays, quality, answers, (), last) for last in columns}
    arrays["good"], arrays["bad"] = _signals(quality, first, score, answers, columns)
    arrays["together"] = _together(quality, score, columns)
    arrays["same"] = _same(score, answers, columns)
    # Later answers: after one other first, then, with what that taught, after two others too.
    paths: dict[tuple[int, ...], Floats] = {(a,): first[a] for a in columns}
    for _ in range(2):
        for last in columns:
            fit(1, last, [(odds(q), path) for path, q in paths.items() if last not in path])
        paths = {(a,): first[a] for a in columns}
        for a, b in permutations(columns, 2):
            paths[a, b] = _after(arrays, first[a], answers, (a,), b)
    return arrays


def choose_ridge(
    quality: Floats, score: Floats, answers: Answers, columns: Sequence[int], deal: NDArray[Any]
) -> float:
    """The ridge of `RIDGES` under which first answers are judged best on rows left out.

    Parameters: as for `train_verifier`; `deal` (N,), folds that keep groups together.
    """
    prior = odds(np.where(np.isnan(quality), 0.5, quality))
    loss = np.zeros(len(RIDGES))
    for last in columns:
        x, y, offset, rows = _rows_of(answers, score, [(prior, ())], last, last)
        fold = deal[rows]
        for held in np.unique(fold).tolist():
            out = fold == held
            if (~out).sum() < LEAST_ROWS:
                continue
            for at, ridge in enumerate(RIDGES):
                slope, level = _logistic(
                    x[~out], y[~out], offset[~out], np.ones((~out).sum()), ridge
                )
                z = offset[out] + x[out] @ slope + level
                loss[at] += (np.logaddexp(0, z) - y[out] * z).sum()
    return RIDGES[int(loss.argmin())]


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
    neutral["same"] = np.ones((_T, _T, 3))
    verifier = as_verifier({**neutral, **arrays})
    return verifier.posterior(quality, answers.shape[:, last], path, last, answers.alike)


class _Fit:
    """Fits the models of one tier's answer for every target, on all the ways that lead to it."""

    def __init__(
        self,
        arrays: dict[str, NDArray[Any]],
        score: Floats,
        answers: Answers,
        columns: Sequence[int],
        ridge: float,
        weight: Floats,
        unread: NDArray[np.bool_],
    ):
        self._arrays, self._score, self._answers = arrays, score, answers
        self._columns, self._ridge = columns, ridge
        self._weight, self._unread = weight, unread

    def __call__(
        self, later: int, last: int, before: Sequence[tuple[Floats, tuple[int, ...]]]
    ) -> None:
        """Fit from `before`: log odds (N, 4) and the tiers that had answered, for each way."""
        for target in self._columns:
            x, y, offset, rows = _rows_of(self._answers, self._score, before, last, target)
            if len(set(rows.tolist())) < LEAST_ROWS:
                continue
            # A query counts once, however many ways lead to this answer of its.
            weight = self._weight[rows] / np.bincount(rows)[rows]
            x[:, self._unread] = 0.0
            x, y, offset, weight = _some_without_logprobs(x, y, offset, weight)
            slope, level = _logistic(x, y, offset, weight, self._ridge)
            slope[target] += 1.0
            self._arrays["weights"][last + _T * later, target] = slope
            self._arrays["intercept"][last + _T * later, target] = level


def _rows_of(
    answers: Answers,
    score: Floats,
    before: Sequence[tuple[Floats, tuple[int, ...]]],
    last: int,
    target: int,
) -> tuple[Floats, Floats, Floats, NDArray[np.int64]]:
    """What the model of one answer and one target learns from: inputs (M, F), scores (M,), the log
    odds before (M,), and whose they are (M,)."""
    none = np.zeros(0)
    parts = [(np.zeros((0, len(NAMES))), none, none, none.astype(np.int64))]
    for prior, path in before:
        at = np.flatnonzero(answers.came((*path, last)) & np.isfinite(score[:, target]))
        shape, alike = answers.shape[at, last], answers.alike[at]
        x = inputs(prior[at], shape, path, last, alike, target)
        parts.append((x, score[at, target], prior[at, target], at))
    x, y, offset, rows = (np.concatenate(each) for each in zip(*parts, strict=True))
    return x, y, offset, rows


def _some_without_logprobs(
    x: Floats, y: Floats, offset: Floats, weight: Floats
) -> tuple[Floats, Floats, Floats, Floats]:
    """Each row that has log-probabilities once more without, at half its weight each: a provider
    may cease to give them, and an answer without must not read as one that was sure."""
    columns = [_SHAPE + at for at in LOGPROBS]
    told = np.flatnonzero(x[:, columns[0]] > 0)
    bare = x[told]
    bare[:, columns] = 0.0
    weight = weight.copy()
    weight[told] /= 2
    return (
        np.concatenate([x, bare]),
        np.concatenate([y, y[told]]),
        np.concatenate([offset, offset[told]]),
        np.concatenate([weight, weight[told]]),
    )


def _logistic(
    x: Floats, y: Floats, offset: Floats, weight: Floats, ridge: float
) -> tuple[Floats, float]:
    """Weighted logistic regression with an offset and a ridge on standardised slopes, by Newton's
    method: slopes (F,) and intercept. Scores `y` (M,) from 0 to 1 are so much of a good answer.

    The intercept is held by a tenth of a row, so that answers that were all good stay finite.
    """
    total = weight.sum()
    centre = weight @ x / total
    scale = np.sqrt(weight @ (x - centre) ** 2 / total)
    varies = scale > 1e-9  # what does not vary weighs nothing
    design = np.concatenate(
        [(x[:, varies] - centre[varies]) / scale[varies], np.ones((len(x), 1))], axis=1
    )
    penalty = np.full(design.shape[1], ridge)
    penalty[-1] = 0.1
    beta = _newton(design, y, offset, weight, penalty)
    slope = np.zeros(x.shape[1])
    slope[varies] = beta[:-1] / scale[varies]
    return slope, float(beta[-1] - slope @ centre)


def _newton(design: Floats, y: Floats, offset: Floats, weight: Floats, penalty: Floats) -> Floats:
    """Minimise the penalised log loss; a step that would raise it is halved until it does not."""

    def linear(at: Floats) -> Floats:
        found: Floats = np.clip(offset + design @ at, -30, 30)
        return found

    def loss(at: Floats, z: Floats) -> float:
        return float(weight @ (np.logaddexp(0, z) - y * z) + 0.5 * penalty @ at**2)

    beta = np.zeros(design.shape[1])
    z = linear(beta)
    now = loss(beta, z)
    for _ in range(_NEWTON_STEPS):
        p = 1 / (1 + np.exp(-z))
        gradient = design.T @ (weight * (p - y)) + penalty * beta
        curve = np.maximum(weight * p * (1 - p), 1e-9)
        step = np.linalg.solve((design.T * curve) @ design + np.diag(penalty), gradient)
        before = now
        for halved in range(20):
            candidate = beta - step / 2**halved
            z = linear(candidate)
            now = loss(candidate, z)
            if now <= before:
                beta = candidate
                break
        if before - now < 1e-7 * max(1.0, abs(now)):
            break
    return beta


def _signals(
    quality: Floats,
    first: dict[int, Floats],
    score: Floats,
    answers: Answers,
    columns: Sequence[int],
) -> tuple[Floats, Floats]:
    """How often good and bad first answers give each of `BINS` equally frequent shifts of odds."""
    good, bad = np.ones((2, _T, BINS))
    for tier in columns:
        at = np.flatnonzero(answers.came((tier,)) & np.isfinite(score[:, tier]))
        if not len(at):
            continue
        shift = odds(first[tier][at, tier]) - odds(quality[at, tier])
        edges = np.quantile(shift, np.arange(1, BINS) / BINS)
        signal = np.searchsorted(edges, shift)
        good[tier] += np.bincount(signal, score[at, tier], minlength=BINS)
        bad[tier] += np.bincount(signal, 1 - score[at, tier], minlength=BINS)
    return good / good.sum(axis=1, keepdims=True), bad / bad.sum(axis=1, keepdims=True)


def _together(quality: Floats, score: Floats, columns: Sequence[int]) -> Floats:
    """How far tiers are good on the same requests beyond what predictions say: by moments, the r
    of `router.decide.cascade` that gives as many shared good answers as were recorded; where no
    request has both scores, what is usual."""
    found = np.zeros((_T, _T))
    for one in columns:
        for other in columns:
            known = np.isfinite(score[:, one]) & np.isfinite(score[:, other])
            if not known.any():
                found[one, other] = TOGETHER
                continue
            mine, its = quality[known, one], quality[known, other]
            independent = mine * its
            most = np.minimum(mine, its) - independent
            more = (score[known, one] * score[known, other] - independent).sum()
            found[one, other] = np.clip(more / max(float(most.sum()), 1e-9), 0, 1)
    return found


def _same(score: Floats, answers: Answers, columns: Sequence[int]) -> Floats:
    """How often two tiers' answers agree where neither is good, one is, or both are. One query's
    worth of belief that this is all the same; so it is where a pair was never compared."""
    found = np.ones((_T, _T, 3))
    for one, other in permutations(columns, 2):
        read = (answers.order[:, one] >= 0) & (answers.order[:, other] >= 0)
        known = read & np.isfinite(score[:, one]) & np.isfinite(score[:, other])
        if not known.any():
            continue
        mine, its = score[known, one], score[known, other]
        agree = answers.alike[known, one, other] > AGREE
        states = np.stack([(1 - mine) * (1 - its), mine + its - 2 * mine * its, mine * its])
        found[one, other] = (states @ agree + agree.mean()) / (states.sum(axis=1) + 1)
    return found
