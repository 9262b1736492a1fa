"""The options of one request: its arms, what each can take, costs and is likely to achieve.

A plan is immutable. What an attempt teaches (an arm failed) makes a new plan, from which the same
rule decides again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from router.caps import predicted, with_quotes, within
from router.conversations.words import place, remark
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
    cautious,
    choose,
    decision,
)
from router.decide.explain import UNOBSTRUCTED
from router.dispatch.bounds import (
    asked_cap,
    input_bound,
    least,
    samples,
    unbounded_surcharge,
)
from router.errors import (
    AuthenticationFailed,
    ContextWindowExceeded,
    InvalidRequest,
    MalformedReply,
    ProviderError,
    ProviderTimeout,
    ProviderUnavailable,
    RateLimited,
)
from router.ladder import NEEDS, Ladder, room_for_prompt
from router.money import MAX_NANO
from router.policy.rules import match
from router.predict.features import DENSE_NAMES
from router.quotes import quoter
from router.refusal import refusal
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
    from numpy.typing import NDArray

    from router.policy.rules import Rule
    from router.types import Ints

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
    tokens: tuple[float, ...]  # expected output tokens of each arm
    quotes: tuple[Quote, ...]
    options: Options
    rule: str | None
    failure: ProviderError | None = None
    full: tuple[Quote, ...] | None = None  # with the caps that were asked for, where these are less
    obstacles: Obstacles | None = None  # what keeps arms from being called just now
    spilled: str | None = None  # what kept the best arm from being called
    look: Look | None = None  # how answers are looked at, None where the first is handed out

    def decide(
        self,
        room: Room,
        objective: Objective | None = None,
        exploration: Exploration | None = None,
    ) -> Decision:
        """Choose an arm for the room there is, by `objective` instead of the policy's own if given,
        with so much left to chance as `exploration` says (nothing after a failure); where none fits
        the room, one with a lower output cap.

        Raises `NoCapableDeployment`, `UnknownPrice` or `BudgetExceeded` where every arm is barred,
        or the provider's last error where the arms that were left have failed.
        """
        objective = objective or self.ladder.objective
        kept = objective.pace.kept if objective.pace else 0
        if self.failure is not None:
            exploration = None
        if exploration is not None and room.budgets:
            exploration = replace(exploration, roomy=self._roomy(room))
        choices, left = self.choose(objective, room, kept, exploration), room.remaining()
        if kept and choices.arm[0] < 0:  # for this request it was kept
            choices = self.choose(objective, room)
        # A judge that is cut short says nothing: the router's own calls go in full or not at all.
        own = self.request.purpose != "serve"
        if left is not None and not own and not self._fits(choices, left):
            lowered = within(self, left)
            again = lowered.choose(objective, room)
            if lowered._fits(again, left):
                return lowered.decision(again, objective)
        # A fallback, or a way around what is full, goes sideways and up, never down.
        first = self.failure is None and self.spilled is None
        if choices.arm[0] < 0 and first and (self.options.barred == Bar.HELD_ABOVE).any():
            return self._let_down().decide(room, objective, exploration)
        if choices.arm[0] < 0:
            raise refusal(self, choices, room) from self.failure
        return self.decision(choices, objective)

    def _let_down(self) -> Plan:
        """The plan without the tier that its conversation is kept at or above."""
        barred = self.options.barred.copy()
        barred[barred == Bar.HELD_ABOVE] = Bar.FREE
        return replace(self, options=replace(self.options, barred=barred))

    def in_full(self) -> Plan:
        """The plan with the caps that were asked for."""
        return self if self.full is None else replace(with_quotes(self, self.full), full=None)

    def is_cut(self, decision: Decision, response: Any) -> bool:
        """Whether an answer ended at a cap that was lowered to a prediction."""
        if self.full is None:
            return False
        cap, asked = decision.view.quote.output_cap, self.full[decision.chosen].output_cap
        return cap < asked and any(each.finish_reason == "length" for each in response.choices)

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

    def _roomy(self, room: Room) -> NDArray[np.bool_]:
        """Which arms every budget has room for just now, (1, A)."""
        bounds = (
            (arm, quoted.upper or 0, self.token_bound(index, quoted))
            for index, (arm, quoted) in enumerate(zip(self.ladder.arms, self.quotes, strict=True))
        )
        return np.array([[room.lacking(*bound) is None for bound in bounds]])

    def _fits(self, choices: Choices, left: int) -> bool:
        arm = int(choices.arm[0])
        return arm >= 0 and int(self.options.upper[0, arm]) <= left

    def decision(
        self, choices: Choices, objective: Objective, looks: str | None = None
    ) -> Decision:
        """A choice as a decision. `looks`: what led to it, where an answer was looked at."""
        if looks is None and self.look is not None:
            looks = f"its answer is looked at, up to {self.look.steps} calls"
        return decision(
            self.ladder.arms,
            self.quotes,
            self.options,
            choices,
            objective,
            rule=self.rule,
            baseline=self.baseline(),
            failure=self.spilled or (type(self.failure).__name__ if self.failure else None),
            novel=bool(self.prediction.novel),
            obstacles=self.obstacles or UNOBSTRUCTED,
            looks=looks,
            remark=partial(remark, self) if self.request.turn else None,
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
            "novel": bool(self.prediction.novel),
            **place(self.request.turn),
            **{  # a text embedder's vector, which comes after them, is not kept
                name: round(float(value), 4)
                for name, value in zip(DENSE_NAMES, self.features.dense, strict=False)
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
        """Most tokens that the prompt and the answers of an arm can be billed as, at a quote."""
        window = self.ladder.capabilities[index].context_window
        prompt = input_bound(self.shape, window)
        answers = quoted.output_cap * samples(self.request.params)
        # Where nothing bounds the prompt, no limit on tokens has room for it.
        return MAX_NANO if prompt is None else min(prompt + answers, MAX_NANO)

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


def make_plan(
    ladder: Ladder, request: Request, shape: Shape, features: Features, prediction: Prediction
) -> Plan:
    """Lay out the options of a request.

    Raises `InvalidRequest` for arguments whose cost nothing bounds, under a budget.
    """
    rule = match(ladder.policy.rules, request, shape)
    if ladder.must_be_priced or ladder.policy.limits_tokens:
        _refuse_unbounded(request.params)
    prompt = room_for_prompt(shape)
    rooms = [able.room_for_answer(prompt) for able in ladder.capabilities]
    of_tier = prediction.output_tokens.tolist()
    tokens = tuple([of_tier[rank] * effort for rank, effort in ladder.token_factors])
    quotes = _quotes(ladder, request, shape, rooms, tokens)
    expected, upper = np.array(
        (
            ([UNKNOWN if quoted.expected is None else quoted.expected for quoted in quotes],),
            ([UNKNOWN if quoted.upper is None else quoted.upper for quoted in quotes],),
        )
    )
    quality = prediction.quality
    if prediction.novel:
        quality = cautious(quality, prediction.quality_std, np.arange(len(TIERS)), ladder.baseline)
    options = Options(
        quality=quality.take(ladder.tier)[None],
        expected=expected,
        upper=upper,
        barred=_bars(ladder, shape, rooms, rule, request.turn.floor if request.turn else -1),
        tier=ladder.tier,
        baseline=ladder.baseline,
    )
    plan = Plan(
        ladder=ladder,
        request=request,
        shape=shape,
        features=features,
        prediction=prediction,
        tokens=tokens,
        quotes=quotes,
        options=options,
        rule=rule.name if rule else None,
    )
    # A stream cannot be asked for again once its beginning has been read: it keeps its cap.
    if ladder.policy.reserve == "predicted" and not request.stream:
        return replace(predicted(plan), full=quotes)
    return plan


def _bars(
    ladder: Ladder, shape: Shape, rooms: Sequence[int | None], rule: Rule | None, floor: int
) -> NDArray[np.uint8]:
    """Why each arm may not be chosen, whatever it costs: (1, A) codes of `Bar`. `floor`: the tier
    (index) that a conversation is kept at or above."""
    if not shape.needs and rule is None and 0 not in rooms and floor < 0:
        return ladder.nothing_barred
    barred = ladder.nothing_barred.copy()
    for index, (arm, able) in enumerate(zip(ladder.arms, ladder.capabilities, strict=True)):
        lacks = shape.needs - able.has
        if lacks:
            barred[0, index] = next(bar for need, bar in NEEDS.items() if need in lacks)
        elif rooms[index] == 0:
            barred[0, index] = Bar.WINDOW_TOO_SMALL
        elif rule is not None and arm.tier not in rule.tiers:
            barred[0, index] = Bar.RULE
        elif TIERS.index(arm.tier) < floor:
            barred[0, index] = Bar.HELD_ABOVE
    return barred


def _quotes(
    ladder: Ladder,
    request: Request,
    shape: Shape,
    rooms: Sequence[int | None],
    output_tokens: Sequence[float],
) -> tuple[Quote, ...]:
    """Each arm's quote with the cap that was asked for. `output_tokens`: of one answer."""
    asked, quote_arm = asked_cap(request.params), quoter(ladder, request, shape)
    longest = ladder.output_caps
    if asked is not None:
        longest = tuple([min(asked, cap) for cap in longest])
    return tuple(
        [
            quote_arm(index, expected, least(cap, room))
            for index, (expected, cap, room) in enumerate(
                zip(output_tokens, longest, rooms, strict=True)
            )
        ]
    )


def _refuse_unbounded(params: Mapping[str, Any]) -> None:
    name = unbounded_surcharge(params)
    if name is not None:
        raise InvalidRequest(
            name.split(":")[0],
            f"{name} is work at the provider whose cost nothing bounds",
            allowed="under a budget, what the router can put a bound on: text and audio, tools of "
            "type 'function', and one cap as `max_tokens`",
        )


def _unsupported(error: ProviderError) -> bool:
    return error.status == 404 or type(error.__cause__).__name__ == "UnsupportedParamsError"
