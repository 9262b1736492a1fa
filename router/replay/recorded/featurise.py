"""Recorded queries → features and training examples."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from router.predict import extract_many
from router.predict.examples import Examples
from router.replay.recorded.outcomes import Outcomes
from router.types import Request

if TYPE_CHECKING:
    from router.predict.embedder import TextEmbedder
    from router.predict.features import FeatureBatch
    from router.types import Floats


def features_of(outcomes: Outcomes, embedder: TextEmbedder | None = None) -> FeatureBatch:
    """Read the features of every query from its messages alone."""
    requests = [Request("", messages, {}, now=0.0) for messages in outcomes.messages]
    return extract_many(requests, embedder)


def examples_of(outcomes: Outcomes, features: FeatureBatch, estimated_input: Floats) -> Examples:
    """All queries as training examples; whoever trains takes the training folds of them."""
    return Examples(
        features=features,
        score=outcomes.score,
        output_tokens=outcomes.output_tokens,
        input_tokens=estimated_input,
        group=outcomes.group,
        task=outcomes.task,
        weight=np.ones(len(outcomes)),
    )
