"""The count of one vote: which answer leads, and how many more samples it needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from router.gates.agreement import said

if TYPE_CHECKING:
    from router.decide.vote import VoteRule
    from router.gates.answer import Answer


@dataclass(slots=True)
class Tally:
    """`quality`: P(good) of one sample, as predicted; `params`, of the request."""

    rule: VoteRule
    quality: float
    params: Mapping[str, Any]
    groups: dict[Any, list[Any]] = field(default_factory=dict)  # samples by what they say

    def count(self, answer: Answer, sample: Any) -> None:
        """Count a sample by its answer; one that names no answer agrees with no other."""
        word = said(answer, self.params)
        alone = len(self.groups)  # a number, which is no word, and is not taken yet
        self.groups.setdefault((word,) if word is not None else alone, []).append(sample)

    @property
    def counts(self) -> list[int]:
        """How many samples gave each answer, most first."""
        return sorted(map(len, self.groups.values()), reverse=True)

    @property
    def wanted(self) -> int:
        """How many more samples to ask for."""
        return self.rule.wanted(self.quality, self.counts)

    @property
    def leader(self) -> Any:
        """The first sample that gave the leading answer; of equals the one that came first."""
        return max(self.groups.values(), key=len)[0]

    @property
    def good(self) -> float:
        """P(the leading answer is good)."""
        return self.rule.leader_good(self.quality, self.counts)

    @property
    def words(self) -> str:
        """The outcome, for people."""
        counts = self.counts
        return f"{counts[0]} of {sum(counts)} samples agree"
