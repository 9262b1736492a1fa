"""What a report says of quality, where a judge labels some answers more often than others."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from router.log import LoggedRequest
from router.log.label_weights import LEAST_DRAWN, LabelSums
from router.log.savings import notes, savings
from router.replay.off_policy.batch import read_log
from router.replay.off_policy.estimate import estimate
from router.replay.off_policy.measure import AS_LOGGED, Question, measure
from router.replay.off_policy.table import LeftOut
from router.replay.report.calibration import CalibrationBins
from router.replay.report.data import ReportData, report_data
from router.types import AttemptRow
from tests.ledger_kit import attempt_row, request_row
from tests.report_kit import CENT, MODELS, MONDAY, NOW, arm, log_request, opened, views

OFTEN, SELDOM = 0.6, 0.06
DEAR = 0.2  # share of an arm's answers, which are bad more often than others
GOOD = {"nano": (0.3, 0.7), "mini": (0.4, 0.9)}  # dear ones, others


def truth(tier: str) -> float:
    dear, other = GOOD[tier]
    return DEAR * dear + (1 - DEAR) * other


class Judged:
    """A log of simulated answers: a fifth are dear, more of them bad, and the judge draws them ten
    times as often. `complaints`: whether callers say so of three bad answers in ten, too."""

    def __init__(self, seed: int, count: int = 4000, complaints: bool = False):
        rng = np.random.default_rng(seed)
        self.rows: list[LoggedRequest] = []
        for number in range(count):
            tier = "nano" if rng.random() < 0.25 else "mini"
            dear = rng.random() < DEAR
            good = rng.random() < GOOD[tier][0 if dear else 1]
            rate = OFTEN if dear else SELDOM
            drawn = rng.random() < rate
            told = complaints and not good and rng.random() < 0.3
            row = request_row(
                f"r{number}", time=MONDAY + number, decision=views(tier), chosen=arm(tier),
                status="answered", tags=("dear" if dear else "cheap",),
            )  # fmt: skip
            self.rows.append(
                LoggedRequest(
                    **{field.name: getattr(row, field.name) for field in fields(row)},
                    accepted=1, attempts=1, ended=MONDAY + number, cost=CENT * (5 if dear else 1),
                    label=float(good) if drawn or told else None,
                    label_rate=rate if drawn and not told else None,
                )
            )  # fmt: skip

    def requests(self, since: Any = None, until: Any = None) -> Iterator[LoggedRequest]:
        return iter(self.rows)

    def attempts(self, since: Any = None, until: Any = None) -> Iterator[AttemptRow]:
        for row in self.rows:
            if (since is None or row.time >= since) and (until is None or row.time < until):
                tier = row.chosen.partition("/")[0]
                yield attempt_row(row.request_id, time=row.time, cost=row.cost, arm=row.chosen,
                                  tier=tier, model=MODELS[tier], status="answered")  # fmt: skip

    def with_attempts(
        self, since: Any = None, until: Any = None
    ) -> Iterator[tuple[LoggedRequest, list[AttemptRow]]]:
        return ((row, [attempt]) for row, attempt in zip(self.rows, self.attempts(), strict=True))

    def volume(self, since: float, until: float, length: int) -> dict[int, int]:
        first, last = self.rows[0].time, self.rows[-1].time
        return {int(first // length): 1, int(last // length): 1}


def unlabelled_rates(log: Judged) -> Judged:
    log.rows = [replace(row, label_rate=None) for row in log.rows]
    return log


@pytest.fixture(scope="module")
def reports() -> list[ReportData]:
    return [report_data(Judged(seed), now=NOW) for seed in range(8)]  # type: ignore[arg-type]


def test_a_judge_that_labels_dear_answers_more_often_moves_no_mean_quality(
    reports: list[ReportData],
) -> None:
    whole = 0.25 * truth("nano") + 0.75 * truth("mini")
    found: list[tuple[float, ...]] = []
    for data in reports:
        report, prices = data.savings, {price.name: price for price in data.prices}
        assert prices["mini"].quality == report.by_tier["mini"].quality
        per_answer = prices["mini"].per_answer
        assert prices["mini"].per_good == pytest.approx(per_answer / prices["mini"].quality)
        lines = report.total, report.by_tier["nano"], report.by_model[MODELS["mini"]]
        found.append(tuple(line.quality or 0.0 for line in lines))
    mean, error = np.mean(found, axis=0), np.std(found, axis=0, ddof=1) / math.sqrt(len(found))
    away = np.abs(mean - [whole, truth("nano"), truth("mini")])
    assert (away < 3 * error).all()
    assert error.max() < 0.015
    # Else the judge of this log would prove nothing.
    naive = savings(unlabelled_rates(Judged(0))).total.quality  # type: ignore[arg-type]
    assert naive is not None
    assert naive < whole - 0.15


def test_complaints_beside_a_draw_move_no_mean_quality() -> None:
    whole = 0.25 * truth("nano") + 0.75 * truth("mini")
    found = [
        savings(Judged(seed, complaints=True)).total.quality or 0.0  # type: ignore[arg-type]
        for seed in range(8)
    ]
    error = float(np.std(found, ddof=1)) / math.sqrt(len(found))
    assert np.mean(found) == pytest.approx(whole, abs=3 * error)
    assert np.std(found) < 0.03


def test_a_tag_s_quality_is_of_its_answers_whatever_share_of_them_was_drawn() -> None:
    report = savings(Judged(3, 12_000))  # type: ignore[arg-type]
    for tag, at in (("dear", 0), ("cheap", 1)):
        of_tag = 0.25 * GOOD["nano"][at] + 0.75 * GOOD["mini"][at]
        assert report.by_tag[tag].quality == pytest.approx(of_tag, abs=0.05)


def test_calibration_is_that_of_all_answers_and_not_of_those_a_judge_prefers(
    reports: list[ReportData],
) -> None:
    found = []
    for calibration in (data.calibration for data in reports):
        shown = {round(each.predicted, 2): each for each in calibration.bins}
        assert all(each.effective < each.count for each in calibration.bins)
        found.append((shown[0.55].observed, shown[0.72].observed))
    mean, error = np.mean(found, axis=0), np.std(found, axis=0, ddof=1) / math.sqrt(len(found))
    assert (np.abs(mean - [truth("nano"), truth("mini")]) < 3 * error).all()


def test_an_interval_of_calibration_holds_the_truth_19_times_in_20() -> None:
    covered = {True: 0, False: 0}
    runs, answers = 600, 1200
    for seed in range(runs):
        rng = np.random.default_rng(seed)
        dear = rng.random(answers) < DEAR
        good = (rng.random(answers) < np.where(dear, *GOOD["mini"])).astype(float)
        rate = np.where(dear, OFTEN, SELDOM)
        drawn = np.flatnonzero(rng.random(answers) < rate)
        for by_rate in (True, False):
            bins, labels = CalibrationBins(), LabelSums()
            for at in drawn.tolist():
                known = float(rate[at]) if by_rate else None
                bins.add("mini", 0.75, good[at], known)
                labels.add("mini", known, good[at])
            [only] = bins.result(labels.weights({"mini": answers})).bins
            covered[by_rate] += only.interval[0] <= truth("mini") <= only.interval[1]
    assert covered[True] >= 0.93 * runs
    assert covered[False] < 0.1 * runs


def test_the_report_weighs_labels_as_a_replay_of_the_same_log_does(tmp_path: Path) -> None:
    ledger = opened(tmp_path)
    rng = np.random.default_rng(5)
    log = ledger.log()
    for number in range(160):
        # Of mini enough labels are drawn, of nano too few beside what callers say, of mid none.
        tier = ("mini", "mini", "nano", "mid")[number % 4]
        name, good = f"r{number}", float(rng.random() < 0.6)
        seen = views(tier, quality_std=0.0)
        log_request(ledger, name, MONDAY + number, CENT, tier=tier, decision=seen)
        rate = float(rng.choice([0.3, 0.9]))
        if rng.random() < rate and tier != "mid":
            log.feedback(name, good, "judge:j", now=NOW, rate=rate)
        elif rng.random() < 0.3:
            log.feedback(name, good / 2, now=NOW)
    sums = measure(read_log(log, None, None, LeftOut()), Question((), None))
    found = estimate(sums.logged, sums.policies[AS_LOGGED])
    replayed = found.by_outcome["quality"]["ips"].values[0]
    report = savings(log)
    ledger.close()
    kinds = {arm[0]: weight.rated > 0 for arm, weight in report.label_weights.items()}  # type: ignore[index]
    assert kinds == {"mini": True, "nano": False, "mid": False}
    assert report.total.quality == pytest.approx(replayed, abs=1e-12)


def test_few_drawn_labels_do_not_stand_for_what_callers_left_out() -> None:
    def quality(drawn: int) -> float | None:
        labels = LabelSums()
        labels.add("arm", None, 0.0)
        for number in range(drawn):
            labels.add("arm", 0.5 if number else 0.01, 1.0)
        found = labels.weighed(labels.weights({"arm": 1000})).means
        return None if found is None else found[0]

    assert quality(LEAST_DRAWN - 1) == pytest.approx((LEAST_DRAWN - 1) / LEAST_DRAWN)
    assert quality(LEAST_DRAWN) == pytest.approx(999 / 1000)
    assert LabelSums().weighed({}).means is None


def test_what_is_taken_for_granted_of_answers_without_a_label_is_said(tmp_path: Path) -> None:
    assert "drawn by a known rate" in " ".join(notes(savings(Judged(0))))  # type: ignore[arg-type]
    ledger = opened(tmp_path)
    log_request(ledger, "a", MONDAY, CENT, label=1.0)
    log_request(ledger, "b", MONDAY + 1, CENT)
    log_request(ledger, "c", MONDAY + 2, CENT, tier="mid")
    said = " ".join(notes(savings(ledger.log())))
    ledger.close()
    assert "1 answers have no label, and too few of their arms' labels were drawn" in said
    assert "1 answers of arms without any label are in no quality" in said
    assert "by a known rate" not in said
