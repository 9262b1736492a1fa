"""Comparisons are honest opponents: each is what its name says, and sees training rows only."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from router.dispatch.heuristic import classify
from router.replay.evaluation import comparisons
from router.replay.recorded.textspace import TextSpace
from tests.replay_kit import make_rows, outcomes_of


def test_length_sends_the_longest_prompts_to_the_dearest_tier() -> None:
    lengths = np.array([10.0, 20, 30, 40])
    everyone = np.arange(4)
    sweep = comparisons.length(lengths, everyone, everyone, [0, 3], 5)
    assert sweep.chosen.tolist() == [[3, 3, 3, 3], [3, 3, 3, 3], [0, 0, 3, 3], [0] * 4, [0] * 4]
    assert sweep.gain is not None
    assert sweep.gain.tolist() == sorted(sweep.gain)


def test_length_ranks_against_training_prompts_alone() -> None:
    lengths = np.array([10.0, 20, 30, 1000, 2000])
    sweep = comparisons.length(lengths, np.arange(3), np.array([3, 4]), [0, 3], 3)
    assert sweep.chosen.tolist() == [[3, 3], [3, 3], [0, 0]]


def test_a_task_table_is_the_tasks_training_mean_drawn_to_the_overall_one(tmp_path: Path) -> None:
    outcomes = outcomes_of(tmp_path, make_rows(60))
    train, at = np.arange(40), np.arange(40, 60)
    quality, cost = comparisons.task_table(outcomes, train, at)
    task = outcomes.task[at[0]]
    mine = outcomes.score[:40][outcomes.task[:40] == task]
    expected = (mine.sum(axis=0) + 5 * outcomes.score[:40].mean(axis=0)) / (len(mine) + 5)
    assert quality[0] == pytest.approx(expected)
    assert np.isfinite(cost).all()
    strange = replace(outcomes, task=np.where(np.arange(60) < 40, outcomes.task, "new"))
    assert comparisons.task_table(strange, train, at)[0][3] == pytest.approx(
        outcomes.score[:40].mean(axis=0)
    )


def test_knn_averages_the_nearest_training_queries(tmp_path: Path) -> None:
    outcomes = outcomes_of(tmp_path, make_rows(400))
    train, at = np.arange(300), np.arange(300, 400)
    texts = [str(m[-1]["content"]) for m in outcomes.messages]
    space = TextSpace(texts, train, 0)
    quality, cost = comparisons.knn(outcomes, space, at)
    hard = outcomes.task[at] == "proofs"
    assert quality[hard, 0].mean() < quality[~hard, 0].mean() - 0.3
    near = space.neighbours(at)
    assert set(near.ravel().tolist()) <= set(train.tolist())
    assert quality[0] == pytest.approx(outcomes.score[near[0]].mean(axis=0))
    assert cost[0] == pytest.approx(outcomes.cost_usd[near[0]].mean(axis=0))


def test_the_oracle_takes_the_best_answer_and_the_cheapest_of_equals(tmp_path: Path) -> None:
    outcomes = outcomes_of(tmp_path, make_rows(50))
    sweep = comparisons.oracle(outcomes, 21)
    best = sweep.chosen[0]
    index = np.arange(50)
    assert (outcomes.score[index, best] == outcomes.score.max(axis=1)).all()
    nobody = outcomes.score.max(axis=1) == 0
    assert (best[nobody] == 0).all()
    both = outcomes.score.min(axis=1) == 1
    assert both.any()
    assert (best[both] == 0).all()
    assert (sweep.chosen[-1] == 0).all()


def test_litellms_own_classifier_is_called() -> None:
    found = list(
        classify(
            [
                "hi",
                "Let's think step by step and reason through this carefully: prove the theorem, "
                "then analyze the algorithm, the distributed architecture and the database.",
            ]
        )
    )
    (low, low_score), (high, high_score) = found
    assert low == "nano"
    assert high != "nano"
    assert high_score > low_score


def test_litellms_levels_become_the_ladders_next_tier_up(tmp_path: Path) -> None:
    rows = make_rows(6, ("mini", "frontier"))
    outcomes = outcomes_of(tmp_path, rows)
    sweep = comparisons.litellm_heuristic(outcomes)
    levels = [tier for tier, _ in classify(str(m[-1]["content"]) for m in outcomes.messages)]
    wanted = [1 if tier in ("nano", "mini") else 3 for tier in levels]
    assert sweep.chosen.tolist() == [wanted]
