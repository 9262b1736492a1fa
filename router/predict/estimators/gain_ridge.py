"""Quality by its differences: ridge regression on what a dearer tier gains over each other one."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils.validation import check_is_fitted

from router.predict.estimators.targets import (
    Floats,
    check_fit,
    check_predict,
    ridge_heads,
    shaped,
)


class GainRidge(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """Ridge regression on the last output and on the other outputs' regrets against it.

    A router needs the gain of the dearer tier, not difficulty: what both tiers fail at is hard
    and yet gains nothing.

    Parameters
    ----------
    alpha
        The L2 penalty.

    Attributes
    ----------
    coef_ : (T, F) and intercept_ : (T,), of the last output's quality and then of the regrets of
    the others, in order.
    """

    def __init__(self, alpha: float = 10.0):
        self.alpha = alpha

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:  # noqa: N803
        """Fit to labels (N,) or (N, T); NaN where nothing was recorded."""
        x, y, weight = check_fit(self, X, y, sample_weight)
        targets = np.column_stack([y[:, -1:], y[:, -1:] - y[:, :-1]])
        self.coef_, self.intercept_ = ridge_heads(x, targets, weight, self.alpha)
        return self

    def predict(self, X: Any) -> Floats:  # noqa: N803
        """Expected labels, (N,) or (N, T)."""
        check_is_fitted(self)
        x = check_predict(self, X)
        return shaped(self, levels(x @ self.coef_.T + self.intercept_))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.target_tags.multi_output = True
        tags.target_tags.single_output = True
        return tags


def levels(heads: Floats) -> Floats:
    """Turn heads (…, T), the last output's level and the others' regrets, into T levels."""
    return np.concatenate([heads[..., :1] - heads[..., 1:], heads[..., :1]], axis=-1)
