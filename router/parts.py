"""What a router is made of under its policy, and what is refused when it is made."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from router.errors import ModelFileError
from router.ledger import open_ledger
from router.planning.ladder import Ladder
from router.planning.pacing import Pacer
from router.planning.plan import Plan
from router.policy import Policy
from router.predict import Predictor, load_predictor
from router.types import Decision, Room

if TYPE_CHECKING:
    from router.ledger import Ledger


def of_unused(policy: Policy, ask: Callable[[Ledger], Room]) -> Room:
    """What a policy's budgets allow where nothing was ever spent: no store is made for that."""
    unused = open_ledger("sqlite://", policy.budget_list())
    try:
        return ask(unused)
    finally:
        unused.close()


def seemed_to_fit(plan: Plan, decision: Decision, room: Room) -> bool:
    """Whether what was refused had had the room a moment before."""
    quoted = decision.view.quote
    tokens = plan.token_bound(decision.chosen, quoted)
    return room.lacking(decision.arm, quoted.upper or 0, tokens) is None


def pacer_of(ladder: Ladder) -> Pacer | None:
    """What paces the policy's spend, None where it asks for no pacing."""
    asked = ladder.policy.pacing
    if asked is None:
        return None
    return Pacer(
        asked.budget,
        [arm.name for arm in ladder.arms],
        ladder.rung,
        ladder.policy.objective.cost_weight or 0.0,
        asked.expected_requests,
        ladder.unit_costs(),
    )


def predictor_of(policy: Policy) -> Predictor:
    """The policy's own predictor, or the shipped one.

    Raises `ModelFileError` for a file that is not what the policy says it is.
    """
    own = policy.predictor.embedder if policy.predictor else None
    predictor = load_predictor(policy.predictor_path, own)
    wanted = policy.predictor.sha256 if policy.predictor else None
    if wanted is not None and predictor.hash != wanted:
        raise ModelFileError(
            str(policy.predictor_path), f"its sha256 is {predictor.hash}, the policy asks {wanted}"
        )
    return predictor


def refuse_unknown_tiers(policy: Policy, predictor: Predictor) -> None:
    """Raise `ModelFileError` where a policy has a tier that the predictor never learnt."""
    unknown = [tier for tier in policy.tiers.present if tier not in predictor.tiers]
    if unknown:
        raise ModelFileError(
            str(policy.predictor_path or predictor.name),
            f"it was trained on {', '.join(predictor.tiers)} and knows nothing of "
            f"{', '.join(unknown)}: train it with outcomes of that tier, or leave the tier out",
        )
