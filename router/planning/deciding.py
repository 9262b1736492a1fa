"""Deciding among a plan's options for the room there is in the budgets."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from router.decide import Bar, Choices, Exploration, Objective, decision
from router.decide.explain import UNOBSTRUCTED
from router.planning.caps import within
from router.planning.plan import Plan
from router.planning.refusal import lacking, refusal
from router.planning.remarks import remark

if TYPE_CHECKING:
    from router.types import Decision, Room


def decide(
    plan: Plan,
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
    objective = objective or plan.ladder.objective
    kept = objective.pace.kept if objective.pace else 0
    if plan.failure is not None or objective.alarm:
        exploration = None
    if exploration is not None and room.budgets:
        exploration = replace(exploration, roomy=plan.roomy(room))
    choices, left = plan.choose(objective, room, kept, exploration), room.remaining()
    if kept and choices.arm[0] < 0:  # for this request it was kept
        choices = plan.choose(objective, room)
    # A judge that is cut short says nothing: the router's own calls go in full or not at all.
    own = plan.request.purpose != "serve"
    if left is not None and not own and not _fits(plan, choices, left):
        lowered = within(plan, left)
        again = lowered.choose(objective, room)
        if _fits(lowered, again, left):
            return decision_of(lowered, again, objective, room)
    # A fallback, or a way around what is full, goes sideways and up, never down.
    first = plan.failure is None and plan.spilled is None
    if choices.arm[0] < 0 and first and (plan.options.barred == Bar.HELD_ABOVE).any():
        return decide(plan.let_down(), room, objective, exploration)
    if choices.arm[0] < 0:
        raise refusal(plan, choices, room) from plan.failure
    return decision_of(plan, choices, objective, room)


def decision_of(
    plan: Plan, choices: Choices, objective: Objective, room: Room, looks: str | None = None
) -> Decision:
    """A choice as a decision. `room`: what it was made for; `looks`: what led to it, where an
    answer was looked at."""
    if looks is None and plan.look is not None:
        looks = f"its answer is looked at, up to {plan.look.steps} calls"
    return decision(
        plan.ladder.arms,
        plan.quotes,
        plan.options,
        choices,
        objective,
        rule=plan.rule,
        baseline=plan.baseline(),
        failure=plan.spilled or (type(plan.failure).__name__ if plan.failure else None),
        novel=bool(plan.prediction.novel),
        obstacles=plan.obstacles or UNOBSTRUCTED,
        looks=looks,
        remark=partial(remark, plan) if plan.request.turn or plan.request.deadline else None,
        lacks=partial(lacking, plan, room) if room.budgets else None,
    )


def _fits(plan: Plan, choices: Choices, left: int) -> bool:
    """Whether the best arm does, whatever was drawn: what is done where it does not must not
    depend on the draw, or the chances in the log would not be those of what was done."""
    arm = int(choices.best[0])
    return arm >= 0 and int(plan.options.upper[0, arm]) <= left
