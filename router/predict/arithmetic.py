"""One formula for one request and for many: on plain numbers, or on arrays of one number each.

Plain numbers are what makes one request fast: each of numpy's operations takes a microsecond,
however short the array.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """What formulas need beyond `+ - * /`."""

    exp: Callable[[Any], Any]
    expm1: Callable[[Any], Any]
    log: Callable[[Any], Any]
    log1p: Callable[[Any], Any]
    sqrt: Callable[[Any], Any]
    hypot: Callable[[Any, Any], Any]
    maximum: Callable[[Any, Any], Any]
    minimum: Callable[[Any, Any], Any]


ONE = Arithmetic(
    math.exp, math.expm1, math.log, math.log1p, math.sqrt, math.hypot, maximum=max, minimum=min
)
MANY = Arithmetic(
    np.exp, np.expm1, np.log, np.log1p, np.sqrt, np.hypot, maximum=np.maximum, minimum=np.minimum
)
