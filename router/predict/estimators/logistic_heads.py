"""P(good answer) of each tier by logistic regression, with soft labels."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from scipy import sparse
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.linear_model import LogisticRegression
from sklearn.utils.validation import check_is_fitted

from router.predict.estimators.targets import Floats, check_fit, check_predict, shaped


class LogisticHeads(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """One logistic regression for each output, on labels between 0 and 1.

    A label of 0.7 counts as 0.7 of a good answer and 0.3 of a bad one, which is the cross-entropy
    to it. The gain of a dearer tier is the difference of two heads; learnt so, it beats a linear
    gain on public outcomes, since a probability flattens where an answer is nearly certain.

    Parameters
    ----------
    C
        Inverse strength of the L2 penalty.

    Attributes
    ----------
    coef_ : (T, F) weights; intercept_ : (T,). Log odds are X @ coef_.T + intercept_.
    """

    def __init__(self, C: float = 0.5):  # noqa: N803  (scikit-learn's name for it)
        self.C = C

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:  # noqa: N803
        """Fit to labels (N,) or (N, T), clipped to [0, 1]; NaN where nothing was recorded."""
        x, y, weight = check_fit(self, X, y, sample_weight)
        y = np.clip(y, 0, 1)
        self.coef_ = np.zeros((y.shape[1], x.shape[1]))
        self.intercept_ = np.zeros(y.shape[1])
        for output in range(y.shape[1]):
            self._fit_one(x, y[:, output], weight, output)
        return self

    def _fit_one(self, x: Any, y: Floats, weight: Floats, output: int) -> None:
        known = np.flatnonzero(np.isfinite(y) & (weight > 0))
        x, y, weight = x[known], y[known], weight[known]
        mean = float(np.average(y, weights=weight)) if known.size else 0.5
        if not known.size or mean in (0.0, 1.0):  # nothing to tell apart: the rate, less certainty
            rate = (mean * known.size + 0.5) / (known.size + 1)
            self.intercept_[output] = np.log(rate / (1 - rate))
            return
        good, bad = np.flatnonzero(y > 0), np.flatnonzero(y < 1)
        stack = sparse.vstack if sparse.issparse(x) else np.vstack
        rows = stack([x[good], x[bad]])
        label = np.repeat([1, 0], [good.size, bad.size])
        share = np.concatenate([weight[good] * y[good], weight[bad] * (1 - y[bad])])
        model = LogisticRegression(C=self.C, solver="liblinear", tol=1e-2, random_state=0)
        model.fit(rows, label, sample_weight=share)
        self.coef_[output], self.intercept_[output] = model.coef_[0], model.intercept_[0]

    def predict(self, X: Any) -> Floats:  # noqa: N803
        """P(good answer), (N,) or (N, T)."""
        check_is_fitted(self)
        x = check_predict(self, X)
        return shaped(self, 1 / (1 + np.exp(-(x @ self.coef_.T + self.intercept_))))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.target_tags.multi_output = True
        tags.target_tags.single_output = True
        tags.regressor_tags.poor_score = True  # labels outside [0, 1] are clipped
        return tags
