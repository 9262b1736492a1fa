"""A compact space of texts, learnt from training queries alone, for comparisons and for costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from router.errors import ConfigurationError
from router.replay.recorded.rows import TRAIN_EXTRA

if TYPE_CHECKING:
    from router.types import Floats, Ints

DIMENSIONS = 64
NEIGHBOURS = 100
_MAX_TERMS = 20_000
_VIEW = 4000  # characters of a text that are read


class TextSpace:
    """Unit vectors of the texts of all queries, fitted on those of the training queries.

    tf-idf of words and word pairs (logarithmic counts), then a truncated singular value
    decomposition: latent semantic analysis (Deerwester et al. 1990).

    Parameters
    ----------
    texts
        The last user turn of each of the N queries.
    train
        Positions of the training queries; no other text shapes the space.
    """

    def __init__(self, texts: Sequence[str], train: Ints, seed: int):
        try:
            from sklearn.decomposition import TruncatedSVD
            from sklearn.feature_extraction.text import TfidfVectorizer
        except ImportError:
            raise ConfigurationError(f"this comparison needs scikit-learn: {TRAIN_EXTRA}") from None
        seen = [text[:_VIEW] for text in texts]
        vectorizer = TfidfVectorizer(
            ngram_range=(1, 2),
            sublinear_tf=True,
            min_df=min(2, len(train)),
            max_features=_MAX_TERMS,
            token_pattern=r"\w+|[^\w\s]",
        )
        fitted = vectorizer.fit_transform([seen[i] for i in train])
        matrix = vectorizer.transform(seen)
        size = min(DIMENSIONS, *(length - 1 for length in fitted.shape))
        if size >= 1:
            svd = TruncatedSVD(size, n_iter=3, random_state=seed).fit(fitted)
            vectors = svd.transform(matrix)
        else:
            vectors = np.ones((len(texts), 1))
        norm = np.linalg.norm(vectors, axis=1, keepdims=True)
        self.vectors: Floats = vectors / np.maximum(norm, 1e-12)
        self.train = train

    def neighbours(self, queries: Ints, k: int = NEIGHBOURS) -> Ints:
        """Positions of the k training queries nearest by cosine to each query: (len, k)."""
        known = self.vectors[self.train]
        k = min(k, len(known))
        found = np.empty((len(queries), k), dtype=np.int64)
        for start in range(0, len(queries), 1000):
            part = self.vectors[queries[start : start + 1000]] @ known.T
            found[start : start + 1000] = np.argpartition(-part, k - 1, axis=1)[:, :k]
        return self.train[found]
