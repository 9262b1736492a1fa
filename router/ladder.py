"""What holds for every request under one policy: arms, what each can take, its price."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from router.decide import Bar, Objective
from router.dispatch.bounds import TOKENS_PER_REQUEST
from router.money import parse_usd
from router.policy import Policy
from router.prices import Price, PriceBook, to_price
from router.types import TIERS, Arm, Request, Shape

if TYPE_CHECKING:
    from router.policy import Deployment
    from router.types import Floats, Ints

# Capability → the bar for an arm that lacks it.
NEEDS = {
    "vision": Bar.NO_VISION,
    "audio": Bar.NO_AUDIO,
    "files": Bar.NO_FILES,
    "tools": Bar.NO_TOOLS,
    "structured_output": Bar.NO_STRUCTURED_OUTPUT,
}
PROMPT_MARGIN = 1.1  # the prompt's tokens are an estimate
SHORTEST_ANSWER = 16  # tokens; a window that leaves less cannot hold the exchange


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a deployment can take: the price book's word, overridden by the policy's."""

    has: frozenset[str]
    context_window: int | None
    max_output_tokens: int | None
    reasons: bool

    @classmethod
    def of(cls, deployment: Deployment, book: PriceBook) -> Capabilities:
        known: dict[str, Any] = dict(book.capabilities(deployment.model) or {})
        own = deployment.capabilities.model_dump(exclude_none=True)
        known.update(own)
        return cls(
            has=frozenset(name for name in NEEDS if known.get(name)),
            context_window=known.get("context_window"),
            max_output_tokens=known.get("max_output_tokens"),
            reasons=bool(known.get("reasoning") or known.get("efforts"))
            or deployment.effort not in (None, "none"),
        )

    def room_for_answer(self, shape: Shape) -> int | None:
        """Tokens of the window that the prompt leaves for an answer, 0 where that is too few."""
        if self.context_window is None:
            return None
        prompt = round(shape.input_tokens * PROMPT_MARGIN) + TOKENS_PER_REQUEST
        left = self.context_window - prompt
        return left if left >= SHORTEST_ANSWER else 0


@dataclass(frozen=True, slots=True)
class Ladder:
    """What holds for every request under one policy and one price book."""

    policy: Policy
    book: PriceBook
    arms: tuple[Arm, ...]
    capabilities: tuple[Capabilities, ...]
    objective: Objective
    tier: Ints  # (A,) index of each arm's tier
    effort: Floats  # (A,) how each arm's effort multiplies its tier's output tokens
    must_be_priced: bool

    @classmethod
    def of(cls, policy: Policy, book: PriceBook, effort_tokens: Mapping[str, float]) -> Ladder:
        """Prepare a policy. `effort_tokens`: how an effort multiplies a tier's output tokens."""
        arms = policy.arms()
        asked = policy.objective
        ceiling = asked.max_cost_per_request
        return cls(
            policy=policy,
            book=book,
            arms=arms,
            capabilities=tuple(Capabilities.of(policy.deployment(arm), book) for arm in arms),
            objective=Objective(
                cost_weight=asked.cost_weight,
                keep_quality=asked.keep_quality,
                max_cost_per_request=None if ceiling is None else parse_usd(ceiling),
            ),
            tier=np.array([TIERS.index(arm.tier) for arm in arms]),
            effort=np.array([effort_tokens.get(arm.effort or "none", 1.0) for arm in arms]),
            must_be_priced=policy.limited,
        )

    def price(self, arm: Arm, now: float) -> Price | None:
        """The deployment's own price, or the book's at `now`, or None."""
        deployment = self.policy.deployment(arm)
        if deployment.price is not None:
            return to_price(deployment.price, deployment.model)
        return self.book.price(deployment.model, now)

    def service_tier(self, request: Request, arm: Arm) -> str | None:
        """The service tier that a call is priced at: the request's own, else the deployment's."""
        asked = request.params.get("service_tier") or self.policy.deployment(arm).service_tier
        return None if asked is None else str(asked)
