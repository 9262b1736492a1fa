"""One and the same call of a model as each format tells of it, and what it is read as."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from router.replay.imports.record import ImportedCall

START = 1777629600.0  # 2026-05-01 10:00:00 UTC


ASKED = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why is it so?"}]


SAID = {"role": "assistant", "content": "Because."}


BODY = {"id": "chatcmpl-1", "choices": [{"index": 0, "message": SAID}]}


def only(found_calls: list[ImportedCall]) -> ImportedCall:
    [call] = found_calls
    return call


def as_csv(path: Path, rows: list[dict[str, Any]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        for row in rows:
            writer.writerow(
                {k: json.dumps(v) if isinstance(v, dict | list) else v for k, v in row.items()}
            )
    return path


SPEND = {
    "request_id": "chatcmpl-1", "call_type": "acompletion", "api_key": "hash", "spend": 0.00123,
    "total_tokens": 120, "prompt_tokens": 100, "completion_tokens": 20,
    "startTime": "2026-05-01T10:00:00.000Z", "endTime": "2026-05-01T10:00:02.500Z",
    "request_duration_ms": None, "model": "gpt-5.4-mini", "model_group": "small",
    "custom_llm_provider": "openai", "user": "proxy-user", "end_user": "ann", "team_id": "blue",
    "cache_hit": "False", "request_tags": ["nightly"], "session_id": "s1", "status": "success",
    "messages": ASKED, "response": BODY, "proxy_server_request": {"max_tokens": 64, "stream": True},
    "metadata": {"usage_object": {
        "prompt_tokens": 100, "completion_tokens": 20,
        "prompt_tokens_details": {"cached_tokens": 40},
        "completion_tokens_details": {"reasoning_tokens": 5}}},
}  # fmt: skip


SPENT = ImportedCall(
    id="chatcmpl-1",
    time=START,
    model="openai/gpt-5.4-mini",
    messages=tuple(ASKED),
    answer=(SAID,),
    params={"max_tokens": 64},
    usage={
        "prompt_tokens": 100,
        "completion_tokens": 20,
        "prompt_tokens_details": {"cached_tokens": 40},
        "completion_tokens_details": {"reasoning_tokens": 5},
    },
    cost=1_230_000,
    latency=2.5,
    conversation_id="s1",
    scopes={"user": "ann", "team": "blue"},
    tags=("nightly",),
    stream=True,
)


def payload(**changes: Any) -> dict[str, Any]:
    return {
        "id": "chatcmpl-1", "trace_id": "t", "session_id": "s1", "call_type": "acompletion",
        "stream": True, "response_cost": 0.00123, "status": "success",
        "custom_llm_provider": "openai", "total_tokens": 120, "prompt_tokens": 100,
        "completion_tokens": 20, "startTime": START, "endTime": START + 2.5, "response_time": 2.5,
        "model": "gpt-5.4-mini", "end_user": "ann", "cache_hit": None, "request_tags": ["nightly"],
        "messages": ASKED, "response": BODY, "model_parameters": {"max_tokens": 64},
        "metadata": {"user_api_key_team_id": "blue", "usage_object": SPENT.usage},
        "hidden_params": {}, "error_information": {},
        **changes,
    }  # fmt: skip


INPUT = {
    "custom_id": "r-1", "method": "POST", "url": "/v1/chat/completions",
    "body": {"model": "gpt-5.4-mini", "messages": ASKED, "max_tokens": 64},
}  # fmt: skip


OUTPUT = {
    "id": "batch_req_1", "custom_id": "r-1", "error": None,
    "response": {"status_code": 200, "request_id": "req_1", "body": {
        "id": "chatcmpl-1", "object": "chat.completion", "created": int(START),
        "model": "gpt-5.4-mini-2026-03-17", "choices": BODY["choices"],
        "usage": {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}}},
}  # fmt: skip


def observation(**changes: Any) -> dict[str, Any]:
    return {
        "id": "o1", "trace_id": "t1", "type": "GENERATION",
        "start_time": "2026-05-01 10:00:00.000000",
        "end_time": "2026-05-01 10:00:02.500000", "level": "DEFAULT", "input": json.dumps(ASKED),
        "output": json.dumps(SAID), "provided_model_name": "gpt-5.4-mini",
        "model_parameters": '{"max_tokens": 64, "temperature": 0.5}',
        "usage_details": {"input": 60, "input_cached_tokens": 40, "output": 15,
                          "output_reasoning_tokens": 5, "total": 120},
        "cost_details": {"total": 0.00123}, "total_cost": 0.00123, "completion_start_time": None,
        "user_id": "ann", "session_id": "s1", "tags": ["nightly"],
        **changes,
    }  # fmt: skip


GENERATED = replace(
    SPENT,
    id="o1",
    model="gpt-5.4-mini",
    label_source="langfuse",
    scopes={"user": "ann"},
    stream=False,
)


def camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.title() for part in rest)


def score(**changes: Any) -> dict[str, Any]:
    return {
        "id": "s", "trace_id": "t1", "observation_id": "o1", "name": "correct", "value": 0.75,
        "data_type": "NUMERIC", "source": "API", **changes,
    }  # fmt: skip


def helicone(**changes: Any) -> dict[str, Any]:
    return {
        "request_id": "h1", "response_id": "x", "request_created_at": "2026-05-01T10:00:00.000Z",
        "response_created_at": "2026-05-01T10:00:02.500Z", "response_status": 200,
        "request_path": "https://api.example.test/v1/chat/completions", "provider": "OPENAI",
        "model": "gpt-5.4-mini", "request_user_id": "ann", "delay_ms": 2500, "prompt_tokens": 60,
        "completion_tokens": 15, "prompt_cache_read_tokens": 40, "reasoning_tokens": 5,
        "total_tokens": 80, "cost": 0.00123,
        "request_body": {"messages": ASKED, "max_tokens": 64, "stream": True},
        "response_body": BODY, "request_properties": {"Helicone-Session-Id": "s1"},
        "feedback_rating": True, "scores": {"correct": 0.5, "polite": {"value": 9}},
        **changes,
    }  # fmt: skip


REQUESTED = replace(
    SPENT,
    id="h1",
    label=1.0,
    label_source="helicone",
    scopes={"user": "ann"},
    tags=(),
)


def attribute(name: str, value: Any) -> dict[str, Any]:
    kind = {bool: "boolValue", int: "intValue", float: "doubleValue"}.get(
        type(value), "stringValue"
    )
    return {"key": name, "value": {kind: str(value) if kind == "intValue" else value}}


def span(*, events: list[Any] | None = None, **attributes: Any) -> dict[str, Any]:
    parts = {"role": "user", "parts": [{"type": "text", "content": "Why is it so?"}]}
    said = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-5.4-mini",
        "gen_ai.request.max_tokens": 64,
        "gen_ai.usage.input_tokens": 100,
        "gen_ai.usage.output_tokens": 20,
        "gen_ai.usage.cache_read.input_tokens": 40,
        "gen_ai.usage.reasoning.output_tokens": 5,
        "gen_ai.system_instructions": json.dumps([{"type": "text", "content": "Be brief."}]),
        "gen_ai.input.messages": json.dumps([parts]),
        "gen_ai.conversation.id": "s1",
        **{name.replace("__", "."): value for name, value in attributes.items()},
    }
    return {
        "traceId": "t" * 32, "spanId": "s" * 16, "name": "chat gpt-5.4-mini", "kind": 3,
        "startTimeUnixNano": "1777629600000000000", "endTimeUnixNano": "1777629602500000000",
        "attributes": [attribute(k, v) for k, v in said.items() if v is not None],
        "events": events or [], "status": {},
    }  # fmt: skip


def exported(*spans: Any) -> dict[str, Any]:
    return {"resourceSpans": [{"resource": {}, "scopeSpans": [{"spans": list(spans)}]}]}


def evaluation(name: str, value: float) -> dict[str, Any]:
    said = {"gen_ai.evaluation.name": name, "gen_ai.evaluation.score.value": value}
    return {
        "name": "gen_ai.evaluation.result",
        "attributes": [attribute(key, each) for key, each in said.items()],
    }


LINE = {
    "id": "1", "time": START, "model": "m", "messages": ASKED, "answer": "Because.",
    "input_tokens": 100, "output_tokens": 20, "cached_tokens": 40, "reasoning_tokens": 5,
    "cost_usd": "0.00123", "latency": 2.5, "label": 1, "conversation_id": "s1", "user": "ann",
    "team": "blue", "tags": ["nightly"], "max_tokens": 64,
}  # fmt: skip
