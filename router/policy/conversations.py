"""What a policy says about conversations: how long they stick to a tier, and how they shrink."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from router.policy.fields import Part, Real, Tokens, Usd, wrong
from router.types import Tier


class ConversationOptions(Part):
    """How requests with a conversation_id stick to what answered before."""

    sticky_turns: Annotated[int, Field(ge=0, le=1000)] = Field(
        default=2,
        description="After an answer of a higher tier than the one before: for how many more "
        "turns lower tiers are left out, unless nothing else fits.",
    )
    remember: Annotated[int, Field(ge=0, le=1_000_000)] = Field(
        default=10_000,
        description="How many conversations a process remembers, about 2 KB each; the least "
        "recently used are forgotten first. 0: none is.",
    )


class CompactionOptions(Part):
    """When and how a long conversation is shortened. Off unless the policy has this key."""

    min_tokens: Tokens = Field(
        default=8_000, description="The shortest prompt, in tokens, that is compacted."
    )
    keep_turns: Annotated[int, Field(ge=1, le=1000)] = Field(
        default=4, description="The last user turns, with all that follows each, that stay whole."
    )
    target: Annotated[Real, Field(gt=0, lt=1)] = Field(
        default=0.4, description="The share of the older turns' tokens that may stay."
    )
    summary: Tier | None = Field(
        default=None,
        description="The tier that may write a summary in place of what would be dropped. None: "
        "only shortening and dropping, without a call.",
    )
    summary_tokens: Tokens = Field(default=600, description="The longest summary, in tokens.")
    max_cost: Usd | None = Field(
        default=None, description="The most USD that one summary may cost; needed with summary."
    )

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if self.summary is not None and self.max_cost is None:
            raise wrong("a summary is a call that costs money", "a max_cost with summary",
                        "max_cost")  # fmt: skip
        if self.summary is None and self.max_cost is not None:
            raise wrong("there is no summary that it could limit", "only with summary",
                        "max_cost")  # fmt: skip
        return self
