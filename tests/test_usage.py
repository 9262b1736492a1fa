"""Usage reports: each token in one bucket, broken reports never taken at their word."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.dispatch.usage import read_usage, reported_cost
from router.types import Usage


def report(prompt: int, completion: int, **more: Any) -> dict[str, Any]:
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        **more,
    }


@pytest.mark.parametrize(
    ("given_report", "expected"),
    [
        (report(100, 20), Usage(input=100, output=20)),
        (
            report(100, 20, prompt_tokens_details={"cached_tokens": 60}),
            Usage(input=40, cache_read=60, output=20),
        ),
        (
            report(100, 20, completion_tokens_details={"reasoning_tokens": 15}),
            Usage(input=100, output=5, reasoning=15),
        ),
        (  # Anthropic's shape, as litellm passes it on: both caches are part of the prompt
            report(
                100,
                20,
                cache_creation_input_tokens=30,
                cache_read_input_tokens=50,
                prompt_tokens_details={"cached_tokens": 50},
            ),
            Usage(input=20, cache_read=50, cache_write_5m=30, output=20),
        ),
        (
            report(
                100,
                20,
                cache_creation_input_tokens=30,
                prompt_tokens_details={
                    "cache_creation_token_details": {"ephemeral_1h_input_tokens": 12}
                },
            ),
            Usage(input=70, cache_write_5m=18, cache_write_1h=12, output=20),
        ),
        (
            report(
                100,
                20,
                prompt_tokens_details={"audio_tokens": 30},
                completion_tokens_details={"audio_tokens": 8},
            ),
            Usage(input=70, audio_input=30, output=12, audio_output=8),
        ),
        (  # reasoning counted outside the completion, as the total shows
            {
                "prompt_tokens": 10,
                "completion_tokens": 5,
                "total_tokens": 65,
                "completion_tokens_details": {"reasoning_tokens": 50},
            },
            Usage(input=10, output=5, reasoning=50),
        ),
    ],
)
def test_known_shapes_fall_into_the_right_buckets(
    given_report: dict[str, Any], expected: Usage
) -> None:
    assert read_usage(given_report) == (expected, None)


@pytest.mark.parametrize(
    ("told", "nano"),
    [
        (0.000882, 882_000),
        (1, 1_000_000_000),
        (1.23e-8, 13),  # a fraction of a nano-USD is rounded up
        (0, 0),
        ({"total_cost": 0.006, "request_cost": 0.005}, 6_000_000),
        ({"request_cost": 0.005}, None),
        (None, None),
        (True, None),
        ("0.01", None),
        (-0.01, None),
        (float("nan"), None),
        (float("inf"), None),
        (1e30, None),
    ],
)
def test_a_reported_cost_is_an_amount_or_nothing(told: Any, nano: int | None) -> None:
    assert reported_cost(report(10, 5, cost=told)) == nano


@pytest.mark.parametrize(
    "broken",
    [
        None,
        {},
        report(0, 0),
        report(-1, 5),
        report(5, float("nan")),  # type: ignore[arg-type]
        {"prompt_tokens": "5", "completion_tokens": 5},
        {"prompt_tokens": None, "completion_tokens": 5},
        {"prompt_tokens": True, "completion_tokens": 5},
        report(10, 10**30),
        report(10, 5, prompt_tokens_details={"cached_tokens": 11}),
        report(10, 5, prompt_tokens_details={"cached_tokens": -1}),
    ],
)
def test_a_broken_report_is_no_usage_and_says_why(broken: Any) -> None:
    usage, problem = read_usage(broken)
    assert usage is None
    assert problem


counts = st.integers(0, 10_000)


@given(counts, counts, counts, counts, counts)
def test_buckets_always_partition_the_tokens(
    prompt: int, completion: int, read: int, written: int, reasoning: int
) -> None:
    usage, _ = read_usage(
        report(
            prompt,
            completion,
            cache_creation_input_tokens=written,
            prompt_tokens_details={"cached_tokens": read},
            completion_tokens_details={"reasoning_tokens": reasoning},
        )
    )
    if usage is None:
        assert prompt + completion == 0 or read + written > prompt
        return
    assert usage.input_tokens == prompt
    assert usage.output_tokens in (completion, completion + reasoning)
    assert min(usage.input, usage.output, usage.reasoning) >= 0
