"""Recorded outcomes → traffic to pace: what was predicted of each request, and what it came to.

The questions are dealt into three parts by a hash. One trains the predictor. One is the traffic of
earlier windows: a pacer may know its predictions and expected costs, and the static weights that
pacing is compared with are calibrated on its bills. One is the stream that is paced.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from predictor_data import LADDERS, outcomes_of

from router.money import NANO_PER_USD
from router.predict.scorer import Predictor
from router.predict.training import fit
from router.replay.evaluation.costs import estimate_input, learnt_costs
from router.replay.evaluation.folds import deal_folds
from router.replay.recorded.featurise import examples_of, features_of
from router.replay.recorded.prompts import last_user_text
from router.replay.recorded.textspace import TextSpace

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# name → source, beginning of the task
SOURCES = {
    "paretobandit_val": ("paretobandit_val", ""),
    "zeroeval": ("zeroeval", ""),
    "mmlu_pro_a": ("mmlu_pro_a", ""),
    "routellm_gsm8k": ("routellm", "gsm8k"),
}
PARTS, TRAINING, EARLIER = 20, 7, 10  # of 20 parts 7 train, 3 are earlier windows, 10 the stream
# A reservation is what a model's dearest recorded call cost, as its longest answer would: 3 to 15
# times what a call costs on average.


@dataclass(frozen=True)
class Traffic:
    """N requests by A tiers, each array (N, A). Known before a call: `quality`, predicted;
    `expected` and `upper`, nano-USD. Known after it: `score`; `cost`, nano-USD."""

    quality: Floats
    expected: Ints
    upper: Ints
    score: Floats
    cost: Ints

    def __len__(self) -> int:
        return len(self.quality)

    def take(self, rows: Ints) -> Traffic:
        return Traffic(*(getattr(self, field.name)[rows] for field in fields(self)))


def load(folder: Path, name: str, seed: int) -> tuple[Traffic, Traffic]:
    """Return (earlier, stream), on neither of which the predictor was trained."""
    source, task = SOURCES[name]
    outcomes = outcomes_of(folder, source, task, LADDERS[source])
    columns = outcomes.columns
    known = np.isfinite(outcomes.score[:, columns] + outcomes.cost_usd[:, columns]).all(axis=1)
    part = deal_folds(outcomes.group, PARTS, seed)
    train = np.flatnonzero(known & (part < TRAINING))
    rest = np.flatnonzero(known & (part >= TRAINING))
    features, read = features_of(outcomes), estimate_input(outcomes)
    model = Predictor(fit(examples_of(outcomes, features, read).take(train), seed))
    prediction = model.batch(features[rest])
    texts = [last_user_text(messages) for messages in outcomes.messages]
    expected = learnt_costs(
        outcomes, train, rest, prediction.output_tokens, read,
        lambda: TextSpace(texts, train, seed),
    ).usd[:, columns]  # fmt: skip
    dearest = np.nanmax(outcomes.cost_usd[:, columns], axis=0)
    traffic = Traffic(
        quality=prediction.quality[:, columns],
        expected=_nano(expected),
        upper=_nano(np.tile(dearest, (len(rest), 1))),
        score=outcomes.score[rest][:, columns],
        cost=_nano(outcomes.cost_usd[rest][:, columns]),
    )
    earlier = part[rest] < EARLIER
    return traffic.take(np.flatnonzero(earlier)), traffic.take(np.flatnonzero(~earlier))


def _nano(usd: Floats) -> Ints:
    return np.rint(usd * NANO_PER_USD).astype(np.int64)
