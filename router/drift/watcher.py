"""Drift in a router: looks at the log now and then, and knows which alarms are open.

A look reads what came since the last one, whoever made that, and runs in a thread of its own, so
that no request waits for it. Open alarms are read first, by the request that found it time to look:
what another process found, or this one before a restart, holds from then on.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from router.decide.options import safe_side
from router.dispatch.deadlines import FLEX, longest_call
from router.drift.change import Streams
from router.drift.quantities import (
    BINS,
    form_note,
    score_counts,
    watched,
    watches_form,
)
from router.drift.record import ALARMS, TESTS, Alarm, Alarms, Watch
from router.errors import ConfigurationError, LedgerUnavailable, RouterError
from router.gates.answer import answers_of
from router.gates.structural import faults
from router.types import TIERS

if TYPE_CHECKING:
    from router.log import Log
    from router.log.base import LoggedRequest
    from router.planning.ladder import Ladder
    from router.planning.plan import Plan
    from router.policy import Policy
    from router.predict import Predictor
    from router.types import AttemptRow, Request

_logger = logging.getLogger("router")

CHAIN_SECONDS = 30.0  # for which the answers of a chain may still be on their way
_FLUSH_SECONDS = 60.0  # in which the rows of leased calls that have ended are in the log
_TRIES = 10  # at writing what others write too


class Drift:
    """What one router knows of drift under its policy.

    Parameters: `log`, opens the log; `clock`, unix seconds.
    Raises `ConfigurationError` where scores are held against calibration queries and the predictor
    has none.
    """

    def __init__(
        self,
        policy: Policy,
        ladder: Ladder,
        predictor: Predictor,
        book: str,
        log: Callable[[], Log],
        clock: Callable[[], float],
    ):
        self._policy, self._ladder, self._predictor = policy, ladder, predictor
        self._book, self._log, self._clock = book, log, clock
        self.asked = policy.drift
        self._calibrated = self.asked is not None and self.asked.scores == "calibration"
        self._names = watched(policy)
        self.form = self._form if watches_form(policy) else None
        # A leased call is in the log once it has ended: what is younger than any that may be under
        # way is not read, or short answers would come before long ones.
        leased = policy.ledger.lease
        self._unseen = longest_call(policy, FLEX) + _FLUSH_SECONDS if leased else 0.0
        self._words = ""  # of the alarms that decisions follow
        self._thread: threading.Thread | None = None
        self._one = threading.Lock()
        rows = len(predictor.calibration.quality) if self._calibrated else 1
        if not rows:
            raise ConfigurationError(
                f"drift.scores: {predictor.name} has no calibration queries; allowed: log, or a "
                "predictor that `router train` made"
            )

    # ── what a request sees ────────────────────────────────────────────────────────────────────
    def guarded(self, plan: Plan) -> Plan:
        """The plan on the policy's safe side while an alarm is open; itself otherwise, and for the
        router's own calls."""
        if not self._words or plan.request.purpose != "serve":
            return plan
        objective = safe_side(plan.ladder.objective, self._words)
        return replace(plan, ladder=replace(plan.ladder, objective=objective), look=None)

    @staticmethod
    def _form(request: Request, response: Any) -> str | None:
        """What is wrong with an answer by its form, for its row in the log."""
        if request.purpose != "serve":
            return None
        try:
            found = [
                fault for each in answers_of(response) for fault in faults(request.params, each)
            ]
            return form_note(tuple(dict.fromkeys(found)))
        except Exception:  # what was paid for is not lost to a look at it
            _logger.exception("an answer of request %s could not be looked at", request.request_id)
            return None

    # ── what is done now and then ──────────────────────────────────────────────────────────────
    def look(self) -> None:
        """Read which alarms are open, and begin to read on in the log."""
        log = self.recall()
        if log is None:
            return
        with self._one:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(
                    target=self._run, args=(log,), name="router-drift", daemon=True
                )
                self._thread.start()

    def recall(self) -> Log | None:
        """Read which alarms are open, and return the log; where that fails, those that were known
        stay, and None is returned."""
        if self.asked is None:
            return None
        try:
            log = self._log()
            self._know(self._alarms(log)[0])
            return log
        except RouterError as error:
            _logger.warning("drift: the alarms were not read: %s", error)
            return None

    def wait(self, seconds: float = 60.0) -> bool:
        """Wait until the look under way has ended; False if that takes longer."""
        if (thread := self._thread) is not None:
            thread.join(seconds)
            return not thread.is_alive()
        return True

    def close(self) -> None:
        """Give a look under way a few seconds to end."""
        self.wait(5.0)

    def alarms(self) -> tuple[Alarm, ...]:
        """The open alarms, by the store."""
        return self._alarms(self._log())[0].open

    def accept(self, by: str = "", note: str = "") -> tuple[Alarm, ...]:
        """Take what is now for the reference: no alarm is open, and all tests begin anew.

        Other processes follow with their next look, within about a minute. Returns the alarms that
        were open. Raises `LedgerUnavailable` where the store does not take it.
        """
        before = accept(self._log(), self._policy.name, self._clock(), by, note)
        self._know(Alarms())
        return before

    def _run(self, log: Log) -> None:
        try:
            self._read_on(log)
        except RouterError as error:
            _logger.warning("drift: the log was not read: %s", error)
        except Exception:
            _logger.exception("drift: the log was not read")

    def _read_on(self, log: Log) -> None:
        now = self._clock()
        alarms, _ = self._alarms(log)
        key = TESTS + self._policy.stamp
        memo = log.memos(key).get(key)
        watch = None if memo is None else Watch.from_json(memo.value)
        if watch is None or watch.names != self._names or watch.round != alarms.round:
            watch = self._begin(now, alarms.round)
        grace = CHAIN_SECONDS if self._policy.cascade is not None else 0.0
        skip = frozenset(alarm.name for alarm in alarms.open)
        until = now - self._unseen if self._unseen else None
        watch.read(answered(log, watch.since, until), now - grace, skip)
        if not log.keep(key, watch.to_json(), 0 if memo is None else memo.version):
            return  # another process has read on meanwhile
        found = watch.alarms(now) + self._prices(watch, now)
        self._know(raise_alarms(log, self._policy.name, found, watch.round))

    def _begin(self, now: float, number: int) -> Watch:
        """Tests without a value yet; their reference begins now."""
        assert self.asked is not None
        watch = Watch(
            stamp=self._policy.stamp,
            names=self._names,
            alpha=float(self.asked.alpha),
            reference=self.asked.reference,
            round=number,
            began=now,
            since=now,
            streams=Streams.new(len(self._names), BINS),
            prices={"book": self._book, "arms": self._digests(now)},
        )
        if self._calibrated:
            quality = self._predictor.calibration.quality
            for at, name in enumerate(self._names):
                kind, _, tier = name.partition("/")
                if kind == "scores":
                    of_tier = quality[:, [str(t) for t in TIERS].index(tier)]
                    watch.streams.seed(at, score_counts(of_tier[np.isfinite(of_tier)]))
        return watch

    def _prices(self, watch: Watch, now: float) -> list[Alarm]:
        """An alarm where the price book is another, and some arm's price with it."""
        assert self.asked is not None
        kept = watch.prices
        if "prices" not in (self.asked.watch or ("prices",)) or kept is None:
            return []
        if kept["book"] == self._book:
            return []
        digests = self._digests(now)
        moved = [name for name, digest in digests.items() if kept["arms"].get(name) != digest]
        if not moved:
            return []
        book = f"price book {kept['book']}", f"{self._book}, which prices {', '.join(moved)} anew"
        return [Alarm("prices", now, now, 1.0, 1.0, *book, policy=watch.stamp)]

    def _digests(self, now: float) -> dict[str, str]:
        """What tells the price of each arm from another: 12 digits of a hash."""
        found = {}
        for arm, dated in zip(self._ladder.arms, self._ladder.prices, strict=True):
            text = repr(dated.at(now)).encode()
            found[arm.name] = hashlib.sha256(text).hexdigest()[:12]
        return found

    def _alarms(self, log: Log) -> tuple[Alarms, int]:
        return alarms_of(log, self._policy.name)

    def _know(self, alarms: Alarms) -> None:
        follows = self.asked is not None and self.asked.on_alarm == "baseline"
        self._words = "; ".join(alarm.text for alarm in alarms.open) if follows else ""


def alarms_of(log: Log, policy: str) -> tuple[Alarms, int]:
    """The alarms of a policy by its name, and the version that they are kept at."""
    memo = log.memos(ALARMS + policy).get(ALARMS + policy)
    return (Alarms(), 0) if memo is None else (Alarms.from_json(memo.value), memo.version)


def all_alarms(log: Log) -> list[tuple[str, Alarms]]:
    """The alarms of a store, open and accepted, by the name of their policy."""
    return [
        (name.removeprefix(ALARMS), Alarms.from_json(memo.value))
        for name, memo in sorted(log.memos(ALARMS).items())
    ]


def open_alarms(log: Log) -> list[tuple[str, Alarm]]:
    """Every open alarm of a store, with its policy's name."""
    return [(policy, alarm) for policy, alarms in all_alarms(log) for alarm in alarms.open]


def raise_alarms(log: Log, policy: str, found: list[Alarm], number: int) -> Alarms:
    """Write down alarms that are not open yet, and return all that are. `number`: of the round that
    they were found in; once that was accepted they say nothing any more."""
    for _ in range(_TRIES):
        before, version = alarms_of(log, policy)
        after = before.raised(found) if before.round == number else before
        new = after.open[len(before.open) :]
        if not new:
            return before
        if log.keep(ALARMS + policy, after.to_json(), version):
            for alarm in new:
                _logger.warning("drift alarm of policy %s: %s", policy, alarm.text)
            return after
    raise LedgerUnavailable("drift", "other processes kept its alarms busy")


def accept(log: Log, policy: str, now: float, by: str = "", note: str = "") -> tuple[Alarm, ...]:
    """Close all alarms of a policy by its name, and let its tests begin anew; return what was open.

    Raises `LedgerUnavailable` where other processes are faster, over and over.
    """
    for _ in range(_TRIES):
        before, version = alarms_of(log, policy)
        if log.keep(ALARMS + policy, before.accept(now, by, note).to_json(), version):
            return before.open
    raise LedgerUnavailable("drift", "other processes kept its alarms busy")


def answered(
    log: Log, since: float, until: float | None = None
) -> Iterator[tuple[LoggedRequest, list[AttemptRow]]]:
    """Requests from `since` (unix seconds) to before `until` with their ended attempts, in order of
    time."""
    attempts = log.attempts(since, until)
    waiting: dict[str, list[AttemptRow]] = {}
    for request in log.requests(since, until):
        own = waiting.pop(request.request_id, [])
        while len(own) < request.attempts:
            attempt = next(attempts, None)
            if attempt is None:
                break
            if attempt.request_id == request.request_id:
                own.append(attempt)
            else:
                waiting.setdefault(attempt.request_id, []).append(attempt)
        yield request, own
