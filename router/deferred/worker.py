"""The worker of a queue: sends what is due, sees to batches, and takes over from workers that died.

Any number of workers may share a queue, in threads, processes or one after the other. What one has
in hand it leases, and its own thread renews the leases while calls and batches are under way.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from router.deferred.batch_work import BatchWork
from router.deferred.kept import answer_text, in_hand, request_of
from router.deferred.queue import Queue, Ticket
from router.dispatch.deadlines import BATCH
from router.dispatch.effects import run
from router.errors import (
    AtCapacity,
    BudgetExceeded,
    LedgerError,
    LedgerUnavailable,
    ProviderUnavailable,
    PutOff,
    RateLimited,
    RouterError,
)
from router.intake import new_request_id

if TYPE_CHECKING:
    from router.pipeline import Router
    from router.planning.plan import Plan
    from router.types import Decision

_log = logging.getLogger("router")
_MOST_DOUBLED = 7  # pauses double from try to try, to an hour and more
_MOST_WAITS = 30.0  # seconds that a call may wait in all while it keeps others from being made
# What trying again later may mend.
_LATER = (AtCapacity, BudgetExceeded, LedgerError, ProviderUnavailable, PutOff, RateLimited)
_LONGEST_NAP = 60.0  # seconds between two looks at a queue in which nothing is due


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


class Worker:
    """Works on one queue for one router.

    Parameters: `parallel`, calls at the same time; `lease`, seconds after which others take over
    what this worker had in hand if it no longer renews it; `poll`, seconds between two looks at a
    batch; `again`, seconds after which a request is tried again for which there was no room.
    """

    def __init__(
        self,
        router: Router,
        queue: Queue,
        *,
        parallel: int = 8,
        lease: float = 60.0,
        poll: float = 60.0,
        again: float = 30.0,
    ):
        self.router, self.queue = router, queue
        self.lease, self.again = lease, again
        self.work = Work()
        self._parallel, self._poll = parallel, poll
        self._counting = threading.Lock()
        self._begin_anew()

    def _begin_anew(self) -> None:
        """Under another name: what it had in hand under the last one lapses, and is taken over."""
        self.name = uuid.uuid4().hex
        self.batches = BatchWork(self, self._poll)

    def run(self, *, forever: bool = False) -> Work:
        """Do all that is due now; with `forever`, go on until nothing is left in the queue, through
        outages of the store too.

        Raises `LedgerUnavailable` where the store is away, unless `forever`.
        """
        while True:
            try:
                return self._run(forever)
            except LedgerUnavailable as error:
                if not forever:
                    raise
                _log.error("the worker of a queue goes on in %g s: %s", self.again, error)
                time.sleep(self.again)
                # Nobody knows which steps were taken: it is all found out as after a death.
                self._begin_anew()

    def _run(self, forever: bool) -> Work:
        asked = self.router.policy.deferred
        assert asked is not None
        stop = threading.Event()
        renewing = threading.Thread(target=self._renew, args=(stop,), daemon=True)
        renewing.start()
        pool = ThreadPoolExecutor(self._parallel, thread_name_prefix="router-queue")
        calls: set[Future[None]] = set()
        began = self.now()
        try:
            while True:
                run(self.router.sweep())
                self.queue.tidy(self.now(), asked.retention)
                self.batches.look()
                due = self._due(2 * self._parallel - len(calls))
                calls |= {pool.submit(self._call, each) for each in due}
                if calls:
                    done, calls = wait(calls, timeout=1.0, return_when=FIRST_COMPLETED)
                    for call in done:
                        call.result()
                    continue
                moment = self.queue.next_look()
                if moment is None or not (forever or moment <= began):
                    return self.work
                time.sleep(max(0.0, min(moment - self.now(), _LONGEST_NAP)))
        finally:
            pool.shutdown()  # a call that is under way ends as it would
            stop.set()
            renewing.join()

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
            decision = plan.decide(room, self.router.paced(plan, room))
        except BudgetExceeded as full:
            self._put_off(ticket, full, full.resets_at)
            return None
        except LedgerError as error:
            self._put_off(ticket, error)
            return None
        except RouterError as error:
            self.fail(ticket, error)
            return None
        return Due(ticket, plan, decision)

    def _due(self, most: int) -> list[Due]:
        """Up to `most` tickets to be called now; the others wait for their hour, or for a batch.

        Batches go once every other ticket has been looked at, so that none leaves half full.
        """
        asked = self.router.policy.deferred
        assert asked is not None
        found: list[Due] = []
        claimed = self.queue.claim(self.name, self.now(), self.until(), max(most, 0))
        for ticket in claimed:
            due = self.planned(ticket)
            if due is None:
                continue
            arm, way = due.decision.arm.name, due.plan.request.ways[due.decision.chosen]
            if way.service_tier == BATCH:
                full = ticket.submitted + asked.gather
                self.queue.postpone(ticket.id, self.name, full, gather_for=arm)
            elif way.at > self.now():
                self.queue.postpone(ticket.id, self.name, way.at)
            else:
                found.append(due)
        if len(claimed) < most or most <= 0:
            for arm in self.queue.gathered(self.now()):
                self.batches.send(arm)
        return found

    def _call(self, due: Due) -> None:
        """Make the call of one ticket, from its reservation to its settlement."""
        ticket, request = due.ticket, due.plan.request
        if self.now() >= ticket.deadline:  # it came to its turn too late
            self.queue.postpone(ticket.id, self.name, 0.0)
            return
        if not self.queue.begin(ticket.id, self.name, request.request_id):
            return  # it was cancelled, or another has it
        keep = partial(self._keep, ticket)
        walk = in_hand(self.router.walk(request), request.request_id, keep, _MOST_WAITS)
        try:
            answer = answer_text(run(walk))
        except _LATER as error:
            self._put_off(ticket, error)
        except RouterError as error:
            self.fail(ticket, error)
        except Exception as error:  # of ours or litellm's: it would only come again
            _log.exception("ticket %s could not be sent", ticket.id)
            self.fail(ticket, error)
        else:
            self.queue.finish(ticket.id, self.name, self.now(), answer=answer)
            self.count(answered=1)

    def _keep(self, ticket: Ticket, reply: Any) -> None:
        """Keep a reply for whoever takes over. Where that fails the call itself goes on: it was
        paid for, and its answer is still to come."""
        try:
            self.queue.keep(ticket.id, self.name, answer_text(reply))
        except Exception:
            _log.exception("a reply to ticket %s could not be kept", ticket.id)

    def _put_off(self, ticket: Ticket, error: RouterError, resets_at: float | None = None) -> None:
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

    def _renew(self, stop: threading.Event) -> None:
        while not stop.wait(self.lease / 4):
            try:
                self.queue.renew(self.name, self.until())
            except LedgerError as error:
                _log.error("the queue's leases could not be renewed: %s", error)


def said(error: BaseException) -> tuple[str, str]:
    """An error as a ticket keeps it: its class, and what it says."""
    return type(error).__name__, str(error)
