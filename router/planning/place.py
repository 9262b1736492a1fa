"""A request's place in time and in its conversation, as its log row and its decision have it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from router.money import format_usd

if TYPE_CHECKING:
    from router.types import Request


def of_way(request: Request, chosen: int) -> str:
    """How the chosen arm is called where the request has a deadline, "" where it has none."""
    if request.deadline is None:
        return ""
    if not request.ways:
        return f"may wait until {_moment(request.deadline)}, but nothing is waited for"
    way = request.ways[chosen]
    saves = 0 if way.cost is None or way.at_once is None else way.at_once - way.cost
    said = [
        f"waits for other prices at {_moment(way.at)}" if way.at > request.now else "",
        f"{way.service_tier} price" if way.service_tier in ("flex", "batch") else "",
    ]
    how = ", ".join(part for part in said if part)
    if not how and saves > 0:
        how = "waited for these prices"
    if not how:
        return f"called at once: nothing cheaper is in time for {_moment(request.deadline)}"
    saved = f", {format_usd(saves)} less than at once" if saves else ""
    return f"{how}{saved}, in time for {_moment(request.deadline)}"


def place(request: Request) -> dict[str, Any]:
    """What the log keeps of a request's place in its conversation and of its deadline: numbers, no
    text."""
    facts: dict[str, Any] = {}
    if request.deadline is not None:
        facts["deadline_seconds"] = round(request.deadline - request.now, 3)
    if request.ways:
        facts["ways"] = [[way.service_tier, round(way.at - request.now, 3)] for way in request.ways]
    if (turn := request.turn) is None:
        return facts
    facts |= {"turn": turn.turns, "cached_tokens": turn.warm.get(turn.arm, 0)}
    if turn.compacted is not None:
        facts["compacted"] = list(turn.compacted)
    return facts


def _moment(unix: float) -> str:
    return f"{datetime.fromtimestamp(unix, UTC):%Y-%m-%d %H:%M} UTC"
