"""The price book: dated entries in a file that only grows.

`book.jsonl` has one entry a line, `book.chain` one digest a line: each digest covers the entry and
the digest before it, so that an old price cannot be edited or dropped without every later digest
changing. A new price is a new line with its own `effective_from`; the past keeps its prices.
Not in it: fees for web search, file search and cache storage, and regional surcharges.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Generic, NoReturn, TypeAlias, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from router.errors import ConfigurationError
from router.prices.price import Price
from router.prices.schema import PriceEntry, to_price
from router.types import Effort

SHIPPED = Path(__file__).with_name("book.jsonl")
STAMP_DIGITS = 12

Value = TypeVar("Value")


def _iso_date(value: object) -> date:
    if not isinstance(value, str):  # pydantic would take a bare number for a timestamp
        raise ValueError(f'{value!r} is not a day; write it as text, such as "2026-11-24"')
    return date.fromisoformat(value)


IsoDate: TypeAlias = Annotated[date, BeforeValidator(_iso_date)]
Count: TypeAlias = Annotated[int, Field(gt=0, strict=True)]
Name: TypeAlias = Annotated[str, Field(pattern=r"^\S{1,200}$")]


class Capabilities(BaseModel):
    """What a model can take. `context_window` and `max_output_tokens` are in tokens.

    `efforts` are the reasoning efforts it can be asked for; `reasoning` says whether it may bill
    reasoning tokens, which some models do without being asked; `reasoning_beyond_cap`, how many of
    them may come on top of `max_tokens`, where a provider does not count them in it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    context_window: Count | None = None
    max_output_tokens: Count | None = None
    vision: bool = False
    audio: bool = False
    files: bool = False
    tools: bool = False
    structured_output: bool = False
    reasoning: bool = False
    reasoning_beyond_cap: Count | None = None
    efforts: tuple[Effort, ...] = ()


class BookEntry(PriceEntry):
    """One line of the book: the price of `model` from the start of `effective_from` (UTC) on.

    `checked` is the day on which somebody compared it with `source`.
    """

    model: Annotated[str, Field(pattern=r"^[a-z0-9_-]+/\S{1,200}$")]
    aliases: tuple[Name, ...] = ()
    effective_from: IsoDate
    checked: IsoDate
    source: Annotated[str, Field(min_length=3)]
    capabilities: Capabilities = Capabilities()
    note: str = ""

    @property
    def starts(self) -> float:
        """`effective_from` in unix seconds."""
        day = self.effective_from
        return datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()


@dataclass(frozen=True, slots=True)
class Dated(Generic[Value]):
    """Values that follow each other: `values[i]` holds from `starts[i]` (unix seconds) until the
    next one starts; before the first there is none."""

    starts: tuple[float, ...]
    values: tuple[Value, ...]

    def at(self, now: float) -> Value | None:
        """The value that holds at `now`, unix seconds; of two with one start, the later."""
        following = bisect_right(self.starts, now)
        return self.values[following - 1] if following else None


_NO_PRICES: Dated[Price] = Dated((), ())


class PriceBook:
    """The entries of one book, found by model and time. `hash` stamps what was priced with it."""

    def __init__(self, entries: Iterable[BookEntry], digest: str):
        self.entries = tuple(entries)
        self.hash = digest[:STAMP_DIGITS]
        by_model: dict[str, list[BookEntry]] = {}
        for entry in self.entries:
            by_model.setdefault(entry.model, []).append(entry)
        self._entries: dict[str, Dated[BookEntry]] = {}
        self._prices: dict[str, Dated[Price]] = {}
        for model, entries_of in by_model.items():
            entries_of.sort(key=lambda entry: entry.starts)  # stable: a later line wins its day
            starts = tuple(entry.starts for entry in entries_of)
            self._entries[model] = Dated(starts, tuple(entries_of))
            prices = tuple(to_price(entry, model) for entry in entries_of)
            self._prices[model] = Dated(starts, prices)
        self._names = _names(self.entries)

    def entry(self, model: str, now: float) -> BookEntry | None:
        """The newest entry in effect at `now` (unix seconds); `model` as for `price`."""
        history = self._entries.get(self._names.get(model, model))
        return history.at(now) if history else None

    def price(self, model: str, now: float) -> Price | None:
        """The price in effect at `now` (unix seconds), None where none is known.

        `model` is litellm's name for it ("openai/gpt-5.4-mini"), an alias, or either without the
        provider's prefix where that leaves no slash and names one model only.
        """
        return self.prices(model).at(now)

    def prices(self, model: str) -> Dated[Price]:
        """Every price of `model`, named as for `price`, from the day that it holds on."""
        return self._prices.get(self._names.get(model, model), _NO_PRICES)

    def models(self, now: float) -> tuple[BookEntry, ...]:
        """The entry in effect at `now` of every model that has one, in the order of the book."""
        return tuple(
            entry for model in self._entries if (entry := self.entry(model, now)) is not None
        )

    def capabilities(self, model: str) -> Mapping[str, Any] | None:
        """What `model` can take by its newest entry, as named values; None for an unknown model."""
        history = self._entries.get(self._names.get(model, model))
        return history.values[-1].capabilities.model_dump() if history else None


def _names(entries: Iterable[BookEntry]) -> dict[str, str]:
    """Map each alias, and each name without its provider that can mean one model only."""
    full: dict[str, str] = {}
    last: dict[str, set[str]] = {}
    for entry in entries:
        for name in (entry.model, *entry.aliases):
            full[name] = entry.model
            last.setdefault(name.rpartition("/")[2], set()).add(entry.model)
    # What keeps a slash may name another provider: groq/openai/… is not openai/….
    bare = {
        short: model
        for name, model in full.items()
        if (short := name.partition("/")[2]) and last.get(short) == {model}
    }
    return bare | full


def load_book(path: str | Path | None = None) -> PriceBook:
    """Read and check a price book; the shipped one, read once, if `path` is None.

    Raises `ConfigurationError` naming the file, line and field of what is wrong.
    """
    return _shipped() if path is None else _read(Path(path))


@lru_cache(maxsize=1)
def _shipped() -> PriceBook:
    return _read(SHIPPED)


def _read(path: Path) -> PriceBook:
    lines = _lines(path)
    _check_chain(path, lines)
    return PriceBook(_parsed(path, lines), sha256("\n".join(lines).encode()).hexdigest())


def _parsed(path: Path, lines: list[str]) -> list[BookEntry]:
    entries: list[BookEntry] = []
    owners: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        entry = _parse(path, number, line)
        for name in (entry.model, *entry.aliases):
            if owners.setdefault(name, entry.model) != entry.model:
                _fail(path, number, "aliases", f"{name} already stands for {owners[name]}")
        entries.append(entry)
    return entries


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path}: byte {error.start} is not UTF-8") from None
    lines = text.removesuffix("\n").split("\n")
    if lines == [""]:
        raise ConfigurationError(f"{path}: the file is empty")
    return lines


def _parse(path: Path, number: int, line: str) -> BookEntry:
    try:
        fields = json.loads(
            line,
            parse_float=_no_float,
            parse_constant=_no_float,
            object_pairs_hook=_without_duplicates,
        )
        return BookEntry.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "entry"
        _fail(path, number, field, first["msg"].removeprefix("Value error, "))
    except (ValueError, RecursionError) as error:  # json's own error is a ValueError
        _fail(path, number, "entry", str(error))


def _no_float(text: str) -> NoReturn:
    raise ValueError(f'{text} is a binary fraction; write amounts as text, such as "{text}"')


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError(f"a key stands twice in {sorted(key for key, _ in pairs)}")
    return fields


def _fail(path: Path, number: int, field: str, problem: str) -> NoReturn:
    raise ConfigurationError(f"{path}:{number}: {field}: {problem}")


def chain(lines: Iterable[str]) -> list[str]:
    """Return the digest of each line: SHA-256, in hex, of the digest before it and the line."""
    digests: list[str] = []
    for line in lines:
        before = digests[-1] if digests else ""
        digests.append(sha256((before + line).encode()).hexdigest())
    return digests


def seal(path: str | Path) -> int:
    """Extend a book's chain by the entries appended to it; return how many there were.

    Raises `ConfigurationError` where an entry that was already sealed has changed, or a new one is
    wrong; then nothing is sealed.
    """
    book = Path(path)
    lines, sealed = _lines(book), _sealed(book)
    _compare(book, lines, sealed)
    _parsed(book, lines)  # what is sealed cannot be mended any more
    digests = chain(lines)
    book.with_suffix(".chain").write_text("\n".join(digests) + "\n", encoding="ascii")
    return len(digests) - len(sealed)


def _sealed(path: Path) -> list[str]:
    side = path.with_suffix(".chain")
    try:
        return side.read_text(encoding="ascii").split()
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{side}: cannot be read: {error}") from None


def _compare(path: Path, lines: list[str], sealed: list[str]) -> None:
    digests = chain(lines)
    for number, digest in enumerate(sealed, start=1):
        if number > len(digests):
            _fail(path, number, "entry", "it was removed; a book only grows")
        if digests[number - 1] != digest:
            _fail(path, number, "entry", "it was edited; append a new entry with its own date")


def _check_chain(path: Path, lines: list[str]) -> None:
    sealed = _sealed(path)
    _compare(path, lines, sealed)
    if len(sealed) < len(lines):
        hint = f"run `router prices check --seal --book {path}`"
        _fail(path, len(sealed) + 1, "entry", f"it is not in {path.stem}.chain; {hint}")
