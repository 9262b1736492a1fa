"""What learns: scikit-learn's own conformance checks, and one rule of each estimator."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from router.predict.estimators import (
    AbilityOffset,
    GainRidge,
    LogisticHeads,
    LogTokens,
    PrototypeNeighbors,
    SimplexStacking,
)
from router.predict.estimators.log_tokens import residual_quantiles

_WEIGHTS = "truncated SVD and k-means do not honour sample weights"
_EXCUSED = {
    f"check_sample_weight_equivalence_on_{kind}_data": _WEIGHTS for kind in ("dense", "sparse")
}
_ALL = (
    AbilityOffset(),
    GainRidge(),
    LogTokens(),
    LogisticHeads(),
    PrototypeNeighbors(),
    SimplexStacking(),
)


def _excused(estimator: Any) -> dict[str, str]:
    return _EXCUSED if isinstance(estimator, PrototypeNeighbors) else {}


@parametrize_with_checks(list(_ALL), expected_failed_checks=_excused)
def test_every_estimator_conforms_to_scikit_learn(estimator: Any, check: Any) -> None:
    check(estimator)


def _sigmoid(odds: Any) -> Any:
    return 1 / (1 + np.exp(-odds))


def test_a_soft_label_counts_as_its_share_of_a_good_and_of_a_bad_answer() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 3))
    good = rng.integers(0, 5, size=40)  # of four answers
    soft = LogisticHeads(C=0.25).fit(x, good / 4, np.full(40, 4.0))
    labels = np.concatenate([np.repeat([1.0, 0.0], [g, 4 - g]) for g in good])
    hard = LogisticHeads(C=0.25).fit(np.repeat(x, 4, axis=0), labels)
    assert soft.coef_ == pytest.approx(hard.coef_, abs=0.01)
    assert soft.intercept_ == pytest.approx(hard.intercept_, abs=0.01)


def test_a_gain_that_no_single_level_shows_is_learnt() -> None:
    # Both tiers are ruled by a difficulty that X does not have; the gain alone is in X.
    rng = np.random.default_rng(1)
    x = rng.normal(size=(400, 2))
    difficulty = 5 * rng.normal(size=400)
    y = np.column_stack([difficulty, difficulty + 0.3 * x[:, 0]])
    found = GainRidge(alpha=1.0).fit(x, y).predict(x)
    gain = found[:, 1] - found[:, 0]
    assert gain == pytest.approx(0.3 * x[:, 0], abs=0.01)
    level = np.corrcoef(found[:, 1], x[:, 0])[0, 1]
    assert np.corrcoef(gain, x[:, 0])[0, 1] > 0.999 > abs(level)


def test_far_from_every_prototype_the_mean_is_predicted() -> None:
    rng = np.random.default_rng(2)
    x = np.abs(rng.normal(size=(90, 6)))
    y = rng.integers(0, 2, size=90).astype(float)
    model = PrototypeNeighbors(n_components=5, temperature=0.02).fit(x, y)
    assert model.predict(-x[:5]) == pytest.approx(np.full(5, y.mean()), abs=1e-3)
    assert np.abs(model.predict(x) - y.mean()).max() > 0.2


def test_near_a_prototype_its_rows_outvote_the_mean() -> None:
    x = np.repeat(np.eye(4), 30, axis=0)
    y = np.repeat([0.0, 0.0, 0.0, 1.0], 30)
    found = PrototypeNeighbors(n_components=3, n_prototypes=4).fit(x, y).predict(np.eye(4))
    assert found[3] > 0.9
    assert found[:3].max() < 0.1


def test_residual_quantiles_cover_a_new_residual_at_least_as_often_as_stated() -> None:
    rng = np.random.default_rng(3)
    shares, trials = (0.5, 0.9, 0.95), 8000
    for size in (19, 40):
        draws = rng.gumbel(size=(trials, size + 1))
        quantiles = np.array([residual_quantiles(row[:-1], shares) for row in draws])
        covered = (draws[:, -1:] <= quantiles).mean(axis=0)
        error = np.sqrt(np.array(shares) * (1 - np.array(shares)) / trials)
        assert (covered >= np.array(shares) - 3 * error).all()
        assert (covered <= np.array(shares) + 1 / (size + 1) + 3 * error).all()


def test_of_too_few_residuals_the_largest_stands_for_the_quantile() -> None:
    assert residual_quantiles(np.array([3.0, 1.0, 2.0]), (0.5, 0.95)).tolist() == [2.0, 3.0]


def test_tokens_are_learnt_as_a_factor() -> None:
    rng = np.random.default_rng(4)
    x = rng.normal(size=(300, 1))
    found = LogTokens(alpha=0.01).fit(x, np.expm1(3 + x[:, 0] + 0.1 * rng.normal(size=300)))
    assert found.coef_[0] == pytest.approx([1.0], abs=0.03)
    assert found.intercept_ == pytest.approx([3.0], abs=0.03)


def test_a_stack_finds_the_mixture_that_was_planted() -> None:
    rng = np.random.default_rng(5)
    x = rng.normal(size=(5000, 3))
    planted = np.array([0.7, 0.3, 0.0])
    found = SimplexStacking().fit(x, x @ planted + 0.1 * rng.normal(size=5000)).weights_
    assert found == pytest.approx(planted, abs=0.03)


@pytest.mark.parametrize("seed", range(5))
def test_a_stacks_weights_are_a_mixture_whatever_the_labels(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(200, 4))
    found = SimplexStacking().fit(x, 3 * x[:, 0] - 2 * x[:, 1]).weights_
    assert found.sum() == pytest.approx(1)
    assert (found >= 0).all()
    assert found[1] == 0


def test_few_rows_leave_a_stack_at_equal_weights() -> None:
    rng = np.random.default_rng(6)
    x = rng.normal(size=(4, 2))
    few = SimplexStacking().fit(x, x[:, 0]).weights_
    assert few == pytest.approx([0.5, 0.5], abs=0.05)
    same = np.repeat(x[:, :1], 3, axis=1)
    assert SimplexStacking().fit(same, x[:, 0]).weights_ == pytest.approx(np.full(3, 1 / 3))


def _abilities(trials: int, seed: int) -> tuple[Any, Any, Any]:
    """Offsets drawn from the prior, and what is estimated of each from forty answers."""
    rng = np.random.default_rng(seed)
    planted = rng.normal(size=trials)
    found, std = np.zeros(trials), np.zeros(trials)
    for trial in range(trials):
        odds = 1.5 * rng.normal(size=(40, 1))
        answers = (rng.random(40) < _sigmoid(odds[:, 0] + planted[trial])).astype(float)
        model = AbilityOffset().fit(odds, answers)
        found[trial], std[trial] = model.offset_, model.offset_std_
    return planted, found, std


def test_a_planted_ability_is_found_from_forty_answers_as_surely_as_stated() -> None:
    planted, found, std = _abilities(600, seed=7)
    off = np.abs(found - planted) / std
    # Shares of a normal, within three standard errors of 600 trials.
    assert (off < 1).mean() == pytest.approx(0.683, abs=3 * 0.019)
    assert (off < 2).mean() == pytest.approx(0.954, abs=3 * 0.009)
    assert std.max() < 0.6


def test_without_evidence_an_ability_is_the_priors() -> None:
    model = AbilityOffset(prior_std=0.7).fit(np.zeros((2, 1)), [0.5, 0.5], np.full(2, 1e-9))
    assert model.offset_ == pytest.approx(0.0)
    assert model.offset_std_ == pytest.approx(0.7)


@pytest.mark.parametrize("estimator", _ALL, ids=lambda found: type(found).__name__)
def test_a_row_without_a_label_teaches_nothing_about_it(estimator: Any) -> None:
    rng = np.random.default_rng(8)
    x, y = rng.normal(size=(90, 3)), rng.random(90)
    known = np.arange(90) % 3 > 0
    fitted = type(estimator)().fit(x, np.where(known, y, np.nan))
    if isinstance(estimator, PrototypeNeighbors):  # its embedding is of all rows, its labels not
        assert fitted.prior_[0] == pytest.approx(y[known].mean())
        assert fitted.counts_.sum() == known.sum()
    else:
        alone = type(estimator)().fit(x[known], y[known])
        assert fitted.predict(x) == pytest.approx(alone.predict(x), abs=1e-9)


@pytest.mark.parametrize("estimator", [LogisticHeads(), GainRidge(), LogTokens()])
def test_an_output_is_learnt_from_the_rows_that_have_it(estimator: Any) -> None:
    rng = np.random.default_rng(9)
    x, y = rng.normal(size=(60, 3)), rng.random((60, 2))
    y[::2, 0] = np.nan
    one = type(estimator)().fit(x, y)
    both = type(estimator)().fit(x[1::2], y[1::2])
    column = 1 if isinstance(estimator, GainRidge) else 0  # the regret of the first
    assert one.coef_[column] == pytest.approx(both.coef_[column], abs=1e-9)
    assert np.abs(one.coef_[1 - column] - both.coef_[1 - column]).max() > 1e-4


_PROTOTYPES_OF_SIX_THREADS = """
import hashlib, numpy as np
from router.predict.estimators import PrototypeNeighbors
rng = np.random.default_rng(0)
x, y = rng.normal(size=(2000, 40)), rng.random(2000)
fits = [PrototypeNeighbors().fit(x, y).prototypes_.tobytes() for _ in range(5)]
print(len({hashlib.sha256(fit).hexdigest() for fit in fits}))
"""


def test_prototypes_do_not_depend_on_the_order_in_which_threads_end() -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "6", "OPENBLAS_NUM_THREADS": "6"}
    done = subprocess.run(
        [sys.executable, "-c", _PROTOTYPES_OF_SIX_THREADS],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["1"]
