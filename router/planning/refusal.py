"""What is said where every arm of a plan is barred."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from router.decide import Bar, Choices, rejections
from router.dispatch.bounds import input_bound
from router.errors import BudgetExceeded, NoCapableDeployment, UnknownPrice
from router.money import format_usd
from router.prices import quote
from router.types import BudgetState, Room, allowed

if TYPE_CHECKING:
    from router.planning.plan import Plan


def refusal(plan: Plan, choices: Choices, room: Room) -> Exception:
    """Why no arm may be taken: the error that says what would have to change first."""
    final = choices.barred[0]
    over = np.flatnonzero(final == Bar.OVER_BUDGET).tolist()
    if over:
        cheapest = min(over, key=lambda index: plan.quotes[index].upper or 0)
        quoted = plan.quotes[cheapest]
        needed, tokens = quoted.upper or 0, plan.token_bound(cheapest, quoted)
        state = room.lacking(plan.ladder.arms[cheapest], needed, tokens, "downgrade")
        assert state is not None  # it is why the arm was barred
        return budget_exceeded(state, needed, tokens)
    if (final == Bar.OVER_REQUEST_CEILING).any():
        ceiling = plan.ladder.objective.max_cost_per_request
        assert ceiling is not None
        too_dear = [
            (quote.upper, arm.model)
            for quote, arm, bar in zip(plan.quotes, plan.ladder.arms, final, strict=True)
            if bar == Bar.OVER_REQUEST_CEILING
        ]
        known = [upper for upper, _ in too_dear if upper is not None]
        if not known:
            return UnknownPrice(too_dear[0][1], "max_cost_per_request needs one")
        return BudgetExceeded(
            "max_cost_per_request", needed=min(known), used=0, held=0, limit=ceiling
        )
    if plan.failure is not None:
        return plan.failure
    reasons = rejections(plan.ladder.arms, plan.quotes, choices, 0, plan.rule, plan.obstacles or {})
    names = [arm.name for arm in plan.ladder.arms]
    if (final == Bar.UNPRICED).any():
        return _unpriced(plan, int(np.flatnonzero(final == Bar.UNPRICED)[0]))
    return NoCapableDeployment({name: why or "" for name, why in zip(names, reasons, strict=True)})


def _unpriced(plan: Plan, index: int) -> UnknownPrice:
    """What an arm's price lacks, under a budget, for what was asked."""
    arm, able = plan.ladder.arms[index], plan.ladder.capabilities[index]
    price = plan.ladder.price(arm, plan.request.now)
    if price is None:
        return UnknownPrice(arm.model, "a policy with a budget needs one")
    bound = input_bound(plan.shape, able.context_window)
    if bound is None:
        return UnknownPrice(
            arm.model, "audio and files are bounded by its `context_window`, which is not known"
        )
    try:
        quote(
            price, input_tokens=0, output_tokens=0, input_bound=bound, output_cap=1, audio=True,
            service_tier=plan.ladder.service_tier(plan.request, arm), now=plan.request.now,
        )  # fmt: skip
    except UnknownPrice as error:
        return error
    return UnknownPrice(arm.model, "a policy with a budget needs one")


def lacking(plan: Plan, room: Room, index: int) -> str | None:
    """Which budget that asks for a downgrade has no room for an arm, in words; None where it has,
    but kept it for later requests or found it taken."""
    quoted = plan.quotes[index]
    needed, tokens = quoted.upper or 0, plan.token_bound(index, quoted)
    state = room.lacking(plan.ladder.arms[index], needed, tokens, "downgrade")
    if state is None:
        return None
    takes = {"usd": f"may cost {format_usd(needed)}", "tokens": f"may take {tokens:,} tokens"}
    return (
        f"{takes.get(state.budget.meter, 'is one more request')}, more than budget "
        f"{state.budget.name!r} has left"
    )


def budget_exceeded(state: BudgetState, usd: int, tokens: int) -> BudgetExceeded:
    """The refusal of a budget without room for `usd` nano-USD and `tokens`."""
    assert state.limit is not None
    return BudgetExceeded(
        state.budget.name,
        needed={"usd": usd, "tokens": tokens}.get(state.budget.meter, 1),
        used=state.settled,
        held=state.held,
        limit=allowed(state.budget.meter, state.limit, state.seen),
        scope_value=state.scope_value,
        resets_at=state.resets_at,
        meter=state.budget.meter,
        on_exceed=state.budget.on_exceed,
    )
