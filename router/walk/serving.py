"""What the steps of a request, and the worker of a queue, need of their router."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from router.capacity import Capacity
    from router.checks import Checks
    from router.conversations.memory import Conversations
    from router.decide import Objective
    from router.dispatch.effects import Walk
    from router.drift.watcher import Drift
    from router.ledger import Ledger
    from router.planning.plan import Plan
    from router.policy import Policy
    from router.types import Request, Room


class Serving(Protocol):
    """A router under its policy (`router.pipeline.Router`)."""

    policy: Policy
    capacity: Capacity
    conversations: Conversations
    drift: Drift
    checks: Checks

    @property
    def ledger(self) -> Ledger:
        """The budgets and the log."""

    @property
    def stamps(self) -> tuple[str, str, str]:
        """Policy, predictor and price book, as the log names them."""

    def now(self) -> float:
        """Unix seconds."""

    def plan(self, request: Request, *, waits: bool = True, batch: bool = False) -> Plan:
        """The options of a request."""

    def room(self, request: Request) -> Room:
        """What its budgets still allow."""

    def paced(self, plan: Plan, room: Room) -> Objective | None:
        """The objective that pacing asks for; None for the policy's own."""

    def walk(self, request: Request) -> Walk[Any]:
        """The way of a request."""

    def sweep(self) -> Walk[None]:
        """What is looked after about once a minute."""
