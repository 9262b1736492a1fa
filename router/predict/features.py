"""Requests → features: named dense numbers and a bag of hashed words, pairs and beginnings.

The router's view is bounded: the head and tail of the last user turn. The system prompt is not
read, and earlier turns count only by number and length, so that neither dominates the score.
Nothing here is learnt, and nothing depends on Python's seeded `hash`. One request and a batch go
through the same lines.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from math import log1p
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from router.predict.cues import CJK_CUES, CUE_NAMES, CUE_WORDS
from router.predict.text import BYTE_TO_CLASS, CLASSES, as_mapping, head_and_tail, text_of, utf8
from router.types import Features

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from router.types import Request

VIEW_CHARACTERS = 2000  # the router's view: half of it head, half tail
# Words and pairs of words are hashed to the lower buckets, beginnings of words to the upper ones.
_WORD_BITS, _BEGINNING_BITS = 20, 16
_WORD_BUCKETS = 1 << _WORD_BITS
BUCKETS = _WORD_BUCKETS + (1 << _BEGINNING_BITS)
_BEGINNING = 4  # letters of a longer word's beginning: what its inflections and typing errors share
_BEGINNING_WEIGHT = 0.3  # at 1 they drown the words
_LONG_WORD = 10
_CHUNK = 64  # requests whose bags are counted together
_LONGEST_TEXT = 8 * VIEW_CHARACTERS  # bytes of a view; three a letter and two spaces, at most
_LONGEST = _CHUNK * (_LONGEST_TEXT + 5)

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
_SHARES = ("digit", "upper", "mathematical", "latex", "code", "exclamation", "quote")

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
    "share_long_words",  # of ten letters or more
    *(f"share_{name}" for name in _SHARES),
    *(f"share_{script}" for script in _SCRIPTS),
    "share_emoji",
    *(f"cue_{name}" for name in CUE_NAMES),
    "share_chat",  # greetings and thanks among the words
    "has_tools",
    "has_schema",
    "has_media",
)

# A histogram of bytes times this counts symbols, scripts and line ends.
_COLUMNS = ("newline", "question", "clause", *_SHARES, *_SCRIPTS, "emoji")
_COUNTED = len(_COLUMNS)


def _symbol_table() -> NDArray[np.float64]:
    table = np.zeros((256, _COUNTED))
    for column, name in enumerate(_COLUMNS):
        if name in _SYMBOLS:
            table[[ord(character) for character in _SYMBOLS[name]], column] = 1
        else:
            table[:, column] = BYTE_TO_CLASS[:, CLASSES.index(name)]
    return table


_SYMBOL_TABLE = _symbol_table()
_CJK = slice(_COLUMNS.index("kana"), _COLUMNS.index("hangul") + 1)

# Thai, kana and Han are written without spaces: there every character is made a word, so that
# pairs of words are pairs of characters.
_UNSPACED = re.compile("[\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")
# Typographic marks are read as the ones that a keyboard has.
_PLAIN_MARKS = str.maketrans(
    dict.fromkeys("‘’‚‛", "'") | dict.fromkeys("“”„«»", '"') | dict.fromkeys("‐‑‒–—−", "-")
)
_MARKS = re.compile("[" + "".join(map(chr, _PLAIN_MARKS)) + "]")
# Courtesies around a request, which say nothing about it; a message of nothing else keeps them.
_BEFORE = re.compile(
    r"(?:(?:hi|hello|hey|hola|hallo|bonjour)(?: there| everyone| all)?[,.!: ]+)?"
    r"(?:please[,: ]+|kindly |por favor[,: ]+|bitte[,: ]+|请"
    r"|(?:could|can|would|will) you (?:please |kindly )?(?=[a-z])"
    r"|i(?: would like| want| need|['’]d like) you to )?"
    r"(?:help me (?:out )?(?:with |to )?(?:this|the following|it)?[:?.!,]+\s*)?",
    re.IGNORECASE,
)
_AFTER = re.compile(
    r"[,; ]*\b(?:please|thanks|thank you|many thanks|thx|gracias|danke|merci|谢谢)"
    r"(?: a lot| so much| very much| in advance)?[.!? ]*$",
    re.IGNORECASE,
)
_LONGEST_THANKS = 40
_LEAST_REQUEST = 12  # characters that must be left of it
# A line's beginning is looked for by the line end before it, which a regex finds fastest.
_OPTION = re.compile(r"\n\s{0,3}\(?[a-j][.):]\s", re.IGNORECASE)
_ITEM = re.compile(r"\n\s{0,8}(?:[-*•]|\d{1,2}[.)])\s")

# One polynomial over the bytes, b[i]·BASE^i modulo 2^64, summed up once, gives the hash of every
# word as a difference of two prefix sums times BASE^-start (Karp and Rabin 1987).
_BASE = 0x9E3779B97F4A7C15  # odd, so it has an inverse modulo 2^64
# Odd constants that mix 64 bits (the finaliser of splitmix64; Steele, Lea and Flood 2014).
_MIX, _PAIR = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_HALF = np.uint64(29)
_ROW_BITS = BUCKETS.bit_length()  # a key is a request's number above a bucket
_BUCKET_MASK = (1 << _ROW_BITS) - 1
_LOG_COUNT = (1 + np.log(np.maximum(1, np.arange(4096)))).astype(np.float32)


def _powers(base: int) -> NDArray[np.uint64]:
    powers = np.full(_LONGEST, base, dtype=np.uint64)
    powers[0] = 1
    return np.multiply.accumulate(powers)


_POWERS = _powers(_BASE)
_INVERSE_POWERS = _powers(pow(_BASE, -1, 1 << 64))
# Bytes as kinds: space, part of a word, or a mark, which is a word of its own.
_SPACE, _LETTER, _MARK = 0, 1, 2
_KIND = bytes(
    _LETTER if b >= 0x80 or chr(b).isalnum() or b == ord("_") else _SPACE if b <= 0x20 else _MARK
    for b in range(256)
)


def _bucket(hashes: NDArray[np.uint64], bits: int = _WORD_BITS) -> NDArray[np.int64]:
    mixed = hashes * _MIX
    mixed ^= mixed >> _HALF
    mixed *= _PAIR
    mixed >>= np.uint64(64 - bits)
    return mixed.view(np.int64)


def _words_of(
    text: bytes,
) -> tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.int64], NDArray[np.int64]]:
    """Return the hash of each word or mark, of each longer word's beginning (0 for others), where
    each starts and its bytes. `text` begins with a space and ends with a few."""
    kind = np.frombuffer(text.translate(_KIND), dtype=np.uint8)
    later = kind[1:]
    # A run begins where the kind changes, and at every mark.
    begins = ((later != kind[:-1]) | (later == _MARK)).nonzero()[0]
    begins += 1
    runs = kind.take(begins[:-1]).nonzero()[0]
    starts = begins.take(runs)
    size = begins.take(runs + 1) - starts
    encoded = np.frombuffer(text, dtype=np.uint8)
    sums = np.multiply(encoded, _POWERS[: encoded.size]).cumsum()
    before = sums.take(starts - 1)
    inverse = _INVERSE_POWERS.take(starts)
    words = (sums.take(starts + (size - 1)) - before) * inverse
    beginnings = (sums.take(starts + (_BEGINNING - 1)) - before) * inverse
    beginnings *= size > _BEGINNING
    return words, beginnings, starts, size


def _cue_table() -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Return the row of cues for each bucket of a word, and each row's classes, 0 or 1."""
    classes: dict[str, list[int]] = {}
    for number, name in enumerate(CUE_NAMES):
        for word in CUE_WORDS[name]:
            classes.setdefault(word, []).append(number)
    sets = [(), *sorted({tuple(found) for found in classes.values()})]
    members = np.zeros((len(sets), len(CUE_NAMES)))
    for row, found in enumerate(sets):
        members[row, list(found)] = 1
    rows = np.zeros(_WORD_BUCKETS, dtype=np.uint8)
    text = utf8(f" {' '.join(classes)}    ")
    rows[_bucket(_words_of(text)[0])] = [sets.index(tuple(c)) for c in classes.values()]
    return rows, members


_CUE_ROWS, _CUE_MEMBERS = _cue_table()
_CHAT = CUE_NAMES.index("chat")


@dataclass(frozen=True, slots=True)
class FeatureBatch:
    """The features of N requests.

    `dense` has shape (N, D). The bag of request i is `buckets[starts[i]:starts[i + 1]]`, rising
    and distinct, with its `weights`; `starts` has shape (N + 1,).
    """

    dense: NDArray[np.float32]
    starts: NDArray[np.int64]
    buckets: NDArray[np.int32]
    weights: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.dense)

    @overload
    def __getitem__(self, index: int) -> Features: ...
    @overload
    def __getitem__(self, index: NDArray[Any]) -> FeatureBatch: ...
    def __getitem__(self, index: int | NDArray[Any]) -> Features | FeatureBatch:
        """One request's features, or a batch of those at `index` (positions or a mask)."""
        if not isinstance(index, np.ndarray):
            start, end = self.starts[index], self.starts[index + 1]
            return Features(self.dense[index], self.buckets[start:end], self.weights[start:end])
        chosen = np.flatnonzero(index) if index.dtype == bool else index
        sizes = np.diff(self.starts)[chosen]
        starts = np.concatenate([[0], np.cumsum(sizes)])
        # Position in the new arrays less its row's start there, plus its row's start here.
        source = np.arange(starts[-1]) + np.repeat(self.starts[chosen] - starts[:-1], sizes)
        return FeatureBatch(self.dense[chosen], starts, self.buckets[source], self.weights[source])


def join(batches: Sequence[FeatureBatch]) -> FeatureBatch:
    """Put batches one after the other."""
    sizes = [np.diff(batch.starts) for batch in batches]
    return FeatureBatch(
        np.concatenate([np.zeros((0, len(DENSE_NAMES)), np.float32), *(b.dense for b in batches)]),
        np.cumsum(np.concatenate([[0], *sizes]), dtype=np.int64),
        np.concatenate([np.zeros(0, np.int32), *(b.buckets for b in batches)]),
        np.concatenate([np.zeros(0, np.float32), *(b.weights for b in batches)]),
    )


def extract(request: Request) -> Features:
    """Read the features of a request; pure and local.

    Returns
    -------
    Features
        `dense` (D,) in the order of `DENSE_NAMES`; `buckets` (K,) rising and distinct, below
        `BUCKETS`: words and marks, pairs of neighbours, and beginnings of longer words;
        `weights` (K,) 1 + the natural logarithm of each one's count, less for beginnings.
    """
    found = _extract((request,))
    return Features(found.dense[0], found.buckets, found.weights)


def extract_many(requests: Sequence[Request]) -> FeatureBatch:
    """Read the features of N requests: the same numbers as `extract`, several times as fast."""
    return join([_extract(requests[i : i + _CHUNK]) for i in range(0, len(requests), _CHUNK)])


def _extract(requests: Sequence[Request]) -> FeatureBatch:
    read = [_read(request) for request in requests]
    words, beginnings, starts, size = _words_of(b"".join([text for text, _ in read]))
    buckets = _bucket(words)
    pairs = _bucket(words[:-1] * _PAIR + words[1:])
    longer = beginnings.nonzero()[0]
    keys = [buckets, pairs, _bucket(beginnings.take(longer), _BEGINNING_BITS) + _WORD_BUCKETS]
    cue_row, long = _CUE_ROWS.take(buckets), size >= _LONG_WORD
    if len(read) == 1:
        count = [words.size]
        found = np.bincount(cue_row, minlength=len(_CUE_MEMBERS))
        cues = (found.astype(float) @ _CUE_MEMBERS)[None]
        long_words = [np.count_nonzero(long)]
    else:
        # Which request each word is of; no pair joins two of them.
        ends = np.cumsum([len(text) for text, _ in read])
        of = np.searchsorted(ends, starts, side="right")
        inside = np.flatnonzero(of[1:] == of[:-1])
        keys = [
            key | (rows << _ROW_BITS)
            for key, rows in zip(
                (buckets, pairs[inside], keys[2]), (of, of[inside], of[longer]), strict=True
            )
        ]
        count = np.bincount(of, minlength=len(read)).tolist()
        table = np.bincount(of * 256 + cue_row, minlength=256 * len(read)).reshape(-1, 256)
        cues = table[:, : len(_CUE_MEMBERS)].astype(float) @ _CUE_MEMBERS
        long_words = np.bincount(of, weights=long, minlength=len(read)).tolist()
    starts, once, weights = _bags(np.concatenate(keys), len(read))
    dense = [
        _dense(facts, *more)
        for (_, facts), *more in zip(read, cues.tolist(), count, long_words, strict=True)
    ]
    return FeatureBatch(np.array(dense, dtype=np.float32), starts, once, weights)


def _read(request: Request) -> tuple[bytes, list[Any]]:
    """Return the view's lower-case bytes, and what `_dense` needs besides words."""
    turn, conversation_characters, turns, has_media = _read_turns(request.messages)
    view = head_and_tail(turn.strip(), VIEW_CHARACTERS)
    before, after = _BEFORE.match(view), _AFTER.search(view, len(view) - _LONGEST_THANKS)
    asked = view[before.end() if before else 0 : after.start() if after else None]
    if len(asked) >= _LEAST_REQUEST:
        view = asked
    cues = None
    if not view.isascii():
        view = unicodedata.normalize("NFKC", view)[: 2 * VIEW_CHARACTERS]  # it may lengthen a text
        if _MARKS.search(view):  # `translate` takes its time on text that is not ASCII
            view = view.translate(_PLAIN_MARKS)
    lowered = view.lower()
    raw = utf8(view)
    counts = (
        np.bincount(np.frombuffer(raw, dtype=np.uint8), minlength=256).astype(float) @ _SYMBOL_TABLE
    ).tolist()
    lines = "\n" + view
    params = request.params
    schema = params.get("response_format")
    if len(raw) > len(view) and any(counts[_CJK]):
        cues = [sum(map(lowered.count, CJK_CUES.get(name, ()))) for name in CUE_NAMES]
    if len(raw) > len(view):
        lowered = _UNSPACED.sub(r" \g<0> ", lowered)
    facts = [
        len(view),
        counts,
        cues,
        [
            log1p(len(turn) if len(turn) > VIEW_CHARACTERS else len(view)),
            log1p(conversation_characters),
            log1p(turns),
        ],
        [
            log1p(len(_ITEM.findall(lines))),
            log1p(len(_OPTION.findall(lines))),
            log1p(view.count("```")),
        ],
        [
            float(bool(params.get("tools") or params.get("functions"))),
            float(schema is not None and schema != {"type": "text"}),
            float(has_media),
        ],
    ]
    # Spaces on both sides, enough to read a beginning beyond the last word's end.
    return b" %b    " % utf8(lowered)[:_LONGEST_TEXT], facts


def _dense(facts: list[Any], cues: list[float], words: int, long_words: float) -> list[float]:
    """Put together one request's dense features, in the order of `DENSE_NAMES`."""
    characters, counts, cjk_cues, lengths, structure, flags = facts
    if cjk_cues:
        cues = [a + b for a, b in zip(cues, cjk_cues, strict=True)]
    share, per_character = 1 / max(1, words), 1 / max(1, characters)
    newlines, questions, clauses = counts[:3]
    return [
        *lengths,
        log1p(words),
        characters * share,
        log1p(newlines),
        *structure,
        log1p(questions),
        log1p(clauses),
        long_words * share,
        *[found * per_character for found in counts[3:]],
        *map(log1p, cues),
        min(1.0, cues[_CHAT] * share),
        *flags,
    ]


def _bags(
    keys: NDArray[np.int64], requests: int
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]]:
    """Count equal keys (a bucket, with its request's number above it) into a batch's bags."""
    keys.sort()
    first = np.empty(keys.size + 1, dtype=bool)
    first[0] = first[-1] = True
    np.not_equal(keys[1:], keys[:-1], out=first[1:-1])
    at = first.nonzero()[0]
    once = keys.take(at[:-1])
    times = at[1:] - at[:-1]
    weights = _LOG_COUNT.take(times, mode="clip")
    if requests == 1:
        starts = np.array([0, once.size])
    else:
        starts = np.searchsorted(once, np.arange(requests + 1) << _ROW_BITS)
        once &= _BUCKET_MASK
    weights[once >= _WORD_BUCKETS] *= _BEGINNING_WEIGHT
    return starts, once.astype(np.int32), weights


def _read_turns(messages: Any) -> tuple[str, int, int, bool]:
    """Return the last user turn, the conversation's characters, its turns, and if it has media.

    Without a user turn, the last turn that is not the system's stands in for it.
    """
    last_user: str | None = None
    last = ""
    characters = turns = 0
    has_media = False
    for raw in messages:
        message = raw if type(raw) is dict else as_mapping(raw)
        role = message.get("role")
        if role in ("system", "developer"):
            continue
        content = message.get("content")
        last = content if type(content) is str else text_of(content)
        characters += len(last)
        if role == "user":
            turns += 1
            last_user = last
            if isinstance(content, (list, tuple)):
                has_media = has_media or any(
                    as_mapping(part).get("type") not in ("text", "input_text") for part in content
                )
    return (last if last_user is None else last_user), characters, turns, has_media
