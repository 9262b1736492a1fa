"""Output caps below the one that was asked for: what is reserved is always what goes on the wire.

Two reasons lower a cap. `reserve: predicted` asks for no more than answers of this kind have in 19
of 20 cases, so that less money is held while a call runs. And where the full cap does not fit what
a budget has left, but one does that such answers seldom reach, the call is made with that one: a
budget must not refuse because `max_tokens` is large.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from router.planning.ladder import asked_effort
from router.planning.quotes import Quoter, quoter
from router.predict.effort import THINKING_TOKENS

if TYPE_CHECKING:
    from router.planning.plan import Plan
    from router.types import Quote

SHORTEST_CAP = 256  # tokens: a lowered cap is never below, whatever is predicted
# A model that reasons may do so for as long as its effort says before it answers; where nothing
# says how long, for 4,096 tokens.
SHORTEST_REASONED_ANSWER = 1_024
# A lowered cap takes no more of the room than this fraction, since others call at the same time,
# unless that is less than a few times the P95.
SHARE, TIMES = 16, 4


def floor_of(plan: Plan, index: int) -> int:
    """The least cap, in tokens, that an arm's own may be lowered to: its P95, or the shortest."""
    rank, effort = plan.ladder.token_factors[index]
    predicted = math.ceil(float(plan.prediction.output_tokens_p95[rank]) * effort)
    own = asked_effort(plan.request.params)
    asked = plan.ladder.arms[index].effort if own is None else own
    by_itself = asked is None and plan.ladder.capabilities[index].reasons
    if not by_itself and asked in (None, "none"):
        return max(predicted, SHORTEST_CAP)
    thinking = THINKING_TOKENS.get(asked or "", THINKING_TOKENS["high"])
    return max(predicted, thinking + SHORTEST_REASONED_ANSWER)


def predicted(plan: Plan) -> Plan:
    """The plan with each cap lowered to its predicted P95, where that is less."""
    quote_arm = quoter(plan.ladder, plan.request, plan.shape, plan.calls)
    return plan.with_quotes(
        [
            quote_arm(index, tokens, min(quoted.output_cap, floor_of(plan, index)))
            for index, (quoted, tokens) in enumerate(zip(plan.quotes, plan.tokens, strict=True))
        ]
    )


def within(plan: Plan, room: int) -> Plan:
    """The plan with the caps lowered of those arms that do not fit `room` nano-USD but then do.

    Each such cap is the largest whose bound is within a sixteenth of the room; where four times
    the arm's P95 is more than that, it is that, or what fits, but never below the P95.
    """
    quote_arm = quoter(plan.ladder, plan.request, plan.shape, plan.calls)
    return plan.with_quotes(
        [_within(plan, index, room, quote_arm) for index in range(len(plan.quotes))]
    )


def _within(plan: Plan, index: int, room: int, quote_arm: Quoter) -> Quote:
    quoted, tokens = plan.quotes[index], plan.tokens[index]
    low = floor_of(plan, index)
    if quoted.upper is None or quoted.upper <= room or low >= quoted.output_cap:
        return quoted
    best = quote_arm(index, tokens, low)
    if best.upper is None or best.upper > room:
        return quoted
    few, high = TIMES * low, quoted.output_cap  # the latter does not fit
    while high - low > 1:
        middle = (low + high) // 2
        tried = quote_arm(index, tokens, middle)
        share = room if middle <= few else room // SHARE
        if tried.upper is not None and tried.upper <= share:
            low, best = middle, tried
        else:
            high = middle
    return best
