"""Logs that the tests make themselves, as arrays with known chances and known truth."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from router.replay.off_policy.batch import LogBatch, LoggedArm
from router.replay.off_policy.estimate import Estimates, estimate
from router.replay.off_policy.path import add_policy
from router.replay.off_policy.sums import LOGGED, PolicySums, Tally, add_logged, rows_of

ARMS = tuple(LoggedArm(f"{tier}/0:m-{tier}", tier, f"m-{tier}") for tier in ("nano", "mini", "mid"))
SKILL = np.array([0.5, 0.7, 0.8])
PRICE = np.array([1e5, 1e6, 1e7])  # nano-USD a call, about


def log(n: int = 2000, seed: int = 0, chances: Any = (0.5, 0.3, 0.2), **changes: Any) -> LogBatch:
    """n requests by known chances: an arm's label is good by its skill, less the difficulty that
    the predictions see most of."""
    rng = np.random.default_rng(seed)
    hard = rng.normal(0, 0.15, n)[:, None]
    true = np.clip(SKILL - hard, 0.02, 0.98)
    chance = np.broadcast_to(np.asarray(chances, dtype=float), (n, 3)).copy()
    chosen = (chance.cumsum(axis=1) <= rng.random(n)[:, None]).sum(axis=1).clip(0, 2)
    at = (np.arange(n), chosen)
    expected = np.rint(PRICE * np.exp(rng.normal(0, 0.5, n))[:, None]).astype(np.int64)
    cost = np.rint(0.8 * expected[at] * rng.lognormal(0, 0.2, n))
    none = np.zeros(n, dtype=np.int64)
    made = LogBatch(
        arms=ARMS, time=1.78e9 + 60.0 * np.arange(n), step=none,
        cluster=rng.integers(0, 2**32, n, dtype=np.uint32),
        request_hash=rng.integers(0, 2**63, n, dtype=np.uint64),
        quality=np.clip(true + rng.normal(0, 0.05, (n, 3)), 0, 1),
        quality_std=np.full((n, 3), 0.05), expected=expected, upper=3 * expected,
        propensity=chance, barred=np.zeros((n, 3), np.uint8), chosen=chosen,
        cost=cost, baseline=expected[:, 2].astype(float), latency=rng.gamma(2.0, 0.5, n),
        label=(rng.random(n) < true[at]).astype(float),
        billed_input=np.full(n, 100.0), billed_output=np.full(n, 50.0),
        input_tokens=rng.integers(10, 5000, n).astype(float), novel=np.zeros(n, bool),
        tags=(none, ["[]"]), needs=(none, ["[]"]), policy=(none, ["p@1"]),
        predictor=(none, ["steady"]), price_book=(none, ["book"]),
    )  # fmt: skip
    return replace(made, **changes)


def truth(target: Any, seed: int = 1, n: int = 400_000) -> dict[str, float]:
    """What a policy comes to in truth, by very many requests: `target(batch)` gives its arms."""
    made = log(n, seed)
    arm = target(made)
    rng = np.random.default_rng(seed)
    hard = rng.normal(0, 0.15, n)[:, None]
    true = np.clip(SKILL - hard, 0.02, 0.98)
    at = (np.arange(n), arm)
    mean_factor = 0.8 * np.exp(0.2**2 / 2)
    return {
        "quality": float(true[at].mean()),
        "cost": float(mean_factor * made.expected[at].mean()),
    }


def estimated(batch: LogBatch, arm: Any) -> Estimates:
    """Estimates of a policy that chooses `arm` (N,)."""
    rows, tally, sums = rows_of(batch), Tally(LOGGED), PolicySums()
    add_logged(tally, batch, rows)
    add_policy(sums, batch, rows, np.asarray(arm))
    return estimate(tally, sums)
