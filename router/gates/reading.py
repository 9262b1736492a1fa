"""What a learned verifier reads of one answer: its shape, in numbers, and its final answer."""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from router.gates.answer import Answer
from router.gates.final_answer import SHORT, Final, final_of
from router.gates.structural import HARD

if TYPE_CHECKING:
    from router.types import Floats

KINDS = ("numeric", "literal", "log_final")  # of a final answer
LOGPROB_NAMES = ("logprobs", "mean_logprob", "lowest_logprob", "margin_known", "margin")
SHAPE_NAMES = (
    "log_characters",
    "log_words",
    "zlib_ratio",
    "digit_share",
    "lines",
    "hedges",
    "no_final_answer",
    "answers_named",
    "open_end",
    "cut",
    "refusal",
    "hard_fault",
    "code",
    "json",
    "long",
    "dense",
    "formulas",
    "equations",
    "emphasis",
    "none_of_these",
    "decimals",
    "approximations",
    "paragraphs",
    "bare",
    "vocabulary",
    "questions",
    "bad_code",
    *KINDS,
    # Of an answer that came without log-probabilities all of these are 0.
    *LOGPROB_NAMES,
)
LOGPROBS = tuple(SHAPE_NAMES.index(name) for name in LOGPROB_NAMES)
_READ = 50_000  # characters
_HEDGE = re.compile(
    r"\b(?:however|wait|actually|not sure|unclear|cannot be determined|none of the|closest|might"
    r"|perhaps|possibly|approximately|assum\w+|unfortunately|mistake|apolog\w+|sorry)\b",
    re.IGNORECASE,
)
_PLAIN_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_DECIMAL = re.compile(r"\d+\.\d+")


@dataclass(frozen=True, slots=True)
class Read:
    """What is kept of an answer: its text, its final answer, and its shape (S,)."""

    text: str
    final: Final | None
    shape: Floats


def read(answer: Answer, faults: Sequence[str] = ()) -> Read:
    """Read an answer. `faults`: what `router.gates.structural` found of it."""
    text = answer.text[:_READ]
    raw = text.encode("utf-8", "replace")
    final, size = final_of(text), max(len(text), 1)
    shape = [
        math.log1p(len(text)),
        math.log1p(text.count(" ")),
        len(zlib.compress(raw, 6)) / max(len(raw), 1) if len(raw) > 100 else 0.7,
        sum(map(text.count, "0123456789")) / size,
        math.log1p(text.count("\n")),
        math.log1p(len(_HEDGE.findall(text))),
        float(final is None),
        math.log1p(text.lower().count("answer")),
        float(not text.rstrip().endswith((".", "!", "?", "}", "`", ")", "*", "$", "]"))),
        float("truncated" in faults),
        float("refusal" in faults),
        float(bool(HARD.intersection(faults))),
        float("```" in text),
        float(text.lstrip().startswith(("{", "[", "```json"))),
    ]
    words = text.split()
    # A logistic model is a line: what bends, or goes together, must be said.
    shape += [
        shape[0] ** 2 / 10,
        shape[0] * shape[2],
        math.log1p(text.count("\\") + text.count("$")),
        math.log1p(text.count("=")),
        math.log1p(text.count("*")),
        float("none" in text.lower()),
        math.log1p(len(_DECIMAL.findall(text))),
        math.log1p(text.count("≈") + text.count("approx")),
        math.log1p(text.count("\n\n")),
        float(len(text) < SHORT),
        len(set(words)) / max(len(words), 1),
        math.log1p(text.count("?")),
        float("code_does_not_parse" in faults),
        float(final is not None and _PLAIN_NUMBER.fullmatch(final.folded) is not None),
        float(final is not None and bool(set(final.exact) & set("'\"[](){}"))),
        math.log1p(len(final.exact)) if final is not None else 0.0,
        *_confidence(answer),
    ]
    return Read(text, final, np.array(shape))


def _confidence(answer: Answer) -> tuple[float, ...]:
    """The values of `LOGPROB_NAMES`."""
    said = answer.confidence
    if said is None:
        return (0.0,) * len(LOGPROB_NAMES)
    return (1.0, said.mean, said.lowest, float(said.margin is not None), said.margin or 0.0)
