"""A learned verifier: P(good) of every tier once an answer was read, scored by numpy alone.

It is a sheaf of logistic models. For the answer of tier l there is one for every tier t, which
moves what was thought of t: its inputs are the log odds of all tiers as known before the answer
(predictions at first, its own word on earlier answers later), what the answer looks like, and how
far it agrees with the answers before it. So one step is like the next, and the state is (A,) odds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from router.decide.evidence import Signals
from router.errors import ModelFileError
from router.gates.agreement import likeness_of
from router.gates.answer import Answer
from router.gates.reading import KINDS, SHAPE_NAMES, Read, read
from router.predict.model_file import ModelFile, check_numbers, load_model
from router.types import TIERS

if TYPE_CHECKING:
    from router.types import Floats, Ints

_T = len(TIERS)
# Log odds of each tier, the answer's shape, and for each tier: whether it answered before, whether
# it agrees (1) or not (-1) with this answer, both 0 where it did not; and how many of those that
# answered agree with the target, and with this answer, which says more of a number that few come to
# by chance than of what a program prints.
NAMES = (
    *(f"odds_{tier}" for tier in TIERS),
    *SHAPE_NAMES,
    *(f"answered_{tier}" for tier in TIERS),
    *(f"agrees_{tier}" for tier in TIERS),
    "votes_of_target",
    "votes_of_answer",
    *(f"votes_of_{of}_by_{kind}" for kind in KINDS for of in ("target", "answer")),
)
BINS = 5  # signals that a look ahead tells apart: a look ahead takes their number cubed
_MOST_ODDS = 7.0
ARRAYS = ("weights", "intercept", "good", "bad", "together", "same")


def agreement(one: Read, other: Read) -> float:
    """From -1 (other final answers) to 1 (the same)."""
    return 2 * likeness_of((one.final, other.final), one.text, other.text) - 1


def odds(quality: Floats) -> Floats:
    """Log odds, bounded."""
    clipped = np.clip(quality, 1e-6, 1 - 1e-6)
    found: Floats = np.clip(np.log(clipped / (1 - clipped)), -_MOST_ODDS, _MOST_ODDS)
    return found


def inputs(
    prior: Floats, shape: Floats, answered: Sequence[int], last: int, alike: Floats, target: int
) -> Floats:
    """The inputs (M, F) of the model of one target, in the order of `NAMES`.

    Parameters
    ----------
    prior
        (M, 4): log odds before the answer; 0 for tiers that are not there.
    shape
        (M, S): of the answer of tier `last`.
    answered
        Tiers that answered before it.
    alike
        (M, 4, 4): agreement of each two tiers' answers.
    """
    before, agrees = np.zeros((2, len(prior), _T))
    for tier in answered:
        before[:, tier] = 1.0
        agrees[:, tier] = alike[:, last, tier]
    everyone = [*answered, last]
    votes = np.zeros((len(prior), 2 + 2 * len(KINDS)))
    if target in everyone:
        votes[:, 0] = sum(alike[:, target, tier] for tier in everyone if tier != target)
    votes[:, 1] = sum(alike[:, last, tier] for tier in answered) if answered else 0.0
    for at, kind in enumerate(KINDS, start=1):
        votes[:, 2 * at : 2 * at + 2] = votes[:, :2] * shape[:, SHAPE_NAMES.index(kind), None]
    return np.concatenate([prior, shape, before, agrees, votes], axis=1)


class Recorded(Protocol):
    """Recorded answers of M queries: the shape of each tier's, (M, 4, S), and how far each two
    agree, (M, 4, 4)."""

    @property
    def shape(self) -> Floats: ...

    @property
    def alike(self) -> Floats: ...


class Verifier:
    """Scores answers with the arrays of a model file.

    Arrays: `weights` (8, 4, F) and `intercept` (8, 4), of [tier that answered, plus 4 where it was
    not the first][target]; `good`, `bad` (4, K), chance of each signal of a first answer, of which
    there are at most `BINS`; `together` (4, 4), how far tiers are good on the same requests; `same`
    (4, 4, 3), how often two tiers' answers agree where neither is good, one is, or both are.
    Raises `ModelFileError` for a model of another shape.
    """

    def __init__(self, model: ModelFile, path: str = "(unsaved)"):
        a, self.hash = model.arrays, model.hash
        sizes = {"weights": (2 * _T, _T, len(NAMES)), "intercept": (2 * _T, _T)}
        sizes |= {"together": (_T, _T), "same": (_T, _T, 3)}
        for name in ARRAYS:
            if name not in a:
                raise ModelFileError(
                    path, f"it has no array {name}: it is no verifier, or an old one; train it anew"
                )
            if name in sizes and a[name].shape != sizes[name]:
                raise ModelFileError(path, f"{name} is {a[name].shape}, not {sizes[name]}")
        if model.facts.get("inputs") != list(NAMES):
            raise ModelFileError(path, "it reads other inputs than this version has")
        good, bad = a["good"].astype(np.float64), a["bad"].astype(np.float64)
        rows = good.shape == bad.shape and good.shape in [(_T, 1 + k) for k in range(BINS)]
        if not rows or (good <= 0).any() or (bad <= 0).any():
            raise ModelFileError(path, f"good and bad must be (4, 1 to {BINS}) chances above 0")
        self._good = good / good.sum(axis=1, keepdims=True)
        self._bad = bad / bad.sum(axis=1, keepdims=True)
        self._together = np.clip(a["together"].astype(np.float64), 0, 1)
        self._same = np.clip(a["same"].astype(np.float64), 0, 1)
        self._weights = a["weights"].astype(np.float64)
        self._intercept = a["intercept"].astype(np.float64)
        self.hash = model.hash

    @property
    def learned(self) -> bool:
        """Whether it has learnt how often answers agree, whatever was asked for."""
        return True

    def signals(self, tier: Ints) -> Signals:
        """What a look at an answer tells, for arms of these tiers: as at a first one, and whether
        it agrees with one before it."""
        same = self._same[np.ix_(tier, tier)]
        return Signals(self._good[tier], self._bad[tier], self.together(tier), same)

    def together(self, tier: Ints) -> Floats:
        """How far arms of these tiers are good on the same requests, (A, A)."""
        return self._together[np.ix_(tier, tier)]

    def posterior(
        self, quality: Floats, shape: Floats, answered: Sequence[int], last: int, alike: Floats
    ) -> Floats:
        """P(good) of every tier, (M, 4), after the answer of tier `last`; as in `inputs`, but
        `quality` (M, 4) are chances, NaN for tiers that are not there."""
        prior = odds(np.where(np.isnan(quality), 0.5, quality))
        way, found = last + _T * bool(answered), np.empty_like(prior)
        for target in range(_T):
            x = inputs(prior, shape, answered, last, alike, target)
            z = x @ self._weights[way, target] + self._intercept[way, target]
            found[:, target] = 1 / (1 + np.exp(-np.clip(z, -30, 30)))
        return np.where(np.isnan(quality), np.nan, found)

    def after(
        self, predicted: Floats, known: Floats, answers: Recorded, path: Sequence[int], /
    ) -> Floats:
        """P(good) of every tier, (M, 4), after recorded answers of the tiers of `path`; `known`
        before the latest. What was `predicted` before any is in that already."""
        *before, last = path
        return self.posterior(known, answers.shape[:, last], before, last, answers.alike)

    def judge(
        self,
        answers: Mapping[int, tuple[Answer, ...]],
        last: int,
        faults: Sequence[str],
        quality: Floats,
        tier: Ints,
    ) -> Floats:
        """P(good) of every arm, (A,), after the answer of arm `last`, as in `Gate.look`.

        Of an answer of several choices the first is read."""
        of_tier = np.full(_T, np.nan)
        for arm in range(len(tier) - 1, -1, -1):
            of_tier[tier[arm]] = quality[arm]  # the first arm of a tier speaks for it
        for arm in answers:
            of_tier[tier[arm]] = quality[arm]
        said = {int(tier[arm]): read(each[0], faults) for arm, each in answers.items()}
        mine, alike = int(tier[last]), np.zeros((1, _T, _T))
        for one, its in said.items():
            for other, theirs in said.items():
                if one < other:
                    alike[0, one, other] = alike[0, other, one] = agreement(its, theirs)
        before = [int(tier[arm]) for arm in answers if arm != last]
        found = self.posterior(of_tier[None], said[mine].shape[None], before, mine, alike)[0]
        after: Floats = found[tier]
        return after


def load_verifier(path: str | Path, sha256: str | None = None) -> Verifier:
    """Load a verifier's folder. Raises `ModelFileError` for anything else, or another hash."""
    model = load_model(path)
    if sha256 is not None and model.hash != sha256:
        raise ModelFileError(str(path), f"its sha256 is {model.hash}, the policy asks {sha256}")
    check_numbers(model, str(path), {})
    return Verifier(model, str(path))
