"""Outcomes → a verifier of answers, and whether it beats form and agreement on held-out rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from router.errors import ConfigurationError
from router.replay.evaluation.by_form import ByForm, Judge
from router.replay.evaluation.calibration import GOOD, weighted_aucs
from router.replay.evaluation.cascading import Cascading
from router.replay.evaluation.chains import Called, call_chains
from router.replay.evaluation.curves import resamples
from router.replay.evaluation.figures import Measured, measure
from router.replay.evaluation.folds import CrossValidation, Learner
from router.replay.evaluation.gain_area import interval
from router.replay.evaluation.sweep import Sweep
from router.replay.evaluation.verifier_training import choose_ridge, train_verifier
from router.replay.recorded.featurise import features_of
from router.replay.training.train import need_questions
from router.types import TIERS

if TYPE_CHECKING:
    from router.predict.embedder import TextEmbedder
    from router.replay.recorded.outcomes import Outcomes
    from router.types import Floats, Ints

FOLDS = 5
SWEEP = 41
DRAWS = 1000
_DRAWN = 909
JUDGES = ("learned", "structural")
# The highest share of the frontier's quality that both reach is where their costs are compared.
_LEVELS = ("1.00", "0.99", "0.98", "0.95", "0.90")

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Lead:
    """By how much the learned gate is ahead of the structural one: on `metric`, with the 95%
    interval of the difference over resamples of groups. NaN where nothing can be told."""

    metric: str
    learned: float
    structural: float
    difference: float
    interval: tuple[float, float]

    @property
    def certain(self) -> bool:
        """Whether the whole interval is above 0."""
        return self.interval[0] > 0

    def as_dict(self) -> dict[str, Any]:
        return {
            "metric": self.metric,
            "learned": self.learned,
            "structural": self.structural,
            "difference": self.difference,
            "interval": list(self.interval),
        }


@dataclass(frozen=True, slots=True)
class TrainedVerifier:
    """A verifier of all rows, and how verifiers trained on other folds did on each.

    `lead` decides: `promoted` only if its whole interval is above 0. `auc` is of P(good) once an
    answer was read, by tier: before the answer, by form, learned. `figures` of the chains of calls
    under each judge, as `router evaluate` has them; None in a log, which has no cost of a call
    that was not made.
    """

    arrays: dict[str, NDArray[Any]]
    rows: int
    how: str
    ridge: float
    lead: Lead
    auc: dict[str, dict[str, Any]]
    figures: dict[str, dict[str, Any]] | None = None
    notes: tuple[str, ...] = field(default=())

    @property
    def promoted(self) -> bool:
        """Whether the verifier beats the structural gate for certain."""
        return self.lead.certain

    @property
    def sentence(self) -> str:
        """The verdict in plain words."""
        lead, requests = self.lead, f"your {self.rows:,} held-out requests"
        if not np.isfinite(lead.interval).all():
            return f"On {requests} nothing tells the verifier and the structural gate apart."
        low, high = lead.interval
        verdict = (
            "better than" if lead.certain else "worse than" if high < 0 else "not shown better than"
        )
        numbers = (
            f"{lead.metric} {lead.learned:.3f} against {lead.structural:.3f} (difference "
            f"{lead.difference:.3f}, 95% interval {low:.3f} to {high:.3f})"
        )
        return (
            f"On {requests} the verifier is {verdict} the structural gate: {numbers}{self._cost()}."
        )

    def _cost(self) -> str:
        """What the same quality costs under both, where both reach it."""
        if self.figures is None:
            return ""
        costs = {name: self.figures[name]["cost_pct_at_quality"] for name in JUDGES}
        for level in _LEVELS:
            mine, its = (costs[name][level] for name in JUDGES)
            if mine is not None and its is not None:
                return (
                    f"; {float(level):.0%} of the frontier's quality costs {mine:.1f}% of "
                    f"always-frontier's, not {its:.1f}%"
                )
        return ""

    def as_dict(self) -> dict[str, Any]:
        """All figures, ready for JSON."""
        return {
            "rows": self.rows,
            "how": self.how,
            "ridge": self.ridge,
            "promoted": self.promoted,
            "sentence": self.sentence,
            "comparison": self.lead.as_dict(),
            "auc": self.auc,
            "chains": self.figures,
            "notes": list(self.notes),
        }


class _Both(Cascading):
    """Chains under a learned verifier and by form, and what each said of first answers."""

    def __init__(self, outcomes: Outcomes, points: int, max_steps: int):
        super().__init__(outcomes, points, max_steps)
        n = len(outcomes)
        self.by_form = Called.empty(points, n, max_steps)
        self.said: dict[str, Floats] = {
            name: np.full((n, len(TIERS)), np.nan) for name in ("before", *JUDGES)
        }

    def decide(
        self, at: Ints, verifier: Judge, quality: Floats, expected: Floats, weights: Floats
    ) -> None:
        for tier in self.outcomes.columns:
            if np.isnan(quality[:, tier]).any():
                raise ConfigurationError(
                    f"the predictor never learnt tier {TIERS[tier]}; give one that did as --base, "
                    "or leave the tier out of the ladder"
                )
        super().decide(at, verifier, quality, expected, weights)
        columns, mine, form = self.outcomes.columns, self.answers.take(at), ByForm()
        part = call_chains(quality, expected, weights, columns, form, mine, self.max_steps)
        self.by_form.fill(at, part)
        self.said["before"][at] = quality
        judges: dict[str, Judge] = {"learned": verifier, "structural": form}
        for name, judge in judges.items():
            for tier in columns:
                after = judge.after(quality, quality, mine, (tier,))
                self.said[name][at, tier] = after[:, tier]

    def sweeps(self, alone: Sweep) -> dict[str, Sweep]:
        found = super().sweeps(alone)
        about = "the same predictions and rule, judging by form and agreement"
        return {**found, "structural": Sweep(self.by_form.chosen, alone.gain, about, self.by_form)}


def train_on_outcomes(
    outcomes: Outcomes,
    learner: Learner,
    *,
    folds: int = FOLDS,
    seed: int = 0,
    max_steps: int = 2,
    sweep: int = SWEEP,
    draws: int = DRAWS,
    embedder: TextEmbedder | None = None,
    progress: Progress = lambda stage, done, total: None,
) -> TrainedVerifier:
    """Train a verifier on recorded answers, and judge it by cross-validation.

    Parameters
    ----------
    outcomes
        Queries that every tier of a ladder answered, with scores and responses.
    learner
        Trains the predictor that comes before the verifier, `learner(examples, seed=seed)`: each
        row's prior is of one that did not see the row.
    folds, seed
        Whole groups are dealt to folds; the same data and seed give the same verifier.
    max_steps
        The most calls of a query in the chains that both gates are compared on, 2 to 4.
    sweep, draws
        Cost weights, and bootstrap resamples of the intervals.
    embedder
        The one whose vectors the learner's predictors read.
    progress
        Called with a stage's name, how much of it is done, and of how much.

    Raises
    ------
    OutcomeFileError
        Without responses or scores, or with too little to train on.
    TrainingError
        For too few different questions.
    ConfigurationError
        For fewer than three folds.
    """
    progress("reading answers", 0, 1)
    need_questions(outcomes.group)
    both = _Both(outcomes, sweep, max_steps)
    tick: Callable[[int], None] = lambda done: progress("folds", done, 4 * folds)  # noqa: E731
    run = CrossValidation(outcomes, None, learner, folds, sweep, seed, (), tick, both)
    deal = run.fold  # what cannot be dealt is refused before the long work
    run.features = features_of(outcomes, embedder)
    decided = run.run()
    progress("intervals", 0, 1)
    drawn = resamples(outcomes.group, draws, seed + _DRAWN)
    prior, score, columns = decided.prediction.quality, outcomes.score, outcomes.columns
    truth = Measured(outcomes, draws, seed + _DRAWN)
    sweeps = {name: decided.sweeps[name] for name in ("router", "structural", "pre_call")}
    figures = {
        {"router": "learned"}.get(name, name): found
        for name, found in measure(sweeps, truth).items()
    }
    auc = aucs(both.said, score, columns, drawn)
    ridge = choose_ridge(prior, score, both.answers, columns, deal)
    return TrainedVerifier(
        arrays=train_verifier(prior, score, both.answers, columns, ridge=ridge),
        rows=len(truth.rows),
        how=f"{folds}-fold cross-validation, chains of up to {max_steps} calls",
        ridge=ridge,
        lead=_lead_in_chains(figures) or lead_in_auc(both.said, score, columns, drawn),
        auc=auc,
        figures=figures,
        notes=() if outcomes.has_cost else ("the cost of most queries is unknown",),
    )


def _lead_in_chains(figures: dict[str, dict[str, Any]]) -> Lead | None:
    """By how much the chains are better at equal spend; None where costs are unknown."""
    learned, form = figures["learned"], figures["structural"]
    if learned["aiq"] is None or form["aiq"] is None:
        return None
    low, high = form["intervals"]["router_aiq_lead"] or (None, None)
    ends = tuple(float("nan") if end is None else end for end in (low, high))
    return Lead(
        "mean quality at equal spend",
        learned["aiq"],
        form["aiq"],
        form["router_aiq_lead"],
        (ends[0], ends[1]),
    )


def aucs(
    said: dict[str, Floats], score: Floats, columns: Sequence[int], drawn: NDArray[np.float32]
) -> dict[str, dict[str, Any]]:
    """By tier, and by who said it: the AUC of P(good) of its answer, with its 95% interval."""
    found: dict[str, dict[str, Any]] = {}
    for tier in columns:
        found[TIERS[tier]] = {}
        for name, quality in said.items():
            value, spread = _auc(quality, score, tier, drawn)
            plain = list(interval(spread)) if np.isfinite(value) else None
            shown = value if np.isfinite(value) else None
            found[TIERS[tier]][name] = {"value": shown, "interval": plain}
    return found


def lead_in_auc(
    said: dict[str, Floats], score: Floats, columns: Sequence[int], drawn: NDArray[np.float32]
) -> Lead:
    """The lead in AUC, the mean of the tiers that have good and bad answers."""
    parts = [[_auc(said[name], score, tier, drawn) for name in JUDGES] for tier in columns]
    known = [pair for pair in parts if np.isfinite([pair[0][0], pair[1][0]]).all()]
    if not known:
        nan = float("nan")
        return Lead("AUC", nan, nan, nan, (nan, nan))
    learned, form = (float(np.mean([pair[at][0] for pair in known])) for at in (0, 1))
    # A resample without the good or the bad answers of a tier shows no difference there.
    spread = np.mean([np.nan_to_num(pair[0][1] - pair[1][1], nan=0.0) for pair in known], axis=0)
    return Lead("AUC", learned, form, learned - form, interval(spread))


def _auc(
    quality: Floats, score: Floats, tier: int, drawn: NDArray[np.float32]
) -> tuple[float, Floats]:
    known = np.isfinite(score[:, tier]) & np.isfinite(quality[:, tier])
    mine, good = quality[known, tier], score[known, tier] >= GOOD
    once = np.ones((1, int(known.sum())))
    return float(weighted_aucs(mine, good, once)[0]), weighted_aucs(mine, good, drawn[:, known])
