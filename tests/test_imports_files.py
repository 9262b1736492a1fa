"""Files of every kind are read a row at a time, and what cannot be read is named with its place."""

from __future__ import annotations

import csv
import gzip
import io
import json
import sqlite3
import tracemalloc
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.errors import ImportFileError
from router.money import MAX_NANO
from router.replay.imports.files import rows
from router.replay.imports.json_items import NotAnItem, items
from router.replay.imports.row import Row

ROWS = [{"id": "a", "n": 1}, {"id": "b\nc", "n": 2}, {"id": "ü", "n": 3}]
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=8,
)
OBJECTS = st.lists(st.dictionaries(st.text(max_size=4), JSON_VALUES, max_size=4), max_size=6)


def read(path: Path, **options: Any) -> list[Any]:
    return [dict(each.values) if isinstance(each, Row) else each for each in rows(path, **options)]


def as_lines(objects: list[Any]) -> str:
    return "".join(json.dumps(each) + "\n" for each in objects)


def as_csv(objects: list[Any]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, ["id", "n"])
    writer.writeheader()
    writer.writerows(objects)
    return out.getvalue()


# ── every kind of file ─────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.jsonl", as_lines(ROWS)),
        ("a.txt", as_lines(ROWS)),
        ("a.txt", as_lines([*ROWS, {"id": "x" * 100_000, "n": 4}][::-1])),
        ("a.jsonl", "\n" + as_lines(ROWS).rstrip("\n")),
        ("a.json", json.dumps(ROWS)),
        ("a.json", json.dumps(ROWS, indent=2) + "\n"),
        ("a.json", json.dumps({"data": ROWS, "meta": 1}, indent=2)),
        ("a.json", json.dumps({"data": ROWS})),
    ],
)
@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_json_is_read_in_whatever_shape_it_comes(
    tmp_path: Path, name: str, text: str, zipped: bool, mark: str
) -> None:
    data = (mark + text).encode()
    path = tmp_path / (f"{name}.gz" if zipped else name)
    path.write_bytes(gzip.compress(data) if zipped else data)
    assert [row for row in read(path, lists=(("data",),)) if row["n"] < 4] in (ROWS, ROWS[::-1])


def test_csv_keeps_line_breaks_within_quotes_and_knows_its_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(as_csv(ROWS), "utf-8", newline="")
    found = list(rows(path))
    assert [dict(each.values) for each in found if isinstance(each, Row)] == [
        {"id": row["id"], "n": str(row["n"])} for row in ROWS
    ]
    assert [each.line for each in found] == [2, 3, 5]


def test_a_field_of_csv_may_be_longer_than_the_module_takes_by_default(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(as_csv([{"id": "x" * 200_000, "n": 1}]))
    assert len(read(path)[0]["id"]) == 200_000


def test_a_table_of_sqlite_and_one_of_a_dump_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with sqlite3.connect(path) as database:
        database.execute('CREATE TABLE "Logs" (id TEXT, n INTEGER)')
        database.executemany("INSERT INTO Logs VALUES (?, ?)", [("a", 1), ("b", None)])
    database.close()
    assert read(path, table="Logs") == [{"id": "a", "n": 1}, {"id": "b", "n": None}]
    with pytest.raises(ImportFileError, match="no table Other"):
        read(path, table="Other")
    with pytest.raises(ImportFileError, match="is a database"):
        read(path)
    dump = tmp_path / "a.sql"
    dump.write_text(
        "--\n-- PostgreSQL database dump\n--\n\nCOPY public.other (id) FROM stdin;\nx\n\\.\n\n"
        'COPY public."Logs" (id, "startTime") FROM stdin;\na\\tb\\\\\\nc\t\\N\nd\te\n\\.\n'
    )
    assert read(dump, table="Logs") == [
        {"id": "a\tb\\\nc", "startTime": None},
        {"id": "d", "startTime": "e"},
    ]
    with pytest.raises(ImportFileError, match="no COPY of the table Nothing"):
        read(dump, table="Nothing")


def test_an_empty_file_has_no_rows_and_a_missing_one_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n ")
    assert read(tmp_path / "empty") == []
    with pytest.raises(ImportFileError, match=r"none\.jsonl: cannot be read: No such file"):
        read(tmp_path / "none.jsonl")


@settings(max_examples=60, deadline=None)
@given(objects=OBJECTS, indent=st.sampled_from([None, 0, 3]))
def test_an_array_yields_what_json_itself_reads(
    tmp_path_factory: pytest.TempPathFactory, objects: list[Any], indent: int | None
) -> None:
    folder = tmp_path_factory.mktemp("array")
    (folder / "a.json").write_text(json.dumps(objects, indent=indent))
    (folder / "a.jsonl").write_text(as_lines(objects))
    assert read(folder / "a.json") == objects
    assert read(folder / "a.jsonl") == objects


@settings(max_examples=60, deadline=None)
@given(objects=OBJECTS, data=st.data())
def test_items_come_whole_however_the_text_is_cut_into_chunks(
    monkeypatch_module: None, objects: list[Any], data: st.DataObject
) -> None:
    text = json.dumps(objects, indent=data.draw(st.sampled_from([None, 1])))
    assert [item for _, item in items(io.StringIO(text))] == objects
    cut = data.draw(st.integers(0, len(text) - 1))
    with pytest.raises(NotAnItem) as caught:
        list(items(io.StringIO(text[:cut])))
    assert caught.value.cut


@pytest.fixture(scope="module")
def monkeypatch_module() -> Any:
    """Chunks of a few characters, so that every item crosses some."""
    patch = pytest.MonkeyPatch()
    patch.setattr("router.replay.imports.json_items._CHUNK", 5)
    yield
    patch.undo()


# ── what cannot be read ────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(
    ("name", "text", "line", "says", "truncated", "others"),
    [
        ("a.jsonl", '{"id":1}\n{"id":\n{"id":3}\n', 2, "not a line of JSON", False, 2),
        ("a.jsonl", '{"id":1}\n[1]\n', 2, "not an object", False, 1),
        ("a.jsonl", '"id":1}\n{"id":2}\n{"id":3}\n', 1, "not a line of JSON", False, 2),
        ("a.jsonl", '{"id":NaN}\n', 1, "NaN", False, 0),
        ("a.jsonl", '{"id":1}\n{"id":"a', 2, "ends in the middle of a line", True, 1),
        ("a.jsonl", '{"id":' + "[" * 200_000 + "\n", 1, "", False, 0),
        ("a.json", '[{"id":1},\n{"id":2},\n{"id"', 3, "ends before its array", True, 2),
        ("a.json", '[{"id":1},\n{"id" 2}, {"a": "' + "x" * 99 + '"}]', 2, "not JSON", False, 1),
        ("a.json", '[{"id":1}]\n[{"id":2}]', 1, "after the array", False, 1),
        ("a.json", '[{"id":1}, 7]', 1, "not an object", False, 1),
        ("a.json", '{"data": [\n{"id":1}', 2, "not JSON", True, 0),
        ("a.csv", "id,n\na,1\nb\nc,3\n", 3, "1 values for 2 columns", False, 2),
        ("a.csv", 'id,n\na,1\n"b,2\n', 3, "ends inside quotes", True, 1),
    ],
)
def test_a_bad_line_is_named_and_the_others_are_read(
    tmp_path: Path, name: str, text: str, line: int, says: str, truncated: bool, others: int
) -> None:
    path = tmp_path / name
    path.write_text(text)
    everything = read(path, lists=(("data",),))
    [bad] = [each for each in everything if isinstance(each, ImportFileError)]
    assert (bad.file, bad.line, bad.truncated) == (str(path), line, truncated)
    assert str(bad).startswith(f"{path}:{line}: ")
    assert says in str(bad)
    assert len(everything) == others + 1


def test_bytes_that_are_not_utf_8_are_a_bad_line(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"id,n\na,1\n\xff,2\nb,3\n")
    (tmp_path / "a.jsonl").write_bytes(b'{"id":1}\n{"id":"\xff"}\n{"id":2}\n')
    for name, line in (("a.csv", 3), ("a.jsonl", 2)):
        everything = read(tmp_path / name)
        assert [each.line for each in everything if isinstance(each, ImportFileError)] == [line]
        assert len(everything) == 3


def test_a_cut_gzip_a_cut_dump_and_a_damaged_database_are_said(tmp_path: Path) -> None:
    whole = gzip.compress(as_lines([{"id": str(n) * 50} for n in range(5000)]).encode())
    (tmp_path / "a.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "a.sql").write_text('COPY public."Logs" (id) FROM stdin;\na\n')
    with sqlite3.connect(tmp_path / "a.db") as database:
        database.execute("CREATE TABLE Logs (id TEXT)")
        database.executemany("INSERT INTO Logs VALUES (?)", [("x" * 500,)] * 500)
    database.close()
    data = (tmp_path / "a.db").read_bytes()
    (tmp_path / "a.db").write_bytes(data[: len(data) // 2])
    for name in ("a.jsonl.gz", "a.sql"):
        bad = read(tmp_path / name, table="Logs")[-1]
        assert isinstance(bad, ImportFileError)
        assert bad.truncated
        assert "--skip-bad" in str(bad)
    with pytest.raises(ImportFileError, match="malformed; copy it again") as caught:
        read(tmp_path / "a.db", table="Logs")
    assert caught.value.truncated


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ("id,n\na,1\n".encode("utf-16"), "is UTF-16 text; save it as UTF-8"),
        (b"PK\x03\x04\x14\x00", "is a zip archive or a spreadsheet; unpack it"),
        (b"PAR1\x15\x04", "is a Parquet file; write its rows as lines of JSON"),
    ],
)
def test_a_file_of_another_kind_is_called_what_it_is(
    tmp_path: Path, data: bytes, says: str
) -> None:
    (tmp_path / "a.csv").write_bytes(data)
    with pytest.raises(ImportFileError, match=says):
        read(tmp_path / "a.csv")


def test_columns_must_have_names_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,id\n1,2\n")
    with pytest.raises(ImportFileError, match="does not name the columns"):
        read(tmp_path / "a.csv")


def test_a_long_file_does_not_fill_the_memory(tmp_path: Path) -> None:
    """Forty megabytes pass through two."""
    lines_of, array = tmp_path / "a.jsonl", tmp_path / "a.json"
    row = json.dumps({"id": "x" * 8000})
    lines_of.write_text((row + "\n") * 5_000)
    array.write_text("[" + ",\n".join([row] * 5_000) + "]")
    for path in (lines_of, array):
        tracemalloc.start()
        assert sum(1 for _ in rows(path)) == 5_000
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 12_000_000


# ── fields ─────────────────────────────────────────────────────────────────────────────────────
def row(value: Any, **more: Any) -> Row:
    return Row("f.jsonl", 7, {"x": value}, **more)


@pytest.mark.parametrize(
    ("value", "unit", "seconds"),
    [
        ("2026-05-01T10:00:00Z", "s", 1777629600.0),
        ("2026-05-01T12:00:00+02:00", "s", 1777629600.0),
        ("2026-05-01 10:00:00.250", "s", 1777629600.25),
        ("2026-05-01 10:00:00.25+00", "s", 1777629600.25),
        (1777629600, "s", 1777629600.0),
        (Decimal("1777629600.25"), "s", 1777629600.25),
        ("1777629600.25", "s", 1777629600.25),
        ("1777629600000000000", "ns", 1777629600.0),
    ],
)
def test_times_are_unix_seconds_whatever_zone_they_are_in(
    value: Any, unit: str, seconds: float
) -> None:
    assert row(value).time("x", unit) == seconds


@pytest.mark.parametrize(
    "value",
    [1777629600000, 0, -5, "yesterday", True, [1], "1e999999999", 3.5, 29627160, "20260501"],
)
def test_what_is_no_time_is_refused(value: Any) -> None:
    """As are seconds since a start, minutes, and a date whose digits look like seconds."""
    with pytest.raises(ImportFileError, match=r"f\.jsonl:7: x: "):
        row(value).time("x")
    with pytest.raises(ImportFileError, match="from 2000 to 2100"):
        row(1777629600000).time("x", "ns")


def test_a_time_without_a_zone_is_refused_where_none_is_known() -> None:
    with pytest.raises(ImportFileError, match="without a zone"):
        row("2026-05-01T10:00:00", zone=None).time("x")


@given(nano=st.integers(0, MAX_NANO // 2))
def test_money_is_exact_to_the_nano_dollar_as_text_and_as_json(nano: int) -> None:
    amount = Decimal(nano) / 10**9
    assert row(str(amount)).money("x") == nano
    assert row(amount).money("x") == nano


def test_the_noise_of_a_float_is_no_money() -> None:
    assert row(0.1 + 0.2).money("x") == 300_000_000
    assert row("0E-99999999").money("x") == 0


@pytest.mark.parametrize("value", [-1, "1e99999", "abc", True, "nan", 10**12, {}])
def test_what_is_no_amount_is_refused(value: Any) -> None:
    with pytest.raises(ImportFileError):
        row(value).money("x")


@given(value=JSON_VALUES)
def test_a_field_is_read_or_refused_and_never_breaks_otherwise(value: Any) -> None:
    one = row(value)
    for read_field in (one.text, one.count, one.number, one.money, one.flag, one.time, one.seconds):
        with suppress(ImportFileError):
            read_field("x")
    one.json("x"), one.row("x"), one.texts("x")


def test_text_is_what_every_store_can_hold() -> None:
    assert row("a\ud800b\0ü").text("x") == "a?b?ü"
    assert row(["a\ud800b\0ü", 5]).texts("x") == ("a?b?ü", "5")


def test_an_error_says_file_line_field_value_and_what_to_do() -> None:
    with pytest.raises(ImportFileError) as caught:
        row({"a": 1, "b": "y" * 100}).row("x").required("c", "export it with c")
    assert str(caught.value) == "f.jsonl:7: x.c: is missing; export it with c"
    with pytest.raises(ImportFileError) as caught:
        row("y" * 100).count("x")
    assert caught.value.value == "'" + "y" * 59 + "…"
    assert "(found 'yyy" in str(caught.value)
