"""Stacking: how much each predictor of quality counts, learnt from held-out predictions."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from scipy.optimize import nnls
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils.validation import check_is_fitted

from router.predict.estimators.targets import Floats, check_fit, check_predict, shaped


class SimplexStacking(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """Weights, none negative and 1 in sum, with the least squared error (Breiman 1996).

    Parameters
    ----------
    prior_rows
        How many rows' worth of belief there is in equal weights.

    Attributes
    ----------
    weights_ : (F,) of the columns of X.
    """

    def __init__(self, prior_rows: float = 100.0):
        self.prior_rows = prior_rows

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:  # noqa: N803
        """Fit to labels (N,) the columns of X (N, F), each a held-out prediction of them."""
        x, y, weight = check_fit(self, X, y, sample_weight, sparse=False, several=False)
        known = np.isfinite(y[:, 0])
        root = np.sqrt(weight[known])[:, None]
        count = x.shape[1]
        apart = (x[known] - x[known].mean(axis=1, keepdims=True)) ** 2
        spread = float(np.average(apart.mean(axis=1), weights=weight[known])) or 1.0
        prior = np.sqrt(self.prior_rows * spread)
        # A row that outweighs all others makes the weights sum to 1.
        sure = 1e3 * np.sqrt(1 + float(weight[known] @ np.mean(x[known] ** 2, axis=1)))
        system = np.vstack([x[known] * root, prior * np.eye(count), np.full((1, count), sure)])
        wanted = np.concatenate([y[known, 0] * root[:, 0], np.full(count, prior / count), [sure]])
        found, _ = nnls(system, wanted)
        self.weights_ = found / found.sum()
        return self

    def predict(self, X: Any) -> Floats:  # noqa: N803
        """The weighted mean of the columns, (N,)."""
        check_is_fitted(self)
        return shaped(self, (check_predict(self, X, sparse=False) @ self.weights_)[:, None])

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.regressor_tags.poor_score = True  # a mean of columns is no regression on them
        return tags
