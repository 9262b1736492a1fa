"""Rows of litellm's table LiteLLM_SpendLogs: as CSV, JSON or its lines, in a SQLite file, or in a
plain dump of PostgreSQL.

The table keeps no prompt unless the proxy's `store_prompts_in_spend_logs` is on; then they are in
`messages`, or in `proxy_server_request`.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC
from typing import Any

from router.replay.imports.chat import (
    answer_of,
    params_of,
    stops_short,
    usage_from,
    with_provider,
)
from router.replay.imports.files import each, rows
from router.replay.imports.litellm_common import (
    CACHED,
    CHAT_CALLS,
    NO_MODEL,
    failure_of,
    prompt_of,
)
from router.replay.imports.record import (
    ZERO_COST,
    Found,
    ImportedCall,
    LeftOut,
    Reading,
    Sources,
)
from router.replay.imports.row import Row

TABLE = "LiteLLM_SpendLogs"


def read(sources: Sources) -> Reading:
    """Read the rows of every file. Raises `ImportFileError` for a file that cannot be read."""
    for path in sources.files:
        yield from each(rows(path, lists=(("data",),), table=TABLE, zone=UTC), _call)


def _call(row: Row) -> Found:
    kind = row.text("call_type")
    if kind is not None and kind not in CHAT_CALLS:
        return LeftOut(f"not a call of a chat model: {kind}")
    if row.text("cache_hit") in ("True", "true"):
        return LeftOut(CACHED)
    request_id = row.required("request_id")
    model = row.text("model")
    details = row.row("metadata")
    failed = (row.text("status") or details.text("status")) == "failure"
    if model is None:
        if failed:
            return LeftOut(NO_MODEL)
        raise row.problem("model", "is missing", "export the log with this column")
    start = row.needed_time("startTime")
    report = details.row("usage_object")
    usage = usage_from(report) or _usage(row, details.row("additional_usage_values"))
    cost = row.money("spend")
    # The column is 0 by default, and so for a model that litellm has no price for.
    free = cost == 0 and usage is not None
    body = row.row("proxy_server_request")
    messages, notes = prompt_of(row.json("messages"), dict(body.values))
    users = {"user": row.text("end_user") or row.text("user"), "team": row.text("team_id")}
    return ImportedCall(
        id=request_id,
        time=start,
        model=with_provider(row.text("custom_llm_provider"), model),
        messages=messages,
        answer=answer_of(row.json("response")),
        params=stops_short(params_of(body)),
        usage=usage,
        cost=None if cost == 0 else cost,
        latency=_latency(row, start),
        error=failure_of(details.row("error_information")) if failed else None,
        conversation_id=row.text("session_id"),
        scopes={name: value for name, value in users.items() if value},
        tags=row.texts("request_tags"),
        stream=bool(body.values.get("stream") is True),
        notes=(*notes, *((ZERO_COST,) if free else ())),
    )


def _usage(row: Row, more: Row) -> dict[str, Any] | None:
    """The table's own two counts, with what else litellm knew of them."""
    own = {name: row.values.get(name) for name in ("prompt_tokens", "completion_tokens")}
    if not all(map(row.has, own)):
        return None
    return usage_from(replace(more, values={**more.values, **own}))


def _latency(row: Row, start: float) -> float | None:
    duration = row.seconds("request_duration_ms", "ms")
    if duration is not None:
        return duration
    end = row.time("endTime")
    return None if end is None or end < start else end - start
