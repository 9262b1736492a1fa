"""Makes an old part of a history shorter without a model: pure functions over messages.

The system prompt at the beginning and the last turns stay as they are. Of the turns between:

1. What users wrote stays whole, up to `LONGEST_WORDS` characters a message: it is short, and
   nothing else says what they want.
2. Everything else is cut into lines, long lines into clauses. A word weighs the more, the fewer
   lines it stands in (the cube of its inverse document frequency, Robertson and Spärck Jones, as
   a share of that of a word said once), and 1 if it holds a digit: names, numbers, dates and ids
   are what later turns come back to, and boilerplate is made of words that are everywhere. A line's
   score is the weight of the words that it shares with the last turns; half that of its four
   weightiest words; that of the weightiest once more for the first and the last line of its
   message; and up to a half for how late in the conversation it stands; all for its length. The
   best stay, until the share of characters that the policy allows is used up.
3. Thoughts go. A call of tools of which no line is left goes with all of its results, never one
   without the other; of what an assistant says to a user one line stays at least, so that the two
   still take turns.

A gap is marked by "[…]". Arguments of calls, images and files are not touched.
"""

from __future__ import annotations

import heapq
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from router.conversations.portable import bare
from router.predict.text import text_of

Message = Mapping[str, Any]
GAP = "[…]"
LONGEST_WORDS = 2_000  # characters of a user's message; a longer one holds pasted text
_LONGEST_LINE = 240  # characters; a longer line is cut at its clauses
_PIECE = 120  # characters of a cut line that stay or go together, where its clauses are that short
_SHORT = 20  # characters, up to which brevity is no merit
_WORD = re.compile(r"\w[\w.@/-]*\w|\w")
_DIGIT = re.compile(r"\d")
_CLAUSE = re.compile(r"(?<=[.;,!?}\]])\s+")


@dataclass(frozen=True, slots=True)
class Parts:
    """A history in three: the system's beginning, the old turns, and the last ones."""

    head: Sequence[Message]
    old: Sequence[Message]
    last: Sequence[Message]


def parts_of(messages: Sequence[Message], keep_turns: int) -> Parts:
    """Divide a history so that its last `keep_turns` user turns are in the last part. Where it has
    no more than these it is one long errand, of which the steps since its latest order are divided:
    twice so many stay. No call is parted from its results."""
    start = next(
        (at for at, m in enumerate(messages) if m.get("role") not in ("system", "developer")),
        len(messages),
    )
    turns = [at for at in range(start, len(messages)) if is_turn(messages[at])]
    if len(turns) > keep_turns:
        cut = turns[-keep_turns]
    else:
        start = turns[-1] + 1 if turns else start
        steps = [unit.start for unit in units(messages, start)]
        cut = steps[-2 * keep_turns] if len(steps) > 2 * keep_turns else start
    return Parts(messages[:start], messages[start:cut], messages[cut:])


def is_turn(message: Message) -> bool:
    """Whether a message is a user's own, and not a tool's result in a user's role."""
    content = message.get("content")
    results = isinstance(content, list | tuple) and any(
        isinstance(part, Mapping) and part.get("type") == "tool_result" for part in content
    )
    return message.get("role") == "user" and not results


def units(messages: Sequence[Message], start: int = 0) -> Iterator[range]:
    """Yield what must stay together from `start` on: each message, a call with all its results."""
    begin = start
    for at in range(start + 1, len(messages) + 1):
        if at < len(messages) and _is_result(messages[at]):
            continue
        if begin < at:
            yield range(begin, at)
        begin = at


def _is_result(message: Message) -> bool:
    if message.get("role") in ("tool", "function"):
        return True
    return message.get("role") == "user" and not is_turn(message)


@dataclass(slots=True)
class _Line:
    message: int
    text: str
    score: float = 0.0
    kept: bool = False


def shorten(old: Sequence[Message], last: Sequence[Message], share: float) -> list[Message]:
    """Return the old turns with about `share` of their text that is not the users' own.

    Parameters: `last`, the turns after them, whose words say what still matters.
    """
    lines = _lines(old)
    budget = share * sum(len(line.text) for line in lines)
    _score(lines, last, len(old))
    for line in sorted(lines, key=lambda each: -each.score):
        if len(line.text) <= budget:
            line.kept, budget = True, budget - len(line.text)
    of_message: dict[int, list[_Line]] = {}
    for line in lines:
        of_message.setdefault(line.message, []).append(line)
    found: list[Message] = []
    for unit in units(old):
        mine = [line for at in unit for line in of_message.get(at, ())]
        calls = bool(old[unit.start].get("tool_calls")) or len(unit) > 1
        if calls and mine and not any(line.kept for line in mine):
            continue
        if not calls and mine and not any(line.kept for line in mine):
            mine[0].kept = True
        for at in unit:
            plain = bare(old[at])
            if plain is not None or calls:
                found.append(_rendered(plain or old[at], of_message.get(at, [])))
    return found


def _lines(old: Sequence[Message]) -> list[_Line]:
    """The lines that may go, in order."""
    lines = []
    for at, message in enumerate(old):
        text = text_of(readable(message.get("content")))
        if is_turn(message) and len(text) <= LONGEST_WORDS:
            continue
        lines += [_Line(at, piece) for piece in _pieces(text)]
    return lines


def readable(content: Any) -> Any:
    """Content with the text of tools' results in reach."""
    if not isinstance(content, list | tuple):
        return content
    return [
        {"text": text_of(part["content"])}
        if isinstance(part, Mapping) and part.get("type") == "tool_result" and "content" in part
        else part
        for part in content
    ]


def _pieces(text: str) -> list[str]:
    """Lines, and of long ones their clauses."""
    found = []
    for line in text.split("\n"):
        if len(line) <= _LONGEST_LINE:
            if line.strip():
                found.append(line)
            continue
        held = ""
        for clause in _CLAUSE.split(line):
            for begin in range(0, len(clause), _LONGEST_LINE):  # one without any clause
                piece = clause[begin : begin + _LONGEST_LINE]
                if held and len(held) + len(piece) > _PIECE:
                    found.append(held)
                    held = ""
                held = f"{held} {piece}" if held else piece
        if held.strip():
            found.append(held)
    return found


def _score(lines: Sequence[_Line], last: Sequence[Message], messages: int) -> None:
    words = [set(_WORD.findall(line.text.lower())) for line in lines]
    found_in = Counter(word for some in words for word in some)
    wanted = {
        word
        for message in last
        for word in _WORD.findall(text_of(readable(message.get("content"))).lower())
    }
    once = math.log(1 + len(lines))
    rare = {word: (math.log(1 + len(lines) / n) / once) ** 3 for word, n in found_in.items()}
    weight = {word: 1.0 if _DIGIT.search(word) else value for word, value in rare.items()}
    for at, (line, some) in enumerate(zip(lines, words, strict=True)):
        shared = once * sum(rare[word] for word in some & wanted) / math.sqrt(1 + len(some))
        facts = heapq.nlargest(4, map(weight.__getitem__, some))
        first = at == 0 or lines[at - 1].message != line.message
        final = at + 1 == len(lines) or lines[at + 1].message != line.message
        ends = max(facts, default=0.0) * (first or final)
        score = shared + sum(facts) / 2 + ends + (line.message + 1) / messages / 2
        line.score = score / math.sqrt(_SHORT + len(line.text))


def _rendered(message: Message, lines: Sequence[_Line]) -> Message:
    """A message with what is left of its text, in its own shape."""
    if not lines or all(line.kept for line in lines):
        return message
    texts: list[str] = []
    for line in lines:
        if line.kept:
            texts.append(line.text)
        elif not texts or texts[-1] != GAP:
            texts.append(GAP)
    text = "\n".join(texts)
    content = message.get("content")
    if isinstance(content, str):
        return {**message, "content": text}
    # Of several parts the first with text takes it all; what is no text stays where it is.
    parts: list[Any] = []
    for part in content or ():
        if isinstance(part, Mapping) and part.get("type") == "tool_result" and "content" in part:
            parts.append({**part, "content": text})
            text = GAP
        elif isinstance(part, Mapping) and isinstance(part.get("text"), str):
            if text != GAP or not parts:
                parts.append({**part, "text": text})
            text = GAP
        elif not isinstance(part, str):
            parts.append(part)
    return {**message, "content": parts}
