"""The structural gate on recorded answers: what a learned verifier is held against."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from router.decide.evidence import Signals
from router.gates import confidence, structural
from router.gates.consensus import chances_of_same, consensus
from router.gates.gate import TOGETHER
from router.gates.reading import SHAPE_NAMES
from router.types import TIERS

if TYPE_CHECKING:
    from router.replay.recorded.answers import Answers
    from router.types import Floats, Ints

_AT = {name: at for at, name in enumerate(SHAPE_NAMES)}
_SOFT = [_AT[name] for name in ("cut", "refusal", "bad_code")]
_T = len(TIERS)


class Judge(Protocol):
    """What chains of recorded answers are judged by: `router.gates.verifier.Verifier`, or form."""

    @property
    def learned(self) -> bool: ...

    def signals(self, tier: Ints, /) -> Signals: ...

    def after(
        self, predicted: Floats, known: Floats, answers: Answers, path: Sequence[int], /
    ) -> Floats:
        """P(good) of every tier, (M, 4), after the answers of `path`, in that order.

        Parameters: `predicted` (M, 4), before any answer; `known` (M, 4), before the latest; NaN
        for tiers that are not there.
        """
        ...


class ByForm:
    """Judges by form and agreement, as `router.gates.gate.Gate` does without a verifier.

    Recorded answers come without the arguments of their calls, so no schema or tool is checked.
    """

    @property
    def learned(self) -> bool:
        """As `router.gates.gate.Gate.learned`."""
        return False

    def signals(self, tier: Ints, /) -> Signals:
        """What a look at an answer tells, for arms of these tiers."""
        rows, together = (len(tier), 1), np.full((len(tier), len(tier)), TOGETHER)
        good, bad = np.tile(structural.OF_GOOD, rows), np.tile(structural.OF_BAD, rows)
        return Signals(good, bad, together, chances_of_same(tier))

    def after(
        self, predicted: Floats, known: Floats, answers: Answers, path: Sequence[int], /
    ) -> Floats:
        """As in `Judge`; what was known before the latest is found anew."""
        tiers = list(path)
        of_bad, of_good = zip(*(_chances(answers.shape[:, tier]) for tier in tiers), strict=True)
        evidence = np.stack([np.stack(of_bad, axis=1), np.stack(of_good, axis=1)], axis=2)
        there = np.where(np.isnan(predicted), 0.5, predicted)
        coincide = np.zeros(len(there))  # of the latest that says something
        for tier in tiers:
            coincide = np.where(answers.said[:, tier] >= 0, answers.coincide[:, tier], coincide)
        together = np.full((_T, _T), TOGETHER)
        found = consensus(there, tiers, evidence, answers.said[:, tiers], coincide, together)
        return np.where(np.isnan(predicted), np.nan, found)


def _chances(shape: Floats) -> tuple[Floats, Floats]:
    """Chances (M,) of answers of such a form from bad and from good ones."""
    hard = shape[:, _AT["hard_fault"]] > 0
    form = np.where(hard, 2, np.where((shape[:, _SOFT] > 0).any(axis=1), 1, 0))
    good, bad = np.array(structural.OF_GOOD)[form], np.array(structural.OF_BAD)[form]
    level = _level(shape)
    weighed = (form == 0) & (shape[:, _AT["logprobs"]] > 0)
    return (
        np.where(weighed, bad * np.array(confidence.OF_BAD)[level], bad),
        np.where(weighed, good * np.array(confidence.OF_GOOD)[level], good),
    )


def _level(shape: Floats) -> Ints:
    """The confidence level of each answer; of one without log-probabilities it means nothing."""
    columns = [_AT[name] for name in ("mean_logprob", "lowest_logprob", "margin_known", "margin")]
    return np.array(
        [
            confidence.Confidence(mean, lowest, margin if known else None).level
            for mean, lowest, known, margin in shape[:, columns].tolist()
        ],
        dtype=np.int64,
    )
