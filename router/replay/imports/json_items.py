"""The items of a JSON array, one at a time, whatever its length."""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from typing import IO, Any

_CHUNK = 1 << 20  # characters
_LARGEST_ITEM = 1 << 28  # characters; more than that is a missing bracket, not an item
_NEAR = 64  # characters from what was read so far within which an item may just not be complete
_SPACE = " \t\r\n"


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


_decoder = json.JSONDecoder(parse_float=Decimal, parse_constant=_no_number)


class NotAnItem(ValueError):
    """What stands at `line` is no item of a JSON array; `cut`: the text ends in the middle."""

    def __init__(self, line: int, why: str, *, cut: bool):
        self.line, self.why, self.cut = line, why, cut
        super().__init__(why)


def items(text: IO[str]) -> Iterator[tuple[int, Any]]:
    """Read a JSON array.

    Yields each item with the line, from 1, that it begins in. Raises `NotAnItem`.
    """
    buffer, at, line, ended = "", 0, 1, False
    expected = "["  # what has to come next: the bracket, an item, or a comma
    step = _CHUNK
    while True:
        while at < len(buffer) and buffer[at] in _SPACE:
            line += buffer[at] == "\n"
            at += 1
        if at >= len(buffer) and not ended:
            buffer, at = text.read(_CHUNK), 0
            ended = not buffer
            continue
        if at >= len(buffer):
            raise NotAnItem(line, "the array does not end", cut=True)
        if expected in "[,":
            if buffer[at] == "]" and expected == ",":
                _nothing_after(buffer[at + 1 :], text, line)
                return
            if buffer[at] != expected:
                raise NotAnItem(line, f"{expected!r} was expected", cut=False)
            first, expected = expected == "[", "item"
            at += 1
            continue
        if first and buffer[at] == "]":
            _nothing_after(buffer[at + 1 :], text, line)
            return
        try:
            item, end = _decoder.raw_decode(buffer, at)
        except RecursionError:
            raise NotAnItem(line, "it is nested too deeply", cut=False) from None
        except ValueError as error:
            where = getattr(error, "pos", at)
            unfinished = where >= len(buffer) - _NEAR or "Unterminated" in str(error)
            if unfinished and not ended and len(buffer) - at < _LARGEST_ITEM:
                # An item longer than what was read: twice as much next time, so that reading a
                # long one again and again stays linear.
                more = text.read(step)
                step, ended = 2 * step, not more
                buffer, at = buffer[at:] + more, 0
                continue
            broken = getattr(error, "msg", str(error))
            line += buffer.count("\n", at, min(where, len(buffer)))
            raise NotAnItem(line, broken, cut=ended and unfinished) from None
        yield line, item
        line += buffer.count("\n", at, end)
        at, expected, step = end, ",", _CHUNK
        if at >= _CHUNK:
            buffer, at = buffer[at:], 0


def _nothing_after(rest: str, text: IO[str], line: int) -> None:
    while not rest.strip():
        rest = text.read(_CHUNK)
        if not rest:
            return
    raise NotAnItem(line, "something comes after the array", cut=False)
