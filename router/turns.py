"""What is known of a conversation when its next request is decided: frozen data, no state.

Tokens are the router's own estimates (`Shape.input_tokens`), so that those of one turn compare with
those of the next; time is unix seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Key = tuple[str, tuple[tuple[str, str], ...]]


def key_of(conversation_id: str, scopes: Mapping[str, str]) -> Key:
    """Whose conversation it is: the same id of two users is two conversations."""
    return conversation_id, tuple(sorted(scopes.items()))


@dataclass(frozen=True, slots=True)
class Cached:
    """What the provider of one arm may still hold of a conversation in its prompt cache.

    `tokens` of the first `messages` messages, whose `digest` is kept instead of their text; an
    empty one (read back from the log) fits any. `until`: when it is dropped unless it is read
    before. `missed`: the provider was expected to read from it, and reported that it did not.
    """

    tokens: int
    messages: int
    digest: bytes
    until: float
    missed: bool = False


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation after its latest answer.

    `turns` counts answered requests; `arm`, `model` and `tier` gave the latest answer, and have
    given all since the history had `since` messages. `caches` is by the arm's name; `writing` are
    the arms whose provider reported that it wrote to its cache. `floor` is the tier (an index of
    `TIERS`) that the conversation was escalated to, kept to while `turns` < `floor_until`.
    `request_id` and `messages` are of the latest answered request.
    """

    turns: int
    arm: str
    model: str
    tier: int
    since: int
    time: float
    messages: int
    request_id: str
    caches: Mapping[str, Cached] = field(default_factory=dict)
    writing: frozenset[str] = frozenset()
    floor: int = -1
    floor_until: int = 0


@dataclass(frozen=True, slots=True)
class Turn:
    """One request's place in its conversation, as its decision sees it.

    `turns` were answered before, the latest by `arm` of `model`, which has given all answers since
    the history had `since` messages; "" where nothing is known. `warm`: by an arm's name, tokens of
    this prompt that its provider's cache is expected to hold. `marked`: the request marks what is
    to be cached. `floor`: the tier (index) that the conversation is kept at or above for
    `floor_turns` more turns, this one counted; -1 for none. `compacted`: the prompt's tokens as it
    came in and as it goes out, and how it was done; None where it goes out whole.
    """

    turns: int = 0
    arm: str = ""
    model: str = ""
    since: int = 0
    warm: Mapping[str, int] = field(default_factory=dict)
    writing: frozenset[str] = frozenset()
    marked: bool = False
    floor: int = -1
    floor_turns: int = 0
    compacted: tuple[int, int, str] | None = None


@dataclass(frozen=True, slots=True)
class Compaction:
    """What goes out in place of the first `cut` messages of a conversation, whose `digest` is kept.

    `how` says by what it was made; `size` is about the bytes of `messages`.
    """

    cut: int
    digest: bytes
    messages: tuple[Mapping[str, Any], ...]
    how: str
    size: int
