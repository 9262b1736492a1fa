"""Which deployments are one endpoint to a provider, and share its limits."""

from __future__ import annotations

from collections.abc import Iterable

from router.policy.deployment import Deployment
from router.policy.fields import wrong

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
