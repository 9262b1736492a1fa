"""One wire attempt: its reservation, its call, its settlement and its row of the log."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from router.capacity import Ticket
from router.conversations.portable import fitted
from router.conversations.state import Settled
from router.dispatch.bounds import CAP_FIELDS, input_bound
from router.dispatch.charge import Charge, Terms, for_answer, for_failure
from router.dispatch.deadlines import flex_aside, longest_call, timeouts
from router.dispatch.failures import forget_frames, headers_of, said
from router.dispatch.logprobs import ask_for_logprobs
from router.dispatch.streams import StreamEnd, StreamTerms, answer_bytes, routed_stream, whole
from router.dispatch.usage import report_of
from router.dispatch.wire import EFFORT_ALLOWED, Call, CancelledUnsent, Reply
from router.errors import AtCapacity, LedgerUnavailable, NoCapableDeployment, RouterError
from router.gates.answer import kept_answers
from router.money import format_usd
from router.planning.ladder import asked_effort
from router.planning.plan import Plan
from router.types import AttemptRow, AttemptStatus, Decision, RequestEnd, Reservation
from router.walk.attempts import Attempts
from router.walk.routing import Routing

_log = logging.getLogger("router")

TTL_MARGIN = 60.0  # seconds by which a reservation outlives the longest call


def prepare(shared: Attempts, plan: Plan, decision: Decision) -> Attempt:
    """Lay out the next wire attempt, counted in where its deployment is. Nothing is reserved or
    sent yet.

    Raises `AtCapacity` where something has come in the way of the deployment meanwhile, and
    `NoCapableDeployment` where its price has risen above the request's ceiling.
    """
    now, arm, quoted = shared.clock(), decision.chosen, decision
    plan, decision = plan.going_out(decision, now)
    if decision is not quoted and not shared.affords(decision):
        upper = format_usd(decision.view.quote.upper)
        why = f"may now cost {upper}, above what is left of max_cost_per_request"
        raise NoCapableDeployment({decision.arm.name: why}) from shared.failure
    ticket = shared.capacity.enter(arm, plan.shape.input_tokens, plan.tokens[arm])
    if not isinstance(ticket, Ticket):
        raise AtCapacity({decision.arm.name: ticket.why}, ticket.wait)
    return Attempt(shared, plan, decision, shared.count + 1, now, ticket)


class Attempt:
    """One wire attempt: reserve, call, settle."""

    def __init__(
        self,
        shared: Attempts,
        plan: Plan,
        decision: Decision,
        number: int,
        now: float,
        ticket: Ticket,
    ):
        self._shared, self._plan, self._decision = shared, plan, decision
        self._number, self._now, self._ticket = number, now, ticket
        self._step, self._note = shared.step, shared.note
        self._started = time.monotonic()
        arm = decision.arm
        able = shared.ladder.capabilities[decision.chosen]
        self.terms = Terms(
            price=shared.ladder.price(arm, now),
            service_tier=shared.ladder.service_tier(plan.request, arm),
            now=now,
            reserved=(decision.view.quote.upper or 0) // arm.samples,
            input_bound=input_bound(plan.shape, able.context_window),
            may_reason=able.reasons,
            images=plan.shape.images,
        )
        self._id = f"{shared.request.request_id}/{number}"

    def reserve(self) -> None:
        """Hold the upper bound in every budget; the request's row is written with the first."""
        try:
            self._reserve()
        except Exception:
            self._ticket.unsent()
            raise
        except BaseException:  # an interrupt: it may have been written all the same
            with suppress(RouterError):
                self.settle_failure(CancelledUnsent())
            raise

    def _reserve(self) -> None:
        shared, view, policy = self._shared, self._decision.view, self._shared.ladder.policy
        longest = longest_call(policy, self.terms.service_tier) + TTL_MARGIN
        shared.ledger.reserve(
            Reservation(
                self._id,
                self.terms.reserved,
                scopes=shared.request.paid_by(self._decision.arm),
                tokens=self._plan.token_bound(self._decision.chosen, view.quote)
                // view.arm.samples,
                now=self._now,
                expires_at=self._now + longest,
                worst_case=self.worst_case,
                request=shared.row(self._plan, self._decision) if shared.count == 0 else None,
                is_new=shared.request.is_new,
            )
        )
        shared.count = self._number
        self._started = time.monotonic()

    @property
    def worst_case(self) -> AttemptRow:
        """The row that stands if nothing is heard of it."""
        lost = Charge(self.terms.reserved if self.terms.price else None, "expired")
        return self._row("expired", lost)

    @property
    def call(self) -> Call:
        """The call with the reserved cap on the wire, as exactly one field."""
        request, ladder = self._shared.request, self._shared.ladder
        arm = self._decision.arm
        deployment = ladder.policy.deployment(arm)
        arguments = {**deployment.params, **request.params}
        asked = [name for name in CAP_FIELDS if arguments.pop(name, None) is not None]
        arguments[asked[0] if asked else "max_tokens"] = self._decision.view.quote.output_cap
        if arm.effort is not None and asked_effort(arguments) is None:
            own_way = (deployment.effort_params or {}).get(arm.effort)
            arguments.update({"reasoning_effort": arm.effort} if own_way is None else own_way)
            if own_way is None:
                arguments["allowed_openai_params"] = EFFORT_ALLOWED
        if self._plan.look is not None and ladder.policy.cascade and ladder.policy.cascade.logprobs:
            ask_for_logprobs(arguments, deployment)
        if request.stream and not self._shared.streams:
            arguments.pop("stream_options", None)
        if self.terms.service_tier is not None:
            arguments.setdefault("service_tier", self.terms.service_tier)
        left, tier = self._shared.deadline - time.monotonic(), self.terms.service_tier
        timeout = timeouts(ladder.policy, tier, left, arguments.pop("timeout", None))
        messages, fit = fitted(request.messages, arguments, arm.model, request.turn)
        return Call(
            model=arm.model,
            messages=messages,
            arguments=fit,
            stream=self._shared.streams,
            timeout=timeout,
            api_base=deployment.api_base,
            api_key_env=deployment.api_key_env,
            client=self._client(arm.model, deployment.api_base),
            total=max(left, *timeout),
        )

    def settle_answer(self, reply: Reply) -> Routing:
        """Charge a finished answer and log it."""
        response = reply.response
        self._went_without(reply)
        report = report_of(response)
        charge = for_answer(self.terms, report, answer_bytes(response.choices))
        self._ticket.answered(headers_of(response), charge.tokens)
        self._look(response)
        row = self._row("answered", charge, report, answer=self._kept(response))
        self._settle(row, charge, ends=True)
        return self._routing(charge.cost, self._shared.spent)

    def settle_failure(self, error: BaseException, *, ends: bool | None = None) -> None:
        """Charge or release an attempt that gave no answer. A cancellation `ends` the request, but
        for that of a sample which was not needed."""
        charge = for_failure(self.terms, error)
        told = flex_aside(self._plan.request, self._decision.chosen, error)
        self._ticket.failed(told, headers_of(told))
        cancelled = not isinstance(error, RouterError)
        self._shared.failure = error
        status: AttemptStatus = "abandoned" if cancelled else "failed"
        row = self._row(status, charge, error=said(error))
        self._settle(row, charge, ends=cancelled if ends is None else ends)

    def stream(self, reply: Reply) -> Any:
        """The caller's stream over an open reply; it settles itself when it ends."""
        self._ticket.opened(headers_of(reply.response))
        self._went_without(reply)
        # Failures before it keep frames alive, down to the caller's own, and these name the stream:
        # one that is forgotten would never be collected, nor settled.
        forget_frames(self._shared.failure, self._plan.failure)
        policy = self._shared.ladder.policy
        drain = policy.streams.drain_seconds if policy.streams.on_abandon == "drain" else 0.0
        options = self._shared.request.params.get("stream_options") or {}
        terms = StreamTerms(
            model=self._decision.arm.model,
            on_end=self._settle_stream,
            drain_seconds=drain,
            deadline=self._shared.deadline,
            emit_usage=bool(options.get("include_usage")),
            keep=policy.log.content or bool(self._shared.streamed or self._shared.form),
        )
        return routed_stream(reply.response, reply.first_chunk, terms, self._routing(None))

    def _settle_stream(self, end: StreamEnd) -> None:
        response = None
        if end.error is not None:
            self._ticket.failed(end.error)
            charge = for_failure(self.terms, end.error)
            row = self._row("failed", charge, end.report, error=said(end.error))
        elif end.abandoned and end.report is None:
            self._ticket.failed(GeneratorExit())
            charge = for_failure(self.terms, GeneratorExit())
            unread = None if end.answer_bytes else "closed before anything of it was read"
            row = self._row("abandoned", charge, error=unread)
        else:
            charge = for_answer(self.terms, end.report, end.answer_bytes)
            self._ticket.answered(None, charge.tokens)
            # Of an answer that was left, the caller saw no more than a part.
            status: AttemptStatus = "abandoned" if end.abandoned else "answered"
            if end.text is not None and not end.abandoned:
                response = whole(self._decision.arm.model, end.text, end.finish_reason)
                self._look(response)
            row = self._row(status, charge, end.report, answer=self._kept(response))
        self._settle(row, charge, ends=True)
        if response is not None and self._shared.streamed is not None:
            self._shared.streamed(self._shared.request, response)

    def _went_without(self, reply: Reply) -> None:
        """Note which wishes the model does not take."""
        if reply.left_out:
            without = f"without {', '.join(sorted(reply.left_out))}, which the model does not take"
            self._note = "; ".join(filter(None, (self._note, without)))

    def _look(self, response: Any) -> None:
        """Note what is wrong with an answer by its form, where anybody asks."""
        if self._shared.form is not None:
            found = self._shared.form(self._shared.request, response)
            self._note = "; ".join(filter(None, (self._note, found))) or None

    def _settle(self, row: AttemptRow, charge: Charge, *, ends: bool) -> None:
        """Write the attempt's row and, where it `ends` the request, how that ended."""
        end = None
        if ends:
            end = RequestEnd(
                status=row.status,
                accepted=row.number if row.status == "answered" else None,
                baseline=self._final_baseline(row.cost) if row.status != "failed" else None,
                error=row.error,
            )
        ledger, now = self._shared.ledger, self._shared.now
        self._shared.ended = ends
        self._shared.spent += (row.cost or 0) if charge.billed else 0
        try:
            if charge.billed:
                ledger.settle(self._id, row, end, now)
            else:
                ledger.release(self._id, row, end, now)
        except LedgerUnavailable as unavailable:
            # What was paid for is not taken from the caller. The hold stays, and expires in full.
            _log.error("attempt %s could not be settled: %s", self._id, unavailable)
        if row.status == "answered" and self._shared.answered is not None:
            plan, usage, price = self._plan, charge.usage, self.terms.price
            tokens, stood_in = plan.shape.input_tokens, plan.failure is not None
            settled = Settled(plan.request, self._decision.arm, row, usage, tokens, price, stood_in)
            self._shared.answered(settled)

    def _final_baseline(self, cost: int | None) -> int | None:
        """Where the baseline tier itself answered, its bill is the baseline, not a prediction."""
        if self._decision.arm.tier == self._shared.ladder.policy.baseline:
            self._shared.of_baseline = cost
            return cost
        of_baseline = self._shared.of_baseline
        return self._decision.baseline if of_baseline is None else of_baseline

    def _row(
        self,
        status: AttemptStatus,
        charge: Charge,
        report: Mapping[str, Any] | None = None,
        *,
        error: str | None = None,
        answer: str | None = None,
    ) -> AttemptRow:
        view = self._decision.view
        return AttemptRow(
            request_id=self._shared.request.request_id,
            number=self._number,
            time=self._now,
            step=self._step,
            arm=view.arm.name,
            tier=view.arm.tier,
            model=view.arm.model,
            propensity=view.propensity,
            status=status,
            reserved=self.terms.reserved,
            cost=charge.cost,
            cost_source=charge.source,
            price_book=self._shared.stamps[2],
            latency=time.monotonic() - self._started,
            usage=report,
            input_tokens=charge.usage.input_tokens if charge.usage else None,
            output_tokens=charge.usage.output_tokens if charge.usage else None,
            error=error,
            note="; ".join(filter(None, (self._note, charge.note))) or None,
            answer=answer,
        )

    def _routing(self, cost: int | None, spent: int | None = None) -> Routing:
        request_id, number = self._shared.request.request_id, self._number
        return Routing(request_id, self._decision, number, cost, spent=spent)

    def _kept(self, response: Any) -> str | None:
        """An answer as the log keeps it, where the policy opts in."""
        keep = response is not None and self._shared.ladder.policy.log.content
        return kept_answers(response) if keep else None

    def _client(self, model: str, api_base: str | None) -> Any:
        """The caller's own OpenAI client serves the arms of OpenAI that name no other address."""
        return self._shared.client if model.startswith("openai/") and api_base is None else None
