"""A log in memory, cut into days to search on and days to judge on.

A search replays a log hundreds of times, so it is read once, up to a number of rows; of a longer
log whole conversations are kept by their hash, the same ones in every run.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from router.errors import ReplayError
from router.replay.off_policy.batch import LogBatch
from router.replay.off_policy.estimate import Estimates, estimate
from router.replay.off_policy.looks import joined as joined_looks
from router.replay.off_policy.measure import Question, Sums, measure
from router.replay.off_policy.paired import Moves, Paired, difference
from router.replay.off_policy.path import Path, add_policy, path_of
from router.replay.off_policy.sums import PolicySums, rows_of
from router.replay.off_policy.support import refuse_log

if TYPE_CHECKING:
    from router.replay.off_policy.target import Target
    from router.types import Ints

MOST_ROWS = 250_000  # held in memory: about 350 bytes each with four arms
DAY = 86_400.0
BASE, CANDIDATE = "the base", "the candidate"


@dataclass(frozen=True, slots=True)
class InMemory:
    """What was kept of a log: batches, each of another set of arms, out of `rows` rows."""

    batches: tuple[LogBatch, ...]
    rows: int

    @property
    def kept(self) -> int:
        """How many rows were kept."""
        return sum(map(len, self.batches))


def keep(batches: Iterable[LogBatch], most: int = MOST_ROWS) -> InMemory:
    """Hold a log in memory: all of it up to `most` rows, else a sample of its conversations.

    The sample is of the conversations with the least hashes, so it depends on nothing but the log.
    """
    held: list[LogBatch] = []
    limit, rows, count = 2**32, 0, 0
    for batch in batches:
        rows += len(batch)
        held.append(_below(batch, limit))
        count += len(held[-1])
        while count > most and limit > 1:
            limit //= 2
            held = [_below(each, limit) for each in held]
            count = sum(map(len, held))
    return InMemory(joined([each for each in held if len(each)]), rows)


def _below(batch: LogBatch, limit: int) -> LogBatch:
    if limit == 2**32:
        return batch
    # The lowest bits deal conversations into groups; the sample goes by all of a mixed hash.
    mixed = (batch.cluster.astype(np.uint64) * np.uint64(0x9E3779B1)) & np.uint64(0xFFFFFFFF)
    return batch.take(np.flatnonzero(mixed < np.uint64(limit)))


def joined(batches: Sequence[LogBatch]) -> tuple[LogBatch, ...]:
    """The same rows in as few batches as there are sets of arms: arrays are long, loops short."""
    by_arms: dict[Any, list[LogBatch]] = {}
    for batch in batches:
        by_arms.setdefault(batch.arms, []).append(batch)
    return tuple(_concatenated(each) for each in by_arms.values())


def _concatenated(batches: Sequence[LogBatch]) -> LogBatch:
    first = batches[0]
    if len(batches) == 1:
        return first
    parts: dict[str, Any] = {}
    for field in fields(LogBatch):
        values = [getattr(batch, field.name) for batch in batches]
        if field.name == "arms":
            parts["arms"] = first.arms
        elif field.name == "looks":
            parts["looks"] = joined_looks([(b.looks, len(b)) for b in batches], len(first.arms))
        elif isinstance(values[0], tuple):
            words = list(dict.fromkeys(word for _, known in values for word in known))
            place = {word: at for at, word in enumerate(words)}
            codes = [
                np.array([place[word] for word in known], dtype=np.int64)[code]
                for code, known in values
            ]
            parts[field.name] = (np.concatenate(codes), words)
        elif any(value is None for value in values):
            parts[field.name] = None
        else:
            parts[field.name] = np.concatenate(values)
    return LogBatch(**parts)


@dataclass(frozen=True, slots=True)
class Cut:
    """Where a log is cut: `at`, unix seconds, the beginning of the first day that is held out;
    `dropped`, rows of those days whose conversations began before."""

    first: float
    at: float
    last: float
    dropped: int


def cut(
    log: InMemory, *, days: int | None = None, share: float | None = None
) -> tuple[tuple[LogBatch, ...], tuple[LogBatch, ...], Cut]:
    """Cut a log into training days and, after them, held-out days (UTC).

    Parameters: `days`, how many days are held out; or `share`, at least which share of the rows,
    in whole days. Conversations that began in training days are left out of the held-out ones.
    Raises `ReplayError` for a log of too few days.
    """
    if not log.kept:
        raise ReplayError("the log has no decision that can be replayed")
    time = np.concatenate([batch.time for batch in log.batches])
    day = np.floor(time / DAY)
    first, last = float(day.min()), float(day.max())
    if last == first:
        raise ReplayError("the log has a single day (UTC): there is none to hold out")
    if days is None:
        wanted = (0.3 if share is None else share) * len(day)
        each, counts = np.unique(day, return_counts=True)
        enough = np.flatnonzero(counts[::-1].cumsum()[::-1] >= wanted)
        start = float(each[enough[-1]])
    else:
        start = last - days + 1
    if start <= first:
        held = f"{days} days" if days is not None else f"{share:.0%} of the rows, in whole days"
        raise ReplayError(
            f"the log has {int(last - first) + 1} days; with {held} held out none is left to search"
        )
    at = start * DAY
    training = tuple(_rows(batch, batch.time < at) for batch in log.batches)
    held_out = tuple(_rows(batch, batch.time >= at) for batch in log.batches)
    seen = np.unique(np.concatenate([batch.cluster for batch in training]))
    fresh = tuple(_rows(batch, ~np.isin(batch.cluster, seen)) for batch in held_out)
    dropped = sum(map(len, held_out)) - sum(map(len, fresh))
    if not any(map(len, fresh)):
        raise ReplayError("every conversation of the held-out days began before them")
    where = Cut(float(time.min()), at, float(time.max()), dropped)
    return _some(training), _some(fresh), where


def _some(batches: Sequence[LogBatch]) -> tuple[LogBatch, ...]:
    return tuple(batch for batch in batches if len(batch))


def _rows(batch: LogBatch, which: Any) -> LogBatch:
    return batch.take(np.flatnonzero(which))


class Stretch:
    """Some days of a log in memory, against one base policy.

    What does not depend on the policy that is asked about is summed up once.
    Raises `ReplayError` where the log cannot be used, or not for the base policy.
    """

    def __init__(
        self, batches: Sequence[LogBatch], base: Target, cost_weight: float | None = None
    ) -> None:
        kept: list[LogBatch] = []
        sums = measure(batches, Question(()), lambda batch, decided: kept.append(batch))
        refuse_log(sums.facts)
        self._sums, self._batches = sums, kept
        self._rows = [rows_of(batch) for batch in kept]
        self._cost_weight = cost_weight
        self._base = self.decided(base)
        self._base_sums = self._policy_sums(self._base)
        self._base_found = estimate(sums.logged, self._base_sums)
        self.base = self.compare(self._base)  # the base with itself: its own figures and support

    @property
    def rows(self) -> int:
        """How many decisions there are."""
        return self._sums.facts.rows

    @property
    def sums(self) -> Sums:
        """What the log says, whatever the policy."""
        return self._sums

    def decided(self, target: Target) -> list[Ints | Path]:
        """What a policy decides on each batch."""
        return [target(batch) for batch in self._batches]

    def same(self, one: Sequence[Ints | Path], other: Sequence[Ints | Path]) -> bool:
        """Whether two policies without cascades decide every request alike."""
        firsts = [(path_of(a).first, path_of(b).first) for a, b in zip(one, other, strict=True)]
        return all(np.array_equal(a, b) for a, b in firsts)

    def compare(self, decided: Sequence[Ints | Path]) -> Paired:
        """What a policy that decides so would have changed, against the base."""
        mine = self._policy_sums(decided)
        found: dict[str, Estimates] = {
            BASE: self._base_found,
            CANDIDATE: estimate(self._sums.logged, mine),
        }
        moves = Moves(BASE, CANDIDATE)
        for batch, old, new in zip(self._batches, self._base, decided, strict=True):
            moves.add(batch, old, new)
        both = replace(self._sums, policies={BASE: self._base_sums, CANDIDATE: mine})
        return difference(both, found, BASE, CANDIDATE, moves, self._cost_weight)

    def _policy_sums(self, decided: Sequence[Ints | Path]) -> PolicySums:
        sums = PolicySums()
        for batch, rows, target in zip(self._batches, self._rows, decided, strict=True):
            add_policy(sums, batch, rows, target)
        return sums
