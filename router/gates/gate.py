"""The gate of one router: a request and its answers in, what is known of every tier out."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from router.decide.evidence import Signals, told
from router.errors import ConfigurationError
from router.gates import confidence, structural
from router.gates.answer import Answer
from router.gates.consensus import chances_of_same, coincidence, consensus
from router.types import Request

if TYPE_CHECKING:
    from router.gates.verifier import Verifier
    from router.types import Floats, Ints

_log = logging.getLogger("router")

GateCheck = Callable[[Request, Any], "float | bool | None"]
# How far two tiers are good on the same requests where nobody measured: about what the ladders of
# benchmarks/results/cascade.json show.
TOGETHER = 0.4
# How far one model is good on the same requests at two reasoning efforts: the mean of those that
# were recorded both ways (benchmarks/effort.py).
SAME_MODEL = 0.67
# What a caller's own check is taken to tell before anything was learnt of it: nine in ten answers.
_CHECK_GOOD: tuple[float, ...] = (0.9, 0.1)
_CHECK_BAD: tuple[float, ...] = (0.1, 0.9)
_SURE = 0.999  # the most that a check's True may say: it saw one answer


@dataclass(frozen=True, slots=True)
class Heard:
    """Of one arm's answer: what it `says` (`router.gates.agreement.said`), and how likely what it
    showed by itself is of a bad answer and of a good one."""

    says: str | None
    evidence: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is known once an answer was looked at: `quality` (A,), P(good) of every arm; `why`, in
    words."""

    quality: Floats
    why: str


class Gate:
    """Judges answers.

    Parameters: `verifier`, a learned one, None to go by form alone; `checks`, callers' own
    functions by name, each taking (request, response) and returning P(good), True, False or None
    for no verdict. Of several the lowest counts, and it counts before what form or a verifier
    says: the caller knows what the answer is for. One that raises has no verdict.
    Raises `ConfigurationError` for a check that is no function.
    """

    def __init__(
        self, verifier: Verifier | None = None, checks: Mapping[str, GateCheck] | None = None
    ):
        self._verifier, self._checks = verifier, dict(checks or {})
        for name, check in self._checks.items():
            if not callable(check) or inspect.iscoroutinefunction(check):
                raise ConfigurationError(
                    f"gates: {name!r} is {check!r}; allowed: a plain function(request, response)"
                )

    @property
    def name(self) -> str:
        """What judges, in a word: two gates of one name find the same of an answer."""
        name = "form" if self._verifier is None else f"verifier:{self._verifier.hash[:12]}"
        return name + (f"+checks:{','.join(sorted(self._checks))}" if self._checks else "")

    @property
    def learned(self) -> bool:
        """Whether a verifier judges, which has learnt what agreement tells."""
        return self._verifier is not None

    def signals(self, checked: bool, tier: Ints, told: Sequence[bool] = ()) -> Signals:
        """What looking at an answer tells, for arms of tiers `tier` (A,).

        Parameters: `checked`, whether the request asks for a form that can be checked
        (`structural.is_checked`); `told`, for each arm whether its answers come with
        log-probabilities; () for none."""
        if self._verifier is not None and not self._checks:
            return replace(self._verifier.signals(tier), together=self.together(tier))
        good, bad = np.array([_CHECK_GOOD, _CHECK_BAD])
        if not self._checks:
            good, bad = np.array([structural.OF_GOOD, _of_bad(checked)])
        rows = (len(tier), 1)
        good, bad = np.tile(good, rows), np.tile(bad, rows)
        if any(told) and not self._checks:
            good = _by_level(good, confidence.OF_GOOD, told)
            bad = _by_level(bad, confidence.OF_BAD, told)
        if self._verifier is not None:
            together = self.together(tier)
            learned = self._verifier.signals(tier)
            return replace(learned, good=good, bad=bad, together=together)
        return Signals(good, bad, self.together(tier), chances_of_same(tier))

    def weigh(
        self, predicted: Floats, heard: Mapping[int, Heard], tier: Ints
    ) -> tuple[Floats, list[int]]:
        """Weigh all answers together, for a gate without a verifier.

        Parameters: `predicted` (A,), before any answer; `heard`, by arm in the order of the calls.
        Returns P(good) of every arm, and which arms that answered before say what the latest says.
        """
        arms = list(heard)
        words: list[str | None] = []
        for place, arm in enumerate(arms):
            again = tier[arm] in tier[arms[:place]]  # a model repeats its own mistakes
            words.append(None if again else heard[arm].says)
        codes = [-1 if word is None else words.index(word) for word in words]
        named = [word for word in words if word is not None]
        found = consensus(
            predicted[None],
            arms,
            np.array([[heard[arm].evidence for arm in arms]]),
            np.array([codes]),
            np.array([coincidence(named[-1]) if named else 0.0]),
            self.together(tier),
        )[0]
        *before, last = words
        said_by = [] if last is None else zip(arms, before, strict=False)
        return found, [arm for arm, word in said_by if word == last]

    def look(
        self,
        request: Request,
        response: Any,
        answers: Mapping[int, tuple[Answer, ...]],
        last: int,
        quality: Floats,
        tier: Ints,
    ) -> Verdict:
        """Judge the latest answer.

        Parameters
        ----------
        answers
            By arm, the choices of every answer so far, the latest among them.
        last
            The arm of the latest; `response` is its response.
        quality
            (A,): P(good) of every arm's answer as known before.
        tier
            (A,): index of each arm's tier.
        """
        found = [structural.faults(request.params, each) for each in answers[last]]
        worst = max(found, key=structural.signal_of, default=("empty",))
        word = self._verdict(request, response)
        if word is not None:
            name, score = word
            posterior = min(max(score, 1 - _SURE), _SURE)
            return Verdict(self.told(tier, last, quality, posterior), f"{name} says {score:g}")
        why = ", ".join(worst) or "no fault of form"
        if self._verifier is not None and not structural.HARD.intersection(worst):
            found_of_tier = self._verifier.judge(answers, last, worst, quality, tier)
            return Verdict(self._of_efforts(found_of_tier, answers, last, quality, tier), why)
        signal = structural.signal_of(worst)
        of_good = quality[last] * structural.OF_GOOD[signal]
        checked = structural.is_checked(request.params)
        of_bad = (1 - quality[last]) * _of_bad(checked)[signal]
        level = None if worst else _least_sure(answers[last])
        if level is not None:
            of_good *= confidence.OF_GOOD[level]
            of_bad *= confidence.OF_BAD[level]
            why = f"{why}; tokens {confidence.LEVELS[level]}"
        return Verdict(self.told(tier, last, quality, of_good / (of_good + of_bad)), why)

    def told(self, tier: Ints, last: int, quality: Floats, posterior: float) -> Floats:
        """P(good) of every arm, once it is known of the last one."""
        together = self.together(tier)[last][:, None]
        found: Floats = told(together, last, quality[:, None], np.array([[posterior]]))[:, 0, 0]
        return found

    def _of_efforts(
        self,
        found: Floats,
        answers: Mapping[int, tuple[Answer, ...]],
        last: int,
        quality: Floats,
        tier: Ints,
    ) -> Floats:
        """A verifier's word on tiers as one on arms: other efforts of a tier that has answered are
        as good as its answer only as far as one model's answers go together."""
        told_of = self.told(tier, last, quality, float(found[last]))
        others = [arm not in answers and (tier[list(answers)] == tier[arm]).any()
                  for arm in range(len(tier))]  # fmt: skip
        return np.where(others, told_of, found)

    def together(self, tier: Ints) -> Floats:
        """How far arms are good on the same requests, (A, A)."""
        size = (len(tier), len(tier))
        found = np.full(size, TOGETHER) if self._verifier is None else self._verifier.together(tier)
        same = (tier[:, None] == tier[None, :]) & ~np.eye(len(tier), dtype=bool)
        return np.where(same, SAME_MODEL, found)

    def _verdict(self, request: Request, response: Any) -> tuple[str, float] | None:
        """The lowest score of the caller's own checks, and whose it is; None for no verdict."""
        scores = {}
        for name, check in self._checks.items():
            try:
                said = check(request, response)
                if said is None:
                    continue
                plain = said.item() if hasattr(said, "item") else said  # numpy's scalars
                if not isinstance(plain, bool | int | float) or not 0 <= plain <= 1:
                    raise ValueError(f"{said!r:.80} is no score: 0 to 1, True, False or None")
                scores[name] = float(plain)
            except Exception as error:
                _log.warning("gate %r gave no verdict: %r", name, error)
        if not scores:
            return None
        lowest = min(scores, key=lambda name: scores[name])
        return lowest, scores[lowest]


def _of_bad(checked: bool) -> tuple[float, ...]:
    return structural.OF_BAD_CHECKED if checked else structural.OF_BAD


def _least_sure(answers: Sequence[Answer]) -> int | None:
    """The level of the least sure of a response's choices; None where none has
    log-probabilities."""
    known = [each.confidence.level for each in answers if each.confidence is not None]
    return max(known, default=None)


def _by_level(chances: Floats, of_level: Sequence[float], told: Sequence[bool]) -> Floats:
    """Chances (A, 3) of the signals of form → of (pass and sure, pass and middling, pass and
    unsure, soft, hard): how sure a model was is weighed where form shows nothing."""
    untold = [float(name == "middling") for name in confidence.LEVELS]
    levels = np.array([of_level if each else untold for each in told])
    found: Floats = np.concatenate([chances[:, :1] * levels, chances[:, 1:]], axis=1)
    return found


def keeps_tool_calls(params: Mapping[str, Any], answers: tuple[Answer, ...]) -> bool:
    """Whether an answer calls tools as it may: then it is final. Another model's answer could call
    them again, and a side effect that was promised once must not happen twice."""
    calling = [each for each in answers if each.tool_calls]
    return bool(calling) and not any(structural.faults(params, each) for each in calling)
