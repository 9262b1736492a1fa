"""What a reasoning effort changes: the tokens of an answer, and how likely it is good."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

from router.errors import ModelFileError
from router.types import TIERS, Effort

EFFORTS: tuple[Effort, ...] = get_args(Effort)

# "medium" is measured: the mean of gemini-2.5-pro's billed output tokens at its default thinking
# over mistral-large-2512's on the same 1,785 questions of paretobandit_val, both recovered from
# dollars per call at list prices. The others are interpolated: the reasoning share doubles from
# level to level, as the thinking budgets do that litellm maps the levels to (1,024, 2,048, 4,096).
# misguided_attention's thinking variants record visible text alone, so they cannot measure this.
_MEDIUM_FACTOR = 4.79
_REASONING = {"none": 0.0, "minimal": 0.125, "low": 0.5, "medium": 1.0, "high": 2.0, "xhigh": 4.0}
EFFORT_TOKENS: dict[str, dict[str, Any]] = {
    effort: {
        "factor": round(1 + (_MEDIUM_FACTOR - 1) * share, 3),
        "source": {"none": "by definition", "medium": "measured"}.get(effort, "interpolated"),
    }
    for effort, share in _REASONING.items()
}

# Measured by benchmarks/effort.py on misguided_attention: by how much the log odds of a good answer
# rise when a model thinks, mean and standard deviation over five models that were recorded both
# ways. One model recorded at "low" and "high" was equally good at both, so the gain saturates:
# three quarters of it are taken to be there at "low". These are riddles; a model trained on
# answers of one's own at both efforts knows better (`router train`).
_GAIN, _GAIN_STD = 0.61, 0.30
EFFORT_GAIN: dict[str, float] = {
    effort: round(_GAIN * (1 - 2 ** (-share / 0.25)), 3) for effort, share in _REASONING.items()
}

# Tokens that may go into thinking before the answer, on top of the cap that a caller asks for:
# litellm's thinking budgets, below which Anthropic refuses a cap. A provider that has levels
# instead of budgets thinks within the cap alone.
THINKING_TOKENS: dict[str, int] = {
    "none": 0, "minimal": 1_024, "low": 1_024, "medium": 2_048, "high": 4_096, "xhigh": 8_192,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Efforts:
    """What efforts change, as a predictor knows it.

    `tokens`: how an effort multiplies a tier's output tokens. `gains`: by how much it raises the
    log odds of a good answer over no effort, with the standard deviation of that; of a tier's own
    as (tier, effort), of any as ("", effort).
    """

    tokens: Mapping[str, float]
    gains: Mapping[tuple[str, str], tuple[float, float]] = field(default_factory=dict)

    def factor(self, effort: str | None) -> float:
        """By how much an effort multiplies output tokens; 1 where nothing is known."""
        return self.tokens.get(effort or "none", 1.0)

    def gain(self, tier: str, effort: str | None, base: str | None) -> tuple[float, float]:
        """What `effort` adds to the log odds that a tier has at the effort `base`, and the standard
        deviation of that."""
        if (effort or "none") == (base or "none"):
            return 0.0, 0.0
        own = self.gains.get((tier, effort or "none"))
        if own is not None:
            (less, _) = self.gains.get((tier, base or "none"), (0.0, 0.0))
            return own[0] - less, own[1]
        return usual_gain(effort or "none", base or "none")


def usual_gain(effort: str, base: str = "none") -> tuple[float, float]:
    """What an effort usually adds to the log odds over `base`, and its deviation over models."""
    more = EFFORT_GAIN[effort] - EFFORT_GAIN[base]
    return more, abs(more) * _GAIN_STD / _GAIN


def efforts_of(facts: Mapping[str, Any], path: str) -> Efforts:
    """Read what a model file says of efforts: `effort_tokens`, by effort its factor, and
    `effort_gains`, by tier@effort its `log_odds` and `std`, where it was trained on both.

    Raises `ModelFileError` for a factor that is missing or impossible, or an unknown tier@effort.
    """
    entries = facts.get("effort_tokens")
    factors: dict[str, float] = {}
    for effort in EFFORTS:
        entry = entries.get(effort) if isinstance(entries, dict) else None
        factor = _number(entry, "factor")
        if factor is None or not 0 < factor <= 1000:
            raise ModelFileError(path, f"effort_tokens.{effort}.factor must be a positive number")
        factors[effort] = factor
    gains: dict[tuple[str, str], tuple[float, float]] = {}
    said = facts.get("effort_gains") or {}
    if not isinstance(said, dict):
        raise ModelFileError(path, f"effort_gains must be an object, not {said!r:.40}")
    for name, entry in said.items():
        tier, _, at = str(name).partition("@")
        gain, std = _number(entry, "log_odds"), _number(entry, "std")
        known = tier in TIERS and at in EFFORTS
        if not known or gain is None or std is None or not (abs(gain) <= 20 and 0 <= std <= 20):
            raise ModelFileError(
                path,
                f"effort_gains.{name!s:.40} must be of a tier@effort, with log_odds and std from "
                "-20 to 20",
            )
        gains[tier, at] = gain, std
    return Efforts(factors, gains)


def _number(entry: Any, name: str) -> float | None:
    value = entry.get(name) if isinstance(entry, dict) else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= 1e6:
        return None
    return float(value)
