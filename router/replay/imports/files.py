"""Rows of any file that logs are exported to, one at a time: a file of millions fits no memory.

What a file is shows in its name, if that ends in .jsonl, or in its first bytes: gzip, SQLite, JSON
(lines, an array, or one document), a dump of PostgreSQL, else CSV. A row that cannot be read is
yielded as the error that says so. After most of these the next row can be read; where it cannot,
the error is the last thing yielded.
"""

from __future__ import annotations

import csv
import gzip
import io
import re
import sqlite3
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any, TypeAlias
from urllib.parse import quote

from router.errors import ImportFileError
from router.replay.imports.json_items import NotAnItem, items
from router.replay.imports.record import Found, Reading
from router.replay.imports.row import Row, loads

Rows: TypeAlias = Iterator[Row | ImportFileError]
Lists: TypeAlias = Sequence[tuple[str, ...]]

_SQLITE, _GZIP = b"SQLite format 3\0", b"\x1f\x8b"
_OTHERS = {
    b"\xff\xfe": ("UTF-16 text", "save it as UTF-8"),
    b"\xfe\xff": ("UTF-16 text", "save it as UTF-8"),
    b"PK\x03\x04": ("a zip archive or a spreadsheet", "unpack it, or save it as CSV"),
    b"PAR1": ("a Parquet file", "write its rows as lines of JSON"),
}
_MARK = b"\xef\xbb\xbf"  # some programs write it at the beginning of UTF-8
_AGAIN = "export it again, or import what is whole with --skip-bad"
_LARGEST_DOCUMENT = 1 << 30  # bytes of one JSON document, which has to be read as a whole
_LONGEST_LINE = 1 << 26  # bytes; a first line that is longer is taken for a document
_HEAD = 64 * 1024
_COPY = re.compile(r'COPY (?:\w+\.)?"?(\w+)"? \((.*)\) FROM stdin;')
_ESCAPE = re.compile(r"\\([bfnrtv\\]|[0-7]{1,3}|x[0-9a-fA-F]{1,2}|.)", re.DOTALL)
_ESCAPED = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}


def rows(path: Path, *, lists: Lists = (), table: str = "", zone: Any = None) -> Rows:
    """Read the rows of a file.

    Parameters: `lists`, the keys under which a JSON document may hold its rows, in groups: where
    the first key of one is there, the rows of all its keys are read; `table`, the table
    to read of a database or a dump; `zone`, what times without a zone are in.
    Raises `ImportFileError` for a file that cannot be read at all.
    """
    name = str(path)
    try:
        with _opened(path) as stream:
            head = stream.read(_HEAD)
        if head.startswith(_SQLITE):
            if not table:
                raise ImportFileError(name, None, "", "is a database, which this format is not")
            yield from _table(path, table, zone)
            return
        other = next((what for begin, what in _OTHERS.items() if head.startswith(begin)), None)
        if other is not None:
            raise ImportFileError(name, None, "", f"is {other[0]}", todo=other[1])
        with _opened(path) as stream:
            yield from _text_rows(name, path, head, stream, lists, table, zone)
    except (EOFError, zlib.error, gzip.BadGzipFile):
        yield ImportFileError(
            name,
            None,
            "",
            "ends too early: the compressed file is cut",
            todo=_AGAIN,
            truncated=True,
        )
    except OSError as error:
        raise ImportFileError(name, None, "", f"cannot be read: {error.strerror}") from None


def each(found: Rows, call: Callable[[Row], Found]) -> Reading:
    """What a reader makes of each row; a row that it cannot read becomes the error that says so."""
    for row in found:
        if isinstance(row, ImportFileError):
            yield row
            continue
        try:
            yield call(row)
        except ImportFileError as problem:
            yield problem
        except RecursionError:
            yield row.problem("", "is nested too deeply")


def open_database(path: Path) -> sqlite3.Connection:
    """Open a SQLite file to read it; it is never changed.

    Raises `ImportFileError` for one that is none, or is damaged.
    """
    try:
        place = quote(str(path.absolute()))
        database = sqlite3.connect(f"file:{place}?mode=ro", uri=True, timeout=10)
        database.row_factory = sqlite3.Row
        database.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.Error as error:
        raise ImportFileError(
            str(path),
            None,
            "",
            f"cannot be read as a SQLite database: {error}",
            todo="copy it again while nothing writes to it",
            truncated="malformed" in str(error),
        ) from None
    return database


def tables_of(database: sqlite3.Connection) -> set[str]:
    """The names of a database's tables."""
    found = database.execute("SELECT name FROM sqlite_master WHERE type IN ('table', 'view')")
    return {row["name"] for row in found}


def _opened(path: Path) -> IO[bytes]:
    stream: IO[bytes] = path.open("rb")
    if stream.read(2) == _GZIP:
        stream.close()
        return gzip.open(path, "rb")  # type: ignore[return-value]  # it reads like any other
    stream.seek(0)
    return stream


def _text_rows(
    name: str,
    path: Path,
    head: bytes,
    stream: IO[bytes],
    lists: Lists,
    table: str,
    zone: Any,
) -> Rows:
    begin = head.removeprefix(_MARK).lstrip()
    if not begin:
        return iter(())
    suffixes = [each.lower() for each in path.suffixes if each.lower() != ".gz"]
    if suffixes and suffixes[-1] in (".jsonl", ".ndjson"):  # whatever its first line is
        return _lines(name, stream, lists, zone)
    if begin.startswith(b"["):
        return _array(name, stream, zone)
    if begin.startswith(b"{"):
        read = _lines if _is_json(_first_line(stream)) else _document
        return read(name, stream, lists, zone)
    if table and (b"PostgreSQL database dump" in head or b"FROM stdin;" in head):
        return _dump(name, stream, table, zone)
    return _csv(name, stream, zone)


def _first_line(stream: IO[bytes]) -> bytes:
    line = b""
    while not line.strip():
        line = stream.readline(_LONGEST_LINE)
    stream.seek(0)
    return line.strip().removeprefix(_MARK)


def _is_json(line: bytes) -> bool:
    try:
        loads(line.decode())
    except (ValueError, RecursionError):
        return False
    return True


def _lines(name: str, stream: IO[bytes], lists: Lists, zone: Any) -> Rows:
    """JSON, one object a line."""
    for number, line in enumerate(stream, start=1):
        if number == 1:
            line = line.removeprefix(_MARK)
        if not line.strip():
            continue
        try:
            value = loads(line.decode())
        except RecursionError:
            yield ImportFileError(name, number, "", "is nested too deeply")
        except ValueError as error:
            if line.endswith(b"\n"):
                yield ImportFileError(
                    name, number, "", f"is not a line of JSON: {error}", todo="mend the line, or "
                    "leave such lines out with --skip-bad",
                )  # fmt: skip
            else:
                yield ImportFileError(
                    name, number, "", "ends in the middle of a line: the file is cut",
                    todo=_AGAIN, truncated=True,
                )  # fmt: skip
        else:
            yield from _objects(name, number, value, lists, zone)


def _objects(
    name: str,
    line: int | None,
    value: Any,
    lists: Lists,
    zone: Any,
    within: Mapping[str, Any] = MappingProxyType({}),
) -> Rows:
    """The rows of one JSON value: itself, or those of the lists that it wraps."""
    if not isinstance(value, Mapping):
        yield ImportFileError(name, line, "", "is not an object", todo="each row must be one")
        return
    for group in lists:
        if isinstance(value.get(group[0]), list):
            for key in group:
                wrapped = value.get(key)
                for item in wrapped if isinstance(wrapped, list) else ():
                    yield from _objects(name, line, item, (), zone, value)
            return
    yield Row(name, line, value, zone=zone, within=within)


def _array(name: str, stream: IO[bytes], zone: Any) -> Rows:
    """A JSON array of objects, an item at a time."""
    text = io.TextIOWrapper(stream, "utf-8-sig", errors="surrogateescape", newline="")
    try:
        for line, item in items(text):
            yield from _objects(name, line, item, (), zone)
    except NotAnItem as bad:
        yield ImportFileError(
            name, bad.line, "",
            "ends before its array does: the file is cut" if bad.cut else f"is not JSON: {bad.why}",
            todo=_AGAIN if bad.cut else "nothing after it can be read: mend it, or export it again",
            truncated=bad.cut,
        )  # fmt: skip


def _document(name: str, stream: IO[bytes], lists: Lists, zone: Any) -> Rows:
    """One JSON document over many lines."""
    data = stream.read(_LARGEST_DOCUMENT + 1)
    if len(data) > _LARGEST_DOCUMENT:
        raise ImportFileError(
            name, None, "", "is one JSON document of more than 1 GiB",
            todo="export it as lines of JSON (.jsonl), which are read one at a time",
        )  # fmt: skip
    try:
        value = loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        line = getattr(error, "lineno", None)
        cut = getattr(error, "pos", 0) >= len(data.rstrip()) - 1
        yield ImportFileError(
            name, line, "", f"is not JSON: {error}", todo=_AGAIN if cut else "", truncated=cut
        )
        return
    yield from _objects(name, None, value, lists, zone)


def _csv(name: str, stream: IO[bytes], zone: Any) -> Rows:
    """Comma-separated values under a line of names."""
    # Prompts are long: the module's own bound of 128 KiB a field would refuse them.
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    text = io.TextIOWrapper(stream, "utf-8-sig", errors="surrogateescape", newline="")
    reader = csv.reader(text, strict=True)
    names: list[str] = []
    while True:
        start = reader.line_num + 1
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            cut = "unexpected end" in str(error)
            yield ImportFileError(
                name, start, "", "ends inside quotes: the file is cut" if cut else
                f"is not a line of CSV: {error}", todo=_AGAIN, truncated=cut,
            )  # fmt: skip
            continue
        if not values:
            continue
        if not names:
            names = [each.strip() for each in values]
            if len(set(names)) != len(names) or not any(names):
                raise ImportFileError(
                    name, start, "", "the first line does not name the columns, each once",
                    todo="export the log with a header line",
                )  # fmt: skip
            continue
        if len(values) != len(names):
            yield ImportFileError(
                name, start, "", f"has {len(values)} values for {len(names)} columns", todo=_AGAIN
            )
        elif any("\udc80" <= char <= "\udcff" for value in values for char in value):
            yield ImportFileError(name, start, "", "is not UTF-8", todo="export it as UTF-8")
        else:
            yield Row(name, start, dict(zip(names, values, strict=True)), zone=zone)


def _table(path: Path, table: str, zone: Any) -> Rows:
    """Every row of one table of a SQLite file."""
    database = open_database(path)
    try:
        if table not in tables_of(database):
            raise ImportFileError(
                str(path), None, "", f"has no table {table}", todo="name the database that has it"
            )
        for number, row in enumerate(database.execute(f'SELECT * FROM "{table}"'), start=1):
            yield Row(str(path), number, dict(row), zone=zone)
    except sqlite3.Error as error:
        yield ImportFileError(
            str(path), None, "", f"is damaged or cut: {error}", todo=_AGAIN, truncated=True
        )
    finally:
        database.close()


def _dump(name: str, stream: IO[bytes], table: str, zone: Any) -> Rows:
    """The rows of one table of a plain PostgreSQL dump, whose COPY has a row a line."""
    names: list[str] | None = None
    seen = False
    number = 0
    for number, data in enumerate(stream, start=1):
        line = data.decode("utf-8", "replace").rstrip("\n")
        if names is None:
            begins = _COPY.match(line)
            if begins and begins[1] == table:
                names = [each.strip().strip('"') for each in begins[2].split(",")]
                seen = True
            continue
        if line == r"\.":
            names = None
            continue
        values = [None if each == r"\N" else _unescaped(each) for each in line.split("\t")]
        if len(values) != len(names):
            yield ImportFileError(
                name, number, "", f"has {len(values)} values for {len(names)} columns", todo=_AGAIN
            )
        else:
            yield Row(name, number, dict(zip(names, values, strict=True)), zone=zone)
    if names is not None:
        yield ImportFileError(
            name, number, "", "ends before its table does: the dump is cut", todo=_AGAIN,
            truncated=True,
        )  # fmt: skip
    elif not seen:
        raise ImportFileError(
            name, None, "", f"has no COPY of the table {table}",
            todo="dump it without --inserts",
        )  # fmt: skip


def _unescaped(text: str) -> str:
    return text if "\\" not in text else _ESCAPE.sub(_character, text)


def _character(match: re.Match[str]) -> str:
    found = match[1]
    if found in _ESCAPED:
        return _ESCAPED[found]
    if found.isdigit():
        return chr(int(found, 8) & 0xFF)
    return chr(int(found[1:], 16)) if len(found) > 1 and found[0] == "x" else found
