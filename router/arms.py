"""Tiers and arms: what a request may be sent to. A part of `router.types`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Tier = Literal["nano", "mini", "mid", "frontier"]
TIERS: tuple[Tier, ...] = ("nano", "mini", "mid", "frontier")

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh"]


@dataclass(frozen=True, slots=True)
class Arm:
    """One thing the router may do: call a deployment of a tier at a reasoning effort, once, or
    several times for a vote of so many `samples`; `ending`, how that ends where it is not as usual,
    such as "+best"."""

    tier: Tier
    deployment: int  # position in the tier's ordered list
    model: str  # litellm model string
    effort: Effort | None = None
    samples: int = 1
    ending: str = ""

    @property
    def vote(self) -> str:
        """Its vote: "*5", or "*5+best" for the best of five; "" for a single call."""
        return f"*{self.samples}{self.ending}" if self.samples > 1 else ""

    @property
    def way(self) -> str:
        """How the model is asked: "@low", "*5" for a vote of five, "@low*5"; "" as it is."""
        return (f"@{self.effort}" if self.effort else "") + self.vote

    @property
    def name(self) -> str:
        """A unique, readable name such as "mini/0:openai/gpt-5.4-mini@low"."""
        return f"{self.tier}/{self.deployment}:{self.model}{self.way}"
