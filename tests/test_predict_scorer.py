"""The scorer gives the estimators' numbers with numpy alone, and refuses what it cannot read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from router.errors import ModelFileError
from router.predict import Predictor, extract, load_predictor
from router.predict.design import Design, text_matrix
from router.predict.features import DENSE_NAMES, FeatureBatch
from router.predict.hashing import BUCKETS
from router.predict.learners import Learners, Penalties, learn, neighbours_of
from router.predict.model_file import MOST, ModelFile, load_model
from router.predict.scorer import _ALLOWED, _DEFAULT_MODEL, ARRAY_SHAPES, DENSE_LIMIT, HEADS
from router.predict.training import fit, fit_tokens, inner_folds
from router.types import TIERS, Features, Request
from tests.conftest import plain_model
from tests.training_kit import batch_of, planted, trained, with_score

NAMES = ("quality", "quality_std", "output_tokens", "output_tokens_p50", "output_tokens_p90")
ALL = (*NAMES, "output_tokens_p95", "novel")
NEW = batch_of(
    *planted(40, seed=1).texts, "", "hello", "ꙮ ᚠᚢᚦ", "What is 2 + 2?\n" * 300, "prove $x^2$ {};"
)


def features(text: str, system: str | None = None) -> Features:
    messages = [{"role": "system", "content": system}] if system else []
    return extract(Request("r", [*messages, {"role": "user", "content": text}], {}, now=0.0))


def with_heads(**scores: float) -> Predictor:
    intercept = np.array([scores.get(head, 0.0) for head in HEADS])
    return Predictor(plain_model(intercept=intercept))


# ── scikit-learn's numbers ─────────────────────────────────────────────────────────────────────
def design_of(batch: FeatureBatch, like: Design) -> Design:
    """New requests as the matrices that the estimators read."""
    dense = np.clip((batch.dense - like.mean) / like.scale, -DENSE_LIMIT, DENSE_LIMIT)
    rows = np.zeros(len(batch), dtype=int)
    examples = replace(like.examples.take(rows), features=batch)
    text = text_matrix(like.vocabulary, batch)
    return Design(examples, like.vocabulary, like.mean, like.scale, text, dense)


def learners_of(model: ModelFile, design: Design, score: NDArray[np.float64]) -> Learners:
    found = model.facts["penalties"]
    penalties = Penalties(found["C"], found["dense_share"])
    return learn(design, score, penalties, neighbours_of(design, score, 0))


@pytest.mark.parametrize("absent", [[], [1, 3]])
def test_the_scorer_gives_scikit_learns_numbers(absent: list[int]) -> None:
    examples = planted().examples
    score = examples.score.copy()
    score[:, absent] = np.nan
    examples = with_score(examples, score)
    model = fit(examples) if absent else trained()
    present = [tier for tier in range(4) if tier not in absent]
    # Fitting is deterministic: these are the estimators that the model's arrays came from.
    fitted = Design.of(examples)
    learners = learners_of(model, fitted, score[:, present])
    tokens, residuals, _ = fit_tokens(fitted, list(inner_folds(examples, 0)))
    new = design_of(NEW, fitted)
    predictor = Predictor(model)

    logs = tokens.predict_log(new.both)
    found = predictor.batch(NEW)
    mixed = np.tensordot(model.arrays["mix"].astype(float), learners.predict(new), axes=1)
    intercept, slope = model.arrays["level"].astype(float)
    top = mixed[:, -1:]
    quality = intercept + slope * top - float(model.arrays["gain"][0]) * (top - mixed)
    quality = np.maximum(quality - np.maximum(quality.max(axis=1, keepdims=True) - 0.99, 0), 0.01)
    assert np.abs(found.quality[:, present] - quality).max() <= 1e-5
    expected = np.maximum(np.expm1(logs[:, None] + residuals.T), 1)  # (N, 4 numbers, T)
    for place, name in enumerate(ALL[2:6]):
        assert getattr(found, name) == pytest.approx(expected[:, place], rel=1e-4)


def test_each_learner_alone_is_read_as_it_predicts() -> None:
    examples, model = planted().examples, trained()
    fitted = Design.of(examples)
    learners = learners_of(model, fitted, examples.score)
    wanted = np.clip(learners.predict(design_of(NEW, fitted)), 0.01, 0.99)
    plain = {"level": np.array([0.0, 1.0]), "gain": np.ones(1)}
    for place, mix in enumerate(np.eye(3)):
        alone = replace(model, arrays={**model.arrays, **plain, "mix": mix})
        found = Predictor(alone).batch(NEW).quality
        # A level outside the range is clipped before the gains are taken from it.
        inside = np.abs(learners.predict(design_of(NEW, fitted))[place, :, -1] - 0.5) <= 0.49
        assert inside.sum() > 20
        assert np.abs(found - wanted[place])[inside].max() <= 1e-5


def _varied() -> ModelFile:
    """A model with every step that others leave out: each learner, a moved tier, an absent one."""
    model = trained()
    ability = np.zeros((4, 2))
    ability[0] = 0.7, 0.4
    arrays = {**model.arrays, "ability": ability, "mix": np.array([0.3, 0.3, 0.4])}
    facts = {**model.facts, "tiers": ["nano", "mid", "frontier"]}
    return replace(model, arrays=arrays, facts=facts)


@pytest.mark.parametrize("load", [trained, lambda: load_predictor().model, _varied])
def test_a_batch_gives_the_same_numbers_as_one_by_one(load: Callable[[], ModelFile]) -> None:
    predictor = Predictor(load())
    batch = predictor.batch(NEW)
    for row in range(len(NEW)):
        single = predictor(NEW[row])
        for name in ALL:
            found = getattr(single, name)
            assert getattr(batch, name)[row] == pytest.approx(found, rel=1e-5, nan_ok=True)
    empty = predictor.batch(NEW[np.arange(0)])
    assert empty.quality.shape == empty.output_tokens_p90.shape == (0, 4)
    assert empty.novel.shape == (0,)


def test_a_batch_larger_than_what_is_scored_at_once_keeps_its_order() -> None:
    predictor = Predictor(trained())
    order = np.arange(2500) % len(NEW)
    long, short = predictor.batch(NEW[order]), predictor.batch(NEW)
    for name in ALL:
        assert getattr(long, name) == pytest.approx(getattr(short, name)[order], rel=1e-5)


# ── what the numbers mean ──────────────────────────────────────────────────────────────────────
def test_regrets_are_taken_from_the_frontiers_quality_and_tokens_are_smeared() -> None:
    heads = {"frontier_quality": 0.9, "nano_regret": 0.4, "mini_regret": 0.2, "mid_regret": 0.1}
    logs = {f"{t}_log_tokens": np.log1p(10.0 * (i + 1)) for i, t in enumerate(TIERS)}
    model = with_heads(**heads, **logs).model
    residuals = np.tile(np.log([2.0, 1.0, 3.0, 4.0]), (4, 1))
    prediction = Predictor(replace(model, arrays={**model.arrays, "token_residuals": residuals}))(
        features("anything")
    )
    assert prediction.quality == pytest.approx([0.5, 0.7, 0.8, 0.9])
    assert prediction.output_tokens == pytest.approx([21.0, 41.0, 61.0, 81.0])
    assert prediction.output_tokens_p50 == pytest.approx([10.0, 20.0, 30.0, 40.0])
    assert prediction.output_tokens_p90 == pytest.approx([32.0, 62.0, 92.0, 122.0])
    assert prediction.output_tokens_p95 == pytest.approx([43.0, 83.0, 123.0, 163.0])


def test_quality_stays_between_one_and_ninety_nine_percent() -> None:
    low = with_heads(frontier_quality=0.5, nano_regret=9.0, mini_regret=-0.6)(features("x"))
    # What passes the range moves every tier, so that no gain is lost.
    assert low.quality == pytest.approx([0.01, 0.99, 0.39, 0.39])
    for predictor in (Predictor(trained()), load_predictor()):
        quality = predictor.batch(NEW).quality
        assert quality.min() >= 0.01
        assert quality.max() <= 0.99


def test_quantiles_of_tokens_are_in_order() -> None:
    for predictor in (Predictor(trained()), load_predictor()):
        found = predictor.batch(NEW)
        assert (found.output_tokens_p50 >= 1).all()
        assert (found.output_tokens_p50 <= found.output_tokens_p90).all()
        assert (found.output_tokens_p90 <= found.output_tokens_p95).all()


def test_of_a_tier_that_was_not_trained_nothing_is_known() -> None:
    model = trained()
    facts = {**model.facts, "tiers": ["nano", "mid", "frontier"]}
    found = Predictor(replace(model, facts=facts)).batch(NEW)
    known = Predictor(model).batch(NEW)
    for name in ("quality", "quality_std"):
        assert np.isnan(getattr(found, name)[:, 1]).all()
        assert (getattr(found, name)[:, [0, 2, 3]] == getattr(known, name)[:, [0, 2, 3]]).all()


@pytest.mark.parametrize("load", [trained, lambda: load_predictor().model])
def test_what_is_unlike_training_is_novel(load: Callable[[], ModelFile]) -> None:
    predictor = Predictor(load())
    strange = batch_of("ꙮ ᚠᚢᚦ ꙮꙮ ᛗᚨᚾ ꙮ ᚱᚢᚾ", "xqzv wkpfj zzgh qwrtp vbnmx", "ⴰⵣⵓⵍ ⴼⵍⵍⴰⵡⵏ")
    assert predictor.batch(strange).novel.all()


def test_what_was_trained_on_is_not_novel() -> None:
    assert not Predictor(trained()).batch(planted().examples.features).novel.any()
    usual = load_predictor().batch(
        batch_of("What is the capital of France?", "Write a Python function that sorts a list.")
    )
    assert not usual.novel.any()


@pytest.mark.parametrize("shift", [-1.0, 0.8])
def test_a_moved_ability_shifts_its_tier_alone_and_widens_its_error(shift: float) -> None:
    model = trained()
    ability = np.zeros((4, 2))
    ability[1] = shift, 0.5
    before = Predictor(model).batch(NEW)
    after = Predictor(replace(model, arrays={**model.arrays, "ability": ability})).batch(NEW)
    others = [0, 2, 3]
    assert after.quality[:, others] == pytest.approx(before.quality[:, others])
    assert after.quality_std[:, others] == pytest.approx(before.quality_std[:, others])
    odds = before.quality[:, 1] / (1 - before.quality[:, 1]) * np.exp(shift)
    moved = np.clip(odds / (1 + odds), 0.01, 0.99)
    assert after.quality[:, 1] == pytest.approx(moved)
    added = after.quality_std[:, 1] ** 2 - before.quality_std[:, 1] ** 2
    assert added == pytest.approx((0.5 * moved * (1 - moved)) ** 2)


def with_step(step: list[float], regrets: list[list[float]], **heads: float) -> Predictor:
    model = with_heads(**heads).model
    arrays = {"step": np.array(step), "step_regrets": np.array(regrets)}
    return Predictor(replace(model, arrays={**model.arrays, **arrays}))


LEVELS = [[0.10, 0.05, 0.02, 0.0], [0.30, 0.15, 0.06, 0.0]]


@pytest.mark.parametrize(
    ("regret", "expected"),
    [(0.0, [0.8, 0.85, 0.88, 0.9]), (0.2, [0.7, 0.8, 0.86, 0.9]), (0.4, [0.6, 0.75, 0.84, 0.9])],
)
def test_a_step_draws_regrets_to_the_level_that_their_sum_speaks_for(
    regret: float, expected: list[float]
) -> None:
    heads = {"frontier_quality": 0.9, "nano_regret": regret, "mini_regret": 0.1}
    found = with_step([0.3, 0.005, 0.0], LEVELS, **heads)(features("x")).quality
    assert found == pytest.approx(expected)


def test_a_step_keeps_the_share_of_regrets_that_it_says() -> None:
    heads = {"frontier_quality": 0.9, "nano_regret": 0.2}
    found = with_step([9.0, 0.005, 0.25], LEVELS, **heads)(features("x")).quality
    kept = 0.25 * np.array([0.2, 0.0, 0.0, 0.0])
    assert found == pytest.approx(0.9 - kept - 0.75 * np.array(LEVELS[0]))


# ── the model that is shipped ──────────────────────────────────────────────────────────────────
def test_the_shipped_model_predicts_plausible_numbers_for_every_tier() -> None:
    prediction = load_predictor()(features("What is the boiling point of water at sea level?"))
    assert prediction.quality.shape == (4,)
    assert np.isfinite(prediction.quality).all()
    assert (prediction.quality_std > 0).all()
    assert (prediction.output_tokens < 5000).all()
    assert not prediction.novel


def test_the_shipped_model_asks_more_of_dear_tiers_for_proofs_than_for_greetings() -> None:
    predictor = load_predictor()

    def gain(text: str) -> float:
        quality = predictor(features(text)).quality
        return float(quality[3] - quality[0])

    proof = "Prove that for every prime p > 3 the number p^2 - 1 is divisible by 24."
    contest = (
        "You are given an array of n integers (1 <= n <= 200000). Implement an algorithm in C++ "
        "that counts the distinct subarrays with sum k, with complexity O(n log n)."
    )
    hard = min(gain(proof), gain(contest))
    assert hard > 0.2
    for easy in ("hi", "Hello! How are you?", "Thanks, that was great!", "你好，谢谢"):
        assert gain(easy) < 0.6 * hard


def test_a_system_prompt_of_two_thousand_tokens_does_not_move_quality() -> None:
    predictor = load_predictor()
    padding = "Answer as the friendly clerk of a garden centre would. " * 180
    for text in planted(8, seed=1).texts:
        with_padding = predictor(features(text, system=padding)).quality
        assert np.abs(with_padding - predictor(features(text)).quality).max() <= 0.01


def test_what_was_not_seen_in_training_is_more_uncertain() -> None:
    predictor = load_predictor()
    known = predictor(features("What is the value of x if 3x + 5 = 20? Show the solution."))
    strange = predictor(features("ꙮ ᚠᚢᚦ ꙮꙮ ᛗᚨᚾ ꙮ ᚱᚢᚾ"))
    assert (strange.quality_std > known.quality_std).all()


def test_reasoning_effort_multiplies_tokens_and_none_leaves_them() -> None:
    factors = load_predictor().efforts.tokens
    assert list(factors) == ["none", "minimal", "low", "medium", "high", "xhigh"]
    assert factors["none"] == 1.0
    assert list(factors.values()) == sorted(factors.values())


# ── refusals ───────────────────────────────────────────────────────────────────────────────────
def _stepping(width: float, kept: float) -> Callable[[ModelFile], None]:
    return _arrays(step=np.array([0.3, width, kept]), step_regrets=np.zeros((2, 4)))


def _arrays(**changes: Any) -> Callable[[ModelFile], None]:
    return lambda model: model.arrays.update(changes)  # type: ignore[attr-defined]


def _facts(**changes: Any) -> Callable[[ModelFile], None]:
    return lambda model: model.facts.update(changes)  # type: ignore[attr-defined]


def _terms(*buckets: Any, dtype: Any = np.int32) -> Callable[[ModelFile], None]:
    return _arrays(
        vocabulary=np.array(buckets, dtype=dtype),
        idf=np.ones(len(buckets)),
        text_weights=np.zeros((len(buckets), len(HEADS))),
        embedding=np.zeros((len(buckets), 1)),
    )


def test_the_plain_model_of_these_tests_is_accepted_with_terms() -> None:
    model = plain_model()
    _terms(0, 5, BUCKETS - 1)(model)
    assert Predictor(model)(features("x")).quality.shape == (4,)


def _without_prototypes(model: ModelFile) -> None:
    names = ("prototypes", "prototype_counts", "prototype_means")
    _arrays(**{name: model.arrays[name][:0] for name in names})(model)


@pytest.mark.parametrize("name", ARRAY_SHAPES)
def test_a_model_without_one_of_its_arrays_is_refused(name: str) -> None:
    model = plain_model()
    del model.arrays[name]  # type: ignore[attr-defined]
    with pytest.raises(ModelFileError, match=rf"missing: \['{name}'\]") as caught:
        Predictor(model, "here")
    assert caught.value.path == "here"


@pytest.mark.parametrize("name", ARRAY_SHAPES)
def test_a_model_with_an_array_of_another_shape_is_refused(name: str) -> None:
    kept = plain_model().arrays[name]
    for shape in ((*kept.shape, 1), kept.shape[:-1], (*kept.shape[:-1], kept.shape[-1] + 1)):
        model = plain_model(**{name: np.zeros(shape, dtype=kept.dtype)})
        with pytest.raises(ModelFileError, match="has shape"):
            Predictor(model)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_arrays(extra=np.zeros(1)), "not known: .*extra"),
        (_arrays(calibration_quality=np.zeros((3, 4))), "missing: .*calibration_score"),
        (_arrays(idf=np.ones(3)), "idf has shape"),
        (_arrays(embedding=np.zeros((0, 7))), "prototypes has shape"),
        (_arrays(prototype_means=np.zeros((2, 4))), "prototype_means has shape"),
        (_terms(5, 3), "rising"),
        (_terms(3, 3), "rising"),
        (_terms(-1, 3), "rising"),
        (_terms(3, BUCKETS), "rising"),
        (_terms(3.0, 5.0, dtype=np.float32), "integers"),
        (
            _arrays(dense_scale=np.zeros(len(DENSE_NAMES))),
            "dense_scale holds 0; allowed: from 1e-09 to 10000",
        ),
        (_arrays(quality_noise=-np.ones(4)), "quality_noise holds -1; allowed: from 0"),
        (
            _arrays(prototype_counts=-np.ones((1, 4))),
            "prototype_counts holds -1; allowed: from 0 to 1e",
        ),
        (_arrays(mix=np.array([1.0, -0.1, 0.1])), "mix holds -0.1; allowed: from 0"),
        (_arrays(step=np.array([0.3, 0.1, 0.0])), "missing: .*step_regrets"),
        (_stepping(0.0, 0.0), "positive width"),
        (_stepping(0.1, 1.5), "share from 0 to 1"),
        (_stepping(1e-320, 0.5), "positive width"),
        (_arrays(ability=np.full((4, 2), -0.1)), "ability holds the deviation -0.1; allowed: 0"),
        (_facts(dense_names=["other"]), "other features"),
        (_facts(dense_names=None), "other features"),
        (_facts(tiers=[]), "tiers"),
        (_facts(tiers=None), "tiers"),
        (_facts(tiers=["mini", "nano"]), "tiers"),
        (_facts(tiers=["nano", "nano"]), "tiers"),
        (_facts(tiers=["nano", "giant"]), "tiers"),
        (_facts(tiers="nano"), "tiers"),
        *[
            (_facts(**{name: value}), f"{name} must be a positive number")
            for name in ("temperature", "prior_rows")
            for value in (0, 1e-320, 9e-4, 1e6, -1.0, None, True, "1", float("nan"), float("inf"))
        ],
        (_facts(effort_tokens=None), "effort_tokens.none"),
        (_facts(effort_tokens={"none": {"factor": 1}}), "effort_tokens.minimal"),
        *[
            (_facts(effort_tokens={"none": {"factor": factor}}), "effort_tokens.none")
            for factor in (0, -1, "much", None, True, float("nan"), 1e9, 10**400)
        ],
        (_facts(effort_gains=["mini@low"]), "effort_gains must be an object"),
        (_without_prototypes, "prototypes must be at least one"),
    ],
)
def test_a_model_that_does_not_fit_this_version_is_refused(
    change: Callable[[ModelFile], None], reason: str
) -> None:
    model = plain_model()
    change(model)
    with pytest.raises(ModelFileError, match=reason) as caught:
        Predictor(model, "here")
    assert caught.value.path == "here"


def test_a_negative_document_frequency_is_refused() -> None:
    model = plain_model()
    _terms(3)(model)
    _arrays(idf=-np.ones(1))(model)
    with pytest.raises(ModelFileError, match="idf holds -1; allowed: from 0"):
        Predictor(model)


@pytest.mark.parametrize(
    ("name", "number", "allowed"),
    [
        ("text_weights", 3e38, "from -10000 to 10000"),
        ("dense_mean", -3e38, "from -10000 to 10000"),
        ("intercept", 1e38, "from -10000 to 10000"),
        ("prototypes", 1e10, "from -10000 to 10000"),
        ("prototypes", 1.0, "1 or less"),
        ("ability", 1e30, "from -10000 to 10000"),
        ("token_residuals", 10.5, "from -10 to 10"),
        ("dense_scale", 1e-20, "from 1e-09 to 10000"),
        ("novelty", 9000.0, "1 or less"),
    ],
)
def test_a_number_that_no_request_could_be_scored_with_is_refused(
    name: str, number: float, allowed: str
) -> None:
    """The shipped model but for one array, which would make a quality NaN or a cost infinite."""
    shipped = load_model(_DEFAULT_MODEL)
    array = np.full_like(shipped.arrays[name], number)
    with pytest.raises(ModelFileError, match=rf"{name} .*allowed: {allowed}"):
        Predictor(replace(shipped, arrays={**shipped.arrays, name: array}), "here")


@given(st.data())
@settings(max_examples=30, deadline=None)
def test_whatever_numbers_are_allowed_each_request_has_a_score_and_a_cost(
    data: st.DataObject,
) -> None:
    shipped = load_model(_DEFAULT_MODEL)
    arrays = dict(shipped.arrays)
    for name in data.draw(st.sets(st.sampled_from(sorted(arrays.keys() - {"vocabulary"})))):
        least, most = _ALLOWED.get(name, (-MOST, MOST))
        size = data.draw(st.sampled_from([least, most, (least + most) / 2]))
        arrays[name] = np.full(arrays[name].shape, size)
    arrays["prototypes"] = shipped.arrays["prototypes"]
    arrays["ability"] = np.abs(arrays["ability"])
    arrays["novelty"] = np.minimum(arrays["novelty"], 1.0)
    arrays["step"] = shipped.arrays["step"]
    number = st.sampled_from([1e-3, 1.0, 9e5])
    facts = {name: data.draw(number) for name in ("temperature", "prior_rows")}
    model = replace(shipped, arrays=arrays, facts={**shipped.facts, **facts})
    with np.errstate(over="ignore"):
        found = Predictor(model)(features("Prove that the square root of two is irrational."))
    for each in (found.quality, found.quality_std, found.output_tokens, found.output_tokens_p95):
        assert np.isfinite(each).all()
    assert (found.output_tokens <= 1e10).all()
