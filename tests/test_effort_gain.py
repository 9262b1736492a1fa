"""What an effort adds at a tier, learnt from answers at that effort."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.cli import main
from router.ledger import open_log
from router.predict import extract_many, load_predictor
from router.predict.effort import EFFORT_GAIN, efforts_of, usual_gain
from router.replay.training.effort_gain import gain_of
from router.replay.training.from_log import correct, read_log
from router.types import Request
from tests.conftest import MakeRouter
from tests.provider import Provider, ok
from tests.test_efforts import one_tier

ANSWERS = 80


def test_answers_at_an_effort_say_what_it_adds_there_and_what_it_costs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = load_predictor()
    asked = [
        {"role": "user", "content": f"What is {n} times {n + 3}, and is it prime?"}
        for n in range(ANSWERS)
    ]
    lines = [
        {"query_id": str(n), "messages": [message], "model": "m-thinks", "score": 1.0,
         "input_tokens": 20, "output_tokens": 900}
        for n, message in enumerate(asked)
    ]  # fmt: skip
    file, out = tmp_path / "answers.jsonl", tmp_path / "model"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    arguments = ["train", str(file), "--base", "shipped", "--ladder", "mini@high=m-thinks"]
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--out", str(out), "--json"])
    said = json.loads(capsys.readouterr().out)
    assert (ended.value.code or 0, said["tier"], said["effort"]) == (0, "mini", "high")
    assert said["answers"] == ANSWERS
    known, usual = load_predictor(out).efforts, base.efforts
    gain, std = known.gain("mini", "high", "none")
    assert gain == pytest.approx(said["gain"], abs=1e-3)
    assert gain > usual.gain("mini", "high", "none")[0]
    assert std < usual.gain("mini", "high", "none")[1]
    assert known.gain("mid", "high", "none") == usual.gain("mid", "high", "none")
    assert known.factor("high") == pytest.approx(said["token_factor"], abs=1e-3)
    features = extract_many([Request("", [message], {}, now=0.0) for message in asked])
    predicted = base.batch(features)
    total = predicted.output_tokens[:, 1].sum()
    assert said["token_factor"] == pytest.approx(900 * ANSWERS / total)
    # Nothing else has changed.
    assert np.allclose(load_predictor(out).batch(features).quality, predicted.quality)


@pytest.mark.parametrize("ladder", ["mini@hihg=m", "@high=m", "mini@=m", "large@high=m"])
def test_an_effort_that_is_none_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], ladder: str
) -> None:
    file = tmp_path / "answers.jsonl"
    file.write_text("")
    with pytest.raises(SystemExit) as ended:
        main(["train", str(file), "--base", "shipped", "--ladder", ladder,
              "--out", str(tmp_path / "m")])  # fmt: skip
    assert ended.value.code == 2
    assert "mini@high=MODEL" in " ".join(capsys.readouterr().err.split())


@given(st.integers(20, 400), st.sampled_from(["low", "high"]), st.integers(1, 19))
@settings(max_examples=30, deadline=None)
def test_a_gain_lies_between_what_is_usual_and_what_is_observed(
    answers: int, effort: str, good_of_20: int
) -> None:
    label = (np.arange(answers) < good_of_20 / 20 * answers).astype(float)
    share = float(np.clip(label.mean(), 0.01, 0.99))
    gain, std = gain_of(np.full(answers, 0.5), label, effort)
    usual, spread = usual_gain(effort)
    observed = float(np.log(share / (1 - share)))
    assert min(usual, observed, 0.0) - 0.05 <= gain <= max(usual, observed, 0.0) + 0.05
    assert 0 < std < spread


@pytest.mark.parametrize(
    ("effort", "usual"), [("none", "high"), ("low", "medium"), ("high", "low")]
)
@pytest.mark.parametrize("answers", [20, 1000])
def test_answers_that_are_as_was_assumed_of_an_effort_leave_its_gain_as_it_was(
    answers: int, effort: str, usual: str
) -> None:
    assumed = efforts_of(load_predictor().model.facts, "m").gain("mini", effort, usual)
    odds = np.log(0.7 / 0.3) + assumed[0]
    label = np.full(answers, 1 / (1 + np.exp(-odds)))
    gain, std = gain_of(np.full(answers, 0.7), label, effort, usual)
    assert gain == pytest.approx(assumed[0], abs=0.05)
    assert 0 < std < max(assumed[1], 0.1)


def test_answers_move_the_gain_between_two_efforts_that_are_usually_alike() -> None:
    label = (np.arange(1000) < 700).astype(float)
    gain, _ = gain_of(np.full(1000, 0.5), label, "xhigh", "high")
    assert gain > 0.4


def test_a_log_of_two_efforts_teaches_the_tier_and_the_gain_apart(
    make_router: MakeRouter, provider: Provider
) -> None:
    """Real requests: answers at no effort are bad, those that think are good."""
    policy = one_tier(provider.url, efforts=["none", "high"])
    usage = {"prompt_tokens": 20, "completion_tokens": 500, "total_tokens": 520}
    provider.default = ok(usage=usage)
    shipped, store = load_predictor(), ""
    for cost_weight, score in ((1e6, 0.0), (0, 1.0)):
        objective = {"cost_weight": cost_weight}
        router = make_router(predictor=shipped, **{**policy, "objective": objective})
        store = router.store
        for n in range(30):
            answer = router.completion(messages=[{"role": "user", "content": f"Question {n}?"}])
            router.feedback(answer, score)
        router.close()
    efforts = [body["reasoning_effort"] for _, _, body in provider.wire]
    assert efforts == ["none"] * 30 + ["high"] * 30
    with closing(open_log(store)) as log:
        rows = read_log(log, shipped)
    assert sorted(rows.effort.tolist()) == [""] * 30 + ["high"] * 30
    tokens = rows.examples.output_tokens[:, 1]
    assert tokens[rows.effort == "high"] == pytest.approx(500 / shipped.efforts.factor("high"))
    assert tokens[rows.effort == ""] == pytest.approx(500)
    found = correct(rows, shipped, draws=50)
    assert found.tiers["mini"].observed == 0.0
    gain, _ = efforts_of(found.model.facts, "m").gain("mini", "high", "none")
    assert gain > EFFORT_GAIN["high"]


def test_a_log_teaches_what_an_effort_below_the_usual_one_takes_away(
    make_router: MakeRouter, provider: Provider
) -> None:
    """Real requests, whose usual effort is high: two in five are good, with and without it."""
    policy = one_tier(provider.url, efforts=["high", "none"])
    shipped, store = load_predictor(), ""
    for cost_weight in (0, 1e6):
        objective = {"cost_weight": cost_weight}
        router = make_router(predictor=shipped, **{**policy, "objective": objective})
        store = router.store
        for n in range(30):
            answer = router.completion(messages=[{"role": "user", "content": f"Question {n}?"}])
            router.feedback(answer, float(n % 5 < 2))
        router.close()
    efforts = [body["reasoning_effort"] for _, _, body in provider.wire]
    assert efforts == ["high"] * 30 + ["none"] * 30
    with closing(open_log(store)) as log:
        rows = read_log(log, shipped)
    assert set(rows.usual) == {"high"}
    gain, _ = efforts_of(correct(rows, shipped, draws=50).model.facts, "m").gain(
        "mini", "none", "high"
    )
    assert EFFORT_GAIN["none"] - EFFORT_GAIN["high"] < gain < -0.2
