"""`router evaluate --vote`: repeated answers are samples; a vote reads no more than it asks for."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.cli import main
from router.decide.vote import VoteRule
from router.errors import ConfigurationError, OutcomeFileError
from router.policy.vote import Vote
from router.replay.evaluation.evaluate import evaluate
from router.replay.recorded.outcomes import Outcomes, read_outcomes
from router.replay.recorded.voting import _count
from tests.replay_kit import Linear, write_jsonl, write_parquet

LADDER: dict[Any, str] = {"mini": "small", "frontier": "large"}
FIVE: dict[Any, Vote] = {"mini": Vote(samples=5)}
ASK = "How many {fruit} of the {colour} trees are left of {n}? Answer with a number."
FRUIT = ("apples", "pears", "plums", "figs", "olives", "limes", "dates")
COLOURS = ("red", "old", "tall", "far", "thin")


def ask(query: str) -> str:
    number = sum(query.encode())
    return ASK.format(fruit=FRUIT[number % 7], colour=COLOURS[number % 5], n=query)


def row(query: str, model: str, answer: str | None, score: float | None, **more: Any) -> Any:
    return {
        "query_id": query, "prompt": ask(query), "model": model, "response": answer,
        "score": score, "cost_usd": 0.001 if model == "small" else 0.02,
        "input_tokens": 20, "output_tokens": 10, **more,
    }  # fmt: skip


def said(query: str, *answers: tuple[str, float], **more: Any) -> list[Any]:
    """The small model's samples of one query, and the large one's answer."""
    mine = [row(query, "small", text, score, **more) for text, score in answers]
    return [*mine, row(query, "large", "7", 1.0)]


def read(tmp_path: Path, rows: Sequence[Any], **votes: Vote) -> Outcomes:
    chosen: Any = votes or FIVE
    return read_outcomes(write_jsonl(tmp_path / "o.jsonl", rows), LADDER, votes=chosen)


def test_the_majoritys_answer_is_handed_out_and_every_sample_read_is_paid(tmp_path: Path) -> None:
    rows = said("a", ("5", 0.0), ("7", 1.0), ("7", 1.0), ("7", 1.0), ("5", 0.0))
    found = read(tmp_path, rows, mini=Vote(samples=5, sure=1))
    assert found.score[0, 1] == 1.0
    # Three of five say 7 after the fourth: the fifth could overturn nothing and is not asked for.
    assert found.votes["mini"].samples == 4
    assert found.cost_usd[0, 1] == pytest.approx(0.004)
    assert (found.input_tokens[0, 1], found.output_tokens[0, 1]) == (80, 40)
    assert (found.score[0, 3], found.cost_usd[0, 3]) == (1.0, 0.02)


def test_what_comes_after_the_vote_was_decided_is_never_read(tmp_path: Path) -> None:
    early = [("7", 1.0)] * 3
    one = read(tmp_path, said("a", *early, ("7", 1.0), ("7", 1.0)))
    other = read(tmp_path, said("a", *early, ("5", 0.0), ("lost", 0.0)))
    assert one.votes["mini"].samples is not None
    assert one.votes["mini"].samples <= 3
    for name in ("score", "cost_usd", "input_tokens", "output_tokens"):
        assert np.array_equal(getattr(one, name), getattr(other, name), equal_nan=True)


def test_what_is_thought_of_a_sample_is_the_score_on_other_questions_alone(tmp_path: Path) -> None:
    """Where others were all good, two that agree are sure; where all were bad, they are not."""

    def samples_of_first(score: float) -> float:
        rows = said("a", *[("7", 1.0)] * 5)
        for number in range(20):
            rows += said(f"b{number}", ("3", score))
        found = read(tmp_path, rows, mini=Vote(samples=5, concentration=20)).votes["mini"].samples
        assert found is not None
        return found

    assert samples_of_first(1.0) == 2
    assert samples_of_first(0.0) > 2


def test_too_few_samples_and_free_text_are_not_voted_on_and_counted(tmp_path: Path) -> None:
    rows = said("two", ("7", 1.0), ("5", 0.0))
    free = said("free", ("One.", 1.0), ("Two.", 0.0), ("Three.", 0.0))
    rows += [each | {"prompt": "Tell me about gardens."} for each in free]
    figures = read(tmp_path, rows).votes["mini"]
    assert (figures.queries, figures.too_few, figures.incomparable) == (0, 1, 1)
    assert "no vote was held" in figures.words("mini")
    found = read(tmp_path, rows)
    assert found.score[:, 1].tolist() == pytest.approx([0.5, 1 / 3])  # means, as without votes


def test_a_vote_that_runs_out_of_samples_says_so(tmp_path: Path) -> None:
    rows = said("a", ("1", 0.0), ("2", 0.0), ("7", 1.0))
    figures = read(tmp_path, rows, mini=Vote(samples=9)).votes["mini"]
    assert (figures.queries, figures.samples, figures.cut_short) == (1, 3, 1)
    assert "ended for want of samples" in figures.words("mini")


def test_one_unknown_price_makes_the_votes_cost_unknown(tmp_path: Path) -> None:
    rows = said("a", ("7", 1.0), ("7", 1.0), ("7", 1.0))
    rows[1]["cost_usd"] = None
    found = read(tmp_path, rows)
    assert math.isnan(found.cost_usd[0, 1])
    assert found.votes["mini"].vote_usd is None
    assert found.votes["mini"].first_usd is None  # compared only where both are known


def test_contaminated_rows_are_no_samples(tmp_path: Path) -> None:
    rows = said("a", ("7", 1.0), ("7", 1.0), ("7", 1.0))
    soiled = [row("a", "small", "5", 0.0, contaminated=True) for _ in range(4)]
    for write in (write_jsonl, write_parquet):
        file = write(tmp_path / f"o.{write.__name__[6:]}", [*soiled, *rows])
        found = read_outcomes(file, LADDER, votes=FIVE)
        assert found.score[0, 1] == 1.0


def test_without_answers_a_vote_is_refused_by_name(tmp_path: Path) -> None:
    rows = [each | {"response": None} for each in said("a", *[("7", 1.0)] * 3)]
    with pytest.raises(OutcomeFileError, match="'response' is missing or empty; a vote compares"):
        read(tmp_path, rows)


@given(
    st.lists(st.sampled_from(["1", "2", "3", ""]), min_size=3, max_size=12),
    st.integers(3, 9),
    st.booleans(),
    st.floats(0.01, 0.99),
)
def test_a_vote_never_reads_more_than_it_may_and_hands_out_a_leader_that_it_read(
    texts: list[str], samples: int, at_once: bool, quality: float
) -> None:
    taken, leader, done = _count(texts, VoteRule(samples, at_once, 0.95, 0.4), quality)
    assert 0 <= leader < taken <= min(samples, len(texts))
    assert done or taken == len(texts)
    support = [texts[:taken].count(text) if text else 1 for text in texts[:taken]]
    assert support[leader] == max(support)
    assert leader == support.index(max(support))  # of equals the one that came first


def many(n: int, seed: int = 0) -> list[Any]:
    """Samples that are good three times in five and then all say the same: votes must help."""
    rng = np.random.default_rng(seed)
    rows: list[Any] = []
    for number in range(n):
        chance = rng.beta(3, 2)
        good = rng.random(5) < chance
        texts = [("7", 1.0) if g else (str(10 + rng.integers(30)), 0.0) for g in good]
        rows += said(f"q{number}", *texts)
    return rows


def test_votes_that_help_raise_quality_and_the_report_says_by_how_much(tmp_path: Path) -> None:
    rows = many(120)
    report = evaluate(read(tmp_path, rows), learner=Linear, compare=(), draws=20, sweep=11).report
    figures = report["votes"]["mini"]
    assert figures["queries"] == 120
    assert figures["vote_score"] > figures["first_score"] + 0.05
    assert 2 <= figures["samples"] < 5
    assert figures["vote_usd"] == pytest.approx(figures["samples"] * 0.001)
    assert any(note.startswith("mini: votes on 120 queries") for note in report["notes"])


def test_votes_do_not_go_with_cascades_or_a_model_of_single_answers(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="or the votes"):
        evaluate(read(tmp_path, many(60)), learner=Linear, max_steps=2)


def test_the_command_holds_votes_and_refuses_what_is_no_vote(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_jsonl(tmp_path / "o.jsonl", many(90))
    common = ["evaluate", str(file), "--ladder", "mini=small,frontier=large"]
    quick = ["--compare", "none", "--draws", "20", "--sweep", "11", "--json"]
    with pytest.raises(SystemExit) as ended:
        main([*common, *quick, "--vote", "mini=5"])
    assert not ended.value.code
    assert json.loads(capsys.readouterr().out)["votes"]["mini"]["queries"] == 90
    for wrong, why in (
        ("mini=2", "TIER=SAMPLES"), ("mini", "TIER=SAMPLES"), ("huge=5", "TIER=SAMPLES"),
        ("mid=5", "the ladder has no tier mid"),
    ):  # fmt: skip
        with pytest.raises(SystemExit) as ended:
            main([*common, *quick, "--vote", wrong])
        assert ended.value.code == 2
        assert why in " ".join(capsys.readouterr().err.split())
