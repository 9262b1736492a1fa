"""What a report's data say: sums, bins, halves, calibration, budgets and the predicted curve."""

from __future__ import annotations

import json
import math
import tracemalloc
from dataclasses import fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.drift.record import Alarm, Alarms
from router.ledger import Ledger
from router.log import LoggedRequest
from router.log.label_weights import Weight
from router.log.savings import savings
from router.replay.report.budgets import MOST, paces
from router.replay.report.calibration import CalibrationBins, wilson
from router.replay.report.data import MOST_FAILURES, ReportData, report_data
from router.replay.report.period import make_period
from router.types import TIERS, Budget, BudgetState
from tests.ledger_kit import NOW as WRITTEN
from tests.ledger_kit import attempt_row, release, request_row, reserve
from tests.report_kit import (
    BUDGETS,
    CENT,
    DAY,
    EXPECTED,
    HOSTILE,
    MONDAY,
    NOW,
    QUALITY,
    arm,
    log_request,
    month,
    opened,
    views,
)
from tests.stores import FreshStore


@pytest.fixture
def ledger(tmp_path: Path) -> Any:
    made = opened(tmp_path)
    yield made
    made.close()


def of(ledger: Ledger, **options: Any) -> ReportData:
    return report_data(ledger.log(), ledger.states(NOW), now=NOW, **options)


def test_an_empty_log_is_a_report_of_nothing(ledger: Ledger) -> None:
    data = of(ledger)
    assert data.period is None
    assert (data.bins, data.curve, data.movers, data.prices, data.failures) == (
        (),
        None,
        (),
        (),
        (),
    )
    assert data.calibration.labels == 0
    assert (data.spent, data.net_saved) == (0, 0)


def test_one_request_is_one_bin_one_point_and_no_mover(ledger: Ledger) -> None:
    log_request(ledger, "a", NOW, CENT, tier="mid")
    data = of(ledger)
    assert data.period is not None
    assert [(each.requests, each.spent, each.baseline) for each in data.bins] == [
        (1, CENT, 2 * CENT)
    ]
    assert data.curve is not None
    assert data.curve.operating.cost == EXPECTED["mid"]
    assert data.movers == ()
    assert [(price.kind, price.per_answer) for price in data.prices] == [
        ("tier", CENT),
        ("model", CENT),
    ]


def test_the_bins_sum_up_to_the_report_and_leave_no_gap(ledger: Ledger) -> None:
    month(ledger, 300)
    data = of(ledger)
    assert data.savings == savings(ledger.log())
    total = data.savings.total
    assert sum(each.spent for each in data.bins) == total.spent
    assert sum(each.baseline for each in data.bins) == total.baseline
    assert sum(each.requests for each in data.bins) == total.requests
    starts = [each.start for each in data.bins]
    assert starts == [starts[0] + DAY * number for number in range(len(starts))]
    by_tier = {tier: sum(each.tiers.get(tier, 0) for each in data.bins) for tier in TIERS}
    assert by_tier == {tier: line.requests for tier, line in data.savings.by_tier.items()}


@pytest.mark.parametrize(
    ("seconds", "unit"),
    [(0, "minute"), (3600, "minute"), (6 * 3600, "10 minutes"), (48 * 3600, "hour"),
     (30 * DAY, "day"), (200 * DAY, "week"), (700 * DAY, "2 weeks"), (36_500 * DAY, "73 weeks")],
)  # fmt: skip
def test_bins_are_as_fine_as_can_be_looked_at(seconds: float, unit: str) -> None:
    period = make_period(MONDAY + 0.5, MONDAY + 0.5 + seconds)
    assert period.unit == unit
    starts = list(period.bin_starts())
    first = datetime.fromtimestamp(starts[0], UTC)
    assert "weeks" in unit or starts[0] == MONDAY
    assert "week" not in unit or first.weekday() == 0
    assert len(starts) <= 73
    assert period.bin_start(period.last) == starts[-1]


def test_the_period_is_the_log_s_own_within_what_was_asked(ledger: Ledger) -> None:
    for day in (1, 5, 9):
        log_request(ledger, f"r{day}", MONDAY + day * DAY + 0.5, CENT)
    whole, part = of(ledger), of(ledger, since=MONDAY + 2 * DAY, until=MONDAY + 9 * DAY)
    assert whole.period is not None
    assert (whole.period.first, whole.period.last) == (MONDAY + DAY, MONDAY + 9 * DAY)
    assert part.period is not None
    assert part.period.first == MONDAY + 5 * DAY
    assert part.savings.total.requests == 1
    assert of(ledger, since=MONDAY + 20 * DAY).period is None


def test_a_log_that_ends_in_the_last_second_of_a_bin_has_no_bin_after_it(ledger: Ledger) -> None:
    log_request(ledger, "a", MONDAY + DAY - 90, CENT)
    log_request(ledger, "b", MONDAY + DAY - 0.5, CENT)
    data = of(ledger)
    assert [each.requests for each in data.bins] == [1, 1]
    assert data.period is not None
    assert data.period.last < MONDAY + DAY
    assert data.period.first < data.period.middle < data.period.last


def test_an_unknown_price_is_unknown_and_never_zero(ledger: Ledger) -> None:
    log_request(ledger, "a", MONDAY, None, baseline=None, decision=views("mini", expected=None))
    data = of(ledger)
    assert (data.spent, data.baseline, data.net_saved) == (None, None, None)
    assert [price.per_answer for price in data.prices] == [None, None]
    assert data.bins[0].unknown == 2
    assert data.curve is None
    log_request(ledger, "b", MONDAY + 1, CENT)
    data = of(ledger)
    assert (data.spent, [price.per_answer for price in data.prices]) == (CENT, [CENT, CENT])
    assert data.curve is not None
    assert (data.curve.requests, data.curve.left_out) == (1, 1)


def test_what_is_not_known_whole_is_compared_with_nothing(ledger: Ledger) -> None:
    for at in range(10):
        log_request(ledger, f"r{at}", MONDAY, CENT, baseline=2 * CENT if at < 2 else None)
    log_request(ledger, "retried", MONDAY, None, CENT, tier="mid")
    log_request(ledger, "failed", MONDAY, CENT // 2, status="failed")
    data = of(ledger)
    total, mini = data.savings.total, data.savings.by_tier["mini"]
    assert (total.spent, total.requests) == (11.5 * CENT, 11)
    assert (total.comparable, total.compared, total.baseline) == (2, 2.5 * CENT, 4 * CENT)
    assert (total.saved, total.saved_share) == (1.5 * CENT, 0.375)
    assert (mini.saved, data.savings.by_tier["mid"].saved_share) == (1.5 * CENT, None)
    assert data.net_saved == data.savings.net_saved == 1.5 * CENT
    assert [each.baseline for each in data.bins] == [total.baseline]
    said = data.as_dict()
    assert (said["comparable_requests"], said["compared_usd"]) == (2, 0.025)
    assert (said["savings_usd"], said["savings_pct"]) == (0.015, 37.5)
    assert any(note.startswith("$0.0900 of the spend is of requests") for note in data.notes)


def test_a_price_per_answer_counts_failed_attempts_and_per_good_answer_the_labels(
    ledger: Ledger,
) -> None:
    log_request(ledger, "a", MONDAY, CENT, CENT, label=1.0)
    log_request(ledger, "b", MONDAY + 1, CENT, label=0.0)
    log_request(ledger, "c", MONDAY + 2, CENT, status="failed", error="Timeout: read")
    [tier, model] = of(ledger).prices
    assert (tier.name, model.name) == ("mini", "openai/t-mini")
    assert (tier.answers, tier.spent, tier.per_answer) == (2, 4 * CENT, 2 * CENT)
    assert tier.per_good == 4 * CENT
    log_request(ledger, "d", MONDAY + 3, CENT, tier="nano", label=0.0)
    assert of(ledger).prices[0].per_good is None  # no good answer can be had for any money yet


def test_failed_and_refused_requests_are_told_by_what_went_wrong(ledger: Ledger) -> None:
    for number in range(3):
        error = f"Overloaded: try again ({number})"
        log_request(ledger, f"f{number}", MONDAY, 0, status="failed", error=error)
    log_request(ledger, "r", MONDAY, status="refused", error=None)
    data = of(ledger)
    assert [(each.status, each.error, each.requests) for each in data.failures] == [
        ("failed", "Overloaded", 3),
        ("refused", "no reason given", 1),
    ]
    assert data.savings.failed == 3


def test_errors_that_all_differ_do_not_fill_the_memory(ledger: Ledger) -> None:
    for number in range(MOST_FAILURES + 20):
        log_request(ledger, f"r{number}", MONDAY, status="refused", error=f"error {number}")
    failures = of(ledger).failures
    assert len(failures) == MOST_FAILURES + 1
    assert (failures[0].error, failures[0].requests) == ("other errors", 20)


def test_movers_are_what_changed_from_half_to_half_and_from_day_to_day(ledger: Ledger) -> None:
    for day, (tier, tag, cost) in enumerate(
        [("mid", "old", 5), ("mid", "old", 5), ("nano", "new", 1), ("nano", "new", 2)]
    ):
        log_request(ledger, f"r{day}", MONDAY + day * DAY, cost * CENT, tier=tier, tags=(tag,))
    found = {(each.kind, each.name): each.change // CENT for each in of(ledger).movers}
    assert found == {
        ("model", "openai/t-mid"): -10,
        ("model", "openai/t-nano"): 3,
        ("tag", "old"): -10,
        ("tag", "new"): 3,
        ("day", "2026-10-28"): -4,
        ("day", "2026-10-29"): 1,
    }


def test_calibration_holds_each_label_against_the_prediction_for_the_arm_that_answered(
    ledger: Ledger,
) -> None:
    for number in range(10):
        label = float(number < 7)
        log_request(ledger, f"r{number}", MONDAY, CENT, tier="mini", label=label)
    log_request(ledger, "unlabelled", MONDAY, CENT)
    log_request(ledger, "new tier", MONDAY, CENT, label=1.0, decision=views("mini", quality=None))
    found = of(ledger).calibration
    assert (found.labels, found.unpredicted) == (10, 1)
    [only] = found.bins
    assert (only.low, only.high, only.count) == (0.7, 0.8, 10)
    assert (only.predicted, only.observed) == (pytest.approx(QUALITY["mini"]), 0.7)
    assert found.error == pytest.approx(0.02)


@given(st.integers(1, 10_000), st.floats(0, 1))
def test_wilson_s_bounds_are_the_shares_1_96_errors_away_from_what_was_seen(
    count: int, share: float
) -> None:
    good = round(share * count)
    for bound in wilson(good, count):
        error = math.sqrt(bound * (1 - bound) / count)
        assert abs(good / count - bound) == pytest.approx(1.959964 * error, abs=1e-6)
    assert wilson(0, count)[0] == 0
    assert wilson(count, count)[1] == 1


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), max_size=40))
def test_every_labelled_answer_is_in_one_calibration_bin(pairs: list[tuple[float, float]]) -> None:
    bins = CalibrationBins()
    for predicted, label in pairs:
        bins.add("arm", predicted, label, None)
    found = bins.result({"arm": Weight(1.0, 0.0, 0.0)})
    assert sum(each.count for each in found.bins) == found.labels == len(pairs)
    for each in found.bins:
        assert each.low - 1e-9 <= each.predicted <= each.high + 1e-9
        assert 0 <= each.interval[0] <= each.observed + 1e-9
        assert each.observed - 1e-9 <= each.interval[1] <= 1


def test_a_budget_s_pace_is_its_money_against_its_time() -> None:
    noon = MONDAY + DAY / 2
    day = Budget("day", 100, window="day")
    total, rolling = Budget("all", None), Budget("roll", 10, window="rolling", seconds=60)
    share = Budget("share", 250_000, meter="share", window="week")
    states = [
        BudgetState(day, "", "2026-10-26", 30, 20, resets_at=MONDAY + DAY, limit=100),
        BudgetState(total, "", "total", 30, 0, limit=None),
        BudgetState(rolling, "", "60s:1", 5, 0, resets_at=noon + 1, limit=10),
        BudgetState(share, "", "w", 1, 0, resets_at=MONDAY + 7 * DAY, seen=7, limit=250_000),
    ]
    found = {each.name: each for each in paces(states, noon)}
    assert (found["day"].share_used, found["day"].share_gone) == (0.5, 0.5)
    assert found["day"].forecast == 100
    assert (found["all"].share_used, found["all"].share_gone, found["all"].room) == (
        None,
        None,
        None,
    )
    assert (found["roll"].share_used, found["roll"].share_gone) == (0.5, None)
    assert (found["share"].room, found["share"].share_used) == (2, 0.5)
    many = [
        BudgetState(day, str(n), "d", n, 0, resets_at=MONDAY + DAY, limit=100) for n in range(50)
    ]
    shown = paces(many, noon)
    assert [each.used for each in shown] == list(range(49, 49 - MOST, -1))
    assert [each.left_out for each in shown] == [0] * (MOST - 1) + [50 - MOST]


def test_requests_come_with_their_attempts_also_where_times_are_equal(ledger: Ledger) -> None:
    for number in range(1200):
        reserve(ledger, f"r{number}", 10)
        release(ledger, f"r{number}")
    found = list(ledger.log().with_attempts())
    assert len(found) == 1200
    assert all([each.request_id for each in attempts] == [r.request_id] for r, attempts in found)
    assert found[0][0].time == WRITTEN


def test_every_store_gives_the_same_report(store: FreshStore, tmp_path: Path) -> None:
    theirs, mine = store.open(BUDGETS), opened(tmp_path, BUDGETS)
    for each in (theirs, mine):
        month(each, 25)
    try:
        assert of(theirs).as_dict() == of(mine).as_dict()
    finally:
        theirs.close()
        mine.close()


def test_what_is_held_does_not_grow_with_the_log(tmp_path: Path) -> None:
    class Endless:
        """A log of `count` requests that makes each row as it is asked for."""

        def __init__(self, count: int):
            self.count = count
            row = request_row("r", decision=views("mini"), chosen=arm("mini"), status="answered")
            self.request = {field.name: getattr(row, field.name) for field in fields(row)}
            self.attempt = attempt_row("r", cost=CENT, arm=arm("mini"))

        def row(self, number: int) -> Any:
            values = {**self.request, "request_id": f"r{number}", "time": MONDAY + number}
            return LoggedRequest(**values, accepted=1, attempts=1, cost=CENT)

        def with_attempts(self, since: Any = None, until: Any = None) -> Any:
            for number in range(self.count):
                request = self.row(number)
                yield request, [replace(self.attempt, request_id=request.request_id)]

        def volume(self, since: float, until: float, length: int) -> dict[int, int]:
            low, high = max(since, MONDAY), min(until, MONDAY + self.count)
            return {int(low // length): 1, int(math.nextafter(high, 0) // length): 1}

    def peak(count: int) -> int:
        tracemalloc.start()
        data = report_data(Endless(count), now=NOW)  # type: ignore[arg-type]
        held = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert data.savings.total.requests == count
        return held

    # Beyond the sample's size, which both reach, five times the log takes no more.
    assert peak(25_000) < 1.25 * peak(5_000)


def test_the_json_keeps_every_key_of_the_savings_and_adds_its_own(tmp_path: Path) -> None:
    ledger = opened(tmp_path, BUDGETS)
    month(ledger, 60)
    log_request(ledger, "x", NOW - 5, CENT, tags=(HOSTILE,), label=0.5)
    data = of(ledger)
    ledger.close()
    said = json.loads(json.dumps(data.as_dict(), allow_nan=False))
    old = data.savings.as_dict()
    assert {key: said[key] for key in old} == json.loads(json.dumps(old))
    assert set(said) - set(old) == {
        "period", "over_time", "curve", "calibration", "budgets", "movers", "prices", "failures",
        "notes", "break_even", "changes",
    }  # fmt: skip
    assert said["over_time"][0]["spent_usd"] == said["over_time"][0]["spent_nano"] / 1e9
    assert said["curve"]["operating"].keys() == {"quality", "cost_usd", "cost_nano", "cost_weight"}
    assert any(each["name"] == HOSTILE for each in said["movers"])


def test_a_report_shows_changes_that_were_open_in_its_period_and_all_that_are_open_now(
    ledger: Ledger,
) -> None:
    def alarm(name: str, day: int) -> Alarm:
        raised = MONDAY + day * DAY
        return Alarm(name, raised, raised - 60, 9.0, 5.0, "before", "now", "p@1")

    kept = Alarms().raised([alarm("novel", 2), alarm("gate", 3)])
    kept = kept.accept(MONDAY + 4 * DAY, "ann", "").raised([alarm("novel", 6)])
    kept = kept.accept(MONDAY + 7 * DAY, "bo", "fine").raised([alarm("novel", 8)])
    for day in range(10):
        log_request(ledger, f"r{day}", MONDAY + day * DAY, CENT)

    def shown(since: int, until: int) -> list[tuple[str, str]]:
        dates = {"since": MONDAY + since * DAY, "until": MONDAY + until * DAY}
        found = of(ledger, alarms=[("p", kept)], **dates).changes
        return [(each.name, each.by) for each in found]

    first, second, still = [("gate", "ann"), ("novel", "ann")], ("novel", "bo"), ("novel", "")
    assert shown(0, 10) == [still, second, *first]
    assert shown(0, 2) == [still]
    assert shown(4, 6) == [still, *first]
    assert shown(5, 7) == [still, second]
    assert shown(50, 60) == [still]


def test_a_request_counts_for_each_of_the_alarms_that_it_followed(ledger: Ledger) -> None:
    one, two = (
        Alarm(name, NOW, NOW, 9.0, 5.0, "1%", "2%", "p@1") for name in ("novel", "refusals/mini")
    )
    both = {"drift": f"{one.text}; {two.text}"}
    log_request(ledger, "a", NOW, CENT, features=both)
    log_request(ledger, "b", NOW + 1, CENT, features={"drift": two.text})
    log_request(ledger, "c", NOW + 2, CENT)
    log_request(ledger, "d", NOW + 3, CENT, features=both, purpose="judge")
    found = of(ledger, alarms=[("p", Alarms().raised([one, two]))]).changes
    assert {each.name: each.requests for each in found} == {"novel": 1, "refusals/mini": 2}
