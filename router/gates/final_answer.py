"""The final answer of a text: the letter, the number or the words that it comes to."""

from __future__ import annotations

import json
import re
from typing import NamedTuple

SHORT = 60  # characters; below it an answer may be all final answer
READ = 20_000  # characters at each end
_BRACE = re.compile(r"\\boxed\s*\{|\\.|[{}]")
# Within a lookahead, so that "the correct answer is:\nThe answer is B" is found at both.
_SAID = re.compile(
    r"\b(?=(?:answer|correct option)\b(?:[^\n\w(\[$\\−.-]|\.(?!\d)){0,8}"
    r"(?:is|would be|:|=)?[\s:*$`\"'(\[{]*"
    r"(?:option\s+)?([^\n]{1,60}))",
    re.IGNORECASE,
)
_KEY = re.compile(r'"answer"\s*:\s*')
_DECODER = json.JSONDecoder(strict=False)
_MARKED = re.compile(r"^####\s*(.+)$", re.M)
_LETTER = re.compile(r"^\(?([A-J])\)?(?![A-Za-z0-9'’])")
# Standing alone or set off: "A dog" and "I think so" name no choice.
_CHOICE = re.compile(r"^(?:\(?([A-Ja-j])\)|([A-J])(?=[.:,;*_`'\"$}\]](?![A-Za-z])|\s*$|\s*[-–—]))")
_STYLE = re.compile(r"\\(?:text|mathrm|mathbf)\s*\{([^}]*)\}")
# A comma groups digits only where three follow the last one: in "1,234", not in "1,2" or "3,5".
_NUMBER = re.compile(
    r"[-+]?(?:(?:\d{1,3}(?:,\d{2,3})*,\d{3}(?![\d,])|\d+)(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?"
)
# Of "5 because 2 + 3 is 5" only the beginning is the answer.
_REASON = re.compile(r"(?<=\w)[.;](?:\s|$)|\*\*|\\\)|\s\(|,?\s+(?:because|since|as|which|so)\b")
# What makes a number one of several that say the answer together, or a part of a formula.
_FORMULA = re.compile(r"[\^_/√+*<>≤≥±]|\\(?!approx|sim)[A-Za-z]|\d[A-Za-zπ]\b")
# Of units, what looks like one: "cm^2", "km/h".
_UNIT = re.compile(r"(\b(?:[kcdm]?m|ft|in|yd|units?|s)\}?)\^\{?[23]\}?|(?<=[A-Za-z])/(?=[A-Za-z])")
_EXACT = 2**53  # below it each whole number is a float
_EDGES = " \t\n.,;:!?*_`'\"$()[]{}\\"


class Final(NamedTuple):
    """A final answer: `folded`, as people would compare it (a choice's letter, a number's value,
    words whatever their case and spacing), and `exact`, letter by letter, but for the quotes around
    it, as a program's output has to be compared."""

    folded: str
    exact: str


def final_answer(text: str) -> str | None:
    """The normalised final answer of a text (a letter, a number or a short string), None where it
    names none: the last box, the last "the answer is …", a `####` line, a JSON key "answer", or a
    text that is no longer than an answer itself."""
    found = final_of(text)
    return None if found is None else found.folded


def final_of(text: str) -> Final | None:
    """`final_answer`, folded and exact."""
    found = _found(_both_ends(text))
    return None if found is None else found[0]


def marked_final(text: str) -> Final | None:
    """The final answer of a text that marks one as such: in a box, under a key, after `####`."""
    found = _marked(_both_ends(text))
    return None if found is None else found[0]


def final_span(text: str) -> tuple[int, int] | None:
    """Where in a text its final answer stands, as (start, end); None where it names none, or where
    the text is too long to be read whole."""
    found = _found(text) if len(text) <= 2 * READ else None
    return None if found is None else found[1:]


def _both_ends(text: str) -> str:
    return text if len(text) <= 2 * READ else text[:READ] + text[-READ:]


def _marked(text: str) -> tuple[Final, int, int] | None:
    """The final answer of a text that marks one as such, and where it stands."""
    boxed = _boxed(text)
    if boxed is not None:
        return _final(text[slice(*boxed)]), *boxed
    keyed = _keyed(text)
    if keyed is not None:
        return _final(keyed[0]), *keyed[1:]
    marked = _last(_MARKED, text)
    if marked is not None:
        return _final(marked[1]), *marked.span(1)
    return None


def _found(text: str) -> tuple[Final, int, int] | None:
    """The final answer, and where it stands."""
    marked = _marked(text)
    if marked is not None:
        return marked
    said = [found for found in _SAID.finditer(text) if found[1].strip(_EDGES)]
    if said:
        answer, start, end = _short(said[-1][1])
        return Final(answer, answer), said[-1].start(1) + start, said[-1].start(1) + end
    stripped = text.strip()
    if not 0 < len(stripped) < SHORT:
        return None
    start = len(text) - len(text.lstrip())
    return _final(stripped), start, start + len(stripped)


def _boxed(text: str) -> tuple[int, int] | None:
    """Where the content of the last closed box stands, whatever braces are in it."""
    open_braces: list[int | None] = []  # of a box, where its content begins
    found = None
    for brace in _BRACE.finditer(text):
        if brace[0] == "}":
            begin = open_braces.pop() if open_braces else None
            found = found if begin is None else (begin, brace.start())
        elif brace[0].endswith("{") and brace[0] != r"\{":
            open_braces.append(None if brace[0] == "{" else brace.end())
    return found


def _last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    found = None
    for found in pattern.finditer(text):  # noqa: B007
        pass
    return found


def _final(said: str) -> Final:
    folded = normal(said)
    if _LETTER.fullmatch(folded) or _NUMBER.fullmatch(folded):
        # A letter or a number is the same however it is set; a letter before a word is none.
        plain = _STYLE.sub(r"\1", said).strip(_EDGES)
        whole = len(plain) <= 1 or _NUMBER.fullmatch(folded) is not None
        return Final(folded, folded if whole and not _spaced(said) else said)
    quote = said[:1]
    quoted = len(said) > 1 and quote in ("'", '"') and said.endswith(quote)
    return Final(folded, said[1:-1] if quoted else said)


def _spaced(said: str) -> bool:
    """Whether a quoted answer has spaces that count, such as ' 4 2 '."""
    return said.strip()[:1] in ("'", '"') and said.strip()[1:-1] != said.strip()[1:-1].strip()


def normal(answer: str) -> str:
    """An answer as it is compared: a choice's letter, a number's value, else folded words."""
    bare = _STYLE.sub(r"\1", answer).strip().replace("−", "-")
    plain = bare.strip(_EDGES)
    letter = _CHOICE.match(bare.lstrip("$*`\"'{[ ")) or _CHOICE.match(plain)
    if letter:
        return (letter[1] or letter[2]).upper()
    if re.fullmatch("[a-j]", plain):
        return plain.upper()
    begin = bare.find(plain)
    if plain[:1].isdigit() and bare[:begin].endswith(".") and not bare[:begin].endswith(".."):
        plain = f".{plain}"  # of ".5" the point is no punctuation
    number = _NUMBER.fullmatch(plain.removeprefix("$").removesuffix("%").strip())
    if number:
        return _value(number[0])
    return re.sub(r"[\s\\$]+", "", plain).casefold()[:200]


def _value(number: str) -> str:
    """A number in the form that all equal ones share: a whole one to its last digit, another one to
    ten."""
    bare = number.replace(",", "")
    if re.fullmatch(r"[-+]?\d{1,300}", bare):
        return str(int(bare))
    value = float(bare)
    return str(int(value)) if value.is_integer() and abs(value) < _EXACT else f"{value:.10g}"


def _short(said: str) -> tuple[str, int, int]:
    """Of a sentence that names an answer, the answer (its letter, its number or its words), and
    where it stands."""
    before = len(said) - len(said.lstrip())
    letter = _LETTER.match(said.strip())
    if letter:
        return letter[1].upper(), before + letter.start(1), before + letter.end(1)
    first = _REASON.split(said)[0].replace("−", "-")
    bare = _UNIT.sub(lambda unit: (unit[1] or "").ljust(len(unit[0])), first)
    numbers = list(_NUMBER.finditer(bare))
    if len(numbers) == 1 and not _FORMULA.search(_STYLE.sub(r" \1", bare)):
        return normal(numbers[0][0]), *numbers[0].span()
    return normal(first), 0, len(first)


def _keyed(text: str) -> tuple[str, int, int] | None:
    """The value of the last JSON key "answer", and where it stands."""
    key = _last(_KEY, text)
    if key is None:
        return None
    try:
        said, end = _DECODER.raw_decode(text, key.end())
    except (ValueError, RecursionError):
        line = text[key.end() :].split("\n")[0]
        return line.strip(' ",}'), key.end(), key.end() + len(line)
    return said if isinstance(said, str) else json.dumps(said), key.end(), end
