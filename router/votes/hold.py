"""Holding a vote: samples go out, are settled one by one, and the answer of most is handed out."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from router.dispatch.race import Race
from router.dispatch.wire import Reply
from router.effects import SendAll, Store, Walk
from router.errors import AtCapacity, BudgetExceeded, ProviderError
from router.gates.answer import answers_of
from router.routing import Routing, Step, attach
from router.votes.comparable import said

if TYPE_CHECKING:
    from router.attempts import Attempt, Attempts
    from router.decide.vote import VoteRule
    from router.plan import Plan
    from router.types import Decision, Request


@dataclass(slots=True)
class Tally:
    """The count of one vote. `quality`: P(good) of one sample, as predicted."""

    rule: VoteRule
    quality: float
    request: Request
    groups: dict[Any, list[Any]] = field(default_factory=dict)  # responses by what they say

    def count(self, response: Any) -> None:
        """Count a sample; one that names no answer agrees with no other."""
        [first, *_] = answers_of(response)
        word = said(first, self.request.params)
        self.groups.setdefault((word,) if word is not None else id(response), []).append(response)

    @property
    def counts(self) -> list[int]:
        """How many samples gave each answer, most first."""
        return sorted(map(len, self.groups.values()), reverse=True)

    @property
    def leader(self) -> Any:
        """The first sample that gave the leading answer; of equals the one that came first."""
        return max(self.groups.values(), key=len)[0]

    @property
    def good(self) -> float:
        """P(the leading answer is good)."""
        return self.rule.leader_good(self.quality, self.counts)

    @property
    def words(self) -> str:
        """The outcome, for people."""
        counts = self.counts
        return f"{counts[0]} of {sum(counts)} samples agree"


def hold(attempts: Attempts, plan: Plan, decision: Decision) -> Walk[Any]:
    """Ask for samples until the vote is decided, and return the leader's response.

    Each sample has its own reservation, settlement and log row. A sample that fails is left out;
    where a budget or the deployment has no room for all that could be asked, as many as fit are.
    Raises what the last sample failed with where none gave an answer.
    """
    arm = decision.arm
    tally = Tally(
        plan.ladder.votes[decision.chosen],
        float(plan.prediction.quality[plan.ladder.tier[decision.chosen]]),
        attempts.request,
    )
    failed: BaseException | None = None
    asked = 0
    while more := min(tally.rule.wanted(tally.quality, tally.counts), arm.samples - asked):
        samples: list[Attempt] = []
        for _ in range(more):
            try:
                sample = attempts.prepare(plan, decision)
                yield Store(sample.reserve)
            except (AtCapacity, BudgetExceeded) as full:
                failed = full
                break
            samples.append(sample)
        if not samples:
            break
        asked += len(samples)
        error = yield from _send(tally, samples)
        failed = error or failed
    if not tally.groups:
        assert failed is not None
        raise failed
    return (yield Store(partial(_handed_out, attempts, tally, decision)))


def _send(tally: Tally, samples: list[Attempt]) -> Walk[BaseException | None]:
    """Send samples at once and settle each; the error of one that failed, if any did."""

    def enough(at: int, reply: Reply) -> bool:
        tally.count(reply.response)
        return tally.rule.decided(tally.quality, tally.counts)

    race = Race([sample.call for sample in samples], enough)
    interrupt: BaseException | None = None
    try:
        yield SendAll(race)
    except BaseException as error:  # the caller left: what was sent is settled all the same
        interrupt = error
    failed: BaseException | None = None
    for at, sample in enumerate(samples):
        if at in race.replies:
            response = race.replies[at].response
            routing = yield Store(partial(sample.settle_answer, response))
            attach(response, routing)
            continue
        left = race.failures.get(at) or interrupt or asyncio.CancelledError()
        yield Store(partial(sample.settle_failure, left, ends=interrupt is not None))
        if isinstance(left, ProviderError):
            failed = left
    if interrupt is not None:
        raise interrupt
    return failed


def _handed_out(attempts: Attempts, tally: Tally, decision: Decision) -> Any:
    """The leader's response, with its routing; the log is told which sample it is."""
    leader = tally.leader
    routing: Routing = leader._hidden_params["router"]
    attempts.accept(routing.attempts, decision)
    attempts.vote = tally
    step = Step(decision.arm.name, tally.good, tally.words)
    return attach(leader, replace(routing, steps=(step,), spent=attempts.spent))
