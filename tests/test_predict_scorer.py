import numpy as np
import pytest
from scipy import sparse
from sklearn.linear_model import Ridge

from router.errors import ModelFileError
from router.predict import Predictor, extract, load_predictor
from router.predict.features import BUCKETS, DENSE_NAMES
from router.predict.model_file import ModelFile
from router.predict.scorer import ARRAY_SHAPES, DENSE_LIMIT, HEADS
from router.types import Request

_TEXTS = [
    f"{verb} the {noun} {number} times, then {verb} it again."
    for verb in ("prove", "translate", "count", "paint", "compute")
    for noun in ("theorem", "letter", "sheep", "integral", "fence")
    for number in range(4)
]


def features(text, system=None):
    messages = [{"role": "system", "content": system}] if system else []
    return extract(Request("r", [*messages, {"role": "user", "content": text}], {}, now=0.0))


def plain_model(**arrays):
    """A model whose arrays do nothing but pass raw scores on."""
    made = {name: np.zeros(shape) for name, shape in ARRAY_SHAPES.items()}
    made["dense_scale"] += 1
    made["calibration"][:, 1] = 1
    facts = {
        "dense_names": list(DENSE_NAMES),
        "effort_tokens": {
            effort: {"factor": 1.0}
            for effort in ("none", "minimal", "low", "medium", "high", "xhigh")
        },
    }
    return ModelFile("small", "0" * 64, facts, made | arrays)


def test_the_scorer_gives_scikit_learns_numbers():
    rng = np.random.default_rng(0)
    found = [features(text) for text in _TEXTS]
    raw = np.stack([f.dense for f in found]).astype(np.float64)
    mean, scale = raw.mean(axis=0), raw.std(axis=0) + 0.1
    hashed = sparse.csr_matrix(
        (
            np.concatenate([f.weights for f in found]),
            np.concatenate([f.buckets for f in found]),
            np.cumsum([0, *(f.buckets.size for f in found)]),
        ),
        shape=(len(found), BUCKETS),
    )
    dense = np.clip((raw - mean) / scale, -DENSE_LIMIT, DENSE_LIMIT)
    x = sparse.hstack([sparse.csr_matrix(dense), hashed]).tocsr()
    y = rng.normal(size=(len(found), len(HEADS))) + dense[:, :1]
    ridge = Ridge(alpha=1.0).fit(x, y)
    d = len(DENSE_NAMES)
    predictor = Predictor(
        plain_model(
            dense_mean=mean,
            dense_scale=scale,
            dense_weights=ridge.coef_[:, :d].T,
            hashed_weights=ridge.coef_[:, d:].T,
            intercept=ridge.intercept_,
        )
    )
    numpy_scores = np.stack([predictor.heads(f) for f in found])
    assert np.abs(numpy_scores - ridge.predict(x)).max() <= 1e-6


def test_regrets_are_taken_from_the_frontiers_quality_and_tokens_are_smeared():
    predictor = Predictor(
        plain_model(
            intercept=np.array([0.9, 0.4, 0.2, 0.1, *np.log1p([10.0, 20.0, 30.0, 40.0])]),
            token_residuals=np.tile([np.log(2.0), np.log(3.0)], (4, 1)),
        )
    )
    prediction = predictor(features("anything"))
    assert prediction.quality == pytest.approx([0.5, 0.7, 0.8, 0.9])
    assert prediction.output_tokens == pytest.approx([21.0, 41.0, 61.0, 81.0])
    assert prediction.output_tokens_p95 == pytest.approx([32.0, 62.0, 92.0, 122.0])


def test_quality_stays_between_one_and_ninety_nine_percent():
    predictor = Predictor(plain_model(intercept=np.array([5.0, 9.0, 0, 0, 1, 1, 1, 1])))
    assert predictor(features("x")).quality == pytest.approx([0.01, 0.99, 0.99, 0.99])


def test_a_batch_gives_the_same_numbers_as_one_by_one():
    predictor = load_predictor()
    found = [features(text) for text in (*_TEXTS[:20], "", "你好")]
    batch = predictor.batch(found)
    for row, one in enumerate(found):
        single = predictor(one)
        for name in ("quality", "quality_std", "output_tokens", "output_tokens_p95"):
            assert getattr(batch, name)[row] == pytest.approx(getattr(single, name), rel=1e-9)
    assert predictor.batch([]).quality.shape == (0, 4)


def test_the_shipped_model_predicts_plausible_numbers_for_every_tier():
    prediction = load_predictor()(features("What is the boiling point of water at sea level?"))
    assert ((prediction.quality >= 0.01) & (prediction.quality <= 0.99)).all()
    assert (prediction.quality_std > 0).all()
    assert (prediction.output_tokens >= 1).all()
    assert (prediction.output_tokens_p95 >= prediction.output_tokens).all()
    assert prediction.quality.shape == (4,)


def test_the_shipped_model_asks_more_of_dear_tiers_for_proofs_than_for_greetings():
    predictor = load_predictor()

    def gain(text):
        quality = predictor(features(text)).quality
        return quality[3] - quality[0]

    proof = "Prove that for every prime p > 3 the number p^2 - 1 is divisible by 24."
    contest = (
        "You are given an array of n integers (1 <= n <= 200000). Implement an algorithm in C++ "
        "that counts the distinct subarrays with sum k, with complexity O(n log n)."
    )
    hard = min(gain(proof), gain(contest))
    assert hard > 0.2
    for easy in ("hi", "Hello! How are you?", "Thanks, that was great!", "你好，谢谢"):
        assert gain(easy) < 0.6 * hard


def test_a_system_prompt_of_two_thousand_tokens_does_not_move_quality():
    predictor = load_predictor()
    padding = "Answer as the friendly clerk of a garden centre would. " * 180
    for text in _TEXTS[::9]:
        moved = (
            predictor(features(text, system=padding)).quality - predictor(features(text)).quality
        )
        assert np.abs(moved).max() <= 0.01


def test_what_was_not_seen_in_training_is_more_uncertain():
    predictor = load_predictor()
    known = predictor(features("What is the value of x if 3x + 5 = 20? Show the solution."))
    strange = predictor(features("ꙮ ᚠᚢᚦ ꙮꙮ ᛗᚨᚾ ꙮ ᚱᚢᚾ"))
    assert (strange.quality_std > known.quality_std).all()


def test_reasoning_effort_multiplies_tokens_and_none_leaves_them():
    factors = list(load_predictor().effort_tokens.values())
    assert list(load_predictor().effort_tokens) == [
        "none",
        "minimal",
        "low",
        "medium",
        "high",
        "xhigh",
    ]
    assert factors[0] == 1.0
    assert factors == sorted(factors)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda m: m.arrays.pop("intercept"), "missing"),
        (lambda m: m.arrays.update(extra=np.zeros(1)), "not known"),
        (lambda m: m.arrays.update(intercept=np.zeros(3)), "shape"),
        (lambda m: m.arrays.update(dense_scale=np.zeros(len(DENSE_NAMES))), "positive"),
        (lambda m: m.arrays.update(quality_noise=-np.ones(4)), "negative"),
        (lambda m: m.facts.update(dense_names=["other"]), "other features"),
        (lambda m: m.facts.pop("effort_tokens"), "effort_tokens"),
        (lambda m: m.facts["effort_tokens"].update(low={"factor": "much"}), "effort_tokens.low"),
    ],
)
def test_a_model_that_does_not_fit_this_version_is_refused(change, reason):
    model = plain_model()
    change(model)
    with pytest.raises(ModelFileError, match=reason):
        Predictor(model, "here")
