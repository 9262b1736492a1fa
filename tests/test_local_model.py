"""The whole path against a real language model on this machine, as the nano tier."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from router import Router
from router.ledger import open_ledger
from tests.conftest import ladder, steady_predictor, usd
from tests.local_model_kit import local_model as local_model  # fixtures
from tests.local_model_kit import weights as weights
from tests.provider import Provider, ok

EXAMPLE = Path(__file__).parents[1] / "examples/local_model.py"


@pytest.fixture
def router(local_model: str, tmp_path: Path) -> Iterator[Router]:
    policy = ladder(
        local_model,
        budgets=[{"name": "b", "limit": "0.01"}],
        rules=[{"name": "local", "when": {"min_input_tokens": 0}, "tier": "nano"}],
        limits={"max_output_tokens": 24},
        timeout={"read": 60, "total": 90},
    )
    # One H100-hour's price and a guess at a small model's speed: own hardware, priced by the hour.
    gpu = {
        "hour_usd": "2.50",
        "count": 1,
        "input_tokens_per_second": 2000,
        "output_tokens_per_second": 100,
        "utilisation": "0.5",
    }
    policy["tiers"]["nano"][0].update(model="openai/smollm2", price={"gpu": gpu})
    store = f"sqlite:///{tmp_path / 'r.db'}"
    with Router(policy, store=store, predictor=steady_predictor()) as made:
        yield made


QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


def test_a_real_model_answers_and_its_own_usage_is_charged(router: Router) -> None:
    reply = router.completion(messages=QUESTION, temperature=0)
    assert len(reply.choices[0].message.content) > 5
    # A busy machine may take too long for a first attempt, which is then made again.
    (row,) = (each for each in router.ledger.log().attempts() if each.status == "answered")
    assert row.usage is not None
    spent = reply.usage.prompt_tokens, reply.usage.completion_tokens
    assert (row.input_tokens, row.output_tokens) == spent
    # 2.50 / (2000 * 3600 * 0.5) and 2.50 / (100 * 3600 * 0.5) dollars a token
    rates = -(-usd("2500000") // 3_600_000), -(-usd("2500000") // 180_000)
    assert row.cost == -(-(spent[0] * rates[0] + spent[1] * rates[1]) // 1_000_000)
    assert row.cost <= row.reserved
    assert router.ledger.verify() == []


def test_a_real_model_streams_and_is_charged_once(router: Router) -> None:
    chunks = list(router.completion(messages=QUESTION, stream=True, temperature=0))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert len(text) > 5
    (row,) = (each for each in router.ledger.log().attempts() if each.status == "answered")
    assert row.cost_source == "computed"
    assert row.output_tokens is not None
    assert 0 < row.output_tokens <= 24
    assert router.ledger.verify() == []


def test_the_example_goes_on_to_a_hosted_model_where_the_local_one_fails(
    local_model: str, provider: Provider, tmp_path: Path
) -> None:
    provider.default = ok(text='["red", "green", "blue"]')
    environment = {
        **os.environ,
        "LOCAL_BASE_URL": local_model,
        "OPENAI_API_KEY": "sk-example",
        "OPENAI_BASE_URL": provider.url,
        "PYTHONPATH": str(EXAMPLE.parents[1]),
    }
    done = subprocess.run(
        [sys.executable, str(EXAMPLE)],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answer = done.stdout.partition(" and write nothing else. → ")[2].partition("\n  nano/0")[0]
    assert isinstance(json.loads(answer), list)
    assert "an accepted answer" in done.stdout
    ledger = open_ledger(f"sqlite:///{tmp_path / 'router.db'}", create=False)
    called = [row.model for row in ledger.log().attempts()]
    assert called[0] == "openai/local"
    assert called.count("openai/local") >= 2
    hosted = [f"openai/{model}" for model in provider.models]
    assert [model for model in called if model != "openai/local"] == hosted
    assert ledger.verify() == []
    ledger.close()
