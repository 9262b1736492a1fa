"""Sampled judging: a judge compares what callers got with what the baseline tier would have said.

    sample → for each: the baseline's answer (a shadow call) → a verdict in each order → label

Each call is reserved against the run's ceiling before it is sent. The run ends where the money
does, or where a provider or the store is away; what was judged until then is kept.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, closing, suppress

from router.errors import (
    AtCapacity,
    AuthenticationFailed,
    BudgetExceeded,
    ContentRejected,
    InvalidRequest,
    LedgerError,
    ProviderError,
    ProviderTimeout,
    ProviderUnavailable,
    RateLimited,
)
from router.ids import new_request_id
from router.judging.calls import CEILING, RUN, Account, Caller
from router.judging.figures import JudgeReport, agreements
from router.judging.sample import Candidate, draw, sample
from router.judging.verdicts import Outcome, Verdict, outcome, parse, question, score
from router.ledger.url import store_url
from router.log import Label, Log
from router.money import format_usd
from router.policy import Policy
from router.policy.deployment import Deployment
from router.predict import Predictor
from router.prices import PriceBook
from router.types import Purpose, Request, Tier

# A provider that is away now is away for the next request too.
_OUTAGES = (AtCapacity, AuthenticationFailed, RateLimited, ProviderUnavailable, ProviderTimeout)
_IN_A_ROW = 3  # requests that a provider refuses one after another end a run


_NOTHING = [{"role": "user", "content": ""}]


class _NoRoom(Exception):
    """The run ends because a budget does not have the room for the next calls."""


class _Stop(Exception):
    """The run ends because what it asks for does not work."""


def judge(
    store: str,
    policy: Policy,
    *,
    rate: float | None = None,
    count: int | None = None,
    ceiling: int,
    seed: int = 0,
    predictor: Predictor | None = None,
    prices: PriceBook | None = None,
    clock: Callable[[], float] | None = None,
    progress: Callable[[JudgeReport], object] = lambda report: None,
) -> JudgeReport:
    """Judge a sample of a store's requests, and label them with the source "judge:MODEL".

    Parameters: `rate`, the share of the requests that can be judged, the policy's own by default;
    `count`, so many of them instead; `ceiling`, the most nano-USD that all calls of this run may
    cost together; `seed`, what decides which requests; `predictor`, `prices` and `clock` as of a
    `Router`; `progress` is called after each request.
    Raises what opening the store raises; `UnknownPrice` where a call has none.
    """
    arm = policy.judge_arm()
    deployments = policy.tiers.of(policy.baseline)
    account = Account(new_request_id(time.time()), ceiling)
    with ExitStack() as stack:

        def caller(
            purpose: Purpose, tier: Tier, deployments: Sequence[Deployment], longest: int
        ) -> Caller:
            made = Caller(
                policy, tier, deployments, purpose, account, longest=longest,
                store=store_url(store), predictor=predictor, prices=prices, clock=clock,
            )  # fmt: skip
            return stack.enter_context(closing(made))

        verdict, longest = policy.judge.max_output_tokens, policy.limits.max_output_tokens
        judging = caller("judge", arm.tier, [policy.deployment(arm)], verdict)
        shadowing = caller("shadow", policy.baseline, deployments, longest)
        began, log = judging.router.now(), judging.router.ledger.log()
        if rate is None and count is None:
            rate = policy.judge.rate
        chosen = sample(log, policy, arm.model, rate=rate, count=count, seed=seed)
        report = JudgeReport(
            judge=arm.model,
            baseline=deployments[0].model,
            judges_itself=arm.model in {each.model for each in deployments},
            seed=seed,
            ceiling=ceiling,
            **chosen.facts(),
        )
        bench = _Bench(policy, judging, shadowing, log, report)
        bench.run(chosen.candidates, progress)
        with suppress(LedgerError):
            bench.state_rates(chosen.earlier.values(), seed)
        with suppress(LedgerError):  # it was said already why the run ended
            report.spent = _spent(log, account.name, began)
            report.agreement = agreements(log.labels(), f"judge:{arm.model}")
        return report


class _Bench:
    """Judges candidates one after another and writes what comes out into the report."""

    def __init__(
        self, policy: Policy, judging: Caller, shadowing: Caller, log: Log, report: JudgeReport
    ):
        self._judging, self._shadowing, self._log, self._report = judging, shadowing, log, report
        self._written: list[Label] = []
        self._short: str | None = None  # the first request that the run did not get to
        self._longest, self._room = policy.limits.max_output_tokens, policy.judge.max_output_tokens

    def run(
        self, candidates: Sequence[Candidate], progress: Callable[[JudgeReport], object]
    ) -> None:
        report, in_a_row = self._report, 0
        try:
            if candidates:
                self._look_first()
            for candidate in candidates:
                try:
                    self._judge(candidate)
                    in_a_row = 0
                except (*_OUTAGES, _NoRoom, BudgetExceeded, LedgerError):
                    self._short = candidate.request_id
                    raise
                except InvalidRequest:  # of this request alone: too long for the judge, say
                    report.failed += 1
                except ProviderError as error:
                    report.failed, in_a_row = report.failed + 1, in_a_row + 1
                    if in_a_row == _IN_A_ROW:
                        self._short = candidate.request_id
                        raise _Stop(f"{in_a_row} in a row failed, lastly: {error}") from error
                progress(report)
        except (_NoRoom, BudgetExceeded) as full:
            report.stopped = str(full)
        except (_Stop, LedgerError, ProviderError, AtCapacity) as away:
            report.stopped, report.outage = str(away), True

    def state_rates(self, earlier: Iterable[Label], seed: int) -> None:
        """Write into every label of this seed's draws the rate by which it is there by now.

        A run that was cut short reached all that are drawn before where it ended, and no more; a
        run at a higher rate takes in what earlier ones at a lower rate had judged. Without this,
        requests of days that were drawn from twice would weigh too much.
        """
        rate = self._report.rate
        if self._short is not None:
            rate = draw(self._short, seed)
        elif self._report.stopped is not None:
            return  # before the first request
        stale = [each for each in earlier if each.rate is not None and each.rate < rate]
        if self._short is not None:
            stale += self._written
        now = self._judging.router.now()
        for label in stale:
            self._log.feedback(label.request_id, label.score, label.source, now=now, rate=rate)

    def _look_first(self) -> None:
        """Find out that a price is unknown before anything is spent."""
        for caller in (self._judging, self._shadowing):
            caller.lacks(caller.request(_NOTHING, 1, ""), 1)

    def _judge(self, candidate: Candidate) -> None:
        theirs = candidate.shadow
        if theirs is None:
            theirs = self._ask_baseline(candidate)
        else:
            self._report.reused += 1
        both: list[Outcome] = []
        for routed_first in (True, False):
            answers = (candidate.answer, theirs) if routed_first else (theirs, candidate.answer)
            asked = question(candidate.messages, *answers)
            request = self._judging.request(asked, self._room, candidate.request_id)
            self._need(self._judging, request, 2 - len(both))
            verdict = self._verdict(request)
            if verdict is None:
                return
            both.append(outcome(verdict, routed_first=routed_first))
        first, second = both
        label = Label(
            candidate.request_id,
            score(first, second),
            f"judge:{self._report.judge}",
            self._judging.router.now(),
            self._report.rate,
        )
        self._log.feedback(
            label.request_id, label.score, label.source, now=label.time, rate=label.rate
        )
        self._written.append(label)
        self._report.pairs.append((first, second))

    def _ask_baseline(self, candidate: Candidate) -> str:
        """What the baseline tier says to the same messages, within the same cap."""
        cap = candidate.cap or self._longest
        request = self._shadowing.request(candidate.messages, cap, candidate.request_id)
        self._need(self._shadowing, request, 1)
        response = self._shadowing.send(request)
        text = response.choices[0].message.content
        if not isinstance(text, str) or not text.strip():
            raise InvalidRequest("answer", "the baseline tier gave no text to compare with")
        return text

    def _need(self, caller: Caller, request: Request, calls: int) -> None:
        full = caller.lacks(request, calls)
        if full == CEILING:
            raise _NoRoom(f"the ceiling of {format_usd(self._report.ceiling)} leaves no room")
        if full is not None:
            raise _NoRoom(f"budget {full!r} leaves no room")

    def _verdict(self, request: Request) -> Verdict | None:
        """The judge's verdict; None, and counted, where it refused or said something else."""
        report = self._report
        try:
            [choice] = self._judging.send(request).choices
        except ContentRejected:
            report.refused += 1
            return None
        message = choice.message
        if choice.finish_reason == "content_filter" or getattr(message, "refusal", None):
            report.refused += 1
            return None
        verdict = parse(message.content or "")
        report.unparseable += verdict is None
        return verdict


def _spent(log: Log, run: str, began: float) -> dict[str, int]:
    """What a run's calls cost by purpose, failed ones too."""
    purposes = {
        row.request_id: row.purpose for row in log.requests(began) if row.scopes.get(RUN) == run
    }
    spent = {"judge": 0, "shadow": 0}
    for attempt in log.attempts(began):
        if attempt.request_id in purposes:
            spent[purposes[attempt.request_id]] += attempt.cost or 0
    return spent
