"""What a policy would have seen of an imported call: features, and every arm's prediction and
quote, by the code that serves live requests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from router.errors import RouterError
from router.planning.ladder import Ladder
from router.planning.make import make_plan
from router.policy import Policy
from router.predict import Predictor, extract, shape_of
from router.prices import PriceBook
from router.replay.imports.record import ImportedCall
from router.types import Arm, Request

ELSEWHERE = "taken elsewhere: the log does not say why"


@dataclass(frozen=True, slots=True)
class Planned:
    """What is logged of a call beside what its source says.

    `arm` is the one that the recorded model is, None where the policy has none; `several`, whether
    more than one has this model and the record does not tell them apart. `problem` says why there
    is no plan, None where there is one.
    """

    arm: Arm | None = None
    several: bool = False
    features: Mapping[str, Any] = field(default_factory=dict)
    decision: tuple[Mapping[str, Any], ...] = ()
    baseline: int | None = None
    rule: str | None = None
    problem: str | None = None


class Planner:
    """Plans calls under one policy, at the prices of their own time."""

    def __init__(self, policy: Policy, book: PriceBook, predictor: Predictor):
        self.ladder = Ladder.of(policy, book, predictor.efforts)
        self._book, self._predictor = book, predictor

    @property
    def stamp(self) -> str:
        """The predictor's name and hash."""
        return self._predictor.name

    def plan(self, request_id: str, call: ImportedCall) -> Planned:
        """What the policy would have seen of a call."""
        arm, several = self._arm(call)
        if call.messages is None:
            return Planned(arm, several)
        request = Request(
            request_id,
            call.messages,
            call.params,
            call.time,
            call.stream,
            call.scopes,
            call.tags,
            conversation_id=call.conversation_id,
        )
        try:
            features = extract(request, self._predictor.embedder)
            shape = shape_of(call.messages, call.params)
            prediction = self._predictor(features)
            plan = make_plan(self.ladder, request, shape, features, prediction)
        except RouterError as error:
            return Planned(arm, several, problem=type(error).__name__)
        name = None if arm is None else arm.name
        # Nobody knows how likely each arm was to be taken, so that is null, not a number.
        decision = tuple(
            {
                **view,
                "propensity": None,
                "rejected": None if view["arm"] == name else ELSEWHERE,
            }
            for view in plan.views(None)
        )
        return Planned(arm, several, plan.facts(), decision, plan.baseline(), plan.rule)

    def _arm(self, call: ImportedCall) -> tuple[Arm | None, bool]:
        """The arm of a call's model, by its effort where several have it."""
        known = [arm for arm in self.ladder.arms if self._same(arm.model, call.model, call.time)]
        asked = call.params.get("reasoning_effort")
        if asked is None and len(known) > 1:
            return next((arm for arm in known if arm.effort is None), known[0]), True
        fitting = [arm for arm in known if asked is None or (arm.effort or "none") == asked]
        # An effort that no arm has is still this model; which of its arms, nobody can say.
        return next(iter(fitting or known), None), len(known) > 1 and len(fitting) != 1

    def _same(self, ours: str, theirs: str, time: float) -> bool:
        """Whether two names are of one model: in full, by the price book, or without a provider."""
        if ours == theirs:
            return True
        entry, other = self._book.entry(ours, time), self._book.entry(theirs, time)
        if entry is not None and other is not None:
            return entry.model == other.model
        if "/" in ours and "/" in theirs:
            return False  # two providers, or two paths at one
        return _bare(ours) == _bare(theirs)


def _bare(model: str) -> str:
    """A model's name without its provider; one that keeps a slash may name another provider."""
    return model.partition("/")[2] or model
