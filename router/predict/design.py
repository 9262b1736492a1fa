"""Examples as matrices: text as weighted bags, dense values standardised and clipped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from router.predict.examples import Examples
from router.predict.features import DENSE_NAMES, FeatureBatch
from router.predict.scorer import DENSE_LIMIT
from router.predict.vocabulary import Vocabulary

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    from router.types import Floats

# Dense values stand beside a text of length 1: this makes all of them together weigh about as much.
DENSE_SHARE = 0.1
EMBEDDED_SHARE = 0.5  # of a text embedder's vector: its usual length beside the text's
# Least standard deviations: a value that is rare in training must not explode in use.
_LEAST_SCALE, _LEAST_SCALE_OF_SHARE = 0.1, 0.02
_LEAST_EMBEDDED = 1e-3


@dataclass(frozen=True)
class Design:
    """Examples as matrices: `text` (N, V) sparse, `dense` (N, D) standardised and clipped."""

    examples: Examples
    vocabulary: Vocabulary
    mean: Floats
    scale: Floats
    text: csr_matrix
    dense: Floats

    @classmethod
    def of(
        cls, examples: Examples, weight: Floats | None = None, least: Floats | None = None
    ) -> Design:
        """Fit vocabulary and scale to the examples.

        Parameters: `weight` (N,) in place of the examples' own, and `least` (D,) standard
        deviations in place of `least_scales`, where given.
        """
        vocabulary = Vocabulary.fit(examples.features)
        usual = examples.weight if weight is None else weight
        raw = examples.features.dense.astype(np.float64)
        mean = np.average(raw, axis=0, weights=usual)
        spread = np.sqrt(np.average((raw - mean) ** 2, axis=0, weights=usual))
        named = len(DENSE_NAMES)  # what comes after them is a text embedder's
        least = np.concatenate([least_scales() if least is None else least, 0 * spread[named:]])
        scale = np.maximum(spread, least)
        each = EMBEDDED_SHARE / np.sqrt(max(1, len(spread) - named))
        scale[named:] = np.maximum(scale[named:], _LEAST_EMBEDDED) * DENSE_SHARE / each
        return cls(
            examples,
            vocabulary,
            mean,
            scale,
            text_matrix(vocabulary, examples.features),
            np.clip((raw - mean) / scale, -DENSE_LIMIT, DENSE_LIMIT),
        )

    def take(self, chosen: NDArray[Any]) -> Design:
        """The rows at `chosen`."""
        parts = (self.vocabulary, self.mean, self.scale, self.text[chosen], self.dense[chosen])
        return Design(self.examples.take(chosen), *parts)

    @property
    def both(self) -> csr_matrix:
        """Text and dense values side by side."""
        from scipy import sparse

        return sparse.hstack([self.text, self.dense * DENSE_SHARE], format="csr")


def least_scales() -> Floats:
    """The least standard deviation of each dense feature, (D,)."""
    return np.array(
        [
            _LEAST_SCALE_OF_SHARE if name.startswith("share_") else _LEAST_SCALE
            for name in DENSE_NAMES
        ]
    )


def text_matrix(vocabulary: Vocabulary, batch: FeatureBatch) -> csr_matrix:
    """The weighted bags of N requests as a sparse matrix (N, V)."""
    from scipy import sparse

    bags = vocabulary.bags(batch)
    shape = (len(batch), len(vocabulary))
    return sparse.csr_matrix((bags.values, bags.columns, bags.starts), shape=shape)
