"""What a `Router` has for requests that wait in a queue: submit, collect, work."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from router.deferred.kept import answer_of, request_text
from router.errors import ConfigurationError, DeferredError, InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from router.deferred.hand import Work
    from router.deferred.queue import Queue, Ticket
    from router.planning.plan import Plan
    from router.policy import Policy
    from router.types import Request


class Deferrals:
    """The part of a `Router` that knows the queue. Safe to share between threads, like the rest."""

    policy: Policy
    store: str
    read: Callable[[Any, Mapping[str, Any]], Request]
    plan: Callable[..., Plan]

    def submit(self, messages: Any, *, deadline: Any, **arguments: Any) -> str:
        """Queue a chat call, and return its ticket; when this returns it is on the disk.

        Parameters: as for `completion`, without `stream`; `deadline`, unix seconds or a datetime
        with a time zone, until which it may wait for what the policy's `deferred` names. Some
        worker (`work_queue`, or `router queue run`) has to run until then. Nothing is reserved
        until it is sent. The text is kept until the request has ended.
        Raises `InvalidRequest` for what could never be sent, `ConfigurationError` where the policy
        has no `deferred`, or no SQLite file to queue in.
        """
        request = self.read(messages, {**arguments, "deadline": deadline})
        if request.deadline is None:
            raise InvalidRequest("deadline", "is missing", allowed="a moment; see `completion`")
        text, queue = request_text(request), self.queue
        self.plan(request)
        queue.add(request.request_id, text, request.now, request.deadline)
        return request.request_id

    def collect(self, ticket: str) -> Any:
        """The answer of a ticket, None while there is none yet. It is given once, and deleted here.

        Returns litellm's `ModelResponse`; `_hidden_params["request_id"]` names its request, for
        `feedback`. An answer that nobody collects is deleted after `deferred.retention` seconds.
        Raises `DeferredError` for a ticket that failed, was cancelled or was collected before, and
        `InvalidRequest` for one that is not known.
        """
        found = self.queue.collect(ticket)
        if found is None:
            raise InvalidRequest(
                "ticket",
                f"{ticket!r} is not in the queue, or was deleted after its retention",
                value=ticket,
                allowed="what `submit` returned, within `deferred.retention`",
            )
        if found.state == "answered":
            assert found.answer is not None
            return answer_of(found.answer, found.request_id)
        if found.state == "collected":
            raise DeferredError(ticket, "Collected", "its answer was collected before")
        if found.state in ("failed", "cancelled"):
            raise DeferredError(ticket, found.kind or "", found.why or "")
        return None

    def cancel(self, ticket: str) -> bool:
        """Cancel a ticket that waits or is in a batch (whose line may still be billed); False where
        it is too late for that. Its text is deleted."""
        found = self.queue.cancel(ticket, self.now())  # type: ignore[attr-defined]
        return found is not None and found.state in ("waiting", "batched")

    def tickets(self) -> list[Ticket]:
        """All tickets of the queue, the oldest first."""
        return self.queue.tickets()

    def work_queue(self, *, forever: bool = False, **options: Any) -> Work:
        """Send what is due in the queue and see to its batches, in this thread and some more.

        Parameters: `forever`, whether to go on until nothing is left, waiting for what is not due
        yet; `options`, of `router.deferred.worker.Worker`. Several workers share a queue.
        Returns how many tickets were answered, failed or sent in batches.
        """
        from router.deferred.worker import Worker

        return Worker(self, self.queue, **options).run(forever=forever)  # type: ignore[arg-type]

    @cached_property
    def queue(self) -> Queue:
        """The queue, opened when first used."""
        from router.deferred.queue import Queue

        asked = self.policy.deferred
        if asked is None:
            raise ConfigurationError(
                "the policy has no `deferred`: nothing waits under it; add for example "
                "deferred: {batch: true}"
            )
        return Queue(asked.queue or self.store, durability=self.policy.log.durability)

    def close_queue(self) -> None:
        if (queue := self.__dict__.pop("queue", None)) is not None:
            queue.close()
