"""OpenAI's batches, plain lines, and what holds for every format."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.errors import ImportFileError
from router.replay.imports import FORMATS
from router.replay.imports.record import ImportedCall, LeftOut
from tests.import_kit import calls, found, left_out, lines, problems, run
from tests.import_records import (
    ASKED,
    INPUT,
    LINE,
    OUTPUT,
    SAID,
    SPEND,
    SPENT,
    START,
    as_csv,
    exported,
    helicone,
    observation,
    only,
    payload,
    span,
)


# ── OpenAI's batches ─────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("reverse", [False, True])
def test_a_batchs_outputs_find_their_inputs_in_any_order_of_files(
    tmp_path: Path, reverse: bool
) -> None:
    files = [lines(tmp_path / "in.jsonl", [INPUT]), lines(tmp_path / "out.jsonl", [OUTPUT])]
    call = only(calls("openai-batch", *(reversed(files) if reverse else files)))
    assert call == ImportedCall(
        id="batch_req_1",
        time=START,
        model="gpt-5.4-mini",
        messages=tuple(ASKED),
        answer=(SAID,),
        params={"max_tokens": 64, "service_tier": "batch"},
        usage={"prompt_tokens": 100, "completion_tokens": 20},
    )


def test_a_batch_without_its_input_has_no_prompt(tmp_path: Path) -> None:
    call = only(calls("openai-batch", lines(tmp_path / "out.jsonl", [OUTPUT])))
    assert (call.messages, call.model) == (None, "gpt-5.4-mini-2026-03-17")


def test_failed_lines_other_endpoints_and_repeated_ids(tmp_path: Path) -> None:
    failed = {
        "id": "batch_req_2", "custom_id": "r-1", "error": None,
        "response": {"status_code": 400, "body": {"error": {"code": "too_long"}}},
    }  # fmt: skip
    embedding = {**INPUT, "custom_id": "r-2", "url": "/v1/embeddings"}
    inputs = lines(tmp_path / "in.jsonl", [INPUT, embedding])
    outputs = lines(
        tmp_path / "out.jsonl", [failed, {**OUTPUT, "custom_id": "r-2", "id": "batch_req_3"}]
    )
    assert left_out(found("openai-batch", inputs, outputs)) == [
        "failed at a time that is not recorded",
        "not a call of a chat model: /v1/embeddings",
    ]
    twice = lines(tmp_path / "twice.jsonl", [INPUT, INPUT])
    [problem] = problems(found("openai-batch", twice, outputs))
    assert (problem.line, problem.field) == (2, "custom_id")
    assert "one batch at a time" in str(problem)


def test_a_batch_of_the_responses_interface_is_read(tmp_path: Path) -> None:
    asked = {
        **INPUT, "url": "/v1/responses",
        "body": {"model": "gpt-5.4", "input": "Why?", "instructions": "Be brief.",
                 "max_output_tokens": 9},
    }  # fmt: skip
    body = {
        "id": "resp_1", "created_at": int(START), "model": "gpt-5.4",
        "output": [{"type": "message", "role": "assistant",
                    "content": [{"type": "output_text", "text": "Because."}]}],
        "usage": {"input_tokens": 10, "output_tokens": 4,
                  "input_tokens_details": {"cached_tokens": 3},
                  "output_tokens_details": {"reasoning_tokens": 2}},
    }  # fmt: skip
    output = {**OUTPUT, "response": {"status_code": 200, "request_id": "q", "body": body}}
    files = lines(tmp_path / "i.jsonl", [asked]), lines(tmp_path / "o.jsonl", [output])
    call = only(calls("openai-batch", *files))
    assert call.messages == (
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Why?"},
    )
    assert call.answer == (
        {"role": "assistant", "content": [{"type": "text", "text": "Because."}]},
    )
    assert call.usage == {
        "prompt_tokens": 10,
        "completion_tokens": 4,
        "prompt_tokens_details": {"cached_tokens": 3},
        "completion_tokens_details": {"reasoning_tokens": 2},
    }


# ── plain lines ──────────────────────────────────────────────────────────────────────────────
def test_plain_lines_have_every_column(tmp_path: Path) -> None:
    call = only(calls("jsonl", lines(tmp_path / "a.jsonl", [LINE])))
    assert call == replace(SPENT, id="1", model="m", label=1.0, stream=False)
    assert only(calls("jsonl", as_csv(tmp_path / "a.csv", [LINE]))) == call


def test_a_line_without_an_id_has_its_contents(tmp_path: Path) -> None:
    bare = {"time": START, "model": "m"}
    one, same, other = calls(
        "jsonl",
        lines(tmp_path / "a.jsonl", [bare, dict(reversed(bare.items())), {**bare, "label": 1}]),
    )
    assert one.id == same.id != other.id


def test_a_plain_prompt_is_text_even_where_it_is_json(tmp_path: Path) -> None:
    said = json.dumps(ASKED)
    row = {"time": START, "model": "m", "prompt": said, "answer": "{}"}
    call = only(calls("jsonl", lines(tmp_path / "a.jsonl", [row])))
    assert call.messages == ({"role": "user", "content": said},)
    assert call.answer == ({"role": "assistant", "content": "{}"},)


def test_a_plain_cost_of_zero_is_free(tmp_path: Path) -> None:
    assert only(calls("jsonl", lines(tmp_path / "a.jsonl", [{**LINE, "cost_usd": 0}]))).cost == 0


@pytest.mark.parametrize(
    ("change", "field", "says"),
    [
        ({"lable": 1}, "lable", "label"),
        ({"label": 2}, "label", "0 (bad) to 1 (good)"),
        ({"time": None}, "time", "missing"),
        ({"time": "2026-05-01T10:00:00"}, "time", "without a zone"),
        ({"time": START * 1000}, "time", "seconds, not milliseconds"),
        ({"model": ""}, "model", "missing"),
        ({"prompt": "x"}, "prompt", "one of the two"),
        ({"messages": [{"role": "pope", "content": "x"}]}, "messages", "role"),
        ({"cached_tokens": 101}, "cached_tokens", "part of"),
        ({"input_tokens": 1.5}, "input_tokens", "whole number"),
        ({"cost_usd": "-1"}, "cost_usd", "US dollars"),
        ({"latency": -1}, "latency", "duration"),
    ],
)
def test_a_wrong_value_is_named_with_file_line_and_field(
    tmp_path: Path, change: dict[str, Any], field: str, says: str
) -> None:
    file = lines(tmp_path / "a.jsonl", [LINE, {**LINE, **change}])
    good, bad = found("jsonl", file)
    assert isinstance(good, ImportedCall)
    assert (bad.file, bad.line, bad.field) == (str(file), 2, field)
    assert says in str(bad)


# ── whatever stands in a file ────────────────────────────────────────────────────────────────
RECORDS: dict[str, dict[str, Any]] = {
    "helicone": helicone(),
    "jsonl": LINE,
    "langfuse": observation(),
    "litellm-callback": payload(),
    "litellm-spend": SPEND,
    "openai-batch": OUTPUT,
    "otel-genai": exported(span()),
}


ODD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)


def test_every_format_but_the_database_is_tried_with_odd_values() -> None:
    assert set(RECORDS) | {"llm"} == set(FORMATS)


@pytest.mark.parametrize("format", sorted(RECORDS))
def test_every_format_comes_into_a_sound_log_once(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, format: str
) -> None:
    file, store = lines(tmp_path / "a.jsonl", [RECORDS[format]]), tmp_path / "s.db"
    asked = ["import", format, file, "--out", store, "--policy", "default", "--content", "--json"]
    cost = 0
    for added in (1, 0):
        code, out, _ = run(capsys, *asked)
        said = json.loads(out)
        assert (code, said["requests"], said["added"]) == (0, 1, added)
        cost += said["known_cost_nano"]
    assert json.loads(run(capsys, "ledger", "verify", store, "--json")[1])["sound"]
    report = json.loads(run(capsys, "report", store, "--json")[1])
    assert (report["requests"], report["realized_nano"]) == (1, cost)


@pytest.mark.parametrize("format", sorted(RECORDS))
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_odd_values_are_read_left_out_or_named_and_never_break_a_reader(
    tmp_path_factory: pytest.TempPathFactory, format: str, data: st.DataObject
) -> None:
    record = json.loads(json.dumps(RECORDS[format]))
    for _ in range(data.draw(st.integers(1, 3))):
        inside: Any = record
        while True:
            at = data.draw(st.sampled_from(sorted(inside) if isinstance(inside, dict)
                                           else range(len(inside))))  # fmt: skip
            if isinstance(inside[at], dict | list) and inside[at] and data.draw(st.booleans()):
                inside = inside[at]
                continue
            inside[at] = data.draw(ODD)
            break
    file = lines(tmp_path_factory.mktemp("odd") / "a.jsonl", [record])
    for each in found(format, file):
        assert isinstance(each, ImportedCall | LeftOut | ImportFileError)
