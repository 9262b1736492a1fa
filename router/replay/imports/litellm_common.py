"""What litellm's table and its callbacks have in common."""

from __future__ import annotations

import json
from typing import Any

from router.replay.imports.chat import Messages, messages_of
from router.replay.imports.row import Row

# litellm's names for calls of a chat model, each with its asynchronous twin.
CHAT_CALLS = frozenset(
    {
        "completion", "acompletion", "text_completion", "atext_completion", "anthropic_messages",
        "aanthropic_messages", "responses", "aresponses", "generate_content", "agenerate_content",
        "generate_content_stream", "agenerate_content_stream",
    }
)  # fmt: skip
CACHED = "answered from litellm's cache, so no model was called"
NO_MODEL = "failed before a model was chosen"
CUT = "a prompt that litellm had cut was taken for none"
_CUT_MARK = "(litellm_truncated"


def prompt_of(*values: Any) -> tuple[Messages | None, tuple[str, ...]]:
    """The first prompt among some values, and a note where litellm kept only a part of it.

    A part has other features than the whole, so it is no prompt.
    """
    for value in values:
        messages = messages_of(value)
        if messages is None:
            continue
        if _CUT_MARK in json.dumps(messages, ensure_ascii=False, default=str):
            return None, (CUT,)
        return messages, ()
    return None, ()


def failure_of(error: Row) -> str:
    """Why a call failed, without its text, which may quote the prompt."""
    kind = error.text("error_class") or "failure"
    code = error.text("error_code")
    return f"{kind} ({code})" if code else kind
