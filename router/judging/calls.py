"""Calls of the router's own: each a request of the usual kind, reserved, sent and settled.

A policy of one tier is derived from the caller's, with the run's ceiling as one more budget, and a
`Router` walks under it. So what holds for callers' requests (the sound bound before, the exact bill
after, retries, timeouts, the log) holds here, and no code but the usual one spends money.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from router.dispatch.effects import run
from router.ids import new_request_id
from router.log.base import JUDGED
from router.money import usd_text
from router.pipeline import Router
from router.policy import Policy
from router.policy.budgets import BudgetLimit
from router.policy.calling import Limits
from router.policy.deployment import Deployment
from router.policy.schema import Objective, Tiers
from router.policy.storage import LedgerOptions
from router.predict import Predictor
from router.prices import PriceBook
from router.types import Purpose, Request, Tier

CEILING = "judging, this run"  # the budget's name
RUN = "judging"  # a scope: the run that pays
_LARGEST = 100_000_000  # bytes: a judge reads a request and two answers to it


@dataclass(frozen=True, slots=True)
class Account:
    """Who pays for a run: `name` is its value of the scope `RUN`, `ceiling` in nano-USD."""

    name: str
    ceiling: int

    def budget(self) -> BudgetLimit:
        return BudgetLimit.model_validate(
            {
                "name": CEILING,
                "limit": usd_text(self.ceiling),
                "scope": RUN,
                "value": self.name,
                "purpose": "any",
            }
        )


class Caller:
    """Calls the deployments of one tier for one `purpose`, never beyond the account's ceiling.

    Parameters: `longest`, the most output tokens that a call may ask for.
    """

    def __init__(
        self,
        policy: Policy,
        tier: Tier,
        deployments: Sequence[Deployment],
        purpose: Purpose,
        account: Account,
        *,
        longest: int,
        store: str,
        predictor: Predictor | None,
        prices: PriceBook | None,
        clock: Callable[[], float] | None,
    ):
        derived = _derived(policy, tier, deployments, account, longest)
        self.router = Router(derived, store=store, predictor=predictor, prices=prices, clock=clock)
        self._purpose, self._account = purpose, account

    def request(self, messages: Sequence[Mapping[str, Any]], cap: int, judged: str) -> Request:
        """A call with `messages` and an output cap, for the sake of the request `judged`."""
        now = self.router.now()
        return Request(
            request_id=new_request_id(now),
            messages=tuple(messages),
            params={"max_tokens": cap},
            now=now,
            scopes={RUN: self._account.name, JUDGED: judged},
            purpose=self._purpose,
        )

    def lacks(self, request: Request, calls: int) -> str | None:
        """The name of a budget without room for so many calls like this one; None if all have it.

        Asked before the first of several calls that are worth nothing without each other.
        """
        decision = self.router.preview(request)
        quoted = decision.view.quote
        tokens = self.router.plan(request).token_bound(decision.chosen, quoted)
        state = self.router.room(request).lacking(
            decision.arm, quoted.upper or 0, tokens, "block", calls=calls
        )
        return None if state is None else state.budget.name

    def send(self, request: Request) -> Any:
        """Reserve, send and settle. Raises what `Router.completion` raises."""
        return run(self.router.walk(request))

    def close(self) -> None:
        self.router.close()


def _derived(
    policy: Policy,
    tier: Tier,
    deployments: Sequence[Deployment],
    account: Account,
    longest: int,
) -> Policy:
    """The policy of one tier, and of the caller's budgets and the account's.

    No rule, pacing, vote or lease: they are for callers' requests. While the store is away nothing
    is sent, whatever the caller's policy says, since the ceiling could not hold.
    """
    kept = ("description", "retry", "timeout", "streams", "log", "version")
    once = tuple(each.model_copy(update={"vote": None}) for each in deployments)
    return Policy(
        **{name: getattr(policy, name) for name in kept},
        name=policy.name,
        baseline=tier,
        objective=Objective(cost_weight=0.0),
        tiers=Tiers.model_validate({tier: once}),
        budgets=(*policy.budgets_of(deployments), account.budget()),
        limits=Limits(max_output_tokens=longest, max_request_bytes=_LARGEST),
        ledger=LedgerOptions(journal=policy.ledger.journal),
    )
