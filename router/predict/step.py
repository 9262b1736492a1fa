"""The step of a model file: regrets drawn to those of an easy or of a hard request.

Where the evidence lies between the two, small differences count most, and elsewhere hardly, so that
a paraphrase seldom changes the choice. A share of each regret is left as it is, so that the order
of requests stays.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from router.types import TIERS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from router.types import Floats

_T = len(TIERS)
STEP_SHAPES: Mapping[str, tuple[int | str, ...]] = {
    "step": (3,),  # the sum of regrets halfway, the step's width, the share of regrets left as is
    "step_regrets": (2, _T),  # of easy and of hard requests, against the dearest tier
}


@dataclass(frozen=True, slots=True)
class Step:
    """The step of `STEP_SHAPES`, multiplied out."""

    contrast: Floats  # of the qualities: the sum of regrets by half the step's width
    halfway: Floats
    between: Floats
    half_rise: Floats
    kept: Floats | None

    @classmethod
    def of(cls, arrays: Mapping[str, NDArray[Any]]) -> Step:
        halfway, width, kept = arrays["step"].astype(np.float64)
        easy, hard = arrays["step_regrets"].astype(np.float64) * (1 - kept)
        contrast = np.full(_T, -0.5 / width)
        contrast[-1] += _T * 0.5 / width
        return cls(
            contrast,
            np.array(halfway * 0.5 / width),
            (easy + hard) / 2,
            (hard - easy) / 2,
            np.array(kept) if kept else None,
        )

    def __call__(self, quality: Floats) -> Floats:
        """Draw the regrets in a quality (…, T) to the levels; the dearest tier's stays."""
        # A logistic step from easy to hard, as a hyperbolic tangent, which cannot overflow.
        hard = np.tanh(quality.dot(self.contrast) - self.halfway)
        top = quality[..., -1:]
        drawn: Floats = top - self.between
        drawn -= self.half_rise * hard[..., None]
        if self.kept is not None:
            drawn -= self.kept * (top - quality)
        return drawn
