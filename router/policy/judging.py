"""What a policy says about judging: who compares routed answers with the baseline's, how many."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from router.policy.fields import Name, Part, Real, Tokens, wrong
from router.types import Tier


class JudgeOptions(Part):
    """Who judges logged answers (`router judge`). The first deployment that fits: of the tier,
    of the model, or of the baseline tier where neither is given."""

    tier: Tier | None = Field(default=None, description="The tier of the judge.")
    model: Name | None = Field(
        default=None, description="The judge's model, which a deployment of the policy names."
    )
    rate: Annotated[Real, Field(gt=0, le=1)] = Field(
        default=0.02, description="The share of logged requests that is judged."
    )
    max_output_tokens: Tokens = Field(
        default=2048,
        description="The longest reply of the judge; a verdict is one word, reasoning comes on "
        "top.",
    )

    @model_validator(mode="after")
    def _one(self) -> Self:
        if self.tier is not None and self.model is not None:
            raise wrong("tier and model are given", "one of the two", "model")
        return self
