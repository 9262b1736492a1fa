"""The log of simonw/llm, logs.db: the tables `responses` and, since 2026, `turns`.

A call that stands in both has one id there, and so comes once. The log keeps no cost. In
`responses` a conversation's earlier turns stand in rows of their own; they are put before each
prompt, as they were sent. In `turns` the prompt is a chain of messages, from the last to the first.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC
from pathlib import Path
from typing import Any

from router.errors import ImportFileError
from router.replay.imports.chat import params_of, stops_short, usage_of, written_of
from router.replay.imports.files import each, open_database, tables_of
from router.replay.imports.record import Found, ImportedCall, LeftOut, Reading, Sources
from router.replay.imports.row import Row

_MOST_TURNS = 10_000  # a longer chain of messages is a circle
_CHAIN = """
WITH RECURSIVE chain (hash, parent, role, depth) AS (
  SELECT hash, parent_hash, role, 0 FROM messages WHERE hash = :tip
  UNION ALL
  SELECT m.hash, m.parent_hash, m.role, chain.depth + 1
  FROM messages m JOIN chain ON m.hash = chain.parent WHERE chain.depth < :most
)
SELECT chain.depth, chain.role, parts.type, parts.text, parts.payload
FROM chain LEFT JOIN parts ON parts.message_hash = chain.hash
ORDER BY chain.depth DESC, parts.position
"""


def read(sources: Sources) -> Reading:
    """Read the calls of every database.

    Raises `ImportFileError` for a file that is no database of llm's.
    """
    for path in sources.files:
        with closing(_opened(path)) as database:
            tables = tables_of(database)
            if not tables & {"responses", "turns"}:
                raise ImportFileError(
                    str(path), None, "", "has no table `responses` or `turns`",
                    todo="name llm's database, which `llm logs path` prints",
                )  # fmt: skip
            try:
                if "responses" in tables:
                    yield from each(_responses(path, database, tables), _call)
                if "turns" in tables:
                    yield from each(_turns(path, database), _call)
            except sqlite3.Error as error:
                yield ImportFileError(
                    str(path), None, "", f"is damaged or cut: {error}",
                    todo="copy the database again while llm does not run", truncated=True,
                )  # fmt: skip


def _opened(path: Path) -> sqlite3.Connection:
    if not path.exists():
        raise ImportFileError(str(path), None, "", "cannot be read: No such file or directory")
    return open_database(path)


def _responses(path: Path, database: sqlite3.Connection, tables: set[str]) -> Iterator[Row]:
    """The rows of `responses`, each with `_messages`: system, earlier turns, prompt."""
    # Of a conversation the earlier turns come first: its rows follow each other.
    found = database.execute("SELECT * FROM responses ORDER BY conversation_id, datetime_utc, id")
    conversation: str | None = None
    before: list[dict[str, Any]] = []
    for number, row in enumerate(found, start=1):
        values = dict(row)
        if values.get("conversation_id") is None or values["conversation_id"] != conversation:
            conversation, before = values.get("conversation_id"), []
        prompt = _joined(database, tables, "prompt", values)
        system = _joined(database, tables, "system", values)
        asked: dict[str, Any] = {"role": "user", "content": prompt}
        attached = _attachments(database, tables, str(values["id"]))
        if attached:
            asked["content"] = [{"type": "text", "text": prompt}, *attached]
        answer = {"role": "assistant", "content": str(values.get("response") or "")}
        first = [{"role": "system", "content": system}] if system else []
        values["_messages"] = [*first, *before, asked] if prompt or attached else None
        values["_answer"] = [answer] if answer["content"] else None
        yield Row(str(path), number, values, zone=UTC)
        before = [*before, asked, answer]


def _joined(
    database: sqlite3.Connection, tables: set[str], kind: str, values: dict[str, Any]
) -> str:
    """A prompt or system prompt, its fragments before it."""
    texts = []
    if "fragments" in tables and f"{kind}_fragments" in tables:
        found = database.execute(
            f"SELECT content FROM {kind}_fragments AS used JOIN fragments"
            f' ON fragments.id = used.fragment_id WHERE response_id = ? ORDER BY "order"',
            (values["id"],),
        )
        texts = [row["content"] for row in found]
    return "\n".join([*texts, *filter(None, [values.get(kind)])])


def _attachments(
    database: sqlite3.Connection, tables: set[str], response_id: str
) -> list[dict[str, Any]]:
    """What was attached to a prompt, as content parts without their content."""
    if not {"attachments", "prompt_attachments"} <= tables:
        return []
    found = database.execute(
        "SELECT type FROM prompt_attachments AS used JOIN attachments"
        " ON attachments.id = used.attachment_id WHERE response_id = ?",
        (response_id,),
    )
    return [_attachment(row["type"]) for row in found]


def _attachment(kind: str | None) -> dict[str, Any]:
    if kind and kind.startswith("image/"):
        return {"type": "image_url", "image_url": {"url": ""}}
    if kind and kind.startswith("audio/"):
        return {"type": "input_audio", "input_audio": {}}
    return {"type": "file", "file": {}}


def _turns(path: Path, database: sqlite3.Connection) -> Iterator[Row]:
    """The rows of `turns`, each with `_messages` and `_answer` from the message store."""
    for number, row in enumerate(database.execute("SELECT * FROM turns ORDER BY id"), start=1):
        values = dict(row)
        asked = _chain(database, values.get("parent_message_hash"))
        whole = _chain(database, values.get("tip_message_hash"))
        values["_messages"] = asked or None
        values["_answer"] = whole[len(asked) :] or None
        values["conversation_id"] = values.get("thread_id")
        yield Row(str(path), number, values, zone=UTC)


def _chain(database: sqlite3.Connection, tip: str | None) -> list[dict[str, Any]]:
    """The messages up to `tip`, the first one first."""
    if tip is None:
        return []
    turns: dict[int, dict[str, Any]] = {}
    for row in database.execute(_CHAIN, {"tip": tip, "most": _MOST_TURNS}):
        turn = turns.setdefault(row["depth"], {"role": row["role"], "content": ""})
        if row["type"] == "text":
            turn["content"] += _text(database, row["text"], row["payload"])
        elif row["type"] == "tool_result":
            turn["content"] += str(json.loads(row["payload"] or "{}").get("output", ""))
    return list(turns.values())


def _text(database: sqlite3.Connection, text: str | None, payload: str | None) -> str:
    """A part's text: in its own column, or in pieces, some of them fragments."""
    if text is not None:
        return text
    pieces = json.loads(payload or "{}").get("text_ref") or ()
    return "".join(
        piece["literal"] if "literal" in piece else _fragment(database, piece.get("fragment"))
        for piece in pieces
    )


def _fragment(database: sqlite3.Connection, fragment: int | None) -> str:
    row = database.execute("SELECT content FROM fragments WHERE id = ?", (fragment,)).fetchone()
    return str(row["content"]) if row else ""


def _call(row: Row) -> Found:
    model = row.text("model")
    if model is None:
        return LeftOut("a response without a model")
    messages, answer = row.values["_messages"], row.values["_answer"]
    return ImportedCall(
        id=row.required("id"),
        time=row.needed_time("datetime_utc"),
        model=model,
        messages=None if messages is None else tuple(messages),
        answer=None if answer is None else tuple(answer),
        params=stops_short(params_of(row.row("options_json"))),
        usage=_usage(row),
        latency=row.seconds("duration_ms", "ms"),
        conversation_id=row.text("conversation_id"),
    )


def _usage(row: Row) -> dict[str, Any] | None:
    """Token counts; details are as the model's plugin wrote them."""
    details = row.row("token_details")
    prompt, answer = row.count("input_tokens"), row.count("output_tokens")
    inside, outside = (details.row(f"{part}_tokens_details") for part in ("prompt", "completion"))
    read, (written, written_1h) = details.count("cache_read_input_tokens"), written_of(details)
    if prompt is not None:  # Anthropic counts what its cache has beside the input
        prompt += (read or 0) + (written or 0)
    return usage_of(
        prompt,
        answer,
        cached=read or inside.count("cached_tokens"),
        written=written,
        written_1h=written_1h,
        reasoning=outside.count("reasoning_tokens"),
        audio_input=inside.count("audio_tokens"),
        audio_output=outside.count("audio_tokens"),
    )
