"""What one request may cost at most, in tokens: the numbers that a reservation rests on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, overload

from router.errors import InvalidRequest
from router.policy.deployment import UNBOUNDED
from router.predict.shape import shape_of
from router.types import Shape

# A byte-level tokenizer never yields more tokens than bytes; chat templates add a few tokens a
# message and a preamble (OpenAI's cookbook counts 3 to 4 a message; some templates more).
TOKENS_PER_MESSAGE = 16
TOKENS_PER_REQUEST = 64
# With tools, providers add a prompt of their own: Anthropic's documentation of tool use names 159
# to 804 tokens, by model and tool choice.
TOKENS_FOR_TOOLS = 1_024
# The dearest image of OpenAI's price list: gpt-4o-mini, 2,833 tokens and 5,667 for each of the
# at most 8 tiles of a 2,048 x 768 image (OpenAI's vision guide).
TOKENS_PER_IMAGE = 2_833 + 8 * 5_667

_WITH_A_TOOL = frozenset({"tools", "structured_output"})

CAP_FIELDS = ("max_completion_tokens", "max_tokens")
MAX_SAMPLES = 128  # OpenAI's limit on `n`


@overload
def least(one: int, other: int | None) -> int: ...
@overload
def least(one: int | None, other: int | None) -> int | None: ...
def least(one: int | None, other: int | None) -> int | None:
    """The smaller of two bounds, of which either may be unknown (None)."""
    if one is None:
        return other
    return one if other is None or one < other else other


def text_bound(shape: Shape) -> int | None:
    """Most tokens that the prompt's text and images can be billed as.

    None where it has audio or files, which the context window alone bounds.
    """
    if shape.audio_parts or shape.file_parts:
        return None
    return (
        shape.input_bytes
        + shape.messages * TOKENS_PER_MESSAGE
        + TOKENS_PER_REQUEST
        + shape.images * TOKENS_PER_IMAGE
        # Where a provider has no response schemas, litellm asks for one as a tool.
        + bool(shape.needs & _WITH_A_TOOL) * TOKENS_FOR_TOOLS
    )


def input_bound(shape: Shape, context_window: int | None) -> int | None:
    """Most tokens the prompt can be billed as; None where no bound is known."""
    return least(text_bound(shape), context_window)


def asked_cap(params: Mapping[str, Any]) -> int | None:
    """The output cap that the caller asked for; the larger where both fields are given.

    Raises `InvalidRequest` unless it is a whole number above 0.
    """
    largest: int | None = None
    for name in CAP_FIELDS:
        value = params.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InvalidRequest(
                name, f"{value!r} is not an output cap", value=value, allowed="a whole number > 0"
            )
        if largest is None or value > largest:
            largest = value
    return largest


def samples(params: Mapping[str, Any]) -> int:
    """How many answers are asked for (`n`). Raises `InvalidRequest` outside 1 to 128."""
    value = params.get("n")
    if value is None:
        return 1
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_SAMPLES:
        raise InvalidRequest(
            "n",
            f"{value!r} is not a number of answers",
            value=value,
            allowed=f"a whole number from 1 to {MAX_SAMPLES}",
        )
    return value


def beyond_cap(params: Mapping[str, Any]) -> int:
    """Output tokens that the cap does not hold: those of a `prediction` that was not accepted."""
    prediction = params.get("prediction")
    return shape_of((), {"prediction": prediction}).input_bytes if prediction else 0


def unbounded_surcharge(params: Mapping[str, Any]) -> str | None:
    """Name the argument whose cost nothing here bounds (a web search, say), if there is one."""
    for name in UNBOUNDED:
        if params.get(name) is not None:
            return name
    modalities = params.get("modalities")
    if modalities and not set(modalities) <= {"text", "audio"}:
        return f"modalities: {modalities!r}"
    for tool in params.get("tools") or ():
        kind = tool.get("type") if isinstance(tool, Mapping) else None
        if kind != "function":
            return f"tools: type {kind!r}"
    return None
