"""Examples → a model file: three predictors of quality, stacked out of fold, and of tokens.

scikit-learn does the fitting (the `train` extra); what comes out is arrays for the scorer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from router.errors import TrainingError
from router.predict.design import DENSE_SHARE, Design
from router.predict.effort import EFFORT_TOKENS
from router.predict.examples import Examples, folds_of
from router.predict.features import DENSE_NAMES
from router.predict.learners import (
    ALPHA,
    GRID,
    Learners,
    choose,
    gains_of,
    learn,
    neighbours_of,
    try_out,
)
from router.predict.model_file import ModelFile
from router.predict.scorer import HEADS, TOKEN_SHARES
from router.predict.vocabulary import Vocabulary
from router.types import TIERS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from router.predict.embedder import TextEmbedder
    from router.predict.estimators import LogTokens
    from router.types import Floats

LEAST_EXAMPLES = 60  # with a score; of fewer, nothing can be held out
INNER_FOLDS = 3
_TOKEN_ALPHA = 10.0
_IDENTITY_ROWS = 100.0  # belief that predictions need no calibration
_LEAST_SLOPE = 0.01  # gains that turn out worthless are shrunk, not reversed
_NOVEL_SHARE = 0.05  # a request is novel that is among so few by words and by likeness both
_ROUNDING = 1e-5  # what is just as usual must not fall short of it by single precision
_UNKNOWN_TOKENS = 300.0  # an answer's length where no example has one; marked "assumed"
_UNKNOWN_SPREAD = 1.0  # standard deviation of its logarithm

Progress = Callable[[str], None]


def fit(
    examples: Examples,
    seed: int = 0,
    progress: Progress | None = None,
    embedder: TextEmbedder | None = None,
) -> ModelFile:
    """Train on recorded outcomes.

    Penalties, the stack's weights, calibration and residuals come from folds of the examples
    (whole groups) that a learner did not see; then everything is fitted to all examples.

    Parameters
    ----------
    examples
        At least `LEAST_EXAMPLES` rows with a score, of two tiers or more, of several groups.
    seed
        Deals the folds; the same examples and seed give the same model.
    progress
        Called with a few words before each step.
    embedder
        The one whose vectors stand in the examples' features.

    Raises
    ------
    TrainingError
        If there is too little to learn from.
    """
    from threadpoolctl import threadpool_limits

    # Of two fits at once, each gets as many of the linear algebra's threads as the other leaves,
    # and a product that is split otherwise is rounded otherwise.
    with threadpool_limits(1):
        return _fit(examples, seed, progress or (lambda step: None), embedder)


def _fit(examples: Examples, seed: int, say: Progress, embedder: TextEmbedder | None) -> ModelFile:
    tiers = check(examples)
    say("reading the texts")
    design = Design.of(examples)
    if not len(design.vocabulary):
        raise TrainingError("prompts that have words in common are needed", 0)
    score = examples.score[:, tiers]
    inner = list(inner_folds(examples, seed))
    if not inner:
        groups = len(np.unique(examples.group))
        raise TrainingError("different questions are needed, so that some can be held out", groups)
    tried = np.full((len(GRID), *score.shape), np.nan)
    others = np.full((2, *score.shape), np.nan)
    likeness = np.zeros(len(examples))
    for number, held in enumerate(inner):
        say(f"held-out fold {number + 1} of {len(inner)}")
        rest, test = design.take(~held), design.take(held)
        near = neighbours_of(rest, score[~held], seed)
        tried[:, held], others[:, held] = try_out(rest, score[~held], near, test)
        likeness[held] = near.likeness(test.text)
    chosen = choose(tried, score)
    penalties, held_out = GRID[chosen], np.concatenate([tried[chosen : chosen + 1], others])
    say("stacking and calibrating")
    mix = stack(held_out, score, examples.weight)
    mixed = np.tensordot(mix, held_out, axes=1)
    level, gain, noise = calibrate(mixed, score, examples.weight)
    say("fitting to all examples")
    learners = learn(design, score, penalties, neighbours_of(design, score, seed))
    tokens, residuals, assumed = fit_tokens(design, inner)
    say("measuring what is usual")
    arrays = {
        **linear_arrays(design, learners, tokens, tiers),
        "mix": mix,
        "level": level,
        "gain": np.array([gain]),
        "ability": np.zeros((len(TIERS), 2)),
        "quality_noise": spread_out(noise[:, None], tiers, (0.5,))[:, 0],
        "token_residuals": residuals,
        "novelty": novelty(examples, inner, likeness),
    }
    facts = {
        "dense_names": list(DENSE_NAMES),
        "effort_tokens": EFFORT_TOKENS,
        "embedder": None if embedder is None else {"name": embedder.name, "size": embedder.size},
        "examples": len(examples),
        "penalties": {**asdict(penalties), "alpha": ALPHA},
        "prior_rows": learners.neighbours.prior_rows,
        "seed": seed,
        "temperature": learners.neighbours.temperature,
        "tiers": [tier for tier, known in zip(TIERS, tiers, strict=True) if known],
        "tokens_assumed": assumed,
    }
    return ModelFile("trained", "0" * 64, facts, in_single_precision(arrays))


def check(examples: Examples) -> NDArray[np.bool_]:
    """Return which tiers there is something to learn about; raise where that is too little."""
    tiers = examples.tiers
    if tiers.sum() < 2:
        raise TrainingError("scores of at least two tiers are needed", int(tiers.sum()))
    rows = int((np.isfinite(examples.score).sum(axis=1) > 0).sum())
    if rows < LEAST_EXAMPLES:
        raise TrainingError(f"at least {LEAST_EXAMPLES} scored examples are needed", rows)
    known = examples.score[~np.isnan(examples.score)]
    if (known < 0).any() or (known > 1).any():
        raise TrainingError("scores must lie between 0 and 1", rows)
    return tiers


def inner_folds(examples: Examples, seed: int) -> Iterator[NDArray[np.bool_]]:
    """Deal the examples to folds, by group; yield each as a mask."""
    deal = folds_of(examples.group, INNER_FOLDS, seed + 1)
    for fold in range(INNER_FOLDS):
        if (deal == fold).any() and (deal != fold).any():
            yield deal == fold


def stack(held_out: Floats, score: Floats, weight: Floats) -> Floats:
    """Weigh the learners (3,) by their held-out gains, all tiers together."""
    from router.predict.estimators import SimplexStacking

    wanted = gains_of(score)
    known = np.isfinite(wanted)
    found = np.stack([gains_of(column)[known] for column in held_out], axis=1)
    mass = np.broadcast_to(weight[:, None], wanted.shape)[known]
    if not known.any():  # no example has two tiers: nothing to weigh by
        return np.full(len(held_out), 1 / len(held_out))
    weights: Floats = SimplexStacking().fit(found, wanted[known], mass).weights_
    return weights


def calibrate(mixed: Floats, score: Floats, weight: Floats) -> tuple[Floats, float, Floats]:
    """Fit held-out predictions to labels: a line for the last tier's level (2,), and one slope for
    its gains over all others, so that no gain passes another; with them the spread of labels
    about quality (T,)."""
    level = _line(mixed[:, -1], score[:, -1], weight)
    wanted, found = gains_of(score), gains_of(mixed)
    known = np.isfinite(wanted) & np.isfinite(found)
    mass = np.where(known, weight[:, None], 0.0)
    # Not about each tier's mean: one slope scales the means too, and must not inflate them.
    wanted, found = np.where(known, wanted, 0.0), np.where(known, found, 0.0)
    spread = float((mass * found**2).sum())
    more = _IDENTITY_ROWS / max(1.0, float(mass.sum())) * spread
    slope = (float((mass * found * wanted).sum()) + more) / (spread + more) if spread else 1.0
    slope = max(_LEAST_SLOPE, slope)
    quality = level[0] + level[1] * mixed[:, -1:] - slope * (mixed[:, -1:] - mixed)
    return level, slope, np.sqrt(_means((score - quality) ** 2, weight))


def _line(x: Floats, y: Floats, weight: Floats) -> Floats:
    """Fit intercept and slope, drawn towards the identity as by `_IDENTITY_ROWS` more rows."""
    known = np.isfinite(x) & np.isfinite(y)
    if not known.any():
        return np.array([0.0, 1.0])
    x, y, mass = x[known], y[known], weight[known]
    centre, mean = np.average(x, weights=mass), np.average(y, weights=mass)
    spread = np.average((x - centre) ** 2, weights=mass)
    along = np.average((x - centre) * (y - mean), weights=mass)
    more = _IDENTITY_ROWS / mass.sum()
    slope = max(0.0, (along + more * spread) / ((1 + more) * spread)) if spread > 0 else 1.0
    return np.array([mean - slope * centre, slope])


def _means(values: Floats, weight: Floats) -> Floats:
    known = np.isfinite(values)
    mass = known * weight[:, None]
    found: Floats = np.where(known, values * mass, 0).sum(axis=0) / np.maximum(
        mass.sum(axis=0), 1e-12
    )
    return found


def fit_tokens(
    design: Design, inner: list[NDArray[np.bool_]]
) -> tuple[LogTokens, Floats, list[str]]:
    """Fit output tokens; return the heads, residuals (4, 1 + shares) and the tiers without data.

    A tier without recorded lengths takes the mean of those that have them, or, where none has,
    a wide guess.
    """
    from router.predict.estimators import LogTokens
    from router.predict.estimators.log_tokens import residual_quantiles

    examples, x = design.examples, design.both
    tokens = examples.output_tokens.copy()
    known = np.isfinite(tokens)
    assumed = ~np.any(known, axis=0)
    if assumed.any() and not assumed.all():
        rows = known.any(axis=1)
        shared = np.expm1(np.nanmean(np.log1p(tokens[rows]), axis=1))
        tokens[np.ix_(rows, assumed)] = shared[:, None]
    elif assumed.all():
        tokens[:] = _UNKNOWN_TOKENS
    logs = np.log1p(tokens)
    held_out = np.full(logs.shape, np.nan)
    for held in inner:
        if not np.isfinite(logs[~held]).any():
            continue
        heads = LogTokens(_TOKEN_ALPHA).fit(x[~held], tokens[~held], examples.weight[~held])
        held_out[held] = heads.predict_log(x[held])
    residuals = np.zeros((len(TIERS), 1 + len(TOKEN_SHARES)))
    for tier in range(len(TIERS)):
        left = (logs - held_out)[:, tier]
        left = left[np.isfinite(left)]
        if assumed.all() or not left.size:
            spread = _UNKNOWN_SPREAD * np.array([0.5, 0.0, 1.2816, 1.6449])  # of a normal
            residuals[tier] = spread
        else:
            smearing = np.log(np.mean(np.exp(left)))  # Duan 1983
            residuals[tier] = smearing, *residual_quantiles(left, TOKEN_SHARES)
    fitted = LogTokens(_TOKEN_ALPHA).fit(x, tokens, examples.weight)
    return fitted, residuals, [t for t, a in zip(TIERS, np.atleast_1d(assumed), strict=True) if a]


def linear_arrays(
    design: Design,
    learners: Learners,
    tokens: LogTokens,
    tiers: NDArray[np.bool_],
    dense_share: float = DENSE_SHARE,
) -> dict[str, Floats]:
    """Lay the learners' weights out as the scorer reads them.

    Columns beyond text and dense values, which only training has, are left out.
    """
    every = slice(2 * len(TIERS), None)
    text_size, count = len(design.vocabulary), len(TIERS)
    columns = np.flatnonzero(tiers)
    dense_size = len(design.mean)
    dense_columns = slice(text_size, text_size + dense_size)
    text = np.zeros((text_size, len(HEADS)))
    dense = np.zeros((dense_size, len(HEADS)))
    intercept = np.zeros(len(HEADS))
    text[:, columns] = learners.odds.coef_[:, :text_size].T
    dense[:, columns] = learners.odds.coef_[:, dense_columns].T * dense_share
    intercept[columns] = learners.odds.intercept_
    # The dearest tier that is known stands in the frontier's column.
    gains = count + np.concatenate([[0], 1 + columns[:-1]])
    text[:, gains] = learners.gains.coef_[:, :text_size].T
    dense[:, gains] = learners.gains.coef_[:, dense_columns].T * dense_share
    intercept[gains] = learners.gains.intercept_
    text[:, every] = tokens.coef_[:, :text_size].T
    dense[:, every] = tokens.coef_[:, dense_columns].T * dense_share
    intercept[every] = tokens.intercept_
    near = learners.neighbours
    return {
        "vocabulary": design.vocabulary.buckets,
        "idf": design.vocabulary.idf,
        "text_weights": text,
        "embedding": near.components_,
        "dense_mean": design.mean,
        "dense_scale": design.scale,
        "dense_weights": dense,
        "intercept": intercept,
        "prototypes": near.prototypes_,
        "prototype_counts": spread_out(near.counts_.T, tiers, (0.0,)).T,
        "prototype_means": spread_out(near.means_.T, tiers, (0.0,)).T,
        "prototype_prior": spread_out(near.prior_[:, None], tiers, (0.0,))[:, 0],
    }


def novelty(
    examples: Examples,
    inner: list[NDArray[np.bool_]],
    likeness: Floats,
    weight: Floats | None = None,
) -> Floats:
    """Return the least share of known n-grams and the least likeness that are still usual.

    Both are of examples that took no part in vocabulary and prototypes, `likeness` (N,) to the
    nearest prototype: what was fitted to is always more alike. `weight` (N,) says how much a row
    counts in what is usual; all alike where it is not given.
    """
    known = np.zeros(len(examples))
    for held in inner:
        vocabulary = Vocabulary.fit(examples.features[~held])
        known[held] = vocabulary.bags(examples.features[held]).known
    usual = np.array([_quantile(found, weight) for found in (known, likeness)])
    return usual - _ROUNDING


def _quantile(values: Floats, weight: Floats | None) -> float:
    if weight is None:
        return float(np.quantile(values, _NOVEL_SHARE))
    return float(np.quantile(values, _NOVEL_SHARE, weights=weight, method="inverted_cdf"))


def spread_out(rows: Floats, tiers: NDArray[np.bool_], otherwise: tuple[float, ...]) -> Floats:
    """Give the rows of known tiers their places among all tiers."""
    found = np.empty((len(TIERS), rows.shape[1]))
    found[:] = otherwise if len(otherwise) == rows.shape[1] else otherwise[0]
    found[tiers] = rows
    return found


def in_single_precision(arrays: dict[str, Any]) -> dict[str, NDArray[Any]]:
    """Arrays as they are stored: 4-byte floats, and 4-byte integers for the vocabulary."""
    return {
        name: np.asarray(array, dtype=np.int32 if name == "vocabulary" else np.float32)
        for name, array in arrays.items()
    }
