"""What a demo run comes to: one frozen record, from which the JSON and the page are made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from router.log.savings import Line, Savings
from router.money import NANO_PER_USD
from router.types import TIERS


@dataclass(frozen=True, slots=True)
class DemoRow:
    """One request as it ended. Money in nano-USD; `tier` is empty where nothing was answered.

    `difficulty` is the simulated provider's own figure; `good` its verdict, None in a live run.
    `ended` is in unix seconds, `seconds` how long the caller waited.
    """

    prompt_id: str
    language: str
    task: str
    difficulty: float
    question: str
    turns: int
    tools: int
    streamed: bool
    status: str
    tier: str
    reason: str
    cost: int
    baseline: int
    attempts: int
    seconds: float
    good: bool | None
    ended: float


@dataclass(frozen=True, slots=True)
class ProviderBooks:
    """What the simulated provider itself counted. Money in nano-USD.

    `frontier_bill` and `frontier_good` are what its frontier model would have billed, and answered
    well, had it got every prompt that was answered (`prompts` of them).
    """

    wire_requests: int
    bill: int
    faults: Mapping[str, int]
    prompts: int
    frontier_bill: int
    frontier_good: int
    latency_scale: int

    @classmethod
    def of(cls, stats: Mapping[str, Any]) -> ProviderBooks:
        """Read the provider's `/stats`."""
        return cls(
            wire_requests=stats["wire_requests"],
            bill=stats["bill_nano"],
            faults=stats["faults"],
            prompts=stats["prompts"],
            frontier_bill=stats["frontier_bill_nano"],
            frontier_good=stats["frontier_good"],
            latency_scale=stats["latency_scale"],
        )


@dataclass(frozen=True, slots=True)
class DemoResult:
    """A whole run. `rows` are in the order in which requests ended.

    `report` is the savings report of the log; the budget's figures, in nano-USD, are the ledger's,
    and `reservations` its count. `provider` is None in a live run.
    """

    rows: Sequence[DemoRow]
    report: Savings
    budget_limit: int
    budget_settled: int
    budget_held: int
    reservations: int
    provider: ProviderBooks | None
    seed: int
    seconds: float
    policy: str
    predictor: str
    store: str | None  # None where it was not kept
    models: Mapping[str, str]  # tier → model

    @property
    def live(self) -> bool:
        return self.provider is None

    @property
    def answered(self) -> Sequence[DemoRow]:
        return [row for row in self.rows if row.status == "answered"]

    @property
    def retries(self) -> int:
        """Wire attempts beyond the first of each request."""
        return sum(max(0, row.attempts - 1) for row in self.rows)

    @property
    def good_share(self) -> float | None:
        """Share of the judged answers that the provider called good; None where none was judged."""
        return self.report.total.quality

    @property
    def frontier_good_share(self) -> float | None:
        """The same share, had the simulated frontier got every answered prompt."""
        if self.provider is None or not self.provider.prompts:
            return None
        return self.provider.frontier_good / self.provider.prompts

    def as_json(self) -> dict[str, Any]:
        """Return the facts that `router demo --json` prints: USD as numbers, nano-USD exact."""
        total, provider = self.report.total, self.provider
        return {
            "simulated": not self.live,
            "requests": len(self.rows),
            "answered": len(self.answered),
            "refused": self.report.refused,
            "failed": self.report.failed,
            "realized_usd": _usd(total.spent),
            "realized_nano": total.spent,
            "baseline_usd": _usd(total.baseline),
            "baseline_nano": total.baseline,
            "savings_pct": round(100 * (total.saved_share or 0.0), 2),
            "by_tier": {
                tier: {
                    "model": self.models.get(tier),
                    **self.report.by_tier.get(tier, Line()).as_dict(),
                }
                for tier in TIERS
            },
            "budget_limit_usd": _usd(self.budget_limit),
            "budget_limit_nano": self.budget_limit,
            "budget_settled_usd": _usd(self.budget_settled),
            "budget_settled_nano": self.budget_settled,
            "budget_held_nano": self.budget_held,
            "wire_requests": provider.wire_requests if provider else None,
            "reservations": self.reservations,
            "retries": self.retries,
            "faults": dict(provider.faults) if provider else None,
            "provider_bill_usd": _usd(provider.bill) if provider else None,
            "provider_bill_nano": provider.bill if provider else None,
            "good_share": self.good_share,
            "frontier_good_share": self.frontier_good_share,
            "frontier_bill_usd": _usd(provider.frontier_bill) if provider else None,
            "policy": self.policy,
            "predictor": self.predictor,
            "store": self.store,
            "seed": self.seed,
            "seconds": round(self.seconds, 2),
        }


def _usd(nano: int) -> float:
    return nano / NANO_PER_USD
