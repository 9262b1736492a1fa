"""`router evaluate`: its table, its JSON, its files, and what it says when something is wrong."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import router.replay.evaluation.evaluate as evaluation
from tests.replay_kit import MODELS, Linear, ladder_text, make_rows, write_jsonl, write_parquet
from tests.test_cli import run, run_json

FAST = ("--draws", "30", "--sweep", "11", "--compare", "singles,random_mix,length,oracle,knn")
TWO = ("nano", "frontier")


@pytest.fixture(autouse=True)
def small_learner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "_default_learner", lambda embedder: Linear)


@pytest.fixture
def outcomes(tmp_path: Path) -> str:
    return str(write_parquet(tmp_path / "mine.parquet", make_rows(120)))


def test_json_has_the_figures_at_the_top_and_for_each_comparison(
    capsys: pytest.CaptureFixture[str], outcomes: str
) -> None:
    said = run_json(capsys, "evaluate", outcomes, "--ladder", ladder_text(), *FAST)
    figures = {"cost_pct_at_quality", "peak_quality_ratio", "apgr", "cpt50", "cpt80", "aiq"}
    for one in (said, *said["comparisons"].values()):
        assert figures <= set(one)
        assert list(one["cost_pct_at_quality"]) == ["0.90", "0.95", "0.98", "0.99", "1.00"]
        assert set(one["intervals"]["cost_pct_at_quality"]) == set(one["cost_pct_at_quality"])
    assert set(said["comparisons"]) == {
        *(f"single:{tier}" for tier in MODELS),
        "random_mix",
        "length",
        "oracle",
        "knn",
    }
    assert (said["seed"], said["folds"], said["rows"], said["queries"]) == (0, 5, 480, 120)
    assert set(said["honest"]["levels"]["0.98"]) >= {"cost_pct", "share_below", "quality_ratio"}
    assert set(said["calibration"]["mid"]) >= {"ece", "brier", "auc"}
    assert said["dropped"]["rows_contaminated"] == 0


def test_the_table_names_every_method_and_no_progress_reaches_a_pipe(
    capsys: pytest.CaptureFixture[str], outcomes: str
) -> None:
    code, out, err = run(capsys, "evaluate", outcomes, "--ladder", ladder_text(), *FAST)
    assert (code, err) == (0, "")
    for words in ("router", "always nano", "random mix", "length", "oracle", "5th-95th", "ECE"):
        assert words in out
    assert "\x1b" not in out


def test_two_tiers_show_their_own_figures(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = str(write_jsonl(tmp_path / "two.jsonl", make_rows(100, TWO)))
    _, out, _ = run(capsys, "evaluate", path, "--ladder", ladder_text(TWO), *FAST)
    assert "APGR" in out
    said = run_json(capsys, "evaluate", path, "--ladder", ladder_text(TWO), *FAST)
    assert said["apgr"] > 0.5
    assert 0 <= said["cpt50"] <= said["cpt80"] <= 100


def test_decisions_and_plot_are_written_where_they_were_asked_for(
    capsys: pytest.CaptureFixture[str], outcomes: str, tmp_path: Path
) -> None:
    files = ("--decisions", str(tmp_path / "d.parquet"), "--plot", str(tmp_path / "p.png"))
    said = run_json(capsys, "evaluate", outcomes, "--ladder", ladder_text(), *FAST, *files)
    assert said["decisions"]["rows"] == pq.read_table(tmp_path / "d.parquet").num_rows == 120 * 11
    assert (tmp_path / "p.png").stat().st_size > 10_000


def test_a_file_s_name_is_neither_markup_nor_mathematics(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    name = "of [b] $_{x$.parquet"
    path, plot = str(write_parquet(tmp_path / name, make_rows(60))), tmp_path / "p[b].html"
    arguments = ("evaluate", path, "--ladder", ladder_text(), *FAST, "--plot", str(plot))
    code, out, err = run(capsys, *arguments)
    assert (code, err) == (0, "")
    assert name in out
    assert f"plot: {plot}" in out


def test_a_model_needs_no_scores_and_decides_the_same(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    found = []
    for name, row in (("a", make_rows(60)), ("b", make_rows(60, score=False, response=False))):
        path, to = str(write_parquet(tmp_path / f"{name}.parquet", row)), tmp_path / f"{name}.d"
        arguments = ("--ladder", ladder_text(), "--model", "shipped", "--decisions", str(to))
        said = run_json(capsys, "evaluate", path, *arguments, *FAST)
        assert said["folds"] is None
        assert said["model"]
        found.append((to.read_bytes(), said["peak_quality_ratio"]))
    assert found[0][0] == found[1][0]
    assert found[0][1] is not None
    assert found[1][1] is None
    code, out, _ = run(capsys, "evaluate", path, *arguments, *FAST)
    assert code == 0
    assert "Decisions along the sweep" in out


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (("--ladder", "nano=a"), "frontier=MODEL is missing"),
        (("--ladder", ladder_text(), "--folds", "1"), "--folds"),
        (("--ladder", ladder_text(), "--sweep", "1"), "--sweep"),
        (("--ladder", ladder_text(), "--plot", "p.bmp"), "must end in one of"),
        (("--ladder", ladder_text(), "--decisions", "nowhere/d.parquet"), "folder nowhere"),
        (("--ladder", ladder_text(), "--compare", "magic"), "no comparison 'magic'"),
        (("--ladder", ladder_text(), "--plot", "a.html", "--decisions", "./a.html"), "a.html is"),
        (("--ladder", ladder_text(), "--cascade", "2", "--vote", "mini=3"), "--vote does not go"),
        (("--ladder", ladder_text(), "--model", "shipped", "--vote", "mini=3"), "--vote does not"),
        (("--ladder", ladder_text(), "--model", "shipped", "--cascade", "2"), "a trained --gate"),
        ((), "--ladder"),
    ],
)
def test_wrong_usage_is_exit_code_2(
    capsys: pytest.CaptureFixture[str], outcomes: str, changes: tuple[str, ...], said: str
) -> None:
    code, out, err = run(capsys, "evaluate", outcomes, *changes)
    assert (code, out) == (2, "")
    assert said in err


def test_decisions_never_take_the_place_of_the_outcomes(
    capsys: pytest.CaptureFixture[str], outcomes: str
) -> None:
    before = Path(outcomes).read_bytes()
    code, _, err = run(
        capsys, "evaluate", outcomes, "--ladder", ladder_text(), "--decisions", outcomes
    )
    assert code == 2
    assert "is OUTCOMES itself" in err
    assert Path(outcomes).read_bytes() == before


def test_an_unreadable_file_is_exit_code_1(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    missing = str(tmp_path / "no.parquet")
    code, _, err = run(capsys, "evaluate", missing, "--ladder", ladder_text())
    assert code == 1
    assert "no such file" in err
    code, out, _ = run(capsys, "evaluate", missing, "--ladder", ladder_text(), "--json")
    assert code == 1
    assert json.loads(out)["problem"] == "no such file"


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("matplotlib", ("--plot", "p.png")),
        ("pyarrow", ()),
        ("sklearn.decomposition", ("--compare", "knn")),
    ],
)
def test_a_missing_extra_is_answered_with_the_line_that_installs_it(
    capsys: pytest.CaptureFixture[str],
    outcomes: str,
    monkeypatch: pytest.MonkeyPatch,
    module: str,
    arguments: tuple[str, ...],
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    code, _, err = run(capsys, "evaluate", outcomes, "--ladder", ladder_text(), *arguments)
    assert code == 1
    assert "pip install 'tiered-router[train]'" in err


def test_what_is_heavy_loads_only_when_it_is_needed() -> None:
    from tests.test_house import run_python

    loaded: Any = json.loads(
        run_python(
            """
            import json, sys
            import router.cli.evaluate
            import router.replay.evaluation.evaluate, router.replay.evaluation.plot
            import router.replay.recorded.outcomes, router.replay.evaluation.decisions
            heavy = ("sklearn", "matplotlib", "pyarrow", "litellm", "scipy")
            print(json.dumps([name for name in heavy if name in sys.modules]))
            """
        )
    )
    assert loaded == []
