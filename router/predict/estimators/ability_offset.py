"""A new model from few answers: how much abler it is than the tier's model that is known."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils.validation import check_is_fitted

from router.predict.estimators.targets import Floats, check_fit, check_predict, shaped

_STEPS = 50


class AbilityOffset(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """One number on the log-odds scale: P(good) = logistic(x + offset), x the known model's odds.

    The Rasch model of item response theory with difficulties held fixed; the offset has a normal
    prior, its posterior is Laplace's approximation.

    Parameters
    ----------
    prior_std
        Standard deviation of the prior, in log odds: models of one tier differ by about so much.

    Attributes
    ----------
    offset_ : float; offset_std_ : float, its posterior standard deviation.
    """

    def __init__(self, prior_std: float = 1.0):
        self.prior_std = prior_std

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:  # noqa: N803
        """Fit to labels (N,) in [0, 1] (clipped) the log odds (N, 1); more columns are summed."""
        x, y, weight = check_fit(self, X, y, sample_weight, sparse=False, several=False)
        known = np.isfinite(y[:, 0])
        odds, label, weight = x[known].sum(axis=1), np.clip(y[known, 0], 0, 1), weight[known]
        precision = 1 / self.prior_std**2
        offset, curvature = 0.0, precision
        for _ in range(_STEPS):  # Newton's method on a concave function, with bounded steps
            rate = 1 / (1 + np.exp(-np.clip(odds + offset, -30, 30)))
            slope = float(np.sum(weight * (label - rate))) - precision * offset
            curvature = float(np.sum(weight * rate * (1 - rate))) + precision
            step = float(np.clip(slope / curvature, -1, 1))
            offset += step
            if abs(step) < 1e-9:
                break
        self.offset_, self.offset_std_ = offset, curvature**-0.5
        return self

    def predict(self, X: Any) -> Floats:  # noqa: N803
        """P(good answer), (N,)."""
        check_is_fitted(self)
        odds = check_predict(self, X, sparse=False).sum(axis=1) + self.offset_
        return shaped(self, (1 / (1 + np.exp(-np.clip(odds, -30, 30))))[:, None])

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.regressor_tags.poor_score = True  # it has one free number
        return tags
