"""Output tokens as a distribution: a ridge on their logarithm, and quantiles of what is left."""

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


class LogTokens(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """Ridge regression of ln(1 + tokens), one output a tier.

    Parameters
    ----------
    alpha
        The L2 penalty.

    Attributes
    ----------
    coef_ : (T, F); intercept_ : (T,).
    """

    def __init__(self, alpha: float = 10.0):
        self.alpha = alpha

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:  # noqa: N803
        """Fit to tokens (N,) or (N, T), at least 0; NaN where nothing was recorded."""
        x, y, weight = check_fit(self, X, y, sample_weight)
        logs = np.log1p(np.maximum(y, 0))
        self.coef_, self.intercept_ = ridge_heads(x, logs, weight, self.alpha)
        return self

    def predict_log(self, X: Any) -> Floats:  # noqa: N803
        """Expected ln(1 + tokens), (N, T)."""
        check_is_fitted(self)
        found: Floats = check_predict(self, X) @ self.coef_.T + self.intercept_
        return found

    def predict(self, X: Any) -> Floats:  # noqa: N803
        """Median tokens, (N,) or (N, T)."""
        return shaped(self, np.expm1(np.minimum(self.predict_log(X), 25)))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.target_tags.multi_output = True
        tags.target_tags.single_output = True
        tags.target_tags.positive_only = True
        tags.regressor_tags.poor_score = True  # a line in the logarithm, and none in tokens
        return tags


def residual_quantiles(residuals: Floats, shares: tuple[float, ...]) -> Floats:
    """Quantiles of held-out residuals that cover a new one at least as often as stated.

    The k-th smallest of n with k = ⌈(n + 1)·share⌉, the largest where n is too small for it: split
    conformal prediction (Vovk, Gammerman and Shafer 2005; Lei et al. 2018, arXiv:1604.04173).
    """
    ordered = np.sort(residuals)
    position = [min(ordered.size, int(np.ceil((ordered.size + 1) * s))) - 1 for s in shares]
    return ordered[position]
