"""One record of a file, and its fields by type: text from a CSV is read like values from JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation
from typing import Any

from router.errors import ImportFileError
from router.money import MAX_NANO, NANO_PER_USD

_LARGEST = 10**9  # no call has a billion tokens
_EARLIEST = 946_684_800.0  # 2000-01-01, unix seconds: what is before is of another unit
_LATEST = 4_102_444_800.0  # 2100-01-01, unix seconds
_LONGEST_CALL = 30 * 86_400.0  # seconds
_SHOWN = 60  # characters of a value that an error repeats
_UNITS = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}


@dataclass(frozen=True, slots=True)
class Row:
    """Named values with the place that they came from; a nested object is a row of its own.

    Every method takes a field's name and returns None where it is absent, null or empty, and raises
    `ImportFileError` with file, line, field and value where it is something else than it must be.
    `zone`: what a time without a zone is in; None where that must not be guessed. `within`: the
    object in whose list it stood.
    """

    file: str
    line: int | None
    values: Mapping[str, Any]
    prefix: str = ""
    zone: Any = UTC
    within: Mapping[str, Any] = field(default_factory=dict)

    def problem(self, field: str, problem: str, todo: str = "") -> ImportFileError:
        """The error for a field, to be raised."""
        found = self.values.get(field)
        shown = "" if found is None else _shown(found)
        return ImportFileError(
            self.file, self.line, self.prefix + field, problem, value=shown, todo=todo
        )

    def has(self, field: str) -> bool:
        """Whether a field says anything."""
        value = self.values.get(field)
        return value is not None and not (isinstance(value, str) and not value.strip())

    def text(self, field: str) -> str | None:
        """Text, or a number as text; what no store can hold (a lone surrogate, NUL) becomes "?"."""
        if not self.has(field):
            return None
        value = self.values[field]
        if isinstance(value, bool | Mapping | list):
            raise self.problem(field, "must be text")
        return _storable(value)

    def required(self, field: str, todo: str = "export the log with this column") -> str:
        """Text that must be there."""
        value = self.text(field)
        if value is None:
            raise self.problem(field, "is missing", todo)
        return value

    def count(self, field: str) -> int | None:
        """A whole number of 0 or more, such as tokens."""
        number = self._number(field)
        if number is None:
            return None
        if number != number.to_integral_value() or not 0 <= number <= _LARGEST:
            raise self.problem(field, "must be a whole number from 0 to 10^9")
        return int(number)

    def number(self, field: str) -> float | None:
        """Any finite number."""
        found = self._number(field)
        return None if found is None else float(found)

    def money(self, field: str) -> int | None:
        """US dollars as nano-USD: the nearest, since a float's noise is not money."""
        amount = self._number(field)
        if amount is None:
            return None
        if not 0 <= amount <= MAX_NANO // NANO_PER_USD:
            raise self.problem(field, "must be an amount of US dollars of 0 or more")
        return int((amount * NANO_PER_USD).to_integral_value(ROUND_HALF_EVEN))

    def flag(self, field: str) -> bool | None:
        """True or False, also written as text."""
        if not self.has(field):
            return None
        value = self.values[field]
        if isinstance(value, str):
            value = {
                "true": True,
                "t": True,
                "1": True,
                "false": False,
                "f": False,
                "0": False,
            }.get(value.strip().lower())
        if isinstance(value, int) and not isinstance(value, bool) and value in (0, 1):
            value = bool(value)
        if not isinstance(value, bool):
            raise self.problem(field, "must be true or false")
        return value

    def seconds(self, field: str, unit: str = "s") -> float | None:
        """A duration in `unit` ("s", "ms", "us", "ns"), as seconds."""
        number = self._number(field)
        if number is None:
            return None
        seconds = float(number / _UNITS[unit])
        if not 0 <= seconds <= _LONGEST_CALL:
            raise self.problem(field, "must be a duration from 0 to 30 days")
        return seconds

    def time(self, field: str, unit: str = "s") -> float | None:
        """A moment as unix seconds: ISO 8601 text, or a number of `unit` since 1970."""
        if not self.has(field):
            return None
        value = self.values[field]
        if isinstance(value, datetime):
            moment = value
        elif isinstance(value, str) and not _is_number(value):
            try:
                moment = datetime.fromisoformat(value.strip())
            except ValueError:
                raise self.problem(
                    field, "is not a time", "write it as 2026-01-31T12:00:00Z"
                ) from None
        else:
            number = self._number(field)
            assert number is not None
            return self._plausible(field, float(number / _UNITS[unit]))
        if moment.tzinfo is None:
            if self.zone is None:
                raise self.problem(
                    field, "is a time without a zone", "end it in Z, or in an offset such as +01:00"
                )
            moment = moment.replace(tzinfo=self.zone)
        return self._plausible(field, moment.timestamp())

    def needed_time(self, field: str, unit: str = "s") -> float:
        """A moment that must be there."""
        found = self.time(field, unit)
        if found is None:
            raise self.problem(field, "is missing", "a request without its time cannot be replayed")
        return found

    def json(self, field: str) -> Any:
        """A value, or the value that JSON text stands for; text that is no JSON stays text."""
        if not self.has(field):
            return None
        value = self.values[field]
        if isinstance(value, str) and value.lstrip()[:1] in ("{", "[", '"'):
            try:
                return loads(value)
            except (ValueError, RecursionError):
                return value
        return value

    def row(self, field: str) -> Row:
        """A nested object, or JSON text of one, as a row; an empty one where there is none."""
        value = self.json(field)
        values = value if isinstance(value, Mapping) else {}
        return Row(self.file, self.line, values, f"{self.prefix}{field}.", self.zone)

    def texts(self, field: str) -> tuple[str, ...]:
        """A list of texts, or JSON text of one; a single text is a list of one."""
        value = self.json(field)
        if value is None or isinstance(value, Mapping):
            return ()
        if not isinstance(value, list):
            value = [value]
        return tuple(_storable(each) for each in value if each is not None and str(each).strip())

    def _number(self, field: str) -> Decimal | None:
        if not self.has(field):
            return None
        value = self.values[field]
        try:
            if isinstance(value, bool) or not isinstance(value, int | float | str | Decimal):
                raise InvalidOperation
            number = Decimal(str(value).strip())
            if not number.is_finite() or abs(number.adjusted()) > 40:
                raise InvalidOperation
        except InvalidOperation:
            # 0E-99999999 is a number, and one without digits to look at
            if isinstance(value, str | Decimal) and _is_zero(value):
                return Decimal(0)
            raise self.problem(field, "must be a finite number") from None
        return number

    def _plausible(self, field: str, seconds: float) -> float:
        if not math.isfinite(seconds) or not _EARLIEST <= seconds < _LATEST:
            raise self.problem(
                field, "is not a time from 2000 to 2100", "mind the unit: seconds, not milliseconds"
            )
        return seconds


def loads(text: str) -> Any:
    """Read JSON with exact decimals. Raises `ValueError`, also for NaN, or `RecursionError`."""
    return json.loads(text, parse_float=Decimal, parse_constant=_no_number)


def plain(value: Any) -> Any:
    """A value read by `loads` with ordinary numbers, as other rooms expect it."""
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return value


def _storable(value: Any) -> str:
    return str(value).encode("utf-8", "replace").decode().replace("\0", "?")


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _is_number(text: str) -> bool:
    try:
        Decimal(text.strip())
    except InvalidOperation:
        return False
    return True


def _is_zero(value: str | Decimal) -> bool:
    try:
        number = Decimal(value)
    except InvalidOperation:
        return False
    return number.is_finite() and not number


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else repr(plain(value))
    text = repr(text) if isinstance(value, str) else text
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
