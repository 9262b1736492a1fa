"""Training on recorded outcomes: it learns what is there, and says what is not."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from router.errors import TrainingError
from router.predict import Predictor
from router.predict.design import Design
from router.predict.examples import Examples, folds_of
from router.predict.model_file import load_model, save_model
from router.predict.training import LEAST_EXAMPLES, fit, inner_folds, novelty
from router.types import TIERS
from tests.training_kit import batch_of, planted, trained, with_score

TEST = planted(1000, seed=1)


def without(tiers: list[int]) -> Examples:
    """The examples, with nothing recorded of some tiers."""
    known = planted().examples
    score, tokens = known.score.copy(), known.output_tokens.copy()
    score[:, tiers] = tokens[:, tiers] = np.nan
    return with_score(known, score, output_tokens=tokens)


def gains(quality: Any) -> Any:
    return quality[:, 3] - quality[:, 0]


def quality_of(model: Any) -> Any:
    return Predictor(model).batch(TEST.examples.features).quality


# ── what is learnt ─────────────────────────────────────────────────────────────────────────────
def test_the_same_examples_and_seed_give_the_same_model_bit_by_bit() -> None:
    again = fit(planted().examples)
    assert again.facts == trained().facts
    for name, array in trained().arrays.items():
        assert array.tobytes() == again.arrays[name].tobytes(), name


def test_what_a_dear_tier_gains_is_learnt() -> None:
    found = quality_of(trained())
    assert np.corrcoef(gains(found), gains(TEST.quality))[0, 1] > 0.8
    for tier in (1, 2):
        dearer = found[:, 3] - found[:, tier]
        assert np.corrcoef(dearer, TEST.quality[:, 3] - TEST.quality[:, tier])[0, 1] > 0.5


def test_of_shuffled_labels_nothing_is_learnt() -> None:
    known = planted().examples
    order = np.random.default_rng(2).permutation(len(known))
    found = gains(quality_of(fit(with_score(known, known.score[order]))))
    wanted = gains(TEST.quality)
    slope = np.cov(found, wanted)[0, 1] / wanted.var()
    right = np.cov(gains(quality_of(trained())), wanted)[0, 1] / wanted.var()
    assert abs(slope) < 0.1
    assert right > 0.6


def test_predictions_come_true_as_often_as_they_say() -> None:
    found = quality_of(trained())
    assert np.abs(found.mean(axis=0) - TEST.examples.score.mean(axis=0)).max() < 0.06
    for tier in range(4):
        bins = np.digitize(found[:, tier], np.linspace(0, 1, 6))
        error = sum(
            abs((found[bins == b, tier] - TEST.examples.score[bins == b, tier]).sum())
            for b in np.unique(bins)
        )
        assert error / len(found) < 0.13, TIERS[tier]


def test_nine_of_ten_answers_are_no_longer_than_their_ninetieth_percentile() -> None:
    found = Predictor(trained()).batch(TEST.examples.features)
    actual = TEST.examples.output_tokens
    for name, share in (("p50", 0.5), ("p90", 0.9), ("p95", 0.95)):
        covered = (actual <= getattr(found, f"output_tokens_{name}")).mean(axis=0)
        # Three standard errors: of 300 residuals that set the quantile, and of 1000 answers.
        error = 3 * np.sqrt(share * (1 - share) * (1 / 300 + 1 / 1000))
        assert (covered >= share - error).all(), name
        assert (covered <= share + error + 0.03).all(), name  # folds know less than the whole
    # The mean is of the smeared median: a ridge draws short and long answers together.
    assert found.output_tokens.mean(axis=0) == pytest.approx(actual.mean(axis=0), rel=0.25)


def test_a_longer_answer_is_expected_where_the_text_asks_for_one() -> None:
    briefly, thoroughly = (f"please prove the theorems {how}" for how in ("briefly", "thoroughly"))
    found = Predictor(trained()).batch(batch_of(briefly, thoroughly)).output_tokens
    assert (found[1] > 5 * found[0]).all()


# ── ladders and gaps ───────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("absent", [[1], [0, 2], [3], [2, 3]])
def test_a_ladder_of_fewer_tiers_learns_those_and_knows_nothing_of_others(
    absent: list[int],
) -> None:
    model = fit(without(absent))
    present = [tier for tier in range(4) if tier not in absent]
    assert model.facts["tiers"] == [TIERS[tier] for tier in present]
    assert model.facts["tokens_assumed"] == [TIERS[tier] for tier in absent]
    found = quality_of(model)
    assert np.isnan(found[:, absent]).all()
    bottom, top = present[0], present[-1]
    wanted = TEST.quality[:, top] - TEST.quality[:, bottom]
    assert np.corrcoef(found[:, top] - found[:, bottom], wanted)[0, 1] > 0.5
    means = found[:, present].mean(axis=0)
    assert means == pytest.approx(TEST.quality[:, present].mean(axis=0), abs=0.08)


def test_a_dearer_tier_that_is_worse_is_predicted_to_be_worse() -> None:
    known = planted().examples
    score = known.score[:, [0, 3, 1, 2]]  # mini answers like a frontier
    found = quality_of(fit(with_score(known, score))).mean(axis=0)
    assert np.argsort(found).tolist() == [0, 2, 3, 1]


def test_scores_that_are_missing_here_and_there_are_done_without() -> None:
    known = planted(600, seed=3).examples
    gaps = np.random.default_rng(4).random(known.score.shape) < 0.4
    model = fit(with_score(known, np.where(gaps, np.nan, known.score)))
    found = quality_of(model)
    assert np.corrcoef(gains(found), gains(TEST.quality))[0, 1] > 0.7
    assert found.mean(axis=0) == pytest.approx(TEST.quality.mean(axis=0), abs=0.06)


def test_tiers_that_were_never_asked_the_same_question_still_train() -> None:
    known = planted().examples
    cheap = np.arange(len(known)) % 2 == 0
    score = np.full(known.score.shape, np.nan)
    score[cheap, 0], score[~cheap, 3] = known.score[cheap, 0], known.score[~cheap, 3]
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        model = fit(with_score(known, score))
    assert model.arrays["mix"] == pytest.approx(np.full(3, 1 / 3))
    assert np.corrcoef(gains(quality_of(model)), gains(TEST.quality))[0, 1] > 0.5


def test_soft_scores_teach_as_much_as_the_answers_that_they_are_shares_of() -> None:
    soft = planted()
    found = quality_of(fit(with_score(soft.examples, soft.quality)))
    assert np.abs(found - TEST.quality).mean() < 0.12
    assert np.corrcoef(gains(found), gains(TEST.quality))[0, 1] > 0.9


def test_lengths_that_nobody_recorded_are_guessed_and_marked() -> None:
    known = planted().examples
    model = fit(replace(known, output_tokens=np.full(known.score.shape, np.nan)))
    assert model.facts["tokens_assumed"] == list(TIERS)
    found = Predictor(model).batch(TEST.examples.features)
    assert found.output_tokens_p50 == pytest.approx(np.full((1000, 4), 300.0), rel=1e-3)
    assert (found.output_tokens_p95 > 4 * found.output_tokens_p50).all()
    assert trained().facts["tokens_assumed"] == []


# ── folds ──────────────────────────────────────────────────────────────────────────────────────
def test_rows_of_one_question_are_never_split(monkeypatch: pytest.MonkeyPatch) -> None:
    known = planted().examples
    asked = np.array([f"question {row % 50}" for row in range(len(known))])
    seen: list[Any] = []
    take = Design.take

    def spy(design: Design, chosen: Any) -> Design:
        seen.append(chosen)
        return take(design, chosen)

    monkeypatch.setattr(Design, "take", spy)
    fit(replace(known, group=asked))
    assert len(seen) >= 6
    for chosen in seen:
        assert 0 < chosen.sum() < len(known)
        assert not set(asked[chosen]) & set(asked[~chosen])


def test_a_questions_fold_depends_on_nothing_but_its_name_and_the_seed() -> None:
    names = np.array([f"question {row}" for row in range(400)])
    deal = folds_of(names, 4, 7)
    assert folds_of(names[::-3], 4, 7).tolist() == deal[::-3].tolist()
    assert np.bincount(deal, minlength=4).min() > 70
    assert (folds_of(names, 4, 8) != deal).any()


def test_the_folds_hold_every_row_out_once() -> None:
    held = np.stack(list(inner_folds(planted().examples, 0)))
    assert (held.sum(axis=0) == 1).all()


# ── refusals ───────────────────────────────────────────────────────────────────────────────────
def _changed(change: Any) -> Examples:
    known = planted().examples
    score = known.score.copy()
    change(score)
    return with_score(known, score)


@pytest.mark.parametrize(
    ("examples", "problem", "rows"),
    [
        (planted().examples.take(np.arange(LEAST_EXAMPLES - 1)), "at least", LEAST_EXAMPLES - 1),
        (without([0, 1, 2]), "two tiers", 1),
        (without([0, 1, 2, 3]), "two tiers", 0),
        (_changed(lambda s: np.copyto(s[50:], np.nan)), "at least", 50),
        (_changed(lambda s: s.__setitem__((5, 1), 1.5)), "between 0 and 1", 300),
        (_changed(lambda s: s.__setitem__((5, 1), -0.1)), "between 0 and 1", 300),
        (_changed(lambda s: s.__setitem__((5, 1), np.inf)), "between 0 and 1", 300),
        (replace(planted().examples, group=np.full(300, "one")), "questions", 1),
        (replace(planted().examples, features=batch_of(*["\0"] * 300)), "words in common", 0),
    ],
)
def test_what_cannot_be_learnt_from_is_refused(examples: Examples, problem: str, rows: int) -> None:
    with pytest.raises(TrainingError, match=problem) as caught:
        fit(examples)
    assert problem in caught.value.problem
    assert caught.value.rows == rows


def test_the_fewest_examples_that_are_allowed_do_train() -> None:
    assert fit(planted().examples.take(np.arange(LEAST_EXAMPLES))).facts["examples"] == 60


# ── what is usual ──────────────────────────────────────────────────────────────────────────────
def test_few_of_the_requests_like_those_in_training_are_novel() -> None:
    predictor = Predictor(trained())
    assert predictor.batch(planted().examples.features).novel.mean() <= 0.02
    assert predictor.batch(TEST.examples.features).novel.mean() <= 0.04


def test_what_is_just_as_usual_as_the_threshold_is_not_below_it() -> None:
    examples = planted().examples
    inner = list(inner_folds(examples, 0))
    likeness = np.full(len(examples), 0.1)  # single precision rounds it upwards
    assert float(np.float32(0.1)) > 0.1
    assert 0.0999 < float(np.float32(novelty(examples, inner, likeness)[1])) < 0.1


def test_what_is_usual_is_weighed_where_weights_are_given() -> None:
    examples = planted().examples
    inner = list(inner_folds(examples, 0))
    likeness = np.linspace(0.0, 1.0, len(examples))
    upper = (likeness >= 0.5).astype(float)
    assert novelty(examples, inner, likeness)[1] == pytest.approx(0.05, abs=0.01)
    assert novelty(examples, inner, likeness, upper)[1] == pytest.approx(0.525, abs=0.02)


def test_a_model_predicts_the_same_after_it_was_saved(tmp_path: Path) -> None:
    model = trained()
    digest = save_model(tmp_path, model.name, model.arrays, model.facts)
    loaded = load_model(tmp_path)
    assert loaded.hash == digest
    before, after = (Predictor(m).batch(TEST.examples.features) for m in (model, loaded))
    for name in before.__dataclass_fields__:
        assert (getattr(before, name) == getattr(after, name)).all(), name


def test_each_step_is_told() -> None:
    steps: list[str] = []
    fit(planted(60, seed=6).examples, progress=steps.append)
    assert steps[0] == "reading the texts"
    assert sum(step.startswith("held-out fold") for step in steps) == 3
