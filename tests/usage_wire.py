"""How each provider puts a usage report on the wire: the reply around it, whole and streamed.

The replies are the least that a provider's documentation allows; only `usage` differs from case to
case. A report may be a list: the parts that a stream sends one after the other.
"""

from __future__ import annotations

import json
import struct
from binascii import crc32
from collections.abc import Iterable
from typing import Any

from tests.provider import Behaviour

ANSWER = "Bonjour"


def wire(form: str, usage: Any, *, stream: bool, **more: Any) -> Behaviour:
    """The reply of a provider of this `form` with this report (None where it sends none).

    `more` are further keys of an OpenAI-like reply, or of each of its chunks.
    """
    if not stream:
        return Behaviour(body=json.dumps({**_WHOLE[form](usage), **more}).encode())
    if form in _CHUNKS:
        return _events([{**chunk, **more} for chunk in _CHUNKS[form](usage)], done=True)
    return _STREAMED[form](usage, **more)


# ── whole replies ──────────────────────────────────────────────────────────────────────────────
def _chat(usage: Any, **more: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": ANSWER}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    reply = {"id": "c1", "object": "chat.completion", "created": 1, "model": "m"}
    return {**reply, "choices": [choice], **({} if usage is None else {"usage": usage}), **more}


def _anthropic(usage: Any) -> dict[str, Any]:
    reply = {"id": "m1", "type": "message", "role": "assistant", "model": "m"}
    reply |= {"content": [{"type": "text", "text": ANSWER}], "stop_sequence": None}
    return {**reply, "stop_reason": "end_turn", "usage": usage or {}}


def _gemini(usage: Any) -> dict[str, Any]:
    content = {"role": "model", "parts": [{"text": ANSWER}]}
    reply = {"candidates": [{"content": content, "finishReason": "STOP", "index": 0}]}
    return {**reply, "modelVersion": "m", **({} if usage is None else {"usageMetadata": usage})}


def _responses(usage: Any, **more: Any) -> dict[str, Any]:
    content = [{"type": "output_text", "text": ANSWER, "annotations": []}]
    message = {"type": "message", "id": "m1", "status": "completed", "role": "assistant"}
    reply = {"id": "r1", "object": "response", "created_at": 1, "status": "completed", "model": "m"}
    reply |= {"output": [{**message, "content": content}], "usage": usage, "error": None}
    reply |= {"parallel_tool_calls": True, "tool_choice": "auto", "tools": [], "metadata": {}}
    return {**reply, **more}


def _bedrock(usage: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": [{"text": ANSWER}]}
    reply = {"output": {"message": message}, "stopReason": "end_turn"}
    return {**reply, "metrics": {"latencyMs": 1}, "usage": usage or {}}


def _cohere(usage: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": [{"type": "text", "text": ANSWER}]}
    return {"id": "c1", "finish_reason": "COMPLETE", "message": message, "usage": usage or {}}


def _ollama(usage: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": ANSWER}
    return {"model": "m", "created_at": "2026-01-01T00:00:00Z", "message": message,
            "done": True, "done_reason": "stop", **(usage or {})}  # fmt: skip


_WHOLE = {
    "openai": _chat,
    "openai_finish": _chat,
    "openai_cumulative": _chat,
    "openai_choice": _chat,
    "groq": lambda usage: _chat(usage, x_groq={"id": "g1"}, service_tier="on_demand"),
    "anthropic": _anthropic,
    "responses": _responses,
    "gemini": _gemini,
    "bedrock": _bedrock,
    "cohere": _cohere,
    "ollama": _ollama,
}


# ── streams ────────────────────────────────────────────────────────────────────────────────────
def _events(parts: Iterable[dict[str, Any]], *, named: bool = False, done: bool = False) -> Any:
    lines = [
        (f"event: {part['type']}\n" if named else "") + f"data: {json.dumps(part)}\n\n"
        for part in parts
    ]
    body = "".join(lines) + ("data: [DONE]\n\n" if done else "")
    return Behaviour(body=body.encode(), content_type="text/event-stream")


def _chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> dict[str, Any]:
    chunk = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return {**chunk, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **more}


_TEXT = {"role": "assistant", "content": ANSWER}


def _parts(usage: Any) -> list[Any]:
    return usage if isinstance(usage, list) else [usage]


def _last_chunk(usage: Any) -> list[dict[str, Any]]:
    """OpenAI: a chunk without choices after the last one; `usage` is null in the others."""
    parts = [_chunk(_TEXT, usage=None), _chunk({}, "stop", usage=None)]
    parts += [{**_chunk({}), "choices": [], "usage": part} for part in _parts(usage) if part]
    return parts


def _with_finish(usage: Any) -> list[dict[str, Any]]:
    """Mistral, DeepSeek and others: in the chunk that has the finish reason."""
    return [_chunk(_TEXT), _chunk({}, "stop", usage=usage)]


def _cumulative(usage: Any) -> list[dict[str, Any]]:
    """xAI, Perplexity, vLLM's continuous statistics: counts so far in every chunk."""
    *first, last = _parts(usage)
    parts = [_chunk(_TEXT if at == 0 else {}, usage=part) for at, part in enumerate(first)]
    return [*(parts or [_chunk(_TEXT)]), _chunk({}, "stop", usage=last)]


def _in_choice(usage: Any) -> list[dict[str, Any]]:
    """Moonshot: inside the last choice."""
    last = _chunk({}, "stop")
    last["choices"][0]["usage"] = usage
    return [_chunk(_TEXT), last]


def _groq(usage: Any) -> list[dict[str, Any]]:
    """Groq: under `x_groq` in the last chunk, and, where asked for, as OpenAI does."""
    last = _chunk({}, "stop", x_groq={"id": "g1", "usage": usage})
    asked = {**_chunk({}), "choices": [], "usage": usage}
    return [_chunk(_TEXT), last, *([asked] if usage else [])]


def _anthropic_stream(usage: Any) -> Behaviour:
    """Input counts come first, the output's with the last delta, as a running total."""
    first, last = usage if isinstance(usage, list) else (usage, usage)
    begun = {**_anthropic(first), "content": [], "stop_reason": None}
    parts = [
        {"type": "message_start", "message": begun},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0,
         "delta": {"type": "text_delta", "text": ANSWER}},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None},
         "usage": last},
        {"type": "message_stop"},
    ]  # fmt: skip
    return _events(parts, named=True)


def _gemini_stream(usage: Any) -> Behaviour:
    """A report in every event, the counts so far; the last one holds."""
    *first, last = _parts(usage)
    parts = [_gemini(part) for part in first]
    for part in parts:
        part["candidates"][0].pop("finishReason")
    parts.append(_gemini(last))
    for part in parts[1:]:
        part["candidates"][0]["content"]["parts"] = [{"text": ""}]
    return _events(parts)


def _responses_stream(usage: Any, **more: Any) -> Behaviour:
    """The report is part of the whole response, which the last event repeats."""
    whole = _responses(usage, **more)
    begun = {**whole, "status": "in_progress", "output": [], "usage": None}
    text = {"item_id": "m1", "output_index": 0, "content_index": 0, "delta": ANSWER}
    parts = [
        {"type": "response.created", "response": begun, "sequence_number": 0},
        {"type": "response.output_text.delta", **text, "sequence_number": 1},
        {"type": "response.completed", "response": whole, "sequence_number": 2},
    ]
    return _events(parts, named=True)


def _bedrock_stream(usage: Any) -> Behaviour:
    parts: list[tuple[str, dict[str, Any]]] = [
        ("messageStart", {"role": "assistant"}),
        ("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": ANSWER}}),
        ("contentBlockStop", {"contentBlockIndex": 0}),
        ("messageStop", {"stopReason": "end_turn"}),
    ]
    if usage is not None:
        parts.append(("metadata", {"usage": usage, "metrics": {"latencyMs": 1}}))
    body = b"".join(_aws_event(name, part) for name, part in parts)
    return Behaviour(body=body, content_type="application/vnd.amazon.eventstream")


def _aws_event(name: str, payload: dict[str, Any]) -> bytes:
    """One message of AWS's event stream encoding: prelude, headers, payload, two checksums."""
    headers = b""
    for key, value in (
        (":event-type", name),
        (":content-type", "application/json"),
        (":message-type", "event"),
    ):
        headers += bytes([len(key)]) + key.encode() + b"\x07"
        headers += struct.pack(">H", len(value)) + value.encode()
    body = json.dumps(payload).encode()
    prelude = struct.pack(">II", 16 + len(headers) + len(body), len(headers))
    message = prelude + struct.pack(">I", crc32(prelude)) + headers + body
    return message + struct.pack(">I", crc32(message))


def _cohere_stream(usage: Any) -> Behaviour:
    end = {"finish_reason": "COMPLETE", **({} if usage is None else {"usage": usage})}
    content = {"message": {"content": {"text": ANSWER}}}
    parts: list[dict[str, Any]] = [
        {"type": "message-start", "id": "c1", "delta": {"message": {"role": "assistant"}}},
        {"type": "content-delta", "index": 0, "delta": content},
        {"type": "content-end", "index": 0},
        {"type": "message-end", "id": "c1", "delta": end},
    ]
    return _events(parts, named=True)


def _ollama_stream(usage: Any) -> Behaviour:
    first = {**_ollama(None), "done": False}
    first.pop("done_reason")
    end = _ollama(usage)
    end["message"]["content"] = ""
    body = "".join(json.dumps(part) + "\n" for part in (first, end))
    return Behaviour(body=body.encode(), content_type="application/x-ndjson")


_CHUNKS = {
    "openai": _last_chunk,
    "openai_finish": _with_finish,
    "openai_cumulative": _cumulative,
    "openai_choice": _in_choice,
    "groq": _groq,
}
_STREAMED = {
    "anthropic": _anthropic_stream,
    "responses": _responses_stream,
    "gemini": _gemini_stream,
    "bedrock": _bedrock_stream,
    "cohere": _cohere_stream,
    "ollama": _ollama_stream,
}
