"""A log's labelled requests → training rows, and a correction of the shipped model by them.

Each request has a label of one answer, so what a dearer tier would have gained is not observed:
what can be learnt is by how much each tier's predicted quality is off.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from router.errors import TrainingError
from router.log.base import Log, LoggedRequest
from router.log.judged import baselines_of
from router.policy.arms import arm_named
from router.predict.examples import Examples, folds_of, text_key
from router.predict.features import DENSE_NAMES, FeatureBatch, extract, join
from router.predict.model_file import ModelFile
from router.predict.scorer import Predictor
from router.predict.text import text_of
from router.predict.training import LEAST_EXAMPLES
from router.replay.evaluation.curves import resamples
from router.replay.evaluation.gain_area import interval
from router.replay.training.ability import log_loss, moved, offset_of, with_ability
from router.replay.training.effort_gain import gain_of, with_gains, without_effort
from router.replay.training.train import DRAWS, need_learner, need_questions
from router.types import TIERS, AttemptRow, Request, Tier

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from router.types import Floats

LEAST_LABELLED = 20
FOLDS = 5
_FOLDS = 404


@dataclass(frozen=True, slots=True)
class LoggedRows:
    """N labelled requests: examples with the score of the one tier that answered.

    `quality` (N, 4) is what the shipped model predicts of them: the logged prediction where this
    very model made it, since without the prompt's text it cannot be made again as well.
    `question` (N,) names what was asked, and `examples.group` what varies together: a question
    wherever it was asked, and all turns of a conversation.
    `effort` (N,) names the answer's reasoning effort where it is not its tier's usual one, else "";
    `usual` (N,) is that one.
    `with_text` counts rows whose policy kept the prompt, `unusable` labelled ones without an
    accepted answer, with that of a vote or of a cascade, or with the features of another version;
    `voted`, how many of them a vote answered, which is better than the one answer that a tier's
    quality is of; `chained`, how many were decided under a policy that goes on after some answers:
    those that it hands out are the ones that looked good.
    """

    examples: Examples
    quality: Floats
    question: NDArray[np.str_]
    effort: NDArray[np.str_]
    usual: NDArray[np.str_]
    with_text: int
    unusable: int
    voted: int
    chained: int


@dataclass(frozen=True, slots=True)
class TierCorrection:
    """By how much a tier's predicted quality was off, in log odds."""

    labels: int
    offset: float
    standard_error: float
    predicted: float  # mean P(good) of the shipped model
    observed: float  # mean label


@dataclass(frozen=True, slots=True)
class Corrected:
    """The shipped model with a correction for each tier that has labels.

    Log loss and Brier score are cross-validated; `improvement_interval` is the 95% interval of how
    much less the new model's log loss is. `promoted` only if it lies above 0.
    """

    model: ModelFile
    rows: int
    with_text: int
    unusable: int
    voted: int  # of the unusable
    chained: int  # of the unusable
    tiers: dict[str, TierCorrection]
    log_loss: tuple[float, float]  # new, shipped
    brier: tuple[float, float]
    improvement_interval: tuple[float, float]

    @property
    def promoted(self) -> bool:
        """Whether the correction helps for certain."""
        return self.improvement_interval[0] > 0

    @property
    def sentence(self) -> str:
        """The verdict in plain words."""
        new, old = self.log_loss
        low, high = self.improvement_interval
        verdict = (
            "predicts which answers are good better than the shipped one"
            if self.promoted
            else "is not shown to predict which answers are good better than the shipped one"
        )
        return (
            f"On your {self.rows:,} labelled requests, each left out in turn, the corrected model "
            f"{verdict}: log loss {new:.3f} against {old:.3f} (less by {old - new:.3f}, 95% "
            f"interval {low:.3f} to {high:.3f}), Brier score {self.brier[0]:.3f} against "
            f"{self.brier[1]:.3f}."
        )

    def as_dict(self) -> dict[str, Any]:
        """All figures, ready for JSON."""
        return {
            "rows": self.rows,
            "with_text": self.with_text,
            "unusable": self.unusable,
            "voted": self.voted,
            "chained": self.chained,
            "tiers": {
                tier: {name: getattr(one, name) for name in TierCorrection.__slots__}
                for tier, one in self.tiers.items()
            },
            "log_loss": dict(zip(("new", "shipped"), self.log_loss, strict=True)),
            "brier": dict(zip(("new", "shipped"), self.brier, strict=True)),
            "improvement_interval": list(self.improvement_interval),
            "promoted": self.promoted,
            "sentence": self.sentence,
        }


def read_log(log: Log, shipped: Predictor) -> LoggedRows:
    """Read every labelled request of a log.

    Raises `TrainingError` where there is none, or too few to learn from.
    """
    labelled = {row.request_id: row for row in log.requests() if row.label is not None}
    if not labelled:
        raise TrainingError(
            "the log has no labelled request; label answers by router.feedback(request_id, score)",
            0,
        )
    accepted, went_on = {}, set()
    for each in log.attempts():
        if each.request_id in labelled and each.number == labelled[each.request_id].accepted:
            accepted[each.request_id] = each
        if each.step > 0:
            went_on.add(each.request_id)
    cascades = {row.policy for row in log.requests() if row.request_id in went_on}
    batches: list[FeatureBatch] = []
    logged: list[dict[str, float]] = []
    kept: list[LoggedRequest] = []
    task, with_text, voted, chained = [], 0, 0, 0
    score, tokens, input_tokens = [], [], []
    efforts = []
    for request_id, row in labelled.items():
        attempt, features = accepted.get(request_id), _features(row)
        if attempt is None or attempt.tier not in TIERS or features is None:
            continue
        if arm_named(attempt.arm, attempt.tier).samples > 1:
            voted += 1  # the ladder adds what a vote gains to what is learnt of a single answer
            continue
        if row.policy in cascades:
            chained += 1  # labels of answers that a gate let pass say nothing of all answers
            continue
        column = TIERS.index(attempt.tier)
        effort, usual = _efforts_of(row, attempt)
        efforts.append(("" if effort == usual else effort, usual))
        with_text += asked(row) is not None
        batches.append(features)
        kept.append(row)
        task.append(row.tags[0] if row.tags else "")
        score.append(_only(column, row.label))
        tokens.append(_only(column, without_effort(attempt.output_tokens, effort, shipped.efforts)))
        input_tokens.append(float(row.features.get("input_tokens") or np.nan))
        logged.append(logged_quality(row) if row.predictor == shipped.name else {})
    if len(batches) < LEAST_LABELLED:
        left = [f"{voted:,} that votes answered"] * (voted > 0)
        left += [f"{chained:,} of policies with a cascade"] * (chained > 0)
        but = f" (beside the {' and the '.join(left)})" if left else ""
        raise TrainingError(
            f"at least {LEAST_LABELLED} labelled, answered requests are needed{but}", len(batches)
        )
    examples = Examples(
        join(batches),
        np.array(score),
        np.array(tokens),
        np.array(input_tokens),
        together(kept),
        np.array(task),
        np.ones(len(batches)),
    )
    quality = shipped.batch(examples.features).quality
    for at, known in enumerate(logged):
        for tier, value in known.items():
            quality[at, TIERS.index(tier)] = value
    share = beside_baseline(log, kept, quality)[:, None]
    examples = replace(examples, score=examples.score * share)
    questions, (others, usuals) = np.array([*map(question_of, kept)]), np.array(efforts).T
    unusable = len(labelled) - len(batches)
    return LoggedRows(
        examples, quality, questions, others, usuals, with_text, unusable, voted, chained
    )


def beside_baseline(log: Log, rows: Sequence[LoggedRequest], quality: Floats) -> Floats:
    """What labels (N,) are to be multiplied by, so that all say how good an answer is: a judge's
    says how good it is beside the baseline tier's, so by P(good) of that one. `quality`: (N, 4)."""
    judged = [row.beside_baseline for row in rows]
    if not any(judged):
        return np.ones(len(rows))
    tier = baselines_of(log)
    at = [TIERS.index(cast("Tier", tier.get(row.request_id, TIERS[-1]))) for row in rows]
    baseline = np.nan_to_num(quality[np.arange(len(rows)), at], nan=1.0)
    return np.where(judged, baseline, 1.0)


def _features(row: LoggedRequest) -> FeatureBatch | None:
    """The logged dense features, with the bag of the prompt where its text was kept."""
    values = [row.features.get(name) for name in DENSE_NAMES]
    if not all(isinstance(value, int | float) for value in values):
        return None
    buckets, weights = np.zeros(0, np.int32), np.zeros(0, np.float32)
    if row.content:
        found = extract(Request("", json.loads(row.content), {}, now=row.time))
        buckets, weights = found.buckets, found.weights
    dense = np.array([values], dtype=np.float32)
    return FeatureBatch(dense, np.array([0, len(buckets)], np.int64), buckets, weights)


def asked(row: LoggedRequest) -> str | None:
    """The last user turn, where the policy kept it."""
    if not row.content:
        return None
    turns = [m for m in json.loads(row.content) if m.get("role") == "user"]
    return text_of(turns[-1].get("content")) if turns else None


def question_of(row: LoggedRequest) -> str:
    """Name what was asked: by all turns of the user where the policy kept them, since a "go on" is
    another question in each conversation; else by the request's id."""
    turns = [m for m in json.loads(row.content or "[]") if m.get("role") == "user"]
    text = "\n".join(text_of(turn.get("content")) for turn in turns)
    return text_key(text) if text else row.request_id


def together(rows: Sequence[LoggedRequest]) -> NDArray[np.str_]:
    """Name for each request what it varies together with, and so is no independent evidence beside:
    those with the same question, and the turns of a conversation, by what it began with."""
    begun: dict[str, str] = {}
    return np.array(
        [begun.setdefault(row.conversation_id or row.request_id, question_of(row)) for row in rows]
    )


def _efforts_of(row: LoggedRequest, attempt: AttemptRow) -> tuple[str, str]:
    """The reasoning effort of an answer, and its tier's usual one."""
    mine = arm_named(attempt.arm, cast("Tier", attempt.tier))
    arms = [arm_named(v["arm"], v["tier"]) for v in row.decision if v.get("tier") == attempt.tier]
    usual = next((arm.effort for arm in arms if arm.deployment == mine.deployment), mine.effort)
    return mine.effort or "none", usual or "none"


def logged_quality(row: LoggedRequest) -> dict[str, float]:
    """P(good) of each tier as it was logged, at its usual effort: that of its first arm."""
    return {
        view["tier"]: view["quality"]
        for view in reversed(row.decision)
        if view.get("tier") in TIERS and isinstance(view.get("quality"), int | float)
    }


def _only(column: int, value: float | None) -> list[float]:
    cells = [float("nan")] * len(TIERS)
    if value is not None:
        cells[column] = float(value)
    return cells


def merged(rows: LoggedRows) -> Examples | None:
    """One row a question, with the mean label of each tier that answered it; None unless at least
    `LEAST_EXAMPLES` questions have labels of two tiers, which a full fit needs."""
    usual = rows.effort == ""
    examples = rows.examples.take(usual)
    names, first, member = np.unique(rows.question[usual], return_index=True, return_inverse=True)
    score = _means(examples.score, member, len(names))
    if (np.isfinite(score).sum(axis=1) >= 2).sum() < LEAST_EXAMPLES:
        return None
    one = examples.take(first)
    tokens = _means(examples.output_tokens, member, len(names))
    return Examples(one.features, score, tokens, one.input_tokens, one.group, one.task, one.weight)


def _means(values: Floats, member: NDArray[np.int64], count: int) -> Floats:
    known = np.isfinite(values)
    total, number = np.zeros((count, len(TIERS))), np.zeros((count, len(TIERS)))
    np.add.at(total, member, np.where(known, values, 0))
    np.add.at(number, member, known)
    return np.where(number > 0, total / np.maximum(number, 1), np.nan)


def correct(
    rows: LoggedRows, shipped: Predictor, *, seed: int = 0, draws: int = DRAWS
) -> Corrected:
    """Fit each tier's offset from the shipped model's log odds, judged by cross-validation.

    Raises `ConfigurationError` where scikit-learn is missing, `TrainingError` for labels of too few
    different questions or conversations.
    """
    need_learner()
    examples = rows.examples
    need_questions(examples.group)
    deal = folds_of(examples.group, FOLDS, seed + _FOLDS)
    usual = (rows.effort == "")[:, None]
    known = np.isfinite(examples.score) & np.isfinite(rows.quality)
    at, tier = np.nonzero(known & usual)
    if not at.size:
        raise TrainingError("answers at their tier's usual effort must be labelled too", 0)
    label, before = examples.score[at, tier], rows.quality[at, tier]
    after = before.copy()
    tiers: dict[str, TierCorrection] = {}
    offsets: dict[int, tuple[float, float]] = {}
    for column in np.unique(tier).tolist():
        mine = tier == column
        for fold in range(FOLDS):
            held = mine & (deal[at] == fold)
            rest = mine & ~held
            if held.any() and rest.any():
                after[held] = moved(before[held], offset_of(before[rest], label[rest])[0])
        offset, error = offset_of(before[mine], label[mine])
        # The shipped model's own offset stays; the quality above has it already.
        own = float(shipped.model.arrays["ability"][column, 0])
        offsets[column] = (own + offset, error)
        tiers[TIERS[column]] = TierCorrection(
            int(mine.sum()), offset, error, float(before[mine].mean()), float(label[mine].mean())
        )
    new, old = log_loss(after, label), log_loss(before, label)
    drawn = resamples(examples.group[at], draws, seed).astype(np.float64)
    facts = {"base": shipped.name, "labelled_requests": len(label), "seed": seed}
    model = with_ability(shipped.model, "corrected", offsets, facts)
    return Corrected(
        model=replace(
            with_gains(model, _gains(rows, tiers), {}), name="corrected", hash=model.hash
        ),
        rows=len(label),
        with_text=rows.with_text,
        unusable=rows.unusable,
        voted=rows.voted,
        chained=rows.chained,
        tiers=tiers,
        log_loss=(float(new.mean()), float(old.mean())),
        brier=(float(((after - label) ** 2).mean()), float(((before - label) ** 2).mean())),
        improvement_interval=interval(drawn @ (old - new) / drawn.sum(axis=1)),
    )


def _gains(
    rows: LoggedRows, tiers: Mapping[str, TierCorrection]
) -> dict[tuple[str, str], tuple[float, float]]:
    """What other efforts of a tier add to its usual one, so corrected, where answers tell."""
    found: dict[tuple[str, str], tuple[float, float]] = {}
    for effort in np.unique(rows.effort[rows.effort != ""]).tolist():
        for column, tier in enumerate(TIERS):
            label, before = rows.examples.score[:, column], rows.quality[:, column]
            mine = (rows.effort == effort) & np.isfinite(label) & np.isfinite(before)
            if mine.sum() >= LEAST_LABELLED:
                offset = tiers[tier].offset if tier in tiers else 0.0
                usual = Counter(rows.usual[mine].tolist()).most_common(1)[0][0]
                found[tier, effort] = gain_of(
                    moved(before[mine], offset), label[mine], effort, usual
                )
    return found
