"""Reading a policy's text: a small, safe part of YAML, with the line of every key.

The events of PyYAML's parser become plain values here instead of in its constructors, so nothing
in a file can name a Python object, refer to another part of the file, or grow while it is read.
Plain scalars follow the core schema of YAML 1.2.2, section 10.3: `yes`, `on` and `12:30` are text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any, NoReturn, TypeAlias

import yaml

from router.errors import PolicyError

MAX_BYTES = 1_000_000
MAX_DEPTH = 20
MAX_VALUES = 5_000
MAX_DIGITS = 30

Path: TypeAlias = tuple[str | int, ...]
Lines: TypeAlias = dict[Path, int]

_INTEGER = re.compile(r"[+-]?[0-9]+")
_REAL = re.compile(r"[+-]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][+-]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[+-]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_WORDS: dict[str, bool | None] = {
    "": None,
    "~": None,
    "null": None,
    "Null": None,
    "NULL": None,
    "true": True,
    "True": True,
    "TRUE": True,
    "false": False,
    "False": False,
    "FALSE": False,
}
_TAG = "tag:yaml.org,2002:"

# libyaml is several times faster; both classes give the same events.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, slots=True)
class Document:
    """A policy as plain values: dicts with text keys, tuples, text, bool, int, Decimal and None.

    `lines` gives the line, from 1, of each key and list entry by its path; it is empty where the
    policy did not come from text.
    """

    file: str
    data: dict[str, Any]
    lines: Lines


def dotted(path: Path) -> str:
    """Return a path as people write it: ("tiers", "nano", 0) is "tiers.nano.0"."""
    parts = (str(part) for part in path)
    return ".".join(part if part.isprintable() else ascii(part) for part in parts)


def read_text(text: str, file: str) -> Document:
    """Parse YAML text into a `Document`; raise `PolicyError` for whatever is not plain data."""
    if len(text.encode("utf-8", "replace")) > MAX_BYTES:
        raise PolicyError(file, "", "the file is too large", allowed=f"up to {MAX_BYTES:,} bytes")
    reader = _Reader(text, file)
    try:
        data = reader.document()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark is not None else None
        problem = f"not valid YAML: {error.problem or error.context}"
        raise PolicyError(file, "", problem, line=line) from None
    except (yaml.YAMLError, UnicodeError) as error:
        why = str(error).splitlines()[0]
        raise PolicyError(file, "", f"not valid YAML: {why}") from None
    return Document(file, _mapping_at_top(data, file), reader.lines)


def read_mapping(source: Mapping[str, Any], file: str) -> Document:
    """Copy a policy given as Python values into a `Document`, under the rules for text."""
    return Document(file, _mapping_at_top(_plain(source, (), file), file), {})


def as_yaml(data: Any, width: int = 80) -> str:
    """Return plain data as the YAML text of a policy, which is read as the same data again."""
    return str(yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=width))


class _Dumper(yaml.SafeDumper):
    """PyYAML leaves text bare that is a number here, such as 1e3."""


def _written_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    try:
        bare = isinstance(_scalar(text), str)
    except ValueError:
        bare = False
    return dumper.represent_scalar(f"{_TAG}str", text, style=None if bare else "'")


_Dumper.add_representer(str, _written_text)


def _mapping_at_top(data: object, file: str) -> dict[str, Any]:
    if data is None:
        raise PolicyError(
            file, "", "the policy is empty", allowed="a mapping with version, tiers, …"
        )
    if not isinstance(data, dict):
        raise PolicyError(
            file, "", f"a policy is a mapping, not {_kind(data)}", value=data, allowed="key: value"
        )
    return data


class _Reader:
    """Builds plain values from parser events, one document, without aliases or tags."""

    def __init__(self, text: str, file: str):
        self.file = file
        self.lines: Lines = {}
        self._events: Iterator[yaml.Event] = yaml.parse(text, Loader=_Loader)
        self._count = 0

    def document(self) -> object:
        next(self._events)  # stream start
        event = next(self._events)
        if isinstance(event, yaml.StreamEndEvent):
            return None
        value = self._value(next(self._events), ())
        next(self._events)  # document end
        if not isinstance(next(self._events), yaml.StreamEndEvent):
            raise PolicyError(self.file, "", "more than one YAML document", allowed="one document")
        return value

    def _value(self, event: yaml.Event, path: Path) -> object:
        line = _line(event)
        self.lines.setdefault(path, line)
        self._count += 1
        if self._count > MAX_VALUES:
            self._fail(path, line, "too many values", f"up to {MAX_VALUES:,} in one file")
        if len(path) > MAX_DEPTH:
            self._fail(path[:4], line, "nested too deeply", f"up to {MAX_DEPTH} levels")
        anchor = getattr(event, "anchor", None)
        if anchor is not None:
            is_alias = isinstance(event, yaml.AliasEvent)
            problem = f"*{anchor} is an alias" if is_alias else f"&{anchor} is an anchor"
            self._fail(path, line, problem, "each value written out")
        if isinstance(event, yaml.MappingStartEvent):
            self._check_tag(event.tag, "map", path, line)
            return self._mapping(path)
        if isinstance(event, yaml.SequenceStartEvent):
            self._check_tag(event.tag, "seq", path, line)
            return self._sequence(path)
        assert isinstance(event, yaml.ScalarEvent)
        if event.tag in (_TAG + "str", "!") or (event.tag is None and not event.implicit[0]):
            return event.value
        self._check_tag(event.tag, None, path, line)
        try:
            return _scalar(event.value)
        except ValueError as error:
            self._fail(path, line, str(error), "a finite number", value=event.value)

    def _mapping(self, path: Path) -> dict[str, object]:
        mapping: dict[str, object] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            line = _line(event)
            if not isinstance(event, yaml.ScalarEvent):
                self._fail(path, line, "a key that is not plain text", "text as a key")
            key = event.value
            at = (*path, key)
            if event.anchor is not None or event.tag is not None:
                self._fail(at, line, "a key with an anchor or a tag", "a plain key")
            if key == "<<" and event.implicit[0]:
                self._fail(at, line, "<< is a merge key", "each value written out")
            if key in mapping:
                first = self.lines[at]
                self._fail(at, line, f"written twice, first on line {first}", "each key once")
            self.lines[at] = line
            mapping[key] = self._value(next(self._events), at)
        return mapping

    def _sequence(self, path: Path) -> tuple[object, ...]:
        entries: list[object] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            entries.append(self._value(event, (*path, len(entries))))
        return tuple(entries)

    def _check_tag(self, tag: str | None, name: str | None, path: Path, line: int) -> None:
        if tag is not None and tag not in ("!", f"{_TAG}{name}"):
            shown = tag.replace(_TAG, "!!")
            self._fail(path, line, f"the tag {shorten(shown)} is not allowed", "plain values")

    def _fail(
        self, path: Path, line: int, problem: str, allowed: str, value: object = None
    ) -> NoReturn:
        raise PolicyError(self.file, dotted(path), problem, value=value, allowed=allowed, line=line)


def _line(event: yaml.Event) -> int:
    mark = event.start_mark
    return mark.line + 1 if mark is not None else 0


def _scalar(text: str) -> object:
    if text in _WORDS:
        return _WORDS[text]
    if _NOT_FINITE.fullmatch(text):
        raise ValueError(f"{text} is not a finite number")
    if _INTEGER.fullmatch(text):
        return int(_number(text))
    if _REAL.fullmatch(text):
        return _number(text)
    return text


def _number(text: str) -> Decimal:
    """Bound a number's size, so that no later arithmetic on it can be slow or overflow."""
    try:
        number = Decimal(text) if len(text) <= MAX_DIGITS else None
    except InvalidOperation:
        number = None
    if number is None:
        raise ValueError(f"{shorten(text)} is too long a number")
    exponent = number.as_tuple().exponent
    if not isinstance(exponent, int):  # NaN and the infinities have a letter here
        raise ValueError(f"{text} is not a finite number")
    if number.is_zero() and number.is_signed():
        raise ValueError(f"{text} is a negative zero")
    if exponent < -MAX_DIGITS or number.adjusted() > MAX_DIGITS:
        raise ValueError(f"{text} is too large or too fine a number")
    return number


def _plain(value: object, path: Path, file: str) -> object:
    if len(path) > MAX_DEPTH:
        problem = "nested too deeply"
        raise PolicyError(file, dotted(path[:4]), problem, allowed=f"up to {MAX_DEPTH} levels")
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                problem = f"the key {shorten(repr(key))} is not text"
                raise PolicyError(file, dotted(path), problem, value=key, allowed="text as a key")
        return {key: _plain(item, (*path, key), file) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return tuple(_plain(item, (*path, at), file) for at, item in enumerate(value))
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int | float | Decimal):
        try:
            if isinstance(value, int):
                return int(_number(str(value)))
            return _number(repr(float(value)) if isinstance(value, float) else str(value))
        except ValueError as error:
            problem = str(error)
            raise PolicyError(
                file, dotted(path), problem, value=value, allowed="a finite number"
            ) from None
    raise PolicyError(
        file, dotted(path), f"{_kind(value)} is not plain data", value=value,
        allowed="mappings, lists, text, numbers, true, false and null",
    )  # fmt: skip


def show(value: object) -> str:
    """Return a value for a message: short, and of a mapping or list not what is in it."""
    if isinstance(value, dict | tuple):
        return _kind(value)
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return shorten(repr(value) if isinstance(value, str) else str(value), 60)


def _kind(value: object) -> str:
    names = {
        dict: "a mapping",
        tuple: "a list",
        str: "text",
        bool: "a truth value",
        int: "a number",
    }
    return names.get(type(value), f"a {type(value).__name__}")


def shorten(text: str, limit: int = 40) -> str:
    """Return a text, or the beginning of a long one."""
    return text if len(text) <= limit else text[: limit - 1] + "…"
