"""What a request weighs and needs, read from OpenAI-style messages without a tokenizer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from router.predict.normal_forms import growth
from router.predict.text import (
    BYTE_CLASS,
    CLASSES,
    as_mapping,
    head_and_tail,
    text_of,
    utf8,
)
from router.types import Shape

# What a chat template spends on each message and on opening the answer: OpenAI's cookbook, "How
# to count tokens with tiktoken" (3 a message and 1 for its role; 3 to prime the reply).
_TOKENS_PER_MESSAGE = 4
_TOKENS_PER_REQUEST = 3

# Tokens per byte of each class (the first byte of a character, or one that continues it), and per
# run of ASCII letters; fitted by benchmarks/token_estimate.py to the mean of cl100k_base and
# o200k_base, see `estimate_tokens` for the error.
TOKENS_PER_WORD = 0.62
_TOKENS_PER_CHARACTER = {
    "lower": 0.06,
    "upper": 0.351,
    "digit": 1.015,
    "space": 0.162,
    "newline": 0.239,
    "symbol": 0.601,
    "continuation": 0.134,
    "latin": 0.511,
    "greek": 0.578,
    "cyrillic": 0.266,
    "semitic": 0.519,
    "indic": 0.438,
    "vietnamese": 0.0,
    "typographic": 0.233,
    "kana": 0.612,
    "han": 0.636,
    "hangul": 0.663,
    "private": 0.719,
    "emoji": 1.975,
}
CHARACTER_TOKENS: NDArray[np.float64] = np.array([_TOKENS_PER_CHARACTER[name] for name in CLASSES])
# The same in thousandths of a token: whole numbers have one sum, in whatever order they are added.
_MILLI_OF_BYTE: NDArray[np.int64] = np.rint(1000 * CHARACTER_TOKENS).astype(np.int64)[BYTE_CLASS]
_MILLI_OF_WORD = round(1000 * TOKENS_PER_WORD)
_LETTERS = (CLASSES.index("lower"), CLASSES.index("upper"))
_IS_LETTER = bytes(int(byte_class in _LETTERS) for byte_class in BYTE_CLASS)  # for translate()

# Parameters that reach the model as text of its prompt.
_PROMPT_PARAMS = (
    "tools",
    "functions",
    "tool_choice",
    "function_call",
    "response_format",
    "prediction",
)
# What a part's `type` may be, by medium. What is neither here nor text is taken for a file: only
# the context window bounds what, say, a video is billed as.
_MEDIA = {
    "image": frozenset({"image_url", "input_image", "image"}),
    "audio": frozenset({"input_audio", "audio"}),
    "file": frozenset({"file", "input_file", "document"}),
}
_TEXT = frozenset(
    {"text", "input_text", "output_text", "refusal", "thinking", "redacted_thinking", "reasoning"}
    | {"tool_use", "tool_call", "tool_result"}
)
# What a rendering of JSON may add to each value: a line break and its indentation, which no
# tokenizer makes more tokens of.
_LAYOUT = 4
# Keys under which a media part carries its bytes or where to fetch them: never prompt text.
_PAYLOAD_KEYS = frozenset({"url", "data", "file_data", "image_url", "source", "bytes"})
_NO_PICTURES = (
    *(".mp4", ".mov", ".avi", ".webm", ".mkv", ".mpeg", ".mpg", ".wmv", ".flv", ".3gp"),
    *(".mp3", ".wav", ".flac", ".ogg", ".m4a", ".aac", ".pdf", ".txt", ".html"),
)
_NO_NEEDS: frozenset[str] = frozenset()
# The shortest prompt that providers cache (OpenAI, "Prompt caching"; Google, "Context caching").
LEAST_CACHED_TOKENS = 1024


def shape_of(
    messages: Sequence[Mapping[str, Any]], params: Mapping[str, Any], *, text_limit: int = 4000
) -> Shape:
    """Read what `messages` and `params` weigh and which capabilities they need.

    Never raises on odd input (that is validation's work): what cannot be read counts nothing.

    Parameters
    ----------
    messages, params
        A request in the shape of OpenAI's chat completions; `params` every other argument.
    text_limit
        Most characters of `last_user_text`; a longer text keeps its head and its tail.

    Returns
    -------
    Shape
        `input_bytes` counts the UTF-8 bytes of all text, names, keys, tool calls, tools and
        schemas, with all that normalising the text, or writing JSON down with escapes and line
        breaks, may add; images, audio and files count as parts, not as bytes, and `input_tokens`
        leaves them out too. `prefix_tokens` are of the system's turns at the beginning, 0 where
        those are shorter than `LEAST_CACHED_TOKENS`.
    """
    texts: list[str] = []
    counts = dict.fromkeys((*_MEDIA, "rendering"), 0)
    punctuation = 0
    last_user = ""
    total = 0
    uses_tools = False
    prefix: int | None = None  # how many texts come before the first turn that is not the system's
    for raw in messages if isinstance(messages, (list, tuple, Sequence)) else ():
        total += 1
        message = raw if isinstance(raw, dict) else as_mapping(raw)
        content = message.get("content")
        role = message.get("role")
        if prefix is None and role not in ("system", "developer"):
            prefix = len(texts)
        if role == "user":
            last_user = text_of(content)
        uses_tools = uses_tools or role == "tool" or bool(message.get("tool_calls"))
        if isinstance(content, str):
            texts.append(content)
        elif isinstance(content, (list, tuple)):
            for part in content:
                punctuation += _read_part(part, texts, counts)
        for key, value in message.items():
            if key not in ("role", "content") and value is not None:
                punctuation += _read_json(value, texts, counts)
        if role in ("tool", "function"):
            # Gemini takes a tool's answer as JSON, and some chat templates write it as such.
            counts["rendering"] += _escapes(text_of(content))
    if params:
        for key in _PROMPT_PARAMS:
            value = params.get(key)
            if value is not None and not isinstance(value, str):
                punctuation += _read_json(_schema_of(value), texts, counts)
    text = "\n".join(texts)
    tokens, size = _measure(text)
    system = "\n".join(texts[:prefix])
    repeated = _measure(system)[0] if len(system) >= LEAST_CACHED_TOKENS else 0
    return Shape(
        input_tokens=tokens + punctuation // 3 + _TOKENS_PER_MESSAGE * total + _TOKENS_PER_REQUEST,
        input_bytes=size + punctuation + counts["rendering"] + growth(text),
        messages=total,
        images=counts["image"],
        audio_parts=counts["audio"],
        file_parts=counts["file"],
        needs=_needs(params, counts, uses_tools),
        last_user_text=head_and_tail(last_user, text_limit),
        prefix_tokens=repeated if repeated >= LEAST_CACHED_TOKENS else 0,
    )


def estimate_tokens(text: str) -> int:
    """Estimate the tokens of `text` for a modern byte-pair tokenizer, in O(n).

    Mean absolute error, on texts that were not fitted, against the mean of cl100k_base and
    o200k_base (which themselves differ up to threefold on Indic scripts): English, mathematics
    and code 2-9%; German, French, Spanish, Russian, Chinese, Japanese, Korean, Vietnamese 1-7%;
    Hindi 8%, Arabic 13%, Hebrew 19%. Scripts that were not measured may be further off.
    """
    return _measure(text)[0]


def count_words(encoded: bytes) -> int:
    """Count the runs of ASCII letters in UTF-8 bytes."""
    # A run begins where a letter follows what is none; a space goes ahead of the first byte.
    letters = np.frombuffer((b" " + encoded).translate(_IS_LETTER), dtype=np.uint8)
    return int(np.count_nonzero(letters[1:] > letters[:-1]))


def _measure(text: str) -> tuple[int, int]:
    """Return the estimated tokens and the UTF-8 bytes of `text`."""
    encoded = utf8(text)
    size = len(encoded)
    if not size:
        return 0, 0
    counts = np.bincount(np.frombuffer(encoded, dtype=np.uint8), minlength=256)
    milli = int(counts @ _MILLI_OF_BYTE) + _MILLI_OF_WORD * count_words(encoded)
    return min(size, max(1, (milli + 500) // 1000)), size


def _read_part(part: Any, texts: list[str], counts: dict[str, int]) -> int:
    """Add one content part to `texts` or `counts`; return the bytes of its JSON punctuation."""
    if isinstance(part, str):
        texts.append(part)
        return 0
    part = as_mapping(part)
    kind = part.get("type")
    text = part.get("text")
    if isinstance(text, str) and kind in (None, "text") and len(part) <= 2:
        texts.append(text)  # {"type": "text", "text": …}
        return 0
    inner = part.get("content")
    if kind == "tool_result" and isinstance(inner, (list, tuple)):  # it may hold images
        rest = {key: value for key, value in part.items() if key != "content"}
        counts["rendering"] += _escapes(text_of(inner))
        return _read_json(rest, texts, counts) + sum(
            _read_part(each, texts, counts) for each in inner
        )
    for name, kinds in _MEDIA.items():
        if isinstance(kind, str) and kind in kinds:
            counts["file" if name == "image" and not _is_picture(part) else name] += 1
            return _read_json(part, texts, counts, skip=_PAYLOAD_KEYS)
    if kind is not None and kind not in _TEXT:
        counts["file"] += 1
    return _read_json(part, texts, counts)


def _is_picture(part: Mapping[str, Any]) -> bool:
    """Whether an image part holds an image: through litellm it may hold a film, say, as well."""
    image = part.get("image_url")
    said = [part.get("format")]
    if isinstance(image, Mapping):
        said.append(image.get("format"))
        image = image.get("url")
    if any(isinstance(form, str) and not form.startswith("image/") for form in said):
        return False
    if not isinstance(image, str):
        return True
    if image.startswith("data:"):
        return image.startswith("data:image/")
    return not image.lower().partition("?")[0].endswith(_NO_PICTURES) and "youtu" not in image


def _escapes(text: str) -> int:
    """Bytes by which JSON with every escape (\\u00e9) is longer than the text in UTF-8."""
    if text.isascii() and text.isprintable() and '"' not in text and "\\" not in text:
        return 0
    return len(json.dumps(text)) - 2 - len(utf8(text))


def _read_json(
    value: Any, texts: list[str], counts: dict[str, int], skip: frozenset[str] = frozenset()
) -> int:
    """Add every string of `value`, keys too, to `texts`; return the bytes of JSON's punctuation.

    What a wordier rendering would add goes to `counts`. Walks without recursion, so that no depth
    fails, and does not enter a container that it is inside of, so that a cycle ends.
    """
    punctuation, rendering = 0, 0
    inside: set[int] = set()
    stack: list[tuple[Any, bool]] = [(value, False)]
    while stack:
        item, leaving = stack.pop()
        if leaving:
            inside.discard(id(item))
            continue
        rendering += _LAYOUT
        if isinstance(item, str):
            texts.append(item)
            # Quotes, comma, space, and the backslash that JSON puts before some characters.
            plain = 4 + item.count('"') + item.count("\\") + item.count("\n")
            punctuation += plain
            rendering += max(0, 4 + _escapes(item) - plain)
        elif isinstance(item, (Mapping, list, tuple, set, frozenset)):
            if id(item) in inside:
                continue
            inside.add(id(item))
            stack.append((item, True))
            punctuation += 4
            if isinstance(item, Mapping):
                for key, child in item.items():
                    texts.append(str(key))
                    punctuation += 4
                    rendering += _escapes(str(key))
                    if key not in skip:
                        stack.append((child, False))
            else:
                stack.extend((child, False) for child in item)
        elif isinstance(item, int):
            punctuation += 5 + item.bit_length() // 3
        else:
            punctuation += 26  # null, or a float: its longest text has 24 bytes
    counts["rendering"] += rendering
    return punctuation


def _schema_of(value: Any) -> Any:
    """Return the JSON schema that litellm sends for a pydantic class given as response_format."""
    schema = getattr(value, "model_json_schema", None)
    return schema() if callable(schema) else value


def _needs(
    params: Mapping[str, Any], counts: Mapping[str, int], uses_tools: bool
) -> frozenset[str]:
    if not (params or uses_tools or any(counts.values())):
        return _NO_NEEDS
    response_format = params.get("response_format")
    modalities = params.get("modalities")
    needs = {
        "vision": counts["image"] > 0,
        "audio": counts["audio"] > 0
        or (isinstance(modalities, (list, tuple)) and "audio" in modalities),
        "files": counts["file"] > 0,
        "tools": uses_tools or bool(params.get("tools") or params.get("functions")),
        "structured_output": response_format is not None and response_format != {"type": "text"},
    }
    return frozenset(name for name, needed in needs.items() if needed)
