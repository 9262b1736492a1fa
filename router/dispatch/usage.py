"""Reading a provider's usage report: every token into exactly one bucket, or not at all."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from router.money import MAX_NANO, NANO_PER_USD
from router.types import Usage

_LARGEST = 10**9  # no call bills a billion tokens: a larger count is a broken report


def report_of(reply: Any) -> dict[str, Any] | None:
    """The usage report of litellm's response or chunk, None where it has none.

    `service_tier` in it is the tier that the call was served at, where the reply says so.
    """
    usage = getattr(reply, "usage", None)
    if usage is None:
        return None
    report: dict[str, Any] = usage.model_dump(warnings=False)
    served = getattr(reply, "service_tier", None)
    if isinstance(served, str) and not report.get("service_tier"):
        report["service_tier"] = served
    return report


def reported_cost(report: Mapping[str, Any]) -> int | None:
    """What the provider itself says that the call cost, in nano-USD; None where it does not say.

    OpenRouter and xAI (through litellm) give `cost` in US dollars; Perplexity gives its parts and
    their `total_cost`. Where OpenRouter called with one's own key (`is_byok`), its cost is the fee
    alone, and the provider's own bill comes on top (OpenRouter's usage accounting).
    """
    cost = report.get("cost")
    if isinstance(cost, Mapping):
        cost = cost.get("total_cost")
    told = _nano(cost)
    if told is None or report.get("is_byok") is not True:
        return told
    return told + (_nano(_details(report, "cost_details").get("upstream_inference_cost")) or 0)


def _nano(usd: object) -> int | None:
    if isinstance(usd, bool) or not isinstance(usd, int | float):
        return None
    if not 0 <= usd <= MAX_NANO // NANO_PER_USD:  # NaN fails too
        return None
    return math.ceil(Fraction(str(usd)) * NANO_PER_USD)


def read_usage(report: Mapping[str, Any] | None) -> tuple[Usage | None, str | None]:
    """Turn a report in OpenAI's shape (as litellm passes it on) into `Usage`.

    Cached and cache-written tokens are part of `prompt_tokens`, reasoning tokens part of
    `completion_tokens` (OpenAI's API reference); where `total_tokens` shows that a provider
    counts reasoning outside, it is added, also where only the total counts it (Gemini's endpoint
    in OpenAI's format). Audio that may have been cached is charged as audio, the dearer.
    Returns (usage, None), or (None, what is wrong).
    """
    if not report:
        return None, "usage missing"
    try:
        prompt = _count(report, "prompt_tokens")
        completion = _count(report, "completion_tokens")
        inside = _details(report, "prompt_tokens_details")
        outside = _details(report, "completion_tokens_details")
        read = (
            _count(inside, "cached_tokens", 0)
            or _count(report, "cache_read_input_tokens", 0)
            or _count(report, "cached_tokens", 0)  # Moonshot
        )
        written = _count(report, "cache_creation_input_tokens", 0) or _count(
            inside, "cache_creation_tokens", 0
        )
        by_lifetime = _details(inside, "cache_creation_token_details")
        hour = min(written, _count(by_lifetime, "ephemeral_1h_input_tokens", 0))
        audio_input = _count(inside, "audio_tokens", 0)
        reasoning = _count(outside, "reasoning_tokens", 0)
        audio_output = _count(outside, "audio_tokens", 0)
        # litellm leaves the tokens of Google's own search out of the prompt: they are not billed.
        tool_use = _count(inside, "tool_use_tokens", 0)
        total = _count(report, "total_tokens", prompt + completion)
    except ValueError as error:
        return None, f"usage invalid: {error}"
    if prompt == 0 and completion == 0:
        return None, "usage zero"  # litellm's stand-in for a report that never came
    if read + written > prompt or audio_input + written > prompt:
        return None, "usage invalid: more cached or audio tokens than prompt tokens"
    read = min(read, prompt - written - audio_input)
    if reasoning > completion or total == prompt + completion + reasoning:
        completion += reasoning
    elif not reasoning and total > prompt + completion + tool_use:
        reasoning = total - prompt - completion - tool_use
        completion += reasoning
    return Usage(
        input=prompt - read - written - audio_input,
        cache_read=read,
        cache_write_5m=written - hour,
        cache_write_1h=hour,
        audio_input=audio_input,
        output=max(0, completion - reasoning - audio_output),
        reasoning=reasoning,
        audio_output=audio_output,
    ), None


def _count(report: Mapping[str, Any], key: str, default: int | None = None) -> int:
    value = report.get(key)
    if value is None and default is not None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _LARGEST:
        raise ValueError(f"{key} is {value!r}")
    return value


def _details(report: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = report.get(key)
    return value if isinstance(value, Mapping) else {}
