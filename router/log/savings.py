"""What was spent, and what always sending to the baseline tier would have cost.

The baseline of a request is the baseline model's own predicted tokens at its own price, logged
when the request was decided; where the baseline tier itself answered, its real bill. Everything
that was paid counts as spent: retries, failures and abandoned streams too. A request that got no
answer has a baseline of 0, since an answer that was not given saves nothing. One whose baseline or
cost is not known is not compared: it counts as spent, and in no saving.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, cast

from router.log.base import Log, LoggedRequest
from router.log.judged import OwnLabels, about_judged
from router.log.label_weights import LabelSums, Weight
from router.money import NANO_PER_USD, format_usd
from router.policy.arms import arm_named
from router.types import TIERS, AttemptRow, Tier

MOST_LINES = 50  # rows of a table, where there may be one for each user; the JSON has all of them
_BILLED = ("computed", "reported")  # costs that rest on what a provider said
UNACCOUNTED = "sent while the ledger was away"  # how the note of such an attempt begins


@dataclass(slots=True)
class Line:
    """Sums over some requests and attempts; money in nano-USD.

    `labels` counts those that count, `quality` is their mean over the answers that they stand for
    (`router.log.label_weights`): None without labels, and until the whole log is read.
    """

    requests: int = 0  # that got an answer, or began to
    attempts: int = 0  # on the wire
    unpriced: int = 0  # of `attempts`, those without a known price, which are in no sum
    spent: int = 0
    comparable: int = 0  # of `requests`, those whose baseline and costs are all known
    compared: int = 0  # of `spent`, what these and requests without an answer cost
    baseline: int = 0  # of the comparable ones
    labels: int = 0
    quality: float | None = None
    predicted: int = 0  # expected cost of the accepted answers, as quoted before the call
    billed: int = 0  # their real cost
    judged: LabelSums = field(default_factory=LabelSums)

    @property
    def known_spent(self) -> int | None:
        """What was spent as far as it is known; None where no attempt has a known price."""
        return None if self.attempts and self.unpriced == self.attempts else self.spent

    @property
    def known_baseline(self) -> int | None:
        """The baseline; None where of no answer both it and the costs are known."""
        return None if self.requests and not self.comparable else self.baseline

    @property
    def saved(self) -> int:
        return self.baseline - self.compared

    @property
    def saved_share(self) -> float | None:
        """Saved share of the baseline, None without a baseline."""
        return self.saved / self.baseline if self.baseline else None

    @property
    def bill_over_quote(self) -> float | None:
        """Real cost of the accepted answers over their quotes: 1 is a perfect forecast."""
        return self.billed / self.predicted if self.predicted else None

    def as_dict(self) -> dict[str, Any]:
        return {
            "requests": self.requests,
            "attempts": self.attempts,
            "unpriced_attempts": self.unpriced,
            "realized_usd": _usd(self.known_spent),
            "comparable_requests": self.comparable,
            "compared_usd": self.compared / NANO_PER_USD,
            "baseline_usd": _usd(self.known_baseline),
            "savings_usd": None if self.known_baseline is None else _usd(self.saved),
            "savings_pct": None if self.saved_share is None else round(100 * self.saved_share, 2),
            "quality": self.quality,
            "labels": self.labels,
            "bill_over_quote": self.bill_over_quote,
        }


@dataclass(slots=True)
class Savings:
    """The savings report of a log; money in nano-USD.

    `overhead` is what the router spent on calls of its own. `wasted` is the part of `total.spent`
    that bought no accepted answer. `unknown_cost` counts attempts and `unknown_baseline` requests
    without a known price; they are in no sum. `unaccounted` counts attempts that were sent while
    the ledger was away, as a policy may ask for; they are in every sum once the ledger has them.
    `answers` counts each arm's, and `label_weights` say what each of its labels weighs.
    """

    total: Line = field(default_factory=Line)
    by_tier: dict[str, Line] = field(default_factory=dict)
    by_model: dict[str, Line] = field(default_factory=dict)
    by_day: dict[str, Line] = field(default_factory=dict)
    by_tag: dict[str, Line] = field(default_factory=dict)
    failed: int = 0
    refused: int = 0
    wasted: int = 0
    overhead: int = 0
    assumed: int = 0  # attempts charged by assumption, for want of a usage report
    unknown_cost: int = 0
    unknown_baseline: int = 0
    unaccounted: int = 0
    explored: int = 0  # requests whose arm was drawn, and not the best
    explored_extra: int = 0  # nano-USD that they were expected to cost beyond the best arm
    judged: int = 0  # of the labels, those by a judge
    answers: dict[Hashable, int] = field(default_factory=dict)
    label_weights: dict[Hashable, Weight] = field(default_factory=dict)

    @property
    def net_saved(self) -> int:
        """Saved against the baseline, less what the router itself spent."""
        return self.total.saved - self.overhead

    @property
    def known_net_saved(self) -> int | None:
        """The same, None where what was spent or the baseline is not known."""
        known = self.total.known_spent is not None and self.total.known_baseline is not None
        return self.net_saved if known else None

    @property
    def per_answer(self) -> float | None:
        """Nano-USD of an accepted answer, with all that led to it; None where there is none, or a
        cost is unknown."""
        known = self.total.requests and not self.total.unpriced
        return self.total.spent / self.total.requests if known else None

    @property
    def per_good_answer(self) -> float | None:
        """The same of an answer that was good, by labels."""
        return per_good(self.per_answer, self.total.quality)

    def add(self, request: LoggedRequest, attempts: list[AttemptRow]) -> None:
        """Count a request with all its attempts."""
        _add(self, request, attempts)

    def finished(self) -> Savings:
        """Itself, with the tiers in their order, the dearest models and tags first, and labels
        weighed."""
        self.by_tier = {tier: self.by_tier[tier] for tier in tier_names(self.by_tier)}
        self.by_model, self.by_tag = _dearest_first(self.by_model), _dearest_first(self.by_tag)
        self.label_weights = self.total.judged.weights(self.answers)
        tables = (self.by_tier, self.by_model, self.by_day, self.by_tag)
        for line in (self.total, *(line for table in tables for line in table.values())):
            means = line.judged.weighed(self.label_weights).means
            line.quality = None if means is None else means[0]
        return self

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON: money as numbers of US dollars, and exact in `*_nano`."""
        return {
            **self.total.as_dict(),
            "per_answer_usd": _usd(self.per_answer),
            "per_good_answer_usd": _usd(self.per_good_answer),
            "realized_nano": self.total.known_spent,
            "baseline_nano": self.total.known_baseline,
            "overhead_usd": self.overhead / NANO_PER_USD,
            "net_savings_usd": _usd(self.known_net_saved),
            "no_answer_usd": self.wasted / NANO_PER_USD,
            "failed": self.failed,
            "refused": self.refused,
            "assumed_costs": self.assumed,
            "unknown_costs": self.unknown_cost,
            "unknown_baselines": self.unknown_baseline,
            "unaccounted": self.unaccounted,
            "explored": self.explored,
            "explored_extra_usd": self.explored_extra / NANO_PER_USD,
            "by_tier": {key: line.as_dict() for key, line in self.by_tier.items()},
            "by_model": {key: line.as_dict() for key, line in self.by_model.items()},
            "by_day": {key: line.as_dict() for key, line in self.by_day.items()},
            "by_tag": {key: line.as_dict() for key, line in self.by_tag.items()},
        }


def tier_names(tiers: Iterable[str]) -> list[str]:
    """Tiers in their order; others, which a log may hold, behind them."""
    found = set(tiers)
    return [*(tier for tier in TIERS if tier in found), *sorted(found.difference(TIERS))]


def _dearest_first(lines: Mapping[str, Line]) -> dict[str, Line]:
    return dict(sorted(lines.items(), key=lambda item: (-item[1].spent, item[0])))


def shown_name(name: str) -> str:
    """A name for people; calls that were imported without a policy, say, have no tier."""
    return name or "(none)"


def per_good(per_answer: float | None, quality: float | None) -> float | None:
    """What a good answer costs where one of any kind costs `per_answer` and `quality` of them are
    good; None where either is unknown, or none is good."""
    return per_answer / quality if per_answer is not None and quality else None


def _usd(nano: float | None) -> float | None:
    return None if nano is None else nano / NANO_PER_USD


def savings(log: Log, since: float | None = None, until: float | None = None) -> Savings:
    """Sum up a log. `since` and `until` bound the requests' times, unix seconds; days are UTC."""
    report, labels = Savings(), OwnLabels(log)
    for request, attempts in log.with_attempts(since, until):
        report.add(labels.read(request), attempts)
    return report.finished()


def notes(report: Savings) -> list[str]:
    """What a careful reader should know about the figures."""
    said = []
    if report.wasted:
        said.append(
            f"{format_usd(report.wasted)} of the spend bought no accepted answer "
            "(retries, failures, abandoned streams); it is included."
        )
    if report.failed or report.refused:
        said.append(
            f"{report.failed} requests failed and {report.refused} were refused; "
            "neither counts in the baseline."
        )
    if report.assumed:
        said.append(
            f"{report.assumed} attempts had no usable usage report and are charged by assumption, "
            "at most what was reserved."
        )
    if report.unknown_cost or report.unknown_baseline:
        said.append(
            f"{report.unknown_cost} attempts and {report.unknown_baseline} baselines have no known "
            "price and are in no sum, nor are the baselines of those attempts' requests."
        )
    if report.total.spent != report.total.compared:
        said.append(
            f"{format_usd(report.total.spent - report.total.compared)} of the spend is of requests "
            "whose baseline or cost is not known: it is compared with nothing and in no saving."
        )
    if report.explored:
        said.append(
            f"{report.explored} requests were drawn to explore, which was expected to cost "
            f"{format_usd(report.explored_extra)} more; `router replay` reads what they taught."
        )
    said += _about_labels(report)
    if report.unaccounted:
        said.append(
            f"{report.unaccounted} calls were sent while the ledger was away, without asking any "
            "budget; they are booked as overruns once it is back."
        )
    said.append(
        "The baseline is predicted (the baseline model's own expected tokens at its own price) "
        "except where that tier answered. `bill/quote` shows how good such forecasts were."
    )
    return said


def _about_labels(report: Savings) -> list[str]:
    """What quality takes for granted of answers without a label."""
    if not report.total.labels:
        return []
    drawn = alone = 0
    for arm, sums in report.total.judged.by_arm.items():
        if report.label_weights[arm].rated:
            drawn += sums.drawn
        else:
            alone += report.answers[arm] - round(sums.every[0])
    unknown = sum(n for arm, n in report.answers.items() if arm not in report.label_weights)
    said = []
    if report.judged:
        said.append(f"{about_judged(report.judged, report.total.labels)}.")
    if drawn:
        said.append(
            f"{drawn} labels were drawn by a known rate: in quality each weighs by its inverse, "
            "and labels that nobody drew stand for their own answers alone."
        )
    if alone:
        said.append(
            f"{alone} answers have no label, and too few of their arms' labels were drawn: quality "
            "takes them to be as good as labelled answers of the same arm; `router judge` draws."
        )
    if unknown:
        said.append(f"{unknown} answers of arms without any label are in no quality.")
    return said


def _add(report: Savings, request: LoggedRequest, attempts: list[AttemptRow]) -> None:
    if request.purpose != "serve":
        _add_overhead(report, attempts)
        return
    report.failed += request.status in ("failed", "expired", "abandoned") and not request.served
    report.refused += request.status == "refused"
    day = f"{datetime.fromtimestamp(request.time, UTC):%Y-%m-%d}"
    shared = [report.total, report.by_day.setdefault(day, Line())]
    shared += [report.by_tag.setdefault(tag, Line()) for tag in dict.fromkeys(request.tags)]

    answer = next((each for each in attempts if each.number == request.accepted), None)
    # A sample that was hung up on is part of how its vote ended; one that failed told nothing.
    bought = {each.number for each in _bought(answer, attempts) if each.status != "failed"}
    baseline = baseline_of(request, attempts)
    for attempt in attempts:
        lines = [*shared, *_own(report, attempt)]
        _count(lines, attempts=1)
        report.unaccounted += (attempt.note or "").startswith(UNACCOUNTED)
        report.assumed += attempt.cost_source in ("assumed", "expired")
        if attempt.cost is None:
            report.unknown_cost += 1
            _count(lines, unpriced=1)
            continue
        _count(lines, spent=attempt.cost, compared=0 if baseline is None else attempt.cost)
        if attempt.number not in bought:
            report.wasted += attempt.cost

    if not request.served or not attempts:
        return
    accepted = answer or attempts[-1]
    lines = [*shared, *_own(report, accepted)]
    _count(lines, requests=1)
    report.unknown_baseline += request.baseline is None
    if baseline is not None:
        _count(lines, comparable=1, baseline=baseline)
    arm = arm_of(accepted)
    report.answers[arm] = report.answers.get(arm, 0) + 1
    if request.label is not None:
        _count(lines, labels=1)
        report.judged += request.beside_baseline
        for line in lines:
            line.judged.add(arm, request.label_rate, request.label)
    _add_explored(report, request)
    quoted = _quoted(request.decision, accepted.arm)
    whole = _bought(accepted, attempts)
    known = all(each.cost is not None and each.cost_source in _BILLED for each in whole)
    if quoted is not None and known:
        _count(lines, predicted=quoted, billed=sum(each.cost or 0 for each in whole))


def _bought(answer: AttemptRow | None, attempts: list[AttemptRow]) -> list[AttemptRow]:
    """What an answer was bought by, and quoted for: all samples of its vote, else it alone."""
    if answer is None:
        return []
    if arm_named(answer.arm, cast(Tier, answer.tier)).samples == 1:
        return [answer]
    return [each for each in attempts if (each.step, each.arm) == (answer.step, answer.arm)]


def baseline_of(request: LoggedRequest, attempts: list[AttemptRow]) -> int | None:
    """What a request's spend is held against, nano-USD; 0 where it got no answer, None where
    nothing is known to be saved or lost."""
    if any(each.cost is None for each in attempts):
        return None
    return request.baseline if request.served else 0


def arm_of(attempt: AttemptRow) -> Hashable:
    """What makes two arms the same, wherever they stand in their tier."""
    return attempt.tier, attempt.arm.partition(":")[2] or attempt.model


def _add_explored(report: Savings, request: LoggedRequest) -> None:
    """A request whose arm had a smaller chance than another was drawn."""
    views = {view["arm"]: view for view in request.decision if view.get("propensity")}
    chosen = views.get(request.chosen)
    if chosen is None:
        return
    best = max(views.values(), key=lambda view: float(view["propensity"]))
    if chosen["propensity"] < best["propensity"]:
        report.explored += 1
        if chosen["expected"] is not None and best["expected"] is not None:
            report.explored_extra += chosen["expected"] - best["expected"]


def _add_overhead(report: Savings, attempts: list[AttemptRow]) -> None:
    """A judge's or probe's calls serve nobody: they count in what they cost and nowhere else."""
    for attempt in attempts:
        report.assumed += attempt.cost_source in ("assumed", "expired")
        if attempt.cost is None:
            report.unknown_cost += 1
        else:
            report.overhead += attempt.cost


def _own(report: Savings, attempt: AttemptRow) -> list[Line]:
    return [
        report.by_tier.setdefault(attempt.tier, Line()),
        report.by_model.setdefault(attempt.model, Line()),
    ]


def _count(lines: Iterable[Line], **amounts: float) -> None:
    for line in lines:
        for name, amount in amounts.items():
            setattr(line, name, getattr(line, name) + amount)


def _quoted(decision: Iterable[Mapping[str, Any]], arm: str) -> int | None:
    return next((row["expected"] for row in decision if row["arm"] == arm), None)
