"""What a gate reads of an answer: its text, how it ended, and the tools that it calls."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from router.gates.confidence import Confidence, confidence_of
from router.predict.text import as_mapping

_PLAIN_ENDS = (None, "stop", "tool_calls", "function_call")


@dataclass(frozen=True, slots=True)
class Answer:
    """One choice of a response. `text`: what it says, or has in its sound; `tool_calls`: (name,
    arguments as the provider wrote them); `media`: whether it has sound or pictures."""

    text: str
    finish_reason: str | None = None
    tool_calls: tuple[tuple[str, str], ...] = ()
    refused: bool = False  # the provider's own word
    confidence: Confidence | None = None  # where the provider gave log-probabilities
    media: bool = False


def answers_of(response: Any) -> tuple[Answer, ...]:
    """The choices of a chat completion, in litellm's or OpenAI's type."""
    return tuple(_answer(choice) for choice in response.choices)


def kept_answers(response: Any) -> str:
    """The choices of a response as the log keeps them, in JSON: of each its message, beside it
    how it ended where it did not just stop, and what its log-probabilities come to."""
    return json.dumps([_kept(choice) for choice in response.choices], ensure_ascii=False)


def _kept(choice: Any) -> dict[str, Any]:
    found: dict[str, Any] = choice.message.model_dump(exclude_none=True)
    if choice.finish_reason not in _PLAIN_ENDS:
        found["finish_reason"] = choice.finish_reason
    confidence = _answer(choice).confidence
    if confidence is not None:
        found["logprobs"] = confidence.as_dict()
    return found


def answer_of_kept(kept: str) -> Answer | None:
    """The first choice of what the log kept of an answer; None where it is no such thing."""
    try:
        choices = json.loads(kept)
    except ValueError:
        return None
    message = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(message, Mapping):
        return None
    plain, media = _read(message)
    calls = [each.get("function") or {} for each in message.get("tool_calls") or ()]
    return Answer(
        text=plain,
        finish_reason=message.get("finish_reason"),
        tool_calls=tuple((each.get("name") or "", each.get("arguments") or "") for each in calls),
        refused=bool(message.get("refusal")) or message.get("finish_reason") == "content_filter",
        confidence=confidence_of(message.get("logprobs"), plain),
        media=media,
    )


def _answer(choice: Any) -> Answer:
    message = choice.message
    refusal = getattr(message, "refusal", None)
    plain, media = _read(message)
    return Answer(
        text=plain,
        finish_reason=choice.finish_reason,
        tool_calls=tuple(_calls(message)),
        refused=bool(refusal) or choice.finish_reason == "content_filter",
        confidence=confidence_of(getattr(choice, "logprobs", None), plain),
        media=media,
    )


def _read(message: Any) -> tuple[str, bool]:
    """A message's text, or the words of its sound, and whether it has sound or pictures."""
    sound, pictures = _part(message, "audio"), _part(message, "images")
    text = _part(message, "content") or _part(sound, "transcript")
    return text if isinstance(text, str) else "", bool(sound or pictures)


def _part(message: Any, name: str) -> Any:
    return message.get(name) if isinstance(message, Mapping) else getattr(message, name, None)


def called(call: Any) -> tuple[str, str]:
    """Name and arguments of a tool call, or the input of a custom tool's; of a stream's chunk, what
    it has of them."""
    function = getattr(call, "function", None)
    if function is not None:
        return function.name or "", function.arguments or ""
    custom = as_mapping(getattr(call, "custom", None))
    return custom.get("name") or "", custom.get("input") or ""


def _calls(message: Any) -> Iterable[tuple[str, str]]:
    for call in getattr(message, "tool_calls", None) or ():
        yield called(call)
    old = getattr(message, "function_call", None)  # the form before tools
    if old is not None:
        yield old.name or "", old.arguments or ""
