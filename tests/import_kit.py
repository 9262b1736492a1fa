"""What the tests of imports share: files that they write, and what is read from them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from router.cli import main
from router.errors import ImportFileError
from router.replay.imports import read_files
from router.replay.imports.record import ImportedCall, LeftOut


def lines(path: Path, rows: Iterable[Any]) -> Path:
    """Write rows as lines of JSON."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def found(format: str, *files: Path, score: str | None = None) -> list[Any]:
    """Everything that a reader yields."""
    return list(read_files(format, files, score=score))


def calls(format: str, *files: Path, score: str | None = None) -> list[ImportedCall]:
    """The calls in files of which nothing else than calls and what is left out may come."""
    everything = found(format, *files, score=score)
    assert [each for each in everything if isinstance(each, ImportFileError)] == []
    return [each for each in everything if isinstance(each, ImportedCall)]


def left_out(everything: Sequence[Any]) -> list[str]:
    return [each.why for each in everything if isinstance(each, LeftOut)]


def problems(everything: Sequence[Any]) -> list[ImportFileError]:
    return [each for each in everything if isinstance(each, ImportFileError)]


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Run the command line; its exit code, output and errors."""
    with pytest.raises(SystemExit) as ended:
        main([*map(str, arguments)])
    said = capsys.readouterr()
    return int(ended.value.code or 0), said.out, said.err
