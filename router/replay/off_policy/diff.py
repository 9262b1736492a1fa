"""`policy diff`: what a change of a policy would do, estimated from a log, held to thresholds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from router.errors import ReplayError
from router.policy import load_policy
from router.policy.diff import Change, changes
from router.replay.off_policy.ask import ladder_of, notes
from router.replay.off_policy.facts import as_dict, warnings_of
from router.replay.off_policy.measure import Question, measure
from router.replay.off_policy.paired import Moves, Paired, pair
from router.replay.off_policy.run import read
from router.replay.off_policy.target import Named, of_policy

if TYPE_CHECKING:
    from router.policy import Policy

OLD, NEW = "OLD", "NEW"
# What of a policy the replay of a log follows; of a deployment, which model it is.
_FOLLOWED = ("objective.", "rules", "baseline", "cascade")
_OF_A_DEPLOYMENT = ("model", "effort")


@dataclass(frozen=True, slots=True)
class Thresholds:
    """What a change may do: `cost`, percent more a request; `quality`, less of it, as a share.

    `unless_sure`: whether a figure must surely be within (the far end of its interval is held to
    the threshold); otherwise it must surely be beyond to break it (the near end is).
    """

    cost: float | None = None
    quality: float | None = None
    unless_sure: bool = False

    def broken(self, found: Paired) -> list[str]:
        """The thresholds that a difference breaks, in words."""
        said = []
        low, high = ("low", "high") if self.unless_sure else ("high", "low")
        if self.cost is not None:
            if found.why_no_cost:
                said.append(f"cost is held to a threshold: {found.why_no_cost}")
            elif found.cost_pct is None:
                said.append("the cost of OLD is 0: no increase can be given in percent of it")
            elif found.cost_pct[high] > self.cost:
                said.append(
                    f"cost changes by {found.cost_pct['value']:+.2f}% ({high} end "
                    f"{found.cost_pct[high]:+.2f}%), and at most {self.cost:+g}% is allowed"
                )
        if self.quality is not None:
            if found.quality is None:
                said.append(f"quality is held to a threshold: {found.why_no_quality}")
            elif found.quality[low] < -self.quality:
                said.append(
                    f"quality changes by {found.quality['value']:+.4f} ({low} end "
                    f"{found.quality[low]:+.4f}), and at least {-self.quality:+g} is asked"
                )
        return said


@dataclass(frozen=True, slots=True)
class PolicyDiff:
    """Everything about a change: which settings, what it would do, and whether it may."""

    old: str
    new: str
    settings: tuple[Change, ...]
    log: dict[str, Any] | None
    estimated: Paired | None
    moves: Moves | None
    refused: tuple[str, ...]
    broken: tuple[str, ...]
    warnings: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def passes(self) -> bool:
        """Whether the change could be judged and breaks no threshold."""
        return not (self.refused or self.broken)

    def as_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        found = self.estimated
        return {
            "old": self.old,
            "new": self.new,
            "passes": self.passes,
            "settings": [asdict(each) for each in self.settings],
            "log": self.log,
            "difference": None
            if found is None or found.refused
            else {
                "cost_per_1000_usd": found.cost and {k: 1000 * v for k, v in found.cost.items()},
                "cost_over_log_usd": found.over_log,
                "cost_pct": found.cost_pct,
                "why_no_cost": found.why_no_cost,
                "quality": found.quality,
                "why_no_quality": found.why_no_quality,
            },
            "support": None if found is None else {"old": found.old, "new": found.new},
            "moved": None if self.moves is None else self.moves.as_dict(),
            "refused": list(self.refused),
            "broken": list(self.broken),
            "warnings": list(self.warnings),
            "notes": list(self.notes),
        }


def policy_diff(
    old: str,
    new: str,
    log: str,
    *,
    now: float,
    since: float | None = None,
    until: float | None = None,
    thresholds: Thresholds | None = None,
    examples: int = 0,
    progress: Callable[[int, int | None], None] = lambda done, total: None,
) -> PolicyDiff:
    """Compare two policies on a log.

    Parameters: `old` and `new`, files or names of shipped policies; `log`, a store or an exported
    log; `now`, `since` and `until`, unix seconds; `examples`, how many moved requests are shown.
    Raises `PolicyError` for a wrong policy and `LogFileError` for a log that cannot be read. What
    the log cannot support is `refused` in the result.
    """
    policies = load_policy(old), load_policy(new)
    settings = tuple(changes(*policies))
    stamps = policies[0].stamp, policies[1].stamp
    if policies[0].hash == policies[1].hash:
        same = "no setting differs: nothing to estimate"
        return PolicyDiff(*stamps, settings, None, None, None, (), (), (), (same,))
    moves = Moves(OLD, NEW, examples)
    said = notes(policies)
    try:
        named = tuple(
            Named(name, _target(policy, now), policy.hash)
            for name, policy in zip((OLD, NEW), policies, strict=True)
        )
        batches = read(log, since, until, ids=examples > 0, progress=progress)
        sums = measure(batches, Question(named), moves.watch)
        found = pair(sums, OLD, NEW, moves)
    except ReplayError as error:
        return PolicyDiff(*stamps, settings, None, None, None, (str(error),), (), (), said)
    broken = [] if found.refused else (thresholds or Thresholds()).broken(found)
    warnings = [*warnings_of(sums.facts, sums.logged), *found.warnings]
    warnings += filter(None, (found.why_no_cost, found.why_no_quality))
    if left := [each.key for each in settings if not _followed(each.key)]:
        warnings.append(f"the figures leave out what these would do: {', '.join(left)}")
    return PolicyDiff(
        *stamps, settings, dict(as_dict(sums.facts)), found, moves, found.refused, tuple(broken),
        tuple(warnings), said,
    )  # fmt: skip


def _followed(key: str) -> bool:
    """Whether a changed setting is in the figures: decisions on logged predictions and quotes."""
    of_model = key.startswith("tiers.") and key.rpartition(".")[2] in _OF_A_DEPLOYMENT
    return of_model or key.startswith(_FOLLOWED)


def _target(policy: Policy, now: float) -> Any:
    return of_policy(ladder_of(policy, now))
