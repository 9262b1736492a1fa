"""Facts about the answer options of a question, which order an exam's questions best."""

from __future__ import annotations

import re
from itertools import combinations

# A line's beginning is looked for by the line end before it, which a regex finds fastest.
_OPTION = re.compile(r"\n\s{0,3}\(?[a-j][.):]\s([^\n]*)", re.IGNORECASE)
_WORD = re.compile(r"\w+")
_DIGIT = re.compile(r"\d")
_MOST = 10  # a to j; more are no options, and each is held against all others


def option_facts(lines: str) -> tuple[int, float, float]:
    """Read the options of a text that begins with a line end.

    Returns how many there are; how alike the two most alike are, as the share of their words that
    both have (Jaccard's index); and the share of options with a digit. Alike options ask for a fine
    distinction, and options of digits for a calculation. Both are 0 of fewer than two options.
    """
    found = _OPTION.findall(lines)
    if len(found) < 2:
        return len(found), 0.0, 0.0
    options = [option.lower() for option in found[:_MOST]]
    overlap = 0.0
    for one, other in combinations([set(_WORD.findall(option)) for option in options], 2):
        common = len(one & other)
        overlap = max(overlap, common / (len(one) + len(other) - common or 1))
    digits = sum(_DIGIT.search(option) is not None for option in options)
    return len(found), overlap, digits / len(options)
