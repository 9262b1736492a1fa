"""Plain lines of our own: what to write where no other format fits. JSON lines, JSON or CSV.

| column            | what it is                                                            |
|-------------------|-----------------------------------------------------------------------|
| id                | unique; without one, the line's content counts as its id               |
| time              | unix seconds, or ISO 8601 with its zone; required                      |
| model             | litellm's name, with or without the provider; required                 |
| messages, prompt  | OpenAI's messages, or the text of one user turn                        |
| answer            | the answer's text                                                      |
| input_tokens      | all of the prompt's, `cached_tokens` among them                        |
| output_tokens     | all of the answer's, `reasoning_tokens` among them                     |
| cached_tokens     | of the input, those read from the provider's cache                     |
| reasoning_tokens  | of the output, those that were not shown                               |
| cost_usd          | what the call cost; 0 means that it was free                           |
| latency           | seconds                                                                |
| label             | how good the answer was, 0 to 1                                        |
| conversation_id   | the same for the turns of one conversation                             |
| user, team        | whose call it was                                                      |
| tags              | a list of texts, or one text                                           |
| max_tokens        | the cap that was asked for                                             |
| reasoning_effort  | the effort that was asked for                                          |
| error             | why there was no answer                                                |

Unknown columns are refused, since a misspelt one would be missed in silence.
"""

from __future__ import annotations

import hashlib
import json

from router.policy.fields import similar
from router.replay.imports.chat import (
    messages_of,
    params_of,
    stops_short,
    usage_of,
    user_turn,
)
from router.replay.imports.files import each, rows
from router.replay.imports.record import Found, ImportedCall, Reading, Sources
from router.replay.imports.row import Row, plain

COLUMNS = (
    "answer", "cached_tokens", "conversation_id", "cost_usd", "error", "id", "input_tokens",
    "label", "latency", "max_tokens", "messages", "model", "output_tokens", "prompt",
    "reasoning_effort", "reasoning_tokens", "tags", "team", "time", "user",
)  # fmt: skip


def read(sources: Sources) -> Reading:
    """Read the lines of every file. Raises `ImportFileError` for a file that cannot be read."""
    for path in sources.files:
        yield from each(rows(path, zone=None), _call)


def _call(row: Row) -> Found:
    for name in row.values:
        if name not in COLUMNS:
            raise row.problem(
                name,
                f"is no column{similar(name, COLUMNS)}",
                f"leave it out; known are {', '.join(COLUMNS)}",
            )
    label = row.number("label")
    if label is not None and not 0 <= label <= 1:
        raise row.problem("label", "must be from 0 (bad) to 1 (good)")
    if row.has("messages") and row.has("prompt"):
        raise row.problem("prompt", "stands beside `messages`", "give one of the two")
    messages = user_turn(row.text("prompt"))
    if row.has("messages"):
        messages = messages_of(row.json("messages"))
    if row.has("messages") and messages is None:
        raise row.problem(
            "messages", "is not a list of chat messages", 'write [{"role": "user", "content": "…"}]'
        )
    answer = row.text("answer")
    cached, reasoning = row.count("cached_tokens"), row.count("reasoning_tokens")
    read_in, written = row.count("input_tokens"), row.count("output_tokens")
    for name, part, whole in (
        ("cached_tokens", cached, read_in),
        ("reasoning_tokens", reasoning, written),
    ):
        if part is not None and (whole is None or part > whole):
            raise row.problem(name, "is more than the tokens that it is part of")
    users = {name: row.text(name) for name in ("user", "team")}
    return ImportedCall(
        id=row.text("id") or _digest(row),
        time=row.needed_time("time"),
        model=row.required("model", "name the model that was called"),
        messages=messages,
        answer=({"role": "assistant", "content": answer},) if answer else None,
        params=stops_short(params_of(row)),
        usage=usage_of(read_in, written, cached=cached, reasoning=reasoning),
        cost=row.money("cost_usd"),
        latency=row.seconds("latency"),
        error=row.text("error"),
        label=label,
        conversation_id=row.text("conversation_id"),
        scopes={name: value for name, value in users.items() if value},
        tags=row.texts("tags"),
    )


def _digest(row: Row) -> str:
    """An id for a line that has none: the same content, wherever it stands, is the same call."""
    content = json.dumps(plain(dict(row.values)), sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:32]
