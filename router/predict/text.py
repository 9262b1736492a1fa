"""Reading text as bytes: UTF-8 that never fails, scripts by lead byte, and bounded excerpts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

# The first byte of a UTF-8 character tells its script closely enough to count characters by
# script without decoding (Unicode 15, chapter 3, table 3-6 and the block chart).
_LEAD_BYTES: tuple[tuple[str, int, int], ...] = (
    ("latin", 0xC2, 0xCB),  # accented Latin, IPA
    ("greek", 0xCC, 0xCF),  # combining marks, Greek
    ("cyrillic", 0xD0, 0xD5),  # Cyrillic, Armenian
    ("semitic", 0xD6, 0xDF),  # Hebrew, Arabic, Syriac
    ("indic", 0xE0, 0xE0),  # Devanagari … Thai
    ("vietnamese", 0xE1, 0xE1),  # Latin Extended Additional; also Georgian, Khmer
    ("typographic", 0xE2, 0xE2),  # dashes, quotes, arrows, mathematical operators
    ("kana", 0xE3, 0xE3),  # kana and CJK punctuation
    ("han", 0xE4, 0xE9),
    ("hangul", 0xEA, 0xED),
    ("private", 0xEE, 0xEF),  # private use, fullwidth and Arabic presentation forms
    ("emoji", 0xF0, 0xF4),  # emoji and everything else beyond the basic plane
)
CLASSES: tuple[str, ...] = (
    "lower",
    "upper",
    "digit",
    "space",
    "newline",
    "symbol",
    "continuation",
    *(name for name, _, _ in _LEAD_BYTES),
)


def _class_of_byte() -> NDArray[np.uint8]:
    table = np.full(256, CLASSES.index("symbol"), dtype=np.uint8)
    table[ord("a") : ord("z") + 1] = CLASSES.index("lower")
    table[ord("A") : ord("Z") + 1] = CLASSES.index("upper")
    table[ord("0") : ord("9") + 1] = CLASSES.index("digit")
    table[[ord(character) for character in " \t\r\f\v"]] = CLASSES.index("space")
    table[ord("\n")] = CLASSES.index("newline")
    table[0x80:0xC0] = CLASSES.index("continuation")
    for name, first, last in _LEAD_BYTES:
        table[first : last + 1] = CLASSES.index(name)
    return table


BYTE_CLASS: NDArray[np.uint8] = _class_of_byte()
# Rows are bytes, columns classes: a histogram of bytes times this is a histogram of classes.
BYTE_TO_CLASS: NDArray[np.float64] = np.eye(len(CLASSES))[BYTE_CLASS]


def utf8(text: str) -> bytes:
    """Encode `text`; a lone surrogate, which UTF-8 forbids, becomes its three-byte form."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")


def head_and_tail(text: str, limit: int) -> str:
    """Return `text` whole, or its first and last `limit // 2` characters joined by a newline."""
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]}\n{text[-half:]}"


def text_of(content: Any) -> str:
    """Return the text of a message's `content`: a string, or the text parts of a list of parts."""
    if isinstance(content, str):
        return content
    if not isinstance(content, (list, tuple)):
        return ""
    texts = []
    for part in content:
        if isinstance(part, str):
            texts.append(part)
        elif isinstance(part, Mapping):
            text = part.get("text")
            if isinstance(text, str):
                texts.append(text)
    return "\n".join(texts)


def as_mapping(message: Any) -> Mapping[str, Any]:
    """Return `message` as a mapping; a client library's message object is dumped, else empty."""
    if isinstance(message, Mapping):
        return message
    dump = getattr(message, "model_dump", None)
    dumped = dump(exclude_none=True) if callable(dump) and not isinstance(message, type) else None
    return dumped if isinstance(dumped, Mapping) else {}
