"""What holds for every request under one policy: arms, what each can take, its price."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from router.decide import Bar, Objective
from router.dispatch.bounds import TOKENS_PER_REQUEST, least
from router.errors import UnknownPrice
from router.money import parse_usd
from router.policy import Policy
from router.prices import Dated, Price, PriceBook, quote, to_price
from router.types import TIERS, Arm, Request, Shape

if TYPE_CHECKING:
    from numpy.typing import NDArray

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
_USUAL_PROMPT, _USUAL_ANSWER = 1000, 500  # tokens of a call by which prices are compared
SHORTEST_ANSWER = 16  # tokens; a window that leaves less cannot hold the exchange


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a deployment can take: the price book's word, overridden by the policy's.

    `reasoning_beyond_cap`: reasoning tokens that may come on top of the output cap.
    """

    has: frozenset[str]
    context_window: int | None
    max_output_tokens: int | None
    reasons: bool
    reasoning_beyond_cap: int

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
            reasoning_beyond_cap=known.get("reasoning_beyond_cap") or 0,
        )

    def room_for_answer(self, prompt: int) -> int | None:
        """Tokens of the window that a prompt of `prompt` tokens leaves for an answer.

        0 where it leaves too few, None where the window is not known.
        """
        if self.context_window is None:
            return None
        left = self.context_window - prompt
        return left if left >= SHORTEST_ANSWER else 0


def room_for_prompt(shape: Shape) -> int:
    """Tokens of a window that are set aside for the prompt."""
    return round(shape.input_tokens * PROMPT_MARGIN) + TOKENS_PER_REQUEST


@dataclass(frozen=True, slots=True)
class Ladder:
    """What holds for every request under one policy and one price book; one entry for each arm."""

    policy: Policy
    arms: tuple[Arm, ...]
    capabilities: tuple[Capabilities, ...]
    output_caps: tuple[int, ...]  # the longest answer that an arm is ever asked for
    prices: tuple[Dated[Price], ...]
    service_tiers: tuple[str | None, ...]  # the deployment's own
    objective: Objective
    tier: Ints  # (A,) index of each arm's tier
    token_factors: tuple[
        tuple[int, float], ...
    ]  # its tier's index, its effort's multiple of tokens
    baseline: int  # index of the baseline tier
    baseline_arms: tuple[int, ...]  # indices of its arms
    nothing_barred: NDArray[np.uint8]  # (1, A) `Bar.FREE`, not to be written to
    must_be_priced: bool

    @classmethod
    def of(cls, policy: Policy, book: PriceBook, effort_tokens: Mapping[str, float]) -> Ladder:
        """Prepare a policy. `effort_tokens`: how an effort multiplies a tier's output tokens."""
        arms = policy.arms()
        deployments = [policy.deployment(arm) for arm in arms]
        capabilities = tuple(Capabilities.of(deployment, book) for deployment in deployments)
        asked = policy.objective
        ceiling = asked.max_cost_per_request
        return cls(
            policy=policy,
            arms=arms,
            capabilities=capabilities,
            output_caps=tuple(
                least(
                    deployment.max_output_tokens or policy.limits.max_output_tokens,
                    able.max_output_tokens,
                )
                for deployment, able in zip(deployments, capabilities, strict=True)
            ),
            prices=tuple(_prices(deployment, book) for deployment in deployments),
            service_tiers=tuple(deployment.service_tier for deployment in deployments),
            objective=Objective(
                cost_weight=asked.cost_weight,
                keep_quality=asked.keep_quality,
                margin=asked.margin or 0.0,
                max_cost_per_request=None if ceiling is None else parse_usd(ceiling),
            ),
            tier=np.array([TIERS.index(arm.tier) for arm in arms]),
            token_factors=tuple(
                (TIERS.index(arm.tier), effort_tokens.get(arm.effort or "none", 1.0))
                for arm in arms
            ),
            baseline=TIERS.index(policy.baseline),
            baseline_arms=tuple(i for i, arm in enumerate(arms) if arm.tier == policy.baseline),
            nothing_barred=_nothing_barred(len(arms)),
            must_be_priced=policy.limited,
        )

    def price(self, arm: Arm, now: float) -> Price | None:
        """The deployment's own price, or the book's at `now`, or None."""
        return self.prices[self.arms.index(arm)].at(now)

    def unit_costs(self) -> Dated[Floats]:
        """What one and the same call costs at each arm: (A,) nano-USD, NaN where not known."""
        starts = sorted({start for dated in self.prices for start in dated.starts})
        return Dated(
            tuple(starts),
            tuple(
                np.array([self._unit_cost(i, at) for i in range(len(self.arms))]) for at in starts
            ),
        )

    def _unit_cost(self, arm: int, now: float) -> float:
        try:
            cost = quote(
                self.prices[arm].at(now),
                input_tokens=_USUAL_PROMPT,
                output_tokens=_USUAL_ANSWER,
                input_bound=_USUAL_PROMPT,
                output_cap=_USUAL_ANSWER,
                service_tier=self.service_tiers[arm],
                now=now if math.isfinite(now) else 0.0,
            ).expected
        except UnknownPrice:
            return math.nan
        return math.nan if cost is None else float(cost)

    def service_tier(self, request: Request, arm: Arm) -> str | None:
        """The service tier that a call is priced at: the request's own, else the deployment's."""
        own = self.service_tiers[self.arms.index(arm)]
        return asked_service_tier(request.params) or own


def asked_service_tier(params: Mapping[str, Any]) -> str | None:
    """The service tier that a request asks for itself, None where it leaves that open."""
    asked = params.get("service_tier")
    return str(asked) if asked else None


def _nothing_barred(arms: int) -> NDArray[np.uint8]:
    barred = np.full((1, arms), Bar.FREE, dtype=np.uint8)
    barred.flags.writeable = False
    return barred


def _prices(deployment: Deployment, book: PriceBook) -> Dated[Price]:
    if deployment.price is None:
        return book.prices(deployment.model)
    return Dated((-math.inf,), (to_price(deployment.price, deployment.model),))
