"""Requests → features: named dense numbers and a bag of hashed words, pairs and beginnings.

The router's view is bounded: the head and tail of the last user turn. The system prompt is not
read, and earlier turns count only by number and length, so that neither dominates the score.
Nothing here is learnt, and nothing depends on Python's seeded `hash`. One request and a batch go
through the same lines.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from router.predict.cues import CJK_CUES, CUE_NAMES, CUE_WORDS
from router.predict.embedder import embedded
from router.predict.hashing import (
    BUCKETS,
    LONGEST,
    WORD_BUCKETS,
    buckets_of,
    hashes_of,
    pairs_of,
)
from router.predict.options import option_facts
from router.predict.text import BYTE_TO_CLASS, CLASSES, as_mapping, head_and_tail, text_of, utf8
from router.types import Features

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from router.predict.embedder import TextEmbedder
    from router.types import Request

VIEW_CHARACTERS = 2000  # the router's view: half of it head, half tail
_BEGINNING_WEIGHT = np.array(0.3, dtype=np.float32)  # at 1 they drown the words
_LONG_WORD = 10
_LONGEST_TEXT = 8 * VIEW_CHARACTERS  # bytes of a view; three a letter and two spaces, at most
_CHUNK = LONGEST // (_LONGEST_TEXT + 2)  # requests whose bags are counted together

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
    "option_overlap",
    "option_digits",
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
_COLUMNS = (*_SHARES, *_SCRIPTS, "emoji", "newline", "question", "clause")


def _symbol_table() -> NDArray[np.float32]:
    table = np.zeros((256, len(_COLUMNS)), dtype=np.float32)
    for column, name in enumerate(_COLUMNS):
        if name in _SYMBOLS:
            table[[ord(character) for character in _SYMBOLS[name]], column] = 1
        else:
            table[:, column] = BYTE_TO_CLASS[:, CLASSES.index(name)]
    return table


_SYMBOL_TABLE = _symbol_table()

# Thai, kana and Han are written without spaces: there every character is made a word, so that
# pairs of words are pairs of characters.
_UNSPACED = re.compile("[\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")
_CJK = re.compile("[\u3000-\udfff]")  # with their punctuation
# What these two find begins with one of these in UTF-8; most text that is not ASCII has none.
_EASTERN_BYTES = bytes([0xE0, *range(0xE3, 0xF0)])
# Typographic marks are read as the ones that a keyboard has.
_PLAIN_MARKS = (
    dict.fromkeys("‘’‚‛", "'") | dict.fromkeys("“”„«»", '"') | dict.fromkeys("‐‑‒–—−", "-")
)
# Courtesies around a request, which say nothing about it; a message of nothing else keeps them.
_BEFORE = re.compile(
    r"(?:(?:hi|hello|hey|hola|hallo|bonjour)(?: there| everyone| all)?[,.!: ]+)?"
    r"(?:please[,: ]+|kindly |por favor[,: ]+|bitte[,: ]+|请"
    r"|(?:could|can|would|will) you (?:please |kindly )?(?=[a-z])"
    r"|i(?: would like| want| need|['’]d like) you to )?"
    r"(?:help me (?:out )?(?:with |to )?(?:this|the following|it)?[:?.!,]+\s*)?",
    re.IGNORECASE,
)
_COURTESIES = "please|thanks|thank you|many thanks|thx|gracias|danke|merci|谢谢"
_ADVERBS = " a lot| so much| very much| in advance"
_AFTER = re.compile(rf"[,; ]*\b(?:{_COURTESIES})(?:{_ADVERBS})?[.!? ]*$", re.IGNORECASE)
_THANKS = tuple(f"{_COURTESIES}|{_ADVERBS}".split("|"))  # looked for first, being faster
_LONGEST_THANKS = 40
_LEAST_REQUEST = 12  # characters that must be left of it
_ITEM = re.compile(r"\n\s{0,8}(?:[-*•]|\d{1,2}[.)])\s")

_ROW_BITS = BUCKETS.bit_length()  # a key is a request's number above a bucket: 31 bits are enough
_BUCKET_MASK = (1 << _ROW_BITS) - 1
_FIRST_BEGINNING = np.array(WORD_BUCKETS, dtype=np.int32)


def _word_tables() -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Return the kind of word for each bucket, and what each kind adds to the counts of words.

    A kind is a set of cues. In the second half of the kinds are the same sets for long words.
    """
    classes: dict[str, list[int]] = {}
    for number, name in enumerate(CUE_NAMES):
        for word in CUE_WORDS[name]:
            classes.setdefault(word, []).append(number)
    sets = [(), *sorted({tuple(found) for found in classes.values()})]
    cues = np.zeros((len(sets), len(CUE_NAMES)))
    for row, found in enumerate(sets):
        cues[row, list(found)] = 1
    one = np.ones(len(sets))
    table = np.vstack([np.column_stack([one, long * one, cues]) for long in (0, 1)])
    kinds = np.zeros(WORD_BUCKETS, dtype=np.uint8)
    words = hashes_of(utf8(f" {' '.join(classes)} "))[0][: len(classes)]
    kinds[buckets_of(words)] = [sets.index(tuple(c)) for c in classes.values()]
    return kinds, table.astype(np.float32)


_WORD_KINDS, _WORD_TABLE = _word_tables()
_KINDS = len(_WORD_TABLE)
_LONG_KINDS = np.array([0] * _LONG_WORD + [_KINDS // 2], dtype=np.uint8)  # by length, added
_CUES = 2  # where they begin in what `_WORD_TABLE` counts
_CHAT = CUE_NAMES.index("chat")


@dataclass(frozen=True, slots=True)
class FeatureBatch:
    """The features of N requests.

    `dense` has shape (N, D), or (N, D + E) with a text embedder's E columns. The bag of request i
    is `buckets[starts[i]:starts[i + 1]]`, rising and distinct, with its `weights`; `starts` has
    shape (N + 1,).
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

    def part(self, start: int, end: int) -> FeatureBatch:
        """The requests from `start` to before `end`, as views of the same arrays."""
        starts = self.starts[start : end + 1]
        inside = slice(starts[0], starts[-1])
        return FeatureBatch(
            self.dense[start:end], starts - starts[0], self.buckets[inside], self.weights[inside]
        )


def join(batches: Sequence[FeatureBatch]) -> FeatureBatch:
    """Put batches one after the other."""
    sizes = [np.diff(batch.starts) for batch in batches]
    return FeatureBatch(
        np.concatenate([batch.dense for batch in batches])
        if batches
        else np.zeros((0, len(DENSE_NAMES)), np.float32),
        np.cumsum(np.concatenate([[0], *sizes]), dtype=np.int64),
        np.concatenate([np.zeros(0, np.int32), *(b.buckets for b in batches)]),
        np.concatenate([np.zeros(0, np.float32), *(b.weights for b in batches)]),
    )


def extract(request: Request, embedder: TextEmbedder | None = None) -> Features:
    """Read the features of a request; pure and local.

    Parameters
    ----------
    embedder
        Adds its vector of what is asked; a predictor names the one that it was trained with.

    Returns
    -------
    Features
        `dense` (D,) in the order of `DENSE_NAMES`, then the embedder's vector; `buckets` (K,)
        rising and distinct, below `BUCKETS`: words and marks, pairs of neighbours, and beginnings
        of longer words; `weights` (K,) 1 however often each occurs, less for beginnings.
    """
    found = _extract((request,), embedder)
    return Features(found.dense[0], found.buckets, found.weights)


def extract_many(requests: Sequence[Request], embedder: TextEmbedder | None = None) -> FeatureBatch:
    """Read the features of N requests: the same numbers as `extract`, several times as fast."""
    return join(
        [_extract(requests[i : i + _CHUNK], embedder) for i in range(0, len(requests), _CHUNK)]
    )


def _extract(requests: Sequence[Request], embedder: TextEmbedder | None) -> FeatureBatch:
    """Read up to `_CHUNK` requests; one alone goes without what tells several apart."""
    read = [_read(request) for request in requests]
    raw, lowered, facts, cjk = zip(*read, strict=True)
    hashes, before, size, longer = hashes_of(b"".join(lowered))
    pairs = pairs_of(hashes[: size.size])
    one = len(read) == 1
    if one:
        sizes: Any = (size.size,)
        keys = buckets = buckets_of(np.concatenate((hashes, pairs)), size.size, hashes.size)
    else:
        bounds = np.array([0, *accumulate(map(len, lowered))])
        sizes = np.diff(before.searchsorted(bounds))
        of = np.repeat(np.arange(len(read), dtype=np.int32), sizes)
        inside = (of[1:] == of[:-1]).nonzero()[0]  # no pair joins words of two requests
        hashes = np.concatenate((hashes, pairs.take(inside)))
        buckets = buckets_of(hashes, size.size, hashes.size - inside.size)
        keys = np.concatenate((of, of.take(longer), of.take(inside)))
        keys <<= _ROW_BITS
        keys |= buckets
    kinds = _WORD_KINDS.take(buckets[: size.size])
    kinds += _LONG_KINDS.take(size, mode="clip")
    counts = _tally(kinds, sizes, _KINDS).dot(_WORD_TABLE)
    for row, cues in enumerate(cjk):
        if cues is not None:
            counts[row, _CUES:] += cues
    symbols = np.frombuffer(b"".join(raw), dtype=np.uint8)
    signs = _tally(symbols, [*map(len, raw)], 256).dot(_SYMBOL_TABLE)
    if one:
        dense = np.array(
            [_dense(facts[0], signs[0].tolist(), counts[0].tolist(), _ONE)], dtype=np.float32
        )
    else:
        columns = np.array(facts, dtype=np.float64).T
        found = _dense(columns, signs.T.astype(np.float64), counts.T.astype(np.float64), _MANY)
        dense = np.array(found).T.astype(np.float32, order="C")
    if embedder is not None:
        texts = [view.decode("utf-8", "replace") for view in raw]
        dense = np.hstack([dense, embedded(embedder, texts)])
    return FeatureBatch(dense, *_bags(keys, len(read)))


def _tally(values: NDArray[Any], sizes: Sequence[int], kinds: int) -> NDArray[np.float32]:
    """Count how often each row has each value below `kinds`; `sizes` says how many values belong to
    each row. Returns (rows, kinds)."""
    rows = len(sizes)
    if rows > 1:
        values = values + np.repeat(np.arange(0, rows * kinds, kinds), sizes)
    # Whole numbers, which 24 bits hold exactly.
    return np.bincount(values, minlength=rows * kinds).astype(np.float32).reshape(rows, kinds)


def _read(request: Request) -> tuple[bytes, bytes, list[float], list[int] | None]:
    """Return the view's bytes, the same in lower case for hashing, what else `_dense` reads, and
    the cues of Chinese, Japanese and Korean, None where no such character is."""
    turn, conversation_characters, turns, has_media = _read_turns(request.messages)
    view = head_and_tail(turn.strip(), VIEW_CHARACTERS)
    view = _asked(view)
    cues = None
    if view.isascii():
        raw = view.encode()
        lowered = raw.lower()
    else:
        view = unicodedata.normalize("NFKC", view)[: 2 * VIEW_CHARACTERS]  # it may lengthen a text
        for mark, plain in _PLAIN_MARKS.items():
            view = view.replace(mark, plain)
        raw = utf8(view)
        lower = view.lower()
        if len(raw.translate(None, _EASTERN_BYTES)) < len(raw):
            if _CJK.search(view):
                cues = [sum(map(lower.count, CJK_CUES.get(name, ()))) for name in CUE_NAMES]
            lower = _UNSPACED.sub(r" \g<0> ", lower)
        lowered = utf8(lower)[:_LONGEST_TEXT]
    lines = "\n" + view
    params = request.params
    schema = params.get("response_format")
    facts = [
        len(turn) if len(turn) > VIEW_CHARACTERS else len(view),
        conversation_characters,
        turns,
        len(_ITEM.findall(lines)),
        *option_facts(lines),
        view.count("```"),
        len(view),
        bool(params.get("tools") or params.get("functions")),
        schema is not None and schema != {"type": "text"},
        has_media,
    ]
    return raw, b" %b " % lowered, facts, cues


def _asked(view: str) -> str:
    """Take courtesies off a request, unless little would be left."""
    before, after = _BEFORE.match(view), None
    if view[-_LONGEST_THANKS:].rstrip(".!? ").casefold().endswith(_THANKS):
        after = _AFTER.search(view, len(view) - _LONGEST_THANKS)
    asked = view[before.end() if before else 0 : after.start() if after else None]
    return asked if len(asked) >= _LEAST_REQUEST else view


# What `_dense` computes with. Plain numbers are what makes one request fast: each of numpy's
# operations takes a microsecond, however short the array.
_ONE, _MANY = (math.log1p, max, min), (np.log1p, np.maximum, np.minimum)


def _dense(facts: Any, signs: Any, words: Any, arithmetic: Any) -> list[Any]:
    """Put together what was counted, in the order of `DENSE_NAMES`: numbers, or arrays (N,)."""
    log1p, maximum, minimum = arithmetic
    *lengths, items, options, overlap, digits, fences, characters, tools, schema, media = facts
    *shares, newlines, questions, clauses = signs
    count, long, *cues = words
    share, per_character = 1 / maximum(count, 1.0), 1 / maximum(characters, 1.0)
    return [
        *map(log1p, lengths),
        log1p(count),
        characters * share,
        *map(log1p, (newlines, items, options)),
        overlap,
        digits,
        *map(log1p, (fences, questions, clauses)),
        long * share,
        *[found * per_character for found in shares],
        *map(log1p, cues),
        minimum(cues[_CHAT] * share, 1.0),
        tools,
        schema,
        media,
    ]


def _bags(
    keys: NDArray[np.int32], requests: int
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]]:
    """Put equal keys (a bucket, with its request's number above it) once into a batch's bags.

    How often a word stands there is not kept: on recorded outcomes that only adds noise, as it does
    for short texts elsewhere (Wang and Manning 2012).
    """
    keys.sort()
    first = np.empty(keys.size + 1, dtype=bool)
    first[0] = first[-1] = True
    np.not_equal(keys[1:], keys[:-1], out=first[1:-1])
    at = first.nonzero()[0]
    buckets = keys.take(at[:-1])
    weights = np.ones(buckets.size, dtype=np.float32)
    if requests == 1:
        starts = np.array((0, buckets.size))
        weights[buckets.searchsorted(_FIRST_BEGINNING) :] *= _BEGINNING_WEIGHT
    else:
        starts = buckets.searchsorted(np.arange(requests + 1, dtype=np.int32) << _ROW_BITS)
        buckets &= _BUCKET_MASK
        np.multiply(weights, _BEGINNING_WEIGHT, out=weights, where=buckets >= _FIRST_BEGINNING)
    return starts, buckets, weights


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
