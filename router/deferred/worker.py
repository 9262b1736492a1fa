"""The worker of a queue: sends what is due, sees to batches, and takes over from workers that died.

Any number of workers may share a queue, in threads, processes or one after the other. What one has
in hand it leases, and its own thread renews the leases while calls and batches are under way.
"""

from __future__ import annotations

import logging
import threading
import time
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from functools import partial
from typing import TYPE_CHECKING, Any

from router.deferred.batch_work import BatchWork
from router.deferred.hand import Due, Hand, Work, new_name
from router.deferred.kept import answer_text, in_hand
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

if TYPE_CHECKING:
    from router.walk.serving import Serving

_log = logging.getLogger("router")
_MOST_WAITS = 30.0  # seconds that a call may wait in all while it keeps others from being made
# What trying again later may mend.
_LATER = (AtCapacity, BudgetExceeded, LedgerError, ProviderUnavailable, PutOff, RateLimited)
_LONGEST_NAP = 60.0  # seconds between two looks at a queue in which nothing is due


class Worker(Hand):
    """Works on one queue for one router.

    Parameters: `parallel`, calls at the same time; `lease`, seconds after which others take over
    what this worker had in hand if it no longer renews it; `poll`, seconds between two looks at a
    batch; `again`, seconds after which a request is tried again for which there was no room.
    """

    def __init__(
        self,
        router: Serving,
        queue: Queue,
        *,
        parallel: int = 8,
        lease: float = 60.0,
        poll: float = 60.0,
        again: float = 30.0,
    ):
        super().__init__(router, queue, lease, again)
        self._parallel, self._poll = parallel, poll
        self.batches = BatchWork(self, poll)

    def _begin_anew(self) -> None:
        """Under another name: what it had in hand under the last one lapses, and is taken over."""
        self.name = new_name()
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
            self.put_off(ticket, error)
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

    def _renew(self, stop: threading.Event) -> None:
        while not stop.wait(self.lease / 4):
            try:
                self.queue.renew(self.name, self.until())
            except LedgerError as error:
                _log.error("the queue's leases could not be renewed: %s", error)
