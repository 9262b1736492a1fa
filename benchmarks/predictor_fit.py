"""Fit the arrays that router.predict.scorer reads, with scikit-learn's ridge."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from predictor_data import BELIEFS, Rows, dense_matrix, fold_of, hashed_matrix, join
from scipy import sparse
from sklearn.linear_model import Ridge

from router.predict.features import DENSE_NAMES
from router.predict.model_file import ModelFile
from router.predict.scorer import DENSE_LIMIT, HEADS, Predictor
from router.types import TIERS

Floats = NDArray[np.float64]
_INNER_FOLDS = 3
# Least standard deviations. A value that hardly varies in training must not explode in use, and one
# that is rare there (a word of proof, a greeting) must not be trusted as if it were common.
_LEAST_SCALE = 0.5
_LEAST_SCALE_OF_SHARE = 0.02
_LEAST_SCALE_OF_CHAT = 0.2
_MOST_WEIGHT = 3.0
# Reasoning effort → factor on output tokens. "medium" is measured: the mean of gemini-2.5-pro's
# billed output tokens at its default thinking over mistral-large-2512's on the same 1,785
# questions of paretobandit_val, both recovered from dollars per call at list prices. The others
# are interpolated: the reasoning share doubles from level to level, as the thinking budgets do
# that litellm maps the levels to (1,024, 2,048, 4,096). misguided_attention's thinking variants
# record visible text alone, so they cannot measure this.
_MEDIUM_FACTOR = 4.79
_REASONING = {"none": 0.0, "minimal": 0.125, "low": 0.5, "medium": 1.0, "high": 2.0, "xhigh": 4.0}
EFFORT_TOKENS = {
    effort: {
        "factor": round(1 + (_MEDIUM_FACTOR - 1) * share, 3),
        "source": {"none": "by definition", "medium": "measured"}.get(effort, "interpolated"),
    }
    for effort, share in _REASONING.items()
}


@dataclass(frozen=True)
class Penalties:
    """Ridge penalties on standardised dense values, hashed n-grams and offsets of sources.

    `belief` is the weight of a belief: of how many recorded questions it is worth.
    """

    dense: float
    hashed: float
    source: float = 30.0
    belief: float = 0.0


GRID = tuple(Penalties(d, h) for d, h in product((30.0, 300.0), (10.0, 30.0, 100.0, 1000.0)))
GENERAL_GRID = tuple(Penalties(1000.0, h, belief=b) for h, b in ((30.0, 30.0), (100.0, 100.0)))


@dataclass(frozen=True)
class Design:
    """Everything of a fit that does not depend on the penalties."""

    rows: Rows
    mean: Floats
    scale: Floats
    dense: Floats  # standardised and clipped
    hashed: sparse.csr_matrix
    sources: Floats  # (N, S) indicators of the recorded sources; no columns for a single source
    belief: NDArray[np.bool_]  # is the row judged, not recorded
    weight: Floats  # of a belief: 1, to be multiplied by the weight of beliefs
    targets: Floats  # (N, 8) in the order of HEADS, NaN where unknown

    def take(self, chosen: NDArray[Any]) -> Design:
        parts = (self.dense, self.hashed, self.sources, self.belief, self.weight, self.targets)
        return Design(
            self.rows.take(chosen), self.mean, self.scale, *(part[chosen] for part in parts)
        )

    def weights(self, penalties: Penalties) -> Floats:
        return np.where(self.belief, penalties.belief * self.weight, self.weight)


@dataclass(frozen=True)
class Solution:
    dense: Floats  # (D, 8)
    hashed: Floats  # (B, 8)
    sources: Floats  # (S, 8)
    intercept: Floats  # (8,)


def targets_of(rows: Rows) -> Floats:
    frontier = rows.score[:, -1:]
    return np.column_stack([frontier, frontier - rows.score[:, :-1], np.log1p(rows.tokens)])


def least_scales() -> Floats:
    least = {"share_chat": _LEAST_SCALE_OF_CHAT}
    return np.array(
        [
            least.get(name, _LEAST_SCALE_OF_SHARE if name.startswith("share_") else _LEAST_SCALE)
            for name in DENSE_NAMES
        ]
    )


def shared_tokens(rows: Rows) -> Floats:
    """Replace each tier's log tokens by the question's mean over tiers, where any is known.

    How long a model answers is a trait of that model, not of its tier: between the sources the
    tiers' offsets differ even in sign. So a general model predicts one length for all tiers.
    """
    log_tokens = np.log1p(rows.tokens)
    known = np.isfinite(log_tokens)
    centre = np.where(known, log_tokens, 0).sum(axis=1) / np.where(
        known.any(axis=1), known.sum(axis=1), np.nan
    )
    return np.tile(centre[:, None], (1, len(TIERS)))


def design_of(rows: Rows, *, general: bool = False) -> Design:
    belief = rows.source == BELIEFS
    names, position, counts = np.unique(
        rows.source[~belief], return_inverse=True, return_counts=True
    )
    # Large sources count by the square root of their size: none drowns the others.
    weight = np.ones(len(rows))
    by_source = np.minimum(_MOST_WEIGHT, np.sqrt(position.size / len(names) / counts))
    weight[~belief] = by_source[position]
    # What is usual is read off questions and beliefs alike, half and half.
    usual = np.where(belief, weight[~belief].sum() / max(1, belief.sum()), weight)
    raw = dense_matrix(rows.features)
    mean = np.average(raw, axis=0, weights=usual)
    deviation = np.sqrt(np.average((raw - mean) ** 2, axis=0, weights=usual))
    scale = np.maximum(deviation, least_scales())
    sources = np.zeros((len(rows), len(names)))
    sources[~belief] = np.eye(len(names))[position]
    targets = targets_of(rows)
    if general:
        targets[:, len(TIERS) :] = shared_tokens(rows)
    return Design(
        rows,
        mean,
        scale,
        np.clip((raw - mean) / scale, -DENSE_LIMIT, DENSE_LIMIT),
        hashed_matrix(rows.features),
        sources if len(names) > 1 else sources[:, :0],
        belief,
        weight,
        targets,
    )


def solve(design: Design, penalties: Penalties, heads: int = len(HEADS)) -> Solution:
    """Fit the first heads.

    Beliefs stand among the rows, which is ridge's posterior on the questions with the beliefs'
    own posterior as its prior. Offsets of the recorded sources are fitted beside them and then
    dropped: what differs between sources is mostly how they were graded, and a request comes from
    none of them. So the level is the beliefs'; of tokens, which nobody judged, the mean source's.
    """
    blocks = (design.dense, design.hashed, design.sources)
    scales = [np.sqrt(p) for p in (penalties.dense, penalties.hashed, penalties.source)]
    matrix = sparse.hstack(
        [
            sparse.csr_matrix(block / scale, dtype=np.float32)
            for block, scale in zip(blocks, scales, strict=True)
        ],
        format="csr",
    )
    d, b = design.dense.shape[1], design.hashed.shape[1]
    weights = np.zeros((matrix.shape[1], len(HEADS)))
    intercept = np.zeros(len(HEADS))
    row_weights = design.weights(penalties)
    for head in range(heads):
        known = np.isfinite(design.targets[:, head])
        if not known.any():  # no source has this tier
            continue
        ridge = Ridge(alpha=1.0, solver="sparse_cg", tol=1e-4)
        ridge.fit(matrix[known], design.targets[known, head], sample_weight=row_weights[known])
        weights[:, head], intercept[head] = ridge.coef_, ridge.intercept_
        if not design.belief[known].any() and design.sources.shape[1]:
            share = np.average(design.sources[known], axis=0, weights=design.weight[known])
            intercept[head] += share @ weights[d + b :, head] / scales[2]
            weights[d + b :, head] -= share @ weights[d + b :, head]
    return Solution(
        weights[:d] / scales[0],
        weights[d : d + b] / scales[1],
        weights[d + b :] / scales[2],
        intercept,
    )


def score(design: Design, solution: Solution) -> Floats:
    return solution.intercept + design.dense @ solution.dense + design.hashed @ solution.hashed


def inner_folds(design: Design, seed: int) -> Iterator[NDArray[np.bool_]]:
    deal = np.array([fold_of(key, seed + 1, _INNER_FOLDS) for key in design.rows.key])
    for fold in range(_INNER_FOLDS):
        yield deal == fold


def choose_penalties(design: Design, seed: int, grid: Sequence[Penalties] = GRID) -> Penalties:
    """Choose by error of the quality heads on the first inner fold of the training rows.

    The error is the share of variance that is left, once the source's offset is known; questions
    and beliefs, where there are any, count alike.
    """
    held = next(inner_folds(design, seed))
    train, test = design.take(~held), design.take(held)

    def error(penalties: Penalties) -> float:
        solution = solve(train, penalties, len(TIERS))
        miss = score(test, solution) + test.sources @ solution.sources - test.targets
        return sum(
            _unexplained(miss[part, : len(TIERS)], test.targets[part], test.weight[part])
            for part in (test.belief, ~test.belief)
            if part.any()
        )

    return min(grid, key=error)


def _unexplained(miss: Floats, targets: Floats, weight: Floats) -> float:
    spread = targets[:, : miss.shape[1]] - np.nanmean(targets[:, : miss.shape[1]], axis=0)
    return float(np.nansum(miss**2 * weight[:, None]) / np.nansum(spread**2 * weight[:, None]))


def fit(
    rows: Rows,
    seed: int,
    penalties: Penalties | None = None,
    *,
    beliefs: Rows | None = None,
) -> ModelFile:
    """Fit all heads on `rows`; penalties, calibration and residuals come from inner folds.

    With `beliefs` the model is for requests of no known source: it starts from them, and its
    tiers share one token head.
    """
    general = beliefs is not None
    if beliefs is not None:
        rows = join(rows, beliefs)
    design = design_of(rows, general=general)
    penalties = penalties or choose_penalties(design, seed, GENERAL_GRID if general else GRID)
    held_out = np.full(design.targets.shape, np.nan)
    for held in inner_folds(design, seed):
        held_out[held] = score(design.take(held), solve(design.take(~held), penalties))
    solution = solve(design, penalties)
    weight = design.weights(penalties)
    gram = (design.dense * weight[:, None]).T @ design.dense
    mass = np.asarray(design.hashed.multiply(design.hashed).T @ weight).ravel()
    calibration, noise = _calibrate(design, held_out)
    arrays = {
        "dense_mean": design.mean,
        "dense_scale": design.scale,
        "dense_weights": solution.dense,
        "hashed_weights": solution.hashed,
        "intercept": solution.intercept,
        "calibration": calibration,
        "quality_noise": noise,
        "dense_variance": np.linalg.inv(gram + penalties.dense * np.eye(len(gram))),
        "hashed_variance": 1 / (penalties.hashed + mass),
        "token_residuals": _token_residuals(rows, held_out, general=general),
    }
    facts = {
        "dense_names": list(DENSE_NAMES),
        "effort_tokens": EFFORT_TOKENS,
        "penalties": asdict(penalties),
        "rows": int((~design.belief).sum()),
        "beliefs": int(design.belief.sum()),
        "seed": seed,
        "trained_on": sorted(set(rows.source.tolist())),
    }
    single = {name: array.astype(np.float32) for name, array in arrays.items()}
    return ModelFile("default", "0" * 64, facts, single)


def predictor_of(model: ModelFile) -> Predictor:
    return Predictor(model)


def _calibrate(design: Design, held_out: Floats) -> tuple[Floats, Floats]:
    """Fit a line from held-out raw quality to the label, for each tier; and the spread about it.

    Where there are beliefs the line is theirs, since the level is, and the spread is that of
    recorded questions about their source's mean.
    """
    raw = np.column_stack([held_out[:, :1] - held_out[:, 1 : len(TIERS)], held_out[:, 0]])
    lines, noise = np.zeros((len(TIERS), 2)), np.zeros(len(TIERS))
    for tier in range(len(TIERS)):
        known = np.isfinite(design.rows.score[:, tier])
        recorded = known & ~design.belief
        judged = known & design.belief if design.belief.any() else recorded
        if not judged.any():
            lines[tier], noise[tier] = (0.0, 1.0), 0.5
            continue
        x, y = raw[:, tier], design.rows.score[:, tier]
        slope, start = np.polyfit(x[judged], y[judged], 1, w=np.sqrt(design.weight[judged]))
        lines[tier] = start, slope
        if not recorded.any():
            noise[tier] = 0.5
            continue
        miss, weight = (y - start - slope * x)[recorded], design.weight[recorded]
        if design.sources.shape[1]:
            names = design.sources[recorded]
            mass = np.maximum(names.T @ weight, 1e-9)
            miss = miss - names @ ((names.T @ (weight * miss)) / mass)
        noise[tier] = np.sqrt(np.average(miss**2, weights=weight))
    return lines, noise


def _token_residuals(rows: Rows, held_out: Floats, *, general: bool) -> Floats:
    """Return per tier: the log of the smearing factor (Duan 1983), and the 95th percentile.

    Of a general model, which predicts one length, the residuals of all tiers stand together.
    """
    residual = np.log1p(rows.tokens) - held_out[:, len(TIERS) :]
    if general:
        residual = np.tile(residual.reshape(-1, 1), (1, len(TIERS)))
    found = np.zeros((len(TIERS), 2))
    for tier in range(len(TIERS)):
        known = residual[np.isfinite(residual[:, tier]), tier]
        if known.size:
            found[tier] = np.log(np.exp(known).mean()), np.percentile(known, 95)
    return found
