"""From a request to its plan: what each arm can take, would cost, and is likely to achieve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from router.decide import UNKNOWN, Bar, Options
from router.dispatch.bounds import asked_cap, least, unbounded_surcharge
from router.errors import InvalidRequest
from router.planning.caps import predicted
from router.planning.ladder import NEEDS, SHORTEST_ANSWER, Ladder, asked_effort, room_for_prompt
from router.planning.plan import Plan
from router.planning.quotes import quoter
from router.policy.rules import match
from router.types import TIERS, Features, Prediction, Quote, Request, Shape

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from router.policy.rules import Rule


def make_plan(
    ladder: Ladder,
    request: Request,
    shape: Shape,
    features: Features,
    prediction: Prediction,
    *,
    whole: bool = True,
) -> Plan:
    """Lay out the options of a request. `whole`: whether answers are known before they are handed
    out, as those of a vote must be; not so in a stream.

    Raises `InvalidRequest` for arguments whose cost nothing bounds, under a budget.
    """
    rule = match(ladder.policy.rules, request, shape)
    if ladder.must_be_priced or ladder.policy.limits_tokens:
        _refuse_unbounded(request.params)
    prompt = room_for_prompt(shape)
    own_effort = asked_effort(request.params)
    thinking = ladder.thinking if own_effort is None else (0,) * len(ladder.arms)
    rooms = [
        able.room_for_answer(prompt, least_answer=SHORTEST_ANSWER + think)
        for able, think in zip(ladder.capabilities, thinking, strict=True)
    ]
    of_tier = prediction.output_tokens.tolist()
    factors = ladder.token_factors if own_effort is None else ladder.factors_at(own_effort)
    tokens = tuple([of_tier[rank] * factor for rank, factor in factors])
    quality = ladder.quality(prediction.quality)
    calls = ladder.calls(prediction.quality)
    quotes = _quotes(ladder, request, shape, rooms, tokens, thinking, calls)
    expected, upper = np.array(
        (
            ([UNKNOWN if quoted.expected is None else quoted.expected for quoted in quotes],),
            ([UNKNOWN if quoted.upper is None else quoted.upper for quoted in quotes],),
        )
    )
    options = Options(
        quality=ladder.careful(prediction, quality)[None],
        expected=expected,
        upper=upper,
        barred=_bars(
            *(ladder, shape, rooms, rule, request.turn.floor if request.turn else -1),
            *(own_effort is not None, ladder.without_votes(request, shape, whole=whole)),
        ),
        rung=ladder.rung,
        baseline=ladder.baseline_rung,
    )
    plan = Plan(
        ladder=ladder,
        request=request,
        shape=shape,
        features=features,
        prediction=prediction,
        quality=quality,
        tokens=tokens,
        calls=calls,
        quotes=quotes,
        options=options,
        rule=rule.name if rule else None,
    )
    # A stream cannot be asked for again once its beginning has been read: it keeps its cap.
    if ladder.policy.reserve == "predicted" and not request.stream:
        return replace(predicted(plan), full=quotes)
    return plan


def _bars(
    ladder: Ladder,
    shape: Shape,
    rooms: Sequence[int | None],
    rule: Rule | None,
    floor: int,
    own_effort: bool,
    no_votes: Mapping[int, int],
) -> NDArray[np.uint8]:
    """Why each arm may not be chosen, whatever it costs: (1, A) codes of `Bar`. `floor`: the tier
    (index) that a conversation is kept at or above; `own_effort`: whether the request sets its
    reasoning effort itself; `no_votes`: the bars of votes (by index) that cannot be held."""
    others = ladder.other_efforts if own_effort else frozenset()
    plain = not (others or no_votes)
    if not shape.needs and rule is None and 0 not in rooms and floor < 0 and plain:
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
        elif index in others:
            barred[0, index] = Bar.OWN_EFFORT
        elif index in no_votes:
            barred[0, index] = no_votes[index]
        elif TIERS.index(arm.tier) < floor:  # the last: where nothing else fits it is lifted
            barred[0, index] = Bar.HELD_ABOVE
    return barred


def _quotes(
    ladder: Ladder,
    request: Request,
    shape: Shape,
    rooms: Sequence[int | None],
    output_tokens: Sequence[float],
    thinking: Sequence[int],
    calls: Sequence[float],
) -> tuple[Quote, ...]:
    """Each arm's quote with the cap that was asked for and, on top of it, what an effort that the
    policy asks for may think. `output_tokens`: of one answer; `calls`: how many there will be."""
    asked, quote_arm = asked_cap(request.params), quoter(ladder, request, shape, calls)
    longest = ladder.output_caps
    if asked is not None:
        longest = tuple([min(asked, cap) for cap in longest])
    if any(thinking):
        most = [able.max_output_tokens for able in ladder.capabilities]
        longest = tuple(
            [
                least(cap + think, able) if think else cap
                for cap, think, able in zip(longest, thinking, most, strict=True)
            ]
        )
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
