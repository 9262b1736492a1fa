"""`tune`: search on the first days of a log, pick one point, judge it once on the last days."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from router.errors import ConfigurationError, ReplayError
from router.policy import Policy
from router.policy.diff import Change, changes
from router.replay.off_policy.ask import notes
from router.replay.off_policy.batch import LogBatch
from router.replay.off_policy.facts import warnings_of
from router.replay.off_policy.paired import Paired
from router.replay.off_policy.run import read
from router.replay.tuning.pick import Rule
from router.replay.tuning.search import Sampler, Trials, Tried, search
from router.replay.tuning.space import Base, Settings, Space
from router.replay.tuning.stretch import DAY, MOST_ROWS, Cut, InMemory, Stretch, cut, keep
from router.replay.tuning.write import check_place, text_with

Progress = Callable[[str, int, int | None], None]  # what is counted, done, of how many


@dataclass(frozen=True, slots=True)
class Options:
    """How to search. `days` or `share` (of the rows, in whole days) are held out; `most_rows` of
    the log are held in memory."""

    rule: Rule
    trials: int = 100
    seed: int = 0
    sampler: Sampler = "tpe"
    days: int | None = None
    share: float | None = None
    most_rows: int = MOST_ROWS


@dataclass(frozen=True, slots=True)
class Found:
    """What a search found: the `picked` candidate as a policy, what it did on the training days,
    and, only where it decides anything otherwise, on the held-out ones.

    `alone`: what each changed setting does without the others, on the training days, by its key.
    """

    picked: Tried
    policy: Policy
    front: tuple[Tried, ...]
    tried: int
    usable: int
    beats: bool
    verdict: str
    held_out: Paired | None
    alone: dict[str, Paired | None]
    warnings: tuple[str, ...]

    @property
    def training(self) -> Paired:
        """What the picked candidate did on the training days, against the base."""
        assert self.picked.found is not None
        return self.picked.found


def find(
    base: Base,
    training: Sequence[LogBatch],
    held_out: Sequence[LogBatch],
    options: Options,
    progress: Progress = lambda what, done, total: None,
) -> Found:
    """Search on some batches and judge on others.

    Raises `ReplayError` where the log cannot be used, or says nothing of the base policy itself.
    """
    rule, target = options.rule, base.target(base.policy)
    days = Stretch(training, target, rule.cost_weight)
    own = days.base
    if why := "; ".join(own.refused) or own.why_not:
        raise ReplayError(f"the training days say nothing of the base policy: {why}")
    space, trials = Space.of(base, training), Trials(base, days)
    search(
        space, trials, count=options.trials, seed=options.seed, sampler=options.sampler,
        progress=lambda done, total: progress("trials", done, total),
    )  # fmt: skip
    front, tried = tuple(trials.front()), list(trials.known.values())
    usable = sum(each.usable for each in tried)
    # The base itself is within the rule, so something always is; it may be the base.
    chosen = rule.pick(front) or trials.of(base.settings)
    assert chosen.found is not None
    same = days.same(chosen.decided, trials.of(base.settings).decided)
    picked = trials.of(base.settings) if same else trials.plainer(chosen)
    policy = base.policy if same else base.candidate(picked.settings)
    judged: Paired | None = None
    beats, verdict = False, f"of {usable:,} candidates none is {rule.words}, but for the base"
    if not same:
        others = Stretch(held_out, target, rule.cost_weight)
        judged = others.compare(others.decided(base.target(policy)))
        beats, verdict = rule.verdict(judged)
    return Found(
        picked=picked,
        policy=policy,
        front=front,
        tried=len(tried),
        usable=usable,
        beats=beats,
        verdict=verdict,
        held_out=judged,
        alone={} if same else _alone(trials, base.settings, picked.settings),
        warnings=tuple(warnings_of(days.sums.facts, days.sums.logged)),
    )


def _alone(trials: Trials, own: Settings, picked: Settings) -> dict[str, Paired | None]:
    """What each changed setting does by itself."""
    steps: dict[str, Settings] = {}
    objective = {key: getattr(picked, key) for key in ("cost_weight", "margin", "keep_quality")}
    if (moved := replace(own, **objective)) != own:
        steps["objective"] = moved
    for tier in own.tiers:
        if tier not in picked.tiers:
            left = tuple(each for each in own.tiers if each != tier)
            steps[f"tiers.{tier}"] = replace(own, tiers=left)
    for (at, key), value in picked.lengths:
        lengths = tuple((k, value if k == (at, key) else v) for k, v in own.lengths)
        if lengths != own.lengths:
            steps[f"rules.{at}.when.{key}"] = replace(own, lengths=lengths)
    tried = {key: trials.of(settings) for key, settings in steps.items()}
    return {key: each.found if each.usable else None for key, each in tried.items()}


@dataclass(frozen=True, slots=True)
class Tuned:
    """A search over a log, and the file that came of it."""

    base: Base
    source: str
    options: Options
    log: InMemory
    where: Cut
    found: Found
    notes: tuple[str, ...]
    out: Path | None  # None where nothing was written

    @property
    def settings(self) -> list[Change]:
        """The settings that differ from the base's."""
        return changes(self.base.policy, self.found.policy)

    def as_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        found, where = self.found, self.where
        return {
            "base": self.base.policy.stamp,
            "tuned": found.policy.stamp,
            "out": None if self.out is None else str(self.out),
            "beats": found.beats,
            "verdict": found.verdict,
            "rule": self.options.rule.words,
            "settings": [
                {"key": each.key, "old": each.old, "new": each.new} for each in self.settings
            ],
            "searched": found.picked.settings.as_dict(),
            "training": shown(found.training),
            "held_out": None if found.held_out is None else shown(found.held_out),
            "log": {
                "source": self.source,
                "rows": self.log.rows,
                "rows_in_memory": self.log.kept,
                "training_days": [day(where.first), day(where.at - DAY)],
                "held_out_days": [day(where.at), day(where.last)],
                "left_out_of_held_out": where.dropped,
            },
            "trials": self.options.trials,
            "seed": self.options.seed,
            "sampler": self.options.sampler,
            "candidates": found.tried,
            "supported": found.usable,
            "front": [
                {
                    "cost_per_request_usd": each.point[0],
                    "quality": each.point[1],
                    **each.settings.as_dict(),
                }
                for each in found.front
            ],
            "warnings": list(found.warnings),
            "notes": list(self.notes),
        }


def shown(found: Paired) -> dict[str, Any]:
    """A difference to the base, for JSON."""
    return {
        "rows": found.rows,
        "cost_per_request_usd": found.cost,
        "cost_pct": found.cost_pct,
        "quality": found.quality,
        "value": found.value,
        "base": found.old,
        "tuned": found.new,
        "refused": list(found.refused),
    }


def day(time: float) -> str:
    """The day (UTC) of a time."""
    return f"{datetime.fromtimestamp(time, UTC):%Y-%m-%d}"


def tune(
    source: str,
    base: Base,
    out: Path,
    options: Options,
    *,
    force: bool = False,
    progress: Progress = lambda what, done, total: None,
) -> Tuned:
    """Tune a policy on a log and write it to `out`, if it beats the base on the held-out days.

    Parameters: `source`, a store or an exported log; `force`, whether a policy that does not beat
    the base is written too; it says so in its first lines.
    Raises `ReplayError` for a log that does not suffice, `LogFileError` for one that cannot be
    read, `ConfigurationError` for an `out` that cannot be, or without Optuna.
    """
    check_place(base, out)
    log = keep(
        read(source, progress=lambda done, total: progress("rows", done, total)), options.most_rows
    )
    training, held_out, where = cut(log, days=options.days, share=options.share)
    found = find(base, training, held_out, options, progress)
    result = Tuned(base, source, options, log, where, found, notes([base.policy]), None)
    if not (found.beats or force):
        return result
    text = text_with(base, found.picked.settings, found.policy, _head(result), _reasons(result))
    try:
        out.write_text(text, "utf-8")
    except OSError as error:
        raise ConfigurationError(f"{out} cannot be written: {error.strerror}") from None
    return replace(result, out=out)


def _head(tuned: Tuned) -> list[str]:
    """The first lines of a tuned policy: whence it is, and what it is worth."""
    found, where, options = tuned.found, tuned.where, tuned.options
    sampled = "" if tuned.log.kept == tuned.log.rows else f", a sample of {tuned.log.rows:,}"
    said = [
        f"Tuned from {tuned.base.policy.stamp} by `router tune`, on the log {tuned.source} "
        f"({tuned.log.kept:,} requests{sampled}); {options.trials} trials, seed {options.seed}, "
        f"sampler {options.sampler}.",
        f"Wanted: {options.rule.words}.",
        f"Training days {day(where.first)} to {day(where.at - DAY)} "
        f"({found.training.rows:,} requests), on which it was picked and so looks better than it "
        f"is: {in_words(found.training)}.",
    ]
    if found.held_out is not None:
        said.append(
            f"Held-out days {day(where.at)} to {day(where.last)} ({found.held_out.rows:,} "
            f"requests), judged once: {in_words(found.held_out)}."
        )
    said.append(
        f"It beats its base on the held-out days: {found.verdict}."
        if found.beats
        else f"It does NOT beat its base: {found.verdict}. Written because it was forced."
    )
    return said


def _reasons(tuned: Tuned) -> dict[str, str]:
    """Why each setting is what it is."""
    found, own = tuned.found, tuned.base.settings.as_dict()
    before = ", ".join(f"{key}: {value:g}" for key, value in own["objective"].items())
    reasons = {}
    for key, alone in found.alone.items():
        did = "alone the log cannot judge it" if alone is None else f"alone {in_words(alone)}"
        if key == "objective":
            was = f"was {before}"
        elif key.startswith("tiers."):
            was = f"{key.removeprefix('tiers.')} is left out"
        else:
            was = f"{key.rpartition('.')[2]} was {own[key]}"
        held = "" if found.held_out is None else "; all changes together on held-out days: "
        held += "" if found.held_out is None else in_words(found.held_out)
        reasons[key] = f"{was}; {did} on training days{held}"
    return reasons


def in_words(found: Paired) -> str:
    """A difference to the base in words."""
    if found.refused or found.cost_pct is None:
        return "not estimated"
    cost = found.cost_pct
    said = f"cost {cost['value']:+.1f}% ({cost['low']:+.1f} to {cost['high']:+.1f})"
    if (quality := found.quality) is not None:
        ends = f"({quality['low']:+.4f} to {quality['high']:+.4f})"
        said += f", quality {quality['value']:+.4f} {ends}"
    return said
