"""A stretch of a log as arrays: what decisions saw, what was chosen, and what came of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from router.decide.options import UNKNOWN
from router.errors import LogFileError
from router.log.base import Log
from router.replay.off_policy import looks
from router.replay.off_policy.export import ROWS_AT_ONCE, Exported, Part, file_system
from router.replay.off_policy.looks import Looks
from router.replay.off_policy.table import LATER, LeftOut, arrow, rows_of, schema, to_table
from router.types import TIERS

if TYPE_CHECKING:
    import pyarrow as pa

    from router.types import Floats, Ints

_READ_ROWS = 250_000  # of a file at once


@dataclass(frozen=True, slots=True)
class LoggedArm:
    """An arm as the log names it; what a policy's arm must agree with to be the same."""

    name: str
    tier: str
    model: str

    @property
    def rank(self) -> int:
        """Its tier's place among `TIERS`."""
        return TIERS.index(self.tier)

    @property
    def key(self) -> tuple[str, str, str]:
        """What makes two arms the same, wherever they stand in their tier: the model, and how it is
        asked (`Arm.way`), which ends the name."""
        return self.tier, self.model, self.name.partition(":")[2].removeprefix(self.model)


@dataclass(frozen=True, slots=True)
class LogBatch:
    """N decisions over the same A arms.

    `quality`, `quality_std` (N, A); `expected`, `upper` (N, A) int64 nano-USD or `UNKNOWN`;
    `propensity` (N, A), NaN where not known; `barred` (N, A), codes of what an arm lacks; `chosen`
    (N,); `cost`, `baseline` nano-USD, `latency` seconds, `label`, and `billed_input` and
    `billed_output` tokens, (N,), NaN where not known; `step` (N,) of a chain; `cluster` (N,), what
    varies together; `price_book`, `predictor`, `policy` (N,) codes into `words`; `request_id` (N,)
    where the reader was asked for it: at 40 bytes a row it would be most of a large log.
    """

    arms: tuple[LoggedArm, ...]
    time: Floats
    step: Ints
    cluster: NDArray[np.uint32]
    request_hash: NDArray[np.uint64]
    quality: Floats
    quality_std: Floats
    expected: Ints
    upper: Ints
    propensity: Floats
    barred: NDArray[np.uint8]
    chosen: Ints
    cost: Floats
    baseline: Floats
    latency: Floats
    label: Floats
    billed_input: Floats
    billed_output: Floats
    input_tokens: Floats
    novel: NDArray[np.bool_]
    tags: tuple[Ints, list[str]]  # codes, and the JSON that each stands for
    needs: tuple[Ints, list[str]]
    policy: tuple[Ints, list[str]]
    predictor: tuple[Ints, list[str]]
    price_book: tuple[Ints, list[str]]
    request_id: NDArray[np.object_] | None = None
    label_rate: Floats | None = None  # the chance of a label that was drawn; NaN where nobody drew
    beside_baseline: NDArray[np.bool_] | None = None  # whether it was a judge's label
    stream: NDArray[np.bool_] | None = None  # whether the answer was streamed
    looks: Looks | None = None  # at answers of chains; None where no row has any

    def __len__(self) -> int:
        return len(self.time)

    @property
    def tier(self) -> Ints:
        """(A,) index of each arm's tier."""
        return np.array([arm.rank for arm in self.arms])

    def take(self, rows: NDArray[np.int64]) -> LogBatch:
        """Some of the rows."""
        parts: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "arms" or value is None:
                parts[field.name] = value
            elif isinstance(value, tuple):
                parts[field.name] = (value[0][rows], value[1])
            elif isinstance(value, Looks):
                parts[field.name] = value.take(rows)
            else:
                parts[field.name] = value[rows]
        return LogBatch(**parts)


def batches_of(table: pa.Table, where: str, *, ids: bool = False) -> Iterator[LogBatch]:
    """A table of `schema` as batches, one for each set of arms, in its order of rows.

    `ids`: whether the batches carry the ids of their requests.
    Raises `LogFileError` for rows whose lists do not fit their arms.
    """
    table = table.combine_chunks()
    codes, sets = _words(table, "arms")
    for code, text in enumerate(sets):
        rows = np.flatnonzero(codes == code)
        if rows.size:
            mine = table if rows.size == len(codes) else table.take(rows)
            yield _batch(mine, text, where, ids)


def _batch(table: pa.Table, arms: str, where: str, ids: bool) -> LogBatch:
    try:
        known = tuple(LoggedArm(*each) for each in json.loads(arms))
        for arm in known:
            if arm.tier not in TIERS:
                raise LogFileError(where, f"arm {arm.name!r} has the unknown tier {arm.tier!r}")
    except (TypeError, ValueError) as error:
        raise LogFileError(where, f"arms {arms!r:.80} are not names with tiers: {error}") from None
    width, names = len(known), table.column_names

    def matrix(name: str, unknown: float, dtype: Any) -> Any:
        return _matrix(table, name, width, unknown, dtype, where)

    def numbers(name: str) -> Floats:
        return _numbers(table, name)

    def flags(name: str) -> NDArray[np.bool_] | None:
        return table[name].to_numpy().astype(bool) if name in names else None

    chosen = numbers("chosen")
    if not ((chosen >= 0) & (chosen < width)).all():
        raise LogFileError(where, f"`chosen` names none of its {width} arms in some row")
    return LogBatch(
        arms=known,
        time=numbers("time"),
        step=numbers("step").astype(np.int64),
        cluster=table["cluster"].to_numpy(),
        request_hash=table["request_hash"].to_numpy(),
        quality=matrix("quality", np.nan, np.float64),
        quality_std=matrix("quality_std", np.nan, np.float64),
        expected=matrix("expected", UNKNOWN, np.int64),
        upper=matrix("upper", UNKNOWN, np.int64),
        propensity=matrix("propensity", np.nan, np.float64),
        barred=matrix("barred", 0, np.uint8),
        chosen=chosen.astype(np.int64),
        cost=numbers("cost"),
        baseline=numbers("baseline"),
        latency=numbers("latency"),
        label=numbers("label"),
        billed_input=numbers("billed_input"),
        billed_output=numbers("billed_output"),
        input_tokens=numbers("input_tokens"),
        novel=table["novel"].to_numpy().astype(bool),
        tags=_words(table, "tags"),
        needs=_words(table, "needs"),
        policy=_words(table, "policy"),
        predictor=_words(table, "predictor"),
        price_book=_words(table, "price_book"),
        request_id=table["request_id"].to_numpy() if ids else None,
        label_rate=numbers("label_rate") if "label_rate" in names else None,
        beside_baseline=flags("beside_baseline"),
        stream=flags("stream"),
        looks=looks.read(table, width, _words(table, "gate"), where) if "looks" in names else None,
    )


def _matrix(
    table: pa.Table, name: str, width: int, unknown: float, dtype: Any, where: str
) -> NDArray[Any]:
    chunks = table[name].combine_chunks()
    column = chunks.chunk(0) if hasattr(chunks, "chunk") else chunks
    flat = column.flatten()
    if column.null_count or len(flat) != width * len(column):
        raise LogFileError(where, f"{name!r} has not an entry for each of {width} arms in each row")
    offsets = np.diff(column.offsets.to_numpy())
    if (offsets != width).any():
        raise LogFileError(where, f"{name!r} has not an entry for each of {width} arms in each row")
    if flat.null_count:
        flat = flat.fill_null(unknown)
    values: NDArray[Any] = flat.to_numpy(zero_copy_only=False).astype(dtype, copy=False)
    return values.reshape(-1, width)


def _numbers(table: pa.Table, name: str) -> Floats:
    column = table[name]
    if column.null_count == 0:
        values: Floats = column.to_numpy().astype(np.float64, copy=False)
        return values
    found: Floats = column.cast("float64").fill_null(np.nan).to_numpy()
    return found


def _words(table: pa.Table, name: str) -> tuple[Ints, list[str]]:
    column = table[name].unify_dictionaries().combine_chunks()
    if hasattr(column, "chunk"):
        column = column.chunk(0)
    if column.null_count:
        column = column.fill_null("")
    return column.indices.to_numpy().astype(np.int64), column.dictionary.to_pylist()


def read_part(exported: Exported, part: Part, *, ids: bool = False) -> Iterator[LogBatch]:
    """The batches of one file of an exported log, with the requests' ids where asked for.

    Raises `LogFileError` for a file that is damaged, cut short, or not of this version.
    """
    pa = arrow()
    system, root = file_system(exported.url)
    where = f"{exported.url}/{part.path}"
    rows = 0
    try:
        with system.open(f"{root}/{part.path}", "rb") as file:
            opened = pa.parquet.ParquetFile(file)
            found = set(opened.schema_arrow.names)
            lacking = set(schema().names) - found - LATER
            if lacking:
                raise LogFileError(where, f"the columns {', '.join(sorted(lacking))} are missing")
            names = [
                name for name in schema().names if name in found and (ids or name != "request_id")
            ]
            for read in opened.iter_batches(_READ_ROWS, columns=names):
                rows += len(read)
                yield from batches_of(pa.Table.from_batches([read]), where, ids=ids)
    except (pa.ArrowException, OSError, ValueError) as error:
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise LogFileError(where, f"not a readable Parquet file: {said}") from error
    if rows != part.rows:
        raise LogFileError(where, f"it has {rows} rows, and the manifest says {part.rows}")


def read_log(
    log: Log,
    since: float | None,
    until: float | None,
    left_out: LeftOut,
    *,
    ids: bool = False,
) -> Iterator[LogBatch]:
    """The batches of a store's own log, with the requests' ids where asked for."""
    page: list[dict[str, Any]] = []
    for row in rows_of(log, since, until, left_out):
        page.append(row)
        if len(page) == ROWS_AT_ONCE:
            yield from batches_of(to_table(page), "of the store", ids=ids)
            page = []
    if page:
        yield from batches_of(to_table(page), "of the store", ids=ids)
