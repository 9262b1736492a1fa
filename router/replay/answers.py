"""Recorded answers, read as a gate reads them. Decisions before a call never see this."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from router.errors import OutcomeFileError
from router.gates import structural
from router.gates.answer import Answer
from router.gates.verifier import SHAPE_NAMES, Read, agreement, read
from router.replay.outcomes import Outcomes
from router.replay.rows import read_responses
from router.types import TIERS

if TYPE_CHECKING:
    from router.types import Floats, Ints


@dataclass(frozen=True, slots=True)
class Answers:
    """What gates read of N queries' answers: `shape` (N, 4, S) of each tier's, and `alike`
    (N, 4, 4), how far each two agree, -1 to 1."""

    shape: Floats
    alike: Floats

    def take(self, at: Ints) -> Answers:
        return Answers(self.shape[at], self.alike[at])


def read_answers(outcomes: Outcomes) -> Answers:
    """Read the column `response` of the file that outcomes are from.

    Of repeated answers the first counts; one that is absent is an empty answer.
    Raises `OutcomeFileError` where no row has a response.
    """
    said = read_responses(Path(outcomes.path), outcomes.ladder)
    if not any(said.values()):
        raise OutcomeFileError(
            outcomes.path, "its column 'response' is missing or empty; a cascade reads answers"
        )
    n = len(outcomes)
    shape, alike = (
        np.zeros((n, len(TIERS), len(SHAPE_NAMES))),
        np.zeros((n, len(TIERS), len(TIERS))),
    )
    for row, query in enumerate(outcomes.query_id.tolist()):
        found: dict[int, Read] = {}
        for tier, column in zip(outcomes.ladder, outcomes.columns, strict=True):
            answer = Answer(said.get((query, outcomes.ladder[tier]), ""))
            found[column] = read(answer, structural.faults(_NOTHING_ASKED, answer))
            shape[row, column] = found[column].shape
        for one, mine in found.items():
            for other, its in found.items():
                if one < other:
                    alike[row, one, other] = alike[row, other, one] = agreement(mine, its)
    return Answers(shape, alike)


_NOTHING_ASKED: dict[str, Any] = {}  # outcomes keep no arguments
