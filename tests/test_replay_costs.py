"""Expected costs are made of prices and predictions; a query's own bill is never looked at."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from router.prices.book import load_book
from router.replay.evaluation.costs import (
    RELATIVE_COST,
    constant_prices,
    estimate_input,
    learnt_costs,
    recover_prices,
)
from router.replay.evaluation.sweep import choose_tiers, cost_weights
from router.replay.recorded.outcomes import Outcomes, read_outcomes
from router.replay.recorded.prompts import last_user_text
from router.replay.recorded.textspace import TextSpace
from tests.replay_kit import PRICES, make_rows, outcomes_of, write_jsonl

NOW = 1.8e9
TWO = ("nano", "frontier")


def space_of(outcomes: Outcomes, train: np.ndarray) -> TextSpace:
    return TextSpace([last_user_text(m) for m in outcomes.messages], train, 0)


def learnt(outcomes: Outcomes, train: np.ndarray, at: np.ndarray, tokens: float = 100.0):  # type: ignore[no-untyped-def]
    return learnt_costs(
        outcomes,
        train,
        at,
        np.full((len(at), 4), tokens),
        estimate_input(outcomes),
        lambda: space_of(outcomes, train),
    )


def test_linear_prices_are_recovered_exactly() -> None:
    rng = np.random.default_rng(0)
    tokens = rng.integers(1, 1000, size=(2, 50)).astype(float)
    found = recover_prices(*tokens, 2e-6 * tokens[0] + 8e-6 * tokens[1])
    assert found == pytest.approx((2e-6, 8e-6))


def test_prices_are_never_negative_and_need_tokens_that_explain_the_cost() -> None:
    rng = np.random.default_rng(0)
    tokens = rng.integers(1, 1000, size=(2, 50)).astype(float)
    found = recover_prices(*tokens, 8e-6 * tokens[1] + rng.normal(0, 1e-5, 50).clip(-1e-4))
    assert found is not None
    assert min(found) >= 0
    assert found[1] == pytest.approx(8e-6, rel=0.05)
    assert recover_prices(*tokens, rng.random(50)) is None
    assert recover_prices(*tokens[:, :5], tokens[1, :5]) is None
    assert recover_prices(tokens[0], np.full(50, np.nan), tokens[1]) is None


def test_expected_cost_is_price_times_predicted_tokens(tmp_path: Path) -> None:
    outcomes = outcomes_of(tmp_path, make_rows(60, TWO))
    train, at = np.arange(40), np.arange(40, 60)
    found = learnt(outcomes, train, at)
    factor = outcomes.input_tokens[train, 3].sum() / estimate_input(outcomes)[train].sum()
    price_in, price_out = PRICES["frontier"]
    expected = (factor * estimate_input(outcomes)[at] * price_in + 100 * price_out) / 1e6
    assert found.usd[:, 3] == pytest.approx(expected)
    assert np.isnan(found.usd[:, 1:3]).all()
    assert found.how == dict.fromkeys(TWO, "predicted tokens × price")


def test_nothing_recorded_of_a_query_moves_its_own_expected_cost(tmp_path: Path) -> None:
    outcomes = outcomes_of(tmp_path, make_rows(300, TWO))
    train, at = np.arange(200), np.arange(200, 300)
    blind = {
        name: np.where(np.arange(300)[:, None] < 200, getattr(outcomes, name), np.nan)
        for name in ("score", "cost_usd", "input_tokens", "output_tokens")
    }
    assert (
        learnt(outcomes, train, at).usd[:, [0, 3]]
        == learnt(replace(outcomes, **blind), train, at).usd[:, [0, 3]]
    ).all()


def test_without_tokens_cost_is_learnt_from_the_text(tmp_path: Path) -> None:
    rows = make_rows(300, TWO, input_tokens=False, output_tokens=False)
    outcomes = outcomes_of(tmp_path, rows)
    train, at = np.arange(200), np.arange(200, 300)
    found = learnt(outcomes, train, at)
    true = outcomes.cost_usd[at]
    assert found.how == dict.fromkeys(TWO, "learnt from text")
    assert np.corrcoef(found.usd[:, 3], true[:, 3])[0, 1] > 0.9
    assert found.usd[:, 3].mean() == pytest.approx(true[:, 3].mean(), rel=0.1)


def test_with_few_costs_the_mean_of_the_training_rows_stands_for_all(tmp_path: Path) -> None:
    outcomes = outcomes_of(tmp_path, make_rows(40, TWO, input_tokens=False, output_tokens=False))
    found = learnt(outcomes, np.arange(30), np.arange(30, 40))
    assert found.usd[:, 3] == pytest.approx(outcomes.cost_usd[:30, 3].mean())
    assert found.how == dict.fromkeys(TWO, "mean of training rows")


def test_where_one_cost_is_unknown_all_are_relative(tmp_path: Path) -> None:
    rows = make_rows(40, TWO)
    for row in rows[::2]:
        row["cost_usd"] = None
    found = learnt(outcomes_of(tmp_path, rows), np.arange(30), np.arange(30, 40))
    assert found.relative
    assert found.usd[0, [0, 3]].tolist() == [RELATIVE_COST[0], RELATIVE_COST[3]]


def test_a_trained_model_is_priced_by_the_book_or_by_one_price_of_the_file(tmp_path: Path) -> None:
    rows = make_rows(40, TWO)
    for row in rows:
        row["model"] = "gpt-4o" if row["model"] == "large-4" else row["model"]
    ladder = {"nano": "tiny-1", "frontier": "gpt-4o"}
    outcomes = read_outcomes(write_jsonl(tmp_path / "o.jsonl", rows), ladder)  # type: ignore[arg-type]
    tokens = np.full((40, 4), 100.0)
    estimate = estimate_input(outcomes)
    found = constant_prices(outcomes, tokens, estimate, load_book(), NOW)
    price = load_book().price("gpt-4o", NOW)
    assert price is not None
    assert found.usd[:, 3] == pytest.approx(
        (estimate * price.rates.input + 100 * price.rates.output) / 1e15
    )
    assert found.usd[:, 0] == pytest.approx((estimate * 0.1 + 100 * 0.4) / 1e6)
    assert found.how == {"nano": "predicted tokens × price of the file", "frontier": "price book"}


def test_the_grid_of_weights_depends_on_costs_alone_and_spans_both_ends() -> None:
    expected = np.array([[0.001, 0.1], [0.003, 0.3]])
    grid = cost_weights(expected, 101)
    assert (len(grid), grid[0]) == (101, 0)
    assert grid[1] == pytest.approx(5e-4)
    assert grid[-1] == pytest.approx(5e4)
    assert cost_weights(np.zeros((2, 2)), 3).tolist() == pytest.approx([0, 1e-4, 1e4])


def test_a_sweep_goes_from_the_best_prediction_to_the_cheapest() -> None:
    quality = np.array([[0.5, np.nan, np.nan, 0.9], [0.8, np.nan, np.nan, 0.7]])
    usd = np.array([[0.001, np.nan, np.nan, 0.1], [0.001, np.nan, np.nan, 0.1]])
    chosen = choose_tiers(quality, usd, np.array([0.0, 4.0, 4.1]), [0, 3])
    assert chosen.tolist() == [[3, 0], [3, 0], [0, 0]]


def test_a_text_space_is_shaped_by_training_texts_alone() -> None:
    texts = ["red cat", "red dog", "blue cat", "blue dog", "red fish", "green bird"]
    train = np.arange(5)
    space = TextSpace(texts, train, 0)
    other = TextSpace([*texts[:5], "something else"], train, 0)
    assert space.vectors[:5] == pytest.approx(other.vectors[:5])
    assert space.neighbours(np.array([0]), 1).tolist() == [[0]]
    assert len(space.neighbours(np.array([5]), 100)[0]) == 5
