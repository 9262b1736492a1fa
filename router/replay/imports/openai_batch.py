"""OpenAI's Batch API: the lines that were sent, and the lines that came back.

An input line has `custom_id`, `method`, `url` and `body`; an output or error line has `id`,
`custom_id`, `response` (`status_code`, `request_id`, `body`) and `error`. Which is which shows in
the lines. Input files hold the prompts and are optional; they are read first, into a temporary
file, since output lines come in any order.
"""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from functools import partial
from typing import Any

from router.errors import ImportFileError
from router.replay.imports.chat import (
    answer_of,
    messages_of,
    params_of,
    stops_short,
    usage_from,
)
from router.replay.imports.files import each, rows
from router.replay.imports.record import Found, ImportedCall, LeftOut, Reading, Sources
from router.replay.imports.row import Row, loads, plain

_CHAT = ("/v1/chat/completions", "/v1/responses", "/v1/completions")


class _Inputs:
    """The bodies that were sent, by `custom_id`, in a file that goes when it is closed."""

    def __init__(self) -> None:
        self._database = sqlite3.connect("")
        self._database.execute(
            "CREATE TABLE sent (custom_id TEXT PRIMARY KEY, url TEXT, body TEXT)"
        )

    def add(self, row: Row) -> None:
        body = row.row("body")
        value = row.required("custom_id"), row.text("url"), json.dumps(plain(dict(body.values)))
        try:
            self._database.execute("INSERT INTO sent VALUES (?, ?, ?)", value)
        except sqlite3.IntegrityError:
            raise row.problem(
                "custom_id", "stands in another input line too", "import one batch at a time"
            ) from None

    def get(self, custom_id: str) -> tuple[str | None, dict[str, Any]] | None:
        found = self._database.execute(
            "SELECT url, body FROM sent WHERE custom_id = ?", (custom_id,)
        ).fetchone()
        return None if found is None else (found[0], loads(found[1]))

    def close(self) -> None:
        self._database.close()


def read(sources: Sources) -> Reading:
    """Read the inputs of all files, then the outputs.

    Raises `ImportFileError` for a file that cannot be read.
    """
    with closing(_Inputs()) as sent:
        for path in sources.files:
            for row in rows(path):
                if isinstance(row, Row) and _is_input(row):
                    try:
                        sent.add(row)
                    except ImportFileError as problem:
                        yield problem
        for path in sources.files:
            outputs = (row for row in rows(path) if not _is_input(row))
            yield from each(outputs, partial(_call, sent))


def _is_input(row: Row | ImportFileError) -> bool:
    return isinstance(row, Row) and "body" in row.values


def _call(sent: _Inputs, row: Row) -> Found:
    custom_id = row.required("custom_id")
    asked = sent.get(custom_id)
    url, body = asked or (None, {})
    if url is not None and url not in _CHAT:
        return LeftOut(f"not a call of a chat model: {url}")
    response = row.row("response")
    answered = response.row("body")
    request = Row(row.file, row.line, body, "body.")
    error = row.row("error").values or answered.row("error").values
    status = response.count("status_code")
    failed = bool(error) or (status is not None and status >= 400) or not answered.values
    model = request.text("model") or answered.text("model")
    if model is None:
        return LeftOut("failed, and its input line, which names the model, is not there")
    time = answered.time("created") or answered.time("created_at")
    if time is None:
        if failed:
            return LeftOut("failed at a time that is not recorded")
        raise answered.problem("created", "is missing", "the output line has to be whole")
    return ImportedCall(
        id=row.text("id") or response.required("request_id"),
        time=time,
        model=model,
        messages=messages_of(body) if body else None,
        answer=None if failed else answer_of(dict(answered.values)),
        # Batches have a price of their own, about half of the usual one.
        params={**stops_short(params_of(request)), "service_tier": "batch"},
        usage=usage_from(answered.row("usage")),
        # How long a batch took says nothing of the model's speed.
        latency=None,
        error=_said(error, status) if failed else None,
        scopes={"user": user} if (user := request.text("user")) else {},
    )


def _said(error: Any, status: int | None) -> str:
    """Why a call failed, without its text, which may quote the prompt."""
    kind = str(error.get("code") or error.get("type") or "failure")
    return f"{kind} ({status})" if status else kind
