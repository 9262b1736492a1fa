import os
import re
from fractions import Fraction
from importlib.util import find_spec
from math import floor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.predict import extract, shape_of
from router.predict.shape import (
    CHARACTER_TOKENS,
    TOKENS_PER_WORD,
    count_words,
    estimate_tokens,
)
from router.predict.text import BYTE_CLASS, utf8
from router.types import Request

_JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
_TEXT = st.text(st.characters(), max_size=60)  # lone surrogates too
_PART = st.one_of(
    st.fixed_dictionaries({"type": st.just("text"), "text": _TEXT}),
    st.fixed_dictionaries(
        {"type": st.just("image_url"), "image_url": st.fixed_dictionaries({"url": _TEXT})}
    ),
    st.fixed_dictionaries({"type": st.just("input_audio"), "input_audio": _JSON}),
    st.fixed_dictionaries({"type": st.just("file"), "file": _JSON}),
    _JSON,
)
_MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "user", "assistant", "tool"]) | _JSON},
    optional={
        "content": _TEXT | st.lists(_PART, max_size=4) | _JSON,
        "tool_calls": _JSON,
        "name": _TEXT,
    },
)


@pytest.fixture(scope="module")
def encoding():
    bundled = Path(find_spec("litellm").origin).parent / "litellm_core_utils" / "tokenizers"
    os.environ.setdefault("TIKTOKEN_CACHE_DIR", str(bundled))
    import tiktoken

    return tiktoken.get_encoding("cl100k_base")


@given(
    st.lists(_MESSAGE | _JSON, max_size=4),
    st.dictionaries(
        st.sampled_from(["tools", "response_format", "tool_choice", "modalities"]), _JSON
    ),
)
@settings(max_examples=150, deadline=None)
def test_any_messages_and_parameters_are_read_without_an_error(messages, params):
    shape = shape_of(messages, params)
    assert shape.messages == len(messages)
    assert shape.input_bytes >= 0
    assert shape.input_tokens >= 0
    extract(Request("r", messages, params, now=0.0))


@given(st.lists(st.text(max_size=200), min_size=1, max_size=4))
@settings(max_examples=100, deadline=None)
def test_no_byte_level_tokenizer_counts_more_tokens_than_the_byte_bound(encoding, texts):
    shape = shape_of([{"role": "user", "content": text} for text in texts], {})
    tokens = sum(len(encoding.encode(text, disallowed_special=())) for text in texts)
    assert tokens <= shape.input_bytes + 16 * shape.messages


@given(_JSON)
@settings(max_examples=100, deadline=None)
def test_the_byte_bound_covers_the_json_of_the_tools(tools):
    import json

    params = {"tools": [{"function": {"parameters": tools}}]}
    empty = shape_of([], {}).input_bytes
    size = len(json.dumps(params["tools"], ensure_ascii=False).encode("utf-8", "surrogatepass"))
    escapes = 6 * sum(ord(c) < 0x20 or c in '"\\' for c in json.dumps(params, ensure_ascii=False))
    assert shape_of([], params).input_bytes - empty + escapes >= size


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        ("The committee will meet on Thursday to discuss the new timetable for trains.", 11, 18),
        ("def area(radius: float) -> float:\n    return 3.14159 * radius ** 2\n", 17, 30),
        ("请用简单的语言解释为什么天空是蓝色的。", 14, 28),
        ("Объясните простыми словами, почему лёд плавает.", 10, 24),
    ],
)
def test_the_token_estimate_is_near_a_tokenizers_count(text, low, high):
    assert low <= estimate_tokens(text) <= high


def test_what_a_request_needs_is_read_from_its_parts_and_parameters():
    content = [
        {"type": "text", "text": "what is this"},
        {"type": "image_url", "image_url": {"url": "https://example.com/cat.png"}},
        {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
        {"type": "file", "file": {"file_data": "AAAA", "filename": "a.pdf"}},
    ]
    params = {"tools": [{"type": "function"}], "response_format": {"type": "json_object"}}
    shape = shape_of([{"role": "user", "content": content}], params)
    assert shape.needs == {"vision", "audio", "files", "tools", "structured_output"}
    assert (shape.images, shape.audio_parts, shape.file_parts) == (1, 1, 1)
    assert (
        shape_of([{"role": "user", "content": "hi"}], {"response_format": {"type": "text"}}).needs
        == frozenset()
    )


def test_a_history_with_tool_calls_needs_tools():
    messages = [
        {"role": "user", "content": "weather?"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "1", "function": {"name": "w", "arguments": "{}"}}],
        },
        {"role": "tool", "tool_call_id": "1", "content": "rain"},
    ]
    assert shape_of(messages, {}).needs == {"tools"}


def test_the_bytes_of_media_do_not_count_as_text():
    def size(payload):
        part = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{payload}"}}
        return shape_of([{"role": "user", "content": [part]}], {}).input_bytes

    assert size("A" * 100_000) == size("A")


def test_tool_arguments_and_schemas_count_as_text():
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "x" * 5000}}
    messages = [{"role": "assistant", "content": None, "tool_calls": [call]}]
    assert shape_of(messages, {}).input_bytes > 5000
    assert shape_of([], {"tools": [{"description": "x" * 5000}]}).input_bytes > 5000


def test_a_part_that_stands_twice_counts_twice_and_a_cycle_ends():
    shared = {"description": "x" * 1000}
    assert shape_of([], {"tools": [shared, shared]}).input_bytes > 2000
    shared["itself"] = shared
    assert shape_of([], {"tools": [shared]}).input_bytes > 1000


def test_the_text_for_rules_is_bounded_and_keeps_head_and_tail():
    text = "start " + "x" * 50_000 + " end"
    shape = shape_of([{"role": "user", "content": text}], {}, text_limit=4000)
    assert len(shape.last_user_text) <= 4001
    assert shape.last_user_text.startswith("start")
    assert shape.last_user_text.endswith("end")


@given(_TEXT | st.text(st.characters(max_codepoint=127), max_size=300))
@settings(max_examples=200, deadline=None)
def test_the_token_estimate_is_the_exact_sum_of_its_coefficients(text):
    encoded = utf8(text)
    assert count_words(encoded) == len(re.findall(rb"[A-Za-z]+", encoded))
    exact = sum(Fraction(str(CHARACTER_TOKENS[BYTE_CLASS[byte]])) for byte in encoded)
    exact += count_words(encoded) * Fraction(str(TOKENS_PER_WORD))
    nearest = floor(exact + Fraction(1, 2))
    assert estimate_tokens(text) == min(len(encoded), max(1, nearest))


def turn(role, text):
    return {"role": role, "content": text}


LONG = "Answer kindly, and name the branch that a customer should call. " * 120


def test_only_a_long_system_prompt_at_the_beginning_is_counted_as_a_prefix():
    tokens = estimate_tokens(LONG)
    assert tokens > 1024
    asked = [turn("user", "Hello?")]
    assert shape_of([turn("system", LONG), *asked], {}).prefix_tokens == tokens
    parts = [{"type": "text", "text": LONG}]
    assert shape_of([turn("developer", parts), *asked], {}).prefix_tokens == tokens
    two = [turn("system", LONG), turn("developer", "Be brief."), *asked]
    assert shape_of(two, {}).prefix_tokens == estimate_tokens(LONG + "\nBe brief.")
    assert shape_of([turn("system", LONG)], {}).prefix_tokens == tokens
    for later in (
        [turn("system", "Be brief."), *asked],
        [turn("user", LONG)],
        [*asked, turn("system", LONG)],
        [],
    ):
        assert shape_of(later, {}).prefix_tokens == 0
