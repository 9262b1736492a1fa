"""How a request was routed, as it is found on the answer that the caller got."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from router.types import Decision


@dataclass(frozen=True, slots=True)
class Step:
    """One answer of a cascade: its arm, P(good) as known at the end, and what was found of it."""

    arm: str
    quality: float
    why: str


@dataclass(frozen=True, slots=True)
class Routing:
    """How one request was routed.

    `attempts` counts its wire attempts; `cost` is the accepted one's in nano-USD, None where it is
    not known, and of a stream, which settles at its end: the log has it then. `spent` nano-USD is
    what all of its calls cost, retries too, 0 for those of unknown cost; None of a stream. Of a
    cascade, `steps` are its answers in order.
    """

    request_id: str
    decision: Decision
    attempts: int
    cost: int | None
    steps: tuple[Step, ...] = ()
    spent: int | None = None


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
