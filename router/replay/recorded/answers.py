"""Recorded answers, read as a gate reads them. Decisions before a call never see this."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from router.errors import OutcomeFileError
from router.gates import structural
from router.gates.agreement import said
from router.gates.answer import Answer
from router.gates.confidence import confidence_of
from router.gates.consensus import coincidence
from router.gates.reading import SHAPE_NAMES, Read, read
from router.gates.verifier import agreement
from router.replay.recorded.outcomes import Outcomes
from router.replay.recorded.rows import read_logprobs, read_responses
from router.replay.recorded.voting import can_be_compared
from router.types import TIERS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from router.types import Floats, Ints

Faults = Callable[[int, Answer], Sequence[str]]


@dataclass(frozen=True, slots=True)
class Answers:
    """What gates read of N queries' answers: `shape` (N, 4, S) of each tier's, and `alike`
    (N, 4, 4), how far each two agree, -1 to 1.

    `order` (N, 4): where in its chain each answer came, from 0, -1 where there is none; all 0 of
    recorded answers, of which any may be read first. `comparable` (N,): whether the request asks
    for an answer that can be compared; `said` (N, 4): equal numbers where answers to it say the
    same, -1 where one names nothing (`router.gates.agreement.said`); `coincide` (N, 4): the chance
    that another bad answer says this too.
    """

    shape: Floats
    alike: Floats
    order: Ints
    comparable: NDArray[np.bool_]
    said: Ints
    coincide: Floats
    free: bool = True  # whether answers may be read in any order

    def take(self, at: Ints) -> Answers:
        return Answers(
            self.shape[at],
            self.alike[at],
            self.order[at],
            self.comparable[at],
            self.said[at],
            self.coincide[at],
            self.free,
        )

    def came(self, path: Sequence[int]) -> NDArray[np.bool_]:
        """Of which queries the answers of these tiers can be read one after another, (N,)."""
        steps = self.order[:, list(path)]
        right = steps >= 0 if self.free else steps == np.arange(len(path))[None, :]
        found: NDArray[np.bool_] = np.all(right, axis=1)
        return found


def answers_like(
    given: Mapping[int, Mapping[int, Answer]], comparable: Sequence[bool], faults: Faults
) -> Answers:
    """Read answers: query → tier → answer, of N queries, of each of which `comparable` says whether
    its answers can be compared. `faults(query, answer)` names faults."""
    n = len(comparable)
    shape = np.zeros((n, len(TIERS), len(SHAPE_NAMES)))
    alike = np.zeros((n, len(TIERS), len(TIERS)))
    order, codes = np.full((2, n, len(TIERS)), -1)
    coincide = np.zeros((n, len(TIERS)))
    for row, by_tier in given.items():
        found: dict[int, Read] = {}
        words: dict[str, int] = {}
        for tier, answer in by_tier.items():
            found[tier] = read(answer, faults(row, answer))
            shape[row, tier], order[row, tier] = found[tier].shape, 0
            word = said(answer, _NOTHING_ASKED, comparable=comparable[row])
            if word is not None:
                codes[row, tier] = words.setdefault(word, len(words))
                coincide[row, tier] = coincidence(word)
        for one, mine in found.items():
            for other, its in found.items():
                if one < other:
                    alike[row, one, other] = alike[row, other, one] = agreement(mine, its)
    return Answers(shape, alike, order, np.array(comparable, dtype=bool), codes, coincide)


def read_answers(outcomes: Outcomes) -> Answers:
    """Read the column `response` of the file that outcomes are from.

    Of repeated answers the first counts; one that has a score and no text is an empty answer. The
    column `logprobs`, where there is one, has their log-probabilities: as a provider gives them, or
    {"mean": …, "lowest": …, "margin": …}, as JSON or as data.
    Raises `OutcomeFileError` where no row has a response.
    """
    said = read_responses(Path(outcomes.path), outcomes.ladder)
    if not any(said.values()):
        raise OutcomeFileError(
            outcomes.path, "its column 'response' is missing or empty; a cascade reads answers"
        )
    sure = read_logprobs(Path(outcomes.path), outcomes.ladder)
    given: dict[int, dict[int, Answer]] = {}
    for row, query in enumerate(outcomes.query_id.tolist()):
        given[row] = {}
        for tier, column in zip(outcomes.ladder, outcomes.columns, strict=True):
            key = (query, outcomes.ladder[tier])
            text = said.get(key)
            if text is None and not np.isfinite(outcomes.score[row, column]):
                continue
            confidence = confidence_of(sure[key], text or "") if key in sure else None
            given[row][column] = Answer(text or "", confidence=confidence)
    return answers_like(
        given,
        [can_be_compared(None, each) for each in outcomes.messages],
        lambda row, answer: structural.faults(_NOTHING_ASKED, answer),
    )


_NOTHING_ASKED: dict[str, Any] = {}  # outcomes keep no arguments
