"""`router demo`, from the command line to the books of both sides."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from router.cli.demo import command
from router.demo.live import KEYS, check_keys, with_limit
from router.demo.provider import Server
from router.demo.run import choose_prompts, demo_budget, demo_policy
from router.demo.simulation import prompts
from router.errors import ConfigurationError
from router.ledger import open_ledger
from router.policy import load_policy
from router.types import TIERS
from tests.report_kit import CENT, MONDAY, log_request, opened

API_BASE = "http://127.0.0.1:9/v1"


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `router demo --json --requests 60` printed, run as a user runs it."""
    folder = tmp_path_factory.mktemp("demo")
    page, store = folder / "demo.html", folder / "demo.db"
    options = ["--json", "--requests", "60", "--html", str(page), "--store", str(store)]
    program = "from router.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, "demo", *options],
        capture_output=True,
        text=True,
        timeout=110,
        check=True,
    )
    facts: dict[str, Any] = json.loads(done.stdout)
    return facts


def test_the_demo_prints_the_facts_that_scripts_rely_on(demo: dict[str, Any]) -> None:
    assert demo["requests"] == 60
    assert demo["simulated"] is True
    assert demo["realized_usd"] == demo["realized_nano"] / 1e9
    assert 0 < demo["realized_usd"] < demo["baseline_usd"]
    saved = 100 * (1 - demo["realized_usd"] / demo["baseline_usd"])
    assert demo["savings_pct"] == pytest.approx(saved, abs=0.01)
    assert 0.5 < demo["good_share"] <= 1


def test_the_demo_uses_every_tier(demo: dict[str, Any]) -> None:
    assert list(demo["by_tier"]) == list(TIERS)
    assert all(line["requests"] > 0 for line in demo["by_tier"].values())
    spent = sum(line["realized_usd"] for line in demo["by_tier"].values())
    assert spent == pytest.approx(demo["realized_usd"])


def test_every_wire_request_of_the_demo_had_a_reservation(demo: dict[str, Any]) -> None:
    assert demo["wire_requests"] == demo["reservations"]
    assert demo["failed"] == 0


def test_the_demo_settles_what_the_provider_bills_and_never_above_the_limit(
    demo: dict[str, Any],
) -> None:
    assert demo["budget_settled_nano"] == demo["realized_nano"]
    # A failed attempt may have been billed, for all the router knows: it is charged in full.
    if demo["retries"] == 0:
        assert demo["realized_nano"] == demo["provider_bill_nano"]
    assert demo["realized_nano"] >= demo["provider_bill_nano"]
    assert demo["budget_settled_nano"] <= demo["budget_limit_nano"]
    assert demo["budget_held_nano"] == 0


def test_the_demo_writes_its_page_and_keeps_its_store(demo: dict[str, Any]) -> None:
    html = Path(demo["html"]).read_text(encoding="utf-8")
    assert f"{demo['savings_pct']:.1f}% less than" in html
    again = CliRunner().invoke(
        command, ["--store", demo["store"], "--requests", "1", "--html", demo["html"]]
    )
    assert isinstance(again.exception, ConfigurationError)
    assert "holds requests already" in str(again.exception)


def test_a_store_that_is_in_use_is_refused_without_a_trace(tmp_path: Path) -> None:
    ledger, store = opened(tmp_path), f"sqlite:///{tmp_path / 'report.db'}"
    log_request(ledger, "a", MONDAY, CENT)
    before = [budget.name for budget in ledger.budgets()]
    ledger.close()
    options = ["--store", store, "--requests", "1", "--html", str(tmp_path / "page.html")]
    assert isinstance(CliRunner().invoke(command, options).exception, ConfigurationError)
    again = open_ledger(store)
    assert [budget.name for budget in again.budgets()] == before
    again.close()


def test_the_seed_decides_the_order_and_the_count_takes_the_first() -> None:
    assert choose_prompts(None, 1) == choose_prompts(None, 1)
    assert choose_prompts(None, 1) != choose_prompts(None, 2)
    assert choose_prompts(20, 1) == choose_prompts(None, 1)[:20]
    assert {p.id for p in choose_prompts(None, 1)} == {p.id for p in prompts()}


def test_the_demos_budget_grows_with_its_prompts() -> None:
    assert 0 < demo_budget(choose_prompts(5, 0)) < demo_budget(choose_prompts(100, 0))


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        yield running
        running.shutdown()


@pytest.fixture
def real_policy(server: Server, tmp_path: Path) -> str:
    """A policy file whose models are "real" as far as `--live` can tell."""
    policy = demo_policy(f"http://127.0.0.1:{server.server_address[1]}/v1", None)
    document = policy.model_dump(mode="json", exclude_none=True, exclude={"budgets", "log"})
    path = tmp_path / "real.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return str(path)


def test_live_shows_the_bound_and_sends_nothing_without_consent(
    server: Server, real_policy: str, tmp_path: Path
) -> None:
    options = ["--live", "--policy", real_policy, "--requests", "3"]
    options += ["--html", str(tmp_path / "x.html")]
    asked = CliRunner().invoke(command, options, input="n\n")
    assert asked.exit_code == 1
    assert "at most $" in asked.output
    assert server.books.stats()["wire_requests"] == 0


def test_live_spends_at_most_the_sum_that_was_agreed_to(
    server: Server, real_policy: str, tmp_path: Path
) -> None:
    options = ["--live", "--yes", "--json", "--policy", real_policy, "--requests", "3"]
    options += ["--html", str(tmp_path / "x.html")]
    done = CliRunner().invoke(command, options)
    assert done.exit_code == 0, done.output
    facts = json.loads(done.stdout)
    assert (facts["simulated"], facts["good_share"]) == (False, None)
    assert 0 < facts["budget_settled_nano"] <= facts["budget_limit_nano"]
    assert facts["reservations"] == server.books.stats()["wire_requests"]


def test_live_without_keys_names_the_tiers_and_the_variables(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for key in KEYS.values():
        monkeypatch.delenv(key, raising=False)
    refused = CliRunner().invoke(command, ["--live", "--yes", "--policy", "openai"])
    assert isinstance(refused.exception, ConfigurationError)
    assert "nano: set OPENAI_API_KEY" in str(refused.exception)


def test_one_deployment_with_a_key_is_enough_for_a_tier() -> None:
    policy = demo_policy(API_BASE, None)
    keyless = {"model": "openai/x", "price": {"input": "1", "output": "1"}}
    document = policy.model_dump(mode="json", exclude_none=True, exclude={"budgets"})
    document["tiers"]["nano"] = [keyless, {**keyless, "model": "anthropic/y"}]
    mixed = load_policy(document)
    check_keys(mixed, {"ANTHROPIC_API_KEY": "k"})
    with pytest.raises(ConfigurationError, match="nano: set OPENAI_API_KEY or ANTHROPIC_API_KEY"):
        check_keys(mixed, {})


def test_the_agreed_sum_is_a_budget_of_the_policy_and_part_of_its_stamp() -> None:
    policy = demo_policy(API_BASE, None)
    stamp = policy.stamp
    limited = with_limit(policy, 12_345_678_900)
    assert limited.budget_list()[-1].limit == 12_345_678_900
    assert limited.stamp != stamp


@pytest.mark.parametrize(
    "options", [["--requests", "0"], ["--html", "/no/such/folder/x.html"], ["--seed", "x"]]
)
def test_wrong_usage_exits_with_2(options: list[str]) -> None:
    assert CliRunner().invoke(command, options).exit_code == 2


def test_the_page_never_takes_the_place_of_the_store_that_the_demo_is_to_make(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ["--requests", "1", "--store", str(tmp_path / "one.db"), "--html", "./one.db"]
    said = CliRunner().invoke(command, options)
    assert said.exit_code == 2
    assert "one.db is to be the store" in " ".join(said.output.split())
    assert not (tmp_path / "one.db").exists()
