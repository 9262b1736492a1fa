"""What answers say of one another, with nothing trained: P(good) of every arm from what was
predicted of each, what each answer alone showed, and which answers say the same.

All of it is weighed at once, over the sets of answers that may be the good ones: compared two by
two, an answer could be discredited by one that another discredits in turn. That arms are good on
the same requests is a mixture of two cases: with chance r all share one luck, so that whoever is
predicted better is good wherever a worse one is; else each has its own. Of two arms this is the
r of `router.decide.cascade`. Good answers say the same. Bad ones may, for questions have their
common mistakes: answers of independent workers with one rate of confusion each (Dawid & Skene,
Applied Statistics 1979) would make too much of two models that agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from router.types import Floats, Ints

# Measured by benchmarks/agreement.py on recorded answers of four models each. A good answer and a
# bad one say the same in 0.8% (numbers) to 7% (letters), two good ones do not in 0.3% (letters).
MISTAKEN = 0.02
COINCIDE_LETTER = 0.5  # chance that two bad answers are the same letter of a choice
COINCIDE = 0.25  # the same of numbers and words
# By how many of two answers are good: chance that they say the same, before any was seen.
_SAME = (0.3, MISTAKEN, 1 - MISTAKEN)
_SURE = 1e-9


def consensus(
    predicted: Floats,
    answered: Sequence[int],
    evidence: Floats,
    said: Ints,
    coincide: Floats,
    together: Floats,
) -> Floats:
    """P(good) of every arm, (M, A), once some have answered.

    Parameters
    ----------
    predicted
        (M, A): P(good) before any answer.
    answered
        The k arms that answered, in their order.
    evidence
        (M, k, 2): how likely what each answer showed by itself is of a bad and of a good one.
    said
        (M, k): equal numbers for answers that say the same, -1 for one that cannot be compared.
    coincide
        (M,): chance that two bad answers say the same.
    together
        (A, A): how far two arms are good on the same requests, 0 to 1.
    """
    chance = np.clip(predicted, _SURE, 1 - _SURE)
    k, arms = len(answered), list(answered)
    pairs = together[np.ix_(arms, arms)][np.triu_indices(k, 1)]
    shared = float(pairs.mean()) if k > 1 else 0.0
    total, found = np.zeros(len(chance)), np.zeros(chance.shape)
    for good in product((False, True), repeat=k):
        alone, lowest, highest = _of_set(chance[:, arms], good)
        luck = np.maximum(highest - lowest, 0.0)
        weight = ((1 - shared) * alone + shared * luck) * _agreement(said, good, coincide)
        for at, is_good in enumerate(good):
            weight = weight * evidence[:, at, int(is_good)]
        total += weight
        # An arm that has not answered is good as predicted where it has its own luck, and where
        # luck is shared as far as the set leaves room for it.
        r = together[arms].mean(axis=0)
        room = np.clip(np.minimum(chance, highest[:, None]) - lowest[:, None], 0.0, None)
        with_set = (1 - r) * alone[:, None] * chance + r * room
        of_set = (1 - r) * alone[:, None] + r * luck[:, None]
        part = weight[:, None] * with_set / np.maximum(of_set, 1e-300)
        part[:, arms] = weight[:, None] * np.array(good)
        found += part
    posterior: Floats = found / np.maximum(total, 1e-300)[:, None]
    return posterior


def _of_set(chance: Floats, good: Sequence[bool]) -> tuple[Floats, Floats, Floats]:
    """Of arms with these chances (M, k): that just these are good if each has its own luck, and
    between which bounds a luck must lie that all share, (M,) each."""
    alone, lowest, highest = np.ones(len(chance)), np.zeros(len(chance)), np.ones(len(chance))
    for at, is_good in enumerate(good):
        mine = chance[:, at]
        alone = alone * (mine if is_good else 1 - mine)
        if is_good:
            highest = np.minimum(highest, mine)
        else:
            lowest = np.maximum(lowest, mine)
    return alone, lowest, highest


def _agreement(said: Ints, good: Sequence[bool], coincide: Floats) -> Floats:
    """How likely it is that just these answers say the same, (M,), if just these are good: each in
    turn says what some before it said, or something new."""
    likely = np.ones(len(said))
    for at in range(1, len(good)):
        rights, wrongs, like_right, like_wrong = _before(said, at, good)
        if good[at]:
            right = np.where(rights > 0, 1 - MISTAKEN, 0.0)
            wrong = np.where(wrongs + rights > 0, MISTAKEN, 0.0)
            # Besides good ones it may, by mistake, say what a bad one said, or stand alone.
            wrong = np.where(rights > 0, wrong * wrongs / (wrongs + 1), wrong)
        else:
            right = np.where(rights > 0, MISTAKEN, 0.0)
            # The more different mistakes were made, the likelier it is to be one of them.
            wrong = (1 - right) * (1 - (1 - coincide) ** wrongs)
        new = 1 - right - wrong
        right, wrong = right / np.maximum(rights, 1), wrong / np.maximum(wrongs, 1)
        chance = np.where(like_right, right, np.where(like_wrong, wrong, new))
        likely = likely * np.where(said[:, at] >= 0, chance, 1.0)
    return likely


def _before(
    said: Ints, at: int, good: Sequence[bool]
) -> tuple[Ints, Ints, NDArray[np.bool_], NDArray[np.bool_]]:
    """How many different things were said before an answer by any good one, and by bad ones alone,
    and whether the answer says one of the former or of the latter; (M,) each."""
    counts, like = np.zeros((2, len(said)), dtype=np.int64), np.zeros((2, len(said)), dtype=bool)
    for i in range(at):
        mine, others = said[:, [i]], said[:, :at]
        same = (others == mine) & (mine >= 0)
        first = (mine[:, 0] >= 0) & ~same[:, :i].any(axis=1)
        wrong = ~(same & np.array(good[:at])).any(axis=1)
        for kind, mask in enumerate((~wrong, wrong)):
            counts[kind] += first & mask
            like[kind] |= first & mask & (said[:, at] == mine[:, 0])
    return counts[0], counts[1], like[0], like[1]


def chances_of_same(tier: Ints) -> Floats:
    """`router.decide.cascade.Signals.same` of arms of these tiers, (A, A, 3). Of one tier's answers
    nothing is said: a model repeats its own mistakes."""
    found: Floats = np.where((tier[:, None] == tier[None, :])[..., None], 1.0, np.array(_SAME))
    return found


def evidence_of(before: float, after: float) -> tuple[float, float]:
    """How likely what moved a chance from `before` to `after` is of a bad and of a good answer."""
    before, after = (min(max(each, _SURE), 1 - _SURE) for each in (before, after))
    return (1 - after) / (1 - before), after / before


def coincidence(said: str) -> float:
    """The chance that another bad answer says this too."""
    return COINCIDE_LETTER if len(said) == 1 and said.isalpha() else COINCIDE
