"""What was asked in a recorded query: its messages, without any answer, and its group."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from router.predict.text import text_of

Messages = tuple[Mapping[str, Any], ...]

# Lines that offer answers: the same question with its options in another order is the same.
_OPTION = re.compile(r"^\s*\(?[A-Ja-j][.):]\s.*$|^\s*(?:options|choices)\s*:\s*$", re.M | re.I)
_NOT_WORD = re.compile(r"[\W_]+")


def messages_of(prompts: Sequence[Any], conversations: Sequence[Any]) -> Messages | None:
    """Return what every model of a query was asked, or None where they were not asked the same.

    Parameters: the distinct cells of the columns `prompt` and `messages` over the query's rows.
    A conversation that differs between models holds their answers, so it is not read: the
    prompt stands for it, or what is left of the conversation without the assistant's turns.
    Trailing turns of the assistant are dropped, since a request ends before the answer.
    Raises `ValueError` for a cell that is no conversation.
    """
    for cells in (conversations, prompts):
        if len(cells) == 1:
            return _without_answer(_conversation(cells[0]))
    for cells in (conversations, prompts):
        asked = [_without_assistant(_conversation(cell)) for cell in cells]
        if asked and all(one == asked[0] for one in asked):
            return asked[0]
    return None


def _conversation(cell: Any) -> Messages:
    if isinstance(cell, str):
        if not cell.lstrip().startswith('[{"role"'):
            return ({"role": "user", "content": cell},)
        try:
            cell = json.loads(cell)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"a conversation that is not JSON ({error})") from None
    if not isinstance(cell, (list, tuple)) or not cell:
        raise ValueError(f"{str(cell)[:60]!r}, neither text nor a list of messages")
    for message in cell:
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise ValueError(f"a message without a role: {str(message)[:60]!r}")
    return tuple(cell)


def _without_answer(messages: Messages) -> Messages:
    end = len(messages)
    while end and messages[end - 1]["role"] == "assistant":
        end -= 1
    if not end:
        raise ValueError("a conversation of the assistant's turns alone")
    return messages[:end]


def _without_assistant(messages: Messages) -> Messages:
    return tuple(m for m in messages if m["role"] not in ("assistant", "tool"))


def last_user_text(messages: Messages) -> str:
    """The text of the last user turn; of the last turn at all where there is none."""
    users = [m for m in messages if m["role"] == "user"] or list(messages)
    return text_of(users[-1].get("content"))


def group_of(messages: Messages) -> str:
    """Name the question: equal for the same first user turn but for case, punctuation, options.

    Later turns of a conversation belong to its first, so that no conversation is split.
    """
    users = [m for m in messages if m["role"] == "user"] or list(messages)
    text = text_of(users[0].get("content"))
    stem = _NOT_WORD.sub(" ", _OPTION.sub(" ", text).lower()).strip()
    return hashlib.sha256((stem or text).encode("utf-8", "surrogatepass")).hexdigest()[:16]
