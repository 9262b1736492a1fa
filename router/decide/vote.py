"""What a vote of several samples of one model is worth, before it and while it is counted. Pure.

Samples of one request are alike: its chance p of a good sample is drawn once, from a Beta
distribution around the predicted P(good) q with concentration c, and good samples all say the
same. Bad ones are spread evenly over `WRONG_VALUES` other answers. So k good of N come as a Pólya
urn, and by Bayes the answer that n_v of N samples gave is the right one with weight

    w_v = B(qc + n_v, (1 - q)c + N - n_v) WRONG_VALUES^-(N - n_v)

against the other answers' weights and those of the ones nobody gave. Drawing stops as soon as the
leader is right with probability `sure`, or cannot be overturned: the Bayesian form of adaptive
consistency (arXiv:2305.11860), with the prediction as its prior.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from router.types import Floats

WRONG_VALUES = 3  # judgement: what a multiple choice of four has; more would make votes surer
UNANIMOUS, MAJORITY, OPEN = range(3)  # how a vote ended: its signal to a cascade
GRID = np.linspace(0.01, 0.99, 50)


@dataclass(frozen=True, slots=True)
class VoteRule:
    """How a vote is held: `samples` at most; all `at_once`, or as many at a time as could decide;
    until the leader is right with probability `sure`. `concentration` c as above."""

    samples: int
    at_once: bool
    sure: float
    concentration: float

    def leader_good(self, quality: float, counts: Sequence[int]) -> float:
        """P(the leading answer is right), by the predicted P(good) of one sample and how many
        samples gave each answer, most first."""
        total = sum(counts)
        weights = [self._weight(quality, given, total) for given in counts]
        nobodys = max(WRONG_VALUES + 1 - len(counts), 0) * self._weight(quality, 0, total)
        return weights[0] / (sum(weights) + nobodys)

    def decided(self, quality: float, counts: Sequence[int]) -> bool:
        """Whether a vote ends at these counts, most first."""
        total = sum(counts)
        if total >= self.samples:
            return True
        if total < 2:
            return False
        second = counts[1] if len(counts) > 1 else 0
        # A tie is won by who came first, so being level with all that is left is enough.
        overturned = second + self.samples - total > counts[0]
        return not overturned or self.leader_good(quality, counts) >= self.sure

    def wanted(self, quality: float, counts: Sequence[int]) -> int:
        """How many more samples to ask for: the fewest that could decide; 0 where it is decided."""
        total = sum(counts)
        if total and self.decided(quality, counts):
            return 0
        if self.at_once:
            return self.samples - total
        first, *others = counts or (0,)
        for more in range(1, self.samples - total + 1):
            if self.decided(quality, (first + more, *others)):
                return more
        return self.samples - total

    def _weight(self, quality: float, given: int, total: int) -> float:
        good, bad = quality * self.concentration, (1 - quality) * self.concentration
        found = 1.0
        for number in range(total):
            side = good + number if number < given else bad + number - given
            found *= side / (self.concentration + number)
        return found / float(WRONG_VALUES) ** (total - given)


@dataclass(frozen=True, slots=True)
class VoteValue:
    """What votes under a rule come to, at P(good) of one sample `quality` (G,): `good` (G,) of the
    answer handed out, `calls` (G,) the mean number of samples that are paid for, and `signals`
    (2, K): the chance of each ending of a vote whose answer was bad, and was good."""

    quality: Floats
    good: Floats
    calls: Floats
    signals: Floats


@lru_cache(maxsize=64)
def value_of(rule: VoteRule) -> VoteValue:
    """Enumerate every way that a vote may go."""
    good, calls = np.zeros((2, len(GRID)))
    signals = np.zeros((2, 3))
    for at, quality in enumerate(GRID.tolist()):
        for chance, right, wrong in _ends(rule, quality):
            counts = _counts(right, wrong)
            ties = counts.count(counts[0])
            wins = 1 / ties if right == counts[0] else 0.0
            good[at] += chance * wins
            calls[at] += chance * (rule.samples if rule.at_once else sum(counts))
            signal = ending(counts)
            signals[1, signal] += chance * wins
            signals[0, signal] += chance * (1 - wins)
    signals = np.maximum(signals / signals.sum(axis=1, keepdims=True), 1e-6)
    return VoteValue(GRID, good, calls, signals)


def ending(counts: Sequence[int]) -> int:
    """The signal of a vote that ended at these counts, most first."""
    if len(counts) == 1:
        return UNANIMOUS
    return MAJORITY if 2 * counts[0] > sum(counts) else OPEN


def _counts(right: int, wrong: tuple[int, ...]) -> list[int]:
    return sorted([each for each in (right, *wrong) if each], reverse=True)


def _ends(rule: VoteRule, quality: float) -> Iterator[tuple[float, int, tuple[int, ...]]]:
    """Each end of a vote: its chance, how many samples were right, and how the others were spread
    over wrong answers, most first."""
    waves: dict[tuple[int, tuple[int, ...]], float] = {(0, ()): 1.0}
    while waves:
        onward: dict[tuple[int, tuple[int, ...]], float] = {}
        for (right, wrong), chance in waves.items():
            counts = _counts(right, wrong)
            more = rule.wanted(quality, counts)
            if not more:
                yield chance, right, wrong
                continue
            # All at once, each is looked at as it comes.
            for state, part in _drawn(rule, quality, right, wrong, 1 if rule.at_once else more):
                onward[state] = onward.get(state, 0.0) + chance * part
        waves = onward


def _drawn(
    rule: VoteRule, quality: float, right: int, wrong: tuple[int, ...], more: int
) -> Iterator[tuple[tuple[int, tuple[int, ...]], float]]:
    """Where `more` samples may lead to, with the chance of each way."""
    if not more:
        yield (right, wrong), 1.0
        return
    c, total = rule.concentration, right + sum(wrong)
    is_good = (quality * c + right) / (c + total)
    ways = [((right + 1, wrong), is_good)]
    for at, count in enumerate(wrong):
        grown = tuple(sorted((*wrong[:at], count + 1, *wrong[at + 1 :]), reverse=True))
        ways.append(((right, grown), (1 - is_good) / WRONG_VALUES))
    new = WRONG_VALUES - len(wrong)
    if new > 0:
        ways.append(((right, (*wrong, 1)), (1 - is_good) * new / WRONG_VALUES))
    for (good, bad), chance in ways:
        for state, part in _drawn(rule, quality, good, bad, more - 1):
            yield state, chance * part
