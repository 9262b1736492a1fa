"""The shapes of the simulated provider's answers: OpenAI's chat completions, whole and streamed."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

from router.demo.simulation import (
    BYTES_PER_TOKEN,
    MODEL_PREFIX,
    Draw,
    count_input_tokens,
    prompt_key,
)

STREAM_PIECES = 8
FILLER = "This text stands in for a model's answer. "


class Answer:
    """One request's facts and the shapes of its answer."""

    def __init__(self, body: Mapping[str, Any], tier: str) -> None:
        self.tier, self.model = tier, MODEL_PREFIX + tier
        self.id = f"chatcmpl-sim-{uuid.uuid4().hex}"
        self.created = int(time.time())
        self.key = prompt_key(body["messages"])
        self.input_tokens = count_input_tokens(body)
        caps = (body.get(name) for name in ("max_completion_tokens", "max_tokens"))
        self.cap: int | None = next((cap for cap in caps if cap is not None), None)
        self.tool = _tool_to_call(body)

    def usage(self, draw: Draw) -> dict[str, Any]:
        return {
            "prompt_tokens": self.input_tokens,
            "completion_tokens": draw.output_tokens,
            "total_tokens": self.input_tokens + draw.output_tokens,
            "prompt_tokens_details": {"cached_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": draw.reasoning_tokens},
        }

    def finish(self, draw: Draw) -> str:
        if self.cap is not None and draw.output_tokens >= self.cap:
            return "length"
        return "tool_calls" if self.tool else "stop"

    def message(self, draw: Draw) -> dict[str, Any]:
        if self.tool:
            call = {
                "id": f"call_sim_{self.id[-12:]}",
                "type": "function",
                "function": {
                    "name": self.tool["name"],
                    "arguments": json.dumps(example(self.tool.get("parameters", {}))),
                },
            }
            return {"role": "assistant", "content": None, "tool_calls": [call]}
        label = f"[simulated answer of {self.model}: no model was called] "
        text = label + FILLER * (1 + draw.visible_tokens * BYTES_PER_TOKEN // len(FILLER))
        content = text[: draw.visible_tokens * BYTES_PER_TOKEN]
        return {"role": "assistant", "content": content}

    def whole(self, draw: Draw) -> dict[str, Any]:
        choice = {
            "index": 0,
            "message": self.message(draw),
            "finish_reason": self.finish(draw),
            "logprobs": None,
        }
        return self._envelope("chat.completion", [choice], usage=self.usage(draw))

    def chunks(self, draw: Draw, include_usage: bool) -> Iterator[dict[str, Any]]:
        """Yield the chunks of a stream: role, pieces of the answer, finish reason, usage."""
        message = self.message(draw)
        yield self._chunk({"role": "assistant", "content": ""})
        if self.tool:
            calls = [{"index": 0, **call} for call in message["tool_calls"]]
            yield self._chunk({"tool_calls": calls})
        else:
            text = message["content"]
            size = max(1, -(-len(text) // STREAM_PIECES))
            for start in range(0, len(text), size):
                yield self._chunk({"content": text[start : start + size]})
        yield self._chunk({}, finish=self.finish(draw))
        if include_usage:
            yield self._envelope("chat.completion.chunk", [], usage=self.usage(draw))

    def _chunk(self, delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
        return self._envelope("chat.completion.chunk", [choice])

    def _envelope(self, kind: str, choices: list[Any], **extra: Any) -> dict[str, Any]:
        head = {"id": self.id, "object": kind, "created": self.created, "model": self.model}
        return {**head, "choices": choices, **extra}


def _tool_to_call(body: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the function that the answer calls, or None if it answers in words."""
    tools: list[Mapping[str, Any]] = [tool["function"] for tool in body.get("tools") or []]
    choice = body.get("tool_choice", "auto")
    if not tools or choice == "none" or body["messages"][-1]["role"] == "tool":
        return None
    if isinstance(choice, Mapping):
        wanted = choice.get("function", {}).get("name")
        return next((tool for tool in tools if tool["name"] == wanted), tools[0])
    return tools[0]


def example(schema: Mapping[str, Any]) -> Any:
    """Return a value that a JSON schema (of a function's parameters) accepts."""
    if "enum" in schema:
        return schema["enum"][0]
    match schema.get("type", "object"):
        case "string":
            return "2026-01-15" if schema.get("format") == "date" else "simulated"
        case "integer" | "number":
            return schema.get("minimum", 1)
        case "boolean":
            return True
        case "array":
            return [example(schema.get("items", {"type": "string"}))]
        case _:
            properties = schema.get("properties", {})
            return {name: example(properties[name]) for name in schema.get("required", ())}
