"""The chain of one request: answers so far, what they say of every arm, and whether to go on."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from router.decide import Bar, Look, Objective, after_look, best_answer, dearer
from router.dispatch.logprobs import logprob_arguments, without_logprobs
from router.errors import AtCapacity, BudgetExceeded, ConfigurationError, ProviderError, RouterError
from router.gates import structural
from router.gates.agreement import said
from router.gates.answer import Answer, answers_of
from router.gates.consensus import evidence_of
from router.gates.gate import Gate, GateCheck, Heard, Verdict, keeps_tool_calls
from router.planning.deciding import decision_of
from router.planning.plan import Plan
from router.types import Quote
from router.votes import comparable
from router.votes.signals import best_values, with_values, with_votes
from router.walk.attempts import Attempts
from router.walk.looks import LookRecord
from router.walk.routing import Step, attach, routing_of

if TYPE_CHECKING:
    from router.decide import Exploration, Onward, Signals
    from router.planning.ladder import Ladder
    from router.policy import Policy
    from router.types import Decision, Floats, Ints, Request, Room


_log = logging.getLogger("router")


class Cascades:
    """What one router's policy says about cascades, and its gate.

    Parameters: `checks`, callers' own functions (`router.gates.gate.Gate`).
    Raises `ConfigurationError` where there are checks but no cascade, or a check is none;
    `ModelFileError` for a verifier that is not what the policy says.
    """

    def __init__(self, policy: Policy, checks: Mapping[str, GateCheck] | None):
        self.asked = policy.cascade
        if self.asked is None and checks:
            raise ConfigurationError(
                "gates look at answers of a cascade, and the policy has none; allowed: with "
                "cascade: {max_steps: 2}, or as checks, which label answers afterwards"
            )
        verifier = None
        if self.asked is not None and self.asked.verifier is not None:
            from router.gates.verifier import load_verifier

            path = policy.verifier_path
            assert path is not None
            verifier = load_verifier(path, self.asked.verifier.sha256)
        self.gate = Gate(verifier, checks)
        self._policy = policy

    @property
    def longest(self) -> int:
        """The most calls that a chain may have."""
        return 1 if self.asked is None else self.asked.max_steps

    @property
    def stamp(self) -> str:
        """What judges answers, in a word that the log keeps."""
        logprobs = self.asked is not None and self.asked.logprobs
        return self.gate.name + ("+logprobs" if logprobs else "")

    def signals(self, checked: bool, ladder: Ladder) -> Signals:
        """What looking at an answer tells of each arm, but for the best of several samples;
        `checked`: whether a form was asked for."""
        return with_votes(self.gate.signals(checked, ladder.tier, self._told), ladder.votes)

    def chain(self, plan: Plan, attempts: Attempts) -> Chain:
        """A chain that begins with this plan; it is recorded where something is left to chance."""
        record = None
        if self._policy.explore is not None:
            checked = structural.is_checked(plan.request.params)
            record = LookRecord(self.stamp, checked, _compares(plan))
        return Chain(self.gate, plan, attempts, record)

    def buffers(self, request: Request) -> bool:
        """Whether a stream is handed out only when its whole answer is known."""
        buffered = self.asked is not None and self.asked.stream == "buffer"
        return request.stream and buffered and request.purpose == "serve"

    def looking(self, plan: Plan) -> Plan:
        """The plan, looking at answers where the policy asks for it.

        The router's own calls are not looked at, nor is a stream that begins at once.
        """
        request = plan.request
        looked_at = not request.stream or self.buffers(request)
        if self.asked is None or request.purpose != "serve" or not looked_at:
            return without(plan, plan.ladder.bests)
        signals = self.signals(structural.is_checked(request.params), plan.ladder)
        plan, signals = _with_bests(plan, signals)
        # A verifier has learnt how often answers agree, whatever is asked for.
        compared = np.array([self.gate.learned or comparable(None, request, plan.shape)])
        return replace(plan, look=Look(signals, self.asked.max_steps, comparable=compared))

    @cached_property
    def _told(self) -> tuple[bool, ...]:
        """For each arm whether its answers come with log-probabilities."""
        if self.asked is None or not self.asked.logprobs:
            return ()
        deployments = [self._policy.deployment(arm) for arm in self._policy.arms()]
        return tuple(bool(logprob_arguments(each)) for each in deployments)


def without(plan: Plan, arms: Iterable[int]) -> Plan:
    """The plan without arms whose samples nobody judges."""
    barred = plan.options.barred.copy()
    for index in arms:
        if barred[0, index] in (Bar.FREE, Bar.HELD_ABOVE):
            barred[0, index] = Bar.NOT_COMPARABLE
    return replace(plan, options=replace(plan.options, barred=barred))


def _compares(plan: Plan) -> bool:
    """Whether looks ahead count on comparing answers."""
    look = plan.look
    return look is not None and look.comparable is not None and bool(look.comparable[0])


@dataclass(slots=True)
class _Answered:
    number: int  # of its attempt
    decision: Decision
    response: Any
    answers: tuple[Answer, ...]
    heard: Heard | None = None  # where no verifier judges
    why: str = ""


class Chain:
    """Answers of one request, in the order of their calls.

    `plan` always holds what is known by now: the answers' P(good) in the place of predictions,
    and bars for the arms that have answered or failed.
    """

    def __init__(
        self, gate: Gate, plan: Plan, attempts: Attempts, record: LookRecord | None = None
    ):
        self._gate, self._attempts, self.plan = gate, attempts, plan
        self._record, self._recorded = record, True
        self._predicted = plan.options.quality[0]
        self._answered: dict[int, _Answered] = {}
        self._last = -1
        self._final = False

    @property
    def length(self) -> int:
        """How many answers there are."""
        return len(self._answered)

    def add(self, decision: Decision, response: Any) -> None:
        """Look at an answer. A caller's own check may take its time here."""
        index, request = decision.chosen, self.plan.request
        answers = answers_of(response)
        routing = routing_of(response)
        number = self._attempts.count if routing is None else routing.attempts
        self._answered[index] = _Answered(number, decision, response, answers)
        self._last, self._recorded = index, False
        before = self.plan.options.quality[0]
        quality = self._counted(index, before)
        every = {arm: each.answers for arm, each in self._answered.items()}
        says = None
        try:
            verdict = self._judged(index) or self._gate.look(
                request, response, every, index, quality, self.plan.ladder.tier
            )
            self._final = keeps_tool_calls(request.params, answers)
            if not self._gate.learned and answers:
                says = said(answers[0], request.params, comparable=_compares(self.plan))
        except Exception:  # what was paid for is not lost to a gate that cannot read it
            _log.exception("an answer of request %s could not be judged", request.request_id)
            verdict, self._final = Verdict(quality, "not judged"), True
        votes = [self._attempts.vote.words] if decision.arm.samples > 1 else []
        found, alike = verdict.quality, ""
        if not self._gate.learned and not self._final:
            evidence = evidence_of(float(before[index]), float(found[index]))
            self._answered[index].heard = Heard(says, evidence)
            found, alike = self._weighed()
        self._answered[index].why = "; ".join([*votes, verdict.why, *([alike] if alike else [])])
        self._know(found)

    def _weighed(self) -> tuple[Floats, str]:
        """P(good) of every arm by all answers together, and which say the same as the latest."""
        heard = {arm: each.heard for arm, each in self._answered.items() if each.heard is not None}
        found, alike = self._gate.weigh(self._predicted, heard, self.plan.ladder.tier)
        names = [self._answered[arm].decision.arm.tier for arm in alike]
        return found, f"says the same as {', '.join(names)}" if names else ""

    def _counted(self, index: int, quality: Floats) -> Floats:
        """P(good) of every arm once a vote was counted, before its answer is read."""
        if index not in self.plan.ladder.votes:
            return quality
        return self._gate.told(
            self.plan.ladder.tier, index, quality, float(self._attempts.vote.good)
        )

    def _judged(self, index: int) -> Verdict | None:
        """What the gate said of the best of several samples when it was picked."""
        found: Verdict | None = (
            self._attempts.vote.verdict if index in self.plan.ladder.bests else None
        )
        return found

    def without(self, decision: Decision | None, error: RouterError) -> None:
        """Go on without an arm that failed, or for which a budget has no room after all; without
        any where the store is away."""
        bars = {BudgetExceeded: Bar.OVER_BUDGET, AtCapacity: Bar.AT_CAPACITY}
        if decision is None or not isinstance(error, (ProviderError, *bars)):
            self._final = True
            return
        self._bar(np.array([decision.chosen]), bars.get(type(error), Bar.FAILED))

    def onward(
        self, room: Room, objective: Objective | None, exploration: Exploration | None = None
    ) -> Decision | None:
        """The next call, None to stop: what was paid is spent, what it said is known.

        A ceiling on the request holds over its chain: what was spent is taken off it. After a call
        that failed nothing is left to chance.
        """
        look = self.plan.look
        late = time.monotonic() >= self._attempts.deadline
        if self._final or late or look is None or look.steps < 1 or look.called is None:
            self._keep(None, final=self._final or late)
            return None
        objective = self._attempts.within(objective) or self.plan.ladder.objective
        choices = self.plan.choose(objective, room)
        if exploration is not None and room.budgets:
            exploration = replace(exploration, roomy=self.plan.roomy(room))
        if self._recorded:
            exploration = None
        onward = after_look(self.plan.options, objective, choices, look.called, exploration)
        self._keep(onward)
        best, taken = int(onward.best[0]), int(onward.taken[0])
        stop = self.plan.options.quality.shape[1]
        if taken == stop:
            return None
        reason = note = self._said()
        if best == stop:
            chance = float(onward.chances[0, taken])
            reason = f"drawn to go on with a chance of {chance:.3g}, where to stop is best; {note}"
            best = taken
        choices = replace(
            choices,
            arm=onward.taken,
            best=np.array([best]),
            chances=onward.chances[:, :-1],
        )
        decision = decision_of(self.plan, choices, objective, room, reason)
        self._attempts.step = len(self._answered)
        self._attempts.note = note
        return decision

    def best(self) -> Any:
        """The answer to hand out, with its routing; the log is told where it is not the latest."""
        assert self.plan.look is not None
        assert self.plan.look.called is not None
        quality = self.plan.options.quality
        index = int(best_answer(quality, self.plan.look.called, np.array([self._last]))[0])
        chosen = self._answered[index]
        policy, request = self.plan.ladder.policy, self.plan.request
        asked = {**policy.deployment(chosen.decision.arm).params, **request.params}
        if policy.cascade is not None and policy.cascade.logprobs and not asked.get("logprobs"):
            without_logprobs(chosen.response)
        looks = None if self._record is None else self._record.text
        if index != self._last or looks is not None:
            self._attempts.accept(chosen.number, chosen.decision, looks)
        routing = routing_of(chosen.response)
        assert routing is not None
        steps = tuple(
            Step(each.decision.arm.name, float(quality[0, arm]), each.why)
            for arm, each in self._answered.items()
        )
        whole = replace(
            routing, attempts=self._attempts.count, steps=steps, spent=self._attempts.spent
        )
        return attach(chosen.response, whole)

    def _said(self) -> str:
        """The latest answer and what was found of it, for the decision after it."""
        last = self._answered[self._last]
        found = float(self.plan.options.quality[0, self._last])
        return f"after {last.decision.arm.tier}'s answer: P(good) {found:.2f} ({last.why})"

    def _keep(self, onward: Onward | None, *, final: bool = False) -> None:
        """Record what was done after the latest answer, once; None: nothing but to stop was
        possible."""
        if self._record is None or self._recorded:
            return
        self._recorded = True
        quality = self.plan.options.quality[0]
        taken = len(quality) if onward is None else int(onward.taken[0])
        chances = np.arange(len(quality) + 1) == taken if onward is None else onward.chances[0]
        self._record.add(self._last, quality, chances, taken, final=final)

    def _know(self, quality: Any) -> None:
        look = self.plan.look
        assert look is not None
        called = np.zeros(self.plan.options.quality.shape, dtype=bool)
        called[0, list(self._answered)] = True
        options = replace(self.plan.options, quality=quality[None])
        steps = look.steps - 1
        self.plan = replace(
            self.plan, options=options, look=replace(look, steps=steps, called=called), failure=None
        )
        mine = options.rung == options.rung[self._last]
        self._bar(np.flatnonzero(mine), Bar.ANSWERED)  # a spare of its rung would say the same
        may_follow = dearer(options.expected, options.rung)[0, self._last]
        self._bar(np.flatnonzero(~may_follow), Bar.NOT_DEARER)

    def _bar(self, arms: Ints, bar: int) -> None:
        barred = self.plan.options.barred.copy()
        barred[barred == Bar.NOT_NEXT] = Bar.FREE  # of a fallback that has ended in an answer
        barred[0, arms] = np.where(barred[0, arms] == Bar.FREE, bar, barred[0, arms])
        self.plan = replace(self.plan, options=replace(self.plan.options, barred=barred))


def _with_bests(plan: Plan, signals: Signals) -> tuple[Plan, Signals]:
    """The plan and a gate's signals, in which the best-of arms are worth what this gate makes of
    them: P(good) of the sample it picks, the calls that this takes, and how that one looks."""
    values = best_values(plan.ladder.bests, signals)
    if not values:
        return plan, signals
    options, quotes, calls = plan.options, list(plan.quotes), list(plan.calls)
    quality, expected = plan.quality.copy(), options.expected.copy()
    for index, value in values.items():
        taken = float(np.interp(quality[index], value.quality, value.calls))
        quality[index] = np.interp(quality[index], value.quality, value.good)
        quoted = quotes[index]
        if quoted.expected is not None:
            cost = round(quoted.expected * taken / calls[index])
            quotes[index] = Quote(cost, quoted.upper, quoted.output_cap)
            expected[0, index] = cost
        calls[index] = taken
    careful = plan.ladder.careful(plan.prediction, quality)[None]
    known = replace(
        plan,
        quality=quality,
        quotes=tuple(quotes),
        calls=tuple(calls),
        options=replace(options, quality=careful, expected=expected),
    )
    return known, with_values(signals, values)
