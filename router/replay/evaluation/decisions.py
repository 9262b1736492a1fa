"""Decisions as a table: a row for each wire call that the router would make."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from router.errors import ConfigurationError
from router.replay.recorded.rows import TRAIN_EXTRA
from router.types import TIERS

if TYPE_CHECKING:
    from router.replay.evaluation.evaluate import Evaluation


def write_decisions(evaluation: Evaluation, path: str | Path) -> int:
    """Write the decisions as Parquet; return the number of rows.

    Columns: `query_id`, `fold`, `sweep_point`, `step` (of a chain of calls, from 0),
    `arm` (the tier), `model`, `accepted` (exactly one row of each query and sweep point),
    `predicted_quality`, and `predicted_cost` (dollars, or relative to the frontier where no price
    is known: `cost_unit` in the file's metadata says which). Rows go by sweep point, then in the
    order of the outcomes. Nothing recorded of the query itself is in it.

    Raises `ConfigurationError` where pyarrow is missing or the file cannot be written.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise ConfigurationError(f"writing decisions needs pyarrow: {TRAIN_EXTRA}") from None
    outcomes, chosen = evaluation.outcomes, evaluation.chosen
    called = evaluation.called
    steps = chosen[:, :, None] if called is None else called.steps.astype(np.int64)
    point, at, step = np.nonzero(steps >= 0)  # in the order of points, queries and steps
    flat = steps[point, at, step].astype(np.int32)
    quality = evaluation.prediction.quality[at, flat]
    if called is not None:
        quality = called.predicted[point, at, step]
    models = [outcomes.ladder.get(tier, "") for tier in TIERS]
    tier = pa.array(flat)
    table = pa.table(
        {
            "query_id": pa.array(outcomes.query_id[at].tolist(), pa.string()),
            "fold": pa.array(evaluation.fold[at].astype(np.int32)),
            "sweep_point": pa.array(point.astype(np.int32)),
            "step": pa.array(step.astype(np.int32)),
            "arm": pa.DictionaryArray.from_arrays(tier, pa.array(list(TIERS))).cast(pa.string()),
            "model": pa.DictionaryArray.from_arrays(tier, pa.array(models)).cast(pa.string()),
            "accepted": pa.array(flat == chosen[point, at]),
            "predicted_quality": pa.array(quality),
            "predicted_cost": pa.array(evaluation.expected.usd[at, flat]),
        }
    )
    table = table.replace_schema_metadata({"cost_unit": evaluation.report["predicted_cost_unit"]})
    try:
        pq.write_table(table, path)
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be written: {error}") from error
    return len(flat)
