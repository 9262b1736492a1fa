"""Cascades on recorded answers: what is read, what is called, what it costs, what it gains."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

import router.replay.evaluation.evaluate as evaluation
from router.errors import ConfigurationError, OutcomeFileError
from router.replay.evaluation.chains import paid
from router.replay.evaluation.decisions import write_decisions
from router.replay.evaluation.evaluate import Evaluation, evaluate
from router.types import TIERS
from tests.replay_kit import MODELS, Linear, ladder_text, make_rows, outcomes_of, write_parquet
from tests.test_cli import run_json


def told_rows(n: int = 300, seed: int = 0) -> list[dict[str, Any]]:
    """Answers that tell: a good one names the right letter, a bad one another and hedges."""
    rng = np.random.default_rng(seed)
    rows = make_rows(n, seed=seed)
    for row in rows:
        right = "ABCDEFGH"[int(row["query_id"][1:]) % 8]
        if row["score"]:
            row["response"] = f"It follows. The answer is ({right})."
        else:
            wrong = "ABCDEFGHIJ".replace(right, "")[int(rng.integers(9))]
            row["response"] = f"However, perhaps it might be so; maybe. The answer is ({wrong})."
    return rows


def run(path: Path, rows: list[dict[str, Any]], **more: Any) -> Evaluation:
    options: dict[str, Any] = {"learner": Linear, "draws": 0, "splits": 5, "sweep": 21, "folds": 3}
    return evaluate(outcomes_of(path, rows), **{**options, "max_steps": 3, "compare": (), **more})


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    return run(tmp_path_factory.mktemp("whole"), told_rows())


def test_looking_at_answers_that_tell_beats_deciding_before_the_call(whole: Evaluation) -> None:
    report, alone = whole.report, whole.report["comparisons"]["pre_call"]
    assert report["cost_pct_at_quality"]["1.00"] < 0.7 * alone["cost_pct_at_quality"]["1.00"]
    assert report["peak_quality_ratio"] > alone["peak_quality_ratio"]
    assert "disagreement" in report["comparisons"]


def test_a_chain_costs_all_of_its_calls(whole: Evaluation) -> None:
    assert whole.called is not None
    cost = paid(whole.called.steps, whole.outcomes.cost_usd)
    curve = whole.report["curve"]
    always = whole.outcomes.cost_usd[:, -1].mean()
    assert [p["cost_pct"] for p in curve] == pytest.approx(100 * cost.mean(axis=1) / always)
    assert paid(np.array([[[0, 2, -1]]]), np.array([[1.0, 2, 4, 8]])).tolist() == [[5.0]]


def test_decisions_have_a_row_for_each_call_and_one_accepted(
    whole: Evaluation, tmp_path: Path
) -> None:
    written = write_decisions(whole, tmp_path / "d.parquet")
    rows = pq.read_table(tmp_path / "d.parquet").to_pylist()
    assert len(rows) == written
    chains: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for row in rows:
        chains.setdefault((row["query_id"], row["sweep_point"]), []).append(row)
    assert len(chains) == 300 * 21
    assert {sum(row["accepted"] for row in chain) for chain in chains.values()} == {1}
    for chain in chains.values():
        assert [row["step"] for row in chain] == list(range(len(chain)))
        assert len({row["arm"] for row in chain}) == len(chain)
    lengths = Counter(len(chain) for chain in chains.values())
    assert lengths[1] > 0
    assert lengths[2] > 0
    assert max(lengths) <= 3


def test_an_answer_that_was_not_called_and_a_score_to_judge_by_change_no_decision(
    tmp_path: Path,
) -> None:
    """With the folds' training left alone, a query's scores and unread answers are nothing."""
    rows = told_rows(150, seed=2)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first = run(tmp_path / "a", rows, sweep=9)
    assert first.called is not None
    fold, point = first.fold, 5
    # Train on nothing of fold 0 but decide it: compare fold 0 alone.
    mine = {f"q{i}": i for i in np.flatnonzero(fold == 0)}
    index = {q: at for at, q in enumerate(first.outcomes.query_id.tolist())}
    tier_of = {model: TIERS.index(tier) for tier, model in MODELS.items()}
    changed = []
    for row in rows:
        row = dict(row)
        if row["query_id"] in mine:
            row["score"] = 1 - row["score"]
            called = first.called.steps[:, index[row["query_id"]]]
            if not (called == tier_of[row["model"]]).any():
                row["response"] = "The answer is (J). However, sorry."
        changed.append(row)
    second = run(tmp_path / "b", changed, sweep=9)
    assert second.called is not None
    assert np.array_equal(first.fold, second.fold)
    zero = fold == 0
    assert np.array_equal(first.called.steps[:, zero], second.called.steps[:, zero])
    assert np.array_equal(first.chosen[point, zero], second.chosen[point, zero])


def test_what_a_cascade_needs_is_said(tmp_path: Path) -> None:
    with pytest.raises(OutcomeFileError, match="response"):
        run(tmp_path, make_rows(60, response=False))
    with pytest.raises(ConfigurationError, match="folds"):
        run(tmp_path, told_rows(80), folds=2)


def test_the_command_evaluates_cascades(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "_default_learner", lambda embedder: Linear)
    file = str(write_parquet(tmp_path / "mine.parquet", told_rows(120)))
    out = tmp_path / "d.parquet"
    said = run_json(
        capsys, "evaluate", file, "--ladder", ladder_text(), "--cascade", "2", "--draws", "0",
        "--sweep", "11", "--compare", "none", "--folds", "3", "--decisions", str(out),
    )  # fmt: skip
    assert set(said["comparisons"]) == {"pre_call", "disagreement"}
    assert said["decisions"]["rows"] > 120 * 11
    assert json.dumps(said)
