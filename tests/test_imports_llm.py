"""llm's logs.db, by the schemas that its releases make: `responses`, and `turns` since 2026."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from router.errors import ImportFileError
from tests.import_kit import calls, found, left_out, problems

START = 1777629600.0  # 2026-05-01 10:00:00 UTC
OLD = """
CREATE TABLE [conversations] ([id] TEXT PRIMARY KEY, [name] TEXT, [model] TEXT);
CREATE TABLE [schemas] ([id] TEXT PRIMARY KEY, [content] TEXT);
CREATE TABLE "responses" (
  [id] TEXT PRIMARY KEY, [model] TEXT, [prompt] TEXT, [system] TEXT, [prompt_json] TEXT,
  [options_json] TEXT, [response] TEXT, [response_json] TEXT,
  [conversation_id] TEXT REFERENCES [conversations]([id]), [duration_ms] INTEGER,
  [datetime_utc] TEXT, [input_tokens] INTEGER, [output_tokens] INTEGER, [token_details] TEXT,
  [schema_id] TEXT REFERENCES [schemas]([id]), [resolved_model] TEXT);
CREATE TABLE [attachments] (
  [id] TEXT PRIMARY KEY, [type] TEXT, [path] TEXT, [url] TEXT, [content] BLOB);
CREATE TABLE [prompt_attachments] (
  [response_id] TEXT, [attachment_id] TEXT, [order] INTEGER,
  PRIMARY KEY ([response_id], [attachment_id]));
CREATE TABLE [fragments] (
  [id] INTEGER PRIMARY KEY, [hash] TEXT, [content] TEXT, [datetime_utc] TEXT, [source] TEXT);
CREATE TABLE "prompt_fragments" (
  [response_id] TEXT, [fragment_id] INTEGER, [order] INTEGER,
  PRIMARY KEY ([response_id], [fragment_id], [order]));
CREATE TABLE "system_fragments" (
  [response_id] TEXT, [fragment_id] INTEGER, [order] INTEGER,
  PRIMARY KEY ([response_id], [fragment_id], [order]));
"""
NEW = """
CREATE TABLE [messages] (
  [hash] TEXT PRIMARY KEY, [parent_hash] TEXT, [role] TEXT, [provider_metadata] TEXT);
CREATE TABLE [parts] (
  [id] INTEGER PRIMARY KEY, [message_hash] TEXT, [position] INTEGER, [type] TEXT,
  [tool_name] TEXT, [text] TEXT, [payload] TEXT);
CREATE TABLE [threads] (
  [id] TEXT PRIMARY KEY, [name] TEXT, [tip_message_hash] TEXT, [forked_from] TEXT,
  [datetime_utc] TEXT);
CREATE TABLE [turns] (
  [id] TEXT PRIMARY KEY, [thread_id] TEXT, [parent_message_hash] TEXT, [tip_message_hash] TEXT,
  [model] TEXT, [resolved_model] TEXT, [options_json] TEXT, [schema_id] TEXT,
  [input_tokens] INTEGER, [output_tokens] INTEGER, [token_details] TEXT, [duration_ms] INTEGER,
  [datetime_utc] TEXT, [response_json] TEXT);
"""


def database(path: Path, schema: str, **rows: list[dict[str, Any]]) -> Path:
    made = sqlite3.connect(path)
    with made:
        made.executescript(schema)
        for table, values in rows.items():
            for row in values:
                names = ", ".join(f"[{name}]" for name in row)
                places = ", ".join("?" * len(row))
                made.execute(
                    f"INSERT INTO [{table}] ({names}) VALUES ({places})", list(row.values())
                )
    made.close()
    return path


def response(at: int, **changes: Any) -> dict[str, Any]:
    return {
        "id": f"01k{at}", "model": "gpt-5.4-mini", "prompt": f"ask {at}", "system": None,
        "options_json": '{"max_tokens": 64, "temperature": 0}', "response": f"say {at}",
        "conversation_id": "c1", "duration_ms": 2500,
        "datetime_utc": f"2026-05-01T10:0{at}:00+00:00", "input_tokens": 100, "output_tokens": 20,
        "token_details": '{"prompt_tokens_details": {"cached_tokens": 40}}',
        **changes,
    }  # fmt: skip


def test_responses_have_the_turns_before_them(tmp_path: Path) -> None:
    log = database(
        tmp_path / "logs.db",
        OLD,
        responses=[
            response(1, system="Be brief."),
            response(0),
            response(2, conversation_id=None),
            response(3, conversation_id=None),
        ],
    )
    by_id = {call.id: call for call in calls("llm", log)}
    assert by_id["01k1"].messages == (
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "ask 0"},
        {"role": "assistant", "content": "say 0"},
        {"role": "user", "content": "ask 1"},
    )
    for alone in ("01k0", "01k2", "01k3"):
        assert by_id[alone].messages == ({"role": "user", "content": f"ask {alone[-1]}"},)
    first = by_id["01k0"]
    assert (first.time, first.latency, first.conversation_id) == (START, 2.5, "c1")
    assert first.answer == ({"role": "assistant", "content": "say 0"},)
    assert first.params == {"max_tokens": 64}
    assert first.usage == {
        "prompt_tokens": 100,
        "completion_tokens": 20,
        "prompt_tokens_details": {"cached_tokens": 40},
    }
    assert first.cost is None


def test_fragments_and_attachments_are_part_of_the_prompt(tmp_path: Path) -> None:
    log = database(
        tmp_path / "logs.db",
        OLD,
        responses=[response(0)],
        fragments=[{"id": 1, "content": "a novel"}, {"id": 2, "content": "a rule"}],
        prompt_fragments=[{"response_id": "01k0", "fragment_id": 1, "order": 0}],
        system_fragments=[{"response_id": "01k0", "fragment_id": 2, "order": 0}],
        attachments=[{"id": "x", "type": "image/png"}],
        prompt_attachments=[{"response_id": "01k0", "attachment_id": "x", "order": 0}],
    )
    [call] = calls("llm", log)
    assert call.messages is not None
    system, user = call.messages
    assert system == {"role": "system", "content": "a rule"}
    assert [part["type"] for part in user["content"]] == ["text", "image_url"]
    assert user["content"][0]["text"] == "a novel\nask 0"


def test_a_log_of_an_early_release_has_no_tokens(tmp_path: Path) -> None:
    schema = """CREATE TABLE responses (id TEXT PRIMARY KEY, model TEXT, prompt TEXT, system TEXT,
      prompt_json TEXT, options_json TEXT, response TEXT, response_json TEXT, conversation_id TEXT,
      duration_ms INTEGER, datetime_utc TEXT)"""
    row = {
        "id": "1", "model": "gpt-4", "prompt": "p", "options_json": "{}", "response": "r",
        "datetime_utc": "2023-08-01T10:00:00.123456",
    }  # fmt: skip
    [call] = calls("llm", database(tmp_path / "logs.db", schema, responses=[row]))
    assert (call.usage, call.latency) == (None, None)


def message(name: str, parent: str | None, role: str) -> dict[str, Any]:
    return {"hash": name, "parent_hash": parent, "role": role}


def part(of: str, text: str | None, position: int = 0, **more: Any) -> dict[str, Any]:
    return {"message_hash": of, "position": position, "type": "text", "text": text, **more}


def test_turns_are_chains_of_messages_and_come_once(tmp_path: Path) -> None:
    """Text in pieces is put together; the call that is in both tables has the id of one."""
    pieces = json.dumps({"text_ref": [{"literal": "read "}, {"fragment": 1}]})
    log = database(
        tmp_path / "logs.db",
        OLD + NEW,
        responses=[response(0)],
        fragments=[{"id": 1, "content": "a novel"}],
        messages=[
            message("m1", None, "system"),
            message("m2", "m1", "user"),
            message("m3", "m2", "assistant"),
        ],
        parts=[
            part("m1", "Be brief."),
            part("m2", None, payload=pieces),
            part("m3", None, type="reasoning"),
            part("m3", "It is long.", 1),
        ],
        turns=[
            {
                "id": "01t1", "thread_id": "c2", "parent_message_hash": "m2",
                "tip_message_hash": "m3", "model": "gpt-5.4", "options_json": None,
                "input_tokens": 10, "output_tokens": 4, "duration_ms": 100,
                "token_details": '{"completion_tokens_details": {"reasoning_tokens": 3}}',
                "datetime_utc": "2026-05-01T10:00:00+00:00",
            },
            {"id": "01k0", "thread_id": "c1", "model": "gpt-5.4-mini",
             "datetime_utc": "2026-05-01T10:00:00+00:00"},
        ],
    )  # fmt: skip
    assert [call.id for call in calls("llm", log)] == ["01k0", "01k0", "01t1"]
    turn = calls("llm", log)[-1]
    assert turn.messages == (
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "read a novel"},
    )
    assert turn.answer == ({"role": "assistant", "content": "It is long."},)
    assert turn.usage is not None
    assert turn.usage["completion_tokens_details"] == {"reasoning_tokens": 3}


def test_a_chain_in_a_circle_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("router.replay.imports.llm._MOST_TURNS", 50)
    turn = {
        "id": "1", "parent_message_hash": "m", "tip_message_hash": "m", "model": "x",
        "datetime_utc": "2026-05-01T10:00:00+00:00",
    }  # fmt: skip
    log = database(
        tmp_path / "logs.db", OLD + NEW, messages=[message("m", "m", "user")], turns=[turn]
    )
    assert len(calls("llm", log)) == 1


def test_bad_rows_and_other_databases_are_named(tmp_path: Path) -> None:
    log = database(
        tmp_path / "logs.db",
        OLD,
        responses=[
            response(0, datetime_utc="once", conversation_id="a"),
            response(1, model=None, conversation_id="b"),
        ],
    )
    everything = found("llm", log)
    [bad] = problems(everything)
    assert (bad.file, bad.line, bad.field) == (str(log), 1, "datetime_utc")
    assert left_out(everything) == ["a response without a model"]
    with pytest.raises(ImportFileError, match="llm logs path"):
        found("llm", database(tmp_path / "other.db", "CREATE TABLE x (y)"))
    with pytest.raises(ImportFileError, match="No such file"):
        found("llm", tmp_path / "none.db")
    (tmp_path / "text.db").write_text("hello")
    with pytest.raises(ImportFileError, match="as a SQLite database"):
        found("llm", tmp_path / "text.db")
