"""Which hashed n-grams a model knows, and how much each weighs: shared by training and scoring."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from router.predict.features import FeatureBatch
from router.predict.hashing import BUCKETS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from router.types import Features, Floats

MAX_TERMS = 1 << 16
LEAST_DOCUMENTS = 2  # a term of one document only says which document it is


_FIRST_COLUMN = np.array(0, dtype=np.int32)  # numpy takes longer to convert a plain number


@dataclass(frozen=True)
class Bags:
    """Weighted terms of N requests: `columns` and `values` of request i are those from `starts[i]`
    to `starts[i + 1]`; `known` (N,) is the share of a request's n-grams that the vocabulary has."""

    starts: NDArray[np.int64]
    columns: NDArray[np.int32]
    values: NDArray[np.float32]
    known: Floats


@dataclass(frozen=True)
class Vocabulary:
    """Terms as columns: `buckets` (V,) rising, `idf` (V,), the inverse document frequency.

    A bag's values are a feature's weight times idf, scaled to Euclidean length 1 (Salton and
    Buckley 1988); n-grams that were not seen in training count for nothing.
    """

    buckets: NDArray[np.int32]
    idf: NDArray[np.float32]

    @classmethod
    def fit(cls, batch: FeatureBatch, most: int = MAX_TERMS) -> Vocabulary:
        """Take the most frequent n-grams that stand in at least two requests."""
        frequency = np.bincount(batch.buckets, minlength=BUCKETS)
        least = LEAST_DOCUMENTS if len(batch) > 1 else 1
        found = np.flatnonzero(frequency >= least)
        if found.size > most:
            found = np.sort(found[np.argsort(-frequency[found], kind="stable")[:most]])
        idf = np.log((1 + len(batch)) / (1 + frequency[found])) + 1
        return cls(found.astype(np.int32), idf.astype(np.float32))

    def __len__(self) -> int:
        return len(self.buckets)

    @cached_property
    def _column(self) -> NDArray[np.int32]:
        """The column of each bucket, -1 where it is not known."""
        column = np.full(BUCKETS, -1, dtype=np.int32)
        column[self.buckets] = np.arange(len(self.buckets))
        return column

    def bag(self, features: Features) -> tuple[NDArray[np.int32], NDArray[np.float32], float]:
        """Return columns (K,), values (K,) and the known share of one request."""
        found = self._column.take(features.buckets)
        known = (found >= _FIRST_COLUMN).nonzero()[0]
        columns = found.take(known)
        values = self.idf.take(columns)
        values *= features.weights.take(known)
        if not columns.size:
            return columns, values, 0.0
        values /= math.sqrt(values.dot(values)) or 1.0
        return columns, values, known.size / features.buckets.size

    def bags(self, batch: FeatureBatch) -> Bags:
        """Weigh the bags of N requests: the same numbers as `bag`, one by one."""
        found = self._column.take(batch.buckets)
        known = (found >= _FIRST_COLUMN).nonzero()[0]
        starts = known.searchsorted(batch.starts)
        columns = found.take(known)
        values = self.idf.take(columns)
        values *= batch.weights.take(known)
        size = np.diff(starts)
        length = np.sqrt(sums_of(values[:, None] ** 2, starts)[:, 0])
        values /= np.repeat(np.where(length > 0, length, 1), size)
        share = size / np.maximum(1, np.diff(batch.starts))
        return Bags(starts, columns, values, share)


def sums_of(rows: NDArray[np.float32], starts: NDArray[np.int64]) -> NDArray[np.float32]:
    """Sum the rows of each segment: (M, C) rows and (N + 1,) starts give (N, C)."""
    # reduceat gives a row instead of a zero for an empty segment, so those are left out.
    filled = np.flatnonzero(starts[1:] > starts[:-1])
    sums = np.zeros((len(starts) - 1, rows.shape[1]), dtype=rows.dtype)
    if filled.size:
        sums[filled] = np.add.reduceat(rows, starts[filled], axis=0)
    return sums
