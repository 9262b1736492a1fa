"""Reads conversations back from the log, so that a restart does not forget who has them cached."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING

from router.conversations.state import Answer, after
from router.dispatch.usage import read_usage
from router.turns import Conversation, Key, key_of
from router.types import TIERS

if TYPE_CHECKING:
    from router.log import Log

SECONDS = 600.0  # how far back is read: the usual caches live for five minutes
MOST_ROWS = 20_000  # of that time, the earliest


def recovered(
    log: Log,
    now: float,
    *,
    sticky_turns: int,
    seconds: Callable[[str], float],
    fills_itself: Callable[[str], bool],
) -> Iterator[tuple[Key, Conversation]]:
    """Yield each conversation of the last ten minutes, in the order of their latest answers.

    Parameters: `now`, unix seconds; `seconds` and `fills_itself`, of an arm by name, how long its
    cache lives and whether it fills without being asked to.
    What is read back has no digest, so a history is taken to go on as it was; turns and floors
    count from what was read. A compaction is not read back: no cache has what goes out next.
    """
    attempts: dict[str, list[tuple[int, Answer]]] = {}
    for row in islice(log.attempts(now - SECONDS, now), MOST_ROWS):
        if row.status != "answered" or row.tier not in TIERS:
            continue
        usage, _ = read_usage(row.usage)
        answer = Answer(
            request_id=row.request_id,
            arm=row.arm,
            model=row.model,
            tier=TIERS.index(row.tier),
            time=row.time,
            tokens=0,
            messages=0,
            digest=b"",
            usage=usage,
            seconds=seconds(row.arm),
            fills_itself=fills_itself(row.arm),
            expected=0,
            escalates=row.propensity >= 0.5,
        )
        attempts.setdefault(row.request_id, []).append((row.number, answer))
    known: dict[Key, Conversation] = {}
    for request in islice(log.requests(now - SECONDS, now), MOST_ROWS):
        if request.conversation_id is None or request.purpose != "serve":
            continue
        key = key_of(request.conversation_id, request.scopes)
        for number, answer in attempts.get(request.request_id, ()):
            if number == request.accepted:
                compacted = bool(request.features.get("compacted"))
                tokens = 0 if compacted else int(request.features.get("input_tokens") or 0)
                messages = int(request.features.get("messages") or 0)
                full = replace(answer, tokens=tokens, messages=messages)
                known[key] = after(known.pop(key, None), full, sticky_turns)
    yield from known.items()
