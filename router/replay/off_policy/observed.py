"""Replay where every arm's outcome was recorded: nothing is estimated, what was chosen is read off.

The interval is only that of the mean over these queries: other queries would have other outcomes.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from router.decide import UNLIMITED, Options, cautious, choose
from router.errors import ReplayError
from router.money import NANO_PER_USD
from router.predict import load_predictor
from router.replay.evaluation.costs import constant_prices, estimate_input
from router.replay.off_policy.estimate import Replicates
from router.replay.off_policy.sums import GROUPS
from router.replay.recorded.featurise import features_of

if TYPE_CHECKING:
    from router.planning.ladder import Ladder
    from router.predict import Predictor
    from router.prices import PriceBook
    from router.replay.recorded.outcomes import Outcomes
    from router.types import Floats, Ints


@dataclass(frozen=True, slots=True)
class Recorded:
    """N queries by the T tiers of a ladder, with what decisions see and what came of each.

    `quality`, `quality_std`, `expected` USD (N, T) are predicted; `score` and `cost` USD (N, T)
    recorded, NaN where not known; `group` (N,) what is of one question.
    """

    tier: Ints
    quality: Floats
    quality_std: Floats
    novel: Any
    expected: Floats
    score: Floats
    cost: Floats
    group: Ints


def recorded(
    outcomes: Outcomes, predictor: Predictor, book: PriceBook | None, now: float
) -> Recorded:
    """Predict for every query, from its messages alone.

    Raises `ReplayError` where the costs of a tier are not known: decisions weigh dollars.
    """
    columns = outcomes.columns
    found = predictor.batch(features_of(outcomes, predictor.embedder))
    expected = constant_prices(outcomes, found.output_tokens, estimate_input(outcomes), book, now)
    if expected.relative:
        raise ReplayError(f"{outcomes.path}: a tier has no known cost, and decisions weigh dollars")
    return Recorded(
        tier=np.array(columns),
        quality=found.quality[:, columns],
        quality_std=found.quality_std[:, columns],
        novel=found.novel,
        expected=expected.usd[:, columns],
        score=outcomes.score[:, columns],
        cost=outcomes.cost_usd[:, columns],
        group=np.array([zlib.crc32(g.encode()) % GROUPS for g in outcomes.group.tolist()]),
    )


def decide(rows: Recorded, ladder: Ladder) -> Ints:
    """What a policy decides for each query, (N,) positions among the ladder's tiers.

    Raises `ReplayError` for a policy of other tiers, or one that goes by what a call may cost at
    most, which recorded outcomes do not say.
    """
    present = sorted(set(ladder.tier.tolist()))
    if present != rows.tier.tolist():
        raise ReplayError(
            f"policy {ladder.policy.name!r} has other tiers than the ladder of these outcomes; "
            "give --ladder a model for each of its tiers, and no other"
        )
    if ladder.policy.cascade is not None or ladder.votes or ladder.bests:
        raise ReplayError(
            f"policy {ladder.policy.name!r} has a cascade or a vote, and this replay makes one "
            "call a query; `router evaluate` has --cascade and --vote"
        )
    if ladder.gained is not None:
        raise ReplayError(
            f"policy {ladder.policy.name!r} has several efforts of one tier, and these outcomes "
            "one model of each; replay a log"
        )
    if ladder.objective.max_cost_per_request is not None or ladder.policy.rules:
        raise ReplayError(
            f"policy {ladder.policy.name!r} has rules or max_cost_per_request, which recorded "
            "outcomes cannot answer; replay a log"
        )
    quality = rows.quality
    if rows.novel.any():
        lower = cautious(quality, rows.quality_std, rows.tier < ladder.baseline)
        quality = np.where(rows.novel[:, None], lower, quality)
    expected = np.rint(rows.expected * NANO_PER_USD).astype(np.int64)
    nothing = np.zeros(quality.shape, np.uint8)
    options = Options(quality, expected, expected, nothing, rows.tier, ladder.baseline)
    room = np.full(len(quality), UNLIMITED)
    return choose(options, ladder.objective, room, priced=False).arm


def outcome_of(rows: Recorded, chosen: Ints) -> dict[str, dict[str, float]]:
    """Mean cost in USD and quality of what was chosen, over queries of which both are known."""
    at = np.arange(len(chosen))
    values = {"cost": rows.cost[at, chosen], "quality": rows.score[at, chosen]}
    known = np.isfinite(np.stack(list(values.values()))).all(axis=0)
    return {
        name: _figure(mean_by_group(each[known], rows.group[known]))
        for name, each in values.items()
    }


def mean_by_group(values: Floats, group: Ints) -> Replicates:
    """The mean, and what it is without each group."""
    total = np.bincount(group, weights=values, minlength=GROUPS)
    count = np.bincount(group, minlength=GROUPS)
    used = count > 0
    left = (total.sum() - total[used]) / np.maximum(count.sum() - count[used], 1)
    return Replicates(np.concatenate([[values.mean()], left]))


def _figure(found: Replicates) -> dict[str, float]:
    one = found.estimate()
    return {"value": one.value, "low": one.low, "high": one.high, "error": one.error}


def replay_outcomes(
    outcomes: Outcomes,
    policies: Sequence[tuple[Ladder, Predictor]],
    book: PriceBook | None,
    now: float,
) -> dict[str, Any]:
    """The exact figures of some policies, each with its own predictor, and of every tier alone,
    ready for JSON."""
    seen: dict[str, Recorded] = {}
    best = []
    for ladder, predictor in policies:
        if predictor.hash not in seen:
            seen[predictor.hash] = recorded(outcomes, predictor, book, now)
        rows = seen[predictor.hash]
        best.append({"name": ladder.policy.name, "best": outcome_of(rows, decide(rows, ladder))})
    rows = next(iter(seen.values())) if seen else recorded(outcomes, load_predictor(), book, now)
    everyone = np.zeros(len(rows.quality), dtype=np.int64)
    tiers = list(outcomes.ladder)
    return {
        "queries": len(everyone),
        "policies": best,
        "singles": [
            {"name": f"always {tier}", "best": outcome_of(rows, everyone + at)}
            for at, tier in enumerate(tiers)
        ],
    }
