"""What a gate reads of an answer: its text, how it ended, and the tools that it calls."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Answer:
    """One choice of a response. `tool_calls`: (name, arguments as the provider wrote them)."""

    text: str
    finish_reason: str | None = None
    tool_calls: tuple[tuple[str, str], ...] = ()
    refused: bool = False  # the provider's own word


def answers_of(response: Any) -> tuple[Answer, ...]:
    """The choices of a chat completion, in litellm's or OpenAI's type."""
    return tuple(_answer(choice) for choice in response.choices)


def _answer(choice: Any) -> Answer:
    message = choice.message
    text, refusal = getattr(message, "content", None), getattr(message, "refusal", None)
    return Answer(
        text=text if isinstance(text, str) else "",
        finish_reason=choice.finish_reason,
        tool_calls=tuple(_calls(message)),
        refused=bool(refusal) or choice.finish_reason == "content_filter",
    )


def _calls(message: Any) -> Iterable[tuple[str, str]]:
    for call in getattr(message, "tool_calls", None) or ():
        yield call.function.name or "", call.function.arguments or ""
    old = getattr(message, "function_call", None)  # the form before tools
    if old is not None:
        yield old.name or "", old.arguments or ""
