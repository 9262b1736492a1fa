"""One request, from top to bottom: read it, predict, decide, reserve, send, settle.

`Router.walk` is the whole story. It yields what has to be done (see `router.dispatch.effects`), so
that the same lines serve `completion` and `acompletion`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from router.capacity import Capacity
from router.checks import Check, Checks
from router.clock import GuardedClock, shortest_window
from router.conversations.memory import Conversations
from router.decide import Objective
from router.deferred.doors import Deferrals
from router.dispatch.effects import Look, Send, Store, Wait, Walk
from router.dispatch.replayed import replayed
from router.doors import Doors
from router.drift.watcher import Drift
from router.errors import (
    AtCapacity,
    BudgetExceeded,
    LedgerError,
    ProviderError,
    RouterError,
)
from router.gates.gate import GateCheck
from router.intake import AUTO, read_request, refuse_size
from router.ledger import open_ledger, store_exists
from router.ledger.url import store_url
from router.parts import of_unused, pacer_of, predictor_of, refuse_unknown_tiers, seemed_to_fit
from router.planning.certified import PromisedLadder
from router.planning.exploring import Explorer
from router.planning.ladder import Ladder
from router.planning.make import make_plan
from router.planning.plan import Plan
from router.policy import Policy, load_policy
from router.predict import Predictor, extract, shape_of
from router.prices import PriceBook, load_book
from router.types import Decision, Request, Room
from router.walk.attempt import prepare
from router.walk.attempts import Attempts
from router.walk.chain import Cascades
from router.walk.routing import attach
from router.walk.spill import decided, previewed
from router.walk.timing import after_failure, awaited, in_time
from router.walk.voting import hold

if TYPE_CHECKING:
    from router.decide.certify import Certificate
    from router.ledger import Ledger

_log = logging.getLogger("router")
SWEEP_SECONDS = 60.0  # how often reservations of dead processes are looked for


class Router(Doors, Deferrals):
    """Routes chat calls under one policy.

    Parameters
    ----------
    policy
        A `Policy`, a file, the name of a shipped policy ("default"), or a mapping.
    store
        Where budgets and the log live: a URL such as "sqlite:///router.db", or a SQLite file; the
        policy's own by default.
    predictor, prices
        Instead of the policy's (or shipped) predictor and the shipped price book.
    checks
        Functions of one's own by name, each taking (request, response) and returning a score from 0
        to 1, True, False, or None for no verdict. They label accepted answers, a stream's once it
        was read to its end, in a thread of their own; of several, the lowest score counts.
    gates
        Functions of the same kind, which judge the answers of a policy with `cascade` before they
        are handed out: True, False, a probability that the answer is good, or None for no verdict.
    clock
        Unix seconds, to be turned by a test; by default the machine's, guarded against leaps
        (`router.clock`).

    Raises
    ------
    ConfigurationError
        When what was written down is wrong: `PolicyError`, `ModelFileError` and their like. The
        store opens with the first request.
    """

    def __init__(
        self,
        policy: Policy | str | Path | Mapping[str, Any] = "default",
        *,
        store: str | Path | None = None,
        predictor: Predictor | None = None,
        prices: PriceBook | None = None,
        checks: Mapping[str, Check] | None = None,
        gates: Mapping[str, GateCheck] | None = None,
        clock: Callable[[], float] | None = None,
    ):
        self.policy = policy if isinstance(policy, Policy) else load_policy(policy)
        self.prices = prices or load_book()
        self.predictor = predictor or predictor_of(self.policy)
        self.store = store_url(store or self.policy.log.store)
        refuse_unknown_tiers(self.policy, self.predictor)
        self._clock = clock or GuardedClock(shortest_window(self.policy.budget_list()))
        ladder = Ladder.of(self.policy, self.prices, self.predictor.efforts)
        self._promised = PromisedLadder(ladder, self.predictor, self._clock())
        self._pacer = pacer_of(ladder)
        self.capacity = Capacity(self.policy)
        self._cascades = Cascades(self.policy, gates)
        self._explorer = Explorer(self.policy.explore, self._cascades.longest)
        own = partial(self._of_its_own, clock)
        log: Callable[[], Any] = lambda: self.ledger.log()  # noqa: E731
        self.conversations = Conversations(self.policy, self.prices, own, log)
        self.checks = Checks(checks or {}, log, self._clock)
        known = (ladder, self.predictor, self.prices.hash[:12])
        self.drift = Drift(self.policy, *known, log, self._clock)
        self._opening, self._next_sweep = threading.Lock(), 0.0

    def _of_its_own(self, clock: Callable[[], float] | None, policy: Policy) -> Router:
        """A router for calls that this one makes of its own accord, with its store and capacity."""
        bound: Any = {"predictor": self.predictor, "prices": self.prices, "clock": clock}
        made = Router(policy, store=self.store, **bound)
        made.capacity = self.capacity.under(policy)
        return made

    def close(self) -> None:
        """Close the store. The router opens it again when it is used again."""
        self.checks.close()
        self.drift.close()
        self.capacity.close()
        self.conversations.close()
        self.close_queue()
        if (ledger := self.__dict__.pop("_ledger", None)) is not None:
            ledger.close()

    # ── the walk ───────────────────────────────────────────────────────────────────────────────
    def walk(self, request: Request, client: Any = None) -> Walk[Any]:
        """The way of one request, to be driven by `run` or `arun`.

        Parameters: `client`, an OpenAI client for the deployments of OpenAI.
        """
        asked, request = request, (yield from self.conversations.entering(request))
        plan = yield from awaited(self, request)
        request = plan.request
        buffers = self._cascades.buffers(request)
        streams = request.stream and not buffers
        ledger = yield Store(lambda: self.ledger)
        yield from self.sweep()
        plan = self.drift.guarded(plan)
        attempts = Attempts(
            plan.ladder,
            ledger,
            request,
            self.stamps,
            self._clock,
            self.capacity,
            client,
            streamed=self.checks.submit if self.checks else None,
            answered=self.conversations.answered,
            streams=streams,
            form=self.drift.form,
        )
        plan, decision, answer = yield from self._answer(attempts, plan)
        if plan.look is not None:
            answer = yield from self._cascade(attempts, plan, decision, answer)
            self.conversations.handed_out(request, self.decision(answer).decision.arm)
        if self.checks and not streams:
            self.checks.submit(asked, answer)
        return replayed(answer, request.params) if buffers else answer

    def _cascade(
        self, attempts: Attempts, plan: Plan, decision: Decision, answer: Any
    ) -> Walk[Any]:
        """Look at an answer and stop, or make another call: as often as it is worth its price.

        Whatever goes wrong with a later call, the best answer so far was paid for and is given.
        """
        chain, request_id = self._cascades.chain(plan, attempts), attempts.request.request_id
        onward: Decision | None = decision
        while onward is not None:
            yield Look(partial(chain.add, onward, answer))
            exploration = self._explorer.draw(request_id, chain.length)
            while True:
                try:
                    room = yield Store(partial(self._room, attempts.ledger, attempts.request))
                    onward = chain.onward(room, self.paced(chain.plan, room), exploration)
                    if onward is not None:
                        answer = yield from self._try(attempts, chain.plan, onward)
                        if chain.plan.is_cut(onward, answer):
                            answer = yield from self._again(attempts, chain.plan, onward, answer)
                    break
                except RouterError as error:
                    chain.without(onward, error)
        best = yield Store(chain.best)
        return best

    def _again(self, attempts: Attempts, plan: Plan, decision: Decision, cut: Any) -> Walk[Any]:
        """A later call once more in full, where its answer ended at a lowered cap; that one where
        no longer one can be had."""
        plan = plan.in_full()
        decision = plan.requoted(decision)
        if not attempts.affords(decision):
            return cut
        try:
            return (yield from self._try(attempts, plan, decision))
        except RouterError as error:
            _log.info("request %s keeps an answer that was cut: %s", plan.request.request_id, error)
            return cut

    def _answer(self, attempts: Attempts, plan: Plan) -> Walk[tuple[Plan, Decision, Any]]:
        """The first answer, after as many fallbacks as it takes, with the plan that it is from."""
        ledger, request = attempts.ledger, attempts.request
        exploration = self._explorer.draw(request.request_id)
        decision: Decision | None = None
        cut: Any = None  # an answer that ended at a lowered cap
        lost_races = 0
        try:
            while True:
                room = yield Store(partial(self._room, ledger, request))
                objective = attempts.within(self.paced(plan, room, new=decision is None))
                first = decision is None
                decision = yield from decided(attempts, plan, room, objective, exploration)
                if first:
                    self._explorer.learn(plan.quotes[decision.chosen].expected)
                try:
                    answer = yield from self._try(attempts, plan, decision)
                except ProviderError as error:
                    if cut is not None:
                        return plan, decision, cut
                    plan = yield from after_failure(attempts, plan, decision, error)
                except AtCapacity:
                    continue  # another request was faster: decide on what there is now
                except BudgetExceeded as full:
                    if full.on_exceed == "queue":
                        yield Wait(attempts.turn_after(full))
                        continue
                    # Another process took the room first: look again, at most once per arm.
                    lost_races += 1
                    if not seemed_to_fit(plan, decision, room) or lost_races > len(plan.quotes):
                        raise full from attempts.failure
                else:
                    if cut is not None or not plan.is_cut(decision, answer):
                        return plan, decision, answer
                    cut, plan = answer, plan.in_full()
        except RouterError as error:
            if cut is not None and decision is not None:
                return plan, decision, cut  # it was paid for, and is all that there is
            if isinstance(error, LedgerError):
                raise  # there is no store to write to
            yield Store(partial(attempts.close_with, plan, decision, error))
            raise
        except BaseException as error:  # a cancellation, an interrupt
            yield Store(partial(attempts.leave, error))
            raise

    def _try(self, attempts: Attempts, plan: Plan, decision: Decision) -> Walk[Any]:
        """One arm: a reservation, a wire attempt and a settlement, as often as `retry` says."""
        if decision.arm.samples > 1:
            return (yield from hold(attempts, plan, decision, self._cascades.gate))
        for attempt in attempts.retrying():
            if isinstance(attempts.failure, ProviderError) and not attempts.affords(decision):
                raise attempts.failure  # what is left of the request's ceiling is for another arm
            if attempts.waits:
                yield Wait(attempts.waits.pop())
            with attempt:
                reserved = prepare(attempts, plan, decision)
                yield Store(reserved.reserve)
                try:
                    reply = yield Send(reserved.call, attempts.request.request_id)
                except BaseException as error:
                    yield Store(partial(reserved.settle_failure, error))
                    raise
                if attempts.streams:
                    return reserved.stream(reply)
                routing = yield Store(partial(reserved.settle_answer, reply))
                return attach(reply.response, routing)
        raise AssertionError("tenacity ends with a result or an error")

    # ── the parts ──────────────────────────────────────────────────────────────────────────────
    def read(self, messages: Any, arguments: Mapping[str, Any], model: Any = AUTO) -> Request:
        """Check a chat call's arguments and return the `Request` to walk."""
        params = dict(arguments)
        if messages is None and isinstance(model, list):
            model, messages = AUTO, model
        return read_request(
            model=model,
            messages=messages,
            stream=params.pop("stream", False),
            scopes=params.pop("scopes", None),
            tags=params.pop("tags", ()),
            metadata=params.get("metadata"),
            conversation_id=params.pop("conversation_id", None),
            deadline=params.pop("deadline", None),
            params=params,
            max_messages=self.policy.limits.max_messages,
            now=self._clock(),
        )

    def preview(self, request: Request) -> Decision:
        """The decision for a request: nothing is reserved or sent, nor a history summarised."""
        room = self._room_without_a_trace(request) if self.policy.budgets else Room()
        if self.policy.drift is not None and store_exists(self.store):
            self.drift.recall()
        if self.conversations.forgot(request) and store_exists(self.store):
            self.conversations.read_back(request.now)
        plan = self.drift.guarded(self.plan(self.conversations.foreseen(request)))
        objective, chances = self.paced(plan, room), self._explorer.chances()
        return previewed(self.capacity, plan, room, objective, chances)

    def room(self, request: Request) -> Room:
        """What the budgets of a request still allow."""
        return self._room(self.ledger, request)

    def now(self) -> float:
        """The time by the router's clock, unix seconds."""
        return self._clock()

    def plan(self, request: Request, *, waits: bool = True, batch: bool = False) -> Plan:
        """The options of a request (`waits`, `batch`: `router.walk.timing.timed`)."""
        shape = shape_of(request.messages, request.params)
        refuse_size(shape.input_bytes, self.policy.limits.max_request_bytes)
        features = extract(request, self.predictor.embedder)
        ladder, _ = self._promised.at(request.now)
        said = self.predictor(features)
        whole = not request.stream or self._cascades.buffers(request)
        make = lambda r: make_plan(ladder, r, shape, features, said, whole=whole)  # noqa: E731
        return self._cascades.looking(in_time(make, request, waits, batch))

    def sweep(self) -> Walk[None]:
        """About once a minute: charge dead holds, see what other processes sent, look for drift."""
        now = self._clock()
        if now >= self._next_sweep:
            self._next_sweep = now + SWEEP_SECONDS
            yield Store(lambda: self.ledger.expire(now))
            yield Store(partial(self._read_traffic, now))
            yield Store(self.drift.look)

    def _read_traffic(self, now: float) -> None:
        if self._pacer is not None:
            [window] = (b.window for b in self.policy.budgets if b.name == self._pacer.budget)
            self._pacer.read(self.ledger.log(), window, now)

    def paced(self, plan: Plan, room: Room, *, new: bool = False) -> Objective | None:
        """The objective that pacing asks for; None for the policy's own."""
        if self._pacer is None or plan.ladder.objective.alarm:
            return None
        return self._pacer.objective(plan.options, room, plan.request.now, new=new)

    def _room_without_a_trace(self, request: Request) -> Room:
        """The room in the budgets, without making a store where there is none yet."""
        if "_ledger" in self.__dict__ or store_exists(self.store):
            self._read_traffic(request.now)
            return self._room(self.ledger, request)
        return of_unused(self.policy, lambda unused: self._room(unused, request))

    def _room(self, ledger: Ledger, request: Request) -> Room:
        return ledger.room(request.paid_by(*self.policy.arms()), self._clock())

    @property
    def certificate(self) -> Certificate | None:
        """What `keep_quality` with `confidence` rests on at today's prices, None without it."""
        return self._promised.at(self._clock())[1]

    @property
    def stamps(self) -> tuple[str, str, str]:
        return self.policy.stamp, self.predictor.name, self.prices.hash[:12]

    @property
    def ledger(self) -> Ledger:
        """The budgets and the log, opened when first used."""
        with self._opening:
            return self._ledger

    @cached_property
    def _ledger(self) -> Ledger:
        options = self.policy.ledger
        return open_ledger(
            self.store,
            self.policy.budget_list(),
            durability=self.policy.log.durability,
            lease=options.lease,
            on_outage=options.on_outage,
            journal=options.journal,
        )
