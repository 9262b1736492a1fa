"""A text embedder adds columns to what a model learns from, and travels with it by name."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from router import Router
from router.cli import cli
from router.errors import ConfigurationError, ModelFileError
from router.predict import Predictor, extract, extract_many, load_predictor
from router.predict.design import Design
from router.predict.embedder import TextEmbedder, load_embedder
from router.predict.features import DENSE_NAMES
from router.predict.learners import Penalties, learn, neighbours_of
from router.predict.model_file import load_model, save_model
from router.predict.training import fit
from router.types import Request
from tests.conftest import ladder
from tests.training_kit import planted

D = len(DENSE_NAMES)
OWN = "tests.test_embedder:Vowels"


class Vowels:
    """Shares of five letters."""

    name, size = "vowels", 5

    def embed(self, texts):
        counts = np.array([[text.count(letter) for letter in "aeiou"] for text in texts], float)
        return (counts / np.maximum(1, np.linalg.norm(counts, axis=1, keepdims=True))).astype("f4")


class Broken(Vowels):
    def embed(self, texts):
        return np.full((len(texts), 5), np.nan, np.float32)


class Short(Vowels):
    def embed(self, texts):
        return np.zeros((len(texts), 4), np.float32)


def asked(text: str) -> Request:
    return Request("r", [{"role": "user", "content": text}], {}, now=0.0)


def examples_with(embedder: TextEmbedder):
    made = planted(240)
    return replace(
        made.examples, features=extract_many([asked(text) for text in made.texts], embedder)
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("model") / "m"
    model = fit(examples_with(Vowels()), embedder=Vowels())
    save_model(place, "m", model.arrays, model.facts)
    return place


TEXTS = ["Please add two numbers.", "", "质数有无穷多个吗？", "a" * 5000, "…", "\ud800 lone"]


@pytest.mark.parametrize("embedder", [Vowels(), load_embedder("wordllama")], ids=["own", "words"])
def test_one_request_and_many_get_the_same_vectors_after_the_named_features(embedder) -> None:
    many = extract_many([asked(text) for text in TEXTS], embedder)
    plain = extract_many([asked(text) for text in TEXTS])
    assert many.dense.shape == (len(TEXTS), D + embedder.size)
    assert np.array_equal(many.dense[:, :D], plain.dense)
    for row, text in enumerate(TEXTS):
        one = extract(asked(text), embedder)
        assert np.allclose(one.dense, many.dense[row], atol=1e-6)
    lengths = np.linalg.norm(many.dense[:, D:], axis=1)
    assert np.all((np.abs(lengths - 1) < 1e-3) | (lengths == 0))


def test_wordllama_puts_like_texts_closer_than_unlike_ones() -> None:
    vectors = load_embedder("wordllama").embed(
        ["How do I bake bread?", "A recipe for a loaf", "Integrate x squared from 0 to 1"]
    )
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.1


def test_the_scorer_gives_scikit_learns_numbers_with_an_embedder() -> None:
    examples = examples_with(Vowels())
    model = fit(examples, embedder=Vowels())
    design = Design.of(examples)
    penalties = Penalties(**{
        name: model.facts["penalties"][name] for name in ("C", "dense_share")
    })  # fmt: skip
    learnt = learn(design, examples.score, penalties, neighbours_of(design, examples.score, 0))
    wanted = learnt.predict(design)
    only = {**model.arrays, "level": np.array([0.0, 1.0]), "gain": np.ones(1)}
    for at in range(2):  # log odds, gains
        alone = replace(model, arrays={**only, "mix": np.eye(3)[at]})
        found = Predictor(alone).batch(examples.features).quality
        inside = (wanted[at] > 0.02) & (wanted[at] < 0.98)
        assert inside.any()
        best = wanted[at].max(axis=1, keepdims=True) < 0.98
        assert np.abs(found - wanted[at])[inside & best].max() < 2e-3


def test_a_vector_that_tells_good_answers_apart_is_learnt_from() -> None:
    examples = planted(240).examples
    hidden = np.random.default_rng(0).normal(size=(240, 1)).astype(np.float32)
    features = replace(examples.features, dense=np.hstack([examples.features.dense, hidden]))
    score = np.hstack([np.repeat(hidden > 0, 3, axis=1), np.ones((240, 1))]).astype(float)

    class Hidden(Vowels):
        name, size = "hidden", 1

    with_it = fit(replace(examples, features=features, score=score), embedder=Hidden())
    without = fit(replace(examples, score=score))
    errors = [
        float(np.mean((Predictor(model).batch(rows).quality - score) ** 2))
        for model, rows in ((with_it, features), (without, examples.features))
    ]
    assert errors[0] < 0.9 * errors[1]


def test_a_model_is_loaded_with_the_embedder_of_one_s_own_that_is_named(folder) -> None:
    predictor = load_predictor(folder, OWN)
    assert predictor.embedder is not None
    assert predictor.embedder.name == "vowels"
    one = predictor(extract(asked("Please list the letters"), predictor.embedder))
    assert np.isfinite(one.quality).all()


def test_a_model_file_alone_loads_no_code_of_others(folder) -> None:
    with pytest.raises(ModelFileError, match="'vowels'; name where"):
        load_predictor(folder)


def test_a_model_with_another_embedder_than_it_was_trained_with_is_refused(folder) -> None:
    with pytest.raises(ModelFileError, match="'vowels' of size 5, not with 'wordllama'"):
        load_predictor(folder, "wordllama")


def test_an_embedder_is_refused_for_a_model_that_was_trained_without_one() -> None:
    with pytest.raises(ModelFileError, match="without an embedder; leave 'wordllama' out"):
        load_predictor(None, "wordllama")


def test_a_model_that_reads_no_vector_passes_one_over() -> None:
    plain, wide = load_predictor(), extract(asked("Prove it."), Vowels())
    assert np.array_equal(plain(wide).quality, plain(extract(asked("Prove it."))).quality)


@pytest.mark.parametrize(
    "said", ["vowels", {"name": "vowels"}, {"name": 5, "size": 5}, {"name": "v", "size": 0},
             {"name": "v", "size": True}, {"name": "v", "size": 10**9}, {"name": "v", "size": 4}]
)  # fmt: skip
def test_a_model_file_that_says_nonsense_of_its_embedder_is_refused(folder, said) -> None:
    model = load_model(folder)
    with pytest.raises(ModelFileError, match=r"embedder|shape"):
        Predictor(replace(model, facts={**model.facts, "embedder": said}))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("bert", "'bert' is unknown; allowed: wordllama"),
        ("no.such.module:x", "cannot be loaded"),
        ("tests.test_embedder:Nobody", "cannot be loaded"),
        ("tests.test_embedder:D", "is none"),
    ],
)
def test_an_embedder_that_is_none_is_refused_by_name(name, says) -> None:
    with pytest.raises(ConfigurationError, match=says):
        load_embedder(name)


@pytest.mark.parametrize("embedder", [Broken(), Short()])
def test_vectors_that_are_no_numbers_or_too_few_are_refused(embedder) -> None:
    with pytest.raises(ConfigurationError, match="must return finite numbers"):
        extract(asked("x"), embedder)


def test_without_the_package_the_extra_is_named(monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "wordllama", None)
    with pytest.raises(ConfigurationError, match=r"tiered-router\[embedder\]"):
        load_embedder("wordllama")


def test_a_policy_routes_with_a_model_and_its_embedder(folder, provider) -> None:
    own = {"path": str(folder), "embedder": OWN}
    with Router(ladder(provider.url, predictor=own), store="sqlite://") as router:
        decision = router.explain([{"role": "user", "content": "Please prove the theorems"}])
        assert decision.chosen
    with pytest.raises(ModelFileError, match="name where"):
        Router(ladder(provider.url, predictor={"path": str(folder)}), store="sqlite://")


def test_train_and_evaluate_take_an_embedder(tmp_path) -> None:
    made = planted(300)
    lines = [
        json.dumps({
            "query_id": f"q{row}", "prompt": made.texts[row], "model": model,
            "score": float(made.examples.score[row, tier]), "cost_usd": 0.001 * 10**tier,
            "output_tokens": 50, "input_tokens": 20,
        })
        for row in range(300) for tier, model in ((0, "small"), (3, "large"))
    ]  # fmt: skip
    outcomes = tmp_path / "o.jsonl"
    outcomes.write_text("\n".join(lines) + "\n")
    mine = ["--ladder", "nano=small,frontier=large", "--embedder", OWN, "--json"]
    out = str(tmp_path / "m")
    trained = CliRunner().invoke(cli, ["train", str(outcomes), "--out", out, "--force", *mine])
    assert trained.exit_code in (0, 1), trained.output
    assert load_model(Path(out)).facts["embedder"] == {"name": "vowels", "size": 5}
    judged = CliRunner().invoke(
        cli, ["evaluate", str(outcomes), "--draws", "0", "--compare", "singles", *mine]
    )
    assert judged.exit_code == 0, judged.output
    again = CliRunner().invoke(
        cli, ["evaluate", str(outcomes), "--model", out, "--draws", "0", *mine]
    )
    assert again.exit_code == 0, again.output
