"""A log's labelled requests and the answers that it kept → a verifier of answers.

A request has one label, that of the answer that was handed out. So what is learnt of a tier is how
its answers looked when they were handed out and good or bad, and what earlier answers of a chain
told of the one after. Which answers were handed out hung on what the gate saw, which a verifier
sees too; so among answers that look alike, labels are missing by chance. What a call would have
told that was not made cannot be known, nor what it would have cost: verifiers are compared by what
they say of the labelled answers alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from router.errors import TrainingError
from router.gates import structural
from router.gates.answer import Answer, answer_of_kept
from router.log.base import Log, LoggedRequest
from router.predict.examples import folds_of
from router.replay.evaluation.by_form import ByForm, Judge
from router.replay.evaluation.curves import resamples
from router.replay.evaluation.gain_area import interval
from router.replay.evaluation.verifier_training import as_verifier, choose_ridge, train_verifier
from router.replay.recorded.answers import Answers, answers_like
from router.replay.recorded.voting import can_be_compared
from router.replay.training.ability import log_loss
from router.replay.training.from_log import asked, beside_baseline, logged_quality, together
from router.replay.training.train import need_questions
from router.replay.training.train_verifier import DRAWS, Lead, TrainedVerifier, aucs
from router.types import TIERS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from router.types import Floats

LEAST_LABELLED = 60
FOLDS = 5
_FOLDS = 505
_SURE = 1e-4  # a judge's word on a label counts no more than this


def train_on_log(log: Log, *, seed: int = 0, draws: int = DRAWS) -> TrainedVerifier:
    """Train a verifier on a log that keeps content, and judge it by cross-validation.

    The priors are the predictions that were logged, made before anything was answered.
    Raises `TrainingError` where too few labelled requests have their answers kept.
    """
    labelled = {row.request_id: row for row in log.requests() if row.label is not None}
    chains = kept_chains(log, labelled)
    if len(chains) < LEAST_LABELLED:
        raise TrainingError(
            f"at least {LEAST_LABELLED} labelled requests whose answers were kept are needed "
            "(log: {content: true} keeps them, router.feedback(request_id, score) labels them)",
            len(chains),
        )
    answers = _read(chains)
    quality, score = np.full((2, len(chains), len(TIERS)), np.nan)
    for at, chain in enumerate(chains):
        for tier, value in logged_quality(chain.row).items():
            quality[at, TIERS.index(tier)] = value
        score[at, chain.accepted] = chain.row.label
    score *= beside_baseline(log, [chain.row for chain in chains], quality)[:, None]
    columns = np.flatnonzero(np.isfinite(score).any(axis=0)).tolist()
    group = together([chain.row for chain in chains])
    need_questions(group)
    deal = folds_of(group, FOLDS, seed + _FOLDS)
    said = {"before": quality, "structural": along(ByForm(), quality, answers)}
    learned = np.full_like(quality, np.nan)
    for fold in range(FOLDS):
        held, rest = np.flatnonzero(deal == fold), np.flatnonzero(deal != fold)
        part, theirs = quality[rest], (score[rest], answers.take(rest), columns)
        ridge = choose_ridge(part, *theirs, deal[rest])
        verifier = as_verifier(train_verifier(part, *theirs, ridge=ridge))
        learned[held] = along(verifier, quality[held], answers.take(held))
    said["learned"] = learned
    ridge = choose_ridge(quality, score, answers, columns, deal)
    drawn = resamples(group, draws, seed)
    return TrainedVerifier(
        arrays=train_verifier(quality, score, answers, columns, ridge=ridge),
        rows=len(chains),
        how=f"{FOLDS}-fold cross-validation on labelled answers",
        ridge=ridge,
        lead=_lead(said, score, drawn),
        auc=aucs(said, score, columns, drawn),
        notes=(
            "what chains would have cost under another gate a log cannot tell; `router evaluate "
            "--cascade` does on recorded outcomes",
        ),
    )


def along(judge: Judge, quality: Floats, answers: Answers) -> Floats:
    """P(good) of every tier, (N, 4), once all answers of each chain were read in their order."""
    found = quality.copy()
    ways: dict[tuple[int, ...], list[int]] = {}
    for row, order in enumerate(answers.order.tolist()):
        came = sorted((step, tier) for tier, step in enumerate(order) if step >= 0)
        ways.setdefault(tuple(tier for _, tier in came), []).append(row)
    for path, rows in ways.items():
        mine = answers.take(np.array(rows))
        for done in range(1, len(path) + 1):
            found[rows] = judge.after(quality[rows], found[rows], mine, path[:done])
    return found


@dataclass(frozen=True, slots=True)
class Chain:
    """A labelled request: its answers by tier, in the order of their calls, and whose was handed
    out."""

    row: LoggedRequest
    answers: dict[int, Answer]
    accepted: int


def kept_chains(log: Log, labelled: Mapping[str, LoggedRequest]) -> list[Chain]:
    """The labelled requests whose answers can all be read."""
    found: dict[str, dict[int, Answer]] = {}
    accepted: dict[str, int] = {}
    broken: set[str] = set()
    attempts = (each for each in log.attempts() if each.request_id in labelled)
    for attempt in sorted(attempts, key=lambda each: each.number):
        name = attempt.request_id
        if attempt.status != "answered":
            continue
        read = None if attempt.answer is None else answer_of_kept(attempt.answer)
        if read is None or attempt.tier not in TIERS:
            broken.add(name)
            continue
        tier, answers = TIERS.index(attempt.tier), found.setdefault(name, {})
        if accepted.get(name) == tier:
            continue  # the label is of the answer handed out, not of a vote's later samples
        answers.pop(tier, None)  # one that was cut and asked for once more: its last word counts
        answers[tier] = read
        if attempt.number == labelled[name].accepted:
            accepted[name] = tier
    return [
        Chain(row, found[name], accepted[name])
        for name, row in labelled.items()
        if name in accepted and name not in broken and TIERS[accepted[name]] in logged_quality(row)
    ]


def _read(chains: Sequence[Chain]) -> Answers:
    given = {row: chain.answers for row, chain in enumerate(chains)}
    texts = [asked(chain.row) or "" for chain in chains]
    comparable = [can_be_compared(None, ({"role": "user", "content": text},)) for text in texts]
    read = answers_like(given, comparable, lambda row, answer: structural.faults({}, answer))
    order = np.full_like(read.order, -1)
    for row, chain in enumerate(chains):
        for step, tier in enumerate(chain.answers):
            order[row, tier] = step
    return replace(read, order=order, free=False)


def _lead(said: dict[str, Floats], score: Floats, drawn: NDArray[np.float32]) -> Lead:
    """By how much less the log loss of the labelled answers is; given as a gain, so that more is
    better."""
    at, tier = np.nonzero(np.isfinite(score))
    losses = {
        name: log_loss(np.clip(quality[at, tier], _SURE, 1 - _SURE), score[at, tier])
        for name, quality in said.items()
    }
    gain = losses["structural"] - losses["learned"]
    mine = drawn[:, at].astype(np.float64)
    return Lead(
        "log likelihood of an answer's label",
        -float(losses["learned"].mean()),
        -float(losses["structural"].mean()),
        float(gain.mean()),
        interval(mine @ gain / mine.sum(axis=1)),
    )
