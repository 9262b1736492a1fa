"""The logistic heads read an embedding at no cost; what is chosen has the best gains."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import sparse

from router.predict import learners
from router.predict.design import DENSE_SHARE, Design
from router.predict.estimators import LogisticHeads
from router.predict.examples import Examples
from router.predict.learners import (
    GRID,
    TASK_GRID,
    Penalties,
    choose,
    grid_of,
    learn,
    log_odds,
    mean_odds,
    neighbours_of,
    towards_tasks,
)
from router.predict.training import fit, stack
from tests.training_kit import batch_of, planted


@pytest.mark.parametrize("penalties", GRID)
def test_heads_that_read_an_embedding_are_laid_out_over_its_words(penalties: Penalties) -> None:
    examples = planted().examples
    design = Design.of(examples)
    near = neighbours_of(design, examples.score, 0)
    embedded = design.text @ near.components_ * learners._EMBEDDING_SHARE
    columns = sparse.hstack(
        [design.text, embedded, design.dense * penalties.dense_share], format="csr"
    )
    wanted = LogisticHeads(C=penalties.C).fit(columns, examples.score).predict(columns)
    found = log_odds(design, examples.score, penalties, near)
    assert found.predict(design.both) == pytest.approx(wanted, abs=1e-9)
    assert bool(found.coef_[:, len(design.vocabulary) :].any()) == (penalties.dense_share > 0)


def lengths_decide(rows: int) -> Examples:
    """Questions that the dear tier alone can answer when they are long; words say nothing."""
    rng = np.random.default_rng(7)
    words = [f"w{n}" for n in range(400)]
    length = rng.choice([3, 60], rows)
    examples = planted(rows, seed=7).examples
    features = batch_of(*(" ".join(rng.choice(words, n)) for n in length))
    score = np.ones((rows, 4))
    score[:, 0] = length == 3
    return Examples(features, score, *[getattr(examples, name) for name in _REST])


_REST = ("output_tokens", "input_tokens", "group", "task", "weight")


def test_dense_values_are_read_where_they_decide() -> None:
    chosen = fit(lengths_decide(300)).facts["penalties"]["odds"]
    assert {found["dense_share"] for found in chosen} == {DENSE_SHARE}


def off_by(score: NDArray[np.float64], *errors: float) -> NDArray[np.float64]:
    """Predictions that miss the first tier's score by so much."""
    return np.stack([score - error * np.eye(1, score.shape[1]) for error in errors])


def test_what_has_the_least_error_of_gains_is_chosen_whatever_its_levels_are() -> None:
    score = np.random.default_rng(0).random((50, 3))
    odds = off_by(score, 0.3, 0.2, 0.4, 0.1)
    odds[1:3] += 9  # of all tiers alike
    assert choose(odds, score) == [3]
    odds[2] = score + 9
    assert choose(odds, score) == [2]


def test_what_is_worse_by_chance_alone_is_chosen_too() -> None:
    rng = np.random.default_rng(2)
    score = rng.random((400, 3))
    noise = rng.normal(0, 0.1, (3, *score.shape))
    odds = score + noise * np.array([1.0, 1.01, 3.0])[:, None, None]
    assert choose(odds, score) == [0, 1]


def test_a_tier_without_an_answer_takes_no_part_in_the_choice() -> None:
    score = np.random.default_rng(1).random((50, 3))
    odds = off_by(score, 0.1, 0.2, 0.3, 0.4)
    gaps = score.copy()
    gaps[::2, 0], odds[0, ::2, 0] = np.nan, 100.0
    assert choose(odds, gaps) == [0]


def test_without_two_tiers_on_a_question_the_usual_penalties_are_taken() -> None:
    score = np.full((4, 3), np.nan)
    score[:2, 0], score[2:, 2] = 0.5, 0.7
    assert [GRID[at] for at in choose(np.ones((len(GRID), 4, 3)), score)] == [Penalties()]


def test_several_penalties_give_the_mean_of_their_log_odds() -> None:
    examples = planted().examples
    design = Design.of(examples)
    near = neighbours_of(design, examples.score, 0)
    each = np.stack(
        [log_odds(design, examples.score, p, near).predict(design.both) for p in GRID[:3]]
    )
    found = learn(design, examples.score, GRID[:3], near).odds.predict(design.both)
    assert found == pytest.approx(mean_odds(each), abs=1e-9)


# ── labels drawn towards their task ────────────────────────────────────────────────────────────
def with_tasks(*tasks: str) -> Examples:
    examples = planted().examples
    return replace(examples, task=np.resize(np.array(tasks), len(examples)))


def test_a_label_is_drawn_to_the_others_of_its_task_and_its_own_has_no_part_in_that() -> None:
    examples = with_tasks("law", "chess")
    score = np.random.default_rng(3).random((len(examples), 4))
    score[::5, 1] = np.nan
    drawn = towards_tasks(score, examples, 0.5)
    assert (np.isnan(drawn) == np.isnan(score)).all()
    others = np.arange(len(score)) % 2 == 1
    others[3] = False
    rows, overall = score[others, 0], score[:, 0].mean()
    mean = (rows.sum() + 10 * overall) / (rows.size + 10)
    assert drawn[3, 0] == pytest.approx((score[3, 0] + mean) / 2)


def test_a_row_without_a_task_keeps_its_label() -> None:
    examples = with_tasks("law", "chess", "")
    score = np.random.default_rng(4).random((len(examples), 4))
    drawn = towards_tasks(score, examples, 0.5)
    assert (drawn[2::3] == score[2::3]).all()
    assert (drawn[::3] != score[::3]).any()
    assert (towards_tasks(score, with_tasks(""), 0.5) == score).all()


def test_labels_are_drawn_to_tasks_only_where_there_are_several() -> None:
    assert grid_of(with_tasks("law")) == grid_of(with_tasks("")) == GRID
    assert grid_of(with_tasks("law", "chess"))[len(GRID) :] == TASK_GRID


def test_a_learner_that_only_fits_noise_gets_no_part_in_the_mix() -> None:
    rng = np.random.default_rng(5)
    good = rng.random((500, 2))
    score = good + rng.normal(0, 0.3, good.shape)
    noise = rng.random(score.shape)
    one = np.ones(500)
    assert stack(np.stack([good, noise, noise]), score, one).tolist() == [1, 0, 0]
    assert stack(np.stack([noise, noise, good]), score, one)[2] > 0.8
