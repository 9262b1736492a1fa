"""What a chain leaves in the log, so that another policy's chains can be estimated from it.

After each answer: what was thought of every arm, what chances there were, and what was done. Kept
only where something is left to chance: without chances nothing can be estimated.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from router.log.writer import to_json

if TYPE_CHECKING:
    from router.types import Floats

STOP = -1


@dataclass(slots=True)
class LookRecord:
    """The looks of one request. `gate`: what judged; `checked`: whether a form was asked for;
    `compared`: whether looks ahead counted on comparing answers."""

    gate: str
    checked: bool
    compared: bool
    _looks: list[dict[str, Any]] = field(default_factory=list)

    def add(
        self, answered: int, quality: Floats, chances: Floats, taken: int, *, final: bool
    ) -> None:
        """A look: the arm that `answered`, P(good) of every arm (A,), the `chances` (A + 1,) of
        calling each next and of stopping, and which of these was `taken`; `final`, whether no
        policy could have gone on."""
        self._looks.append(
            {
                "answered": answered,
                "quality": [round(float(each), 6) for each in quality],
                "chances": [float(each) for each in chances],
                "chosen": taken if taken < len(quality) else STOP,
                "final": final,
            }
        )

    @property
    def text(self) -> str:
        """The record as JSON."""
        facts = {"gate": self.gate, "checked": self.checked, "compared": self.compared}
        return to_json({**facts, "looks": self._looks})
