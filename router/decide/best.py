"""What the best of several samples is worth where a gate judges each. Pure.

A gate's signal s comes from a good sample with probability G_s and from a bad one with B_s
(`router.decide.cascade.Signals`); samples of one request are alike as in `router.decide.vote`.
Samples are asked one at a time until one is good with probability `sure`, or all at once; handed
out is the first of those whose signal speaks most for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from router.decide.vote import GRID, VoteValue


@dataclass(frozen=True, slots=True)
class BestRule:
    """`samples` at most, `at_once` or one after another until P(good) of one is `sure`;
    `concentration` as of votes; `good`, `bad` (K,): chance of each of the gate's signals."""

    samples: int
    at_once: bool
    sure: float
    concentration: float
    good: tuple[float, ...]
    bad: tuple[float, ...]


@lru_cache(maxsize=64)
def best_of(rule: BestRule) -> VoteValue:
    """Enumerate what samples may be like and what a gate may say of them. `signals` (2, K) of the
    result are those of the sample that is handed out, if it is bad and if it is good."""
    good, bad = np.array(rule.good), np.array(rule.bad)
    rank = np.argsort(np.argsort(good / bad, kind="stable"), kind="stable").tolist()
    worth, calls = np.zeros((2, len(GRID)))
    signals = np.zeros((2, len(good)))
    for at, quality in enumerate(GRID.tolist()):
        posterior = quality * good / (quality * good + (1 - quality) * bad)
        # (good samples so far, the leading signal, whether its sample is good) → chance
        states: dict[tuple[int, int, bool], float] = {(0, -1, False): 1.0}
        for number in range(rule.samples):
            onward: dict[tuple[int, int, bool], float] = {}
            for (found, lead, right), chance in states.items():
                if not rule.at_once and lead >= 0 and posterior[lead] >= rule.sure:
                    worth[at] += chance * right
                    calls[at] += chance * number
                    signals[int(right), lead] += chance
                    continue
                is_good = (quality * rule.concentration + found) / (rule.concentration + number)
                for its, part, said in ((True, is_good, good), (False, 1 - is_good, bad)):
                    for signal, likely in enumerate(said.tolist()):
                        leads = lead < 0 or rank[signal] > rank[lead]
                        state = (found + its, signal if leads else lead, its if leads else right)
                        onward[state] = onward.get(state, 0.0) + chance * part * likely
            states = onward
        for (_, lead, right), chance in states.items():
            worth[at] += chance * right
            calls[at] += chance * rule.samples
            signals[int(right), lead] += chance
    signals = np.maximum(signals / signals.sum(axis=1, keepdims=True), 1e-6)
    return VoteValue(GRID, worth, calls, signals)
