"""What of a policy is searched: its tiers, its objective, and the lengths that its rules ask for.

A candidate is a policy file's content with some values replaced; everything else is the base's.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from router.decide import UNKNOWN
from router.errors import ReplayError
from router.money import NANO_PER_USD
from router.parts import predictor_of
from router.planning.ladder import Ladder
from router.policy import Policy, load_policy
from router.policy.document import read_text
from router.policy.loader import find_policy, text_of
from router.predict.effort import Efforts
from router.prices import PriceBook, load_book
from router.replay.off_policy.batch import LogBatch
from router.replay.off_policy.target import Target, of_policy
from router.types import Tier

if TYPE_CHECKING:
    from router.types import Floats

DIGITS = 3  # of a searched number: it is tried as it will be written
_LENGTHS = ("min_input_tokens", "max_input_tokens")
# The cost weight at which the usual gap in cost between the dearest and the cheapest arm is worth
# a thousandth, and ten times, the whole range of quality: decisions do not change beyond these.
_LEAST_WORTH, _MOST_WORTH = 1e-3, 10.0
_LEAST_KEPT, _MOST_MARGIN = 0.7, 0.3


class Trial(Protocol):
    """What suggests values: the part of `optuna.Trial` that is used."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any: ...
    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float: ...
    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int: ...


@dataclass(frozen=True, slots=True)
class Settings:
    """The searched settings of one candidate. `lengths`: (rule's position, key) → tokens."""

    tiers: tuple[Tier, ...]
    cost_weight: float | None = None
    margin: float | None = None
    keep_quality: float | None = None
    lengths: tuple[tuple[tuple[int, str], int], ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """The settings under the keys that they have in a policy, ready for JSON."""
        objective = {
            key: value
            for key in ("cost_weight", "margin", "keep_quality")
            if (value := getattr(self, key)) is not None
        }
        lengths = {f"rules.{at}.when.{key}": value for (at, key), value in self.lengths}
        return {"tiers": list(self.tiers), "objective": objective, **lengths}


@dataclass(frozen=True, slots=True)
class Base:
    """The policy to begin with: its text and data as they stand in the file, and as a policy."""

    text: str
    file: Path
    data: dict[str, Any]
    policy: Policy
    settings: Settings
    book: PriceBook
    efforts: Efforts
    now: float

    @classmethod
    def read(cls, source: str | Path, now: float) -> Base:
        """Read a policy to be tuned. Raises `PolicyError` for a wrong one, `ReplayError` for one
        whose objective is a promise or a ceiling, which no search may trade away, or whose
        cascade decides by more than a replay does."""
        file, book = find_policy(source), load_book()
        policy = load_policy(source, book=book, now=now)
        objective = policy.objective
        for key, promised in (
            ("confidence", objective.confidence),
            ("max_cost_per_request", objective.max_cost_per_request),
        ):
            if promised is not None:
                raise ReplayError(
                    f"policy {policy.name!r} promises objective.{key}, which a search would trade "
                    "away; tune one with cost_weight or keep_quality"
                )
        if policy.cascade is not None:
            raise ReplayError(
                f"policy {policy.name!r} has a cascade: what a second call is worth decides "
                "the first one, and no replay of first calls can judge that; tune it without"
            )
        text = text_of(file)
        data = read_text(text, str(file)).data
        return cls(
            text=text,
            file=file,
            data=data,
            policy=policy,
            settings=Settings(
                policy.tiers.present,
                objective.cost_weight,
                objective.margin,
                objective.keep_quality,
                tuple(_lengths(policy)),
            ),
            book=book,
            efforts=predictor_of(policy).efforts,
            now=now,
        )

    def content(self, settings: Settings) -> dict[str, Any]:
        """The policy's content with other settings; keys that are not searched stay."""
        data = copy.deepcopy(self.data)
        data["tiers"] = {
            tier: rungs for tier, rungs in data["tiers"].items() if tier in settings.tiers
        }
        if settings != self.settings:
            said = settings.as_dict()["objective"]
            data["objective"] = {key: _decimal(value) for key, value in said.items()}
        rules = [copy.deepcopy(rule) for rule in data.get("rules") or ()]
        for (at, key), value in settings.lengths:
            rules[at]["when"][key] = value
        if rules:
            data["rules"] = tuple(rules)
        return data

    def candidate(self, settings: Settings) -> Policy:
        """The policy with other settings. Raises `PolicyError` where they do not fit together,
        such as a rule that is left without a tier."""
        content = {"name": self.policy.name, **self.content(settings)}
        return load_policy(content, book=self.book, now=self.now)

    def target(self, policy: Policy) -> Target:
        """What a policy decides on logged requests."""
        return of_policy(Ladder.of(policy, self.book, self.efforts))


def _lengths(policy: Policy) -> Iterator[tuple[tuple[int, str], int]]:
    """The lengths that rules ask for; "at least 0" holds for all, and is no threshold."""
    for at, rule in enumerate(policy.rules):
        for key in _LENGTHS:
            if value := getattr(rule.when, key):
                yield (at, key), value


def _decimal(value: float) -> Decimal:
    return Decimal(repr(value))


def rounded(value: float) -> float:
    """A number with `DIGITS` digits."""
    return float(f"{value:.{DIGITS}g}")


@dataclass(frozen=True, slots=True)
class Space:
    """Between which bounds settings are searched.

    `droppable`: tiers that may be left out; `kinds`: of objective; `weights`, `kept`, `lengths`:
    the bounds of cost weights, of keep_quality, and of tokens.
    """

    base: Settings
    droppable: tuple[Tier, ...]
    kinds: tuple[str, ...]
    weights: tuple[float, float]
    kept: tuple[float, float]
    margins: tuple[float, float] | None
    lengths: tuple[int, int]

    @classmethod
    def of(cls, base: Base, batches: Sequence[LogBatch]) -> Space:
        """The bounds that a policy and a log ask for. The base's own values are within them.

        Raises `ReplayError` where the costs of all arms are unknown.
        """
        policy, own = base.policy, base.settings
        judge = None if policy.judge == type(policy.judge)() else policy.judge_arm().tier
        gap = _usual_gap(batches)
        weight = own.cost_weight or 0.0
        low, high = rounded(_LEAST_WORTH / gap), rounded(_MOST_WORTH / gap)
        tokens = np.concatenate([batch.input_tokens for batch in batches])
        known = tokens[np.isfinite(tokens)]
        # A threshold above every prompt turns its rule off, or on; both may be found.
        most = int(known.max(initial=1)) + 1
        values = [value for _, value in own.lengths]
        return cls(
            base=own,
            droppable=tuple(t for t in own.tiers if t not in (policy.baseline, judge)),
            kinds=("cost_weight",) if policy.pacing else ("cost_weight", "keep_quality"),
            weights=(min(low, weight / 10) if weight else low, min(max(high, 10 * weight), 1e9)),
            kept=(min(_LEAST_KEPT, own.keep_quality or 1.0), 1.0),
            margins=None if policy.pacing else (0.0, max(_MOST_MARGIN, own.margin or 0.0)),
            lengths=(1, max(most, *values, 2)),
        )

    def suggest(self, trial: Trial) -> Settings:
        """The settings of a trial."""
        kept = [
            tier
            for tier in self.base.tiers
            if tier not in self.droppable
            or trial.suggest_categorical(f"keep {tier}", (True, False))
        ]
        found = Settings(tuple(kept), lengths=tuple(self._lengths(trial)))
        if trial.suggest_categorical("objective", self.kinds) == "keep_quality":
            return replace(
                found, keep_quality=rounded(trial.suggest_float("keep_quality", *self.kept))
            )
        weight = rounded(trial.suggest_float("cost_weight", *self.weights, log=True))
        margin = None
        if self.margins and trial.suggest_categorical("gate", (False, True)):
            margin = rounded(trial.suggest_float("margin", *self.margins)) or None
        return replace(found, cost_weight=weight, margin=margin)

    def _lengths(self, trial: Trial) -> Iterator[tuple[tuple[int, str], int]]:
        least: dict[int, int] = {}
        for (at, key), _ in self.base.lengths:
            low, high = self.lengths
            # A rule's upper length is searched from its lower one on.
            value = trial.suggest_int(f"rules.{at}.{key}", low, high, log=True)
            if key == "min_input_tokens":
                least[at] = value
            yield (at, key), max(value, least.get(at, 0))

    def parameters(self, settings: Settings) -> dict[str, Any]:
        """The suggestions that would lead to these settings."""
        found: dict[str, Any] = {f"keep {tier}": tier in settings.tiers for tier in self.droppable}
        found |= {f"rules.{at}.{key}": value for (at, key), value in settings.lengths}
        if settings.keep_quality is not None:
            return {**found, "objective": "keep_quality", "keep_quality": settings.keep_quality}
        weight = max(settings.cost_weight or 0.0, self.weights[0])
        found |= {"objective": "cost_weight", "cost_weight": weight}
        if self.margins:
            found["gate"] = bool(settings.margin)
            if settings.margin:
                found["margin"] = settings.margin
        return found


def _usual_gap(batches: Sequence[LogBatch]) -> float:
    """The median over requests of the gap in expected cost between arms, in US dollars."""
    gaps: list[Floats] = []
    for batch in batches:
        known = batch.expected != UNKNOWN
        dearest = np.where(known, batch.expected, 0).max(axis=1)
        cheapest = np.where(known, batch.expected, np.iinfo(np.int64).max).min(axis=1)
        gap = (dearest - cheapest)[known.any(axis=1)].astype(np.float64)
        gaps.append(gap[gap > 0])
    every = np.concatenate(gaps) if gaps else np.zeros(0)
    if not every.size:
        raise ReplayError("no request of the log has known costs that differ between arms")
    return max(float(np.median(every)), 1.0) / NANO_PER_USD
