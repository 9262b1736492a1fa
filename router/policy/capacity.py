"""What a policy says about how much a deployment takes, and how one out of order is found out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from router.policy.fields import Part, Real, Seconds, http_url, wrong

if TYPE_CHECKING:
    from router.policy.deployment import Deployment

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


EndpointKey = tuple[str, str | None, str | None, str | None]


def endpoint_key(deployment: Deployment) -> EndpointKey:
    """What a provider counts as one: a model at an address under a key and a service tier."""
    return (
        deployment.model,
        deployment.api_base,
        deployment.api_key_env,
        deployment.service_tier,
    )


def check_limits(ladder: Iterable[tuple[str, int, Deployment]]) -> None:
    """Refuse two deployments of one endpoint that differ in limits or health.

    Parameters: `ladder`, each deployment with its tier and its place there.
    """
    seen: dict[EndpointKey, tuple[str, Deployment]] = {}
    for tier, at, deployment in ladder:
        key = endpoint_key(deployment)
        name, first = seen.setdefault(key, (f"tiers.{tier}.{at}", deployment))
        for part in ("limits", "health"):
            if getattr(first, part) != getattr(deployment, part):
                raise wrong(
                    f"{part} differ from those of {name}, which is the same endpoint",
                    f"the same {part} wherever {deployment.model} stands",
                    "tiers", tier, at,
                )  # fmt: skip
