"""The logistic heads read an embedding at no cost; what is chosen has the best gains."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import sparse

from router.predict import learners
from router.predict.design import DENSE_SHARE, Design
from router.predict.estimators import LogisticHeads
from router.predict.examples import Examples
from router.predict.features import DENSE_NAMES
from router.predict.learners import GRID, Penalties, choose, log_odds, neighbours_of
from router.predict.training import fit
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
    assert fit(lengths_decide(300)).facts["penalties"]["dense_share"] == DENSE_SHARE


def options_decide(rows: int) -> Examples:
    """Questions that the dear tier alone can answer where two options are alike; nothing else says
    so."""
    rng = np.random.default_rng(8)
    words = [f"w{n}" for n in range(400)]
    alike = rng.random(rows) < 0.5
    examples = planted(rows, seed=8).examples
    texts = []
    for row in range(rows):
        one, two, three = rng.choice(words, (3, 2), replace=False)
        texts.append("Which?" + "".join(f"\nA. {o[0]} {o[1]}" for o in (one, two, three)))
        if alike[row]:
            texts[row] = texts[row].replace(f"{two[0]} {two[1]}", f"{one[0]} {two[1]}")
    score = np.ones((rows, 4))
    score[:, 0] = ~alike
    return Examples(batch_of(*texts), score, *[getattr(examples, name) for name in _REST])


def test_what_options_share_is_read_where_other_dense_values_are_left_out() -> None:
    examples = options_decide(300)
    design = Design.of(examples)
    near = neighbours_of(design, examples.score, 0)
    heads = log_odds(design, examples.score, Penalties(dense_share=0.0), near)
    read = heads.coef_[:, len(design.vocabulary) :].any(axis=0)
    assert [name for name, used in zip(DENSE_NAMES, read, strict=True) if used] == [
        "option_overlap"
    ]
    gain = np.diff(heads.predict(design.both)[:, [0, -1]])[:, 0]
    alike = examples.score[:, 0] == 0
    assert gain[alike].mean() > gain[~alike].mean() + 0.2


def off_by(score: NDArray[np.float64], *errors: float) -> NDArray[np.float64]:
    """Predictions that miss the first tier's score by so much."""
    return np.stack([score - error * np.eye(1, score.shape[1]) for error in errors])


def test_what_has_the_least_error_of_gains_is_chosen_whatever_its_levels_are() -> None:
    score = np.random.default_rng(0).random((50, 3))
    odds = off_by(score, 0.3, 0.2, 0.4, 0.1)
    odds[1:3] += 9  # of all tiers alike
    assert choose(odds, score) == 3
    odds[2] = score + 9
    assert choose(odds, score) == 2


def test_a_tier_without_an_answer_takes_no_part_in_the_choice() -> None:
    score = np.random.default_rng(1).random((50, 3))
    odds = off_by(score, 0.1, 0.2, 0.3, 0.4)
    gaps = score.copy()
    gaps[::2, 0], odds[0, ::2, 0] = np.nan, 100.0
    assert choose(odds, gaps) == 0


def test_without_two_tiers_on_a_question_the_usual_penalties_are_taken() -> None:
    score = np.full((4, 3), np.nan)
    score[:2, 0], score[2:, 2] = 0.5, 0.7
    assert GRID[choose(np.ones((len(GRID), 4, 3)), score)] == Penalties()
