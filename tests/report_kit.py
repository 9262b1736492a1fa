"""Stores for the tests of reports: a month of traffic, and small logs of odd requests."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from router.ledger import Ledger, open_ledger
from router.types import TIERS, Budget, RequestEnd, RequestRow, Reservation
from tests.ledger_kit import attempt_row, request_row

DAY = 86_400.0
MONDAY = 1_792_972_800.0  # 2026-10-26 00:00 UTC
NOW = MONDAY + 30 * DAY + 9.5 * 3600
HOSTILE = '<script>alert("x")</script><img src=x onerror=alert(1)>\'"&'
CENT = 10_000_000
MODELS = {tier: f"openai/t-{tier}" for tier in TIERS}
EXPECTED = {"nano": CENT // 20, "mini": CENT // 6, "mid": CENT // 2, "frontier": 2 * CENT}
QUALITY = {"nano": 0.55, "mini": 0.72, "mid": 0.84, "frontier": 0.9}
BUDGETS = (
    Budget("month", 60 * 1_000_000_000, window="month"),
    Budget("day", 3 * 1_000_000_000, window="day", on_exceed="downgrade"),
    Budget("per user", 9_000, window="rolling", seconds=7 * 86_400, scope="user", meter="tokens"),
    Budget("everything", None),
)


def arm(tier: str) -> str:
    return f"{tier}/0:{MODELS[tier]}"


def views(chosen: str, hardness: float = 0.0, **changes: Any) -> tuple[dict[str, Any], ...]:
    """A decision over the four tiers; `changes` are of every arm's view."""
    return tuple(
        {
            "arm": arm(tier),
            "tier": tier,
            "model": MODELS[tier],
            "quality": max(0.0, QUALITY[tier] - hardness * (1 - QUALITY[tier])),
            "expected": round(EXPECTED[tier] * (1 + hardness)),
            "upper": EXPECTED[tier] * 4,
            "propensity": float(tier == chosen),
            "rejected": None if tier == chosen else "P(good) -0.1, but saves $0.001",
            **changes,
        }
        for tier in TIERS
    )


def log_request(
    ledger: Ledger,
    name: str,
    time: float,
    *costs: int | None,
    tier: str = "mini",
    status: str = "answered",
    label: float | None = None,
    baseline: int | None = 2 * CENT,
    hardness: float = 0.0,
    attempt: dict[str, Any] | None = None,
    **changes: Any,
) -> RequestRow:
    """Log a request with an attempt for each cost, of which the last answers it."""
    row = replace(
        request_row(
            name, time=time, decision=views(tier, hardness), chosen=arm(tier), baseline=baseline
        ),
        **changes,
    )
    if not costs:
        ledger.refuse(replace(row, status=status))
    for number, cost in enumerate(costs, start=1):
        last = number == len(costs)
        wire = attempt_row(
            name, number, cost=cost, time=time, arm=arm(tier), tier=tier, model=MODELS[tier],
            status="answered" if last and status == "answered" else "failed",
            reserved=cost or 0,
        )  # fmt: skip
        wire = replace(wire, **(attempt or {}))
        scopes = {**row.scopes, "tier": (wire.tier,), "model": (wire.model,)}
        hold = Reservation(
            f"{name}/{number}", cost or 0, scopes=scopes, tokens=7, now=time,
            expires_at=time + 600, worst_case=wire, request=row if number == 1 else None,
        )  # fmt: skip
        ledger.reserve(hold)
        served = number if status == "answered" else None
        end = RequestEnd(status, served, baseline if served else None, row.error)  # type: ignore[arg-type]
        ledger.settle(f"{name}/{number}", wire, end if last else None, time + 1)
    if label is not None:
        ledger.log().feedback(name, label, now=time + 60)
    return row


def opened(folder: Path, budgets: Sequence[Budget] = ()) -> Ledger:
    return open_ledger(f"sqlite:///{folder / 'report.db'}", budgets, durability="normal")


def month(ledger: Ledger, count: int = 900, *, days: float = 30.4, seed: int = 7) -> None:
    """Traffic that turns from the frontier to cheaper tiers; half of it is labelled."""
    chance = random.Random(seed)
    times = sorted(MONDAY + days * DAY * chance.random() ** 0.8 for _ in range(count))
    for number, time in enumerate(times):
        late = (time - MONDAY) / (days * DAY)
        weights = [0.1 + 0.2 * late, 0.15 + 0.25 * late, 0.3, 0.5 * (1.15 - late)]
        [tier] = chance.choices(TIERS, weights)
        hardness = chance.random()
        odd = chance.random()
        cost = round(EXPECTED[tier] * (1 + hardness) * chance.uniform(0.7, 1.4))
        good = chance.random() < QUALITY[tier] - hardness * (1 - QUALITY[tier])
        frontier = cost if tier == "frontier" else round(EXPECTED["frontier"] * (1 + hardness))
        more: dict[str, Any] = {
            "tier": tier,
            "hardness": hardness,
            "tags": (chance.choice(("support", "search", "reports", "batch")),),
            "scopes": {"user": chance.choice(("ann", "bo", "cai"))},
            "baseline": frontier,
        }
        name = f"r{number}"
        if odd < 0.02:
            log_request(ledger, name, time, status="refused",
                        **{**more, "error": "BudgetExceeded: no room in day"})  # fmt: skip
        elif odd < 0.04:
            error = {"error": f"ProviderUnavailable: overloaded ({number})"}
            log_request(ledger, name, time, 0, status="failed", **{**more, **error})
        else:
            costs = (0, cost) if odd < 0.1 else (cost,)
            label = float(good) if odd > 0.5 else None
            log_request(ledger, name, time, *costs, label=label, **more)
