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
    Options,
    choose,
    decision,
    rejections,
)
from router.dispatch.bounds import (
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
from router.ladder import NEEDS, Capabilities, Ladder
from router.policy.rules import match
from router.predict.features import DENSE_NAMES
from router.prices import quote
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
    from router.types import Floats

# Another deployment may do better after these; after any other the same request fails again.
_WORTH_ANOTHER_TIER = (RateLimited, ProviderUnavailable, ProviderTimeout, MalformedReply)


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that deciding about one request needs, but the room in the budgets."""

    ladder: Ladder
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
            self.ladder.objective,
            np.array([UNLIMITED if left is None else left]),
            priced=self.ladder.must_be_priced,
        )
        if choices.arm[0] < 0:
            raise self._refusal(choices, room) from self.failure
        chosen = decision(
            self.ladder.arms,
            self.quotes,
            self.options,
            choices,
            self.ladder.objective,
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
        if not self.ladder.policy.retry.fallback:
            raise error
        barred = self.options.barred.copy()
        barred[barred == Bar.NOT_NEXT] = Bar.FREE
        barred[0, self.ladder.arms.index(arm)] = Bar.FAILED
        rank = TIERS.index(arm.tier)
        sideways = (self.ladder.tier == rank) & (barred[0] == Bar.FREE)
        upwards = (self.ladder.tier > rank) & (barred[0] == Bar.FREE)
        may_go_up = isinstance(error, (*_WORTH_ANOTHER_TIER, ContextWindowExceeded))
        may_go_sideways = (
            may_go_up or isinstance(error, AuthenticationFailed) or _unsupported(error)
        )
        if may_go_sideways and sideways.any():
            allowed = sideways
        elif may_go_up and upwards.any():
            # The next tier up, not the dearest: the request was worth no more than that.
            allowed = upwards & (self.ladder.tier == self.ladder.tier[upwards].min())
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
        for index, (arm, quoted) in enumerate(zip(self.ladder.arms, self.quotes, strict=True)):
            rank = int(self.ladder.tier[index])
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
        rank = TIERS.index(self.ladder.policy.baseline)
        members = np.flatnonzero(self.ladder.tier == rank)
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
            ceiling = self.ladder.objective.max_cost_per_request
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
        reasons = rejections(self.ladder.arms, self.quotes, choices, 0, self.rule)
        names = [arm.name for arm in self.ladder.arms]
        if (final == Bar.UNPRICED).any():
            unpriced = self.ladder.arms[int(np.flatnonzero(final == Bar.UNPRICED)[0])]
            return UnknownPrice(unpriced.model, "a policy with a budget needs one")
        return NoCapableDeployment(
            {name: why or "" for name, why in zip(names, reasons, strict=True)}
        )


def make_plan(
    ladder: Ladder, request: Request, shape: Shape, features: Features, prediction: Prediction
) -> Plan:
    """Lay out the options of a request.

    Raises `InvalidRequest` for arguments whose cost nothing bounds, under a budget.
    """
    rule = match(ladder.policy.rules, request, shape)
    if ladder.must_be_priced:
        _refuse_unbounded(request.params)
    count = len(ladder.arms)
    asked = asked_cap(request.params)
    tokens = prediction.output_tokens[ladder.tier] * ladder.effort
    quotes: list[Quote] = []
    barred = np.zeros((1, count), dtype=np.uint8)
    for index, arm in enumerate(ladder.arms):
        able = ladder.capabilities[index]
        deployment = ladder.policy.deployment(arm)
        cap = output_cap(
            asked,
            deployment.max_output_tokens or ladder.policy.limits.max_output_tokens,
            able.max_output_tokens,
            able.room_for_answer(shape),
        )
        barred[0, index] = _bar(shape, able, rule is not None and arm.tier not in rule.tiers)
        quotes.append(_quote(ladder, request, shape, arm, able, cap, float(tokens[index])))
    options = Options(
        quality=prediction.quality[None, ladder.tier],
        expected=np.array([[UNKNOWN if q.expected is None else q.expected for q in quotes]]),
        upper=np.array([[UNKNOWN if q.upper is None else q.upper for q in quotes]]),
        barred=barred,
        tier=ladder.tier,
        baseline=TIERS.index(ladder.policy.baseline),
    )
    return Plan(
        ladder=ladder,
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
    for need, bar in NEEDS.items():
        if need in shape.needs and need not in able.has:
            return bar
    if able.room_for_answer(shape) == 0:
        return Bar.WINDOW_TOO_SMALL
    return Bar.RULE if ruled_out else Bar.FREE


def _quote(
    ladder: Ladder,
    request: Request,
    shape: Shape,
    arm: Arm,
    able: Capabilities,
    cap: int,
    output_tokens: float,
) -> Quote:
    price = ladder.price(arm, request.now)
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
            service_tier=ladder.service_tier(request, arm),
            now=request.now,
        )
    except UnknownPrice:
        return Quote(None, None, cap)


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
