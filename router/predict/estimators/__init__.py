"""What learns: scikit-learn estimators, one a file. Loaded by training alone."""

from router.predict.estimators.ability_offset import AbilityOffset
from router.predict.estimators.gain_ridge import GainRidge
from router.predict.estimators.log_tokens import LogTokens
from router.predict.estimators.logistic_heads import LogisticHeads
from router.predict.estimators.prototype_neighbors import PrototypeNeighbors
from router.predict.estimators.stacking import SimplexStacking

__all__ = [
    "AbilityOffset",
    "GainRidge",
    "LogTokens",
    "LogisticHeads",
    "PrototypeNeighbors",
    "SimplexStacking",
]
