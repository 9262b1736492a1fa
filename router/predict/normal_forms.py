"""What Unicode normalisation may add to a text: some tokenizers normalise before they split.

Qwen's normalises to NFC, Anthropic's published one to NFKC. Both can make a text longer: U+1D160, 4
bytes, becomes 12 in either; U+FDFA, 3 bytes, becomes 33 in NFKC. So bytes as they were sent do not
bound the tokens of such a tokenizer; bytes and this growth do.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from functools import cache

# All characters that have a decomposition, but for Hangul syllables, which compose again.
_DECOMPOSABLE = (range(0x80, 0xAC00), range(0xD7A4, 0x1FFFF), range(0x2F800, 0x2FA20))


@cache
def _growing() -> dict[str, int]:
    """The characters that may grow, and by how many bytes of UTF-8 each does at most."""
    growth = {}
    for codes in _DECOMPOSABLE:
        for code in codes:
            character = chr(code)
            if 0xD800 <= code <= 0xDFFF:
                continue
            if unicodedata.decomposition(character):
                forms = (unicodedata.normalize(form, character) for form in ("NFC", "NFKC"))
                longest = max(len(form.encode()) for form in forms)
                more = longest - len(character.encode())
            else:
                more = 0
            if unicodedata.combining(character):
                # It may part a letter from the marks with which it was one character: ȭ and a dot
                # below, 4 bytes, are normally ọ, a tilde and a macron, 7 bytes.
                more = max(more, 0) + 3
            if more > 0:
                growth[character] = more
    return growth


def growth(text: str) -> int:
    """Most bytes of UTF-8 by which normalising `text` to NFC or NFKC can lengthen it.

    One pass, without normalising: Python's own takes quadratic time over a long run of marks.
    """
    if text.isascii():
        return 0
    of = _growing()
    growing = of.keys() & set(text)
    if not growing:
        return 0
    counts = Counter(text)
    return sum(counts[character] * of[character] for character in growing)
