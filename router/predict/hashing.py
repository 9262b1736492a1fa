"""Words, pairs of words and beginnings of words as numbers: hashed all at once, always the same.

One polynomial over the bytes, b[i]·BASE^i modulo 2^64, summed up once, gives the hash of every word
as a difference of two prefix sums times BASE^-start (Karp and Rabin 1987).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Words and pairs of words are hashed to the lower buckets, beginnings of words to the upper ones.
_WORD_BITS, _BEGINNING_BITS = 20, 16
WORD_BUCKETS = 1 << _WORD_BITS
BUCKETS = WORD_BUCKETS + (1 << _BEGINNING_BITS)
LONGEST = 1 << 20  # bytes that are hashed at once

_BASE = 0x9E3779B97F4A7C15  # odd, so it has an inverse modulo 2^64
# Odd constants that mix 64 bits (the finaliser of splitmix64; Steele, Lea and Flood 2014).
# Arrays of no dimension: numpy takes longer to convert a number than to compute with it.
_MIX, _PAIR, _HALF, _WORD_SHIFT = (
    np.array(number, dtype=np.uint64)
    for number in (0xBF58476D1CE4E5B9, 0x94D049BB133111EB, 29, 64 - _WORD_BITS)
)
_FIRST_BEGINNING = np.array(WORD_BUCKETS, dtype=np.int32)
_FEWER_BITS = np.array(_WORD_BITS - _BEGINNING_BITS, dtype=np.int32)
_BEGINNING = np.array(4)  # letters of a longer word's: what inflections and typing errors share

# Bytes as kinds: space, part of a word, or a mark, which is a word of its own.
_SPACE, _LETTER, _MARK = 0, 1, 2
_KIND = bytes(
    _LETTER if b >= 0x80 or chr(b).isalnum() or b == ord("_") else _SPACE if b <= 0x20 else _MARK
    for b in range(256)
)
_IS_LETTER = np.array(_LETTER, dtype=np.uint8)


def _powers(base: int) -> NDArray[np.uint64]:
    powers = np.full(LONGEST + 1, base, dtype=np.uint64)
    powers[0] = 1
    return np.multiply.accumulate(powers)


_POWERS = _powers(_BASE)
_INVERSE_POWERS = _powers(pow(_BASE, -1, 1 << 64))[1:]  # of a word, by the byte before it


def hashes_of(
    text: bytes,
) -> tuple[NDArray[np.uint64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Hash the words and marks of `text`, UTF-8 that begins and ends with a space, and is no longer
    than `LONGEST`.

    Returns the hashes (W + B,) of the W words, then of the beginnings of B longer ones; the byte
    before each word (W,); its bytes (W,); and which words are longer (B,).
    """
    encoded = np.frombuffer(text, dtype=np.uint8)
    kind = np.frombuffer(text.translate(_KIND), dtype=np.uint8)
    letter = (kind == _IS_LETTER).view(np.uint8)
    # A mark is above any neighbour; a letter is above all but a letter, with which it is one word.
    before = (kind[1:] > letter[:-1]).nonzero()[0]
    last = (kind[:-1] > letter[1:]).nonzero()[0]
    size = last - before
    longer = (size > _BEGINNING).nonzero()[0]
    first = before.take(longer)
    start = np.concatenate((before, first))
    end = np.concatenate((last, first + _BEGINNING))
    sums = np.add.accumulate(encoded * _POWERS[: encoded.size])
    hashes = sums.take(end)
    hashes -= sums.take(start)
    hashes *= _INVERSE_POWERS.take(start)
    return hashes, before, size, longer


def pairs_of(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return the hash of each word with the next one: (W - 1,), none of fewer than two words."""
    pairs = words[:-1] * _PAIR
    pairs += words[1:]
    return pairs


def buckets_of(hashes: NDArray[np.uint64], start: int = 0, end: int = 0) -> NDArray[np.int32]:
    """Return the bucket of each word or pair; from `start` to `end` stand beginnings."""
    mixed = hashes * _MIX
    mixed ^= mixed >> _HALF
    mixed *= _PAIR
    mixed >>= _WORD_SHIFT
    buckets = mixed.astype(np.int32)
    beginnings = buckets[start:end]
    beginnings >>= _FEWER_BITS
    beginnings += _FIRST_BEGINNING
    return buckets
