"""What a policy says about drift: what is watched, how rare false alarms are, what they do."""

from __future__ import annotations

from typing import Annotated, Literal, Self, get_args

from pydantic import Field, model_validator

from router.policy.fields import Part, Real, wrong

Watched = Literal["scores", "tokens", "refusals", "faults", "gate", "novel", "prices"]
WATCHED: tuple[Watched, ...] = get_args(Watched)


class DriftOptions(Part):
    """Raise an alarm when requests, answers or prices are no longer what they were, and do the safe
    thing until a person has looked (`router drift accept`)."""

    alpha: Annotated[Real, Field(gt=0, le=0.5)] = Field(
        default=0.05,
        description="The most probability that there is ever a false alarm, however long nothing "
        "changes: of all that is watched together, until the next `router drift accept`.",
    )
    on_alarm: Literal["baseline", "log"] = Field(
        default="baseline",
        description="baseline: the baseline tier answers wherever it can and the budgets have room "
        "for it, and no answer is looked at twice, until the alarm is accepted; log: the alarm is "
        "written down, and nothing else changes.",
    )
    watch: Annotated[tuple[Watched, ...], Field(min_length=1)] | None = Field(
        default=None,
        description="scores: predicted quality by tier; tokens: of answers against what was "
        "predicted, by tier; refusals and faults (other faults of form): of answers, by tier; "
        "gate: how often a first answer did not pass, and another call followed; novel: how often "
        "requests are unlike anything in training; prices: of the policy's models, where the price "
        "book changes. Everything that there is, otherwise (gate not with pacing, which moves it).",
    )
    reference: Annotated[int, Field(ge=50, le=1_000_000)] = Field(
        default=500,
        description="How many first values of each quantity only say what is usual. More find "
        "smaller changes; where traffic has its days and weeks, they should span one.",
    )
    scores: Literal["log", "calibration"] = Field(
        default="log",
        description="What predicted quality is held against: log, the first requests; calibration, "
        "the predictor's calibration queries, on which a promise with confidence rests.",
    )

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        for at, name in enumerate(self.watch or ()):
            if name in (self.watch or ())[:at]:
                raise wrong(f"{name!r} is named twice", "each once", "watch", at)
        return self
