"""What a policy says about how much a deployment takes, and how one out of order is found out."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from router.policy.fields import Part, Real, Seconds, http_url, wrong

PerMinute = Annotated[int, Field(ge=1, le=10_000_000_000)]


class CapacityLimits(Part):
    """How much one process may send to a deployment; with k processes, write the k-th part."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1})

    requests_per_minute: PerMinute | None = Field(
        default=None, description="Calls a minute, retries included."
    )
    tokens_per_minute: PerMinute | None = Field(
        default=None, description="Tokens a minute, of prompts and answers together."
    )
    max_parallel: Annotated[int, Field(ge=1, le=1_000_000)] | None = Field(
        default=None, description="Calls at the same time; a stream is one until its end."
    )
    burst_seconds: Annotated[Real, Field(gt=0, le=60)] = Field(
        default=60,
        description="How many seconds' worth of a limit may come at once: 60 is a whole minute's, "
        "1 spreads 60 requests a minute over its seconds.",
    )

    @model_validator(mode="after")
    def _some(self) -> Self:
        kinds = ("requests_per_minute", "tokens_per_minute", "max_parallel")
        if all(getattr(self, kind) is None for kind in kinds):
            raise wrong("nothing is limited", "at least one of " + ", ".join(kinds))
        return self


class HealthCheck(Part):
    """Where a server of one's own says how it is. It is asked beside the calls, never by one."""

    server: Literal["vllm", "llama_cpp", "ollama"] = Field(
        description="What answers: vllm (/health, /metrics), llama_cpp (/health, /slots) or "
        "ollama (/api/ps)."
    )
    url: Annotated[str, AfterValidator(http_url)] | None = Field(
        default=None, description="The server's root; the deployment's api_base without /v1."
    )
    every_seconds: Annotated[Real, Field(ge=0.01, le=3600)] = Field(
        default=5, description="How often it is asked, in seconds."
    )
    timeout_seconds: Seconds = Field(
        default=2, description="How long it may take; one that is slower counts as unhealthy."
    )
    max_queue: Annotated[int, Field(ge=0, le=1_000_000)] | None = Field(
        default=None, description="Requests that may wait at the server; with more, it is full."
    )
    max_wait_seconds: Seconds | None = Field(
        default=None,
        description="The longest wait, expected from its queue and its pace, before it is full.",
    )


class BreakerOptions(Part):
    """When a deployment that keeps failing is left alone, and for how long."""

    failures: Annotated[int, Field(ge=1, le=1000)] = Field(
        default=5, description="So many failures in a row open the circuit."
    )
    ratio: Annotated[Real, Field(gt=0, le=1)] | None = Field(
        default=None, description="Or this share of the last `of` calls; not looked at otherwise."
    )
    of: Annotated[int, Field(ge=2, le=1000)] = Field(
        default=20, description="How many calls `ratio` is a share of."
    )
    open_seconds: Seconds = Field(
        default=10,
        description="How long nothing is sent before one call probes; doubled where it fails.",
    )
    longest_open_seconds: Seconds = Field(default=300, description="The longest of these waits.")

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if self.longest_open_seconds < self.open_seconds:
            raise wrong(
                f"{self.longest_open_seconds:g} is less than open_seconds ({self.open_seconds:g})",
                f"{self.open_seconds:g} or more",
                "longest_open_seconds",
            )
        return self
