"""`replay`: what policies would have cost and achieved on a log, and what routing really saved."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import permutations
from typing import Any

import numpy as np

from router.money import NANO_PER_USD
from router.prices import Dated
from router.replay.off_policy.estimate import ESTIMATORS, Estimates, Replicates, estimate
from router.replay.off_policy.facts import Facts, as_dict, warnings_of
from router.replay.off_policy.measure import AS_LOGGED, Question, Sums
from router.replay.off_policy.sums import OUTCOMES
from router.replay.off_policy.support import (
    BEST,
    MOST_UNSUPPORTED,
    few_calls,
    no_baseline,
    no_cost,
    no_quality,
    other_requests,
    refusals,
    refuse_log,
    spread_of,
)
from router.replay.off_policy.target import Named, always
from router.types import TIERS, Tier

_ALWAYS = "always "
Mix = Callable[[Replicates], Replicates]  # cost → quality


@dataclass(frozen=True, slots=True)
class PolicyResult:
    """One policy: estimates, how they came about, and why they are missing where they are.

    `figures`: outcome → estimator → value and 95% interval; cost in US dollars a request, quality a
    share of good answers, latency in seconds, all of the requests that it serves. `against_log`:
    the difference to the log's own choices. `saved_usd`: against always-baseline, over the whole
    log. `over_random_mix`: quality beyond the best random mix of single tiers at the same cost.
    These three are missing where it refuses more than a few requests: the others' are of all.
    """

    name: str
    figures: dict[str, dict[str, dict[str, float]]]
    against_log: dict[str, dict[str, float]]
    saved_usd: dict[str, float] | None
    over_random_mix: dict[str, float] | None
    support: dict[str, Any]
    refused: tuple[str, ...]
    warnings: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        best = {outcome: each[BEST] for outcome, each in self.figures.items()}
        return {**asdict(self), "best": best}


@dataclass(frozen=True, slots=True)
class Replay:
    """The answer to a question: about the log, about each policy, and the honest baseline."""

    log: dict[str, Any]
    policies: tuple[PolicyResult, ...]
    baseline: dict[str, Any]
    singles: tuple[PolicyResult, ...]
    warnings: tuple[str, ...]
    sums: Sums

    def as_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return {
            "log": self.log,
            "policies": [each.as_dict() for each in self.policies],
            "baseline": self.baseline,
            "singles": [each.as_dict() for each in self.singles],
            "warnings": list(self.warnings),
        }


def question_of(
    policies: Sequence[Named], tiers: Iterable[Tier], price: Dated[tuple[float, float]] | None
) -> Question:
    """What is asked about some policies: they, and each tier alone, for comparison."""
    singles = [Named(f"{_ALWAYS}{tier}", partial(always, tier=TIERS.index(tier))) for tier in tiers]
    return Question((*policies, *singles), price)


def conclude(sums: Sums, baseline: Tier, *, model_only: bool = False) -> Replay:
    """Turn sums into estimates, or into reasons why there are none.

    Parameters: `baseline`, the tier that savings are against; `model_only`, whether the direct
    model may stand alone where the log left nothing to chance: it then rests on the predictor.
    Raises `ReplayError` where the log itself cannot be used: no row, rows that stand twice in
    different files, or chances that do not fit what was chosen.
    """
    facts = sums.facts
    refuse_log(facts)
    warnings = warnings_of(facts, sums.logged)
    found = {name: estimate(sums.logged, each) for name, each in sums.policies.items()}
    logged = found[AS_LOGGED]
    if why := no_cost(logged):
        warnings.append(f"{AS_LOGGED}: {why}")
    if facts.labelled and (why := no_quality(logged, facts)):
        warnings.append(f"{AS_LOGGED}: {why}")
    against = found.get(f"{_ALWAYS}{baseline}")
    mix = random_mix(
        [
            (each.by_outcome["cost"][BEST], each.by_outcome["quality"][BEST])
            for name, each in found.items()
            if name.startswith(_ALWAYS) and each.rows and not refusals(each, facts)
            and not no_quality(each, facts) and not other_requests(each, facts)
            and not no_cost(each)
        ]
    )  # fmt: skip
    results = [
        _result(name, each, logged, against, mix, facts, sums,
                model_only=model_only or name == AS_LOGGED)
        for name, each in found.items()
    ]  # fmt: skip
    [own] = [each for each in results if each.name == AS_LOGGED]
    singles = tuple(each for each in results if each.name.startswith(_ALWAYS))
    return Replay(
        log={**as_dict(facts), **_of_log(own)},
        policies=tuple(each for each in results if each is not own and each not in singles),
        baseline=_baseline(facts, own, logged, against, baseline),
        singles=singles,
        warnings=tuple(warnings),
        sums=sums,
    )


def _result(
    name: str,
    found: Estimates,
    logged: Estimates,
    against: Estimates | None,
    mix: Mix | None,
    facts: Facts,
    sums: Sums,
    *,
    model_only: bool,
) -> PolicyResult:
    policy = sums.policies[name]
    refused = [] if name == AS_LOGGED else refusals(found, facts)
    warnings = []
    model_alone = bool(refused) and model_only and not policy.chained and not found.went_on
    model_alone &= bool(found.rows)  # of no request a model knows nothing either
    if model_alone:
        warnings = [f"by the direct model alone, since {'; '.join(refused)}"]
        refused = []
    estimators: tuple[str, ...] = ESTIMATORS
    if model_alone:
        estimators = ("direct",)
    seen = {*found.known, "quality"}  # of which `no_quality` says more
    outcomes = [] if refused else [each for each in OUTCOMES if each in seen]
    if not refused and (why := no_cost(found)):
        outcomes = [each for each in outcomes if each != "cost"]
        warnings.append(why)
    if "quality" in outcomes and (why := no_quality(found, facts)):
        outcomes.remove("quality")
        warnings.append(why)
    apart = other_requests(found, facts) if found.rows else None
    if apart:
        warnings.append(
            f"{apart}: its figures are of the others alone, so there is no difference to the log, "
            "to a mix of tiers or to always-baseline"
        )
    elif policy.refused:
        warnings.append(f"it would have refused {policy.refused:,} requests; they are in no figure")
    if 0 < found.unsupported <= MOST_UNSUPPORTED and outcomes:
        warnings.append(
            f"{found.unsupported:.2%} of its decisions had no chance in the log: intervals are "
            "widened by the worst that they can be"
        )
    if found.thin and "cost" in outcomes:
        warnings.append(few_calls(found))
    figures, difference = {}, {}
    best = BEST if BEST in estimators else estimators[-1]
    for outcome in outcomes:
        spread = spread_of(outcome, found)
        scale = NANO_PER_USD if outcome == "cost" else 1
        bounds = (0.0, 1.0) if outcome == "quality" else (0.0, math.inf)
        each = {
            key: shown(found.by_outcome[outcome][key], scale, spread, bounds)
            for key in estimators
            if key in found.by_outcome[outcome]
        }
        figures[outcome] = {**each, BEST: each[best]}
        if apart or (outcome == "cost" and no_cost(logged)):
            continue
        own = logged.by_outcome[outcome]["ips" if outcome == "cost" else "snips"]
        difference[outcome] = shown(
            found.by_outcome[outcome][best].minus(own), scale, spread, (-math.inf, math.inf)
        )
    saved = None
    if "cost" in outcomes and not apart and against is not None and not no_baseline(against, facts):
        change = against.by_outcome["cost"][BEST].minus(found.by_outcome["cost"][best])
        spread = spread_of("cost", found) + spread_of("cost", against)
        saved = shown(change, NANO_PER_USD / found.rows, spread, (-math.inf, math.inf))
    over_mix = None
    both = {"cost", "quality"} <= set(outcomes)
    if mix is not None and both and not apart and not name.startswith(_ALWAYS):
        cost, quality = _costs_and_quality(name, found, best)
        over_mix = shown(quality.minus(mix(cost)), 1, 0.0, (-math.inf, math.inf))
    support = {
        "rows": found.rows,
        "moved": policy.moved,
        "agreed": found.agreed,
        "effective": found.effective,
        "largest_weight": found.largest_weight,
        "unsupported": found.unsupported,
        "unsupported_cost": found.unsupported_cost,
        "thin_cost": found.thin_cost,
        "switch_cut": found.cut,
        "refused_requests": policy.refused,
    }
    return PolicyResult(
        name, figures, difference, saved, over_mix, support, tuple(refused), tuple(warnings)
    )


def _costs_and_quality(name: str, found: Estimates, best: str) -> tuple[Replicates, Replicates]:
    """A policy's cost and quality; the log's own are known, not estimated."""
    cost, quality = (best, best) if name != AS_LOGGED else ("ips", "snips")
    return found.by_outcome["cost"][cost], found.by_outcome["quality"][quality]


def random_mix(singles: Sequence[tuple[Replicates, Replicates]]) -> Mix | None:
    """What the best random mix of single tiers achieves at a cost: their upper hull.

    Parameters: cost and quality of each tier. Returns None for fewer than two tiers. Below the
    cheapest tier's cost the mix is that tier, above the dearest's the best.
    """
    if len(singles) < 2:
        return None
    costs, qualities = (np.stack([each[i].values for each in singles]) for i in (0, 1))

    def at(cost: Replicates) -> Replicates:
        """Every mix of two tiers that costs as much, and every tier that costs no more."""
        best = np.where(costs <= cost.values, qualities, -np.inf).max(axis=0)
        for low, high in permutations(range(len(singles)), 2):
            width = costs[high] - costs[low]
            share = (cost.values - costs[low]) / np.where(width > 0, width, 1.0)
            mixed = (1 - share) * qualities[low] + share * qualities[high]
            inside = (width > 0) & (share >= 0) & (share <= 1)
            best = np.where(inside, np.maximum(best, mixed), best)
        cheapest = qualities[costs.argmin(axis=0), np.arange(costs.shape[1])]
        return Replicates(np.where(np.isfinite(best), best, cheapest))

    return at


def shown(
    found: Replicates, scale: float, spread: float, bounds: tuple[float, float]
) -> dict[str, float]:
    """An estimate for JSON: divided by `scale`, its interval widened by `spread`, within bounds."""
    one = found.estimate(spread, *bounds)
    return {
        "value": one.value / scale,
        "low": one.low / scale,
        "high": one.high / scale,
        "error": one.error / scale,
    }


def _known(figure: dict[str, float]) -> dict[str, float | None]:
    """A figure without the ends of its interval where there are too few conversations for one."""
    sure = math.isfinite(figure["error"])
    return {key: value if sure or key == "value" else None for key, value in figure.items()}


def _of_log(own: PolicyResult) -> dict[str, Any]:
    """What the log itself cost and achieved: its cost is known, its quality as far as labels go."""
    figures = own.figures
    return {
        "cost_per_request_usd": _known(figures["cost"]["ips"]) if "cost" in figures else None,
        "quality": _known(figures["quality"]["snips"]) if "quality" in figures else None,
        "latency_seconds": _known(figures["latency"]["snips"]) if "latency" in figures else None,
        "over_random_mix": own.over_random_mix,
    }


def _baseline(
    facts: Facts,
    own: PolicyResult,
    logged: Estimates,
    against: Estimates | None,
    tier: Tier,
) -> dict[str, Any]:
    """What always-baseline would have cost: honestly, as predicted, and as others report it."""
    spent = None if facts.unpriced == facts.rows else facts.spent / NANO_PER_USD
    predicted = facts.predicted_baseline / NANO_PER_USD
    by_prediction = (facts.predicted_baseline - facts.predicted_spent) / NANO_PER_USD
    by_tokens = (facts.naive - facts.naive_spent) / NANO_PER_USD
    reasons = [f"no arm of tier {tier} is in the log"]
    if against is not None:
        reasons = no_baseline(against, facts)
    honest = None
    if against is not None and not reasons:
        spread = spread_of("cost", against)
        cost = against.by_outcome["cost"][BEST]
        honest = shown(cost, NANO_PER_USD / against.rows, spread, (0.0, math.inf))
    return {
        "tier": tier,
        "spent_usd": spent,
        "honest_usd": honest,
        "saved_usd": own.saved_usd,
        "predicted_usd": predicted,
        "predicted_saved_usd": by_prediction if facts.predicted_rows else None,
        "naive_usd": facts.naive / NANO_PER_USD if facts.naive_rows else None,
        "naive_saved_usd": by_tokens if facts.naive_rows else None,
        "why_not_honest": "; ".join(reasons) or None,
        "why_not_saved": "; ".join(dict.fromkeys([*reasons, *filter(None, [no_cost(logged)])]))
        or None,
    }
