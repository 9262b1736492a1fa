"""Reading a log once, for any number of policies: its sums, part by part."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from router.prices import Dated
from router.replay.off_policy.batch import LogBatch
from router.replay.off_policy.facts import Facts, keys_of
from router.replay.off_policy.path import Path, add_policy, as_logged
from router.replay.off_policy.sums import (
    LOGGED,
    PolicySums,
    Tally,
    add_logged,
    rows_of,
)
from router.replay.off_policy.target import Named

if TYPE_CHECKING:
    from router.types import Ints

AS_LOGGED = "as logged"
Watch = Callable[[LogBatch, Mapping[str, "Ints | Path"]], None]


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of a log: the policies, and nano-USD per token of input and output of the
    baseline at each time, None where it is not known."""

    policies: tuple[Named, ...]
    baseline_price: Dated[tuple[float, float]] | None = None


@dataclass(slots=True)
class Sums:
    """What a log, or a part of it, says of every policy."""

    logged: Tally = field(default_factory=lambda: Tally(LOGGED))
    policies: dict[str, PolicySums] = field(default_factory=dict)
    facts: Facts = field(default_factory=Facts)

    def merge(self, other: Sums) -> None:
        """Add a later part."""
        self.logged.merge(other.logged)
        self.facts.merge(other.facts)
        for name, sums in other.policies.items():
            self.policies.setdefault(name, PolicySums()).merge(sums)


def measure(
    batches: Iterable[LogBatch], question: Question, watch: Watch = lambda batch, decided: None
) -> Sums:
    """The sums of some batches. Rows that stand twice in one batch count once.

    `watch` is called with each batch and what each policy decided on it, by name: for what sums do
    not tell, such as which requests are decided otherwise.
    """
    sums = Sums(policies={name: PolicySums() for name in (AS_LOGGED, *_names(question.policies))})
    for batch in batches:
        once = _once(batch)
        sums.facts.twice += len(batch) - len(once)
        sums.facts.add(once)
        _add_naive(sums.facts, once, question.baseline_price)
        rows = rows_of(once)
        add_logged(sums.logged, once, rows)
        own = rows_of(once, as_logged=True)
        add_policy(sums.policies[AS_LOGGED], once, own, as_logged(once))
        decided = {policy.name: policy.decide(once) for policy in question.policies}
        for name, target in decided.items():
            add_policy(sums.policies[name], once, rows, target)
        watch(once, decided)
    return sums


def _names(policies: Sequence[Named]) -> list[str]:
    return [policy.name for policy in policies]


def _once(batch: LogBatch) -> LogBatch:
    _, first = np.unique(keys_of(batch), return_index=True)
    return batch if len(first) == len(batch) else batch.take(np.sort(first))


def _add_naive(facts: Facts, batch: LogBatch, price: Dated[tuple[float, float]] | None) -> None:
    """Sum up the figure that others report: the chosen models' tokens at the baseline's price."""
    if price is None:
        return
    known = np.isfinite(batch.billed_input) & np.isfinite(batch.billed_output)
    known &= np.isfinite(batch.cost)  # to be held against what was spent
    place = np.searchsorted(np.array(price.starts), batch.time[known], side="right") - 1
    each = np.array(price.values)[np.maximum(place, 0)]
    facts.naive += float(
        (each[:, 0] * batch.billed_input[known] + each[:, 1] * batch.billed_output[known]).sum()
    )
    facts.naive_rows += int(known.sum())
    facts.naive_spent += float(batch.cost[known].sum())


def merged(parts: Iterable[Sums], progress: Callable[[int], None] = lambda rows: None) -> Sums:
    """The sums of a log from those of its parts, added in their order, so that whoever computed
    them the figures are the same to the last digit."""
    total = Sums()
    for part in parts:
        total.merge(part)
        progress(total.facts.rows)
    return total
