"""The structural gate on recorded answers: what a learned verifier is held against."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from router.decide.cascade import Signals, told
from router.gates import confidence, structural
from router.gates.gate import TOGETHER
from router.gates.reading import SHAPE_NAMES
from router.types import TIERS

if TYPE_CHECKING:
    from router.types import Floats, Ints

_AT = {name: at for at, name in enumerate(SHAPE_NAMES)}
_SOFT = [_AT[name] for name in ("cut", "refusal", "bad_code")]


class Judge(Protocol):
    """What chains of recorded answers are judged by: `router.gates.verifier.Verifier`, or form."""

    def signals(self, tier: Ints, /) -> Signals: ...

    def posterior(
        self,
        quality: Floats,
        shape: Floats,
        answered: Sequence[int],
        last: int,
        alike: Floats,
        /,
    ) -> Floats: ...


class ByForm:
    """Judges by form alone, as `router.gates.gate.Gate` does without a verifier.

    Recorded answers come without the arguments of their calls, so no schema or tool is checked.
    """

    def signals(self, tier: Ints, /) -> Signals:
        """What a look at an answer tells, for arms of these tiers."""
        rows = (len(tier), 1)
        together = np.full((len(tier), len(tier)), TOGETHER)
        return Signals(
            np.tile(structural.OF_GOOD, rows), np.tile(structural.OF_BAD, rows), together
        )

    def posterior(
        self, quality: Floats, shape: Floats, answered: Sequence[int], last: int, alike: Floats, /
    ) -> Floats:
        """As `Verifier.posterior`; earlier answers and agreement tell nothing."""
        good, bad = _chances(shape)
        known = np.where(np.isnan(quality), 0.5, quality)
        mine = np.clip(known[:, last], 1e-9, 1 - 1e-9)
        known[:, last] = mine
        of_good = mine * good
        after = of_good / (of_good + (1 - mine) * bad)
        together = np.full(len(TIERS), TOGETHER)
        found = told(together, last, known, after[:, None])[:, 0]
        return np.where(np.isnan(quality), np.nan, found)


def _chances(shape: Floats) -> tuple[Floats, Floats]:
    """Chances (M,) of answers of such a form from good and from bad ones."""
    hard = shape[:, _AT["hard_fault"]] > 0
    form = np.where(hard, 2, np.where((shape[:, _SOFT] > 0).any(axis=1), 1, 0))
    good, bad = np.array(structural.OF_GOOD)[form], np.array(structural.OF_BAD)[form]
    level = _level(shape)
    weighed = (form == 0) & (shape[:, _AT["logprobs"]] > 0)
    return (
        np.where(weighed, good * np.array(confidence.OF_GOOD)[level], good),
        np.where(weighed, bad * np.array(confidence.OF_BAD)[level], bad),
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
