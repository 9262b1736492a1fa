"""What an answer does to a conversation, and what a conversation is to its next request.

Pure functions over `router.turns`; `router.conversations.memory` keeps their results.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from router.predict.shape import LEAST_CACHED_TOKENS
from router.prices.caching import HOUR_SECONDS, needs_marks
from router.turns import Cached, Conversation, Turn

if TYPE_CHECKING:
    from router.prices import Price
    from router.types import Arm, AttemptRow, Request, Usage

MARK = "cache_control"
_MOST_CACHES = 8  # arms of one conversation whose caches are remembered


@dataclass(frozen=True, slots=True)
class Settled:
    """An answer as it was settled, at which `price` and in which `row` of the log; `stood_in`:
    whether for an arm that had failed."""

    request: Request
    arm: Arm
    row: AttemptRow
    usage: Usage | None
    input_tokens: int
    price: Price | None
    stood_in: bool


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer inside a conversation.

    `tier` is an index of `TIERS`. `tokens` (estimated) and `messages` are of the prompt that went
    out, `digest` of those messages. `usage` is None where the provider reported none. `seconds`:
    how long the arm's provider keeps a prompt; `fills_itself`: without marks and without a charge.
    `expected`: tokens that were expected in its cache. `escalates`: whether a higher tier than the
    one before was needed, and not only drawn by chance or left over by an outage.
    """

    request_id: str
    arm: str
    model: str
    tier: int
    time: float
    tokens: int
    messages: int
    digest: bytes
    usage: Usage | None
    seconds: float
    fills_itself: bool
    expected: int
    escalates: bool = True


def after(before: Conversation | None, answer: Answer, sticky_turns: int) -> Conversation:
    """The conversation once it got an answer; several answers to one request count as one turn.

    `sticky_turns`: for how many more turns a conversation keeps at least the tier that it was
    escalated to.
    """
    past = before or Conversation(0, "", "", -1, 0, answer.time, 0, "")
    turns = past.turns + (past.request_id != answer.request_id or before is None)
    floor, floor_until = past.floor, past.floor_until
    if answer.escalates and sticky_turns and -1 < past.tier < answer.tier:
        floor, floor_until = answer.tier, turns + sticky_turns
    caches = {
        name: kept
        for name, kept in past.caches.items()
        if name != answer.arm and kept.until > answer.time
    }
    left = _cached(past.caches.get(answer.arm), answer)
    if left is not None:
        caches[answer.arm] = left
    while len(caches) > _MOST_CACHES:
        del caches[min(caches, key=lambda name: caches[name].until)]
    wrote = answer.usage is not None and (
        answer.usage.cache_write_5m + answer.usage.cache_write_1h > 0
    )
    return Conversation(
        turns=turns,
        arm=answer.arm,
        model=answer.model,
        tier=answer.tier,
        since=_since(past, answer),
        time=answer.time,
        messages=answer.messages,
        request_id=answer.request_id,
        caches=caches,
        writing=past.writing | {answer.arm} if wrote else past.writing,
        floor=floor,
        floor_until=floor_until,
    )


def _since(past: Conversation, answer: Answer) -> int:
    """From which message on the model that just answered wrote all answers. Of what was before the
    first answer that was seen nothing is known: it is taken for the same model's."""
    if not past.model:
        return 0
    kept = past.model == answer.model and answer.messages >= past.messages
    return past.since if kept else answer.messages


def _cached(before: Cached | None, answer: Answer) -> Cached | None:
    """What the arm's cache holds after its answer, None where it keeps none."""
    if answer.seconds <= 0 or answer.tokens < LEAST_CACHED_TOKENS:
        return None
    seconds, tokens, usage = answer.seconds, answer.tokens, answer.usage
    missed = before is not None and before.missed
    if usage is not None:
        hit = usage.cache_read > 0
        missed = not hit and (missed or answer.expected > 0)
        if usage.cache_write_1h:
            seconds = max(seconds, HOUR_SECONDS)
    if not answer.fills_itself:
        # Only what the provider says that it read or wrote is in a cache that has to be asked.
        held = usage.input_tokens - usage.input if usage is not None else 0
        whole = usage.input_tokens if usage is not None else 1
        tokens = tokens * held // max(1, whole)
    if missed:
        tokens = 0
    return Cached(tokens, answer.messages, answer.digest, answer.time + seconds, missed)


def turn_of(
    conversation: Conversation | None,
    messages: Sequence[Mapping[str, Any]],
    params: Mapping[str, Any],
    now: float,
) -> Turn:
    """What the conversation is to a request with these messages at `now`, unix seconds.

    A cache counts while it lives, and only where the messages begin with those it was filled by.
    """
    marked = is_marked(messages, params)
    if conversation is None:
        return Turn(marked=marked)
    alive = {
        name: cached
        for name, cached in conversation.caches.items()
        if cached.until > now and cached.tokens and cached.messages <= len(messages)
    }
    found = digests(messages, params, {c.messages for c in alive.values() if c.digest})
    edited = len(messages) < conversation.messages
    left = conversation.floor_until - conversation.turns
    return Turn(
        turns=conversation.turns,
        arm=conversation.arm,
        model=conversation.model,
        since=len(messages) if edited else conversation.since,
        warm={
            name: cached.tokens
            for name, cached in alive.items()
            if not cached.digest or cached.digest == found[cached.messages]
        },
        writing=conversation.writing,
        marked=marked,
        floor=conversation.floor if left > 0 else -1,
        floor_turns=max(left, 0),
    )


def cache_use(turn: Turn, arm: Arm, price: Price, tokens: int) -> tuple[int, int]:
    """How many of a prompt's `tokens` an arm is expected to read from its cache and to write to it.

    Writing counts where it is charged for and will happen: by marks at a provider that needs them,
    or because the provider reported it before.
    """
    read = turn.warm.get(arm.name, 0)
    if price.rates.cache_write_5m <= price.rates.input or tokens < LEAST_CACHED_TOKENS:
        return read, 0
    if arm.name in turn.writing or (turn.marked and needs_marks(arm.model)):
        return read, max(0, tokens - read)
    return read, 0


def fills_itself(model: str, price: Price | None) -> bool:
    """Whether a provider caches prompts without marks and without a charge."""
    charged = price is not None and price.rates.cache_write_5m > price.rates.input
    return not charged and not needs_marks(model)


def digests(
    messages: Sequence[Mapping[str, Any]], params: Mapping[str, Any], counts: Collection[int]
) -> dict[int, bytes]:
    """A digest of the tools and the first n messages, for each n in `counts`; the tools come first
    in every provider's prompt. Marks of what to cache move from turn to turn and are no text."""
    if not counts:
        return {}
    running = hashlib.blake2b(_text([params.get("tools"), params.get("functions")]), digest_size=16)
    found = {0: running.digest()} if 0 in counts else {}
    for number, message in enumerate(messages[: max(counts)], start=1):
        running.update(_text(message))
        if number in counts:
            found[number] = running.digest()
    return found


def _text(value: Any) -> bytes:
    text = json.dumps(value, sort_keys=True, default=repr)
    if MARK in text:
        text = json.dumps(_unmarked(value), sort_keys=True, default=repr)
    return text.encode()


def _unmarked(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _unmarked(each) for key, each in value.items() if key != MARK}
    if isinstance(value, list | tuple):
        return [_unmarked(each) for each in value]
    return value


def is_marked(messages: Sequence[Mapping[str, Any]], params: Mapping[str, Any]) -> bool:
    """Whether a request says what is to be cached, on a message, a part, a tool or as a whole."""
    if params.get(MARK) or params.get("cache_control_injection_points"):
        return True
    if any(isinstance(tool, Mapping) and MARK in tool for tool in params.get("tools") or ()):
        return True
    for message in messages:
        content = message.get("content")
        if MARK in message or (
            isinstance(content, list | tuple)
            and any(isinstance(part, Mapping) and MARK in part for part in content)
        ):
            return True
    return False


def shifted(conversation: Conversation, gone: int) -> Conversation:
    """The conversation once it begins otherwise, by `gone` messages fewer: no cache holds that."""
    return replace(
        conversation,
        caches={},
        messages=max(0, conversation.messages - gone),
        since=max(0, conversation.since - gone),
    )
