"""What a reasoning effort adds at one tier: measured from scored answers at that effort."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from router.errors import TrainingError
from router.predict.effort import Efforts, usual_gain
from router.predict.examples import Examples
from router.predict.model_file import ModelFile
from router.predict.scorer import Predictor
from router.replay.training.ability import moved, offset_of
from router.replay.training.train import need_learner
from router.types import TIERS, Effort, Tier

if TYPE_CHECKING:
    from router.types import Floats

LEAST_ANSWERS = 20
_LEAST_SPREAD = 0.1  # in log odds


@dataclass(frozen=True, slots=True)
class EffortMeasured:
    """A model that knows what `effort` adds at `tier`.

    `gain` in log odds of a good answer over the tier's usual effort, with its `standard_error`:
    what the answers say, drawn towards what is usual by as much as they are few. `before` and
    `after`, mean P(good) of the answers without and with it; `observed`, their mean score;
    `token_factor`, their output tokens over those predicted without effort, None where not known.
    """

    model: ModelFile
    tier: Tier
    effort: Effort
    answers: int
    gain: float
    standard_error: float
    before: float
    after: float
    observed: float
    token_factor: float | None

    @property
    def sentence(self) -> str:
        """What was learnt, in plain words."""
        tokens = (
            "what it costs in tokens was not recorded"
            if self.token_factor is None
            else f"{self.token_factor:.1f} times the tokens of none"
        )
        return (
            f"From {self.answers:,} answers, effort {self.effort} adds {self.gain:+.2f} ± "
            f"{self.standard_error:.2f} in log odds at the {self.tier} tier: P(good) is "
            f"{self.after:.2f} where it was {self.before:.2f} ({self.observed:.2f} observed); "
            f"{tokens}."
        )

    def as_dict(self) -> dict[str, Any]:
        """All figures, ready for JSON."""
        names = ("tier", "effort", "answers", "gain", "standard_error", "before", "after")
        more = ("observed", "token_factor", "sentence")
        return {name: getattr(self, name) for name in (*names, *more)}


def measure_effort(
    examples: Examples, tier: Tier, effort: Effort, base: Predictor
) -> EffortMeasured:
    """Fit what an effort adds to what `base` knows of a tier at its usual effort.

    Parameters: `examples`, at least `LEAST_ANSWERS` rows with a score of `tier`: answers at
    `effort`. Raises `TrainingError` for fewer, or a tier that `base` does not know;
    `ConfigurationError` if scikit-learn is missing.
    """
    need_learner()
    column = TIERS.index(tier)
    if tier not in base.tiers:
        raise TrainingError(f"the base model knows no tier {tier}; it has", len(base.tiers))
    rows = examples.take(np.isfinite(examples.score[:, column]))
    if len(rows) < LEAST_ANSWERS:
        raise TrainingError(
            f"at least {LEAST_ANSWERS} scored answers at effort {effort} are needed", len(rows)
        )
    predicted = base.batch(rows.features)
    before, label = predicted.quality[:, column], rows.score[:, column]
    gain, error = gain_of(before, label, effort)
    factor = _token_factor(rows.output_tokens[:, column], predicted.output_tokens[:, column])
    return EffortMeasured(
        model=with_gains(base.model, {(tier, effort): (gain, error)}, {effort: factor}),
        tier=tier,
        effort=effort,
        answers=len(rows),
        gain=gain,
        standard_error=error,
        before=float(before.mean()),
        after=float(moved(before, gain).mean()),
        observed=float(label.mean()),
        token_factor=factor,
    )


def gain_of(before: Floats, label: Floats, effort: str, usual: str = "none") -> tuple[float, float]:
    """What answers at an effort (labels (N,)) say of its gain over P(good) `before` (N,), which is
    at the effort `usual`, as posterior mean and standard deviation: normal, the prior being what is
    assumed of the two without any answer."""
    offset, error = offset_of(before, label)
    prior, spread = usual_gain(effort, usual)
    # Of two efforts alike little is assumed: they may be further apart than what is usual of both.
    spread = max(spread, _LEAST_SPREAD) if spread else 0.3  # the same: thinking is the tier's way
    precision = 1 / error**2 + 1 / spread**2
    mean = (offset / error**2 + prior / spread**2) / precision
    return mean, precision**-0.5


def with_gains(
    model: ModelFile,
    gains: dict[tuple[str, str], tuple[float, float]],
    factors: dict[str, float | None],
) -> ModelFile:
    """The model with other gains of a tier's efforts, and token factors where they are known."""
    kept = dict(model.facts.get("effort_gains") or {})
    kept |= {
        f"{tier}@{effort}": {"log_odds": round(gain, 4), "std": round(std, 4)}
        for (tier, effort), (gain, std) in gains.items()
    }
    tokens = dict(model.facts["effort_tokens"])
    tokens |= {
        effort: {"factor": round(factor, 3), "source": "measured on answers of one's own"}
        for effort, factor in factors.items()
        if factor is not None
    }
    facts = {**model.facts, "effort_gains": kept, "effort_tokens": tokens}
    return ModelFile("efforts", model.hash, facts, model.arrays)


def without_effort(tokens: float | None, effort: str | None, efforts: Efforts) -> float | None:
    """Billed output tokens as they would have been without effort, which is what models predict."""
    return None if tokens is None else tokens / efforts.factor(effort)


def _token_factor(billed: Floats, predicted: Floats) -> float | None:
    known = np.isfinite(billed) & np.isfinite(predicted)
    total = float(predicted[known].sum())
    return float(np.clip(billed[known].sum() / total, 0.01, 1000)) if total > 0 else None
