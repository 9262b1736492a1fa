"""What a policy says about cascades: how many calls, who judges their answers, and streams."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from router.policy.fields import Part, wrong


class Verifier(Part):
    """A verifier of answers that was trained on recorded ones."""

    path: Annotated[str, Field(min_length=1)] = Field(
        description="Its directory; a relative one is looked for beside the policy."
    )
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = Field(
        default=None, description="What its training printed; another one is refused."
    )


class Cascade(Part):
    """Look at each answer before it is handed out, and stop or call another tier."""

    max_steps: Annotated[int, Field(ge=2, le=4)] = Field(
        default=2, description="The most answers that one request may pay for."
    )
    gate: Literal["structural", "learned"] = Field(
        default="structural",
        description="Who judges: structural, by form (empty, refused, cut, not the JSON or the "
        "tool call that was asked for, code that does not parse) and by which answers say the "
        "same; learned, a verifier.",
    )
    verifier: Verifier | None = Field(default=None, description="Of the gate learned: which one.")
    logprobs: bool | None = Field(
        default=None,
        description="Whether answers are asked for their tokens' log-probabilities, which the gate "
        "reads and the caller does not see. Of deployments that are known to take it.",
    )
    stream: Literal["buffer", "decide_first"] = Field(
        default="decide_first",
        description="buffer: a stream begins when its whole answer has passed; decide_first: a "
        "stream is decided before the call, and never cascades.",
    )

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if self.gate == "learned" and self.verifier is None:
            raise wrong("there is no verifier", "the directory of one, as path", "verifier")
        if self.gate != "learned" and self.verifier is not None:
            raise wrong("the gate is structural", "only with gate: learned", "verifier")
        return self
