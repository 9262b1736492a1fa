"""How a request was routed, as it is found on the answer that the caller got."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from router.types import Decision


@dataclass(frozen=True, slots=True)
class Routing:
    """How one request was routed.

    `attempts` counts its wire attempts; `cost` is the accepted one's in nano-USD, None where it is
    not known (a stream settles at its end).
    """

    request_id: str
    decision: Decision
    attempts: int
    cost: int | None


def attach(response: Any, routing: Routing) -> Any:
    """Make `routing` reachable from a response, where litellm keeps such things itself."""
    if not hasattr(response, "routing"):
        response._hidden_params["router"] = routing
    return response


def routing_of(response: Any) -> Routing | None:
    """The `Routing` that was attached to a response or a stream, None where there is none."""
    for found in (
        getattr(response, "routing", None),
        (getattr(response, "_hidden_params", None) or {}).get("router"),
    ):
        if isinstance(found, Routing):
            return found
    return None
