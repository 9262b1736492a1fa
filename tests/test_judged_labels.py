"""A judge compares with the baseline's answer, everyone else looks at the answer alone: reports and
replays bring both to one scale, and say so."""

from __future__ import annotations

import time
from contextlib import closing

import numpy as np
import pytest

from router.ledger import open_log
from router.log.savings import notes, savings
from router.replay.off_policy.batch import read_log
from router.replay.off_policy.facts import warnings_of
from router.replay.off_policy.measure import Question, measure
from router.replay.off_policy.table import LeftOut
from router.replay.report.data import report_data
from tests.judge_kit import Court, Panel
from tests.judge_kit import court as court  # a fixture
from tests.judge_kit import panel as panel  # a fixture


@pytest.fixture
def frontier(court: Court, panel: Panel) -> float:
    """P(good) of the frontier's answers, in a log where a judge finds mini's as good as these, and
    callers find a fault with every other answer of the frontier."""
    court.serve(12)
    panel.says = lambda first, second: "TIE"
    assert court.judge().scores == [1.0] * 12
    names = court.serve(12, "frontier")
    with court.router() as router:
        for at, name in enumerate(names):
            router.feedback(name, float(at % 2))
    with closing(open_log(court.store)) as log:
        [found] = {
            view["quality"]
            for row in log.requests()
            for view in row.decision
            if view["tier"] == "frontier"
        }
    return float(found)


def test_a_cheap_answer_as_good_as_the_baselines_is_worth_as_much_in_a_report(
    court: Court, frontier: float
) -> None:
    with closing(open_log(court.store)) as log:
        found, page = savings(log), report_data(log, now=time.time())
    assert frontier < 0.99
    assert found.by_tier["mini"].quality == pytest.approx(frontier)
    assert found.by_tier["frontier"].quality == 0.5
    assert page.savings.by_tier["mini"].quality == pytest.approx(frontier)
    assert any(note.startswith("12 of 24 labels are a judge's") for note in notes(found))


def test_a_cheap_answer_as_good_as_the_baselines_is_worth_as_much_in_a_replay(
    court: Court, frontier: float
) -> None:
    with closing(open_log(court.store)) as log:
        batches = list(read_log(log, None, None, LeftOut()))
    sums = measure(iter(batches), Question((), None))
    labels = np.concatenate([batch.label for batch in batches])
    assert np.unique(labels).tolist() == pytest.approx([0.0, frontier, 1.0])
    assert (labels == frontier).sum() == 12
    said = warnings_of(sums.facts, sums.logged)
    assert any(each.startswith("12 of 24 labels are a judge's") for each in said)


def test_a_log_without_a_judge_is_read_as_it_is(court: Court) -> None:
    [name] = court.serve(1)
    with court.router() as router:
        router.feedback(name, 0.7)
    with closing(open_log(court.store)) as log:
        found = savings(log)
        [batch] = read_log(log, None, None, LeftOut())
    assert found.total.quality == 0.7
    assert batch.label.tolist() == [0.7]
    assert not any("judge's" in note for note in notes(found))
