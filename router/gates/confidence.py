"""How sure a model was of its own answer: the log-probabilities of the answer's tokens.

They are evidence of little weight. A model can be sure and wrong, and what it reasoned towards it
writes down without doubt. Where the final answer is found in the text, the margin of its tokens
tells most (how much likelier each was than its best rival); the mean over all tokens tells how far
the wording was forced, which free text need not be (arXiv:2404.10136 on the traps of sums and
means).
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from router.gates.final_answer import final_span

LEVELS = ("sure", "middling", "unsure")
# Chances of each level from a good and from a bad answer. As in `structural`, judgement and on the
# careful side: they order a good and a bad answer right 59 times in 100, where published figures
# for token probabilities are 60 to 80 (arXiv:2207.05221, arXiv:2302.09664).
OF_GOOD: tuple[float, ...] = (0.70, 0.22, 0.08)
OF_BAD: tuple[float, ...] = (0.55, 0.27, 0.18)
_SURE_MARGIN = math.log(20)  # the best rival was at most a twentieth as likely
_UNSURE_MARGIN = math.log(2)  # the best rival was at least half as likely
_UNSURE_MEAN = -1.0  # nats a token, of an answer without a final one: a token in e is the expected
_LEAST = -20.0  # nats; providers write -9999 for "unlikely"
_MOST_MARGIN = 10.0


@dataclass(frozen=True, slots=True)
class Confidence:
    """Log-probabilities of an answer's tokens, in nats: their `mean` and `lowest`, 0 at most;
    `margin`, the least of the final answer's tokens over their best rivals, below 0 where a rival
    was likelier, None where no final answer was found in the text."""

    mean: float
    lowest: float
    margin: float | None = None

    @property
    def level(self) -> int:
        """Position among `LEVELS`."""
        if self.margin is not None:
            return 0 if self.margin >= _SURE_MARGIN else 2 if self.margin < _UNSURE_MARGIN else 1
        return 2 if self.mean < _UNSURE_MEAN else 1  # free text: nothing shows that it was sure

    def as_dict(self) -> dict[str, float]:
        """As the log keeps it beside an answer's text."""
        found = {"mean": self.mean, "lowest": self.lowest}
        return found if self.margin is None else {**found, "margin": self.margin}


def confidence_of(logprobs: Any, text: str) -> Confidence | None:
    """Read log-probabilities; None where there are none that can be read.

    Parameters: `logprobs`, a choice's in OpenAI's or litellm's type, the same as plain data, JSON
    text of either, or what `Confidence.as_dict` gave; `text`, the answer.
    """
    if isinstance(logprobs, str):
        try:
            logprobs = json.loads(logprobs)
        except ValueError:
            return None
    kept = _kept(logprobs)
    if kept is not None:
        return kept
    tokens = _field(logprobs, "content")
    if not isinstance(tokens, Sequence) or isinstance(tokens, str) or not tokens:
        return None
    values = [_number(_field(token, "logprob")) for token in tokens]
    if any(value is None for value in values):
        return None
    known = [min(max(value, _LEAST), 0.0) for value in values if value is not None]
    return Confidence(sum(known) / len(known), min(known), _margin(tokens, known, text))


def _kept(value: Any) -> Confidence | None:
    if not isinstance(value, Mapping) or "mean" not in value:
        return None
    mean, lowest = _number(value["mean"]), _number(value.get("lowest"))
    if mean is None or lowest is None:
        return None
    return Confidence(mean, lowest, _number(value.get("margin")))


def _margin(tokens: Sequence[Any], known: Sequence[float], text: str) -> float | None:
    """The least margin of the tokens that write the final answer."""
    span = final_span(text)
    said = [_field(token, "token") for token in tokens]
    if span is None or not all(isinstance(each, str) for each in said) or "".join(said) != text:
        return None
    margins, at = [], 0
    for token, word, logprob in zip(tokens, said, known, strict=True):
        start, at = at, at + len(word)
        if start < span[1] and at > span[0]:
            margins.append(logprob - _rival(token, word, logprob))
    return min(max(min(margins), _LEAST), _MOST_MARGIN) if margins else None


def _rival(token: Any, word: str, logprob: float) -> float:
    """The log-probability of the likeliest other token; where none is told, the most that the
    token's own leaves."""
    others = [
        _number(_field(each, "logprob"))
        for each in _field(token, "top_logprobs") or ()
        if _field(each, "token") != word
    ]
    told = [max(each, _LEAST) for each in others if each is not None]
    left = -math.expm1(logprob)  # 1 - p
    return max(told) if told else math.log(left) if left > 0 else _LEAST


def _field(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, Mapping) else getattr(value, name, None)


def _number(value: Any) -> float | None:
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if plain and abs(value) <= sys.float_info.max else None
