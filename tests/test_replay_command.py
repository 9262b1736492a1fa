"""`router export` and `router replay`, from a live router's log to figures, files and refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from replay_speed import make_log, replayed

from router.cli import main
from router.errors import LogFileError
from router.predict.model_file import save_model
from router.predict.scorer import HEADS
from router.replay.off_policy.ask import ask
from router.replay.off_policy.export import MANIFEST
from router.replay.off_policy.replay import conclude
from router.replay.off_policy.run import run
from router.replay.off_policy.table import LeftOut, rows_of
from tests.conftest import HELLO, ladder, plain_model
from tests.ledger_kit import reserve
from tests.provider import Provider
from tests.replay_kit import MODELS, PRICES, ladder_text, make_rows, write_jsonl
from tests.report_kit import CENT, MONDAY, log_request, opened, views

EAGER = {"rate": 0.25, "max_spend": 1, "max_quality_loss": 1, "holdout": 0.15}
CALLS = 420


def test_what_comes_in_while_a_log_is_exported_takes_no_other_row_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Calls under leases, and imported ones, come in later than their time says."""
    monkeypatch.setattr("router.log.reader._PAGE", 5)
    seen: dict[str, Any] = {"decision": views("mini", quality_std=0.1)}
    ledger, early, left_out = opened(tmp_path), [f"r{at}" for at in range(60)], LeftOut()
    for at, name in enumerate(early):
        log_request(ledger, name, MONDAY + at, CENT, **seen)
    exported = set()
    for row in rows_of(ledger.log(), None, None, left_out):
        exported.add(row["request_id"])
        if row["request_id"] in early and row["time"] % 3 == 0:
            for ahead in range(0, 12, 2):
                late = f"{row['request_id']}, {ahead} s late"
                log_request(ledger, late, row["time"] + ahead + 0.5, CENT, **seen)
    ledger.close()
    assert exported >= set(early)
    assert left_out == LeftOut()


def test_a_call_under_way_is_left_out_as_open_and_not_as_refused(tmp_path: Path) -> None:
    ledger, left_out = opened(tmp_path), LeftOut()
    reserve(ledger, "under way", CENT)
    log_request(ledger, "refused", MONDAY, status="refused")
    assert list(rows_of(ledger.log(), None, None, left_out)) == []
    ledger.close()
    assert left_out == LeftOut(open=1, refused=1)


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The store of a router that explored, and two policies: its own, and another."""
    from router import Router
    from tests.conftest import steady_predictor

    folder, provider = tmp_path_factory.mktemp("logged"), Provider()
    files = {}
    for name, weight in (("own", 1e5), ("dear", 0)):
        policy = ladder(provider.url, name=name, objective={"cost_weight": weight})
        files[name] = folder / f"{name}.yaml"
        files[name].write_text(yaml.safe_dump(policy))
    exploring = ladder(provider.url, objective={"cost_weight": 1e5}, explore=EAGER)
    store = f"sqlite:///{folder / 'log.db'}"
    with Router(exploring, store=store, predictor=steady_predictor()) as router:
        for at in range(CALLS):
            response = router.completion(messages=HELLO, conversation_id=f"c{at // 2}")
            router.feedback(response, float(at % 3 > 0))
    provider.close()
    return store, files, folder


def called(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, Any]:
    with pytest.raises(SystemExit) as ended:
        main([*words, "--json"])
    return int(ended.value.code or 0), json.loads(capsys.readouterr().out)


def test_a_log_is_exported_and_replayed_with_the_same_figures(
    logged: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, files, _ = logged
    out = str(tmp_path / "exported")
    code, said = called(capsys, "export", store, "--out", out)
    assert (code, said["rows"]) == (0, CALLS)
    policies = ("--policy", str(files["own"]))
    code, live = called(capsys, "replay", store, *policies)
    assert code == 0
    work = ("--work", str(tmp_path / "work"))
    again = [called(capsys, "replay", out, *policies, *work)[1] for _ in range(2)]
    assert again[0] == again[1]  # the second from kept sums
    for name, mine in live["policies"][0]["figures"].items():
        for estimator, figure in mine.items():
            theirs = again[0]["policies"][0]["figures"][name][estimator]
            assert figure == pytest.approx(theirs, rel=1e-9)
    own = live["policies"][0]
    assert own["best"]["cost"]["low"] <= own["best"]["cost"]["value"]
    assert live["baseline"]["saved_usd"]["value"] > 0
    assert live["baseline"]["naive_saved_usd"] is not None


def test_a_replay_says_whether_a_budget_that_it_leaves_out_would_have_been_used_up(
    logged: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, files, _ = logged
    policy = yaml.safe_load(files["own"].read_text())
    policy["budgets"] = [
        {"name": name, "limit": limit, "window": "total", "on_exceed": "downgrade"}
        for name, limit in (("ample", "1000000"), ("scant", "0.000001"))
    ]
    mine = tmp_path / "mine.yaml"
    mine.write_text(yaml.safe_dump(policy))
    code, said = called(capsys, "replay", store, "--policy", str(mine))
    assert code == 0
    left_out, ample, scant = said["notes"]
    assert "replayed without its budgets" in left_out
    assert "'ample', which is left out, would have been used up in none of 1 period" in ample
    assert "'scant', which is left out, would have been used up in 1 of 1 period (1 to 1)" in scant


def test_what_the_log_cannot_support_is_exit_code_1_and_said(
    logged: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    store, files, _ = logged
    code, said = called(capsys, "replay", store, "--policy", str(files["dear"]))
    assert code == 1
    assert said["policies"][0]["refused"]
    assert said["policies"][0]["figures"] == {}
    words = ["replay", store, "--policy", str(files["dear"]), "--policy", str(files["own"])]
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 1
    shown = capsys.readouterr().out
    assert "dear is not estimated" in shown
    assert "Saved against always-frontier" in shown


def test_the_same_policy_twice_is_refused(logged: Any, capsys: pytest.CaptureFixture[str]) -> None:
    store, files, _ = logged
    own = str(files["own"])
    code, said = called(capsys, "replay", store, "--policy", own, "--policy", own)
    assert code == 1
    assert "asked about twice" in said["message"]


def test_a_log_on_an_object_store_is_replayed_as_one_on_disk(logged: Any) -> None:
    from router.ledger import open_log
    from router.replay.off_policy.export import export

    store, files, _ = logged
    log = open_log(store)
    exported = export(log, "memory://bucket/log")
    log.close()
    question = ask([str(files["own"])], 0.0).question
    assert exported.rows == run("memory://bucket/log", question).facts.rows == CALLS


@pytest.fixture
def exported(logged: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    out = tmp_path / "log"
    called(capsys, "export", logged[0], "--out", str(out))
    return out


def test_a_truncated_file_is_refused_by_name(exported: Path, logged: Any) -> None:
    question = ask([str(logged[1]["own"])], 0.0).question
    [part] = exported.glob("day=*/*.parquet")
    part.write_bytes(part.read_bytes()[:-200])
    with pytest.raises(LogFileError, match=r"part-00000\.parquet: not a readable Parquet file"):
        run(str(exported), question)


def test_a_missing_file_and_a_missing_row_are_refused(exported: Path, logged: Any) -> None:
    question = ask([str(logged[1]["own"])], 0.0).question
    manifest = json.loads((exported / MANIFEST).read_text())
    [(path, rows)] = manifest["files"].items()
    manifest["files"][path] = rows + 1
    (exported / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(LogFileError, match=f"has {rows} rows, and the manifest says {rows + 1}"):
        run(str(exported), question)
    (exported / path).unlink()
    with pytest.raises(LogFileError, match="is missing"):
        run(str(exported), question)
    (exported / MANIFEST).unlink()
    with pytest.raises(LogFileError, match=r"no _manifest\.json"):
        run(str(exported), question)


def test_a_file_twice_in_a_log_is_refused(
    exported: Path, logged: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = json.loads((exported / MANIFEST).read_text())
    [(path, rows)] = manifest["files"].items()
    (exported / "again.parquet").write_bytes((exported / path).read_bytes())
    manifest["files"]["again.parquet"] = rows
    (exported / MANIFEST).write_text(json.dumps(manifest))
    own = str(logged[1]["own"])
    code, said = called(capsys, "replay", str(exported), "--policy", own)
    assert code == 1
    assert f"{CALLS} rows stand in more than one file" in said["message"]


def test_an_export_never_overwrites_a_log(
    exported: Path, logged: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = called(capsys, "export", logged[0], "--out", str(exported))
    assert code == 1
    assert "there already" in said["message"]


def test_kept_sums_that_are_damaged_are_refused_by_name(
    exported: Path, logged: Any, tmp_path: Path
) -> None:
    question = ask([str(logged[1]["own"])], 0.0).question
    run(str(exported), question, work=tmp_path / "work")
    [kept] = (tmp_path / "work").iterdir()
    kept.write_bytes(b"not an archive")
    with pytest.raises(LogFileError, match="delete it"):
        run(str(exported), question, work=tmp_path / "work")


def test_ray_gives_the_same_figures_to_the_last_digit(exported: Path, logged: Any) -> None:
    import ray

    asked = ask([str(logged[1]["own"])], 0.0)
    here = conclude(run(str(exported), asked.question), asked.baseline)
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        there = conclude(run(str(exported), asked.question, engine="ray"), asked.baseline)
    finally:
        ray.shutdown()
    assert there.as_dict() == here.as_dict()


def test_a_store_is_no_log_for_ray(logged: Any, capsys: pytest.CaptureFixture[str]) -> None:
    own = str(logged[1]["own"])
    code, said = called(capsys, "replay", logged[0], "--policy", own, "--engine", "ray")
    assert code == 1
    assert "router export" in said["message"]


def of_outcomes(folder: Path, rows: list[dict[str, Any]], **changes: Any) -> tuple[str, ...]:
    """The words of a replay of recorded outcomes, under a policy that takes the best arm."""
    path = write_jsonl(folder / "outcomes.jsonl", rows)
    tiers = {
        tier: [{"model": f"x/{model}", "price": {"input": "1", "output": "1"}}]
        for tier, model in MODELS.items()
    }
    policy = {"version": 1, "name": "best", "objective": {"cost_weight": 0}, "tiers": tiers}
    (folder / "best.yaml").write_text(yaml.safe_dump(policy | changes))
    asked = ("--ladder", ladder_text(), "--policy", str(folder / "best.yaml"))
    return ("replay", str(path), *asked)


def test_recorded_outcomes_are_replayed_with_the_policy_s_own_predictor(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nano_is_best = np.array([-0.5 if head == "nano_regret" else 0.0 for head in HEADS])
    model = plain_model(intercept=nano_is_best)
    save_model(tmp_path / "own", model.name, model.arrays, model.facts)
    own = {"predictor": {"path": "own"}, "budgets": [{"name": "b", "limit": "1"}]}
    code, said = called(capsys, *of_outcomes(tmp_path, make_rows(60), **own))
    assert code == 0
    [always_nano] = [each for each in said["singles"] if each["name"] == "always nano"]
    assert said["policies"][0]["best"] == always_nano["best"]
    assert said["notes"] == ["best: replayed without its budgets"]


@pytest.mark.parametrize(
    ("changes", "words", "code", "says"),
    [
        ({"cascade": {"max_steps": 2}}, (), 1, "--cascade and --vote"),
        ({}, ("--since", "2026-01-01"), 2, "go with a log"),
        ({}, ("--engine", "ray"), 2, "go with a log"),
    ],
)
def test_what_recorded_outcomes_cannot_be_asked_is_refused(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, Any],
    words: tuple[str, ...],
    code: int,
    says: str,
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*of_outcomes(tmp_path, make_rows(60), **changes), *words])
    assert ended.value.code == code
    assert says in capsys.readouterr().err.replace("\n", " ")


def test_recorded_outcomes_are_read_off_exactly(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = make_rows(60)
    code, said = called(capsys, *of_outcomes(tmp_path, rows))
    assert code == 0
    for each, tier in zip(said["singles"], PRICES, strict=True):
        mine = [row for row in rows if row["model"] == MODELS[tier]]
        assert each["best"]["quality"]["value"] == pytest.approx(
            sum(row["score"] for row in mine) / len(mine)
        )
        assert each["best"]["cost"]["value"] == pytest.approx(
            sum(row["cost_usd"] for row in mine) / len(mine)
        )
    best = said["policies"][0]["best"]
    assert best["quality"]["low"] <= best["quality"]["value"] <= best["quality"]["high"]


def test_the_log_that_speed_is_measured_on_is_one_of_todays_format(tmp_path: Path) -> None:
    make_log(tmp_path / "log", 3000, seed=0)
    found = replayed(str(tmp_path / "log"), 1, "local", 1)
    assert found["rows"] == 3000
    assert all(each["cost"]["value"] > 0 for each in found["figures"])
