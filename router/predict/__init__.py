"""Request → features → P(good answer) and output tokens for each tier; numpy alone at run time."""

from router.predict.features import extract, extract_many
from router.predict.scorer import Predictor, load_predictor
from router.predict.shape import shape_of

__all__ = ["Predictor", "extract", "extract_many", "load_predictor", "shape_of"]
