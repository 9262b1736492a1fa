"""Prompts, answers and usage reports of other tools, in OpenAI's shape."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from router.replay.imports.row import Row, loads, plain

Messages = tuple[Mapping[str, Any], ...]

ROLES = {
    "ai": "assistant",
    "assistant": "assistant",
    "developer": "developer",
    "function": "function",
    "human": "user",
    "model": "assistant",
    "system": "system",
    "tool": "tool",
    "user": "user",
}
# What litellm writes in the place of a prompt that it was told not to log.
_REDACTED = ("redacted-by-litellm", "redacted by litellm")
# Arguments of a call that say what it needs or costs; none of them is text of the prompt but tools.
PARAMS = (
    "max_completion_tokens",
    "max_tokens",
    "n",
    "reasoning_effort",
    "response_format",
    "service_tier",
    "tool_choice",
    "tools",
)


_HOUR = "ephemeral_1h_input_tokens"


def messages_of(value: Any) -> Messages | None:
    """Chat messages from what a tool kept as a prompt; None where there is none.

    Parameters: `value`, text, a list of messages, or an object with `messages`, `input` or
    `prompt`, with `system` or `instructions` beside it; or JSON text of one of these.
    """
    value = _unpacked(value)
    if isinstance(value, str):
        return user_turn(value)
    if isinstance(value, list):
        if any(_is_redacted(each.get("content")) for each in value if isinstance(each, Mapping)):
            return None
        found = [each for each in map(_message, value) if each is not None]
        return tuple(found) if found and len(found) == len(value) else None
    if isinstance(value, Mapping):
        if "role" in value:
            return messages_of([value])
        inner = next(
            (value[key] for key in ("messages", "input", "prompt") if value.get(key)), None
        )
        found_inner = messages_of(inner)
        system = _content(value.get("system") or value.get("instructions"))
        if found_inner is None or not system:
            return found_inner
        return ({"role": "system", "content": system}, *found_inner)
    return None


def user_turn(text: str | None) -> Messages | None:
    """A prompt that is one turn of text, whatever the text looks like; None where there is none."""
    if not text or not text.strip() or _is_redacted(text):
        return None
    return ({"role": "user", "content": text},)


def answer_of(value: Any) -> Messages | None:
    """The answer's messages, from a response body of OpenAI's or Anthropic's, a message or text."""
    value = _unpacked(value)
    if isinstance(value, str):
        empty = not value.strip() or _is_redacted(value)
        return None if empty else ({"role": "assistant", "content": value},)
    if isinstance(value, list):
        return messages_of(value)
    if not isinstance(value, Mapping):
        return None
    choices = value.get("choices")
    if isinstance(choices, list):
        found = [each.get("message") for each in choices if isinstance(each, Mapping)]
        return messages_of([each for each in found if isinstance(each, Mapping)])
    if isinstance(value.get("output"), list):  # of the Responses interface
        said = [each for each in value["output"] if isinstance(each, Mapping) and "role" in each]
        return messages_of(said)
    if "role" in value or "content" in value:
        return messages_of([{"role": "assistant", **value}])
    return None


def params_of(row: Row) -> dict[str, Any]:
    """The arguments of a call that bear on what it needs and costs."""
    return {name: plain(row.json(name)) for name in PARAMS if row.has(name)}


def stops_short(params: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments without a cap that is none: exports write -1, 0 or text where there is no cap."""
    kept = dict(params)
    for name in ("max_completion_tokens", "max_tokens", "n"):
        value = kept.get(name)
        if isinstance(value, str) and value.isdigit():
            value = kept[name] = int(value)
        if isinstance(value, float) and value.is_integer():
            value = kept[name] = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            kept.pop(name, None)
    return kept


def usage_of(
    prompt: int | None,
    completion: int | None,
    *,
    cached: int | None = None,
    written: int | None = None,
    written_1h: int | None = None,
    reasoning: int | None = None,
    audio_input: int | None = None,
    audio_output: int | None = None,
) -> dict[str, Any] | None:
    """Token counts as OpenAI's usage report; None unless both of the main ones are known.

    Cached and cache-written tokens are part of `prompt`; where there are more of them than of it,
    the source left them out of it, and they are added. Those written for an hour are part of
    `written`, audio is part of `prompt` and of `completion`.
    """
    if prompt is None or completion is None or prompt + completion == 0:
        return None
    if (cached or 0) + (written or 0) > prompt:
        prompt += (cached or 0) + (written or 0)
    report: dict[str, Any] = {"prompt_tokens": prompt, "completion_tokens": completion}
    by_lifetime = {_HOUR: written_1h} if written_1h else None
    inside = {
        "cached_tokens": cached,
        "audio_tokens": audio_input,
        "cache_creation_token_details": by_lifetime,
    }
    outside = {"reasoning_tokens": reasoning, "audio_tokens": audio_output}
    for name, details in (
        ("prompt_tokens_details", inside),
        ("completion_tokens_details", outside),
    ):
        if known := {key: value for key, value in details.items() if value}:
            report[name] = known
    if written:
        report["cache_creation_input_tokens"] = written
    return report


def written_of(row: Row) -> tuple[int | None, int]:
    """Tokens written to the cache, and how many of them for an hour, in Anthropic's report or in
    what litellm makes of it."""
    inside = row.row("prompt_tokens_details")
    lifetimes = (row.row("cache_creation"), inside.row("cache_creation_token_details"))
    told = next((each for each in lifetimes if each.values), lifetimes[0])
    hour, minutes = told.count(_HOUR) or 0, told.count("ephemeral_5m_input_tokens") or 0
    written = row.count("cache_creation_input_tokens") or inside.count("cache_creation_tokens")
    return max(written or 0, hour + minutes) or None, hour


def usage_from(row: Row) -> dict[str, Any] | None:
    """The usage report of a response body: of OpenAI's two interfaces, or Anthropic's."""
    written, written_1h = written_of(row)
    if row.has("prompt_tokens") or row.has("completion_tokens"):
        inside = row.row("prompt_tokens_details")
        outside = row.row("completion_tokens_details")
        return usage_of(
            row.count("prompt_tokens"),
            row.count("completion_tokens") or 0,
            cached=inside.count("cached_tokens") or row.count("cache_read_input_tokens"),
            written=written,
            written_1h=written_1h,
            reasoning=outside.count("reasoning_tokens"),
            audio_input=inside.count("audio_tokens"),
            audio_output=outside.count("audio_tokens"),
        )
    prompt = row.count("input_tokens")
    details, outside = row.row("input_tokens_details"), row.row("output_tokens_details")
    read = row.count("cache_read_input_tokens")
    if prompt is not None:  # Anthropic counts what its cache has beside the input
        prompt += (read or 0) + (written or 0)
    return usage_of(
        prompt,
        row.count("output_tokens"),
        cached=read or details.count("cached_tokens"),
        written=written,
        written_1h=written_1h,
        reasoning=outside.count("reasoning_tokens"),
        audio_input=details.count("audio_tokens"),
        audio_output=outside.count("audio_tokens"),
    )


def with_provider(provider: str | None, model: str) -> str:
    """A model's name with litellm's prefix, where its provider is known and not in it yet."""
    if not provider or model.startswith(f"{provider}/"):
        return model
    return f"{provider}/{model}"


def _is_redacted(value: Any) -> bool:
    return isinstance(value, str) and value.startswith(_REDACTED)


def _unpacked(value: Any) -> Any:
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        try:
            found = loads(value)
        except (ValueError, RecursionError):
            return value
        # A prompt may be JSON itself: only what is a chat is unpacked.
        if messages_of(found) or answer_of(found):
            return found
    return value


def _message(value: Any) -> Mapping[str, Any] | None:
    if isinstance(value, str):
        return {"role": "user", "content": value}
    if not isinstance(value, Mapping):
        return None
    role = ROLES.get(str(value.get("role") or value.get("type") or "").lower())
    if role is None:
        return None
    content = plain(value.get("content"))
    kept = {
        key: plain(value[key])
        for key in ("tool_calls", "tool_call_id", "name")
        if value.get(key) is not None
    }
    if isinstance(value.get("parts"), list):  # of the OpenTelemetry conventions, and Gemini's
        content = _parts(value["parts"])
    if isinstance(content, list):
        content = [_part(each) for each in content]
    elif content is not None and not isinstance(content, str):
        return None
    return {"role": role, "content": content, **kept}


def _part(value: Any) -> Any:
    """A content part with the type names of OpenAI's chat completions."""
    if isinstance(value, str):
        return {"type": "text", "text": value}
    if isinstance(value, Mapping) and value.get("type") in ("input_text", "output_text"):
        return {"type": "text", "text": str(value.get("text") or "")}
    if isinstance(value, Mapping) and value.get("type") == "input_image":
        return {"type": "image_url", "image_url": {"url": str(value.get("image_url") or "")}}
    return value


def _parts(parts: list[Any]) -> str | list[Any]:
    """The content that parts with `content` or `text` stand for: text where all of them are."""
    found: list[Any] = []
    for each in parts:
        if isinstance(each, Mapping):
            text = each.get("content", each.get("text", each.get("result")))
            if isinstance(text, str) and each.get("type", "text") not in ("reasoning",):
                found.append({"type": "text", "text": text})
            elif each.get("type") in ("blob", "uri", "file"):
                kind = str(each.get("modality") or each.get("mime_type") or "")
                image = kind.startswith("image")
                found.append({"type": "image_url", "image_url": {"url": ""}} if image else
                             {"type": "file", "file": {}})  # fmt: skip
    if all(each["type"] == "text" for each in found):
        return "\n".join(each["text"] for each in found)
    return found


def _content(value: Any) -> str:
    """Text of a system prompt: itself, or that of its parts."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        texts = [
            str(each.get("text") or each.get("content") or "")
            for each in value
            if isinstance(each, Mapping)
        ]
        return "\n".join(text for text in texts if text)
    return ""
