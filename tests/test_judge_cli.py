"""`router judge STORE`: the report for people and as JSON, and what it exits with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from router.cli import cli
from tests.judge_kit import Court, Panel, judged_policy
from tests.judge_kit import court as court  # a fixture
from tests.judge_kit import panel as panel  # a fixture
from tests.provider import status


@pytest.fixture
def policy(court: Court, tmp_path: Path) -> str:
    path = tmp_path / "judged.yaml"
    path.write_text(yaml.safe_dump(judged_policy(court.panel.url)))
    return str(path)


def run(*arguments: str) -> Any:
    return CliRunner().invoke(cli, ["judge", *arguments])


def test_json_reports_outcomes_bias_agreement_and_what_was_spent_for_what(
    court: Court, policy: str
) -> None:
    [name, *_] = court.serve(4)
    with court.router() as router:
        router.feedback(name, 1.0)
    done = run(court.store, "--policy", policy, "--count", "3", "--seed", "7", "--json")
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert (report["judged"], report["sampled"], report["rate"], report["seed"]) == (3, 3, 0.75, 7)
    assert (report["win"], report["tie"], report["loss"]) == (3, 0, 0)
    assert report["position_bias"]["changed"] == 0
    assert set(report["agreement"]) == {"user", "check"}
    assert report["spent_nano"]["judge"] > report["spent_nano"]["shadow"] > 0
    assert report["total_spent_nano"] == sum(report["spent_nano"].values())
    assert report["stopped"] is None


def test_people_read_the_same_in_words(court: Court, panel: Panel, policy: str) -> None:
    names = court.serve(3)
    with court.router() as router:
        for number, name in enumerate(names):
            router.feedback(name, float(number != 1))
    panel.says = lambda first, second: "A"
    done = run(court.store, "--policy", policy, "--rate", "1", "--ceiling", "2.50")
    assert done.exit_code == 0, done.output
    for words in ("3 judged by openai/t-judge", "ceiling $2.50", "on judge", "on shadow",
                  "Swapping the order changed 100.0%", "the first in 100%",
                  "Agrees with user labels on 2 of 3"):  # fmt: skip
        assert words in done.stdout, done.stdout


def test_an_outage_exits_with_1_and_says_what_was_kept(
    court: Court, panel: Panel, policy: str
) -> None:
    court.serve(2)
    panel.script("t-judge", *[status(503)] * 9)
    done = run(court.store, "--policy", policy, "--rate", "1", "--json")
    assert done.exit_code == 1
    report = json.loads(done.stdout)
    assert report["judged"] == 0
    assert "503" in report["stopped"]


def test_the_ceiling_ends_a_run_with_0(court: Court, policy: str) -> None:
    court.serve(1)
    done = run(court.store, "--policy", policy, "--rate", "1", "--ceiling", "0", "--json")
    assert done.exit_code == 0
    assert "ceiling" in json.loads(done.stdout)["stopped"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("--rate", "0.5", "--count", "3"),
        ("--rate", "0"),
        ("--rate", "1.5"),
        ("--count", "0"),
        ("--ceiling", "a dollar"),
        ("--ceiling", "-1"),
    ],
)
def test_wrong_usage_exits_with_2(court: Court, policy: str, arguments: tuple[str, ...]) -> None:
    court.serve(1)
    done = run(court.store, "--policy", policy, *arguments)
    assert done.exit_code == 2


def test_a_store_that_is_not_there_is_not_made(tmp_path: Path, policy: str) -> None:
    missing = tmp_path / "missing.db"
    done = run(str(missing), "--policy", policy)
    assert done.exit_code == 1
    assert not missing.exists()
