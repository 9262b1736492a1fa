"""Which point of the front is taken, and when it may be said that it beats the base policy.

The rule that picks on the training days is the rule that judges on the held-out ones: what was
picked as the best of many looks better than it is, and only days that had no part in it can tell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from router.errors import ReplayError
from router.replay.off_policy.paired import Paired
from router.replay.tuning.search import Tried

Goal = Literal["cheapest", "best", "value"]


@dataclass(frozen=True, slots=True)
class Rule:
    """What is wanted of a candidate against the base, all by 95% intervals of the difference:

    - `cheapest`: the least cost, where quality is surely not lower by more than `quality_loss`;
    - `best`: the most quality, where cost is surely not higher by more than `cost_increase` %;
    - `value`: the most quality less cost, a US dollar being worth `cost_weight` of quality.
    """

    goal: Goal = "cheapest"
    quality_loss: float = 0.0
    cost_increase: float = 0.0
    cost_weight: float | None = None

    @property
    def words(self) -> str:
        """The rule in words."""
        if self.goal == "cheapest":
            return (
                "the cheapest whose quality is surely not below the base's by more than "
                f"{self.quality_loss:g}"
            )
        if self.goal == "best":
            return (
                "the best whose cost is surely not above the base's by more than "
                f"{self.cost_increase:g}%"
            )
        return f"the most P(good) - {self.cost_weight:g} * USD, by its lower bound"

    def pick(self, front: Sequence[Tried]) -> Tried | None:
        """The point of a front that the rule asks for; None where there is none."""
        allowed = [each for each in front if each.found is not None and self.allows(each.found)]
        return min(allowed, key=self._rank, default=None)

    def allows(self, found: Paired) -> bool:
        """Whether a difference keeps the rule's condition."""
        if found.refused or found.quality is None or found.cost_pct is None:
            return False
        if self.goal == "cheapest":
            return found.quality["low"] >= -self.quality_loss
        if self.goal == "best":
            return found.cost_pct["high"] <= self.cost_increase
        return found.value is not None

    def _rank(self, tried: Tried) -> tuple[float, float]:
        cost, quality = tried.point
        if self.goal == "cheapest":
            return cost, -quality
        if self.goal == "best":
            return -quality, cost
        assert tried.found is not None
        assert tried.found.value is not None
        return -tried.found.value["low"], cost

    def verdict(self, found: Paired) -> tuple[bool, str]:
        """Whether a candidate beats the base by these figures, and why or why not, in words."""
        if found.refused:
            return False, f"the held-out days cannot tell: {'; '.join(found.refused)}"
        if found.quality is None or found.cost is None or found.cost_pct is None:
            return (
                False,
                f"the held-out days cannot tell: {found.why_not or 'the base costs nothing'}",
            )
        if self.goal == "value":
            assert found.value is not None
            sure = found.value["low"] > 0
            said = f"its value is {'surely' if sure else 'not surely'} higher"
            return sure, f"{said} ({_ends(found.value, '+.4f')})"
        cost = f"({_ends(found.cost_pct, '+.2f', '%')})"
        quality = f"({_ends(found.quality, '+.4f')})"
        if self.goal == "cheapest":
            good = (
                (found.cost["high"] < 0, f"surely cheaper {cost}", f"not surely cheaper {cost}"),
                (
                    self.allows(found),
                    f"surely not worse by more than {self.quality_loss:g} {quality}",
                    f"it may be worse by more than {self.quality_loss:g} {quality}",
                ),
            )
        else:
            good = (
                (found.quality["low"] > 0, f"surely better {quality}",
                 f"not surely better {quality}"),
                (
                    self.allows(found),
                    f"surely not dearer by more than {self.cost_increase:g}% {cost}",
                    f"it may be dearer by more than {self.cost_increase:g}% {cost}",
                ),
            )  # fmt: skip
        beats = all(each for each, _, _ in good)
        return beats, ", ".join(yes if each else no for each, yes, no in good if each == beats)


def rule_of(
    goal: Goal, quality_loss: float, cost_increase: float, cost_weight: float | None
) -> Rule:
    """A rule for a base policy of this cost weight. Raises `ReplayError` where there is none, and
    the goal needs it."""
    if goal == "value" and cost_weight is None:
        raise ReplayError(
            "the base policy has no objective.cost_weight, so nothing says what quality is worth; "
            "pick the cheapest or the best"
        )
    return Rule(goal, quality_loss, cost_increase, cost_weight)


def _ends(figure: dict[str, float], form: str, unit: str = "") -> str:
    return f"{figure['value']:{form}}{unit}, {figure['low']:{form}} to {figure['high']:{form}}"
