"""Batches: requests of one deployment go out in one file, and each line is billed as a call.

Each line has a reservation of its own before the file goes up, and is settled by its own usage when
the file of answers comes down. Settling is done before the ticket is told, and both may be done
again, so a worker may die at any moment: the next one reads the provider's files anew.
"""

from __future__ import annotations

import contextlib
import json
import logging
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from router.capacity import Uncounted
from router.deferred.batch_queue import Batch, BatchQueue, Line
from router.deferred.kept import answer_text, request_of
from router.deferred.terms import LineTerms, of_text, to_text
from router.dispatch import batch as wire
from router.dispatch.charge import Charge, for_answer
from router.dispatch.deadlines import BATCH
from router.dispatch.streams import answer_bytes
from router.dispatch.usage import report_of
from router.errors import (
    BudgetExceeded,
    LedgerError,
    ProviderError,
    RequestRejected,
    ReservationError,
    RouterError,
)
from router.gates.answer import kept_answers
from router.types import RequestEnd
from router.walk.attempt import Attempt
from router.walk.attempts import Attempts

if TYPE_CHECKING:
    from router.deferred.hand import Due, Hand
    from router.types import Request

_log = logging.getLogger("router")
# What another call of the same kind would meet again; others may be answered at the next price.
_HOPELESS = (400, 404, 413, 422)


@dataclass(frozen=True, slots=True)
class _Laid:
    """A ticket's line, laid out and not yet reserved."""

    due: Due
    attempt: Attempt
    text: str
    line: Line


class BatchWork:
    """What a worker does about batches. `poll`: seconds between two looks at one."""

    def __init__(self, worker: Hand, poll: float):
        self._worker, self._poll = worker, poll
        self._batches = BatchQueue(worker.queue.database, worker.name)

    # ── out ────────────────────────────────────────────────────────────────────────────────────
    def send(self, arm: str) -> None:
        """Send all tickets that wait for the next batch of an arm."""
        worker, laid = self._worker, list[_Laid]()
        waiting = worker.queue.claim(worker.name, worker.now(), worker.until(), wire.MAX_LINES, arm)
        for ticket in waiting:
            due = worker.planned(ticket)
            if due is None:
                continue
            way = due.plan.request.ways[due.decision.chosen]
            if due.decision.arm.name != arm or way.service_tier != BATCH:
                worker.queue.postpone(ticket.id, worker.name, _AT_ONCE)  # it goes another way
            elif (each := self._lay_out(due)) is not None:
                laid.append(each)
        while laid:
            size = bytes_of = 0
            for each in laid[: wire.MAX_LINES]:
                bytes_of += len(each.text.encode())
                if size and bytes_of > wire.MAX_BYTES:
                    break
                size += 1
            self._send(laid[:size])
            laid = laid[size:]

    def _lay_out(self, due: Due) -> _Laid | None:
        plan, decision, router = due.plan, due.decision, self._worker.router
        attempts = Attempts(
            plan.ladder, router.ledger, plan.request, router.stamps, router.now, router.capacity
        )
        attempts.note = "batch"
        attempt = Attempt(attempts, plan, decision, 1, attempts.now, Uncounted())
        try:
            body = wire.body_of(attempt.call)
        except RequestRejected:  # what is wrong with it, if anything, a call of its own will say
            self._worker.queue.postpone(due.ticket.id, self._worker.name, _AT_ONCE, no_batch=True)
            return None
        except RouterError as error:
            self._worker.fail(due.ticket, error)
            return None
        terms = LineTerms(
            attempt.worst_case,
            attempt.terms,
            decision.baseline,
            decision.arm.tier == router.policy.baseline,
            plan.is_lowered(decision),
        )
        request_id = plan.request.request_id
        line = Line(request_id, due.ticket.id, to_text(terms))
        return _Laid(due, attempt, wire.line_of(request_id, body), line)

    def _send(self, laid: Sequence[_Laid]) -> None:
        """One batch: write it down, reserve each line, upload, create, write that down."""
        worker, batches, batch = self._worker, self._batches, uuid.uuid4().hex
        place = self._place(laid[0].due)
        text = json.dumps(asdict(place))
        lines = [each.line for each in laid]
        mine = set(batches.form(batch, text, lines, worker.now(), worker.until()))
        going = [each for each in laid if each.due.ticket.id in mine]
        try:
            going = [each for each in going if self._reserve(batch, each)]
        except LedgerError as error:
            self._dissolve(Batch(batch, "forming", text, None, worker.now()), error, again=True)
            return
        if not going:
            batches.move(batch, "ended")
            return
        if not batches.move(batch, "sending"):  # others thought it dead, and have undone the batch
            for each in going:
                self._release(of_text(each.line.terms), "its batch was taken over")
            return
        still_ours = lambda: batches.is_ours(batch, worker.now())  # noqa: E731
        try:
            found = wire.create(place, batch, (each.text for each in going), still_ours)
        except ProviderError as error:
            _log.warning("batch %s of %d requests was not created: %s", batch, len(going), error)
            if not error.request_written:
                for each in going:
                    self._release(of_text(each.line.terms), str(error))
                again = error.status not in _HOPELESS
                self._dissolve(Batch(batch, "sending", text, None, 0.0), error, again=again)
            else:  # nobody knows whether it was: the provider is asked once its clock has gone on
                batches.move(batch, "sending", look=worker.now() + self._poll, release=True)
            return
        batches.move(batch, "sent", look=worker.now() + self._poll, provider_id=found, release=True)
        worker.count(batched=len(going))

    def _reserve(self, batch: str, each: _Laid) -> bool:
        try:
            each.attempt.reserve()
        except BudgetExceeded as full:
            due = self._worker.now() + self._worker.again
            error = (type(full).__name__, str(full))
            self._batches.returned(batch, each.line, error, due, again=True)
            return False
        return True

    def _place(self, due: Due) -> wire.Place:
        policy = self._worker.router.policy
        deployment = policy.deployment(due.decision.arm)
        timeout = (policy.timeout.connect, policy.timeout.read)
        return wire.Place(deployment.model, deployment.api_base, deployment.api_key_env, timeout)

    # ── in ─────────────────────────────────────────────────────────────────────────────────────
    def look(self) -> None:
        """See how the batches stand whose time has come, those of dead workers too."""
        worker = self._worker
        for batch in self._batches.claim(worker.now(), worker.until()):
            try:
                self._look(batch)
            except (ProviderError, LedgerError) as error:
                _log.warning("batch %s: %s", batch.id, error)
                state = batch.state
                self._batches.move(batch.id, state, look=worker.now() + self._poll, release=True)

    def _look(self, batch: Batch) -> None:
        now, batches = self._worker.now(), self._batches
        place = _place_of(batch)
        if batch.state == "forming":
            self._dissolve(batch, ProviderError(place.model, "its worker died"), again=True)
            return
        if batch.provider_id is None:
            found = wire.find(place, batch.id, batch.made)
            if found is None:
                error = ProviderError(place.model, "the provider does not know the batch")
                self._dissolve(batch, error, again=True)
                return
            batches.move(batch.id, "sent", look=now, provider_id=found.id)
        else:
            found = wire.look(place, batch.provider_id)
        if found.ended:
            self._settle(batch, place, found)
            return
        state = batch.state if batch.state == "cancelling" else "sent"
        first = batches.first_deadline(batch.id)
        late = first is not None and now + self._worker.router.policy.timeout.total >= first
        if late and state != "cancelling":
            _log.warning("batch %s is cancelled: an answer is needed sooner", batch.id)
            wire.cancel(place, found.id)
            state = "cancelling"
        batches.move(batch.id, state, look=now + self._poll, provider_id=found.id, release=True)

    def _settle(self, batch: Batch, place: wire.Place, found: wire.Found) -> None:
        """Settle each line by what the provider says of it; release those it says nothing of."""
        lines, unread = self._batches.open_lines(batch.id), 0
        for custom_id, status, body in wire.results(place, found):
            line = lines.pop(custom_id, None)
            if not custom_id:
                _log.warning("a line of batch %s cannot be read: %s", found.id, body)
                unread += 1
            if line is None:
                continue
            if status == 200:
                self._answered(batch, line, body)
            else:
                self._unanswered(batch, line, f"HTTP {status}: {_short(body)}", status)
        why = f"the batch {found.status}: {found.problem}".rstrip(": ")
        for line in lines.values():
            if unread:  # it may be the one that was answered so
                self._unreadable(batch, line, "its line of the answers cannot be read")
            else:
                self._unanswered(batch, line, why, 0)
        self._batches.move(batch.id, "ended")
        try:
            wire.forget(place, found)
        except ProviderError as error:
            _log.warning("the files of batch %s stay at the provider: %s", found.id, error)

    def _answered(self, batch: Batch, line: Line, body: Any) -> None:
        router, now = self._worker.router, self._worker.now()
        terms, asked = of_text(line.terms), self._asked(line)
        try:
            response = wire.response_of(body)
            report = report_of(response)
            charge = for_answer(terms.terms, report, answer_bytes(response.choices))
            kept = kept_answers(response) if router.policy.log.content else None
            text = answer_text(response)
        except Exception as error:  # whatever a provider may write is one bad line, and no more
            self._unreadable(batch, line, str(error))
            return
        if terms.lowered and any(each.finish_reason == "length" for each in response.choices):
            why = "its answer ended at the predicted cap"
            self._book(terms, "failed", charge, now, report=report, error=why, answer=kept)
            self._batches.returned(batch.id, line, ("Cut", why), _AT_ONCE, again=False)
            return  # a call asks for it once more in full
        form = router.drift.form(asked, response) if asked and router.drift.form else None
        self._book(terms, "answered", charge, now, report=report, answer=kept, form=form)
        if self._batches.answered(batch.id, line, text, now):
            self._worker.count(answered=1)
            if asked and router.checks:
                router.checks.submit(asked, response)

    def _asked(self, line: Line) -> Request | None:
        """The request of a line, where its answer is looked at; None where it has ended already."""
        router = self._worker.router
        if not router.checks and router.drift.form is None:
            return None
        ticket = self._worker.queue.ticket(line.ticket)
        if ticket is None or ticket.text is None:
            return None
        return request_of(ticket.text, line.request_id, self._worker.now(), ticket.deadline)

    def _unreadable(self, batch: Batch, line: Line, why: str) -> None:
        """A line whose answer cannot be read was billed, nobody knows at how much."""
        terms = of_text(line.terms)
        charge = Charge(terms.terms.reserved, "assumed", note=why)
        self._book(terms, "failed", charge, self._worker.now(), error=why)
        said = ("MalformedReply", why)
        self._batches.returned(batch.id, line, said, _AT_ONCE, again=False)

    def _unanswered(self, batch: Batch, line: Line, why: str, status: int) -> None:
        """A line that gave no answer is not billed; it goes at the next price, where that helps."""
        now = self._worker.now()
        self._book(of_text(line.terms), "failed", _UNBILLED, now, error=why)
        if status in _HOPELESS:
            error = ("RequestRejected", why)
            if self._batches.refused(batch.id, line, error, now):
                self._worker.count(failed=1)
        else:
            self._batches.returned(batch.id, line, ("ProviderError", why), _AT_ONCE, again=False)

    def _dissolve(self, batch: Batch, error: RouterError, *, again: bool) -> None:
        """Undo a batch that the provider does not have: its tickets wait once more."""
        now = self._worker.now()
        for line in self._batches.open_lines(batch.id).values():
            self._release(of_text(line.terms), str(error))
            said = (type(error).__name__, str(error))
            due = now + self._worker.again if again else _AT_ONCE
            self._batches.returned(batch.id, line, said, due, again=again)
        self._batches.move(batch.id, "ended")

    def _release(self, terms: LineTerms, why: str) -> None:
        """Release a line that was not sent; it may not have been reserved."""
        with contextlib.suppress(ReservationError):
            self._book(terms, "failed", _UNBILLED, self._worker.now(), error=why)

    def _book(self, terms: LineTerms, status: Any, charge: Charge, now: float, **more: Any) -> None:
        """Settle or release a line's reservation, which may have been done before."""
        row = terms.settled(status, charge, now, **more)
        end = RequestEnd(
            status,
            accepted=row.number if status == "answered" else None,
            baseline=None,
            error=row.error,
        )
        if status == "answered":
            baseline = charge.cost if terms.is_baseline else terms.baseline
            end = RequestEnd(status, accepted=row.number, baseline=baseline)
        ledger = self._worker.router.ledger
        book = ledger.settle if charge.billed else ledger.release
        book(terms.reservation_id, row, end, now)


_UNBILLED = Charge(0, "computed", billed=False)
_AT_ONCE = 0.0  # a ticket that is due since ever


def _place_of(batch: Batch) -> wire.Place:
    content = json.loads(batch.place)
    return wire.Place(**{**content, "timeout": tuple(content["timeout"])})


def _short(body: Any) -> str:
    text = json.dumps(body, ensure_ascii=False) if not isinstance(body, str) else body
    return text[:300]
