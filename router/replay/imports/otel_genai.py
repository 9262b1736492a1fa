"""Spans by OpenTelemetry's conventions for generative AI, as OTLP JSON.

A line (the collector's file exporter) or a document is an export request: `resourceSpans`, in them
`scopeSpans`, in them `spans`. Names of the current conventions are read first, then the ones that
they replaced. The conventions know no cost. An evaluation (event `gen_ai.evaluation.result`) with a
score from 0 to 1 becomes a label.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC
from typing import Any

from router.errors import ImportFileError
from router.replay.imports.chat import (
    messages_of,
    params_of,
    stops_short,
    usage_of,
    with_provider,
)
from router.replay.imports.files import each, rows
from router.replay.imports.record import Found, ImportedCall, LeftOut, Reading, Sources
from router.replay.imports.row import Row, loads

_CHAT = ("chat", "generate_content", "text_completion")
# Names of providers that litellm calls otherwise, the conventions' and OpenLLMetry's, which writes
# some with capitals.
_PROVIDERS = {
    "aws": "bedrock", "aws.bedrock": "bedrock", "az.ai.inference": "azure_ai",
    "az.ai.openai": "azure", "azure.ai.inference": "azure_ai", "azure.ai.openai": "azure",
    "fireworks": "fireworks_ai", "gcp.gemini": "gemini", "gcp.gen_ai": "gemini",
    "gcp.vertex_ai": "vertex_ai", "ibm.watsonx.ai": "watsonx", "mistral_ai": "mistral",
    "mistralai": "mistral", "moonshot_ai": "moonshot", "togetherai": "together_ai", "x_ai": "xai",
}  # fmt: skip
_EVALUATION = "gen_ai.evaluation.result"
_ERROR = (2, "STATUS_CODE_ERROR")
OUTSIDE = "a score outside 0 to 1 is no label"
SEVERAL = "several scores: name the one that is the label with --score"


def read(sources: Sources) -> Reading:
    """Read the spans of every file. Raises `ImportFileError` for a file that cannot be read."""
    for path in sources.files:
        found = (span for row in rows(path, zone=UTC) for span in _spans(row))
        yield from each(found, lambda row: _call(row, sources.score))


def _spans(row: Row | ImportFileError) -> Iterator[Row | ImportFileError]:
    """The spans of one export request, each a row."""
    if isinstance(row, ImportFileError):
        yield row
        return
    groups = _list(row.values, "resourceSpans", "resource_spans")
    if groups is None:
        if "traceId" in row.values or "trace_id" in row.values:
            yield row  # a span by itself
        else:
            yield row.problem(
                "resourceSpans", "is missing", "export the traces as OTLP JSON, not logs or metrics"
            )
        return
    for group in groups:
        for scope in _list(group, "scopeSpans", "scope_spans", "instrumentationLibrarySpans") or ():
            for span in _list(scope, "spans") or ():
                if isinstance(span, Mapping):
                    yield Row(row.file, row.line, span, zone=row.zone)


def _list(value: Any, *names: str) -> list[Any] | None:
    if not isinstance(value, Mapping):
        return []
    found = next((value[name] for name in names if name in value), None)
    return found if isinstance(found, list) else None


def _call(row: Row, wanted: str | None) -> Found:
    said = Row(row.file, row.line, _attributes(row.values.get("attributes")), "attributes.")
    operation = said.text("gen_ai.operation.name")
    model = said.text("gen_ai.request.model") or said.text("gen_ai.response.model")
    if model is None:
        return LeftOut("a span that is no call of a model")
    if operation is not None and operation not in _CHAT:
        return LeftOut(f"not a call of a chat model: {operation}")
    span = _id(row, "spanId", "span_id")
    trace = _id(row, "traceId", "trace_id")
    start, end = _moment(row, "start"), _moment(row, "end")
    if start is None:
        raise row.problem("startTimeUnixNano", "is missing", "a span has to say when it began")
    status = row.row("status")
    failed = status.values.get("code") in _ERROR or said.has("error.type")
    provider = (said.text("gen_ai.provider.name") or said.text("gen_ai.system") or "").lower()
    label, notes = _label(row, wanted)
    asked = {name: said.values.get(f"gen_ai.request.{name}") for name in ("max_tokens",)}
    asked["n"] = said.values.get("gen_ai.request.choice.count")
    asked["reasoning_effort"] = said.values.get("gen_ai.request.reasoning.level")
    return ImportedCall(
        id=f"{trace}/{span}",
        time=start,
        model=with_provider(_PROVIDERS.get(provider, provider), model),
        messages=_prompt(said),
        answer=messages_of(said.json("gen_ai.output.messages")),
        params=stops_short(params_of(Row(row.file, row.line, asked, "attributes."))),
        usage=_usage(said),
        latency=None if end is None or end < start else end - start,
        error=(said.text("error.type") or "failure") if failed else None,
        label=label,
        label_source=f"otel:{wanted}" if wanted else "otel",
        conversation_id=said.text("gen_ai.conversation.id"),
        scopes={"user": user} if (user := said.text("user.id") or said.text("enduser.id")) else {},
        stream=said.flag("gen_ai.request.stream") is True,
        notes=notes,
    )


def _usage(said: Row) -> dict[str, Any] | None:
    def count(*names: str) -> int | None:
        full = [f"gen_ai.usage.{name}" for name in names]
        return next((said.count(name) for name in full if said.has(name)), None)

    return usage_of(
        count("input_tokens", "prompt_tokens"),
        count("output_tokens", "completion_tokens"),
        cached=count("cache_read.input_tokens", "cache_read_input_tokens", "input_tokens.cached"),
        written=count(
            "cache_creation.input_tokens", "cache_creation_input_tokens", "cache_write_input_tokens"
        ),
        reasoning=count("reasoning.output_tokens", "output_tokens.reasoning"),
        audio_input=count("details.input_audio_tokens"),
        audio_output=count("details.output_audio_tokens"),
    )


def _prompt(said: Row) -> Any:
    """The prompt: of the current conventions, else of the attributes that came before them."""
    messages = messages_of(said.json("gen_ai.input.messages"))
    if messages is None:
        messages = _numbered(said) or messages_of(said.json("gen_ai.prompt"))
    system = said.json("gen_ai.system_instructions")
    if messages is None or not system:
        return messages
    return messages_of({"messages": list(messages), "system": system})


def _numbered(said: Row) -> Any:
    """Messages as attributes of their own: gen_ai.prompt.0.role, gen_ai.prompt.0.content, …"""
    turns: list[dict[str, Any]] = []
    while said.has(f"gen_ai.prompt.{len(turns)}.role"):
        place = f"gen_ai.prompt.{len(turns)}"
        content = said.text(f"{place}.content") or ""
        turns.append({"role": said.text(f"{place}.role"), "content": content})
    return messages_of(turns) if turns else None


def _id(row: Row, *names: str) -> str:
    found = next((row.text(name) for name in names if row.has(name)), None)
    if found is None:
        raise row.problem(names[0], "is missing", "export whole spans")
    return found


def _moment(row: Row, which: str) -> float | None:
    for name in (f"{which}TimeUnixNano", f"{which}_time_unix_nano"):
        if row.has(name):
            return row.time(name, "ns")
    return None


def _label(row: Row, wanted: str | None) -> tuple[float | None, tuple[str, ...]]:
    """The evaluation of a span, from its events."""
    found: dict[str, float] = {}
    for event in _list(row.values, "events") or ():
        if isinstance(event, Mapping) and event.get("name") == _EVALUATION:
            said = Row(row.file, row.line, _attributes(event.get("attributes")), "events.")
            value = said.number("gen_ai.evaluation.score.value")
            name = said.text("gen_ai.evaluation.name") or ""
            if value is not None and wanted in (None, name):
                found[name] = value
    if len(found) > 1:
        return None, (SEVERAL,)
    for value in found.values():
        return (value, ()) if 0 <= value <= 1 else (None, (OUTSIDE,))
    return None, ()


def _attributes(pairs: Any) -> dict[str, Any]:
    """OTLP's list of keys and typed values as plain values; a plain mapping stays as it is."""
    if isinstance(pairs, Mapping):
        return dict(pairs)
    if not isinstance(pairs, list):
        return {}
    return {
        str(pair["key"]): _value(pair.get("value"))
        for pair in pairs
        if isinstance(pair, Mapping) and "key" in pair
    }


def _value(value: Any) -> Any:
    """A typed value of OTLP JSON, in which 64-bit integers are text."""
    if not isinstance(value, Mapping):
        return value
    for name in ("stringValue", "boolValue", "doubleValue"):
        if name in value:
            return value[name]
    if "intValue" in value:
        return loads(value["intValue"]) if _digits(value["intValue"]) else value["intValue"]
    if "arrayValue" in value:
        return [_value(each_value) for each_value in _list(value["arrayValue"], "values") or ()]
    if "kvlistValue" in value:
        return _attributes(_list(value["kvlistValue"], "values"))
    return None


def _digits(value: Any) -> bool:
    return isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20
