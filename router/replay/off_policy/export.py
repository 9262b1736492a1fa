"""A log as Parquet files, a folder a day, on a local disk or an object store; and back.

A manifest lists every file with its rows, so that a log that lost a part is not taken for whole.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from router.errors import ConfigurationError, LogFileError
from router.log.base import Log
from router.replay.off_policy.table import (
    REPLAY_EXTRA,
    VERSION,
    LeftOut,
    arrow,
    rows_of,
    schema,
    to_table,
)

MANIFEST = "_manifest.json"
ROWS_AT_ONCE = 20_000  # rows held in memory
ROWS_IN_A_FILE = 1_000_000


@dataclass(frozen=True, slots=True)
class Part:
    """One file of an exported log."""

    path: str
    rows: int


@dataclass(frozen=True, slots=True)
class Exported:
    """An exported log: where it lies, its files, and what could not be exported."""

    url: str
    parts: tuple[Part, ...]
    left_out: LeftOut

    @property
    def rows(self) -> int:
        return sum(part.rows for part in self.parts)


def file_system(url: str) -> tuple[Any, str]:
    """The fsspec file system of a URL or a path, and the path on it.

    Raises `ConfigurationError` where fsspec, or what it needs for this kind of URL, is missing.
    """
    try:
        import fsspec
    except ImportError:
        raise ConfigurationError(f"exported logs are read by fsspec: {REPLAY_EXTRA}") from None
    try:
        system, path = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise ConfigurationError(f"{url}: {error}") from None
    return system, str(path)


def export(log: Log, url: str, since: float | None = None, until: float | None = None) -> Exported:
    """Write the replayable rows of a log below `url`, a folder or the URL of one.

    Raises `LogFileError` where a log is there already or it cannot be written.
    """
    system, root = file_system(url)
    left_out = LeftOut()
    parts: list[Part] = []
    try:
        if system.exists(f"{root}/{MANIFEST}"):
            raise LogFileError(url, "an exported log is there already; name a new folder")
        for day, tables in _by_day(rows_of(log, since, until, left_out)):
            parts.append(_write(system, root, day, len(parts), tables))
        manifest = {
            "version": VERSION,
            "files": {part.path: part.rows for part in parts},
            "left_out": {name: getattr(left_out, name) for name in LeftOut.__slots__},
        }
        system.makedirs(root, exist_ok=True)
        with system.open(f"{root}/{MANIFEST}", "w") as file:
            json.dump(manifest, file, indent=1)
    except OSError as error:
        raise LogFileError(url, f"cannot be written: {error}") from error
    return Exported(url, tuple(parts), left_out)


def _by_day(rows: Iterator[dict[str, Any]]) -> Iterator[tuple[str, Iterator[list[Any]]]]:
    """Days with their rows in pages; a day with many rows comes several times."""
    waiting = next(rows, None)

    def day_of(row: Mapping[str, Any]) -> str:
        return f"{datetime.fromtimestamp(row['time'], UTC):%Y-%m-%d}"

    def pages(day: str) -> Iterator[list[Any]]:
        nonlocal waiting
        count, page = 0, []
        while waiting is not None and day_of(waiting) == day and count < ROWS_IN_A_FILE:
            page.append(waiting)
            count += 1
            waiting = next(rows, None)
            if len(page) == ROWS_AT_ONCE:
                yield page
                page = []
        if page:
            yield page

    while waiting is not None:
        day = day_of(waiting)
        yield day, pages(day)


def _write(system: Any, root: str, day: str, number: int, pages: Iterator[list[Any]]) -> Part:
    pa = arrow()
    path, rows = f"day={day}/part-{number:05}.parquet", 0
    system.makedirs(f"{root}/day={day}", exist_ok=True)
    with (
        system.open(f"{root}/{path}", "wb") as file,
        pa.parquet.ParquetWriter(file, schema(), compression="zstd") as writer,
    ):
        for page in pages:
            writer.write_table(to_table(page))
            rows += len(page)
    return Part(path, rows)


def open_exported(url: str) -> Exported:
    """Find the files of an exported log.

    Raises `LogFileError` where there is none, or a file of it is missing.
    """
    system, root = file_system(url)
    try:
        with system.open(f"{root}/{MANIFEST}") as file:
            manifest = json.load(file)
        if manifest["version"] != VERSION:
            raise LogFileError(url, f"its version is {manifest['version']}, not {VERSION}")
        parts = tuple(Part(str(path), int(rows)) for path, rows in manifest["files"].items())
        left_out = LeftOut(**manifest["left_out"])
    except FileNotFoundError:
        if not system.exists(root):
            raise LogFileError(url, "it does not exist; check the path") from None
        raise LogFileError(url, f"no {MANIFEST} is there; `router export` writes one") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise LogFileError(url, f"{MANIFEST} cannot be read: {error}") from error
    missing = [part.path for part in parts if not system.exists(f"{root}/{part.path}")]
    if missing:
        raise LogFileError(url, f"{missing[0]} is missing; export the log anew")
    return Exported(url, parts, left_out)
