"""What a router leaves to chance: the draw of each request, and the spend that it is a share of."""

from __future__ import annotations

import hashlib
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from router.decide import Exploration

if TYPE_CHECKING:
    from router.policy.schema import Explore

_MEMORY = 1000  # requests that the mean expected cost is of, about


class Explorer:
    """The exploration of one router.

    Parameters: `asked`, what the policy says of it, None for none; `decisions`, how many a request
    may take at most, each of which gets its share of what exploring may add.

    What exploring may add to a request's expected cost is a share of the mean expected cost of the
    requests before it, not of its own: a cheap request could else never be tried one tier higher.
    Before the first request nothing is known, so nothing dearer is explored.
    """

    def __init__(self, asked: Explore | None, decisions: int = 1):
        self._asked, self._decisions = asked, decisions
        self._lock = threading.Lock()
        self._mean, self._count = 0.0, 0

    def chances(self) -> Exploration | None:
        """What would be left to chance now, without a draw."""
        if self._asked is None:
            return None
        asked = self._asked
        return Exploration(
            float(asked.rate),
            float(asked.max_quality_loss),
            float(asked.max_spend) * self._mean / self._decisions,
            float(asked.holdout),
        )

    def draw(self, request_id: str, step: int = 0) -> Exploration | None:
        """What is left to chance for a request, or after a look at its answer, with the draw."""
        now = self.chances()
        return None if now is None else replace(now, draw=np.array([uniform(request_id, step)]))

    def learn(self, expected: int | None) -> None:
        """Let a request join the mean: the expected nano-USD of the arm that was decided on."""
        if expected is None:
            return
        with self._lock:
            self._count += 1
            self._mean += (expected - self._mean) / min(self._count, _MEMORY)


def uniform(request_id: str, step: int = 0) -> float:
    """A number from 0 to below 1 that a request's id fixes, for each decision of its chain: whoever
    has the log can draw again."""
    name = f"explore:{request_id}/{step}" if step else f"explore:{request_id}"
    digest = hashlib.sha256(name.encode("utf-8", "replace")).digest()
    return int.from_bytes(digest[:7], "big") / 2**56
