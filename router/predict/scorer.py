"""Features → Prediction with numpy alone: the same numbers as the estimators that were trained."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from router.errors import ModelFileError
from router.predict.effort import efforts_of
from router.predict.embedder import OURS, load_embedder
from router.predict.features import DENSE_NAMES, FeatureBatch
from router.predict.hashing import BUCKETS
from router.predict.model_file import MOST, ModelFile, check_numbers, load_model
from router.predict.step import STEP_SHAPES, Step
from router.predict.vocabulary import Vocabulary
from router.types import TIERS, Features, Prediction

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from router.predict.embedder import TextEmbedder
    from router.types import Floats

DENSE_LIMIT = 3.0  # standardised dense values are clipped: no extrapolation far from training
QUALITY_RANGE = (0.01, 0.99)
TOKEN_SHARES = (0.5, 0.9, 0.95)
# Arrays of no dimension: numpy takes longer to convert a number than to compute with it.
_ONE, _LEAST_QUALITY, _MOST_QUALITY = map(np.array, (1.0, *QUALITY_RANGE))
_MOST_LOG_TOKENS = np.array(np.log(200_000))  # before what they are smeared by
_DEFAULT_MODEL = Path(__file__).with_name("default_model")
_MOST_EMBEDDED = 8192
_D, _T = len(DENSE_NAMES), len(TIERS)

# The linear heads, in the order of the weights' columns: log odds of a good answer by tier; the
# frontier's quality and the other tiers' regrets against it; the logarithm of 1 + output tokens.
HEADS: tuple[str, ...] = (
    *(f"{tier}_log_odds" for tier in TIERS),
    "frontier_quality",
    *(f"{tier}_regret" for tier in TIERS[:-1]),
    *(f"{tier}_log_tokens" for tier in TIERS),
)
_H = len(HEADS)
# Shapes of a model's arrays: V known n-grams, E dimensions of the embedding, P prototypes.
ARRAY_SHAPES: Mapping[str, tuple[int | str, ...]] = {
    "vocabulary": ("V",),  # hashed n-grams, rising
    "idf": ("V",),
    "text_weights": ("V", _H),
    "embedding": ("V", "E"),
    "dense_mean": (_D,),
    "dense_scale": (_D,),
    "dense_weights": (_D, _H),
    "intercept": (_H,),
    "prototypes": ("P", "E"),
    "prototype_counts": ("P", _T),
    "prototype_means": ("P", _T),
    "prototype_prior": (_T,),
    "mix": (3,),  # how much log odds, gains and neighbours count
    "level": (2,),  # intercept and slope of the dearest tier's quality on the mix
    "gain": (1,),  # slope of what it gains over the others, on the mix
    "ability": (_T, 2),  # offset in log odds and its standard deviation, of a newer model
    "quality_noise": (_T,),  # standard deviation of a label about its prediction
    "token_residuals": (_T, 1 + len(TOKEN_SHARES)),  # ln of Duan's smearing factor; quantiles
    "novelty": (2,),  # share of known n-grams and likeness to a prototype, below which both are odd
}
# What a model may also carry: predictions and labels of queries that it was not trained on, for
# promises about quality. Scores are -1 where nothing was recorded.
CALIBRATION_SHAPES: Mapping[str, tuple[int | str, ...]] = {
    "calibration_quality": ("M", _T),
    "calibration_tokens": ("M", _T),
    "calibration_input_tokens": ("M",),
    "calibration_score": ("M", _T),
}
# From where to where an array's numbers may go, where what they are says so: some are divided by,
# residuals are logarithms, counts grow with the rows.
_ALLOWED: Mapping[str, tuple[float, float]] = {
    "dense_scale": (1e-9, MOST),
    "idf": (0.0, MOST),
    "mix": (0.0, MOST),
    "quality_noise": (0.0, MOST),
    "prototype_counts": (0.0, 1e9),
    "token_residuals": (-10.0, 10.0),
    "calibration_quality": (-1.0, 1.0),
    "calibration_score": (-1.0, 1.0),
    "calibration_tokens": (0.0, 1e9),
    "calibration_input_tokens": (0.0, 1e9),
}
_LEAST = 1e-3  # temperature and prior rows
_MOST_LIKENESS = 1.001  # prototypes have length 1, rounded


@dataclass(frozen=True, slots=True)
class CalibrationRows:
    """What a predictor says of M queries that it was not trained on, and how they went.

    `quality`, `output_tokens` and `score` are (M, 4), a score NaN where none was recorded;
    `input_tokens` is (M,).
    """

    quality: Floats
    output_tokens: Floats
    input_tokens: Floats
    score: Floats


class Predictor:
    """P(good answer) and output tokens for each tier.

    Parameters
    ----------
    model
        A checked model with the arrays of `ARRAY_SHAPES`, made for this version's features.
    embedder
        The text embedder that the model was trained with, which its features need; None where it
        has none, or features come from elsewhere.

    Raises
    ------
    ModelFileError
        If an array is missing or misshapen, or the model was made for other features.
    """

    def __init__(self, model: ModelFile, path: str = "model", embedder: TextEmbedder | None = None):
        _check(model, path)
        self.embedder = embedder
        self.model = model
        self.hash = model.hash
        self.name = f"{model.name}@{model.hash[:12]}"
        self.facts: Mapping[str, Any] = model.facts
        self.tiers: tuple[str, ...] = tuple(model.facts["tiers"])
        self.efforts = efforts_of(model.facts, path)
        # In one order whatever made them: products of matrices round by it on some processors.
        a = {name: np.ascontiguousarray(array) for name, array in model.arrays.items()}
        self.vocabulary = Vocabulary(a["vocabulary"], a["idf"])
        # Everything that is linear is multiplied out once: standardising, turning regrets into
        # levels, weighing by the mix, the smearing of tokens.
        self._mix = a["mix"].astype(np.float64)
        mean, scale = a["dense_mean"].astype(np.float64), a["dense_scale"].astype(np.float64)
        self._least, self._most = mean - DENSE_LIMIT * scale, mean + DENSE_LIMIT * scale
        self._dense = self._levels(a["dense_weights"].astype(np.float64) / scale[:, None])
        self._intercept = self._levels(a["intercept"].astype(np.float64)) - mean @ self._dense
        text = self._levels(a["text_weights"].astype(np.float64))
        self._text = np.hstack([text, a["embedding"]]).astype(np.float32)
        self._sharpness = 1 / float(model.facts["temperature"])
        self._prototypes = np.ascontiguousarray(a["prototypes"].T.astype(np.float32))
        prior_rows = float(model.facts["prior_rows"])
        counts = a["prototype_counts"].astype(np.float64)
        votes = np.hstack([self._mix[2] * counts * a["prototype_means"], counts])
        self._votes = votes.astype(np.float32)
        prior = self._mix[2] * prior_rows * a["prototype_prior"].astype(np.float64)
        self._prior = np.concatenate([prior, np.full(_T, prior_rows)])
        # The dearest tier's quality is a line on the mix; what it gains over the others is another.
        level, slope = a["level"].astype(np.float64)
        gain = float(a["gain"][0])
        self._level, self._slopes = np.array(level), gain * np.eye(_T)
        self._slopes[TIERS.index(self.tiers[-1])] += slope - gain
        self._offset, self._offset_std = a["ability"].astype(np.float64).T
        self._moved = bool(self._offset.any() or self._offset_std.any())
        self._noise = a["quality_noise"].astype(np.float64)
        self._smears = np.exp(a["token_residuals"].astype(np.float64)).T
        self._least_known, least_likeness = map(float, a["novelty"])
        self._step = Step.of(a) if "step" in a else None
        absent = np.array([tier not in self.tiers for tier in TIERS])
        self._absent = absent if absent.any() else None
        self._least_kernel = math.exp((least_likeness - 1) * self._sharpness)

    def _levels(self, weights: Floats) -> Floats:
        """Turn the columns of the gains into levels, and weigh them as the mix does."""
        found = weights.copy()
        top = weights[..., _T : _T + 1]
        found[..., _T : 2 * _T - 1] = top - weights[..., _T + 1 : 2 * _T]
        found[..., 2 * _T - 1 : 2 * _T] = top
        found[..., _T : 2 * _T] *= self._mix[1]
        return found

    @property
    def calibration(self) -> CalibrationRows:
        """The queries that promises about quality are certified on; none in many models."""
        empty = {name: np.zeros((0, _T)[: len(s)]) for name, s in CALIBRATION_SHAPES.items()}
        a = {
            name: np.asarray(self.model.arrays.get(name, array), dtype=np.float64)
            for name, array in empty.items()
        }
        score = a["calibration_score"]
        return CalibrationRows(
            a["calibration_quality"],
            a["calibration_tokens"],
            a["calibration_input_tokens"],
            np.where(score < 0, np.nan, score),
        )

    def __call__(self, features: Features) -> Prediction:
        """Predict for one request: arrays of shape (4,) in the order of `TIERS`."""
        columns, values, known = self.vocabulary.bag(features)
        text = self._sum(columns, values)
        embedded = text[_H:]
        length = math.sqrt(embedded.dot(embedded))
        linear, kernel, votes = self._products(text, features.dense, length)
        quality, deviation = self._quality(linear, votes)
        expected, p50, p90, p95 = self._tokens(linear)
        novel = np.array(known < self._least_known and kernel.max() < self._least_kernel)
        return Prediction(quality, deviation, expected, p50, p90, p95, novel)

    def batch(self, features: FeatureBatch) -> Prediction:
        """Predict for N requests: arrays of shape (N, 4); the same numbers as one by one."""
        starts = range(0, max(1, len(features)), _ROWS_AT_ONCE)
        parts = [self._batch(features.part(start, start + _ROWS_AT_ONCE)) for start in starts]
        names = Prediction.__dataclass_fields__
        return Prediction(*(np.concatenate([getattr(p, name) for p in parts]) for name in names))

    def _batch(self, features: FeatureBatch) -> Prediction:
        bags = self.vocabulary.bags(features)
        text = np.empty((len(features), self._text.shape[1]), dtype=np.float32)
        for row, (start, end) in enumerate(pairwise(bags.starts.tolist())):
            text[row] = self._sum(bags.columns[start:end], bags.values[start:end])
        length = np.sqrt(np.square(text[:, _H:]).sum(axis=1, keepdims=True))
        linear, kernel, votes = self._products(text, features.dense, length)
        quality, deviation = self._quality(linear, votes)
        expected, p50, p90, p95 = self._tokens(linear).swapaxes(0, 1)
        novel = (bags.known < self._least_known) & (kernel.max(axis=1) < self._least_kernel)
        return Prediction(quality, deviation, expected, p50, p90, p95, novel)

    def _sum(self, columns: NDArray[np.int32], values: NDArray[np.float32]) -> NDArray[np.float32]:
        """What the terms of one request add up to: heads, then embedding."""
        summed: NDArray[np.float32] = values.dot(self._text.take(columns, axis=0))
        return summed

    def _products(
        self, text: NDArray[np.float32], dense: NDArray[np.float32], length: Any
    ) -> tuple[Floats, NDArray[np.float32], Floats]:
        """Return the heads (…, H), the kernel of each prototype (…, P), and the votes (…, 2T): sums
        of labels by tier, weighed as the mix does, then how many rows they are of. `length` is the
        embedding's."""
        dense = dense[..., : self._least.size]  # without a vector that this model does not read
        linear = np.minimum(np.maximum(dense, self._least), self._most).dot(self._dense)
        linear += self._intercept
        linear += text[..., :_H]
        kernel = text[..., _H:].dot(self._prototypes)
        kernel *= self._sharpness / (length + 1e-12)
        kernel -= self._sharpness
        np.exp(kernel, out=kernel)
        return linear, kernel, kernel.dot(self._votes) + self._prior

    def _tokens(self, linear: Floats) -> Floats:
        """Return the expected tokens and their quantiles by tier, (…, 4, T)."""
        counts = np.exp(np.minimum(linear[..., 2 * _T :], _MOST_LOG_TOKENS))
        tokens: Floats = counts[..., None, :] * self._smears
        tokens -= _ONE
        np.maximum(tokens, _ONE, out=tokens)
        return tokens

    def _quality(self, linear: Floats, votes: Floats) -> tuple[Floats, Floats]:
        """Return the quality and its deviation by tier, both (…, T)."""
        near = votes[..., _T:]
        mixed = votes[..., :_T] / near
        mixed += linear[..., _T : 2 * _T]
        if self._mix[0]:
            mixed += self._mix[0] * _logistic(linear[..., :_T])
        quality: Floats = mixed.dot(self._slopes)
        quality += self._level
        if self._step is not None:
            quality = self._step(quality)
        if self._absent is not None:
            quality[..., self._absent] = -np.inf
        # Gains are what decides: a level beyond the range moves all tiers, so that none is lost.
        best = np.maximum.reduce(quality, axis=-1, keepdims=True)
        quality -= np.maximum(best, _MOST_QUALITY)
        quality += _MOST_QUALITY
        np.maximum(quality, _LEAST_QUALITY, out=quality)
        # As of a mean of so many labels as there were like requests in training.
        deviation: Floats = self._noise / np.sqrt(near)
        if self._moved:
            quality, deviation = self._move(quality, deviation)
        if self._absent is not None:
            quality[..., self._absent] = deviation[..., self._absent] = np.nan
        return quality, deviation

    def _move(self, quality: Floats, deviation: Floats) -> tuple[Floats, Floats]:
        """Shift P(good) by the ability of the model that now stands for a tier."""
        moved = _logistic(np.log(quality / (1 - quality)) + self._offset)
        moved = np.clip(moved, *QUALITY_RANGE)
        return moved, np.hypot(deviation, moved * (1 - moved) * self._offset_std)


def _logistic(odds: Floats) -> Floats:
    probability: Floats = 1 / (1 + np.exp(-odds))
    return probability


_ROWS_AT_ONCE = 256


def load_predictor(path: str | Path | None = None, embedder: str | None = None) -> Predictor:
    """Load the model folder at `path`, or the one that is shipped.

    Parameters
    ----------
    embedder
        The name of a text embedder of one's own that the model was trained with; a model file alone
        names none but those of this library, since loading one runs its code.

    Raises
    ------
    ModelFileError
        If any of its files is missing, corrupt, hostile, too large, or for other features.
    ConfigurationError
        If the text embedder that it was trained with cannot be had.
    """
    folder = _DEFAULT_MODEL if path is None else Path(path)
    model = load_model(folder)
    size = _embedded(model, str(folder))
    if not size:
        if embedder is not None:
            raise ModelFileError(
                str(folder), f"it was trained without an embedder; leave {embedder!r} out"
            )
        return Predictor(model, str(folder))
    name = model.facts["embedder"]["name"]
    if embedder is None and name not in OURS:
        raise ModelFileError(
            str(folder), f"it was trained with embedder {name!r}; name where that is to be found"
        )
    found = load_embedder(embedder or name)
    if (found.name, found.size) != (name, size):
        raise ModelFileError(
            str(folder),
            f"it was trained with embedder {name!r} of size {size}, not with {found.name!r} of "
            f"size {found.size}",
        )
    return Predictor(model, str(folder), found)


def _embedded(model: ModelFile, path: str) -> int:
    """The length of the vector of a model's text embedder, 0 without one."""
    said = model.facts.get("embedder")
    if said is None:
        return 0
    if not isinstance(said, dict) or not isinstance(said.get("name"), str):
        raise ModelFileError(path, f"embedder must have a name and a size, not {said!r}")
    size = said.get("size")
    if type(size) is not int or not 0 < size <= _MOST_EMBEDDED:
        raise ModelFileError(path, f"the embedder's size must be from 1 to {_MOST_EMBEDDED}")
    return size


def _check(model: ModelFile, path: str) -> None:
    if model.facts.get("dense_names") != list(DENSE_NAMES):
        raise ModelFileError(
            path, "made for other features: its dense_names are not this version's"
        )
    wide = _D + _embedded(model, path)
    optional = (CALIBRATION_SHAPES, STEP_SHAPES)
    carried = {
        k: v for some in optional if some.keys() & model.arrays.keys() for k, v in some.items()
    }
    shapes = {
        name: (wide, *shape[1:]) if shape[:1] == (_D,) else shape
        for name, shape in {**ARRAY_SHAPES, **carried}.items()
    }
    missing = sorted(shapes.keys() - model.arrays.keys())
    unknown = sorted(model.arrays.keys() - shapes.keys())
    if missing or unknown:
        raise ModelFileError(path, f"arrays missing: {missing}, not known: {unknown}")
    sizes: dict[int | str, int] = {}
    for name, shape in shapes.items():
        found = model.arrays[name].shape
        wanted = tuple(
            length if isinstance(length, int) else sizes.setdefault(length, actual)
            for length, actual in zip(shape, found, strict=False)
        )
        if found != wanted or len(found) != len(shape):
            raise ModelFileError(path, f"{name} has shape {found}, not {shape}")
    arrays = model.arrays
    if not len(arrays["prototypes"]):
        raise ModelFileError(path, "prototypes must be at least one")
    if arrays["vocabulary"].dtype != np.int32:
        raise ModelFileError(path, "vocabulary must hold 4-byte integers")
    buckets = arrays["vocabulary"]
    if buckets.size and (buckets[0] < 0 or buckets[-1] >= BUCKETS or (np.diff(buckets) <= 0).any()):
        raise ModelFileError(path, f"vocabulary must be rising, from 0 to below {BUCKETS}")
    check_numbers(model, path, _ALLOWED)
    for name, most in (
        ("the length of prototypes", np.linalg.norm(arrays["prototypes"], axis=1).max(initial=0.0)),
        ("the likeness of novelty", arrays["novelty"][1]),
    ):
        if not most <= _MOST_LIKENESS:
            raise ModelFileError(path, f"{name} is {most:g}; allowed: 1 or less")
    if (least := arrays["ability"][:, 1].min()) < 0:
        raise ModelFileError(path, f"ability holds the deviation {least:g}; allowed: 0 or more")
    if "step" in arrays:
        _, width, kept = arrays["step"]
        if not (width >= 1e-9 and 0 <= kept <= 1):
            raise ModelFileError(
                path,
                f"step must have a positive width and a share from 0 to 1, not {width:g}, {kept:g}",
            )
        if model.facts.get("tiers") != list(TIERS):
            raise ModelFileError(path, "step needs all tiers")
    for name in ("temperature", "prior_rows"):
        value = model.facts.get(name)
        number = value if isinstance(value, int | float) and type(value) is not bool else 0
        if not _LEAST <= number < 1e6:
            raise ModelFileError(
                path,
                f"{name} must be a positive number, from {_LEAST:g} to 1e6, not {value!r:.40}",
            )
    tiers = model.facts.get("tiers")
    if not isinstance(tiers, list) or not tiers or tiers != [t for t in TIERS if t in tiers]:
        raise ModelFileError(path, f"tiers must be a list of {', '.join(TIERS)}, in this order")
