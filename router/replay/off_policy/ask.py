"""From policy files to a question about a log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from router.errors import ReplayError, UnknownPrice
from router.parts import predictor_of
from router.planning.certified import PromisedLadder
from router.planning.ladder import Ladder
from router.policy import load_policy
from router.prices import Dated, load_book, quote
from router.replay.off_policy.measure import Question
from router.replay.off_policy.replay import question_of
from router.replay.off_policy.target import Named, of_policy
from router.types import TIERS, Tier

if TYPE_CHECKING:
    from router.policy import Policy
    from router.predict import Predictor
    from router.prices import Price
    from router.types import Budget

_TOKENS = 1000  # by which a price per token is found: that of ordinary prompts


@dataclass(frozen=True, slots=True)
class Asked:
    """A question, with the baseline tier of its first policy, notes for the reader, and by its name
    in the answer each policy's `budgets`, which are left out."""

    question: Question
    baseline: Tier
    notes: tuple[str, ...]
    budgets: Mapping[str, tuple[Budget, ...]]


def ask(sources: Sequence[str], now: float) -> Asked:
    """Load policies (files, or names of shipped ones) and ask about them.

    Raises `PolicyError` for a wrong policy, `ReplayError` for one that no log can answer, or two
    that are the same.
    """
    policies = [load_policy(source) for source in sources]
    ladders = [ladder_of(policy, now) for policy in policies]
    named: list[Named] = []
    for policy, ladder in zip(policies, ladders, strict=True):
        if any(each.stamp == policy.hash for each in named):
            raise ReplayError(f"policy {policy.name!r} is asked about twice")
        taken = any(each.name == policy.name for each in named)
        name = policy.stamp if taken else policy.name
        named.append(Named(name, of_policy(ladder), policy.hash))
    first = ladders[0] if ladders else None
    tiers = [tier for tier in TIERS if any(tier in p.tiers.present for p in policies)] or TIERS
    price = None if first is None else _per_token(first.prices[first.baseline_arms[0]])
    question = question_of(named, tiers, price)
    budgets = {
        each.name: policy.budget_list() for each, policy in zip(named, policies, strict=True)
    }
    baseline = policies[0].baseline if policies else "frontier"
    return Asked(question, baseline, notes(policies), budgets)


def ladder_of(policy: Policy, now: float, predictor: Predictor | None = None) -> Ladder:
    """What a policy decides by at `now`, its promise certified where it makes one. `predictor` is
    its own, where that is loaded already."""
    predictor = predictor or predictor_of(policy)
    ladder = Ladder.of(policy, load_book(), predictor.efforts)
    return PromisedLadder(ladder, predictor, now).at(now)[0]


def notes(policies: Sequence[Policy], *, on_log: bool = True) -> tuple[str, ...]:
    """What of a policy is left out when it is replayed, on a log or on recorded outcomes."""
    found = []
    for policy in policies:
        left = [
            what
            for what, has in (
                ("its budgets", bool(policy.budgets)),
                ("its pacing", policy.pacing is not None),
                ("its exploring", policy.explore is not None),
                (
                    "its own predictor (the log's predictions stand)",
                    on_log and policy.predictor is not None,
                ),
            )
            if has
        ]
        if left:
            found.append(f"{policy.name}: replayed without {', '.join(left)}")
    return tuple(dict.fromkeys(found))


def _per_token(prices: Dated[Price]) -> Dated[tuple[float, float]] | None:
    """Nano-USD per token of input and of output, of ordinary prompts."""

    def cost(price: Price, read: int, written: int) -> float:
        found = quote(
            price,
            input_tokens=read,
            output_tokens=written,
            input_bound=read,
            output_cap=written,
            now=0.0,
        ).expected
        return (found or 0) / _TOKENS

    try:
        values = tuple((cost(p, _TOKENS, 0), cost(p, 0, _TOKENS)) for p in prices.values)
    except UnknownPrice:
        return None
    return Dated(prices.starts, values) if values else None
