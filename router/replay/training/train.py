"""Examples → a new model, and whether it beats the shipped one on requests it has not seen."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from router.errors import ConfigurationError, TrainingError
from router.predict.embedder import TextEmbedder
from router.predict.examples import Examples, folds_of
from router.predict.model_file import ModelFile
from router.predict.scorer import Predictor
from router.predict.training import LEAST_EXAMPLES, check, fit
from router.replay.evaluation.curves import resamples
from router.replay.evaluation.gain_area import Comparison, compare, gain_area, interval
from router.replay.recorded.rows import TRAIN_EXTRA
from router.replay.training.held_out import HeldOut, figures
from router.types import TIERS, Prediction

FEW_QUESTIONS = 400  # of fewer none is spared for calibration: each is needed to learn from
LEAST_HELD_OUT = 80  # of fewer held-out questions, figures come from cross-validation
LEAST_QUESTIONS = 10  # of three, chance would be "better for certain" one time in nine
DEFAULT_FOLDS = 3
DEFAULT_SHARE = 0.2
DRAWS = 1000
CURVE_SHARES = (1 / 16, 1 / 8, 1 / 4, 1 / 2)  # and all
AT_ONCE = 2
_PARTS = 1_000_000  # groups are dealt to so many parts, of which a share is taken
_SPLIT, _CURVE, _FOLDS = 101, 202, 303  # kept apart from the seeds of the inner folds

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """The area that a model of `rows` training rows reaches on the same held-out rows."""

    rows: int
    area: float
    interval: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Trained:
    """A new model beside the shipped one, judged on requests that it was not fitted to.

    `held_out` and `shipped` are the figures of both on the same `judged` rows (see
    `router.replay.training.held_out.figures`); `how` says how the rows were held out.
    `comparison` decides: `promoted` only if its whole interval is above 0. `calibration_queries` of
    the model's own held-out rows travel in its file, one of each question. `curve` rises by
    training rows.
    """

    model: ModelFile
    tiers: tuple[str, ...]
    rows: int
    fitted: int
    judged: int
    how: str
    calibration_queries: int
    held_out: dict[str, Any]
    shipped: dict[str, Any]
    shipped_name: str
    comparison: Comparison
    curve: tuple[CurvePoint, ...]

    @property
    def promoted(self) -> bool:
        """Whether the new model beats the shipped one for certain."""
        return self.comparison.better

    @property
    def sentence(self) -> str:
        """The verdict in plain words."""
        found, requests = self.comparison, f"your {self.judged:,} held-out requests"
        if not np.isfinite(found.interval).all():
            return f"On {requests} no tier gains more than another: the models cannot be compared."
        low, high = found.interval
        numbers = (
            f"area {found.new:.2f} against {found.shipped:.2f} (difference "
            f"{found.difference:.2f}, 95% interval {low:.2f} to {high:.2f})"
        )
        if found.better:
            verdict = "orders who gains from a dearer tier better than the shipped one"
        elif high < 0:
            verdict = "orders who gains from a dearer tier worse than the shipped one"
        else:
            verdict = (
                "is not shown to order who gains from a dearer tier better than the shipped one"
            )
        return f"On {requests} the new model {verdict}: {numbers}."

    def as_dict(self) -> dict[str, Any]:
        """All figures, ready for JSON."""
        found = self.comparison
        figures = {
            "tiers": list(self.tiers),
            "rows": self.rows,
            "fitted": self.fitted,
            "judged": self.judged,
            "how": self.how,
            "calibration_queries": self.calibration_queries,
            "promoted": self.promoted,
            "sentence": self.sentence,
            "comparison": {
                "metric": "gain area: 1 an oracle's order, 0.5 a random one",
                "new": found.new,
                "shipped": found.shipped,
                "difference": found.difference,
                "interval": list(found.interval),
            },
            "held_out": self.held_out,
            "shipped": {"model": self.shipped_name, **self.shipped},
            "learning_curve": [
                {"rows": point.rows, "area": point.area, "interval": list(point.interval)}
                for point in self.curve
            ],
        }
        plain: dict[str, Any] = without_nan(figures)
        return plain


def train(
    examples: Examples,
    *,
    shipped: Predictor,
    folds: int | None = None,
    seed: int = 0,
    calibration_share: float = DEFAULT_SHARE,
    draws: int = DRAWS,
    curve: bool = True,
    embedder: TextEmbedder | None = None,
    progress: Progress = lambda stage, done, total: None,
) -> Trained:
    """Fit a model to recorded outcomes and compare it with the shipped one.

    A share of the groups takes no part in the fit: they are what the model is judged on, and one
    row of each travels in its file as a calibration query, so that a promise about quality can be
    certified.

    Parameters
    ----------
    examples
        Rows without any score are left out. Scores in [0, 1].
    folds
        Judge by cross-validation with so many folds instead; also done, with `DEFAULT_FOLDS`,
        where little is held out or fewer than `FEW_QUESTIONS` are there, of which none is spared.
    calibration_share
        Between 0 and 0.5, the share of groups held out.
    draws
        Bootstrap resamples of groups, for the intervals.
    curve
        Whether to fit to parts of the rows as well, for the learning curve.
    embedder
        The one whose vectors stand in the examples' features.
    progress
        Called with a stage, how much of it is done, and of how much.

    Raises
    ------
    TrainingError
        If there is too little to learn from.
    ConfigurationError
        If scikit-learn is missing, or a number is out of range.
    """
    need_learner()
    if not 0 <= calibration_share <= 0.5:
        raise ConfigurationError(f"calibration share {calibration_share} is not within 0 to 0.5")
    if folds is not None and folds < 2:
        raise ConfigurationError(f"folds {folds}: at least 2 are needed")
    examples = examples.take(np.flatnonzero(np.isfinite(examples.score).any(axis=1)))
    tiers = check(examples)
    columns = np.flatnonzero(tiers).tolist()
    spared = 0.0 if need_questions(examples.group) < FEW_QUESTIONS else calibration_share
    held = folds_of(examples.group, _PARTS, seed + _SPLIT) < spared * _PARTS
    if len(examples) - int(held.sum()) < LEAST_EXAMPLES:
        held[:] = False
    crossed = folds is not None or len(np.unique(examples.group[held])) < LEAST_HELD_OUT
    count = (folds or DEFAULT_FOLDS) if crossed else 0
    deal = folds_of(examples.group, count, seed + _FOLDS) if crossed else np.zeros(len(held), int)
    present = np.unique(deal).tolist() if crossed else []
    if len(present) == 1:
        raise TrainingError("at least two different questions are needed", 1)
    # On the learning curve, the rows that are learnt from and those that judge.
    test = deal == present[0] if crossed else held
    parts = _parts(examples.take(~test), seed) if curve else []
    jobs = [
        ("fitting", examples.take(~held)),
        *(
            (f"fold {at + 1} of {len(present)}", examples.take(deal != f))
            for at, f in enumerate(present)
        ),
        *((f"learning curve, {len(part):,} rows", part) for part in reversed(parts)),
    ]
    model, *others = _fit_all(jobs, seed, embedder, progress)
    progress("judging", len(jobs), len(jobs))
    final = Predictor(model)
    crossing, small = others[: len(present)], [Predictor(m) for m in others[len(present) :]]
    if crossed:
        judged = examples
        prediction = _crossed(examples, deal, dict(zip(present, crossing, strict=True)))
        how = f"{count}-fold cross-validation"
    else:
        judged = examples.take(held)
        prediction = final.batch(judged.features)
        how = f"{held.mean():.0%} of the rows held out, by question"
    queries = one_of_each(examples.group, held, seed)
    drawn = resamples(judged.group, draws, seed)
    mine = HeldOut(judged, prediction, drawn)
    theirs = HeldOut(judged, shipped.batch(judged.features), drawn)
    points: list[CurvePoint] = []
    if curve:
        sizes = [*(len(part) for part in parts), int((~test).sum())]
        models = [*reversed(small), Predictor(crossing[0]) if crossed else final]
        points = _curve(examples.take(test), sizes, models, columns, draws, seed)
    found = Trained(
        model=model,
        tiers=tuple(TIERS[column] for column in columns),
        rows=len(examples),
        fitted=int((~held).sum()),
        judged=len(judged),
        how=how,
        calibration_queries=len(queries),
        held_out=figures(mine, columns),
        shipped=figures(theirs, columns),
        shipped_name=shipped.name,
        comparison=compare(
            mine.prediction.quality, theirs.prediction.quality, judged.score, columns, drawn
        ),
        curve=tuple(points),
    )
    return replace(found, model=_finished(found, final, examples.take(queries)))


def one_of_each(group: NDArray[np.str_], chosen: NDArray[np.bool_], seed: int) -> NDArray[np.int64]:
    """Draw one row of each group among the `chosen` (N,); return their positions, rising. Rows of a
    group are not independent, as a certificate needs its queries to be."""
    rows = np.random.default_rng(seed).permutation(np.flatnonzero(chosen))
    _, first = np.unique(group[rows], return_index=True)
    drawn: NDArray[np.int64] = np.sort(rows[first])
    return drawn


def need_questions(group: NDArray[np.str_]) -> int:
    """How many different questions or conversations there are. Raises `TrainingError` for so few
    that nothing could be told for certain: rows of one are no independent evidence."""
    found = len(np.unique(group))
    if found < LEAST_QUESTIONS:
        raise TrainingError(
            f"at least {LEAST_QUESTIONS} different questions or conversations are needed", found
        )
    return found


def need_learner() -> None:
    """Raise `ConfigurationError` with what to install where scikit-learn is missing."""
    try:
        import sklearn  # noqa: F401
    except ImportError:
        raise ConfigurationError(f"training needs scikit-learn: {TRAIN_EXTRA}") from None


def _fit_all(
    jobs: Sequence[tuple[str, Examples]],
    seed: int,
    embedder: TextEmbedder | None,
    progress: Progress,
) -> list[ModelFile]:
    """Fit to each job's examples, two at a time: most of a fit is in compiled code that lets other
    threads run. Results do not depend on the order in which fits end."""
    done = 0

    def one(job: tuple[str, Examples]) -> ModelFile:
        nonlocal done
        name, examples = job
        say = lambda step: progress(f"{name}: {step}", done, len(jobs))  # noqa: E731
        model = fit(examples, seed, say, embedder)
        done += 1
        return model

    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    # The limit is the process's: one that each fit set for itself would end with the first of them.
    with warnings.catch_warnings(), threadpool_limits(1), ThreadPoolExecutor(AT_ONCE) as pool:
        # Of questions that differ in unknown words only there are fewer prototypes than asked for.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return list(pool.map(one, jobs))


def _crossed(
    examples: Examples, deal: NDArray[np.int64], models: Mapping[int, ModelFile]
) -> Prediction:
    """Predict each row by the model that was fitted without its fold."""
    rows = [np.flatnonzero(deal == fold) for fold in models]
    parts = [
        Predictor(model).batch(examples.features[at])
        for at, model in zip(rows, models.values(), strict=True)
    ]
    back = np.argsort(np.concatenate(rows))
    names = [field.name for field in fields(Prediction)]
    whole = {name: np.concatenate([getattr(p, name) for p in parts])[back] for name in names}
    return Prediction(**whole)


def _parts(rest: Examples, seed: int) -> list[Examples]:
    """Growing parts of the rows, each part of the next; those that can be learnt from."""
    deal = folds_of(rest.group, _PARTS, seed + _CURVE)
    parts = [rest.take(deal < share * _PARTS) for share in CURVE_SHARES]
    usable = [p for p in parts if len(p) >= LEAST_EXAMPLES and (p.tiers == rest.tiers).all()]
    return usable


def _curve(
    judged: Examples,
    sizes: Sequence[int],
    models: Sequence[Predictor],
    columns: Sequence[int],
    draws: int,
    seed: int,
) -> list[CurvePoint]:
    """Judge models of growing parts of the rows on the same other rows."""
    once, drawn = np.ones((1, len(judged))), resamples(judged.group, draws, seed)
    points = []
    for rows, model in zip(sizes, models, strict=True):
        quality = model.batch(judged.features).quality
        area, spread = (gain_area(quality, judged.score, columns, w) for w in (once, drawn))
        points.append(CurvePoint(rows, float(area[0]), interval(spread)))
    return points


def _finished(found: Trained, final: Predictor, held: Examples) -> ModelFile:
    """The model with its figures, and with the rows that it was not fitted to."""
    arrays = dict(found.model.arrays)
    if len(held):
        arrays |= calibration_arrays(final, held)
    facts = {
        **found.model.facts,
        "calibration_queries": len(held),
        "compared_with": found.shipped_name,
        "gain_area": _rounded([found.comparison.new, found.comparison.shipped]),
        "gain_area_difference_interval": _rounded(list(found.comparison.interval)),
        "judged": found.judged,
        "how_judged": found.how,
    }
    return ModelFile(found.model.name, found.model.hash, facts, arrays)


def calibration_arrays(predictor: Predictor, held: Examples) -> dict[str, NDArray[np.float32]]:
    """Predictions and labels of rows that a model was not fitted to, as its file carries them:
    -1 for a tier that it does not know, and for a score that nobody recorded."""
    predicted = predictor.batch(held.features)

    def plain(values: NDArray[Any]) -> NDArray[np.float32]:
        return np.where(np.isfinite(values), values, -1).astype(np.float32)

    return {
        "calibration_quality": plain(predicted.quality),
        "calibration_tokens": plain(predicted.output_tokens),
        "calibration_input_tokens": plain(held.input_tokens),
        "calibration_score": plain(held.score),
    }


def _rounded(values: list[float]) -> list[float | None]:
    return [round(value, 4) if np.isfinite(value) else None for value in values]


def without_nan(value: Any) -> Any:
    """The same data with None for each number that is not finite."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
