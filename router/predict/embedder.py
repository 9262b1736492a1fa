"""Text embedders: vectors of a text from elsewhere, as columns beside a request's other features.

None is used unless a model was trained with it (`router train --embedder`): on recorded outcomes a
static one gains less than its milliseconds are worth (`benchmarks/README.md`).
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from router.errors import ConfigurationError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_ALLOWED = "wordllama, or package.module:attribute"


@runtime_checkable
class TextEmbedder(Protocol):
    """What turns texts into vectors. Safe to share between threads.

    `name` is what a model file that was trained with it says, and what `load_embedder` finds it by;
    `size` is the length of a vector.
    """

    name: str
    size: int

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of N texts, shape (N, size), of length 1 or 0; the same text has the same."""
        ...


class WordLlamaEmbedder:
    """Static vectors of tokens, averaged: WordLlama's l2_supercat in 256 dimensions, which its
    package (MIT) brings along."""

    name = "wordllama"
    size = 256

    def __init__(self) -> None:
        try:
            import wordllama
        except ImportError as error:
            raise ConfigurationError(
                f"embedder 'wordllama' needs its package ({error}): "
                "pip install 'tiered-router[embedder]'"
            ) from error
        from pathlib import Path

        place = Path(str(wordllama.__file__)).parent
        self._model: Any = wordllama.WordLlama.load(
            dim=self.size, cache_dir=place, disable_download=True
        )

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        found = np.zeros((len(texts), self.size), np.float32)
        # The package divides by the length, which an empty text does not have.
        some = [at for at, text in enumerate(texts) if text.strip()]
        if some:
            found[some] = self._model.embed([texts[at] for at in some], norm=True)
        return np.nan_to_num(found, copy=False)


OURS = {WordLlamaEmbedder.name: WordLlamaEmbedder}


def load_embedder(name: str) -> TextEmbedder:
    """Return the embedder of a name: "wordllama", or "package.module:attribute" for one's own.

    The attribute is a `TextEmbedder`, or makes one when called without arguments.
    Runs code of the module, so the name must come from who runs the router, not from a model file.
    Raises `ConfigurationError` for one that is not there or is none.
    """
    if name in OURS:
        return OURS[name]()
    module, separator, attribute = name.partition(":")
    if not separator or not module or not attribute:
        raise ConfigurationError(f"embedder {name!r} is unknown; allowed: {_ALLOWED}")
    try:
        found: Any = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(f"embedder {name!r} cannot be loaded: {error}") from error
    if isinstance(found, type) or not isinstance(found, TextEmbedder):
        found = found() if callable(found) else found
    if not isinstance(found, TextEmbedder) or type(found.size) is not int or found.size < 1:
        raise ConfigurationError(
            f"embedder {name!r} is none: it needs a name, a size of at least 1 and embed(texts)"
        )
    return found


def embedded(embedder: TextEmbedder, texts: Sequence[str]) -> NDArray[np.float32]:
    """Return the vectors of N texts, (N, size), checked.

    Raises `ConfigurationError` where the embedder gives another shape, or what is no number.
    """
    found = np.asarray(embedder.embed(texts), dtype=np.float32)
    if found.shape != (len(texts), embedder.size) or not np.isfinite(found).all():
        raise ConfigurationError(
            f"embedder {embedder.name!r} must return finite numbers of shape "
            f"({len(texts)}, {embedder.size}), and returned {found.shape}"
        )
    return found
