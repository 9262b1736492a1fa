"""A new model on a known ladder, from a few answers of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from router.errors import TrainingError
from router.predict.examples import Examples
from router.predict.model_file import ModelFile
from router.predict.scorer import Predictor
from router.replay.evaluation.curves import resamples
from router.replay.evaluation.gain_area import interval
from router.replay.training.ability import log_loss, moved, offset_of, with_ability
from router.replay.training.train import DRAWS, need_learner
from router.types import TIERS, Tier

if TYPE_CHECKING:
    from router.types import Floats

LEAST_ANCHORS = 20


@dataclass(frozen=True, slots=True)
class Anchored:
    """A model in which `tier` stands for a new model: its `offset` in log odds from the known one,
    with `standard_error`; mean P(good) of the anchors `before` and `after`, and the standard error
    of the latter, `after_std`; log loss on anchors that were left out, of the known model and the
    new one, and the 95% interval of how much less the new one's is."""

    model: ModelFile
    tier: Tier
    anchors: int
    offset: float
    standard_error: float
    before: float
    after: float
    after_std: float
    log_loss_base: float
    log_loss_new: float
    improvement_interval: tuple[float, float]

    @property
    def sentence(self) -> str:
        """What was learnt, in plain words."""
        low, high = self.improvement_interval
        if low > 0:
            verdict = "predicts answers that were left out better than the old one"
        elif high < 0:
            verdict = "predicts answers that were left out worse than the old one"
        else:
            verdict = "is not shown to predict answers that were left out better than the old one"
        less = self.log_loss_base - self.log_loss_new
        return (
            f"From {self.anchors:,} answers, the new {self.tier} model's ability is "
            f"{self.offset:+.2f} ± {self.standard_error:.2f} in log odds: P(good) is "
            f"{self.after:.2f} ± {self.after_std:.2f} on them, where the known model's was "
            f"{self.before:.2f}. So moved, the model {verdict}: log loss {self.log_loss_new:.3f} "
            f"against {self.log_loss_base:.3f} (less by {less:.3f}, "
            f"95% interval {low:.3f} to {high:.3f})."
        )

    def as_dict(self) -> dict[str, Any]:
        """All figures, ready for JSON."""
        figures = asdict(self)
        del figures["model"]
        return {
            **figures,
            "improvement_interval": list(self.improvement_interval),
            "sentence": self.sentence,
        }


def anchor(
    examples: Examples, tier: Tier, base: Predictor, *, seed: int = 0, draws: int = DRAWS
) -> Anchored:
    """Fit how much abler the new model of a tier is than the one that `base` knows.

    Parameters
    ----------
    examples
        At least `LEAST_ANCHORS` rows with a score of `tier`: answers of the new model.
    base
        A model that knows the tier. An offset that it has for the tier already is replaced.

    Raises
    ------
    TrainingError
        If there are too few rows, or `base` does not know the tier.
    ConfigurationError
        If scikit-learn is missing.
    """
    need_learner()
    column = TIERS.index(tier)
    if tier not in base.tiers:
        raise TrainingError(f"the base model knows no tier {tier}; it has", len(base.tiers))
    rows = examples.take(np.isfinite(examples.score[:, column]))
    if len(rows) < LEAST_ANCHORS:
        raise TrainingError(
            f"at least {LEAST_ANCHORS} scored answers of the new model are needed", len(rows)
        )
    label = rows.score[:, column]
    known = Predictor(with_ability(base.model, "anchored", {column: (0.0, 0.0)}, {}))
    before: Floats = known.batch(rows.features).quality[:, column]
    left_out = before.copy()  # stays, where there is one question alone
    for name in np.unique(rows.group):
        held = rows.group == name
        if not held.all():
            left_out[held] = moved(before[held], offset_of(before[~held], label[~held])[0])
    offset, error = offset_of(before, label)
    after = moved(before, offset)
    old, new = log_loss(before, label), log_loss(left_out, label)
    drawn = resamples(rows.group, draws, seed).astype(np.float64)
    facts = {"anchors": len(rows), "anchored_tier": tier, "base": base.name}
    return Anchored(
        model=with_ability(base.model, "anchored", {column: (offset, error)}, facts),
        tier=tier,
        anchors=len(rows),
        offset=offset,
        standard_error=error,
        before=float(before.mean()),
        after=float(after.mean()),
        after_std=float((after * (1 - after)).mean()) * error,
        log_loss_base=float(old.mean()),
        log_loss_new=float(new.mean()),
        improvement_interval=interval(drawn @ (old - new) / drawn.sum(axis=1)),
    )
