"""Fit the model that is shipped: for requests of no known source, starting from stated beliefs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from predictor_data import BELIEFS, Rows, Wordings, join
from scipy import sparse
from scipy.sparse.linalg import lsqr
from threadpoolctl import threadpool_limits

from router.predict import training
from router.predict.design import Design, text_matrix
from router.predict.effort import EFFORT_TOKENS
from router.predict.estimators import GainRidge, LogisticHeads, LogTokens, PrototypeNeighbors
from router.predict.estimators.gain_ridge import levels
from router.predict.estimators.log_tokens import residual_quantiles
from router.predict.features import DENSE_NAMES
from router.predict.learners import Learners
from router.predict.model_file import ModelFile
from router.predict.scorer import DENSE_LIMIT, TOKEN_SHARES
from router.types import TIERS

Floats = NDArray[np.float64]
_MOST_WEIGHT = 3.0
_INTERCEPT = 10.0
# A value that is rare among benchmarks (a word of proof, a greeting) must not be trusted as if it
# were common.
_LEAST_SCALE, _LEAST_SCALE_OF_SHARE, _LEAST_SCALE_OF_CHAT = 0.5, 0.02, 0.2
# So large that they count for nothing: options are an exam's, and hardly a request has any.
_LEAST_SCALE_OF_OPTIONS = 1e4


@dataclass(frozen=True)
class Recipe:
    """How much counts what: the ridge's penalty on text of length 1, how much dense values and
    offsets of sources are favoured over text, of how many recorded questions a belief is worth,
    and of how many a difference between two wordings of one belief."""

    alpha: float = 300.0
    dense_share: float = 0.2
    source_share: float = 1.8
    belief: float = 100.0
    wording: float = 1000.0
    frame: float = 400.0
    step: tuple[float, float, float] = (0.3, 0.005, 0.2)
    step_own: float = 0.3


def fit(
    rows: Rows, beliefs: Rows, wordings: Wordings, seed: int, recipe: Recipe = Recipe()
) -> ModelFile:
    """Fit quality by regrets alone, with an offset for each source that is then dropped.

    What differs between sources is mostly how they were graded, and a request comes from none of
    them: so the level is the beliefs'. Beliefs stand among the rows, which is ridge's posterior on
    the questions with the beliefs' own posterior as its prior. Wordings of one belief should be
    judged alike, and so should wordings that nobody judged: the squares of their differences are a
    part of what is minimised. What comes out is drawn to one of two levels, of easy and of hard
    requests (`router.predict.step.STEP_SHAPES`). All tiers share
    one length of answers: how long a model answers is a trait of that model, not of its tier.
    """
    # A product over several threads is rounded otherwise, and the model's hash would tell.
    with threadpool_limits(1):
        return _fit(join(rows, beliefs), wordings, seed, recipe)


def _fit(rows: Rows, wordings: Wordings, seed: int, recipe: Recipe) -> ModelFile:
    design = design_of(rows)
    inner = list(training.inner_folds(rows.examples, seed))
    weight = weights_of(rows, recipe)
    frames = _frames(design, wordings, recipe)
    score, tokens = rows.examples.score, shared_tokens(rows)
    level, miss, left = (np.full(score.shape, np.nan) for _ in range(3))
    likeness = np.zeros(len(rows))
    for held in inner:
        gains, lengths = _solve(design, rows, ~held, weight, score, tokens, recipe, frames)
        x = _columns(design, recipe)[held]
        own = gains.coef_[:, : x.shape[1]]  # without the sources' offsets
        level[held] = levels(x @ own.T + gains.intercept_)
        left[held] = np.log1p(tokens[held]) - lengths.predict_log(x)
        others = PrototypeNeighbors(random_state=seed)
        others.fit(design.text[~held], score[~held], weight[~held])
        likeness[held] = others.likeness(design.text[held])
        miss[held] = score[held] - gains.predict(_with_sources(design, rows, recipe)[held])
    every = np.ones(len(rows), bool)
    gains, lengths = _solve(design, rows, every, weight, score, tokens, recipe, frames)
    near = PrototypeNeighbors(random_state=seed).fit(design.text, score, weight)
    tiers = np.ones(len(TIERS), dtype=bool)
    nothing = LogisticHeads()
    nothing.coef_ = np.zeros((len(TIERS), len(design.vocabulary) + len(DENSE_NAMES)))
    nothing.intercept_ = np.zeros(len(TIERS))
    judged = rows.source == BELIEFS
    residual = left[np.isfinite(left)]
    smearing = np.log(np.mean(np.exp(residual)))
    arrays = {
        **training.linear_arrays(
            design, Learners(nothing, gains, near), lengths, tiers, recipe.dense_share
        ),
        "mix": np.array([0.0, 1.0, 0.0]),
        "level": _line(level[judged, -1], score[judged, -1]),
        "gain": np.ones(1),
        "ability": np.zeros((len(TIERS), 2)),
        "quality_noise": np.sqrt(np.nanmean(miss[~judged] ** 2, axis=0)),
        "token_residuals": np.tile(
            [smearing, *residual_quantiles(residual, TOKEN_SHARES)], (len(TIERS), 1)
        ),
        "step": np.array(recipe.step),
        "step_regrets": _step_regrets(level[judged], score[judged], recipe),
        "novelty": training.novelty(rows.examples, inner, likeness, _usual(rows)),
    }
    facts = {
        "dense_names": list(DENSE_NAMES),
        "effort_tokens": EFFORT_TOKENS,
        "examples": int((~judged).sum()),
        "beliefs": int(judged.sum()),
        "wordings": len(wordings.group),
        "recipe": vars(recipe),
        "prior_rows": near.prior_rows,
        "seed": seed,
        "temperature": near.temperature,
        "tiers": list(TIERS),
        "tokens_assumed": [],
        "trained_on": sorted(set(rows.source.tolist())),
    }
    return ModelFile("default", "0" * 64, facts, training.in_single_precision(arrays))


def design_of(rows: Rows) -> Design:
    """As in training, but what is usual is read off questions and beliefs alike, half and half."""
    least = np.array(
        [
            _LEAST_SCALE_OF_CHAT
            if name == "share_chat"
            else _LEAST_SCALE_OF_OPTIONS
            if name in ("option_overlap", "option_digits")
            else _LEAST_SCALE_OF_SHARE
            if name.startswith("share_")
            else _LEAST_SCALE
            for name in DENSE_NAMES
        ]
    )
    return Design.of(rows.examples, _usual(rows), least)


def _usual(rows: Rows) -> Floats:
    """How much a row counts in what is usual."""
    usual = weights_of(rows, Recipe(belief=1.0))
    judged = rows.source == BELIEFS
    usual[judged] *= usual[~judged].sum() / max(1.0, usual[judged].sum())
    return usual


def weights_of(rows: Rows, recipe: Recipe) -> Floats:
    """A source counts by the square root of its size: none drowns the others."""
    judged = rows.source == BELIEFS
    weight = np.full(len(rows), recipe.belief)
    names, position, counts = np.unique(
        rows.source[~judged], return_inverse=True, return_counts=True
    )
    share = np.sqrt(position.size / len(names) / counts)
    weight[~judged] = np.minimum(_MOST_WEIGHT, share)[position]
    return weight * rows.examples.weight


def shared_tokens(rows: Rows) -> Floats:
    """Replace each tier's tokens by the question's geometric mean over tiers."""
    logs = np.log1p(rows.examples.output_tokens)
    known = np.isfinite(logs)
    count = np.where(known.any(axis=1), known.sum(axis=1), np.nan)
    shared = np.expm1(np.where(known, logs, 0).sum(axis=1) / count)
    return np.tile(shared[:, None], (1, len(TIERS)))


def _columns(design: Design, recipe: Recipe) -> sparse.csr_matrix:
    return sparse.hstack([design.text, design.dense * recipe.dense_share], format="csr")


def _with_sources(design: Design, rows: Rows, recipe: Recipe) -> sparse.csr_matrix:
    names = np.unique(rows.source[rows.source != BELIEFS])
    of = (rows.source[:, None] == names) * recipe.source_share
    return sparse.hstack([_columns(design, recipe), of], format="csr")


def _solve(
    design: Design,
    rows: Rows,
    chosen: NDArray[np.bool_],
    weight: Floats,
    score: Floats,
    tokens: Floats,
    recipe: Recipe,
    frames: sparse.csr_matrix,
) -> tuple[GainRidge, LogTokens]:
    """Fit gains beside the sources' offsets; and lengths, which nobody judged, without them. Both
    are to be alike for all wordings."""
    x = _with_sources(design, rows, recipe).tocsr()[chosen]
    judged = _belief_differences(rows.take(np.flatnonzero(chosen))) @ x * np.sqrt(recipe.wording)
    no_source = sparse.csr_matrix((frames.shape[0], x.shape[1] - frames.shape[1]))
    apart = sparse.vstack([judged, sparse.hstack([frames, no_source])], format="csr")
    gains = GainRidge(recipe.alpha)
    regrets = score[chosen, -1:] - score[chosen, :-1]
    targets = np.column_stack([score[chosen, -1:], regrets])
    heads = [_ridge(x, y, weight[chosen], recipe.alpha, apart) for y in targets.T]
    gains.coef_ = np.array([coef for coef, _ in heads])
    gains.intercept_ = np.array([intercept for _, intercept in heads])
    gains.n_features_in_, gains._one_output = x.shape[1], False
    plain = _columns(design, recipe)[chosen]
    logs = np.log1p(tokens[chosen, 0])  # all tiers share them
    coef, intercept = _ridge(
        plain, logs, weight[chosen], recipe.alpha / 3, apart[:, : plain.shape[1]]
    )
    lengths = LogTokens(recipe.alpha / 3)
    lengths.coef_ = np.tile(coef, (len(TIERS), 1))
    lengths.intercept_ = np.full(len(TIERS), intercept)
    lengths.n_features_in_, lengths._one_output = plain.shape[1], False
    return gains, lengths


def _belief_differences(rows: Rows) -> sparse.csr_matrix:
    """A matrix (M, N) that takes from each wording of a belief the mean of all its wordings."""
    judged = np.flatnonzero(rows.source == BELIEFS)
    pick = sparse.csr_matrix(
        (np.ones(judged.size), (np.arange(judged.size), judged)), shape=(judged.size, len(rows))
    )
    return (_apart(rows.key[judged]) @ pick).tocsr()


def _frames(design: Design, wordings: Wordings, recipe: Recipe) -> sparse.csr_matrix:
    """What sets the wordings that nobody judged apart, (M, F), weighed as the recipe does."""
    features = wordings.features
    dense = (features.dense.astype(np.float64) - design.mean) / design.scale
    dense = np.clip(dense, -DENSE_LIMIT, DENSE_LIMIT) * recipe.dense_share
    x = sparse.hstack([text_matrix(design.vocabulary, features), dense], format="csr")
    return (_apart(wordings.group) @ x * np.sqrt(recipe.frame)).tocsr()


def _apart(group: NDArray[Any]) -> sparse.csr_matrix:
    """A matrix (M, M) that takes from each row the mean of its group's."""
    names, of = np.unique(group, return_inverse=True)
    member = sparse.csr_matrix(
        (np.ones(group.size), (of, np.arange(group.size))), shape=(len(names), group.size)
    )
    mean = sparse.diags(1 / np.asarray(member.sum(axis=1)).ravel()) @ member
    return (sparse.identity(group.size) - member.T @ mean).tocsr()


def _step_regrets(level: Floats, score: Floats, recipe: Recipe) -> Floats:
    """Regrets of easy and of hard beliefs, (2, T): as predicted with their fold left out, and as
    judged, mixed. The ridge draws regrets together; the judges set them further apart than
    benchmarks do."""
    predicted, wanted = level[:, -1:] - level, score[:, -1:] - score
    hard = predicted.sum(axis=1) >= recipe.step[0]
    mixed = recipe.step_own * predicted + (1 - recipe.step_own) * wanted
    return np.stack([mixed[~hard].mean(axis=0), mixed[hard].mean(axis=0)])


def _ridge(
    x: sparse.csr_matrix, y: Floats, weight: Floats, alpha: float, apart: sparse.csr_matrix
) -> tuple[Floats, float]:
    """Ridge regression that also makes `apart @ coef` small; returns coef (F,) and intercept."""
    known = np.flatnonzero(np.isfinite(y))
    root = np.sqrt(weight[known])
    mean = float(np.average(y[known], weights=weight[known]))
    # The intercept is a column so large that the penalty does not reach it.
    ones = np.full((known.size, 1), _INTERCEPT)
    left = sparse.diags(root) @ sparse.hstack([x[known], ones])
    system = sparse.vstack([left, sparse.hstack([apart, sparse.csr_matrix((apart.shape[0], 1))])])
    wanted = np.concatenate([root * (y[known] - mean), np.zeros(apart.shape[0])])
    found = lsqr(system.tocsr(), wanted, damp=np.sqrt(alpha), atol=1e-6, btol=1e-6, iter_lim=1000)[
        0
    ]
    return found[:-1], float(found[-1] * _INTERCEPT + mean)


def _line(x: Floats, y: Floats) -> Floats:
    slope, start = np.polyfit(x, y, 1)
    return np.array([start, slope])
