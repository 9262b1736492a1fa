"""litellm's spend logs and callbacks: each becomes a plain call, or is left out with a reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from router.replay.imports.litellm_common import CUT
from router.replay.imports.record import ZERO_COST, LeftOut
from tests.import_kit import calls, found, left_out, lines
from tests.import_records import (
    SPEND,
    SPENT,
    START,
    as_csv,
    only,
    payload,
)


def test_spend_logs_are_the_same_as_lines_as_csv_and_as_an_array(tmp_path: Path) -> None:
    assert only(calls("litellm-spend", lines(tmp_path / "a.jsonl", [SPEND]))) == SPENT
    assert only(calls("litellm-spend", as_csv(tmp_path / "a.csv", [SPEND]))) == SPENT
    (tmp_path / "a.json").write_text(json.dumps([SPEND]))
    assert only(calls("litellm-spend", tmp_path / "a.json")) == SPENT


def test_a_dump_of_spend_logs_is_in_utc(tmp_path: Path) -> None:
    dump = tmp_path / "spend.sql"
    dump.write_text(
        'COPY public."LiteLLM_SpendLogs" (request_id, call_type, spend, prompt_tokens, '
        'completion_tokens, "startTime", "endTime", model, custom_llm_provider, metadata) '
        "FROM stdin;\n"
        "r1\tacompletion\t0.5\t10\t2\t2026-05-01 10:00:00\t2026-05-01 10:00:01.5\tgpt-5.4\topenai\t"
        '{"status": "success"}\n\\.\n'
    )
    call = only(calls("litellm-spend", dump))
    assert (call.time, call.latency, call.cost) == (START, 1.5, 500_000_000)
    assert call.usage == {"prompt_tokens": 10, "completion_tokens": 2}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"call_type": "aembedding"}, "not a call of a chat model: aembedding"),
        ({"cache_hit": "True"}, "litellm's cache"),
        ({"model": "", "status": "failure"}, "before a model was chosen"),
    ],
)
def test_what_called_no_chat_model_is_left_out(
    tmp_path: Path, change: dict[str, Any], why: str
) -> None:
    [reason] = left_out(found("litellm-spend", lines(tmp_path / "a.jsonl", [{**SPEND, **change}])))
    assert why in reason


@pytest.mark.parametrize(
    ("text", "notes"),
    [("redacted-by-litellm", ()), ("long ... (litellm_truncated skipped 9 chars.) end", (CUT,))],
)
def test_a_prompt_that_litellm_did_not_keep_whole_is_none(
    tmp_path: Path, text: str, notes: tuple[str, ...]
) -> None:
    asked = [{"role": "user", "content": text}]
    for format, record in (("litellm-spend", SPEND), ("litellm-callback", payload())):
        call = only(calls(format, lines(tmp_path / "a.jsonl", [{**record, "messages": asked}])))
        assert (call.messages, call.notes) == (None, notes)


def test_litellms_cost_of_zero_is_unknown_and_said(tmp_path: Path) -> None:
    call = only(calls("litellm-spend", lines(tmp_path / "a.jsonl", [{**SPEND, "spend": 0.0}])))
    assert (call.cost, call.notes) == (None, (ZERO_COST,))


def test_a_failure_is_named_without_its_text(tmp_path: Path) -> None:
    error = {"error_class": "RateLimitError", "error_code": "429", "error_message": "secret"}
    metadata = {"error_information": error}
    failed = {**SPEND, "status": "failure", "spend": 0, "prompt_tokens": 0, "completion_tokens": 0}
    call = only(
        calls("litellm-spend", lines(tmp_path / "a.jsonl", [{**failed, "metadata": metadata}]))
    )
    assert (call.error, call.usage, call.cost) == ("RateLimitError (429)", None, None)


def test_a_callbacks_payload_is_the_same_call(tmp_path: Path) -> None:
    assert only(calls("litellm-callback", lines(tmp_path / "a.jsonl", [payload()]))) == SPENT
    wrapped = [{"standard_logging_object": payload(), "model": "x"}]
    assert only(calls("litellm-callback", lines(tmp_path / "b.jsonl", wrapped))) == SPENT


def test_the_payload_that_litellm_itself_makes_is_read(tmp_path: Path) -> None:
    """The names are litellm's own, by the version that is installed."""
    from litellm.types.utils import StandardLoggingPayload

    known = set(StandardLoggingPayload.__annotations__)
    read = {
        "call_type", "cache_hit", "custom_llm_provider", "end_user", "endTime", "error_information",
        "hidden_params", "id", "messages", "metadata", "model", "model_parameters", "prompt_tokens",
        "completion_tokens", "request_tags", "response", "response_cost", "response_time",
        "session_id", "startTime", "status", "stream",
    }  # fmt: skip
    assert read <= known


def test_a_cached_answer_and_a_failure_of_a_callback(tmp_path: Path) -> None:
    error = {"error_class": "Timeout", "error_code": None}
    everything = found(
        "litellm-callback",
        lines(
            tmp_path / "a.jsonl",
            [
                payload(cache_hit=True),
                payload(status="failure", error_information=error, response_cost=0),
            ],
        ),
    )
    assert isinstance(everything[0], LeftOut)
    assert everything[1].error == "Timeout"
