"""`router train --verifier`: what a verifier learns, whether it is promoted, how it is used."""

from __future__ import annotations

import json
import math
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from router import Router
from router.errors import ConfigurationError, TrainingError
from router.gates.answer import Answer
from router.gates.confidence import Confidence
from router.gates.reading import LOGPROB_NAMES, SHAPE_NAMES
from router.gates.verifier import NAMES, load_verifier
from router.ledger import open_log
from router.replay.evaluation.by_form import ByForm
from router.replay.evaluation.curves import resamples
from router.replay.evaluation.verifier_training import as_verifier, train_verifier
from router.replay.recorded.answers import Answers, answers_like, read_answers
from router.replay.training.train_verifier import lead_in_auc, train_on_outcomes
from router.replay.training.verifier_from_log import along, kept_chains, train_on_log
from tests.conftest import MakeRouter, ladder, steady_predictor
from tests.provider import Behaviour, Provider, ok
from tests.replay_kit import Linear, ladder_text, outcomes_of, write_jsonl
from tests.test_cli import run
from tests.test_replay_cascade import told_rows

QUICK: dict[str, Any] = {"folds": 3, "draws": 200, "sweep": 15}


def silent_rows(n: int = 200) -> list[dict[str, Any]]:
    """Answers that tell nothing: each tier says the same whether it is right or wrong."""
    return [{**row, "response": "It follows from the text."} for row in told_rows(n)]


def sure_rows(n: int = 300) -> list[dict[str, Any]]:
    """Answers of which only the log-probabilities tell, and not all have them."""
    rng = np.random.default_rng(1)
    rows = silent_rows(n)
    for row in rows:
        margin = rng.normal(4.0 if row["score"] else 1.0)
        if rng.random() < 0.8:
            row["logprobs"] = {"mean": -0.3, "lowest": -1.0, "margin": margin}
    return rows


def test_answers_that_tell_make_a_verifier_that_beats_form(tmp_path: Path) -> None:
    found = train_on_outcomes(outcomes_of(tmp_path, told_rows()), Linear, **QUICK)
    assert found.promoted
    assert found.lead.interval[0] > 0
    assert found.lead.difference == pytest.approx(found.lead.learned - found.lead.structural)
    assert found.sentence.startswith("On your 300 held-out requests the verifier is better than")
    assert "of the frontier's quality costs" in found.sentence
    assert found.figures is not None
    costs = [
        found.figures[name]["cost_pct_at_quality"]["0.98"] for name in ("learned", "structural")
    ]
    assert costs[0] < costs[1]
    for said in found.auc.values():
        assert said["learned"]["interval"][0] > said["structural"]["value"]
    json.dumps(found.as_dict(), allow_nan=False)


def test_the_same_data_and_seed_give_the_same_verifier(tmp_path: Path) -> None:
    outcomes = outcomes_of(tmp_path, told_rows(150))
    one, two = (train_on_outcomes(outcomes, Linear, **QUICK, seed=3) for _ in range(2))
    for name, array in one.arrays.items():
        np.testing.assert_array_equal(array, two.arrays[name])
    assert one.sentence == two.sentence


def test_answers_that_tell_nothing_promote_nothing(tmp_path: Path) -> None:
    found = train_on_outcomes(outcomes_of(tmp_path, silent_rows()), Linear, **QUICK)
    assert not found.promoted
    assert "is not shown better than" in found.sentence or "is worse than" in found.sentence


def test_without_costs_the_lead_is_in_auc(tmp_path: Path) -> None:
    rows = [{k: v for k, v in row.items() if k != "cost_usd"} for row in told_rows(200)]
    found = train_on_outcomes(outcomes_of(tmp_path, rows), Linear, **QUICK)
    assert found.lead.metric == "AUC"
    assert found.promoted
    assert found.notes


def test_a_single_bad_answer_makes_no_verifier_better_for_certain() -> None:
    score, sees = np.ones((100, 4)), np.full((100, 4), 0.5)
    score[7, 0] = 0.0
    sees[7, 0] = 0.4
    said = {"learned": sees, "structural": 1 - sees}
    lead = lead_in_auc(said, score, [0, 3], resamples(np.arange(100).astype(str), 400, 0))
    assert lead.difference == pytest.approx(1)
    assert not lead.certain


def test_log_probabilities_are_learnt_from_and_may_be_missing(tmp_path: Path) -> None:
    outcomes = outcomes_of(tmp_path, sure_rows())
    found = train_on_outcomes(outcomes, Linear, **QUICK)
    assert found.promoted
    verifier = as_verifier(found.arrays)
    quality = np.array([0.5, 0.5, 0.5, 0.9])
    posterior = {}
    for name, said in {
        "sure": Confidence(-0.3, -1.0, 5.0),
        "unsure": Confidence(-0.3, -1.0, 0.0),
        "silent": None,
    }.items():
        answers = {0: (Answer("It follows from the text.", confidence=said),)}
        posterior[name] = verifier.judge(answers, 0, (), quality, np.arange(4))[0]
    assert posterior["unsure"] < 0.35 < posterior["silent"] < 0.65 < posterior["sure"]


def test_where_no_answer_has_them_log_probabilities_weigh_nothing(tmp_path: Path) -> None:
    outcomes = outcomes_of(tmp_path, told_rows(120))
    quality = np.where(np.isfinite(outcomes.score), 0.6, np.nan)
    arrays = train_verifier(quality, outcomes.score, read_answers(outcomes), outcomes.columns)
    assert not arrays["weights"][:, :, [NAMES.index(name) for name in LOGPROB_NAMES]].any()


def test_a_score_that_is_missing_is_no_bad_answer(tmp_path: Path) -> None:
    """Rows without a label change nothing of what the others teach."""
    outcomes = outcomes_of(tmp_path, told_rows(160))
    answers, quality = read_answers(outcomes), np.full(outcomes.score.shape, 0.6)
    half = np.arange(80)
    score = outcomes.score.copy()
    score[80:] = np.nan
    one = train_verifier(quality, score, answers, outcomes.columns)
    two = train_verifier(quality[half], score[half], answers.take(half), outcomes.columns)
    for name in ("weights", "intercept", "good", "bad", "together", "same"):
        np.testing.assert_allclose(one[name], two[name], atol=1e-9)


def test_a_verifier_knows_how_often_two_tiers_answers_agree_when_good_and_when_bad() -> None:
    n = 300
    score = np.full((n, 4), np.nan)
    score[:, 1] = np.arange(n) % 2  # good in every second query
    score[:, 3] = np.arange(n) % 3 == 0
    alike = np.full((n, 4, 4), -1.0)
    both, neither = (np.flatnonzero(score[:, 1] + score[:, 3] == total) for total in (2, 0))
    for rows in (both, neither[: len(neither) // 4]):
        alike[rows, 1, 3] = alike[rows, 3, 1] = 1.0
    order = np.where(np.isnan(score), -1, 0)
    answers = Answers(
        np.zeros((n, 4, len(SHAPE_NAMES))), alike, order, np.zeros(n, bool), order, np.zeros((n, 4))
    )
    quality = np.where(np.isnan(score), np.nan, 0.5)
    same = train_verifier(quality, score, answers, [1, 3])["same"]
    assert same[1, 3] == pytest.approx([0.25, 0.0, 1.0], abs=0.02)
    np.testing.assert_array_equal(same[3, 1], same[1, 3])
    assert (same[0] == 1).all()  # a tier that was never there tells nothing


def test_judging_by_form_is_what_the_gate_does_without_a_verifier() -> None:
    from router.gates.gate import Gate
    from router.gates.structural import faults
    from router.types import Request

    tier, quality = np.arange(4), np.array([0.5, 0.6, 0.8, 0.9])
    request = Request("r", (), {}, 0.0)
    for answer in (
        Answer("It is so."),
        Answer(""),
        Answer("I cannot help with that."),
        Answer("cut", "length"),
        Answer("```python\nif:\n```"),
        Answer("B", confidence=Confidence(-0.1, -0.2, 4.0)),
        Answer("B", confidence=Confidence(-0.1, -0.2, 0.1)),
        Answer("", confidence=Confidence(-0.1, -0.2, 4.0)),
    ):
        live = Gate().look(request, None, {1: (answer,)}, 1, quality, tier).quality
        answers = answers_like({0: {1: answer}}, [True], lambda _, each: faults({}, each))
        replayed = ByForm().after(quality[None], quality[None], answers, (1,))[0]
        np.testing.assert_allclose(replayed, live, atol=1e-9)


# ── the command ────────────────────────────────────────────────────────────────────────────────
def test_the_command_writes_a_verifier_that_a_policy_can_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], make_router: MakeRouter, provider: Provider
) -> None:
    file = write_jsonl(tmp_path / "outcomes.jsonl", told_rows())
    out = tmp_path / "verifier"
    line = ("train", str(file), "--ladder", ladder_text(), "--verifier", str(out), "--folds", "3")
    code, said, _ = run(capsys, *line, "--base", "shipped", "--json")
    found = json.loads(said)
    assert (code, found["promoted"], found["written"]) == (0, True, str(out))
    assert load_verifier(out, found["sha256"]).hash == found["sha256"]
    code, said, _ = run(capsys, *line, "--base", "shipped")
    assert code == 0
    assert found["sentence"] in said
    assert found["sha256"] in said  # the same data and seed
    named = {"path": str(out), "sha256": found["sha256"]}
    router = make_router(
        cascade={"gate": "learned", "verifier": named}, objective={"cost_weight": 20}
    )
    judged = []
    for text in ("It follows. The answer is (B).", "However, perhaps; maybe. The answer is (B)."):
        provider.default = ok(text=text)
        response = router.completion(messages=[{"role": "user", "content": "Hello"}])
        judged.append(Router.decision(response).steps[0].quality)
    assert judged[0] > judged[1] + 0.2


def test_the_command_trains_predictors_of_its_own_without_a_base(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_jsonl(tmp_path / "outcomes.jsonl", told_rows(240))
    out = tmp_path / "verifier"
    code, said, _ = run(
        capsys, "train", str(file), "--ladder", ladder_text(), "--verifier", str(out),
        "--folds", "3", "--json",
    )  # fmt: skip
    found = json.loads(said)
    assert (code, found["priors"]) == (0, "predictors trained on the other folds")
    facts = json.loads((out / "model.json").read_text())
    assert facts["trained_on"] == ["outcomes.jsonl"]
    assert facts["comparison"]["difference"] == found["comparison"]["difference"]


def test_what_is_not_shown_better_is_written_only_by_force(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_jsonl(tmp_path / "outcomes.jsonl", silent_rows())
    out = tmp_path / "verifier"
    # Without a base: what a verifier would gain by correcting another's predictions is none here.
    line = ("train", str(file), "--ladder", ladder_text(), "--verifier", str(out), "--folds", "3")
    code, said, _ = run(capsys, *line)
    assert (code, out.exists()) == (1, False)
    assert "Nothing was promoted" in said
    code, said, _ = run(capsys, *line, "--force")
    assert (code, out.exists()) == (0, True)
    assert "(by --force)" in said


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["{file}", "--ladder", ladder_text()], 2, "give --out for a model, or --verifier"),
        (["{file}", "--verifier", "v", "--out", "m"], 2, "--ladder"),
        (["{file}", "--ladder", ladder_text(), "--verifier", "{folder}/v", "--out", "{folder}/m"],
         2, "trained apart"),
        (["{file}", "--ladder", ladder_text(), "--verifier", "{file}"], 1, "--verifier"),
        (["{file}", "--ladder", ladder_text(), "--verifier", "{folder}/v", "--folds", "2",
          "--base", "shipped"], 1, "at least 3 folds"),
        (["--from-log", "{folder}/none.db", "--verifier", "{folder}/v"], 1, "none.db"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(
    arguments: list[str], code: int, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_jsonl(tmp_path / "o.jsonl", told_rows(40))
    given = [each.format(file=file, folder=tmp_path) for each in arguments]
    found, _, error = run(capsys, "train", *given)
    assert (found, says in error) == (code, True), error
    assert "Traceback" not in error


def test_a_predictor_that_lacks_a_tier_is_refused(tmp_path: Path) -> None:
    class Lacking(Linear):
        def batch(self, features: Any) -> Any:
            found = super().batch(features)
            found.quality[:, 1] = np.nan
            return found

    with pytest.raises(ConfigurationError, match="never learnt tier mini"):
        train_on_outcomes(outcomes_of(tmp_path, told_rows(80)), Lacking, **QUICK)


# ── a log ──────────────────────────────────────────────────────────────────────────────────────
GOOD = "It follows directly from the definition. The answer is (B)."
BAD = "However, perhaps it might be so; maybe not. The answer is (B)."


def logged(
    provider: Provider, store: Path, count: int, answers: list[Behaviour], labels: list[float],
    **policy: Any,
) -> None:  # fmt: skip
    """Send requests through a cascading router, each answered and labelled as the lists say."""
    asked = {"objective": {"cost_weight": 40}, "cascade": {"gate": "structural"}, **policy}
    source = {**ladder(provider.url), **asked}
    source["log"] = {"durability": "normal", "content": True, **policy.get("log", {})}
    with Router(source, store=f"sqlite:///{store}", predictor=steady_predictor()) as router:
        for number in range(count):
            provider.default = answers[number % len(answers)]
            response = router.completion(
                messages=[{"role": "user", "content": f"Question {number}"}]
            )
            router.feedback(response, labels[number % len(labels)])


def test_a_log_whose_bad_answers_hedge_makes_a_verifier(
    provider: Provider, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, out = tmp_path / "r.db", tmp_path / "verifier"
    logged(provider, store, 90, [ok(text=GOOD), ok(text=BAD)], [1.0, 0.0])
    code, said, _ = run(capsys, "train", "--from-log", str(store), "--verifier", str(out), "--json")
    found = json.loads(said)
    assert (code, found["promoted"], found["rows"], found["chains"]) == (0, True, 90, None)
    assert found["comparison"]["metric"] == "log likelihood of an answer's label"
    assert found["sentence"].startswith("On your 90 held-out requests the verifier is better")
    [tier] = found["auc"]
    assert found["auc"][tier]["learned"]["value"] == 1.0
    assert found["auc"][tier]["structural"]["value"] == pytest.approx(0.5)
    load_verifier(out, found["sha256"])


def test_log_probabilities_of_a_log_are_learnt_from(provider: Provider, tmp_path: Path) -> None:
    def said(p: float) -> Behaviour:
        content = (("The answer is ", -0.1, {}), ("B", math.log(p), {"C": math.log(0.9 * (1 - p))}))
        return ok(text="The answer is B", logprobs=content)

    store = tmp_path / "r.db"
    cascade = {"gate": "structural", "logprobs": True}
    # At no cost for a dearer tier nothing is gained by going on, whatever the first answer says.
    logged(provider, store, 90, [said(0.95), said(0.5)], [1.0, 0.0], cascade=cascade,
           objective={"cost_weight": 2000})  # fmt: skip
    with closing(open_log(f"sqlite:///{store}")) as log:
        found = train_on_log(log, draws=200)
    assert found.promoted
    assert found.lead.structural > math.log(0.5) - 0.1  # form alone reads them a little
    margin = found.arrays["weights"][:, :, NAMES.index("margin")]
    assert margin.max() > 0


def test_labels_that_hang_on_nothing_promote_nothing(provider: Provider, tmp_path: Path) -> None:
    store = tmp_path / "r.db"
    with Router(
        ladder(provider.url, objective={"cost_weight": 40}, cascade={}),
        predictor=steady_predictor(),
        store=str(tmp_path / "none.db"),
    ) as router:
        expected = router.explain([{"role": "user", "content": "Question 1"}]).view.quality
    drawn = np.random.default_rng(0).random(90) < expected  # as good as was predicted
    labels = drawn.astype(float).tolist()
    logged(provider, store, 90, [ok(text=GOOD), ok(text=BAD)], labels)
    with closing(open_log(f"sqlite:///{store}")) as log:
        assert not train_on_log(log, draws=200).promoted


def test_a_log_that_kept_no_answers_says_what_to_do(provider: Provider, tmp_path: Path) -> None:
    store = tmp_path / "r.db"
    logged(provider, store, 5, [ok(text=GOOD)], [1.0], log={"content": False})
    with (
        closing(open_log(f"sqlite:///{store}")) as log,
        pytest.raises(TrainingError, match="content: true"),
    ):
        train_on_log(log)


def test_a_chain_of_a_log_is_read_in_the_order_of_its_calls(tmp_path: Path) -> None:
    outcomes = outcomes_of(tmp_path, told_rows(60))
    free = read_answers(outcomes)
    verifier = as_verifier(
        train_verifier(np.full(outcomes.score.shape, 0.6), outcomes.score, free, outcomes.columns)
    )
    order = np.full((60, 4), -1)
    order[:30, 0], order[30:, 0], order[30:, 2] = 0, 1, 0
    chains = replace(free, order=order, free=False)
    quality = np.tile([0.5, 0.6, 0.7, 0.9], (60, 1))
    found = along(verifier, quality, chains)
    first = verifier.posterior(quality, free.shape[:, 0], (), 0, free.alike)
    np.testing.assert_allclose(found[:30], first[:30])
    mid = verifier.posterior(quality, free.shape[:, 2], (), 2, free.alike)
    then = verifier.posterior(mid, free.shape[:, 0], (2,), 0, free.alike)
    np.testing.assert_allclose(found[30:], then[30:])
    assert chains.came((0,)).sum() == 30
    assert chains.came((2, 0)).sum() == 30
    assert not chains.came((0, 2)).any()


def test_the_answer_that_was_labelled_is_the_one_that_was_handed_out(
    provider: Provider, tmp_path: Path
) -> None:
    store = tmp_path / "r.db"
    policy = ladder(provider.url, objective={"cost_weight": 60}, cascade={"max_steps": 2})
    policy["tiers"] = {tier: policy["tiers"][tier] for tier in ("nano", "frontier")}
    policy["tiers"]["nano"][0]["vote"] = {
        "samples": 3, "pick": "best", "sure": 1, "concentration": 5,
    }  # fmt: skip
    policy["log"] = {"durability": "normal", "content": True}
    passes = {"tests": lambda request, response: "works" in response.choices[0].message.content}
    with Router(
        policy, store=f"sqlite:///{store}", predictor=steady_predictor(), gates=passes
    ) as router:
        for texts in (["it works", "it fails", "no"], ["no", "it fails", "it works"]):
            provider.script("t-nano", *[ok(text=text) for text in texts])
            answer = router.completion(messages=[{"role": "user", "content": f"Not {texts[0]}."}])
            assert answer.choices[0].message.content == "it works"
            router.feedback(answer, 1.0)
    with closing(open_log(f"sqlite:///{store}")) as log:
        labelled = {row.request_id: row for row in log.requests()}
        chains = kept_chains(log, labelled)
    assert [chain.answers[0].text for chain in chains] == ["it works"] * 2
