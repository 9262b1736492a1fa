"""What a worker has in hand, and what becomes of a ticket: planned, put off, failed, counted."""

from __future__ import annotations

import threading
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

from router.deferred.kept import request_of
from router.errors import BudgetExceeded, LedgerError, RouterError
from router.ids import new_request_id
from router.planning.deciding import decide

if TYPE_CHECKING:
    from router.deferred.queue import Queue, Ticket
    from router.planning.plan import Plan
    from router.types import Decision
    from router.walk.serving import Serving

_MOST_DOUBLED = 7  # pauses double from try to try, to an hour and more


@dataclass(slots=True)
class Work:
    """What a worker has done: tickets answered, failed, and sent in batches."""

    answered: int = 0
    failed: int = 0
    batched: int = 0


@dataclass(frozen=True, slots=True)
class Due:
    """A ticket whose time has come, how it is called, and its plan."""

    ticket: Ticket
    plan: Plan
    decision: Decision


class Hand:
    """One worker's part of a queue.

    Parameters: `lease`, seconds after which others take over what it had in hand if it no longer
    renews it; `again`, seconds after which a request is tried again for which there was no room.
    """

    def __init__(self, router: Serving, queue: Queue, lease: float, again: float):
        self.router, self.queue = router, queue
        self.lease, self.again = lease, again
        self.name, self.work = new_name(), Work()
        self._counting = threading.Lock()

    def now(self) -> float:
        return self.router.now()

    def until(self) -> float:
        """The end of a lease that begins now."""
        return self.now() + self.lease

    def count(self, *, answered: int = 0, failed: int = 0, batched: int = 0) -> None:
        with self._counting:
            self.work.answered += answered
            self.work.failed += failed
            self.work.batched += batched

    def fail(self, ticket: Ticket, error: BaseException) -> None:
        """End a ticket with an error that trying again would not mend."""
        self.queue.finish(ticket.id, self.name, self.now(), error=said(error))
        self.count(failed=1)

    def planned(self, ticket: Ticket) -> Due | None:
        """How a ticket would be called just now; None where it has to wait, or has failed."""
        now = self.now()
        # Its first request has the ticket's own id; another try is another request of the log.
        request_id = ticket.id if ticket.tries == 0 else new_request_id(now)
        assert ticket.text is not None
        try:
            request = request_of(ticket.text, request_id, now, ticket.deadline)
            plan = self.router.plan(request, batch=not ticket.no_batch)
            plan = self.router.drift.guarded(plan)
            room = self.router.room(plan.request)
            decision = decide(plan, room, self.router.paced(plan, room))
        except BudgetExceeded as full:
            self.put_off(ticket, full, full.resets_at)
            return None
        except LedgerError as error:
            self.put_off(ticket, error)
            return None
        except RouterError as error:
            self.fail(ticket, error)
            return None
        return Due(ticket, plan, decision)

    def put_off(self, ticket: Ticket, error: RouterError, resets_at: float | None = None) -> None:
        """Try a ticket again later: there is no room for it just now. Others' holds may be released
        before a budget resets. The last moment for a call that is in time is not let pass."""
        now = self.now()
        pause = self.again * 2 ** min(ticket.tries, _MOST_DOUBLED)
        due = now + max(pause, getattr(error, "retry_after", None) or 0.0)
        last = ticket.deadline - self.router.policy.timeout.total
        for sooner in (resets_at, last):
            if sooner is not None and now + self.again <= sooner < due:
                due = sooner
        self.queue.postpone(ticket.id, self.name, due, error=said(error))


def new_name() -> str:
    """A name that no worker had before."""
    return uuid.uuid4().hex


def said(error: BaseException) -> tuple[str, str]:
    """An error as a ticket keeps it: its class, and what it says."""
    return type(error).__name__, str(error)
