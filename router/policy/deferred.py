"""What a policy says about requests that can wait: which cheaper prices they may wait for."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import ConfigDict, Field, model_validator

from router.policy.fields import Part, Real, Seconds, wrong

BATCH_WINDOW = 86_400.0  # seconds: "24h", the one completion window of OpenAI's batch API


class DeferredOptions(Part):
    """Which prices a request with a `deadline` may take, and where it waits."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1})

    flex: bool = Field(
        default=False, description="Whether it may be sent at the provider's flex price."
    )
    off_peak: bool = Field(
        default=False, description="Whether it may wait for an hour at which its model is cheaper."
    )
    batch: bool = Field(
        default=False,
        description="Whether queued ones may go into a batch (models openai/…), which takes up to "
        "24 hours.",
    )
    flex_timeout: Seconds = Field(
        default=900, description="How long to wait for the next bytes of a flex answer, in seconds."
    )
    flex_retry: Annotated[Real, Field(ge=0, le=86_400)] = Field(
        default=60, description="Seconds until flex is asked again that had no capacity."
    )
    gather: Annotated[Real, Field(ge=0, le=86_400)] = Field(
        default=60, description="How long a batch waits for more requests, in seconds."
    )
    retention: Annotated[Real, Field(ge=1, le=31_536_000)] = Field(
        default=604_800,
        description="How long the answer of a queued request is kept for whoever collects it.",
    )
    queue: Annotated[str, Field(pattern=r"^sqlite:///\S+$")] | None = Field(
        default=None,
        description="The SQLite file that queued requests wait in; the log's own otherwise.",
    )

    @model_validator(mode="after")
    def _some(self) -> Self:
        if not (self.flex or self.off_peak or self.batch):
            raise wrong("nothing is waited for", "at least one of flex, off_peak, batch as true")
        return self
