"""What a decision says of the conversation that it was made in."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from router.money import format_usd
from router.planning.place import of_way
from router.planning.quotes import quoter
from router.types import TIERS

if TYPE_CHECKING:
    from router.planning.plan import Plan
    from router.types import Quote, Turn


def remark(plan: Plan, chosen: int) -> str:
    """What the conversation and the deadline had to do with the choice of an arm, "" where they had
    nothing.

    Made when a decision is read, not when it is taken.
    """
    turn, way = plan.request.turn, of_way(plan.request, chosen)
    if turn is None:
        return way
    said = [_of_cache(plan, turn, chosen) if turn.arm else "", way]
    if turn.floor >= 0 and TIERS.index(plan.ladder.arms[chosen].tier) >= turn.floor:
        left = f"{turn.floor_turns} more turn{'s' if turn.floor_turns > 1 else ''}"
        said.append(f"escalated before, it keeps at least {TIERS[turn.floor]} for {left}")
    if turn.compacted is not None:
        tokens, kept, how = turn.compacted
        said.append(f"compacted from {_tokens(tokens)} to {_tokens(kept)} ({how})")
    return "; ".join(part for part in said if part)


def _of_cache(plan: Plan, turn: Turn, chosen: int) -> str:
    names = [arm.name for arm in plan.ladder.arms]
    warm = turn.warm.get(turn.arm, 0)
    if not warm or turn.arm not in names:
        return ""
    last = names.index(turn.arm)
    if chosen == last:
        other = _elsewhere(plan, chosen)
        if other is not None:
            dearer, tier = other
            return f"keeps its model: switching to {tier} would re-read {_tokens(warm)}, {dearer}"
        saved = _difference(_cold(plan, chosen), plan.quotes[chosen])
        return f"keeps its model: {_tokens(warm)} are in its cache, {saved} less than anew"
    if turn.warm.get(names[chosen]):
        return f"leaves {plan.ladder.arms[last].tier}: {names[chosen]} has a cache of it too"
    filled = replace(turn, warm={**turn.warm, names[chosen]: warm})
    dearer = _difference(plan.quotes[chosen], _quoted(plan, chosen, filled))
    return f"leaves {plan.ladder.arms[last].tier}: the switch re-reads {_tokens(warm)}, {dearer}"


def _elsewhere(plan: Plan, chosen: int) -> tuple[str, str] | None:
    """What re-reading costs, and where, for the best arm of another tier: the cheapest one."""
    turn = plan.request.turn
    assert turn is not None
    names = [arm.name for arm in plan.ladder.arms]
    open_to = [
        index
        for index in range(len(names))
        if not plan.options.barred[0, index] and plan.ladder.tier[index] != plan.ladder.tier[chosen]
        and plan.quotes[index].expected is not None and names[index] not in turn.warm
    ]  # fmt: skip
    if not open_to:
        return None
    index = min(open_to, key=lambda at: plan.quotes[at].expected or 0)
    filled = replace(turn, warm={**turn.warm, names[index]: turn.warm[names[chosen]]})
    cost = _difference(plan.quotes[index], _quoted(plan, index, filled))
    return cost, plan.ladder.arms[index].tier


def _cold(plan: Plan, index: int) -> Quote:
    """An arm's quote if no cache were known."""
    assert plan.request.turn is not None
    return _quoted(plan, index, replace(plan.request.turn, warm={}))


def _quoted(plan: Plan, index: int, turn: Turn) -> Quote:
    request = replace(plan.request, turn=turn)
    quote_arm = quoter(plan.ladder, request, plan.shape, plan.calls)
    return quote_arm(index, plan.tokens[index], plan.quotes[index].output_cap)


def _difference(dear: Quote, cheap: Quote) -> str:
    if dear.expected is None or cheap.expected is None:
        return "at a price that is unknown"
    return format_usd(max(0, dear.expected - cheap.expected))


def _tokens(count: int) -> str:
    return f"{count:,} tokens" if count < 10_000 else f"{count / 1000:.0f}k tokens"
