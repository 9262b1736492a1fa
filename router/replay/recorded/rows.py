"""An outcome file's rows, as columns: Parquet or JSONL in, checked numbers and text out.

The column `response` is read by `read_responses` alone, for gates, and `read_samples`, for votes:
an answer cannot influence what is not told of it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from router.errors import OutcomeFileError
from router.replay.recorded.ladder import missing_models

if TYPE_CHECKING:
    from router.types import Floats, Tier

NUMBERS = (
    "score",
    "input_tokens",
    "output_tokens",
    "reasoning_tokens",
    "cached_tokens",
    "cost_usd",
)
_TEXTS = ("query_id", "task", "prompt", "messages", "model")
_WANTED = (*_TEXTS, *NUMBERS, "contaminated")
TRAIN_EXTRA = "pip install 'tiered-router[train]'"


@dataclass(frozen=True, slots=True)
class RawRows:
    """The R rows of a ladder's models. `numbers` has all of `NUMBERS`, NaN where not given."""

    query_id: list[str]
    task: list[str]
    prompt: list[Any]
    messages: list[Any]
    model: list[str]
    numbers: Mapping[str, Floats]
    contaminated: int  # rows that were left out as such

    def __len__(self) -> int:
        return len(self.query_id)


def read_rows(path: str | Path, ladder: Mapping[Tier, str]) -> RawRows:
    """Read the rows of the ladder's models.

    Raises `OutcomeFileError` naming the file, query, column and value at fault and what to do.
    """
    file = Path(path)
    if not file.is_file():
        raise OutcomeFileError(str(path), "is a folder" if file.is_dir() else "no such file")
    columns, count = _read_columns(file, ladder, _WANTED)
    for name in ("query_id", "model"):
        if name not in columns:
            raise OutcomeFileError(str(path), f"column {name!r} is missing; {_columns_are()}")
    if "prompt" not in columns and "messages" not in columns:
        raise OutcomeFileError(
            str(path), f"it has neither a column 'prompt' nor 'messages'; {_columns_are()}"
        )
    models = ["" if model is None else str(model) for model in columns["model"]]
    problem = missing_models(ladder, sorted({model for model in models if model}))
    if problem:
        raise OutcomeFileError(str(path), problem)
    wanted = set(ladder.values())
    mine = [row for row in range(count) if models[row] in wanted]
    soiled = _soiled(file, columns, count)
    kept = [row for row in mine if not soiled[row]]

    def column(name: str) -> list[Any]:
        values = columns.get(name)
        return [None] * len(kept) if values is None else [values[row] for row in kept]

    ids, names = column("query_id"), [models[row] for row in kept]
    if any(value is None or value == "" for value in ids):
        raise OutcomeFileError(
            str(path), f"query_id is empty in a row of model {names[_empty(ids)]!r}; give every one"
        )
    where = [f"query {query!r}, model {name!r}" for query, name in zip(ids, names, strict=True)]
    return RawRows(
        query_id=[str(value) for value in ids],
        task=["" if value is None else str(value) for value in column("task")],
        prompt=column("prompt"),
        messages=column("messages"),
        model=names,
        numbers={name: _numbers(path, name, column(name), where) for name in NUMBERS},
        contaminated=len(mine) - len(kept),
    )


def read_responses(path: Path, ladder: Mapping[Tier, str]) -> dict[tuple[str, str], str]:
    """The recorded answers of a ladder's models: (query, model) → text, the first of several."""
    found = _of_answers(path, ladder, "response")
    return {key: text for key, text in found.items() if isinstance(text, str)}


def read_samples(path: Path, ladder: Mapping[Tier, str]) -> list[str | None]:
    """The recorded answer of each row of `read_rows`, None where there is no text.

    Raises `OutcomeFileError` where no row has one.
    """
    wanted = ("model", "response", "contaminated")
    columns, count = _read_columns(path, ladder, wanted)
    texts = columns.get("response", [None] * count)
    soiled = _soiled(path, columns, count)
    models = set(ladder.values())
    found = [
        text if isinstance(text, str) else None
        for model, text, bad in zip(columns["model"], texts, soiled, strict=True)
        if str(model) in models and not bad
    ]
    if not any(found):
        raise OutcomeFileError(
            str(path), "its column 'response' is missing or empty; a vote compares answers"
        )
    return found


def read_logprobs(path: Path, ladder: Mapping[Tier, str]) -> dict[tuple[str, str], Any]:
    """What was recorded of the log-probabilities of a ladder's answers; empty without a column."""
    return _of_answers(path, ladder, "logprobs")


def _of_answers(path: Path, ladder: Mapping[Tier, str], name: str) -> dict[tuple[str, str], Any]:
    """A column of what came with answers: (query, model) → value, the first of several."""
    wanted = ("query_id", "model", name)
    columns, _ = _read_columns(path, ladder, wanted)
    found: dict[tuple[str, str], Any] = {}
    if name in columns:
        for query, model, value in zip(*(columns[each] for each in wanted), strict=True):
            if value is not None:
                found.setdefault((str(query), str(model)), value)
    return found


def _soiled(path: Path, columns: Mapping[str, list[Any]], count: int) -> list[bool]:
    """Which rows are marked as contaminated: by true or 1, unless by false, 0 or nothing."""
    marks = columns.get("contaminated", [None] * count)
    for mark in marks:
        if mark is not None and mark == mark and mark not in (False, True):
            raise OutcomeFileError(
                str(path), f"contaminated is {mark!r:.40} in a row; write true or false"
            )
    return [mark in (True,) for mark in marks]


def _empty(values: Sequence[Any]) -> int:
    return next(at for at, value in enumerate(values) if value is None or value == "")


def _columns_are() -> str:
    return f"an outcome file has one row per (query, model) with {', '.join(_TEXTS)}, score, …"


def _read_columns(
    file: Path, ladder: Mapping[Tier, str], wanted: Sequence[str]
) -> tuple[dict[str, list[Any]], int]:
    """Those of the wanted columns that a file has, and how many rows there are."""
    if file.suffix.lower() in (".jsonl", ".ndjson", ".json"):
        return _read_jsonl(file, wanted)
    return _read_parquet(file, ladder, wanted)


def _read_parquet(
    file: Path, ladder: Mapping[Tier, str], wanted: Sequence[str]
) -> tuple[dict[str, list[Any]], int]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise OutcomeFileError(str(file), f"reading Parquet needs pyarrow: {TRAIN_EXTRA}") from None
    try:
        opened = pq.ParquetFile(file)
        present = [name for name in wanted if name in opened.schema_arrow.names]
        if "model" in present:
            names = opened.read(columns=["model"]).column("model").unique().to_pylist()
            problem = missing_models(
                ladder, sorted(str(name) for name in names if name is not None)
            )
            if problem:
                raise OutcomeFileError(str(file), problem)
            table = pq.read_table(
                file, columns=present, filters=[("model", "in", list(ladder.values()))]
            )
        else:
            table = opened.read(columns=present)
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(error, OutcomeFileError):
            raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise OutcomeFileError(
            str(file), f"neither named .jsonl nor a Parquet file: {reason}"
        ) from error
    return {name: table.column(name).to_pylist() for name in present}, table.num_rows


def _read_jsonl(file: Path, wanted: Sequence[str]) -> tuple[dict[str, list[Any]], int]:
    rows: list[dict[str, Any]] = []
    try:
        text = file.read_text(encoding="utf-8-sig")  # some write a mark first
    except (OSError, UnicodeDecodeError) as error:
        raise OutcomeFileError(str(file), f"cannot be read as UTF-8 text: {error}") from error
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise OutcomeFileError(
                str(file), f"line {number} is not JSON ({error}); one object a line is needed"
            ) from None
        if not isinstance(row, dict):
            raise OutcomeFileError(str(file), f"line {number} is not a JSON object")
        rows.append(row)
    if not rows:
        raise OutcomeFileError(str(file), "it has no rows")
    given = set().union(*rows)
    return {name: [row.get(name) for row in rows] for name in wanted if name in given}, len(rows)


def _numbers(path: str | Path, name: str, values: Sequence[Any], where: Sequence[str]) -> Floats:
    """Check one column: finite numbers of 0 or more, of at most 1 for a score; None is NaN."""
    found = np.full(len(values), np.nan)
    for at, value in enumerate(values):
        if value is None or value != value:
            continue
        if not isinstance(value, (int, float)):
            raise OutcomeFileError(
                str(path), f"{where[at]}: {name} is {value!r}, not a number; write it unquoted"
            )
        try:
            found[at] = value
        except OverflowError:  # a whole number beyond all that a float can hold
            found[at] = math.inf if value > 0 else -math.inf
    high = 1.0 if name == "score" else np.inf
    wrong = np.flatnonzero((found < 0) | (found > high) | np.isinf(found))
    if wrong.size:
        at = int(wrong[0])
        allowed = "0 to 1; divide it by the largest score"
        if name != "score":
            allowed = "0 or more, and finite"
        raise OutcomeFileError(
            str(path), f"{where[at]}: {name} is {found[at]:g}; allowed is {allowed}"
        )
    return found


def averaged(values: Floats, at: tuple[NDArray[np.int64], NDArray[np.int64]], n: int) -> Floats:
    """Average `values` (R,) into (n, 4) cells; a cell without a known value is NaN."""
    known = np.isfinite(values)
    total, count = np.zeros((n, 4)), np.zeros((n, 4))
    cell = (at[0][known], at[1][known])
    np.add.at(total, cell, values[known])
    np.add.at(count, cell, 1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
