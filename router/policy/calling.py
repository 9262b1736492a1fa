"""What one call may ask for, how long it may take, and what happens when it fails."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from router.policy.fields import Part, Real, Seconds, Tokens, wrong


class Limits(Part):
    """What one request may ask for."""

    max_output_tokens: Tokens = Field(default=4096, description="The longest answer, in tokens.")
    max_request_bytes: Annotated[int, Field(ge=1, le=100_000_000)] = Field(
        default=4_000_000, description="The largest request, in bytes of its text."
    )
    max_messages: Annotated[int, Field(ge=1, le=100_000)] = Field(
        default=2000, description="The most messages in one request."
    )


class Retry(Part):
    """What happens after a failure that may pass."""

    attempts: Annotated[int, Field(ge=1, le=10)] = Field(
        default=3, description="The most calls to one deployment for one request."
    )
    initial_wait: Annotated[Real, Field(ge=0, le=3600)] = Field(
        default=0.5, description="Seconds before the second call; doubles from call to call."
    )
    max_wait: Annotated[Real, Field(ge=0, le=3600)] = Field(
        default=20, description="The longest wait, in seconds."
    )
    fallback: bool = Field(
        default=True,
        description="Whether other deployments of the tier, then higher tiers, are tried.",
    )

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if self.max_wait < self.initial_wait:
            raise wrong(f"{self.max_wait:g} is less than initial_wait ({self.initial_wait:g})",
                        f"{self.initial_wait:g} or more", "max_wait")  # fmt: skip
        return self


class Timeout(Part):
    """How long to wait for a provider, in seconds."""

    connect: Seconds = Field(default=10, description="For the connection.")
    read: Seconds = Field(default=120, description="For the next bytes of the answer.")
    total: Seconds = Field(default=300, description="For the whole request, retries included.")

    @model_validator(mode="after")
    def _sound(self) -> Self:
        least = max(self.connect, self.read)
        if self.total < least:
            raise wrong(f"{self.total:g} is less than connect or read", f"{least:g} or more",
                        "total")  # fmt: skip
        return self


class Streams(Part):
    """What happens when the caller leaves a stream before its end."""

    on_abandon: Literal["drain", "abort"] = Field(
        default="drain", description="drain reads on, to learn the true usage; abort hangs up."
    )
    drain_seconds: Annotated[Real, Field(ge=0, le=3600)] = Field(
        default=30, description="How long to read on, in seconds."
    )
