"""What the wire attempts of one request share, and how the request ends."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from router.attempt import Attempt
from router.capacity import Capacity, Ticket
from router.deferred.limits import seconds_for
from router.dispatch.failures import said
from router.dispatch.retrying import retrying
from router.errors import (
    AtCapacity,
    BudgetExceeded,
    ClockJumped,
    LedgerUnavailable,
    NoCapableDeployment,
    ProviderError,
    RouterError,
)
from router.ladder import Ladder
from router.money import format_usd
from router.plan import Plan
from router.types import (
    AttemptRow,
    Decision,
    Request,
    RequestEnd,
    RequestRow,
    RequestStatus,
    Usage,
)

if TYPE_CHECKING:
    from router.decide import Objective
    from router.ledger import Ledger

_log = logging.getLogger("router")

_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.01, 5.0  # seconds between two looks at a budget that queues


@dataclass(slots=True)
class Attempts:
    """What the attempts of one request share. `client`: an OpenAI client to send through;
    `streamed`: who wants to see a stream's whole answer once it is settled; `capacity`: what the
    deployments can take; `answered`: who is told of each settled answer; `streams`: whether the
    wire carries a stream, which one that is buffered does not; `form` names an answer's faults."""

    ladder: Ladder
    ledger: Ledger
    request: Request
    stamps: tuple[str, str, str]  # policy, predictor, price book
    clock: Callable[[], float]
    capacity: Capacity
    client: Any = None
    streamed: Callable[[Request, Any], None] | None = None
    answered: Callable[[Plan, Decision, AttemptRow, Usage | None], None] | None = None
    streams: bool = False
    form: Callable[[Request, Any], str | None] | None = None
    step: int = 0  # of a chain of calls
    note: str | None = None  # why this step is made
    vote: Any = None  # the tally of the latest vote
    spent: int = 0  # nano-USD of all settled attempts
    of_baseline: int | None = None  # the bill of the baseline tier's own answer
    waits: list[float] = field(default_factory=list)
    count: int = 0  # wire attempts that were reserved
    failure: BaseException | None = None  # of the latest attempt that failed
    ended: bool = False  # whether the log knows how the request ended
    deadline: float = field(init=False)
    _pause: float = 0.05

    def __post_init__(self) -> None:
        self.deadline = time.monotonic() + seconds_for(self.request, self.ladder.policy, self.clock)

    def retrying(self) -> Iterable[Any]:
        """Tenacity's attempts on one deployment; the waits between them go to `waits`."""
        return retrying(self.ladder.policy.retry, self.deadline, self.waits.append)

    def within(self, objective: Objective | None) -> Objective | None:
        """An objective (None: the policy's) whose ceiling is what this request's attempts have left
        of it: a ceiling on a request holds over its retries, fallbacks and chain."""
        asked = objective or self.ladder.objective
        if asked.max_cost_per_request is None or not self.spent:
            return objective
        return replace(asked, max_cost_per_request=max(asked.max_cost_per_request - self.spent, 0))

    def affords(self, decision: Decision) -> bool:
        """Whether the request's ceiling has room for one more attempt of a decision."""
        ceiling = self.ladder.objective.max_cost_per_request
        upper = decision.view.quote.upper
        return ceiling is None or upper is None or self.spent + upper <= ceiling

    def turn_after(self, full: BudgetExceeded) -> float:
        """Seconds to wait before a budget that queues is asked again.

        Others' holds may be released before the window resets, so it is asked every few seconds.
        Raises `full` itself where no release and no reset can help as long as the request may wait.
        """
        left = self.deadline - time.monotonic()
        until_reset = math.inf if full.resets_at is None else full.resets_at - self.clock()
        fits_alone = full.needed <= full.limit or full.meter == "share"  # which grows meanwhile
        fits_after_releases = full.used + full.needed <= full.limit
        if left <= 0 or not fits_alone or (until_reset > left and not fits_after_releases):
            raise full from self.failure
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)
        return max(_SHORTEST_PAUSE, min(self._pause, until_reset, left))

    @property
    def now(self) -> float:
        """The time to end something at: what was sent is settled, whatever the clock shows."""
        try:
            return self.clock()
        except ClockJumped as jumped:
            return jumped.trusted

    def accept(self, number: int, decision: Decision, looks: str | None = None) -> None:
        """Log which attempt's answer of a chain is handed out, and what was found of each."""
        baseline = decision.baseline if self.of_baseline is None else self.of_baseline
        end = RequestEnd("answered", accepted=number, baseline=baseline, looks=looks)
        try:
            self.ledger.finish(self.request.request_id, end, self.now)
        except LedgerUnavailable as unavailable:
            # The answer was paid for and is handed out; the log goes on naming the latest one.
            _log.error("attempt %s/%d: %s", self.request.request_id, number, unavailable)

    def prepare(self, plan: Plan, decision: Decision) -> Attempt:
        """Lay out the next wire attempt, counted in where its deployment is. Nothing is reserved or
        sent yet.

        Raises `AtCapacity` where something has come in the way of the deployment meanwhile, and
        `NoCapableDeployment` where its price has risen above the request's ceiling.
        """
        now, arm, quoted = self.clock(), decision.chosen, decision
        plan, decision = plan.going_out(decision, now)
        if decision is not quoted and not self.affords(decision):
            upper = format_usd(decision.view.quote.upper)
            why = f"may now cost {upper}, above what is left of max_cost_per_request"
            raise NoCapableDeployment({decision.arm.name: why}) from self.failure
        ticket = self.capacity.enter(arm, plan.shape.input_tokens, plan.tokens[arm])
        if not isinstance(ticket, Ticket):
            raise AtCapacity({decision.arm.name: ticket.why}, ticket.wait)
        return Attempt(self, plan, decision, self.count + 1, now, ticket)

    def close_with(self, plan: Plan, decision: Decision | None, error: RouterError) -> None:
        """Log how a request ended that got no answer."""
        text = said(error)
        status: RequestStatus = "failed" if isinstance(error, ProviderError) else "refused"
        if self.count == 0:
            self.ledger.refuse(self.row(plan, decision, status, error=text))
        else:
            end = RequestEnd(status, accepted=None, baseline=None, error=text)
            self.ledger.finish(self.request.request_id, end, self.now)

    def leave(self, error: BaseException) -> None:
        """Log that its caller left the request while it waited between two attempts."""
        if self.count == 0 or self.ended:
            return
        end = RequestEnd("abandoned", accepted=None, baseline=None, error=said(error))
        try:
            self.ledger.finish(self.request.request_id, end, self.now)
        except LedgerUnavailable as unavailable:
            _log.error("request %s: %s", self.request.request_id, unavailable)

    def row(
        self,
        plan: Plan,
        decision: Decision | None,
        status: RequestStatus = "open",
        *,
        error: str | None = None,
    ) -> RequestRow:
        """The log's row of the request. Its text is kept only where the policy opts in."""
        policy, predictor, price_book = self.stamps
        request = self.request
        keep, original = self.ladder.policy.log.content, request.original or request.messages
        return RequestRow(
            request_id=request.request_id,
            time=request.now,
            status=status,
            policy=policy,
            predictor=predictor,
            price_book=price_book,
            scopes=request.scopes,
            tags=request.tags,
            conversation_id=request.conversation_id,
            stream=request.stream,
            features=plan.facts(),
            decision=plan.views(decision),
            chosen=decision.arm.name if decision else "",
            reason=decision.reason if decision else "",
            rule=plan.rule,
            baseline=plan.baseline(),
            content=json.dumps(list(original), ensure_ascii=False) if keep else None,
            error=error,
            purpose=request.purpose,
        )
