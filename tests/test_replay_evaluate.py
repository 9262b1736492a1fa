"""Evaluation: decisions read no score and no unseen answer; figures are what they say."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from router.errors import ConfigurationError, OutcomeFileError
from router.predict import load_predictor
from router.replay.evaluation.comparisons import NAMES
from router.replay.evaluation.decisions import write_decisions
from router.replay.evaluation.evaluate import Evaluation, evaluate
from router.replay.evaluation.folds import deal_folds
from router.replay.evaluation.plot import SUFFIXES, draw
from router.replay.recorded.outcomes import Outcomes
from tests.replay_kit import MODELS, Linear, make_rows, outcomes_of, prediction

QUICK = tuple(name for name in NAMES if name != "litellm_heuristic")
TWO = ("mini", "frontier")


def run(outcomes: Outcomes, **more: Any) -> Evaluation:
    options: dict[str, Any] = {"learner": Linear, "draws": 60, "splits": 20, "sweep": 41}
    return evaluate(outcomes, **{**options, "compare": QUICK, **more})


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    return make_rows(400)


@pytest.fixture(scope="module")
def whole(rows: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    return run(outcomes_of(tmp_path_factory.mktemp("whole"), rows))


def test_a_router_that_sees_difficulty_beats_the_random_mix(whole: Evaluation) -> None:
    report = whole.report
    low, _ = report["intervals"]["aiq_above_random_mix"]
    assert low > 0
    mix = report["comparisons"]["random_mix"]
    assert report["cost_pct_at_quality"]["0.95"] < mix["cost_pct_at_quality"]["0.95"]
    assert report["comparisons"]["oracle"]["oracle_gap_closed"] == pytest.approx(1)
    assert mix["oracle_gap_closed"] == pytest.approx(0)
    assert 0 < report["oracle_gap_closed"] < 1


def test_shuffled_labels_gain_nothing(tmp_path: Path) -> None:
    """One price a call, so that nothing but labels can tell queries apart. A single shuffle may
    be lucky, since these queries are of two kinds only; on average none is."""
    rows = make_rows(300, TWO, seed=3)
    for row in rows:
        row["output_tokens"], row["input_tokens"] = None, None
        row["cost_usd"] = {"small-2": 1e-3, "large-4": 1e-1}[row["model"]]
    outcomes = outcomes_of(tmp_path, rows)
    found = [
        run(outcomes, seed=seed, draws=0, splits=1, compare=("shuffled_labels",)).report
        for seed in range(16)
    ]
    blind = np.array([report["comparisons"]["shuffled_labels"]["apgr"] for report in found])
    seeing = np.array([report["apgr"] for report in found])
    assert abs(blind.mean() - 0.5) < 3 * blind.std() / np.sqrt(len(blind))
    assert seeing.min() > 0.6
    assert seeing.min() > blind.mean() + blind.std() / np.sqrt(len(blind)) * 3


def test_a_single_model_costs_what_it_costs(whole: Evaluation) -> None:
    outcomes = whole.outcomes
    mean_cost, mean_score = outcomes.cost_usd.mean(axis=0), outcomes.score.mean(axis=0)
    comparisons = whole.report["comparisons"]
    for column, tier in enumerate(MODELS):
        one = comparisons[f"single:{tier}"]
        assert one["peak_quality_ratio"] == pytest.approx(mean_score[column] / mean_score[3])
        assert one["curve"]["cost_pct"] == pytest.approx([100 * mean_cost[column] / mean_cost[3]])
    frontier = comparisons["single:frontier"]["cost_pct_at_quality"]
    assert list(frontier.values()) == pytest.approx([100] * 5)
    ends = comparisons["single:frontier"]["intervals"]["cost_pct_at_quality"]["1.00"]
    assert ends == pytest.approx([100, 100])


def test_the_curve_is_the_mean_of_recorded_cost_and_score(whole: Evaluation) -> None:
    index = np.arange(len(whole.outcomes))
    point = whole.report["curve"][20]
    chosen = whole.chosen[20]
    assert point["quality"] == pytest.approx(whole.outcomes.score[index, chosen].mean())
    always = whole.outcomes.cost_usd[:, 3].mean()
    cost = whole.outcomes.cost_usd[index, chosen].mean()
    assert point["cost_pct"] == pytest.approx(100 * cost / always)
    assert sum(point["share"].values()) == pytest.approx(1)
    assert whole.report["curve"][-1]["share"]["nano"] == 1


def test_no_decision_reads_what_was_recorded_of_its_query(whole: Evaluation) -> None:
    """Everything recorded of one fold's queries is taken away: their decisions stay."""
    outcomes, fold = whole.outcomes, whole.fold
    mine = fold == 2
    blind = replace(
        outcomes,
        **{
            name: np.where(mine[:, None], np.nan, getattr(outcomes, name))
            for name in ("score", "cost_usd", "input_tokens", "output_tokens")
        },
    )
    again = run(blind, compare=())
    assert (again.fold == fold).all()
    assert (again.chosen[:, mine] == whole.chosen[:, mine]).all()
    assert (again.expected.usd[mine] == whole.expected.usd[mine]).all()


def test_a_query_is_never_decided_by_a_model_that_saw_its_question(tmp_path: Path) -> None:
    rows = make_rows(120, TWO)
    for row in rows[60:]:
        at = int(row["query_id"][1:])
        row["prompt"] = rows[2 * (at % 30)]["prompt"].upper()
    seen: list[set[str]] = []

    def learner(examples: Any, seed: int = 0) -> Linear:
        seen.append(set(examples.group.tolist()))
        return Linear(examples, seed)

    found = run(outcomes_of(tmp_path, rows), learner=learner, compare=())
    assert len(set(found.outcomes.group.tolist())) < 120
    for fold, groups in enumerate(seen):
        assert not groups & set(found.outcomes.group[found.fold == fold].tolist())
    assert len(seen) == 5


def test_folds_are_equal_in_size_and_depend_on_seed_and_group_alone() -> None:
    group = np.array([f"g{i // 2}" for i in range(200)])
    fold = deal_folds(group, 5, seed=0)
    assert np.bincount(fold).tolist() == [40] * 5
    assert (fold[::2] == fold[1::2]).all()
    order = np.random.default_rng(0).permutation(200)
    assert (deal_folds(group[order], 5, seed=0) == fold[order]).all()
    assert (deal_folds(group, 5, seed=1) != fold).any()


def test_the_same_seed_gives_the_same_report(whole: Evaluation, rows: Any, tmp_path: Path) -> None:
    again = run(outcomes_of(tmp_path, rows))
    mine = {**again.report, "outcomes": ""}
    assert json.dumps(mine) == json.dumps({**whole.report, "outcomes": ""})


def test_decisions_with_a_model_are_the_same_bytes_without_scores(
    rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    model = load_predictor()
    written = []
    for name, hidden in (("with", ()), ("without", ("score", "response", "task"))):
        (tmp_path / name).mkdir()
        kept = [{k: v for k, v in row.items() if k not in hidden} for row in rows]
        found = run(outcomes_of(tmp_path / name, kept), model=model)
        write_decisions(found, tmp_path / f"{name}.parquet")
        written.append((tmp_path / f"{name}.parquet").read_bytes())
        assert (found.report["cost_pct_at_quality"]["0.90"] is None) == bool(hidden)
        assert found.report["curve"][0]["expected_usd"] > 0
        assert any("memory, not skill" in note for note in found.report["notes"]) != bool(hidden)
    assert written[0] == written[1]


def test_without_scores_a_report_has_decisions_and_says_so(tmp_path: Path) -> None:
    report = run(outcomes_of(tmp_path, make_rows(50, score=False)), model=load_predictor()).report
    assert report["judged"] == 0
    assert report["peak_quality_ratio"] is None
    assert report["curve"][0]["quality"] is None
    assert any("no scores" in note for note in report["notes"])


def test_a_model_that_never_learnt_a_tier_is_refused(tmp_path: Path) -> None:
    class Partial:
        name, embedder = "partial", None

        def batch(self, features: Any) -> Any:
            return prediction(np.full((len(features), 4), np.nan), np.ones((len(features), 4)))

    with pytest.raises(ConfigurationError, match="partial never learnt tier nano"):
        run(outcomes_of(tmp_path, make_rows(30)), model=Partial())


def test_each_decision_is_one_accepted_row(whole: Evaluation, tmp_path: Path) -> None:
    count = write_decisions(whole, tmp_path / "d.parquet")
    table = pq.read_table(tmp_path / "d.parquet")
    assert table.column_names == [
        "query_id",
        "fold",
        "sweep_point",
        "step",
        "arm",
        "model",
        "accepted",
        "predicted_quality",
        "predicted_cost",
    ]
    found = table.to_pylist()
    assert count == len(found) == 400 * 41
    assert all(row["accepted"] for row in found)
    assert len({(row["query_id"], row["sweep_point"]) for row in found}) == count
    at = 7 * 400 + 5
    row = found[at]
    tier = whole.chosen[7, 5]
    assert (row["query_id"], row["sweep_point"], row["step"]) == ("q5", 7, 0)
    assert row["model"] == MODELS[row["arm"]]
    assert list(MODELS).index(row["arm"]) == tier
    assert row["fold"] == whole.fold[5]
    assert row["predicted_quality"] == whole.prediction.quality[5, tier]
    assert row["predicted_cost"] == whole.expected.usd[5, tier]


@pytest.mark.parametrize("tiers", [TWO, ("nano", "mid", "frontier"), tuple(MODELS)])
def test_ladders_of_two_to_four_tiers(tiers: tuple[str, ...], tmp_path: Path) -> None:
    report = run(outcomes_of(tmp_path, make_rows(120, tiers))).report
    assert list(report["ladder"]) == list(tiers)
    assert list(report["calibration"]) == list(tiers)
    assert (report["apgr"] is None) == (len(tiers) > 2)
    assert (report["cpt50"] is None) == (report["cpt80"] is None) == (len(tiers) > 2)
    mix = report["comparisons"]["random_mix"]
    assert mix["apgr"] == (pytest.approx(0.5) if len(tiers) == 2 else None)
    assert [n for n in report["comparisons"] if n.startswith("single:")] == [
        f"single:{tier}" for tier in tiers
    ]
    json.dumps(report, allow_nan=False)


@pytest.mark.parametrize("tiers", [TWO, tuple(MODELS)])
def test_without_cost_and_tokens_what_needs_dollars_is_unknown(
    tiers: tuple[str, ...], tmp_path: Path
) -> None:
    hidden = dict.fromkeys(("cost_usd", "input_tokens", "output_tokens", "task"), False)
    found = run(outcomes_of(tmp_path, make_rows(150, tiers, **hidden)))
    report = found.report
    assert set(report["cost_pct_at_quality"].values()) == {None}
    assert (report["aiq"], report["honest"]["levels"]["0.90"]["cost_pct"]) == (None, None)
    assert report["peak_quality_ratio"] > 0.9
    assert (report["apgr"] is not None) == (len(tiers) == 2)
    assert "task_table" not in report["comparisons"]
    assert report["predicted_cost_unit"] == "relative"
    assert any("cost of most queries is unknown" in note for note in report["notes"])
    assert found.expected.relative
    json.dumps(report, allow_nan=False)


def test_without_tokens_costs_are_still_told(tmp_path: Path) -> None:
    hidden = dict.fromkeys(("input_tokens", "output_tokens"), False)
    report = run(outcomes_of(tmp_path, make_rows(200, **hidden))).report
    assert set(report["expected_cost"].values()) == {"learnt from text"}
    assert report["cost_pct_at_quality"]["0.90"] is not None


def test_a_query_without_a_score_is_decided_and_not_judged(tmp_path: Path) -> None:
    rows = make_rows(100, TWO)
    rows[0]["score"] = None
    found = run(outcomes_of(tmp_path, rows), compare=())
    assert (found.report["queries"], found.report["judged"]) == (100, 99)
    assert (found.chosen[:, 0] >= 0).all()


def test_too_few_queries_are_refused_with_a_way_out(tmp_path: Path) -> None:
    with pytest.raises(OutcomeFileError, match=r"15 queries .* too few for 5 folds.*--model"):
        run(outcomes_of(tmp_path, make_rows(15, TWO)))
    with pytest.raises(OutcomeFileError, match=r"10 of them would have no question.*fewer folds"):
        run(outcomes_of(tmp_path, make_rows(40, TWO)), folds=50)
    with pytest.raises(OutcomeFileError, match="no query with a score of every tier"):
        run(outcomes_of(tmp_path, make_rows(60, TWO, score=False)))


def test_few_queries_are_told_with_wide_intervals(whole: Evaluation, tmp_path: Path) -> None:
    def width(report: dict[str, Any]) -> float:
        low, high = report["intervals"]["aiq"]
        return float(high - low)

    report = run(outcomes_of(tmp_path, make_rows(30)), draws=200).report
    assert width(report) > 2 * width(whole.report)


def test_comparisons_can_be_left_out(whole: Evaluation) -> None:
    found = run(whole.outcomes, compare=("random_mix",), draws=0)
    assert list(found.report["comparisons"]) == ["random_mix"]
    assert found.report["oracle_gap_closed"] is None
    assert (found.chosen == whole.chosen).all()


def test_a_picture_is_drawn_in_every_format(whole: Evaluation, tmp_path: Path) -> None:
    starts = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF", ".html": b"<!doctype html>"}
    for suffix in SUFFIXES:
        draw(whole.report, tmp_path / f"p{suffix}")
        assert (tmp_path / f"p{suffix}").read_bytes().startswith(starts[suffix])


def test_what_cannot_be_drawn_says_why(whole: Evaluation, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"ends in one of \.png"):
        draw(whole.report, tmp_path / "p.bmp")
    with pytest.raises(ConfigurationError, match="cannot be written"):
        draw(whole.report, tmp_path / "nowhere" / "p.png")
    with pytest.raises(ConfigurationError, match="scores or costs are unknown"):
        draw({**whole.report, "judged": 0}, tmp_path / "p.png")
