"""The doors of a `Router`: what callers call. Here alone the synchronous and the asynchronous way
differ."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Self

from router.clock import GuardedClock
from router.dispatch.effects import Walk, arun, run
from router.errors import InvalidRequest
from router.intake import AUTO
from router.walk.routing import Routing, routing_of

if TYPE_CHECKING:
    from router.ledger import Ledger
    from router.log.savings import Savings
    from router.types import BudgetState, Decision, Request


class Doors:
    """The public part of a `Router`."""

    _clock: Callable[[], float]
    read: Callable[[Any, Mapping[str, Any], Any], Request]
    walk: Callable[[Request], Walk[Any]]
    preview: Callable[[Request], Decision]

    @property
    def ledger(self) -> Ledger:
        """The budgets and the log."""
        raise NotImplementedError

    def close(self) -> None:
        """Close what was opened."""
        raise NotImplementedError

    def completion(self, model: str | None = AUTO, messages: Any = None, **arguments: Any) -> Any:
        """Route one chat call: litellm's `completion`, but the policy chooses the model.

        Parameters: `messages` and every other argument are litellm's, but for `model`, which is
        "auto"; `stream=True` returns a
        stream of its type. The router's own: `scopes`, whose budgets pay ({"user": "ann"});
        `tags` and `metadata`, for rules and reports; `conversation_id`; `deadline` (see `submit`).
        Returns litellm's `ModelResponse`; `decision(response)` says how it was routed.
        Raises `InvalidRequest`, `BudgetExceeded`, `LedgerError` (nothing was sent) or a
        `ProviderError` (every fallback that the policy allows has failed).
        """
        return run(self.walk(self.read(messages, arguments, model)))

    async def acompletion(
        self, model: str | None = AUTO, messages: Any = None, **arguments: Any
    ) -> Any:
        """`completion`, on the running event loop."""
        return await arun(self.walk(self.read(messages, arguments, model)))

    def explain(self, messages: Any, **arguments: Any) -> Decision:
        """Return the decision for a chat call without making it: nothing is reserved or sent. A
        long history counts as extraction would shorten it, since a summary is asked of a model.

        Parameters: as for `completion`. Raises what that would raise before anything is sent.
        """
        model = arguments.pop("model", AUTO)
        return self.preview(self.read(messages, arguments, model))

    def feedback(self, request_id: str | Any, score: float) -> None:
        """Say how good an answer was, 0 to 1, now or later; the latest word counts.

        Takes a request's id or its response.
        """
        if not isinstance(request_id, str):
            request_id = self.decision(request_id).request_id
        self.ledger.log().feedback(request_id, score, now=self._clock())

    @staticmethod
    def decision(response: Any) -> Routing:
        """How a response or stream of this router was routed.

        Raises `InvalidRequest` for anything else.
        """
        routing = routing_of(response)
        if routing is None:
            raise InvalidRequest("response", "was not routed by this router")
        return routing

    def budgets(self) -> list[BudgetState]:
        """Every budget in its current window."""
        return self.ledger.states(self._clock())

    def report(self) -> Savings:
        """What was spent, and what always-frontier would have cost."""
        from router.log.savings import savings

        report = savings(self.ledger.log())
        report.unaccounted += self.ledger.unbooked()
        return report

    def confirm_clock(self) -> None:
        """Say that the machine's clock is right, after a `ClockJumped`."""
        if isinstance(self._clock, GuardedClock):
            self._clock.confirm()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
