"""What holds for every request under one policy: arms, what each can take, its price."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from router.decide import Bar, Objective, cautious
from router.decide.vote import VoteRule, value_of
from router.dispatch.bounds import TOKENS_PER_REQUEST, least
from router.errors import UnknownPrice
from router.money import parse_usd
from router.policy import Policy
from router.policy.arms import rungs_of
from router.predict.effort import THINKING_TOKENS, Efforts
from router.prices import Dated, Price, PriceBook, quote, to_price
from router.types import TIERS, Arm, Prediction, Request, Shape
from router.votes import alike, comparable, rule_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from router.policy import Deployment
    from router.policy.vote import Vote
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
            or any(effort not in (None, "none") for effort in deployment.asked_efforts),
            reasoning_beyond_cap=known.get("reasoning_beyond_cap") or 0,
        )

    def room_for_answer(self, prompt: int, least_answer: int = SHORTEST_ANSWER) -> int | None:
        """Tokens of the window that a prompt of `prompt` tokens leaves for an answer.

        0 where it leaves less than `least_answer`, None where the window is not known.
        """
        if self.context_window is None:
            return None
        left = self.context_window - prompt
        return left if left >= least_answer else 0


def room_for_prompt(shape: Shape) -> int:
    """Tokens of a window that are set aside for the prompt."""
    return round(shape.input_tokens * PROMPT_MARGIN) + TOKENS_PER_REQUEST


@dataclass(frozen=True, slots=True)
class Ladder:
    """What holds for every request under one policy and one price book; one entry for each arm."""

    policy: Policy
    arms: tuple[Arm, ...]
    capabilities: tuple[Capabilities, ...]
    output_caps: tuple[int, ...]  # the longest answer that an arm is ever asked for, thinking aside
    prices: tuple[Dated[Price], ...]
    service_tiers: tuple[str | None, ...]  # the deployment's own
    objective: Objective
    tier: Ints  # (A,) index of each arm's tier
    # The index of its tier, and its effort's multiple of output tokens.
    token_factors: tuple[tuple[int, float], ...]
    efforts: Efforts
    gained: Floats | None  # (A,) what its effort multiplies the odds by; None where all are 1
    gain_std: Floats  # (A,) standard deviation of the logarithm of that
    thinking: tuple[int, ...]  # tokens that its effort may think for, on top of a caller's cap
    votes: Mapping[int, VoteRule]  # how the votes among the arms are held, by index
    bests: Mapping[int, Vote]  # which of them hand out what a gate finds best
    rung: Ints  # (A,) number of each arm's rung: arms of one rung stand in for each other
    below_baseline: NDArray[np.bool_]  # (A,) whether an arm is below the baseline's usual way
    baseline: int  # index of the baseline tier
    baseline_rung: int  # number of its usual rung
    baseline_arms: tuple[int, ...]  # indices of that rung's arms
    single_calls: tuple[float, ...]  # 1 for each arm
    nothing_barred: NDArray[np.uint8]  # (1, A) `Bar.FREE`, not to be written to
    must_be_priced: bool

    @classmethod
    def of(cls, policy: Policy, book: PriceBook, efforts: Efforts) -> Ladder:
        """Prepare a policy. `efforts`: what an effort changes, as the predictor knows it."""
        arms = policy.arms()
        gain, gain_std = np.array(
            [
                efforts.gain(arm.tier, arm.effort, policy.deployment(arm).asked_efforts[0])
                for arm in arms
            ]
        ).T
        rungs, baseline = rungs_of(arms), TIERS.index(policy.baseline)
        tier = np.array([TIERS.index(arm.tier) for arm in arms])
        of_baseline = rungs[tier.tolist().index(baseline)]
        deployments = [policy.deployment(arm) for arm in arms]
        votes = {
            at: vote
            for at, (arm, deployment) in enumerate(zip(arms, deployments, strict=True))
            if arm.samples > 1 and (vote := deployment.vote) is not None
        }
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
            tier=tier,
            token_factors=tuple(
                (TIERS.index(arm.tier), efforts.factor(arm.effort)) for arm in arms
            ),
            gained=np.exp(gain) if gain.any() else None,
            gain_std=gain_std,
            thinking=tuple(THINKING_TOKENS[arm.effort or "none"] for arm in arms),
            efforts=efforts,
            votes={at: rule_of(vote) for at, vote in votes.items() if vote.pick == "majority"},
            bests={at: vote for at, vote in votes.items() if vote.pick == "best"},
            rung=np.array(rungs),
            below_baseline=(tier < baseline) | ((tier == baseline) & (gain < 0)),
            baseline=baseline,
            baseline_rung=of_baseline,
            baseline_arms=tuple(i for i, rung in enumerate(rungs) if rung == of_baseline),
            single_calls=(1.0,) * len(arms),
            nothing_barred=_nothing_barred(len(arms)),
            must_be_priced=policy.limited,
        )

    def quality(self, of_tier: Floats) -> Floats:
        """P(good) of each arm, (…, A), by that of each tier, (…, 4), and what its effort adds."""
        found: Floats = of_tier.take(self.tier, axis=-1)
        if self.gained is not None:
            rest = np.maximum(1 - found, 1e-9)
            odds = found / rest * self.gained
            found = odds / (1 + odds)
        for index, rule in self.votes.items():
            value = value_of(rule)
            found[..., index] = np.interp(found[..., index], value.quality, value.good)
        return found

    def calls(self, of_tier: Floats) -> tuple[float, ...]:
        """How many calls each arm is expected to take, by P(good) of each tier, (4,)."""
        if not (self.votes or self.bests):
            return self.single_calls
        found = [float(arm.samples) for arm in self.arms]  # of a best-of, until its gate is known
        for index, rule in self.votes.items():
            value = value_of(rule)
            found[index] = float(np.interp(of_tier[self.tier[index]], value.quality, value.calls))
        return tuple(found)

    def without_votes(self, request: Request, shape: Shape, *, whole: bool) -> dict[int, int]:
        """The votes (by index) that cannot be held on a request, each with its bar."""
        bars = {}
        for index in (*self.votes, *self.bests):
            deployment = self.policy.deployment(self.arms[index])
            if not whole or not comparable(deployment.vote, request, shape):
                bars[index] = Bar.NOT_COMPARABLE
            elif alike({**deployment.params, **request.params}):
                bars[index] = Bar.ALIKE
        return bars

    def quality_std(self, of_tier: Floats, quality: Floats) -> Floats:
        """Its standard error, (…, A): that of its tier, and of what its effort adds."""
        found: Floats = of_tier.take(self.tier, axis=-1)
        if self.gained is not None:
            found = np.hypot(found, quality * (1 - quality) * self.gain_std)
        return found

    def careful(self, prediction: Prediction, quality: Floats) -> Floats:
        """P(good) of each arm, (A,), as decisions take it: `quality`, or for a request unlike
        anything in training a lower bound below the baseline."""
        if not prediction.novel:
            return quality
        std = self.quality_std(prediction.quality_std, quality)
        return cautious(quality, std, self.below_baseline)

    @property
    def other_efforts(self) -> frozenset[int]:
        """The arms that differ from another one in their effort alone."""
        return frozenset(
            at for at, arm in enumerate(self.arms) if arm.samples == 1 and self.ways_of(at)[0] != at
        )

    def factors_at(self, effort: str) -> tuple[tuple[int, float], ...]:
        """`token_factors` of a request that sets its own effort."""
        if effort not in self.efforts.tokens:
            return self.token_factors
        return tuple((rank, self.efforts.factor(effort)) for rank, _ in self.token_factors)

    def ways_of(self, index: int) -> list[int]:
        """The arms that call the same deployment as an arm does, itself among them."""
        mine = self.arms[index]
        return [
            at
            for at, arm in enumerate(self.arms)
            if (arm.tier, arm.deployment) == (mine.tier, mine.deployment)
        ]

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
        """The service tier that a call is priced at: the one that its way has, else the request's
        own, else the deployment's."""
        index = self.arms.index(arm)
        if request.ways and request.ways[index].service_tier is not None:
            return request.ways[index].service_tier
        return asked_service_tier(request.params) or self.service_tiers[index]


def asked_service_tier(params: Mapping[str, Any]) -> str | None:
    """The service tier that a request asks for itself, None where it leaves that open."""
    asked = params.get("service_tier")
    return str(asked) if asked else None


def asked_effort(params: Mapping[str, Any]) -> str | None:
    """The reasoning effort that a request asks for itself, "" where it says it in tokens, None
    where it leaves that open."""
    effort = params.get("reasoning_effort")
    if effort is not None:
        return str(effort.get("effort", "")) if isinstance(effort, Mapping) else str(effort)
    return None if params.get("thinking") is None else ""


def _nothing_barred(arms: int) -> NDArray[np.uint8]:
    barred = np.full((1, arms), Bar.FREE, dtype=np.uint8)
    barred.flags.writeable = False
    return barred


def _prices(deployment: Deployment, book: PriceBook) -> Dated[Price]:
    if deployment.price is None:
        return book.prices(deployment.model)
    return Dated((-math.inf,), (to_price(deployment.price, deployment.model),))
