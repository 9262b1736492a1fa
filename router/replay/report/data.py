"""A log and its budgets → everything that a savings report shows, as records ready for JSON.

The log is read once, row by row: what is held grows with the length of the period in bins and with
the number of models and tags, not with the number of requests.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import TYPE_CHECKING, Any

from router.log.base import Log, LoggedRequest
from router.log.judged import OwnLabels
from router.log.savings import Line, Savings, arm_of, baseline_of, notes, per_good
from router.money import NANO_PER_USD
from router.prices import load_book
from router.replay.report.break_even import BreakEven, TokenCounts, break_evens
from router.replay.report.budgets import BudgetPace, paces
from router.replay.report.calibration import Calibration, CalibrationBins
from router.replay.report.changes import Change, Followed, changes
from router.replay.report.curve import Curve, Sample
from router.replay.report.movers import Mover, Movers
from router.replay.report.period import Period, period_of
from router.types import TIERS, AttemptRow, BudgetState

if TYPE_CHECKING:
    from router.drift.record import Alarms
    from router.policy import Policy

MOST_FAILURES = 200  # kinds of error that are told apart; a provider may put an id in each
_MONEY = frozenset(
    [
        "spent",
        "baseline",
        "cost",
        "per_answer",
        "per_good",
        "before",
        "after",
        "change",
        "own_full",
        "own_priced",
        "api",
        "fixed",
    ]
)


@dataclass(slots=True)
class Bin:
    """What happened in one bin of time; money in nano-USD, `baseline` as in the whole report.

    `tiers` counts the answered requests by the tier that answered. `unknown` counts attempts and
    baselines without a known price, which are in no sum.
    """

    start: float
    requests: int
    spent: int
    baseline: int
    unknown: int
    tiers: dict[str, int]


@dataclass(slots=True)
class Price:
    """What an accepted answer of one tier or model costs, all attempts that led to it included.

    `per_answer` is None where no answer has a known price, `per_good` also where none of the
    labelled answers was good.
    """

    kind: str  # "tier" or "model"
    name: str
    answers: int = 0
    priced: int = 0  # answers whose price is known
    spent: int = 0
    labels: int = 0
    quality: float | None = None  # as `router.log.savings.Line` has it

    @property
    def per_answer(self) -> float | None:
        return self.spent / self.priced if self.priced else None

    @property
    def per_good(self) -> float | None:
        return per_good(self.per_answer, self.quality)

    def as_dict(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "name": self.name,
            "answers": self.answers,
            "priced_answers": self.priced,
            **_money("spent", self.spent),
            **_money("per_answer", self.per_answer),
            "labels": self.labels,
            "quality": self.quality,
            **_money("per_good", self.per_good),
        }


@dataclass(frozen=True, slots=True)
class Failure:
    """How often requests ended in one way without an answer."""

    status: str
    error: str
    requests: int


@dataclass(frozen=True, slots=True)
class ReportData:
    """A savings report. `period` is None where no request is logged; the rest is empty then, but
    for what the router spent on calls of its own."""

    savings: Savings
    period: Period | None
    bins: tuple[Bin, ...]
    curve: Curve | None
    calibration: Calibration
    budgets: tuple[BudgetPace, ...]
    movers: tuple[Mover, ...]
    prices: tuple[Price, ...]
    failures: tuple[Failure, ...]
    notes: tuple[str, ...]
    break_even: tuple[BreakEven, ...] = ()
    changes: tuple[Change, ...] = ()

    @property
    def spent(self) -> int | None:
        """Nano-USD; None where no attempt has a known price."""
        return self.savings.total.known_spent

    @property
    def baseline(self) -> int | None:
        """Nano-USD; None where no answer has both a known baseline and known costs."""
        return self.savings.total.known_baseline

    @property
    def net_saved(self) -> int | None:
        """Nano-USD saved, less what the router spent itself; None where a side is unknown."""
        return self.savings.known_net_saved

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON: the savings as ever, and a key for each further part."""
        return {
            **self.savings.as_dict(),
            "period": plain(self.period),
            "over_time": plain(self.bins),
            "curve": plain(self.curve),
            "calibration": plain(self.calibration),
            "budgets": plain(self.budgets),
            "movers": plain(self.movers),
            "prices": [price.as_dict() for price in self.prices],
            "failures": plain(self.failures),
            "notes": list(self.notes),
            "changes": plain(self.changes),
            "break_even": [{**plain(e), "verdict": e.verdict} for e in self.break_even],
        }


def plain(value: Any) -> Any:
    """Records as maps, money as `*_usd` and exact in `*_nano`."""
    if is_dataclass(value):
        shown: dict[str, Any] = {}
        for field in fields(value):
            inner = getattr(value, field.name)
            shown |= (
                _money(field.name, inner) if field.name in _MONEY else {field.name: plain(inner)}
            )
        return shown
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def _money(name: str, nano: float | None) -> dict[str, float | None]:
    return {f"{name}_usd": None if nano is None else nano / NANO_PER_USD, f"{name}_nano": nano}


def report_data(
    log: Log,
    states: Iterable[BudgetState] = (),
    *,
    now: float,
    since: float | None = None,
    until: float | None = None,
    seed: int = 0,
    policies: Sequence[Policy] = (),
    alarms: Sequence[tuple[str, Alarms]] = (),
) -> ReportData:
    """Read a log once and sum it up.

    Parameters: `states`, the store's budgets at `now`; `since` ≤ time < `until` bound the requests,
    unix seconds; `seed` of the sample that the curve is drawn from; `policies`, whose deployments
    on own hardware are held against those at an API; `alarms`, each policy's of drift.
    """
    period = period_of(log, since, until)
    reader, labels = _Reader(period, seed), OwnLabels(log)
    for request, attempts in log.with_attempts(since, until):
        reader.add(labels.read(request), attempts)
    savings, bins = reader.savings.finished(), reader.filled_bins()
    return ReportData(
        savings=savings,
        period=period,
        bins=bins,
        curve=reader.sample.curve(),
        calibration=reader.calibration.result(savings.label_weights),
        budgets=paces(states, now),
        # In a single bin nothing has had the time to move.
        movers=reader.movers.result(savings.by_day) if len(bins) > 1 else (),
        prices=reader.sorted_prices(),
        failures=reader.sorted_failures(),
        notes=tuple(notes(savings)),
        break_even=break_evens(
            policies, load_book(), now, reader.tokens, period.end - period.first if period else 0.0
        )
        if policies
        else (),
        changes=changes(alarms, period, reader.followed),
    )


class _Reader:
    """Takes in a log one request at a time."""

    def __init__(self, period: Period | None, seed: int):
        self.period = period
        self.savings = Savings()
        self.sample = Sample(seed=seed)
        self.calibration = CalibrationBins()
        self.movers = Movers(period.middle if period else 0.0)
        self.tokens = TokenCounts()
        self.followed = Followed()
        self._bins: dict[float, Bin] = {}
        self._prices: dict[tuple[str, str], Price] = {}
        self._failures: dict[tuple[str, str], int] = {}

    def add(self, request: LoggedRequest, attempts: list[AttemptRow]) -> None:
        self.savings.add(request, attempts)
        for attempt in attempts:
            self.tokens.add(attempt)
        if request.purpose != "serve" or self.period is None:
            return
        self.followed.add(request.features)
        box = self._bin(self.period.bin_start(request.time))
        for attempt in attempts:
            if attempt.cost is None:
                box.unknown += 1
                continue
            box.spent += attempt.cost
            self.movers.add(request, attempt)
            for price in self._prices_of(attempt):
                price.spent += attempt.cost
        if request.served and attempts:
            found = [each for each in attempts if each.number == request.accepted]
            box.baseline += baseline_of(request, attempts) or 0
            self._answered(request, (found or attempts)[-1], box)
        elif request.status != "open" and not request.served:
            self._failed(request)

    def _answered(self, request: LoggedRequest, accepted: AttemptRow, box: Bin) -> None:
        box.requests += 1
        box.tiers[accepted.tier] = box.tiers.get(accepted.tier, 0) + 1
        box.unknown += request.baseline is None
        for price in self._prices_of(accepted):
            price.answers += 1
            price.priced += accepted.cost is not None
        self.sample.add(request.decision, request.chosen)
        if request.label is not None:
            view = next((v for v in request.decision if v.get("arm") == accepted.arm), {})
            arm = arm_of(accepted)
            self.calibration.add(arm, view.get("quality"), request.label, request.label_rate)

    def _failed(self, request: LoggedRequest) -> None:
        # What stands before the first colon is the error's name; the rest differs every time.
        name = (request.error or "").partition(":")[0].strip()[:80] or "no reason given"
        key = (request.status, name)
        if key not in self._failures and len(self._failures) >= MOST_FAILURES:
            key = (request.status, "other errors")
        self._failures[key] = self._failures.get(key, 0) + 1

    def _bin(self, start: float) -> Bin:
        if start not in self._bins:
            self._bins[start] = Bin(start, 0, 0, 0, 0, {})
        return self._bins[start]

    def _prices_of(self, attempt: AttemptRow) -> list[Price]:
        keys = (("tier", attempt.tier), ("model", attempt.model))
        return [self._prices.setdefault(key, Price(*key)) for key in keys]

    def filled_bins(self) -> tuple[Bin, ...]:
        """All bins of the period, the empty ones among them."""
        if self.period is None:
            return ()
        for start in self.period.bin_starts():
            self._bin(start)
        return tuple(self._bins[start] for start in sorted(self._bins))

    def sorted_prices(self) -> tuple[Price, ...]:
        """The prices, once the savings are finished."""
        for price in self._prices.values():
            lines = self.savings.by_tier if price.kind == "tier" else self.savings.by_model
            line = lines.get(price.name, Line())
            price.labels, price.quality = line.labels, line.quality

        def place(price: Price) -> tuple[bool, int, int, str]:
            known = price.name in TIERS and price.kind == "tier"
            rank = TIERS.index(price.name) if known else len(TIERS)
            return price.kind == "model", rank, -price.spent, price.name

        return tuple(sorted(self._prices.values(), key=place))

    def sorted_failures(self) -> tuple[Failure, ...]:
        counted = sorted(self._failures.items(), key=lambda item: (-item[1], item[0]))
        return tuple(Failure(status, error, count) for (status, error), count in counted)
