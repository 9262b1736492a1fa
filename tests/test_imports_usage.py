"""Audio and what is written to a cache for an hour cost more than text: every format that tells of
them keeps them apart, so that a cost which is computed is never too low."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from router.dispatch.usage import read_usage
from router.ledger import open_ledger
from router.prices import load_book
from router.replay.imports.record import ImportedCall
from router.replay.imports.writer import Writer
from router.types import Usage
from tests.import_kit import calls, lines
from tests.import_records import (
    INPUT,
    OUTPUT,
    SPEND,
    START,
    exported,
    helicone,
    observation,
    only,
    payload,
    span,
)
from tests.test_imports_llm import OLD, database, response

SPOKEN = {
    "prompt_tokens": 100,
    "completion_tokens": 50,
    "prompt_tokens_details": {"audio_tokens": 70},
    "completion_tokens_details": {"audio_tokens": 30},
}
ANTHROPIC = {
    "input_tokens": 10,
    "output_tokens": 5,
    "cache_creation_input_tokens": 90,
    "cache_creation": {"ephemeral_5m_input_tokens": 20, "ephemeral_1h_input_tokens": 70},
}
LITELLM = {
    "prompt_tokens": 100,
    "completion_tokens": 5,
    "cache_creation_input_tokens": 90,
    "prompt_tokens_details": {
        "cache_creation_token_details": {
            "ephemeral_5m_input_tokens": 20,
            "ephemeral_1h_input_tokens": 70,
        }
    },
}
HEARD = Usage(input=30, audio_input=70, output=20, audio_output=30)
KEPT = Usage(input=10, cache_write_5m=20, cache_write_1h=70, output=5)


def batch(usage: Mapping[str, Any]) -> dict[str, Any]:
    body = {**OUTPUT["response"]["body"], "usage": usage}
    return {**OUTPUT, "response": {**OUTPUT["response"], "body": body}}


def without_report(usage: Mapping[str, Any]) -> dict[str, Any]:
    """A row of litellm's table where only what is no count of its own is beside the columns."""
    own = {name: usage[name] for name in ("prompt_tokens", "completion_tokens")}
    more = {name: value for name, value in usage.items() if name not in own}
    return {**SPEND, **own, "metadata": {"additional_usage_values": more}}


def llm(tmp_path: Path, usage: Mapping[str, Any]) -> Path:

    details = {k: v for k, v in usage.items() if k not in ("input_tokens", "output_tokens")}
    row = response(
        0, token_details=json.dumps(details), input_tokens=usage.get("input_tokens", 100),
        output_tokens=usage.get("output_tokens", 50),
    )  # fmt: skip
    return database(tmp_path / "logs.db", OLD, responses=[row])


DETAILS = {"gen_ai.usage.details.input_audio_tokens": 70,
           "gen_ai.usage.details.output_audio_tokens": 30}  # fmt: skip
NO_DETAILS = {"gen_ai.usage.cache_read.input_tokens": None,
              "gen_ai.usage.reasoning.output_tokens": None}  # fmt: skip


@pytest.mark.parametrize(
    ("format", "rows", "expected"),
    [
        ("openai-batch", [INPUT, batch(SPOKEN)], HEARD),
        ("openai-batch", [INPUT, batch(ANTHROPIC)], KEPT),
        ("litellm-spend", [{**SPEND, "metadata": {"usage_object": SPOKEN}}], HEARD),
        ("litellm-spend", [{**SPEND, "metadata": {"usage_object": LITELLM}}], KEPT),
        ("litellm-spend", [without_report(SPOKEN)], HEARD),
        ("litellm-spend", [without_report(LITELLM)], KEPT),
        ("litellm-callback", [payload(metadata={"usage_object": SPOKEN})], HEARD),
        ("litellm-callback", [payload(metadata={"usage_object": LITELLM})], KEPT),
        ("langfuse", [observation(usage_details={
            "input": 30, "input_audio_tokens": 70, "output": 20, "output_audio_tokens": 30})],
         HEARD),
        ("langfuse", [observation(usage_details={
            "input": 10, "input_cache_creation_5m": 20, "input_cache_creation_1h": 70,
            "output": 5})], KEPT),
        ("helicone", [helicone(
            prompt_tokens=30, completion_tokens=20, prompt_audio_tokens=70,
            completion_audio_tokens=30, prompt_cache_read_tokens=0, reasoning_tokens=0)], HEARD),
        ("helicone", [helicone(
            prompt_tokens=10, completion_tokens=5, prompt_cache_write_tokens=90,
            prompt_cache_write_1h=70, prompt_cache_read_tokens=0, reasoning_tokens=0)], KEPT),
        ("otel-genai", [exported(span(
            **NO_DETAILS, **DETAILS, gen_ai__usage__output_tokens=50))], HEARD),
        ("llm", SPOKEN, HEARD),
        ("llm", ANTHROPIC, KEPT),
    ],
)  # fmt: skip
def test_audio_and_an_hours_cache_are_kept_apart(
    tmp_path: Path, format: str, rows: Any, expected: Usage
) -> None:
    file = llm(tmp_path, rows) if format == "llm" else lines(tmp_path / "a.jsonl", rows)
    call = only(calls(format, file))
    assert read_usage(call.usage) == (expected, None)


@pytest.mark.parametrize(
    ("model", "usage", "cost"),
    [
        # $2 for a million tokens of the prompt, 2.50 and 4 to write them, 10 for the answer.
        ("anthropic/claude-sonnet-5", KEPT, 10 * 2000 + 20 * 2500 + 70 * 4000 + 5 * 10_000),
        ("openai/gpt-5.4-mini", HEARD, None),  # the book has no rate for audio
    ],
)
def test_a_cost_that_is_computed_counts_them_or_is_unknown(
    tmp_path: Path, model: str, usage: Usage, cost: int | None
) -> None:
    report = {KEPT: LITELLM, HEARD: SPOKEN}[usage]
    with_report = {**SPEND, "metadata": {"usage_object": report}, "spend": 0,
                   "model": model, "custom_llm_provider": None}  # fmt: skip
    call = only(calls("litellm-spend", lines(tmp_path / "a.jsonl", [with_report])))
    assert isinstance(call, ImportedCall)
    ledger = open_ledger("sqlite://")
    written = Writer(ledger, format="x", book=load_book(), now=START).write(call)
    ledger.close()
    assert (written.cost, written.source) == (cost, "computed")
