"""`router train`: a better model is promoted, a worse one is not, and what is said is true."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from router import Router
from router.cli import main
from router.errors import ConfigurationError, TrainingError
from router.predict import load_predictor
from router.replay.evaluation.curves import resamples, two_tiers
from router.replay.evaluation.gain_area import compare, gain_area
from router.replay.training.train import train
from router.types import TIERS
from tests.conftest import ladder
from tests.train_kit import (
    MODELS,
    examples_of,
    rows,
    run,
    write,
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], str]:
    """One training of 500 questions by the command, its figures, and what it said."""
    folder = tmp_path_factory.mktemp("train")
    file = write(folder / "outcomes.jsonl", rows(500))
    done = subprocess.run(
        [sys.executable, "-c", "import sys; from router.cli import main; main(sys.argv[1:])",
         "train", file, "--ladder", MODELS, "--out", str(folder / "model"), "--json"],
        capture_output=True, text=True, cwd=Path(__file__).parents[1],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout), done.stderr


def test_a_model_that_orders_gains_better_is_promoted_and_says_by_how_much(trained: Any) -> None:
    _, said, error = trained
    found = said["comparison"]
    assert said["promoted"] is True
    assert found["interval"][0] > 0.1
    assert found["new"] > 0.7
    assert found["difference"] == pytest.approx(found["new"] - found["shipped"])
    assert said["sentence"].startswith(f"On your {said['judged']} held-out requests the new model")
    assert f"area {found['new']:.2f} against {found['shipped']:.2f}" in said["sentence"]
    assert error == ""  # --json draws no bar


def test_a_router_loads_the_model_and_sends_the_hard_subjects_higher(trained: Any) -> None:
    folder, said, _ = trained
    policy = ladder("http://127.0.0.1:9")
    policy |= {"predictor": {"path": str(folder / "model"), "sha256": said["sha256"]}}
    policy["log"] = {"store": f"sqlite:///{folder / 'own.db'}"}
    (folder / "own.yaml").write_text(yaml.safe_dump(policy))
    with Router(str(folder / "own.yaml")) as router:
        tier = {
            name: router.explain(
                [{"role": "user", "content": f"Explain the {name} of batch 7 in a few words."}]
            ).arm.tier
            for name in ("wexel", "zorbit")
        }
    assert tier["wexel"] == "nano"
    assert tier["zorbit"] in ("mid", "frontier")


def test_held_out_rows_travel_as_calibration_queries_and_took_no_part_in_the_fit(
    trained: Any,
) -> None:
    folder, said, _ = trained
    predictor = load_predictor(folder / "model")
    score = predictor.model.arrays["calibration_score"]
    assert len(score) == said["calibration_queries"] == said["judged"]
    assert said["fitted"] + said["judged"] == said["rows"] == 500
    assert predictor.facts["examples"] == said["fitted"]
    assert 0.12 < len(score) / 500 < 0.28
    assert set(np.unique(score)) == {0.0, 1.0}
    assert (predictor.model.arrays["calibration_input_tokens"] > 0).all()


def test_each_question_is_one_calibration_query_however_often_it_was_asked() -> None:
    examples = examples_of(450)
    asked = examples.take(np.repeat(np.arange(450), 4))
    once, found = (
        train(each, shipped=load_predictor(), draws=20, curve=False) for each in (examples, asked)
    )
    assert found.judged == 4 * once.judged
    assert found.calibration_queries == once.calibration_queries == once.judged
    carried, wanted = (np.sort(t.model.arrays["calibration_score"], axis=0) for t in (found, once))
    assert np.array_equal(carried, wanted)


def test_figures_come_from_questions_enough_not_from_rows_enough() -> None:
    examples = examples_of(600)
    few = replace(examples, group=np.array([f"conversation {n // 20}" for n in range(600)]))
    found = train(few, shipped=load_predictor(), draws=20, curve=False)
    assert (found.how, found.judged) == ("3-fold cross-validation", 600)
    fewer = replace(examples, group=np.array([f"conversation {n // 70}" for n in range(600)]))
    with pytest.raises(TrainingError, match=r"at least 10 different .* found 9"):
        train(fewer, shipped=load_predictor(), draws=20, curve=False)


def test_every_figure_stands_in_the_json(trained: Any) -> None:
    _, said, _ = trained
    for part in (said["held_out"], said["shipped"]):
        assert list(part["tiers"]) == list(TIERS)
        for one in part["tiers"].values():
            for name in ("auc", "brier", "ece"):
                low, high = one[name]["interval"]
                assert 0 <= low <= high <= 1
            covered = [one["token_coverage"][name]["value"] for name in ("p50", "p90", "p95")]
            assert covered == sorted(covered)
    fitted = said["held_out"]["tiers"]["nano"]["token_coverage"]
    assert abs(fitted["p50"]["value"] - 0.5) < 0.2
    assert fitted["p95"]["value"] > 0.85
    assert said["held_out"]["apgr"]["value"] > said["shipped"]["apgr"]["value"]
    sizes = [point["rows"] for point in said["learning_curve"]]
    assert sizes == sorted(sizes)
    assert sizes[-1] == said["fitted"]
    assert said["learning_curve"][-1]["area"] == pytest.approx(said["comparison"]["new"])


def test_the_report_is_two_pictures_and_a_page_that_stands_alone(trained: Any) -> None:
    folder, said, _ = trained
    assert [Path(file).parent for file in said["report"]] == [folder / "model.report"] * 3
    reliability, curve, page = (Path(file) for file in said["report"])
    for picture in (reliability, curve):
        assert picture.read_bytes().startswith(b"\x89PNG")
    html = page.read_text()
    assert html.count("data:image/png;base64,") == 2
    assert "http" not in html
    assert said["sentence"] in html


def test_the_same_data_and_seed_give_the_same_model(trained: Any, tmp_path: Path) -> None:
    folder, said, _ = trained
    again = tmp_path / "again"
    with pytest.raises(SystemExit):
        main(["train", str(folder / "outcomes.jsonl"), "--ladder", MODELS, "--out", str(again)])
    assert load_predictor(again).hash == said["sha256"]


def test_labels_without_a_pattern_are_not_promoted_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path / "o.jsonl", rows(150, shuffled=True))
    out = tmp_path / "model"
    code, said, _ = run(capsys, file, "--ladder", MODELS, "--out", str(out))
    assert code == 1
    assert "no model was written" in said
    assert not out.exists()
    assert "not shown to order" in said or "worse" in said
    assert "3-fold cross-validation" in said  # few rows: none is spared
    forced, said, _ = run(capsys, file, "--ladder", MODELS, "--out", str(out), "--force")
    assert forced == 0
    assert "by --force" in said
    assert "calibration_score" not in load_predictor(out).model.arrays


def test_cross_validation_judges_every_row_and_two_tiers_are_a_ladder() -> None:
    examples = examples_of(420, tiers=("mini", "frontier"))
    found = train(
        examples, shipped=load_predictor(), folds=2, calibration_share=0.3, curve=False, draws=50
    )
    assert (found.judged, found.tiers) == (420, ("mini", "frontier"))
    carried = found.model.arrays["calibration_score"]
    assert 0 < len(carried) < 420
    assert (carried[:, [0, 2]] == -1).all()
    assert (found.model.arrays["calibration_quality"][:, [0, 2]] == -1).all()
    assert found.promoted


def test_the_gain_area_is_1_for_an_oracle_half_for_no_order_and_0_reversed() -> None:
    rng = np.random.default_rng(0)
    score = rng.random((300, 4)).round(1)
    once = np.ones((1, 300))
    assert gain_area(score, score, [0, 1, 2, 3], once)[0] == pytest.approx(1)
    assert gain_area(np.zeros((300, 4)), score, [0, 3], once)[0] == pytest.approx(0.5)
    assert gain_area(-score, score, [0, 1, 3], once)[0] == pytest.approx(0)


def test_the_gain_area_is_apgr_but_for_its_scale() -> None:
    rng = np.random.default_rng(1)
    score = (rng.random((500, 4)) < [0.3, 0.5, 0.5, 0.7]).astype(float)
    quality = score * 0.3 + rng.random((500, 4))
    once = np.ones((1, 500))

    def apgr(by: Any) -> float:
        found = two_tiers(by[:, 3] - by[:, 0], score[:, 0], score[:, 3])[0]
        assert found is not None
        return found.apgr

    wanted = 0.5 + 0.5 * (apgr(quality) - 0.5) / (apgr(score) - 0.5)
    assert gain_area(quality, score, [0, 3], once)[0] == pytest.approx(wanted, abs=2e-3)


def test_a_resample_counts_rows_as_often_as_it_has_them() -> None:
    rng = np.random.default_rng(2)
    score, quality = rng.random((40, 4)), rng.random((40, 4))
    count = rng.integers(0, 4, 40)
    at = np.repeat(np.arange(40), count)
    drawn = gain_area(quality, score, [0, 2, 3], count[None].astype(float))
    whole = gain_area(quality[at], score[at], [0, 2, 3], np.ones((1, len(at))))
    assert drawn[0] == pytest.approx(whole[0])


def test_where_no_tier_gains_nothing_can_be_told_and_nothing_is_better() -> None:
    level = np.full((50, 4), 0.5)
    found = compare(np.eye(50, 4), np.zeros((50, 4)), level, [0, 3], np.ones((20, 50)))
    assert np.isnan(found.interval).all()
    assert not found.better


def test_a_single_request_that_gains_makes_no_model_better_for_certain() -> None:
    score = np.ones((100, 4))
    score[7, 0] = 0.0
    drawn = resamples(np.arange(100).astype(str), 400, 0)
    found = compare(1 - score, score, score, [0, 3], drawn)
    assert found.difference == pytest.approx(-1)
    assert found.interval == (pytest.approx(-1), 0)
    assert not compare(score, 1 - score, score, [0, 3], drawn).better


def test_where_nothing_can_be_told_the_report_has_no_learning_curve_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path / "alike.jsonl", [{**row, "score": 1.0} for row in rows(450)])
    out = str(tmp_path / "model")
    code, said, _ = run(capsys, file, "--ladder", MODELS, "--out", out, "--json")
    found = json.loads(said)
    assert (code, found["written"]) == (1, None)
    assert "no tier gains more than another" in found["sentence"]
    assert len(found["learning_curve"]) > 1
    assert [Path(each).name for each in found["report"]] == ["reliability.png", "report.html"]


# ── a few answers of a new model ───────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["{file}"], 2, "--ladder"),
        ([], 2, "either OUTCOMES or --from-log"),
        (["{file}", "--from-log", "x.db"], 2, "either OUTCOMES or --from-log"),
        (["--from-log", "x.db", "--base", "shipped"], 2, "go with OUTCOMES"),
        (["--from-log", "{folder}/x.db"], 1, "does not exist"),
        (["{file}", "--ladder", "nano=m-nano"], 2, "frontier=MODEL is missing"),
        (["{file}", "--ladder", "nano=zzz,frontier=m-frontier"], 1, "no rows of model 'zzz'"),
        (["{folder}/absent.jsonl", "--ladder", MODELS], 1, "no such file"),
        (["{file}", "--ladder", MODELS, "--calibration-share", "0.6"], 2, "0.6"),
        (["{file}", "--ladder", MODELS], 1, "at least 60 scored examples"),
        (["{file}", "--ladder", MODELS, "--base", "shipped"], 2, "the one new model"),
        (["{file}", "--ladder", "mini=m-mini", "--base", "{folder}"], 1, "model.json"),
        (["{file}", "--ladder", MODELS, "--out", "{file}"], 1, "is no model's folder"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    arguments: list[str], code: int, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path / "o.jsonl", rows(30))
    given = [a.format(file=file, folder=tmp_path) for a in arguments]
    if "--out" not in given:
        given += ["--out", str(tmp_path / "m")]
    found, _, error = run(capsys, *given)
    assert (found, says in error) == (code, True), error
    assert "Traceback" not in error


def test_a_folder_of_other_files_is_not_written_into(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "notes.txt").write_text("mine")
    file = write(tmp_path / "o.jsonl", rows(30))
    code, _, error = run(capsys, file, "--ladder", MODELS, "--out", str(tmp_path / "home"))
    assert (code, "is no model's folder" in error) == (1, True)
    assert [path.name for path in (tmp_path / "home").iterdir()] == ["notes.txt"]


def test_without_scikit_learn_one_line_says_what_to_install(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    file = write(tmp_path / "o.jsonl", rows(30))
    code, _, error = run(capsys, file, "--ladder", MODELS, "--out", str(tmp_path / "m"))
    assert (code, len(error.strip().splitlines())) == (1, 1)
    assert "pip install 'tiered-router[train]'" in error


def test_numbers_out_of_range_are_refused() -> None:
    examples = examples_of(80)
    with pytest.raises(ConfigurationError, match="calibration share"):
        train(examples, shipped=load_predictor(), calibration_share=0.9)
    with pytest.raises(ConfigurationError, match="folds"):
        train(examples, shipped=load_predictor(), folds=1)
    one = replace(examples, group=np.full(80, "same"))
    with pytest.raises(TrainingError, match="at least 10 different questions"):
        train(one, shipped=load_predictor())


def test_a_few_answers_move_the_tier_and_say_how_sure_they_are(
    trained: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _, _ = trained
    better = [row | {"model": "m-new", "score": 1.0} for row in rows(40, ("mini",), seed=5)]
    file, out = write(tmp_path / "anchors.jsonl", better), tmp_path / "model2"
    arguments = [file, "--base", str(folder / "model"), "--ladder", "mini=m-new"]
    code, said, _ = run(capsys, *arguments, "--out", str(out), "--json")
    found = json.loads(said)
    assert code == 0
    assert found["offset"] > 3 * found["standard_error"] > 0
    assert found["after"] > found["before"] + 0.1
    assert found["after_std"] > 0
    assert found["log_loss_new"] < found["log_loss_base"]
    assert found["improvement_interval"][0] > 0
    base, moved = load_predictor(folder / "model"), load_predictor(out)
    assert moved.hash == found["sha256"]
    assert moved.model.arrays["ability"][1].tolist() == pytest.approx(
        [found["offset"], found["standard_error"]]
    )
    batch = examples_of(60).features
    before, after = base.batch(batch), moved.batch(batch)
    assert (after.quality[:, 1] > before.quality[:, 1]).all()
    assert np.allclose(after.quality[:, [0, 2, 3]], before.quality[:, [0, 2, 3]], atol=1e-12)
    # They were recorded for the model that stood there before.
    assert "calibration_score" not in moved.model.arrays
    code, said, _ = run(capsys, *arguments, "--out", str(out))
    assert "± " in said
    assert "in log odds" in said
