"""Nearest neighbours, condensed: prototypes on a compact embedding of the text."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.cluster import KMeans
from sklearn.decomposition import TruncatedSVD
from sklearn.preprocessing import normalize
from sklearn.utils.validation import check_is_fitted
from threadpoolctl import threadpool_limits

from router.predict.estimators.targets import Floats, check_fit, check_predict, shaped


class PrototypeNeighbors(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """Kernel regression on prototypes: a mean of labels, weighted by likeness of direction.

    Rows are embedded by a truncated singular value decomposition and scaled to length 1; k-means
    makes prototypes, each with the number and the mean label of its rows. A prediction is the mean
    of labels, each prototype weighing as many rows as it has, times exp((cosine - 1) /
    temperature), with the overall mean as `prior_rows` more rows.

    Parameters
    ----------
    n_components, n_prototypes
        Size of the embedding and most prototypes; of few rows, a third as many as rows.
    temperature
        How fast likeness falls with the angle.
    prior_rows
        How many rows' weight the overall mean has.
    random_state
        Seed of the decomposition and of k-means.

    Attributes
    ----------
    components_ : (F, E); prototypes_ : (P, E) of length 1; counts_ : (P, T) rows with a label;
    means_ : (P, T) their mean label; prior_ : (T,).
    """

    def __init__(
        self,
        n_components: int = 32,
        n_prototypes: int = 256,
        temperature: float = 0.1,
        prior_rows: float = 1.0,
        random_state: int = 0,
    ):
        self.n_components = n_components
        self.n_prototypes = n_prototypes
        self.temperature = temperature
        self.prior_rows = prior_rows
        self.random_state = random_state

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:  # noqa: N803
        """Fit to labels (N,) or (N, T); NaN where nothing was recorded."""
        x, y, weight = check_fit(self, X, y, sample_weight)
        size = min(self.n_components, *(n - 1 for n in x.shape))
        if size < 1:
            self.components_ = np.ones((x.shape[1], 1))
        else:
            svd = TruncatedSVD(size, random_state=self.random_state, n_iter=4)
            self.components_ = svd.fit(x).components_.T
        embedded = self.embed(x)
        clusters = max(1, min(self.n_prototypes, len(y) // 3))
        means = KMeans(clusters, n_init=1, max_iter=20, random_state=self.random_state)
        # Threads would add up their parts of a sum in the order in which they end.
        with threadpool_limits(1, user_api="openmp"):
            of = means.fit(embedded).labels_
        self.prototypes_ = normalize(means.cluster_centers_)
        known = np.isfinite(y)
        mass = known * weight[:, None]
        labels = np.where(known, y, 0.0)
        total = mass.sum(axis=0)
        self.prior_ = (mass * labels).sum(axis=0) / np.maximum(total, 1e-12)
        self.counts_ = np.zeros((clusters, y.shape[1]))
        sums = np.zeros_like(self.counts_)
        np.add.at(self.counts_, of, mass)
        np.add.at(sums, of, mass * labels)
        self.means_ = np.where(
            self.counts_ > 0, sums / np.maximum(self.counts_, 1e-12), self.prior_
        )
        return self

    def embed(self, x: Any) -> Floats:
        """Rows as directions, (N, E); a row of zeros stays zero."""
        embedded: Floats = normalize(np.asarray(x @ self.components_))
        return embedded

    def likeness(self, x: Any) -> Floats:
        """Cosine to the most alike prototype, (N,)."""
        nearest: Floats = (self.embed(x) @ self.prototypes_.T).max(axis=1)
        return nearest

    def predict(self, X: Any) -> Floats:  # noqa: N803
        """Expected labels, (N,) or (N, T)."""
        check_is_fitted(self)
        likeness = self.embed(check_predict(self, X)) @ self.prototypes_.T
        kernel = np.exp((likeness - 1) / self.temperature)
        near = kernel @ self.counts_
        sums = kernel @ (self.counts_ * self.means_)
        return shaped(self, (sums + self.prior_rows * self.prior_) / (near + self.prior_rows))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.target_tags.multi_output = True
        tags.target_tags.single_output = True
        tags.regressor_tags.poor_score = True  # it looks at directions alone
        return tags
