"""Checks of X and Y that the estimators share: several outputs, with NaN for what is unknown."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.linear_model import Ridge
from sklearn.utils.validation import _check_sample_weight, column_or_1d, validate_data

Floats = NDArray[np.float64]


def check_fit(
    estimator: Any,
    x: Any,
    y: Any,
    sample_weight: Any,
    *,
    sparse: bool = True,
    several: bool = True,
) -> tuple[Any, Floats, Floats]:
    """Check training data; Y becomes (N, T), and may have NaN where nothing was recorded."""
    if y is None:
        raise ValueError("requires y to be passed, but the target y is None.")
    x = validate_data(
        estimator, x, accept_sparse="csr" if sparse else False, dtype=np.float64, reset=True
    )
    y = np.asarray(y) if several else column_or_1d(y, warn=True)
    if y.dtype.kind not in "biuf":
        y = y.astype(np.float64)
    if np.iscomplexobj(y):
        raise ValueError("Complex data not supported")
    y = y.astype(np.float64)
    if y.ndim not in (1, 2):
        raise ValueError(f"y must have one or two dimensions, not {y.ndim}")
    if len(y) != x.shape[0]:
        raise ValueError(f"X has {x.shape[0]} rows and y has {len(y)}: inconsistent numbers")
    estimator._one_output = y.ndim == 1
    y = y.reshape(len(y), -1)
    if np.isinf(y).any() or np.isnan(y).all():
        raise ValueError("Input y contains infinity, or NaN alone")
    weight: Floats = _check_sample_weight(sample_weight, x, dtype=np.float64)
    return x, y, weight


def check_predict(estimator: Any, x: Any, *, sparse: bool = True) -> Any:
    """Check X before a prediction."""
    return validate_data(
        estimator, x, accept_sparse="csr" if sparse else False, dtype=np.float64, reset=False
    )


def shaped(estimator: Any, found: Floats) -> Floats:
    """Give a prediction (N, T) the dimensions of the y of `fit`."""
    return found[:, 0] if estimator._one_output else found


def ridge_heads(x: Any, targets: Floats, weight: Floats, alpha: float) -> tuple[Floats, Floats]:
    """Fit a ridge regression to each column of targets (N, T), NaN left out.

    Returns weights (T, F) and intercepts (T,); both are 0 for a column without a target.
    """
    coef, intercept = np.zeros((targets.shape[1], x.shape[1])), np.zeros(targets.shape[1])
    for output in range(targets.shape[1]):
        known = np.flatnonzero(np.isfinite(targets[:, output]))
        if not known.size:
            continue
        model = Ridge(alpha=alpha, solver="sparse_cg" if sparse.issparse(x) else "auto", tol=1e-4)
        model.fit(x[known], targets[known, output], sample_weight=weight[known])
        coef[output], intercept[output] = model.coef_, model.intercept_
    return coef, intercept
