"""What an arm is expected to cost and may cost at most, with a given output cap on the wire."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from router.conversations.state import cache_use
from router.dispatch.bounds import beyond_cap, least, samples, text_bound
from router.errors import UnknownPrice
from router.planning.ladder import asked_service_tier
from router.prices import quote
from router.types import Quote

if TYPE_CHECKING:
    from router.planning.ladder import Ladder
    from router.types import Request, Shape

Quoter = Callable[[int, float, int], Quote]


def quoter(ladder: Ladder, request: Request, shape: Shape, calls: Sequence[float]) -> Quoter:
    """Return what quotes one arm of a request; what no arm changes is read here, once.

    Parameters: `calls`, how many calls each arm is expected to take, 1 but for votes.

    The quoter's parameters: the arm's index, the expected output tokens of one answer, and the cap
    in tokens that goes on the wire for each answer.
    """
    params, tokens = request.params, shape.input_tokens
    count, tier = samples(params), asked_service_tier(params)
    audio = bool(shape.audio_parts or params.get("audio"))
    text, beyond = text_bound(shape), beyond_cap(params)
    turn, arms, ways = request.turn, ladder.arms, request.ways

    def quote_arm(index: int, output_tokens: float, cap: int) -> Quote:
        quoted = quote_call(index, output_tokens, cap)
        if arms[index].samples == 1 or quoted.expected is None or quoted.upper is None:
            return quoted
        expected = round(quoted.expected * calls[index])
        return Quote(expected, quoted.upper * arms[index].samples, cap)

    def quote_call(index: int, output_tokens: float, cap: int) -> Quote:
        able = ladder.capabilities[index]
        bound = least(text, able.context_window)
        now, own = request.now, tier or ladder.service_tiers[index]
        if ways:
            now, own = ways[index].at, ways[index].service_tier or own
        price = ladder.prices[index].at(now)
        if price is None or bound is None:
            return Quote(None, None, cap)
        read, write = 0, 0
        if turn is not None and now <= request.now:  # no cache is counted on after a wait
            read, write = cache_use(turn, arms[index], price, tokens)
        try:
            return quote(
                price,
                input_tokens=tokens,  # `quote` keeps it within the bound
                output_tokens=min(round(output_tokens), cap) * count,
                input_bound=bound,
                output_cap=cap,
                beyond_cap=beyond + able.reasoning_beyond_cap,
                repeated_tokens=shape.prefix_tokens,
                read_tokens=read,
                write_tokens=write,
                images=shape.images,
                samples=count,
                audio=audio,
                service_tier=own,
                now=now,
            )
        except UnknownPrice:
            return Quote(None, None, cap)

    return quote_arm
