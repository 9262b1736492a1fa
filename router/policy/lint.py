"""What is allowed in a policy but probably not meant: findings, never errors.

Prices are compared for one prompt of n tokens and an answer of the same length from each model;
how long a model's answers really are is for the predictor. Between the lengths at which a price or
a deployment changes, cost is linear in n, so an order that holds at both ends holds between them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

from router.money import format_usd
from router.prices import Price, quote
from router.types import TIERS, Arm, Tier

if TYPE_CHECKING:
    from router.policy.deployment import Deployment
    from router.policy.schema import Policy
    from router.prices import PriceBook

USUAL_PROMPT = 1000  # tokens of a prompt, for what one reservation takes of a paced budget
ANSWER_TOKENS = 500  # the answer's length at which whole calls are compared
PACED_CALLS = 50  # reservations that a paced budget should hold, to be used to 98%
LONGEST_PROMPT = 1_000_000  # tokens; where no window is known
_FLAGS = ("vision", "audio", "files", "tools", "structured_output")

Cost = Callable[[int], int | None]  # nano-USD by prompt tokens; None where nothing can take them


@dataclass(frozen=True, slots=True)
class Finding:
    """Something worth a look: a "warning" may cost money or quality, a "note" is to be known."""

    severity: Literal["warning", "note"]
    key: str
    message: str


@dataclass(frozen=True, slots=True)
class _Option:
    """One deployment with what is known of it."""

    arm: Arm
    deployment: Deployment
    price: Price | None
    known: dict[str, Any]
    now: float

    @property
    def key(self) -> str:
        return f"tiers.{self.arm.tier}.{self.arm.deployment}"

    @property
    def window(self) -> int:
        return self.known.get("context_window") or LONGEST_PROMPT

    def cost(self, prompt: int, answer: int = ANSWER_TOKENS) -> int | None:
        """Nano-USD for one call, None where the price is unknown."""
        return quote(
            self.price,
            input_tokens=prompt,
            output_tokens=answer,
            input_bound=prompt,
            output_cap=answer,
            service_tier=self.deployment.service_tier,
            now=self.now,
        ).expected

    def turning_points(self) -> Iterator[int]:
        """Prompt lengths next to which the price changes, or the window ends."""
        yield self.window
        for more_than, _, _ in self.price.bands() if self.price is not None else ():
            yield more_than


def lint(policy: Policy, book: PriceBook, now: float) -> list[Finding]:
    """Return what is probably not meant in a policy, by `book`'s prices at `now` (unix seconds)."""
    options = [_option(policy.deployment(arm), arm, book, now) for arm in policy.arms()]
    found = [
        *_unknown(options, policy),
        *_efforts(options),
        *_dominated(options),
        *_flips(options, policy),
        *_baseline(options, policy),
        *_promises(policy),
        *_models(policy),
        *_paced(options, policy),
        *_cascades(policy),
        *_conversations(options, policy),
        *_deferred(options, policy),
    ]
    return list(dict.fromkeys(found))  # efforts and votes are further arms of one deployment


def _option(deployment: Deployment, arm: Arm, book: PriceBook, now: float) -> _Option:
    known = dict(book.capabilities(deployment.model) or {})
    known.update(deployment.capabilities.model_dump(exclude_none=True))
    return _Option(arm, deployment, deployment.price_at(book, now), known, now)


def _unknown(options: Sequence[_Option], policy: Policy) -> Iterator[Finding]:
    for option in options:
        model = option.arm.model
        if option.price is None:
            tier = option.deployment.service_tier
            what = f"service tier {tier} of {model} has" if tier else f"{model} has"
            effect = "it is never called" if policy.limited else "its cost counts as unknown"
            yield Finding("warning", option.key, f"{what} no known price; {effect}")
        missing = [name for name in (*_FLAGS, "context_window") if option.known.get(name) is None]
        if missing:
            yield Finding(
                "warning",
                f"{option.key}.capabilities",
                f"of {model} it is not known: {', '.join(missing)}; what is not known is not used, "
                "and a window that is not known is not guarded",
            )


def _efforts(options: Sequence[_Option]) -> Iterator[Finding]:
    for option in options:
        effort, listed = option.arm.effort, option.known.get("efforts")
        if effort is not None and listed is not None and effort not in listed:
            has = "takes only " + ", ".join(listed) if listed else "takes no reasoning effort"
            message = f"effort {effort} is not known of {option.arm.model}, which {has}"
            key = "efforts" if option.deployment.efforts else "effort"
            yield Finding("warning", f"{option.key}.{key}", message)


def _dominated(options: Sequence[_Option]) -> Iterator[Finding]:
    for option in options:
        for other in options:
            if other is option or _rank(other) < _rank(option):
                continue
            if not (_always_dearer(option, other) and _no_more_capable(option, other)):
                continue
            stands_in = other.arm.tier == option.arm.tier and (
                other.arm.deployment < option.arm.deployment
            )
            yield Finding(
                "note" if stands_in else "warning",
                option.key,
                f"{option.arm.model} is dearer per token than {other.arm.model} ({other.key}) at "
                "every prompt length and can do nothing more"
                + ("; it only stands in for it" if stands_in else ""),
            )
            break


def _rank(option: _Option) -> int:
    return TIERS.index(option.arm.tier)


def _always_dearer(option: _Option, other: _Option) -> bool:
    points = _points([option, other], min(option.window, other.window))
    # Cost is linear in the answer's length too: no answer and a very long one decide.
    pairs = [
        (option.cost(prompt, answer), other.cost(prompt, answer))
        for prompt in points
        for answer in (0, LONGEST_PROMPT)
    ]
    known = [(mine, its) for mine, its in pairs if mine is not None and its is not None]
    never_cheaper = len(known) == len(pairs) and all(mine >= its for mine, its in known)
    return never_cheaper and any(mine > its for mine, its in known)


def _no_more_capable(option: _Option, other: _Option) -> bool:
    mine, its = option.known, other.known
    if any(mine.get(flag) is not False and its.get(flag) is not True for flag in _FLAGS):
        return False
    sizes = ("context_window", "max_output_tokens")
    return all((its.get(size) or 0) >= (mine.get(size) or LONGEST_PROMPT) for size in sizes)


def _flips(options: Sequence[_Option], policy: Policy) -> Iterator[Finding]:
    present = policy.tiers.present
    for low, high in pairwise(present):
        both = [option for option in options if option.arm.tier in (low, high)]
        for span in _dearer(_tier_cost(options, low), _tier_cost(options, high), _points(both)):
            message = f"{low} is dearer than {high} {_words(span)}"
            yield Finding("warning", f"tiers.{low}", message)


def _baseline(options: Sequence[_Option], policy: Policy) -> Iterator[Finding]:
    base = policy.baseline
    leader = _tier_cost(options, base)
    for option in options:
        if option.arm.tier == base:
            continue
        points = _points([option, *(each for each in options if each.arm.tier == base)])
        for span in _dearer(_tier_cost([option], option.arm.tier), leader, points):
            message = (
                f"the baseline {base} is not the dearest: {option.arm.model} ({option.key}) costs "
                f"more {_words(span)}, so savings can be negative"
            )
            yield Finding("warning", "baseline", message)


def _promises(policy: Policy) -> Iterator[Finding]:
    if policy.objective.keep_quality is not None and policy.objective.confidence is None:
        message = (
            "without confidence, keep_quality compares predictions and promises nothing; with "
            "confidence: 0.95 it is certified on the predictor's calibration queries, of which the "
            "shipped one has none"
        )
        yield Finding("note", "objective.keep_quality", message)
    if policy.objective.confidence is not None and policy.predictor is None:
        message = (
            "the shipped predictor carries no calibration queries, so nothing but always-baseline "
            "can be promised: `router train` makes one that does"
        )
        yield Finding("warning", "objective.confidence", message)


def _models(policy: Policy) -> Iterator[Finding]:
    """Models of one's own that are not where the policy says."""
    paths = (("predictor", policy.predictor_path), ("cascade.verifier", policy.verifier_path))
    for key, path in paths:
        if path is not None and not (path / "model.json").is_file():
            message = f"there is no {path / 'model.json'}; no router starts with this policy here"
            yield Finding("warning", f"{key}.path", message)


def _paced(options: Sequence[_Option], policy: Policy) -> Iterator[Finding]:
    """A reservation that is a large part of a paced budget: once less is left, it cannot be used
    for that model, so some of the budget is left over at the window's end."""
    if policy.pacing is None:
        return
    budget = next(b for b in policy.budget_list() if b.name == policy.pacing.budget)
    largest, model = 0, ""
    for option in options:
        cap = option.deployment.max_output_tokens or policy.limits.max_output_tokens
        reserved = option.cost(USUAL_PROMPT, min(cap, option.known.get("max_output_tokens") or cap))
        if reserved is not None and reserved > largest:
            largest, model = reserved, option.arm.model
    if budget.limit is not None and largest * PACED_CALLS > budget.limit:
        message = (
            f"one call to {model} reserves {format_usd(largest)}, more than a {PACED_CALLS}th of "
            f"budget {budget.name!r}: about as much may be left over at its window's end; a "
            "smaller max_output_tokens reserves less"
        )
        yield Finding("note", "pacing.budget", message)


def _cascades(policy: Policy) -> Iterator[Finding]:
    """What a cascade costs that its author may not think of."""
    asked = policy.cascade
    if asked is None:
        return
    tiers = len(policy.tiers.present)
    if tiers < asked.max_steps:
        message = f"{asked.max_steps} calls, but there are {tiers} tiers to go up by"
        yield Finding("note", "cascade.max_steps", message)
    if policy.objective.cost_weight == 0:
        message = "at cost_weight 0 nearly every request calls max_steps tiers"
        yield Finding("warning", "cascade", message)
    if asked.stream == "buffer":
        message = "a stream's first chunk comes when its last answer is complete, and no sooner"
        yield Finding("note", "cascade.stream", message)
    if asked.gate == "structural":
        message = (
            "by form and agreement few bad answers are told from good ones where requests have "
            "neither tools nor a response schema, nor answers that can be compared; a verifier "
            "learns from recorded answers"
        )
        yield Finding("note", "cascade.gate", message)


def _conversations(options: Sequence[_Option], policy: Policy) -> Iterator[Finding]:
    """What is said of conversations and can have no effect, or one that is not expected."""
    for option in options:
        rates = option.price.rates if option.price is not None else None
        said = option.deployment.cache_seconds
        if said and rates is not None and rates.cache_read >= rates.input:
            message = f"the price of {option.arm.model} has no cheaper rate for cached tokens"
            yield Finding("note", f"{option.key}.cache_seconds", message)
    compaction = policy.compaction
    if compaction is None:
        return
    if not policy.conversations.remember:
        message = "without conversations that are remembered nothing is compacted"
        yield Finding("warning", "conversations.remember", message)
    if not policy.log.content:
        message = (
            "the log keeps no text, so what compaction leaves out is only in the caller's own "
            "messages; log: {content: true} keeps the original"
        )
        yield Finding("note", "compaction", message)


def _deferred(options: Sequence[_Option], policy: Policy) -> Iterator[Finding]:
    """What may be waited for that no deployment has a price for."""
    asked = policy.deferred
    prices = [option.price for option in options if option.price is not None]
    if asked is None:
        return
    for key in ("flex", "batch"):
        if getattr(asked, key) and not any(key in price.multipliers for price in prices):
            yield Finding("warning", f"deferred.{key}", f"no deployment has a {key} price")
    if asked.off_peak and not any(price.off_peak for price in prices):
        yield Finding("warning", "deferred.off_peak", "no deployment has off-peak prices")


def _tier_cost(options: Sequence[_Option], tier: Tier) -> Cost:
    """The cost of the deployment that leads a tier: the first that can hold the prompt."""
    own = [option for option in options if option.arm.tier == tier and option.price is not None]

    def cost(prompt: int) -> int | None:
        leader = next((option for option in own if option.window >= prompt), None)
        return leader.cost(prompt) if leader is not None else None

    return cost


def _points(options: Sequence[_Option], longest: int | None = None) -> list[int]:
    """Prompt lengths, in order, between neighbours of which every cost is linear."""
    edges = {0, *(point for option in options for point in option.turning_points())}
    top = max(option.window for option in options) if longest is None else longest
    return sorted({n for edge in edges for n in (edge, edge + 1) if 1 <= n <= top})


def _dearer(one: Cost, other: Cost, points: Sequence[int]) -> Iterator[tuple[int, int | None]]:
    """Yield each stretch of prompt lengths where `one` costs more: (first, last or None)."""

    def is_dearer(prompt: int) -> bool:
        mine, its = one(prompt), other(prompt)
        return mine is not None and its is not None and mine > its

    start: int | None = points[0] if is_dearer(points[0]) else None
    for left, right in pairwise(points):
        before = is_dearer(left)
        if before == is_dearer(right):
            continue
        while right - left > 1:
            middle = (left + right) // 2
            left, right = (middle, right) if is_dearer(middle) == before else (left, middle)
        if start is None:
            start = right
        else:
            yield start, left
            start = None
    if start is not None:
        yield start, None


def _words(span: tuple[int, int | None]) -> str:
    first, last = span
    if last is None:
        return "at every prompt length" if first == 1 else f"from {first:,} prompt tokens"
    return f"{'up' if first == 1 else f'from {first:,}'} to {last:,} prompt tokens"
