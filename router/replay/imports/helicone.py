"""Helicone's exports of requests: lines of JSON, JSON or CSV, from its export tool or interface.

Bodies are there where they were asked for (`--include-body`). A rating becomes a label (good 1, bad
0), or the score that is named, where it is from 0 to 1. Helicone counts tokens of the cache beside
the prompt's, and reasoning beside the answer's.
"""

from __future__ import annotations

from datetime import UTC
from functools import partial
from typing import Any

from router.replay.imports.chat import answer_of, messages_of, params_of, stops_short, usage_of
from router.replay.imports.files import each, rows
from router.replay.imports.record import (
    ZERO_COST,
    Found,
    ImportedCall,
    LeftOut,
    Reading,
    Sources,
)
from router.replay.imports.row import Row

# Helicone's names of providers that litellm calls otherwise; a custom one is not known.
_PROVIDERS = {
    "AWS": "bedrock", "AZURE": "azure", "CUSTOM": None, "GOOGLE": "gemini", "MISTRAL": "mistral",
    "TOGETHER": "together_ai", "TOGETHERAI": "together_ai", "FIREWORKS": "fireworks_ai",
    "VERTEX": "vertex_ai", "X": "xai",
}  # fmt: skip
_SESSION = "Helicone-Session-Id"
_NOT_CHAT = ("embedding", "image", "moderation", "audio", "rerank")
OUTSIDE = "a score outside 0 to 1 is no label"


def read(sources: Sources) -> Reading:
    """Read the requests of every file. Raises `ImportFileError` for one that cannot be read."""
    for path in sources.files:
        yield from each(rows(path, lists=(("data",),), zone=UTC), partial(_call, sources.score))


def _call(wanted: str | None, row: Row) -> Found:
    address = row.text("request_path") or row.text("target_url") or ""
    other = next((name for name in _NOT_CHAT if name in address), None)
    if other is not None:
        return LeftOut(f"not a call of a chat model: {other}")
    if row.has("cache_reference_id") and row.text("cache_reference_id") != _NO_CACHE:
        return LeftOut("answered from Helicone's cache, so no model was called")
    body, answered = row.row("request_body"), row.row("response_body")
    status = row.number("response_status")
    # Below 0 it is still open, or was broken off.
    failed = status is not None and (status >= 400 or status <= 0)
    named = [row.text(name) for name in ("model", "request_model", "response_model")]
    model = next(
        (name for name in (*named, body.text("model")) if name and name != "unknown"), None
    )
    if model is None:
        return LeftOut("a request without a model")
    start = row.needed_time("request_created_at")
    usage = _usage(row)
    costs = [row.money(name) for name in ("cost_usd", "costUSD", "cost")]
    cost = next((amount for amount in costs if amount is not None), None)
    free = cost == 0 and usage is not None
    properties = row.row("request_properties")
    label, note = _label(row, wanted)
    return ImportedCall(
        id=row.text("request_id") or row.required("response_id"),
        time=start,
        model=_with_provider(row.text("provider"), model),
        messages=messages_of(dict(body.values)),
        answer=None if failed else answer_of(dict(answered.values)),
        params=stops_short(params_of(body)),
        usage=usage,
        cost=None if cost == 0 else cost,
        latency=_latency(row, start),
        error=f"failure ({status:g})" if failed else None,
        label=label,
        label_source="helicone" if wanted is None else f"helicone:{wanted}",
        conversation_id=properties.text(_SESSION),
        scopes={"user": user} if (user := row.text("request_user_id")) else {},
        stream=body.values.get("stream") is True,
        notes=(*note, *((ZERO_COST,) if free else ())),
    )


def _usage(row: Row) -> dict[str, Any] | None:
    prompt, answer = row.count("prompt_tokens"), row.count("completion_tokens")
    cached, written = (row.count(f"prompt_cache_{what}_tokens") or 0 for what in ("read", "write"))
    heard, spoken = (row.count(f"{part}_audio_tokens") or 0 for part in ("prompt", "completion"))
    reasoning = row.count("reasoning_tokens") or 0
    return usage_of(
        None if prompt is None else prompt + cached + written + heard,
        None if answer is None else answer + reasoning + spoken,
        cached=cached,
        written=written,
        written_1h=row.count("prompt_cache_write_1h"),
        reasoning=reasoning,
        audio_input=heard,
        audio_output=spoken,
    )


_NO_CACHE = "00000000-0000-0000-0000-000000000000"


def _with_provider(provider: str | None, model: str) -> str:
    if provider is None or "/" in model:
        return model
    name = _PROVIDERS.get(provider.upper(), provider.lower())
    return model if name is None else f"{name}/{model}"


def _latency(row: Row, start: float) -> float | None:
    for name in ("delay_ms", "latency"):
        if row.has(name):
            return row.seconds(name, "ms")
    end = row.time("response_created_at")
    return None if end is None or end < start else end - start


def _label(row: Row, wanted: str | None) -> tuple[float | None, tuple[str, ...]]:
    if wanted is None:
        rating = row.flag("feedback_rating")
        return (None if rating is None else float(rating)), ()
    scores = row.row("scores")
    value = scores.json(wanted)
    if isinstance(value, dict):
        scores, value = scores.row(wanted), value.get("value")
        found = scores.number("value")
    elif isinstance(value, bool):
        found = float(value)
    else:
        found = scores.number(wanted)
    if found is None:
        return None, ()
    return (found, ()) if 0 <= found <= 1 else (None, (OUTSIDE,))
