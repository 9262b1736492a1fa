"""A real log to compare and tune policies on: requests that went through the Router."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from router import Router
from router.planning.exploring import uniform
from router.replay.off_policy.run import read
from router.replay.tuning.space import Base
from router.replay.tuning.stretch import InMemory, keep
from tests.conftest import ladder, steady_predictor
from tests.provider import Provider

MONDAY = 1_799_625_600.0  # 2027-01-11 00:00 UTC
DAYS = 4
# How often a tier's answers are good: frontier no more often than mid, which costs a fourth.
GOOD = {"nano": 0.3, "mini": 0.7, "mid": 0.9, "frontier": 0.9}
EXPLORE = {"rate": 0.5, "max_spend": 1, "max_quality_loss": 1}
REQUESTS = 1000
NOW = MONDAY + 30 * 86_400
COMMENTED = """# What production runs.
version: 1
name: production
# Answers are worth this much.
objective: {cost_weight: 12}  # a guess
rules:
  # Long prompts are dear.
  - {name: long, when: {min_input_tokens: 300}, at_most: mid}
limits: {max_output_tokens: 500}
explore: {rate: 0.5, max_spend: 1, max_quality_loss: 1}
budgets:
  - {name: daily, limit: "5.00", window: day, on_exceed: downgrade}  # ask Ann first
"""
WORDS = "Tell me a little more about the history of gardens and of those who keep them. "


def policy(url: str, **changes: Any) -> dict[str, Any]:
    """The policy of the log, in which short prompts go to the frontier and long ones to mid."""
    settings = {
        "name": "base",
        "objective": {"cost_weight": 12},
        "explore": EXPLORE,
        "rules": [{"name": "long", "when": {"min_input_tokens": 300}, "at_most": "mid"}],
        **changes,
    }
    return ladder(url, **settings)


def write(path: Path, url: str = "http://127.0.0.1:9", **changes: Any) -> Path:
    """The same as a file."""
    path.write_text(yaml.safe_dump(policy(url, **changes), sort_keys=False))
    return path


def make_log(store: Path, provider: Provider, requests: int, **changes: Any) -> Path:
    """Send requests over `DAYS` days, each in ten with a long prompt, and label every answer."""
    times = iter(range(10**9))
    step = DAYS * 86_400 / requests
    now = [MONDAY]
    settings = policy(provider.url, **changes)
    settings["log"] = {"durability": "normal"}
    router = Router(
        settings,
        store=f"sqlite:///{store}",
        predictor=steady_predictor(),
        clock=lambda: now[0] + next(times) * 1e-6,
    )
    try:
        for at in range(requests):
            now[0] = MONDAY + at * step
            text = f"Number {at}. " + WORDS * (25 if at % 10 == 0 else 1)
            reply = router.completion(
                messages=[{"role": "user", "content": text}], tags=["odd" if at % 2 else "even"]
            )
            routed = Router.decision(reply)
            good = uniform(f"label {at}") < GOOD[routed.decision.arm.tier]
            router.feedback(routed.request_id, float(good))
    finally:
        router.close()
    return store


@pytest.fixture(scope="session")
def real_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of `REQUESTS` requests, made once for all tests of a run: it takes a minute."""
    root = tmp_path_factory.getbasetemp()
    if os.environ.get("PYTEST_XDIST_WORKER"):
        root = root.parent  # of all workers
    store, done = root / "tuning.db", root / "tuning.done"
    try:
        (root / "tuning.lock").mkdir()
    except FileExistsError:
        until = time.monotonic() + 280
        while not done.exists() and time.monotonic() < until:
            time.sleep(0.2)
        assert done.exists(), "the worker that makes the log has not ended"
    else:
        provider = Provider()
        make_log(store, provider, REQUESTS)
        provider.close()
        done.touch()
    return store


def commented(path: Path, **more: Any) -> Path:
    """The log's policy with comments, as people write one."""
    tiers = yaml.safe_dump({"tiers": policy("http://127.0.0.1:9")["tiers"]}, sort_keys=False)
    path.write_text(COMMENTED + tiers + yaml.safe_dump(more) if more else COMMENTED + tiers)
    return path


@pytest.fixture(scope="module")
def memory(real_log: Path) -> InMemory:
    return keep(read(str(real_log)))


@pytest.fixture
def base(tmp_path: Path) -> Base:
    return Base.read(commented(tmp_path / "base.yaml"), NOW)
