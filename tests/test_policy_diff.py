"""`router policy diff`: which settings differ, what they would do, what fails a pull request."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from router.decide import UNLIMITED, Objective, Options, choose
from router.errors import PolicyError
from router.ledger import open_log
from router.ledger.url import store_url
from router.policy import load_policy
from router.policy.diff import HIDDEN, changes
from router.policy.loader import parse_policy
from router.replay.off_policy.diff import Thresholds
from router.replay.off_policy.export import export
from router.replay.off_policy.paired import Paired
from router.replay.off_policy.run import read
from tests.conftest import ladder
from tests.test_cli import run
from tests.tune_kit import REQUESTS, policy, write
from tests.tune_kit import real_log as real_log  # a fixture

ROOT = Path(__file__).parents[1]
URL = "http://127.0.0.1:9"
TO_MID = {"objective": {"cost_weight": 60}}


def loaded(**more: Any) -> Any:
    return load_policy(ladder(URL, **more))


# ── settings ────────────────────────────────────────────────────────────────────────────────────
def test_a_changed_setting_is_named_with_both_values() -> None:
    found = changes(loaded(), loaded(objective={"keep_quality": 0.9}, retry={"attempts": 2}))
    assert {each.key: (each.old, each.new) for each in found} == {
        "objective.cost_weight": (20.0, None),
        "objective.keep_quality": (None, 0.9),
        "retry.attempts": (3, 2),
        "retry.initial_wait": (0.01, 0.5),
        "retry.max_wait": (0.5, 20.0),
    }


def test_a_default_that_is_written_out_a_name_and_a_description_are_no_change() -> None:
    assert changes(loaded(), loaded(reserve="sound", name="other", description="new")) == []


def test_a_tier_that_is_left_out_is_gone_and_not_new() -> None:
    fewer = ladder(URL)
    del fewer["tiers"]["mid"]
    found = changes(loaded(), load_policy(fewer))
    assert found
    assert all(each.key.startswith("tiers.mid.0.") and each.new is None for each in found)


def test_rules_are_told_apart_by_name_and_their_order_is_a_setting() -> None:
    one = {"name": "a", "when": {"tags": ["x"]}, "tier": "nano"}
    other = {"name": "b", "when": {"tags": ["y"]}, "tier": "mini"}
    old, new = loaded(rules=[one, other]), loaded(rules=[other, one])
    [order] = changes(old, new)
    assert (order.key, order.old, order.new) == ("rules (their order)", ["a", "b"], ["b", "a"])
    [moved] = changes(old, loaded(rules=[one, {**other, "tier": "mid"}]))
    assert moved.key == "rules.b.tier"


def test_the_order_of_rules_is_shown_unless_new_ones_come_last() -> None:
    one, other, third = (
        {"name": name, "when": {"tags": [name]}, "tier": "nano"} for name in ("a", "b", "c")
    )
    old = loaded(rules=[one, other])
    for rules in ([other, one, third], [third, one, other], [one, third, other]):
        *_, order = changes(old, loaded(rules=rules))
        names = [rule["name"] for rule in rules]
        assert (order.key, order.old, order.new) == ("rules (their order)", ["a", "b"], names)
    for rules in ([one, other, third], [one], [other, third]):
        found = changes(old, loaded(rules=rules))
        assert found
        assert all(each.key.startswith("rules.") for each in found)


def test_what_may_be_a_secret_is_not_repeated() -> None:
    secret = ladder("http://hunter2.example/v1")
    found = changes(loaded(), load_policy(secret))
    assert {each.key for each in found} == {
        f"tiers.{tier}.0.api_base" for tier in ("nano", "mini", "mid", "frontier")
    }
    assert {(each.old, each.new) for each in found} == {(HIDDEN, HIDDEN)}


# ── objective.margin ────────────────────────────────────────────────────────────────────────────
def test_a_margin_goes_with_a_cost_weight_alone_and_leaves_other_policies_their_hash() -> None:
    assert "margin" not in json.dumps(loaded().objective.model_dump(exclude_none=True))
    plain = parse_policy(yaml.safe_dump(ladder(URL)))
    assert plain.hash == loaded(objective={"cost_weight": 20}).hash
    assert plain.hash != loaded(objective={"cost_weight": 20, "margin": 0.1}).hash
    for objective in ({"keep_quality": 0.9, "margin": 0.1}, {"cost_weight": 1, "margin": 2}):
        with pytest.raises(PolicyError) as caught:
            loaded(objective=objective)
        assert caught.value.key == "objective.margin"


def test_a_margin_keeps_requests_at_the_baseline_unless_another_tier_is_better_by_more() -> None:
    options = Options(
        np.array([[0.85, 0.9]]), np.array([[0, 10**7]]), np.array([[0, 10**7]]),
        np.zeros((1, 2), np.uint8), np.array([0, 3]), 3,
    )  # fmt: skip
    room = np.array([UNLIMITED])
    without = choose(options, Objective(cost_weight=6), room, priced=False)
    with_margin = choose(options, Objective(cost_weight=6, margin=0.02), room, priced=False)
    assert (without.arm[0], with_margin.arm[0]) == (0, 1)


# ── thresholds ──────────────────────────────────────────────────────────────────────────────────
def figure(value: float, low: float, high: float) -> dict[str, float]:
    return {"value": value, "low": low, "high": high, "error": 0.1}


def found(cost: Any, quality: Any) -> Paired:
    return Paired(100, cost, cost, quality, None, None if quality else "no labels", {}, {}, (), ())


@pytest.mark.parametrize(
    ("cost", "quality", "surely_broken", "surely_kept"),
    [
        (figure(10, 6, 14), figure(0, 0, 0), True, False),
        (figure(4, 1, 7), figure(0, 0, 0), False, False),
        (figure(2, 1, 3), figure(0, 0, 0), False, True),
        (figure(0, 0, 0), figure(-0.05, -0.07, -0.03), True, False),
        (figure(0, 0, 0), figure(-0.02, -0.04, 0.0), False, False),
        (figure(0, 0, 0), figure(0.0, -0.01, 0.01), False, True),
        (figure(0, 0, 0), None, True, False),
        (None, figure(0, 0, 0), True, False),
    ],
)
def test_by_default_only_a_sure_break_fails_and_unless_sure_all_but_a_sure_keep(
    cost: Any, quality: Any, surely_broken: bool, surely_kept: bool
) -> None:
    limits = Thresholds(cost=5, quality=0.02)
    assert bool(limits.broken(found(cost, quality))) is surely_broken
    strict = replace(limits, unless_sure=True)
    assert bool(strict.broken(found(cost, quality))) is not surely_kept


def test_without_thresholds_nothing_is_broken() -> None:
    assert Thresholds().broken(found(None, None)) == []


# ── on a real log ───────────────────────────────────────────────────────────────────────────────
def diff(
    capsys: pytest.CaptureFixture[str], old: Path, new: Path, log: Any, *more: str
) -> tuple[int, Any]:
    code, out, _ = run(
        capsys, "policy", "diff", str(old), str(new), "--log", str(log), "--json", *more
    )
    return code, json.loads(out)


def test_a_cheaper_policy_is_estimated_request_by_request(
    capsys: pytest.CaptureFixture[str], real_log: Path, tmp_path: Path
) -> None:
    old, new = write(tmp_path / "old.yaml"), write(tmp_path / "new.yaml", **TO_MID)
    code, data = diff(capsys, old, new, real_log, "--max-quality-loss", "0.2", "--examples", "3")
    assert (code, data["passes"]) == (0, True)
    assert [each["key"] for each in data["settings"]] == ["objective.cost_weight"]
    per_thousand, whole = (
        data["difference"][key] for key in ("cost_per_1000_usd", "cost_over_log_usd")
    )
    assert per_thousand["high"] < 0
    assert whole["value"] == pytest.approx(per_thousand["value"] * REQUESTS / 1000)
    assert data["difference"]["cost_pct"]["value"] == pytest.approx(-75, abs=5)
    low, high = (data["difference"]["quality"][end] for end in ("low", "high"))
    assert -0.2 < low < high < 0.2


def test_the_paired_interval_is_narrower_than_that_of_two_separate_figures(
    capsys: pytest.CaptureFixture[str], real_log: Path, tmp_path: Path
) -> None:
    """Only the long prompts, one in ten, move: the others cancel out."""
    rule = {"name": "long", "when": {"min_input_tokens": 300}, "tier": "mini"}
    old, new = write(tmp_path / "old.yaml"), write(tmp_path / "new.yaml", rules=[rule])
    code, data = diff(capsys, old, new, real_log)
    assert code == 0
    assert data["moved"]["share"] == pytest.approx(0.1)
    code, out, _ = run(
        capsys, "replay", str(real_log), "--policy", str(old), "--policy", str(new), "--json"
    )
    separate = [each["best"]["quality"] for each in json.loads(out)["policies"]]
    paired = data["difference"]["quality"]
    assert paired["error"] < 0.8 * np.hypot(*(each["error"] for each in separate))
    values = [each["value"] for each in separate]
    assert paired["value"] == pytest.approx(values[1] - values[0])


def test_the_table_of_moves_adds_up_and_examples_are_requests_of_the_log(
    capsys: pytest.CaptureFixture[str], real_log: Path, tmp_path: Path
) -> None:
    old, new = write(tmp_path / "old.yaml"), write(tmp_path / "new.yaml", **TO_MID)
    _, data = diff(capsys, old, new, real_log, "--examples", "4")
    moved = data["moved"]
    assert sum(row["requests"] for row in moved["table"]) == moved["requests"] == REQUESTS
    assert moved["table"][0]["from"] == "frontier/0:openai/t-frontier"
    log = open_log(store_url(str(real_log)))
    known = {request.request_id for request in log.requests()}
    log.close()
    assert len(moved["examples"]) == 4
    for each in moved["examples"]:
        assert each["request_id"] in known
        assert each["from"]["arm"] != each["to"]["arm"]
        assert 0 < each["to"]["cost_usd"] < each["from"]["cost_usd"]
        assert each["from"]["quality"] > each["to"]["quality"]


def test_an_exported_log_gives_the_same_figures_and_the_same_examples(
    capsys: pytest.CaptureFixture[str], real_log: Path, tmp_path: Path
) -> None:
    old, new = write(tmp_path / "old.yaml"), write(tmp_path / "new.yaml", **TO_MID)
    log = open_log(store_url(str(real_log)))
    export(log, str(tmp_path / "exported"))
    log.close()
    stored, exported = (
        diff(capsys, old, new, source)[1] for source in (real_log, tmp_path / "exported")
    )
    assert stored["moved"]["examples"] == exported["moved"]["examples"]
    assert stored["difference"]["quality"] == pytest.approx(exported["difference"]["quality"])


def test_ids_are_read_only_where_they_are_asked_for_and_stay_with_their_rows(
    real_log: Path,
) -> None:
    [batch] = read(str(real_log))
    assert batch.request_id is None
    [named] = read(str(real_log), ids=True)
    assert named.request_id is not None
    rows = np.array([7, 3])
    taken = named.take(rows)
    assert taken.request_id is not None
    assert taken.request_id.tolist() == [named.request_id[7], named.request_id[3]]


def test_a_dearer_policy_breaks_the_threshold_and_says_by_how_much(
    capsys: pytest.CaptureFixture[str], real_log: Path, tmp_path: Path
) -> None:
    old, new = write(tmp_path / "old.yaml", **TO_MID), write(tmp_path / "new.yaml")
    arguments = ("policy", "diff", str(old), str(new), "--log", str(real_log))
    code, out, _ = run(capsys, *arguments, "--max-cost-increase", "5")
    assert code == 1
    assert "Threshold broken: cost changes by +" in out
    assert "at most +5% is allowed" in out
    assert run(capsys, *arguments, "--max-cost-increase", "900")[0] == 0


def test_the_same_policy_is_no_difference_and_needs_no_log(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    old = write(tmp_path / "old.yaml")
    new = tmp_path / "new.yaml"
    new.write_text("# a comment\n" + old.read_text())
    code, data = diff(capsys, old, new, tmp_path / "none.db", "--max-cost-increase", "0")
    assert (code, data["settings"], data["difference"]) == (0, [], None)
    assert "no setting differs" in data["notes"][0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rules": [{"name": "r", "when": {"min_input_tokens": 0}, "tier": "nano"}]}, "no chance"),
        ({"rules": [{"name": "r", "when": {"regex": "x"}, "tier": "nano"}]}, "the text"),
    ],
)
def test_what_the_log_cannot_tell_fails_but_the_settings_are_still_told(
    capsys: pytest.CaptureFixture[str], real_log: Path, tmp_path: Path, change: Any, said: str
) -> None:
    old, new = write(tmp_path / "old.yaml"), write(tmp_path / "new.yaml", **change)
    code, data = diff(capsys, old, new, real_log)
    assert (code, data["passes"], data["difference"]) == (1, False, None)
    assert said in " ".join(data["refused"])
    assert any(each["key"].startswith("rules.r") for each in data["settings"])


def test_an_arm_that_the_log_has_never_seen_cannot_be_judged(
    capsys: pytest.CaptureFixture[str], real_log: Path, tmp_path: Path
) -> None:
    content = policy(URL)
    content["tiers"]["mid"][0]["model"] = "openai/t-other"
    new = tmp_path / "new.yaml"
    new.write_text(yaml.safe_dump(content))
    code, data = diff(capsys, write(tmp_path / "old.yaml"), new, real_log)
    assert code == 1
    assert "openai/t-other" in data["refused"][0]


def test_what_a_replay_does_not_follow_is_named_and_not_taken_for_no_difference(
    capsys: pytest.CaptureFixture[str], real_log: Path, tmp_path: Path
) -> None:
    old = write(tmp_path / "old.yaml")
    new = write(tmp_path / "new.yaml", retry={"attempts": 2})
    code, data = diff(capsys, old, new, real_log)
    assert (code, data["difference"]["cost_over_log_usd"]["value"]) == (0, 0)
    [left] = [each for each in data["warnings"] if "leave out" in each]
    assert "retry.attempts" in left
    assert any("without its exploring" in note for note in data["notes"])


def test_a_cascade_is_refused_and_not_taken_for_a_single_call(
    capsys: pytest.CaptureFixture[str], real_log: Path, tmp_path: Path
) -> None:
    new = write(tmp_path / "new.yaml", cascade={"max_steps": 2})
    code, data = diff(capsys, write(tmp_path / "old.yaml"), new, real_log)
    assert (code, data["difference"]) == (1, None)
    assert "answers of which the log kept no look" in data["refused"][0]


@pytest.mark.parametrize(
    "wrong",
    [("--max-quality-loss", "2"), ("--examples", "-1"), ("--since", "yesterday"), ("--lgo", "x")],
)
def test_wrong_usage_is_exit_code_2(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, wrong: tuple[str, str]
) -> None:
    arguments = ("policy", "diff", "default", "frugal", "--log", str(tmp_path / "x.db"))
    assert run(capsys, *arguments, *wrong)[0] == 2
    assert run(capsys, "policy", "diff", "default", "frugal")[0] == 2


def test_the_help_says_which_end_of_the_interval_counts(
    capsys: pytest.CaptureFixture[str],
) -> None:
    said = " ".join(run(capsys, "policy", "diff", "--help")[1].split())
    assert "the LOWER end of the interval is above it" in said
    assert "the UPPER end of the interval is below -X" in said


# ── the example workflow ────────────────────────────────────────────────────────────────────────
def git(folder: Path, *words: str) -> None:
    subprocess.run(["git", "-C", str(folder), *words], check=True, capture_output=True)


@pytest.mark.parametrize(("percent", "code"), [("5", 1), ("900", 0)])
def test_the_example_workflow_runs_on_a_pull_request(
    real_log: Path, tmp_path: Path, percent: str, code: int
) -> None:
    """Its `run:` step, as it stands, by the shell that GitHub would use."""
    steps = yaml.safe_load((ROOT / "examples/policy-diff.yml").read_text())
    [step] = [
        each for each in steps["jobs"]["policy-diff"]["steps"] if "router policy" in str(each)
    ]
    place, program = tmp_path / "repository", tmp_path / "bin"
    (place / "policies").mkdir(parents=True)
    program.mkdir()
    shim = program / "router"
    shim.write_text(f"#!{sys.executable}\nfrom router.cli import main\nmain()\n")
    shim.chmod(0o755)
    mine = place / step["env"]["POLICY"]
    git(place, "init", "-q", "-b", "main")
    git(place, "config", "user.email", "nobody@example.com")
    git(place, "config", "user.name", "nobody")
    write(mine, **TO_MID)
    git(place, "add", ".")
    git(place, "commit", "-qm", "before")
    git(place, "checkout", "-qb", "change")
    write(mine)
    summary = tmp_path / "summary.md"
    environment = {
        **os.environ,
        **{key: str(value) for key, value in step["env"].items()},
        "BASE": "main",
        "LOG": str(real_log),
        "MAX_COST_INCREASE": percent,
        "GITHUB_STEP_SUMMARY": str(summary),
        "PATH": f"{program}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }
    assert step["shell"] == "bash"
    done = subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
        cwd=place, env=environment, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    assert "objective.cost_weight: 60.0 → 12.0" in done.stdout
    assert summary.read_text() == done.stdout
