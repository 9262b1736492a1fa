"""Whether two answers to one request say the same: their final answers, else their wording.

Agreement alone decides nothing. On recorded answers, escalating whatever two cheap models disagree
on costs most of always-frontier's price; it is evidence, which a gate weighs with the rest.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from router.gates.final_answer import READ, Final, final_answer, final_of, marked_final
from router.gates.schemas import parse_json

if TYPE_CHECKING:
    from router.gates.answer import Answer

NEARLY = 0.5  # likeness of answers that differ in case, spacing or punctuation alone
_GRAM = 4  # letters


def said(answer: Answer, params: Mapping[str, Any], *, comparable: bool = True) -> str | None:
    """What an answer says, in a form that equal answers share; None where it names no answer.

    `comparable`: whether the request asks for an answer that can be compared. Of other requests'
    answers only what is marked as the final one counts: two good letters, or two JSON objects of
    free text, need not say the same.
    """
    if not comparable:
        marked = None if params.get("response_format") else marked_final(answer.text)
        return None if marked is None else marked.folded
    if params.get("response_format"):
        try:
            return json.dumps(_plain(parse_json(answer.text)), sort_keys=True)
        except (ValueError, RecursionError):
            return None
    return final_answer(answer.text)


def _plain(value: Any) -> Any:
    """JSON in which 2.0 is 2, as everywhere but in its text."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    return value


def likeness(one: str, other: str) -> float:
    """How far two answers agree, 0 to 1: equal final answers or not, and a half where they are so
    only by their words; where one has none, the cosine of their letter n-grams (n = 4)."""
    finals = final_of(one), final_of(other)
    return likeness_of(finals, one, other)


def likeness_of(finals: tuple[Final | None, Final | None], one: str, other: str) -> float:
    """`likeness`, where the final answers are known."""
    mine, its = finals
    if mine is not None and its is not None:
        if mine.exact == its.exact:
            return 1.0
        return NEARLY if mine.folded == its.folded else 0.0
    if mine != its:
        return 0.0  # one of the two came to an answer
    a, b = _grams(one), _grams(other)
    if not a or not b:
        return 1.0 if a == b else 0.0
    shared = sum(count * b[gram] for gram, count in a.items())
    return float(shared / (_length(a) * _length(b)))


def _grams(text: str) -> Counter[str]:
    folded = re.sub(r"\W+", " ", text[:READ].casefold()).strip()
    return Counter(folded[at : at + _GRAM] for at in range(max(1, len(folded) - _GRAM + 1)))


def _length(grams: Counter[str]) -> float:
    return math.sqrt(sum(count * count for count in grams.values()))
