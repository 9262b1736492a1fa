"""Langfuse, Helicone and OpenTelemetry: what they saw of a call becomes a plain call."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from router.dispatch.usage import read_usage
from router.replay.imports.record import ImportedCall
from router.types import Usage
from tests.import_kit import calls, found, left_out, lines
from tests.import_records import (
    ASKED,
    GENERATED,
    REQUESTED,
    SPENT,
    START,
    as_csv,
    camel,
    evaluation,
    exported,
    helicone,
    observation,
    only,
    score,
    span,
)


# ── Langfuse ─────────────────────────────────────────────────────────────────────────────────
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


@pytest.mark.parametrize("nested", [False, True], ids=["the interface", "the page"])
def test_observations_of_a_trace_have_its_session_user_and_tags(
    tmp_path: Path, nested: bool
) -> None:
    trace = {"id": "t1", "sessionId": "s1", "userId": "ann", "tags": ["nightly"]}
    bare = {"session_id": None, "user_id": None, "tags": []}
    turns = [observation(**bare), observation(id="o2", **{**bare, "user_id": "bob"})]
    document = {**({"trace": trace} if nested else trace), "observations": turns, "scores": []}
    (tmp_path / "a.json").write_text(json.dumps(document, indent=1))
    first, second = calls("langfuse", tmp_path / "a.json")
    assert first == GENERATED
    assert (second.conversation_id, second.scopes) == ("s1", {"user": "bob"})


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


# ── Helicone ─────────────────────────────────────────────────────────────────────────────────
def test_helicones_requests_are_read_from_lines_and_csv(tmp_path: Path) -> None:
    assert only(calls("helicone", lines(tmp_path / "a.jsonl", [helicone()]))) == REQUESTED
    assert only(calls("helicone", as_csv(tmp_path / "a.csv", [helicone()]))) == REQUESTED
    (tmp_path / "a.json").write_text(json.dumps({"data": [helicone()], "error": None}))
    assert only(calls("helicone", tmp_path / "a.json")) == REQUESTED


def test_helicone_counts_caches_beside_the_prompt_and_reasoning_beside_the_answer(
    tmp_path: Path,
) -> None:
    row = helicone(prompt_tokens=10, prompt_cache_write_tokens=7, reasoning_tokens=900)
    call = only(calls("helicone", lines(tmp_path / "a.jsonl", [row])))
    assert call.usage is not None
    usage, note = read_usage(call.usage)
    assert (usage, note) == (
        Usage(input=10, cache_read=40, cache_write_5m=7, output=15, reasoning=900),
        None,
    )


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


# ── OpenTelemetry ────────────────────────────────────────────────────────────────────────────
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


@pytest.mark.parametrize(
    ("system", "prefix"), [("OpenAI", "openai"), ("Anthropic", "anthropic"), ("AWS", "bedrock"),
                           ("MistralAI", "mistral"), ("TogetherAI", "together_ai")],
)  # fmt: skip
def test_a_provider_is_known_in_whatever_case_it_is_written(
    tmp_path: Path, system: str, prefix: str
) -> None:
    named = span(gen_ai__provider__name=None, gen_ai__system=system)
    call = only(calls("otel-genai", lines(tmp_path / "a.jsonl", [exported(named)])))
    assert call.model == f"{prefix}/gpt-5.4-mini"


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
