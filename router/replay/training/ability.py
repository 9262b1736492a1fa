"""Corrections of a known model in log odds: what its learnt quality is off by, tier by tier."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from router.predict.model_file import ModelFile
from router.predict.scorer import CALIBRATION_SHAPES, QUALITY_RANGE

if TYPE_CHECKING:
    from router.types import Floats


def log_odds(quality: Floats) -> Floats:
    """ln(p / (1 - p)) of P(good), which is clipped to the scorer's range."""
    p = np.clip(quality, *QUALITY_RANGE)
    odds: Floats = np.log(p / (1 - p))
    return odds


def moved(quality: Floats, offset: float) -> Floats:
    """P(good) after a shift of its log odds, as the scorer shifts it."""
    found: Floats = np.clip(1 / (1 + np.exp(-(log_odds(quality) + offset))), *QUALITY_RANGE)
    return found


def log_loss(quality: Floats, label: Floats) -> Floats:
    """The cross-entropy of labels in [0, 1] to P(good), in nats, row by row."""
    loss: Floats = -(label * np.log(quality) + (1 - label) * np.log1p(-quality))
    return loss


def offset_of(quality: Floats, label: Floats) -> tuple[float, float]:
    """Fit the offset of labels (N,) from P(good) (N,); return it and its standard error."""
    from router.predict.estimators import AbilityOffset

    found = AbilityOffset().fit(log_odds(quality)[:, None], label)
    return float(found.offset_), float(found.offset_std_)


def with_ability(
    model: ModelFile,
    name: str,
    offsets: Mapping[int, tuple[float, float]],
    facts: Mapping[str, Any],
) -> ModelFile:
    """The model, under another name, with the offset and its standard error of some tiers replaced.

    Tiers are positions among `TIERS`. Its calibration queries are left out: they were
    recorded for what it predicted before.
    """
    arrays: dict[str, NDArray[Any]] = {
        key: array for key, array in model.arrays.items() if key not in CALIBRATION_SHAPES
    }
    ability = np.array(arrays["ability"], dtype=np.float32)
    for tier, row in offsets.items():
        ability[tier] = row
    arrays["ability"] = ability
    kept = {key: fact for key, fact in model.facts.items() if key != "calibration_queries"}
    return ModelFile(name, model.hash, {**kept, **facts}, arrays)
