"""`router train` on few answers and on one's own log: what is corrected, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from router import Router
from router.errors import TrainingError
from router.ledger import open_ledger, open_log
from router.predict import extract_many, load_predictor
from router.predict.examples import text_key
from router.replay.training.anchors import anchor
from router.replay.training.from_log import correct, merged, read_log
from router.replay.training.train import train
from router.types import TIERS, Request, RequestEnd, Reservation
from tests.conftest import ladder, only
from tests.judge_kit import Court, Panel
from tests.judge_kit import court as court  # fixtures
from tests.judge_kit import panel as panel
from tests.ledger_kit import NOW, TTL, attempt_row, request_row, url
from tests.provider import Provider
from tests.train_kit import (
    CHANCE,
    examples_of,
    prompt_of,
    run,
)


def test_answers_like_the_old_model_s_leave_it_where_it_is() -> None:
    base = load_predictor()
    examples = examples_of(400)
    quality = base.batch(examples.features).quality[:, 1]
    drawn = (np.random.default_rng(0).random(400) < quality).astype(float)
    score = np.full((400, 4), np.nan)
    score[:, 1] = drawn
    found = anchor(replace(examples, score=score), "mini", base)
    assert abs(found.offset) < 3 * found.standard_error
    assert "is not shown" in found.sentence or "worse" in found.sentence


def test_answers_to_a_single_question_show_nothing_of_others() -> None:
    examples, score = examples_of(40), np.full((40, 4), np.nan)
    score[:, 1] = np.arange(40) % 2
    found = anchor(
        replace(examples, score=score, group=np.full(40, "one")), "mini", load_predictor()
    )
    assert found.improvement_interval == (0.0, 0.0)
    assert "is not shown to predict answers that were left out better" in found.sentence


def test_too_few_answers_and_an_unknown_tier_are_refused() -> None:
    examples = examples_of(19)
    with pytest.raises(TrainingError, match="at least 20") as few:
        anchor(examples, "mini", load_predictor())
    assert few.value.rows == 19
    two = train(
        examples_of(200, tiers=("mini", "frontier")),
        shipped=load_predictor(),
        draws=20,
        curve=False,
    )
    from router.predict import Predictor

    with pytest.raises(TrainingError, match="no tier nano"):
        anchor(examples, "nano", Predictor(two.model))


# ── a log ──────────────────────────────────────────────────────────────────────────────────────
def logged(provider: Provider, store: Path, count: int, *, content: bool, good: float) -> None:
    """Send `count` requests through a real router to mini, and label each answer."""
    policy = ladder(provider.url, rules=[only("mini")])
    policy["log"] = {"durability": "normal", "content": content}
    with Router(policy, store=f"sqlite:///{store}") as router:
        for number in range(count):
            messages = [{"role": "user", "content": prompt_of(number)}]
            response = router.completion(messages=messages, tags=["t"])
            router.feedback(response, float(number % 10 < 10 * good))
        router.completion(messages=[{"role": "user", "content": "not labelled"}])


def test_a_log_of_bad_answers_lowers_the_tier_that_gave_them(
    provider: Provider, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, out = tmp_path / "r.db", tmp_path / "model"
    logged(provider, store, 60, content=True, good=0.1)
    code, said, _ = run(capsys, "--from-log", str(store), "--out", str(out), "--json")
    found = json.loads(said)
    assert (code, found["promoted"], found["rows"], found["with_text"]) == (0, True, 60, 60)
    assert list(found["tiers"]) == ["mini"]
    one = found["tiers"]["mini"]
    assert one["observed"] == pytest.approx(0.1)
    assert one["offset"] < -2 * one["standard_error"]
    assert found["log_loss"]["new"] < found["log_loss"]["shipped"]
    assert found["brier"]["new"] < found["brier"]["shipped"]
    batch = examples_of(20).features
    before, after = load_predictor().batch(batch), load_predictor(out).batch(batch)
    assert (after.quality[:, 1] < before.quality[:, 1]).all()
    assert np.allclose(after.quality[:, 3], before.quality[:, 3], atol=1e-12)
    code, said, _ = run(capsys, "--from-log", str(store), "--out", str(out))
    assert "60 labelled requests" in said
    assert "only the level of each tier is learnt" in said


def test_without_text_the_logged_prediction_of_the_very_model_is_what_is_corrected(
    provider: Provider, tmp_path: Path
) -> None:
    store = tmp_path / "r.db"
    logged(provider, store, 22, content=False, good=0.5)
    shipped, log = load_predictor(), open_log(f"sqlite:///{store}")
    found = read_log(log, shipped)
    log.close()
    assert (len(found.examples), found.with_text, found.unusable) == (22, 0, 0)
    asked = [
        Request("", [{"role": "user", "content": prompt_of(n)}], {}, now=0.0) for n in range(22)
    ]
    features = extract_many(asked)
    assert np.allclose(found.examples.features.dense, features.dense, atol=1e-4)
    assert np.allclose(found.quality, shipped.batch(features).quality, atol=1e-5)
    assert np.isfinite(found.examples.score).sum(axis=0).tolist() == [0, 22, 0, 0]
    assert (found.examples.output_tokens[:, 1] > 0).all()


def write_log(
    path: Path,
    answers: Sequence[tuple[int, str, float]],
    *,
    content: bool,
    turns: int = 0,
    cascade: int = 0,
) -> None:
    """A store with one labelled request for each (question, tier, label); a tier such as
    "nano*4+best" is one that a vote answered for. So many `turns` make a conversation. So many
    requests at the beginning are of a policy that went on to a second call at the first of them."""
    dense = {"input_tokens": 12}
    ledger = open_ledger(url(path), [], durability="normal")
    for number, (question, asked, label) in enumerate(answers):
        tier, star, vote = asked.partition("*")
        name, messages = f"r{number}", [{"role": "user", "content": prompt_of(question)}]
        batch = extract_many([Request("", messages, {}, now=0.0)])
        from router.predict.features import DENSE_NAMES

        values = dict(zip(DENSE_NAMES, batch.dense[0].tolist(), strict=True))
        row = request_row(
            name,
            features=dense | values,
            content=json.dumps(messages) if content else None,
            conversation_id=f"c{number // turns}" if turns else None,
            policy="cascade@1" if number < cascade else "single@1",
        )
        step = int(number < min(cascade, 1))
        worst = attempt_row(name, cost=0, tier=tier, arm=f"{tier}/0:m{star}{vote}", step=step)
        ledger.reserve(
            Reservation(
                f"{name}/1",
                0,
                scopes={},
                now=NOW,
                expires_at=NOW + TTL,
                worst_case=worst,
                request=row,
            )
        )
        ledger.settle(f"{name}/1", worst, RequestEnd("answered", accepted=1, baseline=1), NOW)
        ledger.log().feedback(name, label, now=NOW)
    ledger.close()


def test_a_log_that_tried_two_tiers_on_each_question_trains_in_full(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    answers = [
        (question, tier, float(rng.random() < CHANCE[question % 10 >= 5][tier]))
        for question in range(150)
        for tier in ("nano", "frontier")
    ]
    write_log(tmp_path / "r.db", answers, content=True)
    out = tmp_path / "model"
    code, said, _ = run(capsys, "--from-log", str(tmp_path / "r.db"), "--out", str(out), "--json")
    found = json.loads(said)
    assert (code, found["kind"], found["rows"]) == (0, "trained", 150)
    assert found["tiers"] == ["nano", "frontier"]
    assert load_predictor(out).tiers == ("nano", "frontier")


def test_labels_as_the_shipped_model_predicts_them_promote_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shipped = load_predictor()
    quality = shipped.batch(examples_of(200).features).quality[:, 0]
    drawn = (np.random.default_rng(3).random(200) < quality).astype(float)
    write_log(tmp_path / "r.db", [(n, "nano", float(drawn[n])) for n in range(200)], content=True)
    out = tmp_path / "model"
    code, said, _ = run(capsys, "--from-log", str(tmp_path / "r.db"), "--out", str(out))
    assert code == 1
    assert "is not shown to predict" in said
    assert not out.exists()
    log = open_log(url(tmp_path / "r.db"))
    found = read_log(log, shipped)
    log.close()
    assert merged(found) is None
    assert not correct(found, shipped).promoted


def test_turns_of_one_conversation_are_one_piece_of_evidence(tmp_path: Path) -> None:
    shipped = load_predictor()
    quality = shipped.batch(examples_of(300).features).quality[:, 0]
    good = np.repeat(np.random.default_rng(4).random(30), 10) < quality  # as predicted, alike
    answers = [(n, "nano", float(good[n])) for n in range(300)]
    verdicts = []
    for turns in (0, 10):
        write_log(tmp_path / f"{turns}.db", answers, content=True, turns=turns)
        with closing(open_log(url(tmp_path / f"{turns}.db"))) as log:
            found = read_log(log, shipped)
        assert len(set(found.examples.group.tolist())) == 300 // max(turns, 1)
        assert len(set(found.question.tolist())) == 300
        verdicts.append(correct(found, shipped).promoted)
    assert verdicts == [True, False]


def test_labels_of_few_conversations_show_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_log(tmp_path / "r.db", [(n, "nano", 1.0) for n in range(60)], content=True, turns=20)
    arguments = ["--from-log", str(tmp_path / "r.db"), "--out", str(tmp_path / "m")]
    code, _, error = run(capsys, *arguments)
    assert code == 1
    assert "at least 10 different questions or conversations are needed; found 3" in error


def test_one_question_is_one_group_in_whatever_conversation_it_is_asked(tmp_path: Path) -> None:
    asked = [(n, "nano", float(n % 3 == 0)) for n in (*range(20), *range(10), *range(50, 60))]
    write_log(tmp_path / "r.db", asked, content=True, turns=10)
    with closing(open_log(url(tmp_path / "r.db"))) as log:
        group = read_log(log, load_predictor()).examples.group.reshape(4, 10)
    assert (group == group[:, :1]).all()
    assert group[0, 0] == group[2, 0]
    assert len(set(group[:, 0].tolist())) == 3


def test_the_label_of_a_vote_is_not_learnt_as_one_of_its_tiers_single_answers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    votes = [(n, "nano*4+best", 1.0) for n in range(30)]
    single = [(n, "nano", float(n % 4 == 0)) for n in range(20)]
    write_log(tmp_path / "r.db", votes + single, content=False)
    log = open_log(url(tmp_path / "r.db"))
    found = read_log(log, load_predictor())
    log.close()
    assert found.examples.score[:, 0].tolist() == [label for _, _, label in single]
    assert (found.voted, found.unusable) == (30, 30)
    arguments = ["--from-log", str(tmp_path / "r.db"), "--out", str(tmp_path / "m")]
    _, said, _ = run(capsys, *arguments)
    assert "30 more could not be used (30 of them answered by votes)" in said
    write_log(tmp_path / "votes.db", votes, content=False)
    code, _, error = run(capsys, "--from-log", str(tmp_path / "votes.db"), *arguments[2:])
    assert code == 1
    assert "needed (beside the 30 that votes answered); found 0" in error


def test_labels_of_answers_that_a_cascade_let_pass_say_nothing_of_a_tier(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    passed = [(n, "nano", 1.0) for n in range(30)]
    single = [(n, "nano", float(n % 4 == 0)) for n in range(20)]
    write_log(tmp_path / "r.db", passed + single, content=False, cascade=30)
    with closing(open_log(url(tmp_path / "r.db"))) as log:
        found = read_log(log, load_predictor())
    assert found.examples.score[:, 0].tolist() == [label for _, _, label in single]
    assert (found.chained, found.unusable) == (30, 30)
    arguments = ["--from-log", str(tmp_path / "r.db"), "--out", str(tmp_path / "m")]
    assert "could not be used (30 of them in a cascade)" in run(capsys, *arguments)[1]
    write_log(tmp_path / "passed.db", passed, content=False, cascade=30)
    code, _, error = run(capsys, "--from-log", str(tmp_path / "passed.db"), *arguments[2:])
    assert code == 1
    assert "needed (beside the 30 of policies with a cascade); found 0" in error


def test_an_answer_that_is_as_good_as_the_baselines_is_as_good_as_that_and_no_better(
    court: Court, panel: Panel
) -> None:
    court.serve(30)
    panel.says = lambda first, second: "TIE"
    assert court.judge().scores == [1.0] * 30
    with court.router() as router, closing(open_log(court.store)) as log:
        for row in log.requests():
            if row.purpose == "serve" and row.request_id[-1] in "02468ace":
                router.feedback(row.request_id, 0.75)  # a person's word is of the answer alone
        found = read_log(log, court.predictor)
    mini, frontier = (found.quality[:, TIERS.index(tier)] for tier in ("mini", "frontier"))
    label = found.examples.score[:, TIERS.index("mini")]
    assert set(np.unique(label)) == {0.75, float(frontier[0])}
    assert frontier[0] > mini[0]
    assert correct(found, court.predictor).tiers["mini"].observed <= frontier[0]


# ── what is wrong is said in one line ──────────────────────────────────────────────────────────
def test_a_log_without_labels_or_with_few_says_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    open_ledger(url(tmp_path / "none.db"), [], durability="normal").close()
    code, _, error = run(
        capsys, "--from-log", str(tmp_path / "none.db"), "--out", str(tmp_path / "m")
    )
    assert code == 1
    assert "router.feedback(" in error
    write_log(tmp_path / "few.db", [(n, "mini", 1.0) for n in range(19)], content=False)
    arguments = ["--from-log", str(tmp_path / "few.db"), "--out", str(tmp_path / "m"), "--json"]
    code, said, _ = run(capsys, *arguments)
    found = json.loads(said)
    assert (code, found["error"], found["rows"]) == (1, "TrainingError", 19)
    assert "at least 20" in found["problem"]


def test_requests_of_one_template_are_told_apart_wherever_it_lists_its_options(
    provider: Provider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = "Classify this ticket.\nOptions: billing, tech\n\nTicket {}: nothing works."
    monkeypatch.setattr(f"{__name__}.prompt_of", template.format)
    logged(provider, tmp_path / "log.db", 40, content=True, good=0.5)
    log = open_log(f"sqlite:///{tmp_path / 'log.db'}")
    rows = read_log(log, load_predictor())
    log.close()
    assert len(set(rows.examples.group.tolist())) == 40
    assert text_key("What is  2+2?") == text_key("what is 2 2")
