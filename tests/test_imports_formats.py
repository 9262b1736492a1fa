"""Each format's records become the same plain calls; what is no call of a model is left out."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.errors import ImportFileError
from router.replay.imports import FORMATS
from router.replay.imports.litellm_common import CUT
from router.replay.imports.record import ZERO_COST, ImportedCall, LeftOut
from tests.import_kit import calls, found, left_out, lines, problems, run

START = 1777629600.0  # 2026-05-01 10:00:00 UTC
ASKED = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why is it so?"}]
SAID = {"role": "assistant", "content": "Because."}
BODY = {"id": "chatcmpl-1", "choices": [{"index": 0, "message": SAID}]}


def only(found_calls: list[ImportedCall]) -> ImportedCall:
    [call] = found_calls
    return call


# ── litellm ────────────────────────────────────────────────────────────────────────────────────
SPEND = {
    "request_id": "chatcmpl-1", "call_type": "acompletion", "api_key": "hash", "spend": 0.00123,
    "total_tokens": 120, "prompt_tokens": 100, "completion_tokens": 20,
    "startTime": "2026-05-01T10:00:00.000Z", "endTime": "2026-05-01T10:00:02.500Z",
    "request_duration_ms": None, "model": "gpt-5.4-mini", "model_group": "small",
    "custom_llm_provider": "openai", "user": "proxy-user", "end_user": "ann", "team_id": "blue",
    "cache_hit": "False", "request_tags": ["nightly"], "session_id": "s1", "status": "success",
    "messages": ASKED, "response": BODY, "proxy_server_request": {"max_tokens": 64, "stream": True},
    "metadata": {"usage_object": {
        "prompt_tokens": 100, "completion_tokens": 20,
        "prompt_tokens_details": {"cached_tokens": 40},
        "completion_tokens_details": {"reasoning_tokens": 5}}},
}  # fmt: skip
SPENT = ImportedCall(
    id="chatcmpl-1",
    time=START,
    model="openai/gpt-5.4-mini",
    messages=tuple(ASKED),
    answer=(SAID,),
    params={"max_tokens": 64},
    usage={
        "prompt_tokens": 100,
        "completion_tokens": 20,
        "prompt_tokens_details": {"cached_tokens": 40},
        "completion_tokens_details": {"reasoning_tokens": 5},
    },
    cost=1_230_000,
    latency=2.5,
    conversation_id="s1",
    scopes={"user": "ann", "team": "blue"},
    tags=("nightly",),
    stream=True,
)


def as_csv(path: Path, rows: list[dict[str, Any]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        for row in rows:
            writer.writerow(
                {k: json.dumps(v) if isinstance(v, dict | list) else v for k, v in row.items()}
            )
    return path


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


def payload(**changes: Any) -> dict[str, Any]:
    return {
        "id": "chatcmpl-1", "trace_id": "t", "session_id": "s1", "call_type": "acompletion",
        "stream": True, "response_cost": 0.00123, "status": "success",
        "custom_llm_provider": "openai", "total_tokens": 120, "prompt_tokens": 100,
        "completion_tokens": 20, "startTime": START, "endTime": START + 2.5, "response_time": 2.5,
        "model": "gpt-5.4-mini", "end_user": "ann", "cache_hit": None, "request_tags": ["nightly"],
        "messages": ASKED, "response": BODY, "model_parameters": {"max_tokens": 64},
        "metadata": {"user_api_key_team_id": "blue", "usage_object": SPENT.usage},
        "hidden_params": {}, "error_information": {},
        **changes,
    }  # fmt: skip


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


# ── OpenAI's batches ───────────────────────────────────────────────────────────────────────────
INPUT = {
    "custom_id": "r-1", "method": "POST", "url": "/v1/chat/completions",
    "body": {"model": "gpt-5.4-mini", "messages": ASKED, "max_tokens": 64},
}  # fmt: skip
OUTPUT = {
    "id": "batch_req_1", "custom_id": "r-1", "error": None,
    "response": {"status_code": 200, "request_id": "req_1", "body": {
        "id": "chatcmpl-1", "object": "chat.completion", "created": int(START),
        "model": "gpt-5.4-mini-2026-03-17", "choices": BODY["choices"],
        "usage": {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}}},
}  # fmt: skip


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


# ── Langfuse ───────────────────────────────────────────────────────────────────────────────────
def observation(**changes: Any) -> dict[str, Any]:
    return {
        "id": "o1", "trace_id": "t1", "type": "GENERATION",
        "start_time": "2026-05-01 10:00:00.000000",
        "end_time": "2026-05-01 10:00:02.500000", "level": "DEFAULT", "input": json.dumps(ASKED),
        "output": json.dumps(SAID), "provided_model_name": "gpt-5.4-mini",
        "model_parameters": '{"max_tokens": 64, "temperature": 0.5}',
        "usage_details": {"input": 60, "input_cached_tokens": 40, "output": 15,
                          "output_reasoning_tokens": 5, "total": 120},
        "cost_details": {"total": 0.00123}, "total_cost": 0.00123, "completion_start_time": None,
        "user_id": "ann", "session_id": "s1", "tags": ["nightly"],
        **changes,
    }  # fmt: skip


GENERATED = ImportedCall(
    id="o1",
    time=START,
    model="gpt-5.4-mini",
    messages=tuple(ASKED),
    answer=(SAID,),
    params={"max_tokens": 64},
    usage=SPENT.usage,
    cost=1_230_000,
    latency=2.5,
    label_source="langfuse",
    conversation_id="s1",
    scopes={"user": "ann"},
    tags=("nightly",),
)


def camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.title() for part in rest)


def test_observations_are_the_same_from_blob_storage_and_from_the_page(tmp_path: Path) -> None:
    assert only(calls("langfuse", lines(tmp_path / "a.jsonl", [observation()]))) == GENERATED
    page = {camel(name): value for name, value in observation().items()}
    page["model"] = page.pop("providedModelName")
    page["startTime"], page["endTime"] = "2026-05-01T10:00:00.000Z", "2026-05-01T10:00:02.500Z"
    assert only(calls("langfuse", lines(tmp_path / "b.jsonl", [page]))) == GENERATED
    assert only(calls("langfuse", as_csv(tmp_path / "c.csv", [page]))) == GENERATED
    trace = {"trace": {"id": "t1"}, "observations": [page], "scores": [score(observation_id=None)]}
    (tmp_path / "d.json").write_text(json.dumps(trace, indent=1))
    assert only(calls("langfuse", tmp_path / "d.json")) == GENERATED


def score(**changes: Any) -> dict[str, Any]:
    return {
        "id": "s", "trace_id": "t1", "observation_id": "o1", "name": "correct", "value": 0.75,
        "data_type": "NUMERIC", "source": "API", **changes,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("scores", "wanted", "label", "note"),
    [
        ([score()], None, 0.75, None),
        ([score(data_type="BOOLEAN", value=1)], None, 1.0, None),
        ([score(), score(name="polite", value=1)], None, None, "--score"),
        ([score(), score(name="polite", value=1)], "polite", 1.0, None),
        ([score(value=7)], None, None, "outside 0 to 1"),
        ([score(data_type="CATEGORICAL", value=1)], None, None, None),
        ([score(observation_id=None)], None, None, None),
    ],
)
@pytest.mark.parametrize("apart", [False, True])
def test_scores_become_labels(
    tmp_path: Path, scores: list[Any], wanted: str | None, label: float | None, note: str | None,
    apart: bool,
) -> None:  # fmt: skip
    """In a file of their own or in the row; of this one observation alone."""
    if apart:
        files = [
            lines(tmp_path / "o.jsonl", [observation()]), lines(tmp_path / "s.jsonl", scores)
        ]  # fmt: skip
    else:
        own = [each for each in scores if each["observation_id"]]
        files = [lines(tmp_path / "o.jsonl", [observation(scores=own)])]
    everything = found("langfuse", *files, score=wanted)
    [call] = [each for each in everything if isinstance(each, ImportedCall)]
    assert call.label == label
    assert [each for each in call.notes if note and note in each] == list(call.notes)
    assert bool(call.notes) == (note is not None)


def test_a_score_in_a_column_of_its_own_has_to_be_named(tmp_path: Path) -> None:
    file = as_csv(tmp_path / "a.csv", [observation(correct="[0.5]")])
    assert only(calls("langfuse", file)).label is None
    assert only(calls("langfuse", file, score="correct")).label == 0.5


def test_spans_are_left_out_and_an_error_is_a_failure(tmp_path: Path) -> None:
    rows = [
        observation(type="SPAN"),
        observation(id="o2", level="ERROR", status_message="secret"),
        observation(id="o3", provided_model_name=""),
    ]
    everything = found("langfuse", lines(tmp_path / "a.jsonl", rows))
    assert left_out(everything) == [
        "not a call of a chat model: span",
        "a generation without a model",
    ]
    assert (everything[1].error, everything[1].answer) == ("failed, by its level", None)


# ── Helicone ───────────────────────────────────────────────────────────────────────────────────
def helicone(**changes: Any) -> dict[str, Any]:
    return {
        "request_id": "h1", "response_id": "x", "request_created_at": "2026-05-01T10:00:00.000Z",
        "response_created_at": "2026-05-01T10:00:02.500Z", "response_status": 200,
        "request_path": "https://api.example.test/v1/chat/completions", "provider": "OPENAI",
        "model": "gpt-5.4-mini", "request_user_id": "ann", "delay_ms": 2500, "prompt_tokens": 100,
        "completion_tokens": 20, "prompt_cache_read_tokens": 40, "cost": 0.00123,
        "request_body": {"messages": ASKED, "max_tokens": 64, "stream": True},
        "response_body": BODY, "request_properties": {"Helicone-Session-Id": "s1"},
        "feedback_rating": True, "scores": {"correct": 0.5, "polite": {"value": 9}},
        **changes,
    }  # fmt: skip


REQUESTED = ImportedCall(
    id="h1",
    time=START,
    model="openai/gpt-5.4-mini",
    messages=tuple(ASKED),
    answer=(SAID,),
    params={"max_tokens": 64},
    usage={
        "prompt_tokens": 100,
        "completion_tokens": 20,
        "prompt_tokens_details": {"cached_tokens": 40},
    },
    cost=1_230_000,
    latency=2.5,
    label=1.0,
    label_source="helicone",
    conversation_id="s1",
    scopes={"user": "ann"},
    stream=True,
)


def test_helicones_requests_are_read_from_lines_and_csv(tmp_path: Path) -> None:
    assert only(calls("helicone", lines(tmp_path / "a.jsonl", [helicone()]))) == REQUESTED
    assert only(calls("helicone", as_csv(tmp_path / "a.csv", [helicone()]))) == REQUESTED
    (tmp_path / "a.json").write_text(json.dumps({"data": [helicone()], "error": None}))
    assert only(calls("helicone", tmp_path / "a.json")) == REQUESTED


@pytest.mark.parametrize(("wanted", "label"), [("correct", 0.5), ("polite", None), ("other", None)])
def test_a_score_of_helicones_is_taken_by_name(
    tmp_path: Path, wanted: str, label: float | None
) -> None:
    file = lines(tmp_path / "a.jsonl", [helicone()])
    assert only(calls("helicone", file, score=wanted)).label == label


def test_helicones_failures_caches_and_other_calls(tmp_path: Path) -> None:
    rows = [
        helicone(response_status=500),
        helicone(response_status=-1),
        helicone(cache_reference_id="11111111-0000-0000-0000-000000000000"),
        helicone(request_path="https://api.example.test/v1/embeddings"),
        helicone(cache_reference_id="00000000-0000-0000-0000-000000000000", provider="CUSTOM"),
    ]
    failed, broken_off, cached, other, called = found("helicone", lines(tmp_path / "a.jsonl", rows))
    assert (failed.error, broken_off.error) == ("failure (500)", "failure (-1)")
    assert "cache" in cached.why
    assert other.why.endswith("embedding")
    assert called.model == "gpt-5.4-mini"


# ── OpenTelemetry ──────────────────────────────────────────────────────────────────────────────
def attribute(name: str, value: Any) -> dict[str, Any]:
    kind = {bool: "boolValue", int: "intValue", float: "doubleValue"}.get(
        type(value), "stringValue"
    )
    return {"key": name, "value": {kind: str(value) if kind == "intValue" else value}}


def span(*, events: list[Any] | None = None, **attributes: Any) -> dict[str, Any]:
    parts = {"role": "user", "parts": [{"type": "text", "content": "Why is it so?"}]}
    said = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-5.4-mini",
        "gen_ai.request.max_tokens": 64,
        "gen_ai.usage.input_tokens": 100,
        "gen_ai.usage.output_tokens": 20,
        "gen_ai.usage.cache_read.input_tokens": 40,
        "gen_ai.usage.reasoning.output_tokens": 5,
        "gen_ai.system_instructions": json.dumps([{"type": "text", "content": "Be brief."}]),
        "gen_ai.input.messages": json.dumps([parts]),
        "gen_ai.conversation.id": "s1",
        **{name.replace("__", "."): value for name, value in attributes.items()},
    }
    return {
        "traceId": "t" * 32, "spanId": "s" * 16, "name": "chat gpt-5.4-mini", "kind": 3,
        "startTimeUnixNano": "1777629600000000000", "endTimeUnixNano": "1777629602500000000",
        "attributes": [attribute(k, v) for k, v in said.items() if v is not None],
        "events": events or [], "status": {},
    }  # fmt: skip


def exported(*spans: Any) -> dict[str, Any]:
    return {"resourceSpans": [{"resource": {}, "scopeSpans": [{"spans": list(spans)}]}]}


def test_spans_are_calls_in_lines_and_in_a_document(tmp_path: Path) -> None:
    expected = ImportedCall(
        id=f"{'t' * 32}/{'s' * 16}",
        time=START,
        model="openai/gpt-5.4-mini",
        messages=tuple(ASKED),
        params={"max_tokens": 64},
        usage=SPENT.usage,
        latency=2.5,
        label_source="otel",
        conversation_id="s1",
    )
    assert only(calls("otel-genai", lines(tmp_path / "a.jsonl", [exported(span())]))) == expected
    (tmp_path / "a.json").write_text(json.dumps(exported(span()), indent=2))
    assert only(calls("otel-genai", tmp_path / "a.json")) == expected


def test_the_names_before_the_present_ones_are_read(tmp_path: Path) -> None:
    old = span(
        gen_ai__provider__name=None,
        gen_ai__system="vertex_ai",
        gen_ai__usage__input_tokens=None,
        gen_ai__usage__prompt_tokens=7,
        gen_ai__usage__cache_read__input_tokens=None,
        gen_ai__input__messages=None,
        gen_ai__system_instructions=None,
        gen_ai__prompt__0__role="user",
        gen_ai__prompt__0__content="Why?",
    )
    call = only(calls("otel-genai", lines(tmp_path / "a.jsonl", [exported(old)])))
    assert call.model == "vertex_ai/gpt-5.4-mini"
    assert call.messages == ({"role": "user", "content": "Why?"},)
    assert call.usage is not None
    assert call.usage["prompt_tokens"] == 7


def evaluation(name: str, value: float) -> dict[str, Any]:
    said = {"gen_ai.evaluation.name": name, "gen_ai.evaluation.score.value": value}
    return {
        "name": "gen_ai.evaluation.result",
        "attributes": [attribute(key, each) for key, each in said.items()],
    }


def test_an_evaluation_is_a_label(tmp_path: Path) -> None:
    both = [evaluation("right", 0.5), evaluation("kind", 4.0)]
    file = lines(tmp_path / "a.jsonl", [exported(span(events=both))])
    assert only(calls("otel-genai", file)).label is None
    assert only(calls("otel-genai", file, score="right")).label == 0.5
    assert only(calls("otel-genai", file, score="kind")).label is None


def test_other_spans_are_left_out_and_other_signals_refused(tmp_path: Path) -> None:
    failed = span()
    failed["status"] = {"code": 2}
    rows = [
        exported(span(gen_ai__operation__name="embeddings"), {"name": "GET /"}, failed),
        {"resourceLogs": []},
    ]
    embedding, other, call, refused = found("otel-genai", lines(tmp_path / "a.jsonl", rows))
    assert (embedding.why, call.error) == ("not a call of a chat model: embeddings", "failure")
    assert "no call of a model" in other.why
    assert "not logs or metrics" in str(refused)


# ── plain lines ────────────────────────────────────────────────────────────────────────────────
LINE = {
    "id": "1", "time": START, "model": "m", "messages": ASKED, "answer": "Because.",
    "input_tokens": 100, "output_tokens": 20, "cached_tokens": 40, "reasoning_tokens": 5,
    "cost_usd": "0.00123", "latency": 2.5, "label": 1, "conversation_id": "s1", "user": "ann",
    "team": "blue", "tags": ["nightly"], "max_tokens": 64,
}  # fmt: skip


def test_plain_lines_have_every_column(tmp_path: Path) -> None:
    call = only(calls("jsonl", lines(tmp_path / "a.jsonl", [LINE])))
    assert call == ImportedCall(
        id="1",
        time=START,
        model="m",
        messages=tuple(ASKED),
        answer=(SAID,),
        params={"max_tokens": 64},
        usage=SPENT.usage,
        cost=1_230_000,
        latency=2.5,
        label=1.0,
        conversation_id="s1",
        scopes={"user": "ann", "team": "blue"},
        tags=("nightly",),
    )
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


# ── whatever stands in a file ──────────────────────────────────────────────────────────────────
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
    for added in (1, 0):
        code, out, _ = run(capsys, *asked)
        said = json.loads(out)
        assert (code, said["requests"], said["added"]) == (0, 1, added)
    assert json.loads(run(capsys, "ledger", "verify", store, "--json")[1])["sound"]
    report = json.loads(run(capsys, "report", store, "--json")[1])
    assert (report["requests"], report["realized_nano"]) == (1, said["known_cost_nano"])


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
