"""`router queue`: a worker, a list without text, and a cancellation, over real HTTP."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from router import Router
from router.cli import cli
from router.errors import ConfigurationError
from tests.batch_provider import BatchProvider
from tests.conftest import HELLO, ladder, steady_predictor
from tests.pipeline_kit import PIN_NANO
from tests.test_deadline_calls import TIMEOUT, tiers


@pytest.fixture
def provider() -> Iterator[BatchProvider]:
    server = BatchProvider()
    yield server
    server.close()


def said(*arguments: str) -> tuple[int, Any]:
    result = CliRunner().invoke(cli, ["queue", *arguments, "--json"])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, json.loads(result.stdout)


def test_a_queue_is_worked_on_listed_and_cancelled_from_the_command_line(
    tmp_path: Path, provider: BatchProvider
) -> None:
    policy = ladder(
        provider.url, rules=[PIN_NANO], timeout=TIMEOUT, deferred={"batch": True, "gather": 0},
        tiers=tiers(provider.url, multipliers={"batch": "0.5"}),
    )  # fmt: skip
    written, store = tmp_path / "policy.json", str(tmp_path / "router.db")
    written.write_text(json.dumps(policy))
    with Router(policy, store=store, predictor=steady_predictor()) as router:
        tickets = [router.submit(HELLO, deadline=time.time() + 200_000) for _ in range(3)]
        code, listed = said("list", store)
        assert code == 0
        assert [(each["ticket"], each["state"]) for each in listed] == [
            (ticket, "waiting") for ticket in tickets
        ]
        assert "colleague" not in json.dumps(listed)  # no text
        assert said("cancel", store, tickets[0]) == (
            0, {"ticket": tickets[0], "cancelled": True, "was": "waiting"},
        )  # fmt: skip
        assert said("cancel", store, tickets[0])[0] == 1
        assert said("cancel", store, "nothing")[1]["was"] == "unknown"
        code, work = said("run", store, "--policy", str(written), "--once", "--poll", "0.05")
        assert (code, work["batched"], work["waiting"]) == (0, 2, 2)
        code, work = said("run", store, "--policy", str(written), "--poll", "0.05")
        assert (code, work["answered"], work["waiting"]) == (0, 2, 0)
        assert router.collect(tickets[1]).choices
    plain = CliRunner().invoke(cli, ["queue", "list", store])
    assert "Cancelled" in plain.output


def test_a_store_in_which_nothing_was_queued_is_no_queue(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="does not exist"):
        said("list", str(tmp_path / "none.db"))
    with Router("frugal", store=str(tmp_path / "router.db")) as router:
        router.budgets()
    with pytest.raises(ConfigurationError, match="nothing was ever queued"):
        said("list", str(tmp_path / "router.db"))
