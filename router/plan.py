"""The options of one request: its arms, what each can take, costs and is likely to achieve.

A plan is immutable. What an attempt teaches (an arm failed) makes a new plan, from which the same
rule decides again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from router.decide import (
    UNKNOWN,
    UNLIMITED,
    Bar,
    Choices,
    Objective,
    Options,
    choose,
    decision,
    rejections,
)
from router.dispatch.bounds import (
    TOKENS_PER_REQUEST,
    asked_cap,
    input_bound,
    output_cap,
    samples,
    unbounded_surcharge,
)
from router.errors import (
    AuthenticationFailed,
    BudgetExceeded,
    ContextWindowExceeded,
    InvalidRequest,
    MalformedReply,
    NoCapableDeployment,
    ProviderError,
    ProviderTimeout,
    ProviderUnavailable,
    RateLimited,
    UnknownPrice,
)
from router.money import parse_usd
from router.policy import Policy
from router.policy.rules import match
from router.predict.features import DENSE_NAMES
from router.prices import Price, PriceBook, quote, to_price
from router.types import (
    TIERS,
    Arm,
    Decision,
    Features,
    Prediction,
    Quote,
    Request,
    Room,
    Shape,
)

if TYPE_CHECKING:
    from router.policy import Deployment
    from router.types import Floats, Ints

# Capability → the bar for an arm that lacks it.
_NEEDS = {
    "vision": Bar.NO_VISION,
    "audio": Bar.NO_AUDIO,
    "files": Bar.NO_FILES,
    "tools": Bar.NO_TOOLS,
    "structured_output": Bar.NO_STRUCTURED_OUTPUT,
}
PROMPT_MARGIN = 1.1  # the prompt's tokens are an estimate
SHORTEST_ANSWER = 16  # tokens; a window that leaves less cannot hold the exchange

# Another deployment may do better after these; after any other the same request fails again.
_WORTH_ANOTHER_TIER = (RateLimited, ProviderUnavailable, ProviderTimeout, MalformedReply)


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
            has=frozenset(name for name in _NEEDS if known.get(name)),
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
class Setup:
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
    def of(cls, policy: Policy, book: PriceBook, effort_tokens: Mapping[str, float]) -> Setup:
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


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that deciding about one request needs, but the room in the budgets."""

    setup: Setup
    request: Request
    shape: Shape
    features: Features
    prediction: Prediction
    tokens: Floats  # (A,) expected output tokens
    quotes: tuple[Quote, ...]
    options: Options
    rule: str | None
    failure: ProviderError | None = None

    def decide(self, room: Room) -> Decision:
        """Choose an arm for the room there is.

        Raises `NoCapableDeployment`, `UnknownPrice` or `BudgetExceeded` where every arm is barred,
        or the provider's last error where the arms that were left have failed.
        """
        left = room.remaining("downgrade")
        choices = choose(
            self.options,
            self.setup.objective,
            np.array([UNLIMITED if left is None else left]),
            priced=self.setup.must_be_priced,
        )
        if choices.arm[0] < 0:
            raise self._refusal(choices, room) from self.failure
        chosen = decision(
            self.setup.arms,
            self.quotes,
            self.options,
            choices,
            self.setup.objective,
            rule=self.rule,
            baseline=self.baseline(),
        )
        if self.failure is None:
            return chosen
        return replace(
            chosen, reason=f"{chosen.reason}; fallback after {type(self.failure).__name__}"
        )

    def after(self, arm: Arm, error: ProviderError) -> Plan:
        """The plan once `arm` has failed: sideways within its tier, then up, never down.

        Raises `error` itself where no other deployment could do better.
        """
        if not self.setup.policy.retry.fallback:
            raise error
        barred = self.options.barred.copy()
        barred[barred == Bar.NOT_NEXT] = Bar.FREE
        barred[0, self.setup.arms.index(arm)] = Bar.FAILED
        rank = TIERS.index(arm.tier)
        sideways = (self.setup.tier == rank) & (barred[0] == Bar.FREE)
        upwards = (self.setup.tier > rank) & (barred[0] == Bar.FREE)
        may_go_up = isinstance(error, (*_WORTH_ANOTHER_TIER, ContextWindowExceeded))
        may_go_sideways = (
            may_go_up or isinstance(error, AuthenticationFailed) or _unsupported(error)
        )
        if may_go_sideways and sideways.any():
            allowed = sideways
        elif may_go_up and upwards.any():
            # The next tier up, not the dearest: the request was worth no more than that.
            allowed = upwards & (self.setup.tier == self.setup.tier[upwards].min())
        else:
            raise error
        barred[0, (barred[0] == Bar.FREE) & ~allowed] = Bar.NOT_NEXT
        return replace(self, options=replace(self.options, barred=barred), failure=error)

    def facts(self) -> dict[str, Any]:
        """What the log keeps of the request: named numbers, no text."""
        shape = self.shape
        return {
            "input_tokens": shape.input_tokens,
            "input_bytes": shape.input_bytes,
            "messages": shape.messages,
            "images": shape.images,
            "needs": sorted(shape.needs),
            **{
                name: round(float(value), 4)
                for name, value in zip(DENSE_NAMES, self.features.dense, strict=True)
            },
        }

    def views(self, decision: Decision | None) -> tuple[dict[str, Any], ...]:
        """Each arm as the log keeps it: prediction, quote, propensity, and why it was not taken."""
        rows = []
        for index, (arm, quoted) in enumerate(zip(self.setup.arms, self.quotes, strict=True)):
            rank = int(self.setup.tier[index])
            view = decision.arms[index] if decision else None
            rows.append(
                {
                    "arm": arm.name,
                    "tier": arm.tier,
                    "model": arm.model,
                    "quality": round(float(self.prediction.quality[rank]), 6),
                    "quality_std": round(float(self.prediction.quality_std[rank]), 6),
                    "output_tokens": round(float(self.tokens[index]), 1),
                    "expected": quoted.expected,
                    "upper": quoted.upper,
                    "output_cap": quoted.output_cap,
                    "propensity": view.propensity if view else 0.0,
                    "rejected": view.rejected if view else None,
                }
            )
        return tuple(rows)

    def baseline(self) -> int | None:
        """Expected cost of the baseline tier's own answer: its tokens at its price."""
        rank = TIERS.index(self.setup.policy.baseline)
        members = np.flatnonzero(self.setup.tier == rank)
        able = [i for i in members if self.options.barred[0, i] in (Bar.FREE, Bar.RULE)]
        return self.quotes[(able or list(members))[0]].expected

    def _refusal(self, choices: Choices, room: Room) -> Exception:
        final = choices.barred[0]
        if (final == Bar.OVER_BUDGET).any():
            cheapest = min(
                quote.upper
                for quote, bar in zip(self.quotes, final, strict=True)
                if bar == Bar.OVER_BUDGET and quote.upper is not None
            )
            return budget_exceeded(room, cheapest)
        if (final == Bar.OVER_REQUEST_CEILING).any():
            ceiling = self.setup.objective.max_cost_per_request
            assert ceiling is not None
            cheapest = min(
                quote.upper
                for quote, bar in zip(self.quotes, final, strict=True)
                if bar == Bar.OVER_REQUEST_CEILING and quote.upper is not None
            )
            return BudgetExceeded(
                "max_cost_per_request", needed=cheapest, used=0, held=0, limit=ceiling
            )
        if self.failure is not None:
            return self.failure
        reasons = rejections(self.setup.arms, self.quotes, choices, 0, self.rule)
        names = [arm.name for arm in self.setup.arms]
        if (final == Bar.UNPRICED).any():
            unpriced = self.setup.arms[int(np.flatnonzero(final == Bar.UNPRICED)[0])]
            return UnknownPrice(unpriced.model, "a policy with a budget needs one")
        return NoCapableDeployment(
            {name: why or "" for name, why in zip(names, reasons, strict=True)}
        )


def make_plan(
    setup: Setup, request: Request, shape: Shape, features: Features, prediction: Prediction
) -> Plan:
    """Lay out the options of a request.

    Raises `InvalidRequest` for arguments whose cost nothing bounds, under a budget.
    """
    rule = match(setup.policy.rules, request, shape)
    if setup.must_be_priced:
        _refuse_unbounded(request.params)
    count = len(setup.arms)
    asked = asked_cap(request.params)
    tokens = prediction.output_tokens[setup.tier] * setup.effort
    quotes: list[Quote] = []
    barred = np.zeros((1, count), dtype=np.uint8)
    for index, arm in enumerate(setup.arms):
        able = setup.capabilities[index]
        deployment = setup.policy.deployment(arm)
        cap = output_cap(
            asked,
            deployment.max_output_tokens or setup.policy.limits.max_output_tokens,
            able.max_output_tokens,
            able.room_for_answer(shape),
        )
        barred[0, index] = _bar(shape, able, rule is not None and arm.tier not in rule.tiers)
        quotes.append(_quote(setup, request, shape, arm, able, cap, float(tokens[index])))
    options = Options(
        quality=prediction.quality[None, setup.tier],
        expected=np.array([[UNKNOWN if q.expected is None else q.expected for q in quotes]]),
        upper=np.array([[UNKNOWN if q.upper is None else q.upper for q in quotes]]),
        barred=barred,
        tier=setup.tier,
        baseline=TIERS.index(setup.policy.baseline),
    )
    return Plan(
        setup=setup,
        request=request,
        shape=shape,
        features=features,
        prediction=prediction,
        tokens=tokens,
        quotes=tuple(quotes),
        options=options,
        rule=rule.name if rule else None,
    )


def budget_exceeded(room: Room, needed: int) -> BudgetExceeded:
    """The refusal of the tightest budget in `room`."""
    state = room.tightest()
    assert state is not None
    assert state.budget.limit is not None
    return BudgetExceeded(
        state.budget.name,
        needed=needed,
        used=state.settled,
        held=state.held,
        limit=state.budget.limit,
        scope_value=state.scope_value,
        resets_at=state.resets_at,
    )


def _bar(shape: Shape, able: Capabilities, ruled_out: bool) -> Bar:
    for need, bar in _NEEDS.items():
        if need in shape.needs and need not in able.has:
            return bar
    if able.room_for_answer(shape) == 0:
        return Bar.WINDOW_TOO_SMALL
    return Bar.RULE if ruled_out else Bar.FREE


def _quote(
    setup: Setup,
    request: Request,
    shape: Shape,
    arm: Arm,
    able: Capabilities,
    cap: int,
    output_tokens: float,
) -> Quote:
    price = setup.price(arm, request.now)
    bound = input_bound(shape, able.context_window)
    if price is None or bound is None:
        return Quote(None, None, cap)
    count = samples(request.params)
    try:
        return quote(
            price,
            input_tokens=min(shape.input_tokens, bound),
            output_tokens=min(round(output_tokens), cap) * count,
            input_bound=bound,
            output_cap=cap,
            images=shape.images,
            samples=count,
            audio=_has_audio(request, shape),
            service_tier=service_tier(setup, request, arm),
            now=request.now,
        )
    except UnknownPrice:
        return Quote(None, None, cap)


def service_tier(setup: Setup, request: Request, arm: Arm) -> str | None:
    """The service tier that a call is priced at: the request's own, else the deployment's."""
    asked = request.params.get("service_tier") or setup.policy.deployment(arm).service_tier
    return None if asked is None else str(asked)


def _has_audio(request: Request, shape: Shape) -> bool:
    return bool(shape.audio_parts or request.params.get("audio"))


def _refuse_unbounded(params: Mapping[str, Any]) -> None:
    name = unbounded_surcharge(params)
    if name is not None:
        raise InvalidRequest(
            name.split(":")[0],
            f"{name} is work at the provider whose cost nothing bounds",
            allowed="under a budget, tools of type 'function'",
        )


def _unsupported(error: ProviderError) -> bool:
    return error.status == 404 or type(error.__cause__).__name__ == "UnsupportedParamsError"
