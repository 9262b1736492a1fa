"""litellm's StandardLoggingPayload: what its callbacks and its loggers to S3, GCS and the like get.

One JSON object a line, or one a file; a list of them is fine too.
"""

from __future__ import annotations

from datetime import UTC

from router.replay.imports.chat import (
    answer_of,
    params_of,
    stops_short,
    usage_from,
    usage_of,
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

# A callback gets the payload inside its keyword arguments.
_WRAPPED = "standard_logging_object"


def read(sources: Sources) -> Reading:
    """Read the payloads of every file. Raises `ImportFileError` for a file that cannot be read."""
    for path in sources.files:
        yield from each(rows(path, zone=UTC), _call)


def _call(row: Row) -> Found:
    if row.has(_WRAPPED):
        row = row.row(_WRAPPED)
    kind = row.text("call_type")
    if kind is not None and kind not in CHAT_CALLS:
        return LeftOut(f"not a call of a chat model: {kind}")
    if row.flag("cache_hit"):
        return LeftOut(CACHED)
    failed = row.text("status") == "failure"
    model = row.text("model")
    if model is None:
        if failed:
            return LeftOut(NO_MODEL)
        raise row.problem("model", "is missing", "log the whole payload")
    start = row.needed_time("startTime")
    details = row.row("metadata")
    usage = (
        usage_from(details.row("usage_object"))
        or usage_from(row.row("hidden_params").row("usage_object"))
        or usage_of(row.count("prompt_tokens"), row.count("completion_tokens"))
    )
    cost = row.money("response_cost")
    # litellm reports 0 where it has no price for a model, and for a failure.
    free = cost == 0 and usage is not None
    users = {
        "user": row.text("end_user") or details.text("user_api_key_user_id"),
        "team": details.text("user_api_key_team_id") or details.text("team_id"),
    }
    messages, notes = prompt_of(row.json("messages"))
    end, took = row.time("endTime"), row.seconds("response_time")
    if end is not None and end >= start:
        took = end - start
    return ImportedCall(
        id=row.required("id", "log the whole payload"),
        time=start,
        model=with_provider(row.text("custom_llm_provider"), model),
        messages=messages,
        answer=answer_of(row.json("response")),
        params=stops_short(params_of(row.row("model_parameters"))),
        usage=usage,
        cost=None if cost == 0 else cost,
        latency=took,
        error=failure_of(row.row("error_information")) if failed else None,
        conversation_id=row.text("session_id") or None,
        scopes={name: value for name, value in users.items() if value},
        tags=row.texts("request_tags"),
        stream=bool(row.flag("stream")),
        notes=(*notes, *((ZERO_COST,) if free else ())),
    )
