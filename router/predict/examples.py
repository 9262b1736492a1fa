"""Training examples: features of requests, and what each tier's model made of them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from router.predict.features import FeatureBatch, join

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from router.types import Floats

_NOT_WORD = re.compile(r"[\W_]+")


@dataclass(frozen=True, slots=True)
class Examples:
    """N requests with recorded outcomes; arrays over tiers are (N, 4) in the order of `TIERS`.

    `score` in [0, 1] and `output_tokens` (reasoning included) are NaN where nothing is recorded.
    `group` names the question, whatever its spelling: rows of one group are never split between
    training and test. `task` is for tables and reports, `input_tokens` (N,) for expected costs;
    `weight` (N,) says how much a row counts.
    """

    features: FeatureBatch
    score: Floats
    output_tokens: Floats
    input_tokens: Floats
    group: NDArray[np.str_]
    task: NDArray[np.str_]
    weight: Floats

    def __len__(self) -> int:
        return len(self.features)

    @property
    def tiers(self) -> NDArray[np.bool_]:
        """Which tiers have any score, (4,)."""
        known: NDArray[np.bool_] = np.any(np.isfinite(self.score), axis=0)
        return known

    def take(self, chosen: NDArray[Any]) -> Examples:
        """The examples at `chosen`: positions or a mask."""
        return Examples(
            self.features[chosen],
            self.score[chosen],
            self.output_tokens[chosen],
            self.input_tokens[chosen],
            self.group[chosen],
            self.task[chosen],
            self.weight[chosen],
        )


def join_examples(parts: Sequence[Examples]) -> Examples:
    """Put examples one after the other."""
    names = ("score", "output_tokens", "input_tokens", "group", "task", "weight")
    arrays = [np.concatenate([getattr(part, name) for part in parts]) for name in names]
    return Examples(join([part.features for part in parts]), *arrays)


def text_key(text: str) -> str:
    """Name a prompt by all its words: the same in every spelling. A program's template may list
    options before what it asks about, so that only the whole text tells its requests apart."""
    return hashlib.sha256(_NOT_WORD.sub(" ", text.lower()).strip().encode()).hexdigest()[:16]


def folds_of(group: NDArray[np.str_], folds: int, seed: int) -> NDArray[np.int64]:
    """Deal each row to one of `folds` by a hash of seed and group: groups stay together, and a
    question's fold does not depend on which others there are."""
    names, position = np.unique(group, return_inverse=True)
    deal = [
        int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8], "big") % folds
        for name in names
    ]
    return np.array(deal, dtype=np.int64)[position]
