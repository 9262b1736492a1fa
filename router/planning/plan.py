"""The options of one request: its arms, what each can take, costs and is likely to achieve.

A plan is immutable. What an attempt teaches (an arm failed) makes a new plan, from which the same
rule decides again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from router.decide import (
    UNKNOWN,
    UNLIMITED,
    Bar,
    Choices,
    Exploration,
    Look,
    Objective,
    Obstacles,
    Options,
    choose,
)
from router.dispatch.bounds import (
    beyond_cap,
    input_bound,
    samples,
)
from router.errors import (
    AuthenticationFailed,
    ContextWindowExceeded,
    MalformedReply,
    ProviderError,
    ProviderTimeout,
    ProviderUnavailable,
    RateLimited,
)
from router.money import MAX_NANO
from router.planning.ladder import Ladder
from router.planning.place import place
from router.planning.quotes import quoter
from router.predict.features import DENSE_NAMES
from router.types import (
    TIERS,
    Arm,
    ArmView,
    Decision,
    Features,
    Prediction,
    Quote,
    Request,
    Room,
    Shape,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from router.types import Floats, Ints

LACKING = -2  # less than any amount of money, an unknown one (-1) too
# A baseline that only a rule, its load or the conversation bars is what savings are measured by.
_ABLE = (Bar.FREE, Bar.RULE, Bar.AT_CAPACITY, Bar.CIRCUIT_OPEN, Bar.UNHEALTHY, Bar.HELD_ABOVE)
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
    quality: Floats  # (A,) P(good) of each arm as predicted; options have it with care
    tokens: tuple[float, ...]  # expected output tokens of one answer of each arm
    calls: tuple[float, ...]  # expected number of calls of each arm, 1 but for votes
    quotes: tuple[Quote, ...]
    options: Options
    rule: str | None
    failure: ProviderError | None = None
    full: tuple[Quote, ...] | None = None  # with the caps that were asked for, where these are less
    obstacles: Obstacles | None = None  # what keeps arms from being called just now
    spilled: str | None = None  # what kept the best arm from being called
    look: Look | None = None  # how answers are looked at, None where the first is handed out

    def let_down(self) -> Plan:
        """The plan without the tier that its conversation is kept at or above."""
        barred = self.options.barred.copy()
        barred[barred == Bar.HELD_ABOVE] = Bar.FREE
        return replace(self, options=replace(self.options, barred=barred))

    def with_quotes(self, quotes: Sequence[Quote]) -> Plan:
        """The plan with other quotes, one for each arm."""
        money = [
            [UNKNOWN if amount is None else amount for amount in amounts]
            for amounts in zip(*((quoted.expected, quoted.upper) for quoted in quotes), strict=True)
        ]
        expected, upper = np.array(money).reshape(2, 1, -1)
        options = replace(self.options, expected=expected, upper=upper)
        return replace(self, quotes=tuple(quotes), options=options)

    def in_full(self) -> Plan:
        """The plan with the caps that were asked for."""
        return self if self.full is None else replace(self.with_quotes(self.full), full=None)

    def is_cut(self, decision: Decision, response: Any) -> bool:
        """Whether an answer ended at a cap that was lowered to a prediction."""
        return self.is_lowered(decision) and any(
            each.finish_reason == "length" for each in response.choices
        )

    def is_lowered(self, decision: Decision) -> bool:
        """Whether a decision's cap was lowered to a prediction."""
        if self.full is None:
            return False
        return decision.view.quote.output_cap < self.full[decision.chosen].output_cap

    def requoted(self, decision: Decision) -> Decision:
        """A decision at this plan's quotes."""

        def explain() -> tuple[str, tuple[ArmView, ...]]:
            both = zip(decision.arms, self.quotes, strict=True)
            return decision.reason, tuple(replace(view, quote=quoted) for view, quoted in both)

        return replace(decision, explain=explain)

    def going_out(self, decision: Decision, now: float) -> tuple[Plan, Decision]:
        """The plan and a decision as a call goes out at `now`: quoted anew where the price of its
        arm has changed since, by date."""
        ways, prices = self.request.ways, self.ladder.prices[decision.chosen]
        quoted_at = ways[decision.chosen].at if ways else self.request.now
        if prices.at(now) is prices.at(quoted_at):
            return self, decision
        request = replace(self.request, now=now, ways=tuple(replace(way, at=now) for way in ways))
        quote_arm = quoter(self.ladder, request, self.shape, self.calls)
        every = enumerate(zip(self.tokens, self.quotes, strict=True))
        quotes = [quote_arm(at, tokens, quoted.output_cap) for at, (tokens, quoted) in every]
        plan = self.with_quotes(quotes)
        return plan, plan.requoted(decision)

    def choose(
        self,
        objective: Objective,
        room: Room,
        kept: int = 0,
        exploration: Exploration | None = None,
    ) -> Choices:
        """The bare choice. `kept`: nano-USD of the room that are for later requests."""
        return choose(
            self.options,
            objective,
            self._left(room) - kept,
            priced=self.ladder.must_be_priced,
            exploration=exploration,
            look=self.look,
        )

    def roomy(self, room: Room) -> NDArray[np.bool_]:
        """Which arms every budget has room for just now, (1, A)."""
        bounds = (
            (arm, quoted.upper or 0, self.token_bound(index, quoted))
            for index, (arm, quoted) in enumerate(zip(self.ladder.arms, self.quotes, strict=True))
        )
        return np.array([[room.lacking(*bound) is None for bound in bounds]])

    def after(self, arm: Arm, error: ProviderError) -> Plan:
        """The plan once `arm` has failed: sideways within its tier, then up, never down.

        Raises `error` itself where no other deployment could do better.
        """
        if not self.ladder.policy.retry.fallback:
            raise error
        barred = self.options.barred.copy()
        barred[barred == Bar.NOT_NEXT] = Bar.FREE
        rank, failed = TIERS.index(arm.tier), self.ladder.arms.index(arm)
        if barred[0, failed] == Bar.HELD_ABOVE:  # its conversation was let down to it
            barred[barred == Bar.HELD_ABOVE] = Bar.FREE
        # What refused one effort may take another; a deployment that is out of order takes none.
        elsewhere = isinstance(error, (*_WORTH_ANOTHER_TIER, AuthenticationFailed))
        barred[0, self.ladder.ways_of(failed) if elsewhere else [failed]] = Bar.FAILED
        free = barred[0] == Bar.FREE
        sideways = (self.ladder.rung == self.ladder.rung[failed]) & free
        if not sideways.any():
            sideways = (self.ladder.tier == rank) & free
        upwards = (self.ladder.tier > rank) & free
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
            "novel": bool(self.prediction.novel),
            **place(self.request),
            **({"drift": self.ladder.objective.alarm} if self.ladder.objective.alarm else {}),
            **{  # a text embedder's vector, which comes after them, is not kept
                name: round(float(value), 4)
                for name, value in zip(DENSE_NAMES, self.features.dense, strict=False)
            },
        }

    def views(self, decision: Decision | None) -> tuple[dict[str, Any], ...]:
        """Each arm as the log keeps it: prediction, quote, propensity, and why it was not taken."""
        rows = []
        std = self.ladder.quality_std(self.prediction.quality_std, self.quality)
        for index, (arm, quoted) in enumerate(zip(self.ladder.arms, self.quotes, strict=True)):
            view = decision.arms[index] if decision else None
            rows.append(
                {
                    "arm": arm.name,
                    "tier": arm.tier,
                    "model": arm.model,
                    "quality": round(float(self.quality[index]), 6),
                    "quality_std": round(float(std[index]), 6),
                    "output_tokens": round(self.tokens[index], 1),
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
        members = self.ladder.baseline_arms
        barred = self.options.barred[0].tolist()
        for index in members:
            if barred[index] in _ABLE:
                return self.quotes[index].expected
        return self.quotes[members[0]].expected

    def token_bound(self, index: int, quoted: Quote) -> int:
        """Most tokens that the prompts and the answers of an arm can be billed as, at a quote."""
        able, params = self.ladder.capabilities[index], self.request.params
        prompt = input_bound(self.shape, able.context_window)
        answer = quoted.output_cap + able.reasoning_beyond_cap + beyond_cap(params)
        answers = answer * samples(params)
        # Where nothing bounds the prompt, no limit on tokens has room for it.
        times = self.ladder.arms[index].samples
        return MAX_NANO if prompt is None else min(times * (prompt + answers), MAX_NANO)

    def _left(self, room: Room) -> Ints:
        """Nano-USD left for each arm (1, A) in the budgets that ask for a downgrade, below every
        amount where other things than money are used up; (1,) where all arms pay alike."""
        asking = [
            state
            for state in room.budgets
            if state.remaining is not None and state.budget.on_exceed == "downgrade"
        ]
        if all(s.budget.meter == "usd" and not s.depends_on_arm for s in asking):
            return np.array([min([s.remaining or 0 for s in asking], default=UNLIMITED)])
        left = [
            LACKING
            if room.lacking(arm, 0, self.token_bound(index, self.quotes[index]), "downgrade")
            else min(
                (
                    state.remaining or 0
                    for state in asking
                    if state.budget.meter == "usd" and state.pays_for(arm)
                ),
                default=UNLIMITED,
            )
            for index, arm in enumerate(self.ladder.arms)
        ]
        return np.array([left])


def _unsupported(error: ProviderError) -> bool:
    return error.status == 404 or type(error.__cause__).__name__ == "UnsupportedParamsError"
