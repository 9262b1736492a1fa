"""Holding a vote: samples go out, are settled one by one, and the answer of most is handed out."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from router.dispatch.effects import Look, SendAll, Store, Walk
from router.dispatch.race import Race
from router.dispatch.wire import CancelledUnsent, Reply
from router.errors import AtCapacity, BudgetExceeded, ProviderError
from router.gates.answer import Answer, answers_of
from router.gates.gate import Verdict
from router.votes.tally import Tally
from router.walk.attempt import Attempt, prepare
from router.walk.routing import Routing, Step, attach

if TYPE_CHECKING:
    from router.gates.gate import Gate
    from router.planning.plan import Plan
    from router.policy.vote import Vote
    from router.types import Decision, Floats, Ints, Request
    from router.walk.attempts import Attempts

_log = logging.getLogger("router")


@dataclass(slots=True)
class Best:
    """The samples of one request, as a gate judges them. `quality` (A,): P(good) of one sample of
    each arm, as predicted."""

    vote: Vote
    gate: Gate
    request: Request
    arm: int
    quality: Floats
    tier: Ints
    judged: list[tuple[Verdict, Any]] = field(default_factory=list)

    def judge(self, responses: Sequence[Any]) -> None:
        """Judge samples; one that the gate cannot read is as good as was predicted."""
        for response in responses:
            said = {self.arm: answers_of(response)}
            try:
                found = self.gate.look(
                    self.request, response, said, self.arm, self.quality, self.tier
                )
            except Exception:  # what was paid for is not lost to a gate that cannot read it
                _log.exception("a sample of %s could not be judged", self.request.request_id)
                found = Verdict(self.quality, "not judged")
            self.judged.append((found, response))

    @property
    def _best(self) -> tuple[Verdict, Any]:
        return max(self.judged, key=lambda each: each[0].quality[self.arm])

    @property
    def wanted(self) -> int:
        """How many more samples to ask for."""
        left = self.vote.samples - len(self.judged)
        if self.judged and (self.vote.at_once or self.good >= self.vote.sure):
            return 0
        return left if self.vote.at_once else min(left, 1)

    @property
    def leader(self) -> Any:
        """The first of the samples that the gate found best."""
        return self._best[1]

    @property
    def verdict(self) -> Verdict:
        """What the gate said of it."""
        return self._best[0]

    @property
    def good(self) -> float:
        """P(it is good)."""
        return float(self.verdict.quality[self.arm])

    @property
    def words(self) -> str:
        """The outcome, for people."""
        return f"the best of {len(self.judged)} samples"


def hold(attempts: Attempts, plan: Plan, decision: Decision, gate: Gate) -> Walk[Any]:
    """Ask for samples until the vote is decided, and return the leader's response.

    Each sample has its own reservation, settlement and log row. A sample that fails is left out;
    where a budget or the deployment has no room for all that could be asked, as many as fit are.
    Raises what the last sample failed with where none gave an answer.
    """
    arm, tally = decision.arm, _tally(attempts.request, plan, decision.chosen, gate)
    failed: BaseException | None = None
    asked = answered = 0
    while more := min(tally.wanted, arm.samples - asked):
        samples: list[Attempt] = []
        for _ in range(more):
            try:
                sample = prepare(attempts, plan, decision)
                yield Store(sample.reserve)
            except (AtCapacity, BudgetExceeded) as full:
                failed = full
                break
            except BaseException:  # the store is away, say: what was reserved is not sent any more
                for each in samples:
                    yield Store(partial(each.settle_failure, CancelledUnsent(), ends=False))
                raise
            samples.append(sample)
        if not samples:
            break
        asked += len(samples)
        responses, error = yield from _send(tally, samples)
        failed = error or failed
        if isinstance(tally, Best):
            yield Look(partial(tally.judge, responses))
        answered += len(responses)
    if not answered:
        assert failed is not None
        raise failed
    return (yield Store(partial(_handed_out, attempts, tally, decision)))


def _tally(request: Request, plan: Plan, index: int, gate: Gate) -> Tally | Best:
    of_tier = plan.prediction.quality
    if index in plan.ladder.bests:
        vote, every = plan.ladder.bests[index], plan.ladder.quality(of_tier)
        return Best(vote, gate, request, index, every, plan.ladder.tier)
    quality = float(of_tier[plan.ladder.tier[index]])
    return Tally(plan.ladder.votes[index], quality, request.params)


def _send(
    tally: Tally | Best, samples: list[Attempt]
) -> Walk[tuple[list[Any], BaseException | None]]:
    """Send samples at once and settle each; what was answered, and the error of one that failed."""

    def enough(at: int, reply: Reply) -> bool:
        if isinstance(tally, Best):
            return False  # a gate may take its time, and is asked later
        first = next(iter(answers_of(reply.response)), Answer(""))
        tally.count(first, reply.response)
        return not tally.wanted

    race = Race([sample.call for sample in samples], enough)
    interrupt: BaseException | None = None
    try:
        yield SendAll(race)
    except BaseException as error:  # the caller left: what was sent is settled all the same
        interrupt = error
    failed: BaseException | None = None
    responses = []
    for at, sample in enumerate(samples):
        if at in race.replies:
            reply = race.replies[at]
            routing = yield Store(partial(sample.settle_answer, reply))
            responses.append(attach(reply.response, routing))
            continue
        left = race.failures.get(at) or interrupt or asyncio.CancelledError()
        yield Store(partial(sample.settle_failure, left, ends=interrupt is not None))
        if isinstance(left, ProviderError):
            failed = left
    if interrupt is not None:
        raise interrupt
    return responses, failed


def _handed_out(attempts: Attempts, tally: Tally | Best, decision: Decision) -> Any:
    """The leader's response, with its routing; the log is told which sample it is."""
    leader = tally.leader
    routing: Routing = leader._hidden_params["router"]
    attempts.accept(routing.attempts, decision)
    attempts.vote = tally
    step = Step(decision.arm.name, tally.good, tally.words)
    return attach(leader, replace(routing, steps=(step,), spent=attempts.spent))
