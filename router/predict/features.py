"""Request → Features: named dense numbers and a bag of hashed n-grams, in about 0.1 ms.

The router's view is bounded: the head and tail of the last user turn. The system prompt is not
read, and earlier turns count only by number and length, so that neither dominates the score.
Nothing here is learnt, and nothing depends on Python's seeded `hash`.
"""

from __future__ import annotations

import re
import unicodedata
from math import log1p
from typing import TYPE_CHECKING, Any

import numpy as np

from router.predict.cues import CJK_CUES, CUE_NAMES, CUE_WORDS
from router.predict.text import BYTE_TO_CLASS, CLASSES, as_mapping, head_and_tail, text_of, utf8
from router.types import Features

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from router.types import Request

VIEW_CHARACTERS = 2000  # the router's view: half of it head, half tail
WORD_BUCKETS = 1 << 13
BYTE_BUCKETS = 1 << 13
BUCKETS = WORD_BUCKETS + BYTE_BUCKETS
_NGRAM_BYTES = 5

_SCRIPTS = ("latin", "greek", "cyrillic", "semitic", "indic", "vietnamese", "kana", "han", "hangul")
_SYMBOLS = {
    "mathematical": "+=*/^<>%",
    "latex": "\\$",
    "code": "{}[]();_#|&@`",
    "question": "?",
    "clause": ",;",  # NFKC has turned the full-width ones into these
    "exclamation": "!",
    "quote": "\"'",
}
_WORDS_OF_CUES = tuple(f"cue_{name}" for name in CUE_NAMES)

DENSE_NAMES: tuple[str, ...] = (
    "log_turn_characters",
    "log_conversation_characters",
    "log_turns",
    "log_words",
    "word_length",
    "log_lines",
    "list_items",
    "answer_options",
    "code_fences",
    "questions",
    "log_clauses",
    "share_long_words",  # of ten bytes or more
    "share_digit",
    "share_upper",
    "share_mathematical",
    "share_latex",
    "share_code",
    "share_exclamation",
    "share_quote",
    *(f"share_{script}" for script in _SCRIPTS),
    "share_emoji",
    *_WORDS_OF_CUES,
    "share_chat",  # greetings and thanks among the words
    "has_tools",
    "has_schema",
    "has_media",
)


def _symbol_table() -> NDArray[np.float64]:
    """Columns: letters, digits, capitals, newlines, each kind of symbol, each script, emoji."""
    table = np.zeros((256, len(_COLUMNS)))
    for column, name in enumerate(_COLUMNS):
        if name in _SYMBOLS:
            table[[ord(character) for character in _SYMBOLS[name]], column] = 1
        else:
            table[:, column] = BYTE_TO_CLASS[:, CLASSES.index(name)]
    return table


_COLUMNS = ("digit", "upper", "newline", *_SYMBOLS, *_SCRIPTS, "emoji")
_SYMBOL_TABLE = _symbol_table()

# One polynomial over the bytes, b[i]·BASE^i modulo 2^64, summed up once, gives the hash of every
# word and n-gram as a difference of two prefix sums times BASE^-start (Karp and Rabin 1987).
_BASE = 0x9E3779B97F4A7C15  # odd, so it has an inverse modulo 2^64
_LONGEST = 4 * VIEW_CHARACTERS + 8
_MIX = np.uint64(0xD6E8FEB86659FD93)
_BIGRAM = np.uint64(0xA24BAED4963EE407)


def _powers(base: int) -> NDArray[np.uint64]:
    powers = np.full(_LONGEST, base, dtype=np.uint64)
    powers[0] = 1
    return np.multiply.accumulate(powers)


_POWERS = _powers(_BASE)
_INVERSE_POWERS = _powers(pow(_BASE, -1, 1 << 64))
_IS_WORD = np.array([chr(b).isalnum() if b < 0x80 else True for b in range(256)])

_OPTION = re.compile(r"^\s{0,3}\(?[a-j][.):]\s", re.MULTILINE)
_ITEM = re.compile(r"^\s{0,8}(?:[-*•]|\d{1,2}[.)])\s", re.MULTILINE)


def _prefix_sums(encoded: NDArray[np.uint8]) -> NDArray[np.uint64]:
    sums = np.zeros(encoded.size + 1, dtype=np.uint64)
    np.cumsum(encoded * _POWERS[: encoded.size], out=sums[1:])
    return sums


def _word_hashes(
    encoded: NDArray[np.uint8], sums: NDArray[np.uint64]
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Hash every run of letters, digits and non-ASCII bytes, in order; also their bytes."""
    inside = np.zeros(encoded.size + 2, dtype=np.int8)
    inside[1:-1] = _IS_WORD[encoded]
    edges = np.flatnonzero(inside[1:] != inside[:-1])
    starts, ends = edges[::2], edges[1::2]
    return (sums[ends] - sums[starts]) * _INVERSE_POWERS[starts], ends - starts


def _bucket(hashes: NDArray[np.uint64], buckets: int) -> NDArray[np.int64]:
    mixed = (hashes ^ (hashes >> np.uint64(29))) * _MIX
    return (mixed >> np.uint64(65 - buckets.bit_length())).astype(np.int64)


def _hash_word(word: str) -> int:
    encoded = np.frombuffer(utf8(word), dtype=np.uint8)
    return int(_word_hashes(encoded, _prefix_sums(encoded))[0][0])


def _cue_table() -> tuple[NDArray[np.uint64], NDArray[np.float64]]:
    """Return the sorted hashes of all cue words, and which classes each belongs to, 0 or 1."""
    classes: dict[int, set[int]] = {}
    for number, name in enumerate(CUE_NAMES):
        for word in CUE_WORDS[name]:
            classes.setdefault(_hash_word(word), set()).add(number)
    hashes = sorted(classes)
    members = np.zeros((len(hashes), len(CUE_NAMES)))
    for row, value in enumerate(hashes):
        members[row, list(classes[value])] = 1
    return np.array(hashes, dtype=np.uint64), members


_CUE_HASHES, _CUE_MEMBERS = _cue_table()


def extract(request: Request) -> Features:
    """Read the features of a request; pure and local.

    Returns
    -------
    Features
        `dense` (D,) in the order of `DENSE_NAMES`; `buckets` (K,) rising and distinct, below
        `BUCKETS`; `weights` (K,) with Euclidean norm 1 in each of the two blocks (words and word
        pairs; byte 5-grams), square roots of counts before that.
    """
    turn, conversation_characters, turns, has_media = _read_turns(request.messages)
    view = unicodedata.normalize("NFKC", head_and_tail(turn, VIEW_CHARACTERS))
    view = view[: 2 * VIEW_CHARACTERS]  # NFKC may lengthen a text
    raw = np.frombuffer(utf8(view), dtype=np.uint8)
    lowered = view.lower()
    collapsed = " ".join(lowered.split())[: 2 * VIEW_CHARACTERS]
    encoded = np.frombuffer(utf8(collapsed), dtype=np.uint8)[: _LONGEST - 1]
    sums = _prefix_sums(encoded)
    words, word_bytes = _word_hashes(encoded, sums)
    buckets, weights = _hashed(encoded, sums, words)

    counts = np.bincount(raw, minlength=256) @ _SYMBOL_TABLE
    count = dict(zip(_COLUMNS, counts.tolist(), strict=True))
    characters = max(1, len(view))
    cjk = count["han"] + count["kana"] + count["hangul"]
    # A run of these scripts is one word to the hashes, but says as much as one every two letters.
    word_count = words.size + cjk / 2
    cues = _count_cues(words, lowered, cjk=cjk > 0)
    params = request.params
    response_format = params.get("response_format")
    dense = [
        log1p(len(turn)),
        log1p(conversation_characters),
        log1p(turns),
        log1p(word_count),
        len(collapsed) / max(1, word_count),
        log1p(count["newline"]),
        log1p(len(_ITEM.findall(lowered))),
        log1p(len(_OPTION.findall(lowered))),
        log1p(lowered.count("```")),
        log1p(count["question"]),
        log1p(count["clause"]),
        np.count_nonzero(word_bytes >= 10) / max(1, words.size),
    ]
    dense += [
        count[name] / characters
        for name in ("digit", "upper", "mathematical", "latex", "code", "exclamation", "quote")
    ]
    dense += [count[name] / characters for name in (*_SCRIPTS, "emoji")]
    dense += np.log1p(cues).tolist()
    dense += [
        min(1.0, cues[CUE_NAMES.index("chat")] / max(1, words.size)),
        float(bool(params.get("tools") or params.get("functions"))),
        float(response_format is not None and response_format != {"type": "text"}),
        float(has_media),
    ]
    return Features(np.array(dense, dtype=np.float32), buckets, weights)


def _read_turns(messages: Any) -> tuple[str, int, int, bool]:
    """Return the last user turn, the conversation's characters, its turns, and if it has media.

    Without a user turn, the last turn that is not the system's stands in for it.
    """
    last_user: str | None = None
    last = ""
    characters = turns = 0
    has_media = False
    for raw in messages:
        message = as_mapping(raw)
        role = message.get("role")
        if role in ("system", "developer"):
            continue
        content = message.get("content")
        last = text_of(content)
        characters += len(last)
        if role == "user":
            turns += 1
            last_user = last
            if isinstance(content, (list, tuple)):
                has_media = has_media or any(
                    as_mapping(part).get("type") not in ("text", "input_text") for part in content
                )
    return (last if last_user is None else last_user), characters, turns, has_media


def _count_cues(words: NDArray[np.uint64], lowered: str, *, cjk: bool) -> NDArray[np.float64]:
    """Count the cue words of each class; scripts without spaces are searched by substring."""
    found = np.searchsorted(_CUE_HASHES, words)
    np.minimum(found, _CUE_HASHES.size - 1, out=found)
    counts: NDArray[np.float64] = _CUE_MEMBERS[found[_CUE_HASHES[found] == words]].sum(axis=0)
    if cjk:
        for number, name in enumerate(CUE_NAMES):
            counts[number] += sum(lowered.count(cue) for cue in CJK_CUES.get(name, ()))
    return counts


def _hashed(
    encoded: NDArray[np.uint8], sums: NDArray[np.uint64], words: NDArray[np.uint64]
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    pairs = words[:-1] * _BIGRAM + words[1:]
    grams = (sums[_NGRAM_BYTES:] - sums[:-_NGRAM_BYTES]) * _INVERSE_POWERS[
        : max(0, encoded.size - _NGRAM_BYTES + 1)
    ]
    blocks = []
    for hashes, buckets in (
        (np.concatenate([words, pairs]), WORD_BUCKETS),
        (grams, BYTE_BUCKETS),
    ):
        counts = np.bincount(_bucket(hashes, buckets), minlength=buckets)
        nonzero = np.flatnonzero(counts > 0)  # on booleans, four times as fast
        present = counts[nonzero]
        blocks.append((nonzero, np.sqrt(present / max(1, present.sum()))))
    (word_buckets, word_weights), (byte_buckets, byte_weights) = blocks
    return (
        np.concatenate([word_buckets, byte_buckets + WORD_BUCKETS]).astype(np.int32),
        np.concatenate([word_weights, byte_weights]).astype(np.float32),
    )
