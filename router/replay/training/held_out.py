"""Figures of predictions that were made without the rows they are judged on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from router.predict.scorer import TOKEN_SHARES
from router.replay.evaluation.calibration import calibrate, intervals
from router.replay.evaluation.curves import two_tiers
from router.replay.evaluation.gain_area import interval
from router.types import TIERS, Prediction

if TYPE_CHECKING:
    from router.predict.examples import Examples
    from router.types import Floats

_APGR_DRAWS = 400  # one by one, each a sort of all rows


@dataclass(frozen=True, slots=True)
class HeldOut:
    """N judged rows: what was predicted of them, and what came; `drawn` (B, N) says how often each
    row is in each bootstrap resample of groups."""

    examples: Examples
    prediction: Prediction
    drawn: NDArray[np.float32]


def figures(held: HeldOut, columns: Sequence[int]) -> dict[str, Any]:
    """Per tier `auc`, `brier`, `ece` and `token_coverage`, and `apgr` between the cheapest and the
    dearest tier of the ladder; each with its 95% interval. None where a figure does not exist."""
    return {
        "tiers": {TIERS[column]: _tier(held, column) for column in columns},
        "apgr": _apgr(held, columns[0], columns[-1]),
    }


def _tier(held: HeldOut, column: int) -> dict[str, Any]:
    score, quality = held.examples.score[:, column], held.prediction.quality[:, column]
    known = np.isfinite(score) & np.isfinite(quality)
    found: dict[str, Any] = {"rows": int(known.sum())}
    if known.any():
        one = calibrate(quality[known], score[known])
        spans = intervals(quality[known], score[known], held.drawn[:, known])
        for name in ("auc", "brier", "ece"):
            value = getattr(one, name)
            found[name] = _figure(value, spans[name])
        found["bins"] = [list(part) for part in one.bins]
    else:
        found |= {"auc": None, "brier": None, "ece": None, "bins": []}
    found["token_coverage"] = _coverage(held, column)
    return found


def _coverage(held: HeldOut, column: int) -> dict[str, Any] | None:
    """How often an answer was no longer than each predicted quantile of its length."""
    tokens = held.examples.output_tokens[:, column]
    known = np.isfinite(tokens)
    if not known.any():
        return None
    weights = held.drawn[:, known].astype(np.float64)
    total = np.maximum(weights.sum(axis=1), 1)
    found = {}
    for share in TOKEN_SHARES:
        name = f"p{share * 100:.0f}"
        limit: Floats = getattr(held.prediction, f"output_tokens_{name}")[known, column]
        inside = tokens[known] <= limit
        spread = interval(weights @ inside.astype(np.float64) / total)
        found[name] = _figure(float(inside.mean()), list(spread))
    return found


def _apgr(held: HeldOut, weak: int, strong: int) -> dict[str, Any] | None:
    score, quality = held.examples.score, held.prediction.quality
    known = np.isfinite(score[:, [weak, strong]]).all(axis=1)
    if not known.any():
        return None
    gain = np.nan_to_num(quality[known, strong] - quality[known, weak])
    pair = (score[known, weak], score[known, strong])
    whole = two_tiers(gain, *pair)[0]
    if whole is None:  # the dearest tier is no better on average
        return None
    drawn = two_tiers(gain, *pair, held.drawn[:_APGR_DRAWS][:, known])
    spread = interval(np.array([np.nan if one is None else one.apgr for one in drawn]))
    return _figure(whole.apgr, list(spread))


def _figure(value: float | None, spread: list[float] | None) -> dict[str, Any] | None:
    return None if value is None else {"value": value, "interval": spread}
