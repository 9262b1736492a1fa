"""What a policy with a cascade does on logged requests: its first call, and what comes after looks.

What a look found is the log's: posteriors are those of the gate that judged then, so a policy with
another gate is refused. All else is the policy's own, by the functions that route live requests.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from router.decide import UNLIMITED, Bar, Look, Objective, Options, Signals, choose, dearer, goes_on
from router.decide.cascade import followers, values_and_costs
from router.decide.choose import Choices
from router.errors import ReplayError
from router.money import NANO_PER_USD
from router.replay.off_policy.batch import LogBatch
from router.replay.off_policy.looks import Looks, nothing
from router.replay.off_policy.path import Path
from router.votes.signals import best_values, with_values
from router.walk.chain import Cascades
from router.walk.looks import STOP

if TYPE_CHECKING:
    from router.planning.ladder import Ladder
    from router.types import Floats, Ints


@dataclass(slots=True)
class Gates:
    """What a policy's gate tells of its arms, if it is the gate that judged in the log."""

    ladder: Ladder
    _known: dict[tuple[bool, str], Signals] = field(default_factory=dict)

    @property
    def learned(self) -> bool:
        """Whether a verifier judges."""
        cascade = self.ladder.policy.cascade
        return cascade is not None and cascade.verifier is not None

    def signals(self, checked: bool, gate: str) -> Signals:
        """`checked`: whether a form was asked for; `gate`, the log's word for what judged, "" where
        nothing did.

        Raises `ReplayError` for another gate.
        """
        if (checked, gate) not in self._known:
            policy = self.ladder.policy
            names = gate.partition("+checks:")[2].partition("+")[0]
            checks = dict.fromkeys(names.split(","), _asked_then) if names else None
            cascades = Cascades(policy, checks)
            if gate and cascades.stamp != gate:
                raise ReplayError(
                    f"policy {policy.name!r} judges answers by {cascades.stamp!r}, and the log's "
                    f"were judged by {gate!r}; replay it with that gate"
                )
            signals = cascades.signals(checked, self.ladder)
            values = best_values(self.ladder.bests, signals)
            self._known[checked, gate] = with_values(signals, values)
        return self._known[checked, gate]


def follow(
    gates: Gates,
    objective: Objective,
    batch: LogBatch,
    options: Options,
    columns: Ints,
    kept: Ints,
) -> Path:
    """The path of a policy with a cascade.

    Parameters: `options`, of those of the policy's arms that the log has, for each request; `kept`
    (K,), which of the policy's these are, and `columns` (K,), which of the batch's.
    Raises `ReplayError` where another gate judged in the log.
    """
    policy = gates.ladder.policy
    looks = batch.looks or nothing(len(batch), len(batch.arms), 1)
    assert policy.cascade is not None
    seen = looks.there.any(axis=1)
    streamed = np.zeros(len(batch), bool) if batch.stream is None else batch.stream
    looked_at = ~streamed | (policy.cascade.stream == "buffer")
    walk = _Cascade(gates, objective, options, columns, kept, looks)
    first, hoped, later = walk.first(looked_at)
    onward = np.full(looks.answered.shape, STOP, dtype=np.int64)
    hopes, laters = np.zeros(looks.answered.shape), np.zeros(looks.answered.shape)
    spent = np.nan_to_num(batch.cost)  # of all calls; later ones are taken off
    next_cost = np.where(looks.chosen != STOP, np.nan_to_num(looks.cost), 0.0)
    for step in reversed(range(len(next_cost.T))):
        spent = spent - next_cost[:, step]
        at = np.flatnonzero(looks.there[:, step] & looked_at)
        left = policy.cascade.max_steps - (step + 1)
        if len(at) and left >= 1:
            found = walk.onward(at, step, left, spent[at])
            onward[at, step], hopes[at, step], laters[at, step] = found
    return Path(first, onward, hoped, hopes, later, laters, looked_at & ~seen)


@dataclass(frozen=True, slots=True)
class _Cascade:
    gates: Gates
    objective: Objective
    options: Options
    columns: Ints
    kept: Ints
    looks: Looks

    def first(self, looked_at: NDArray[np.bool_]) -> tuple[Ints, Floats, Floats]:
        """The first call (N,), how good an answer the chain that it begins is hoped to give, and
        what calls after it are expected to cost."""
        n = len(looked_at)
        arm: Ints = np.full(n, -1, dtype=np.int64)
        hoped, later = np.zeros(n), np.zeros(n)
        assert self.gates.ladder.policy.cascade is not None
        steps = self.gates.ladder.policy.cascade.max_steps
        room = np.array([UNLIMITED])
        unjudged = self._without_bests()
        for checked, at in self._groups(np.arange(n)):
            for look, mine, options in (
                (self._look(checked, at[looked_at[at]], steps), at[looked_at[at]], self.options),
                (None, at[~looked_at[at]], unjudged),
            ):
                if len(mine):
                    found = self._best(_of(options, mine), room, look)
                    arm[mine], hoped[mine], later[mine], _ = found
        return np.where(arm >= 0, self.columns[arm], -1), hoped, later

    def onward(self, at: Ints, step: int, left: int, spent: Floats) -> tuple[Ints, Floats, Floats]:
        """The call after look `step` of the requests `at`, or `STOP`, what it is hoped for, and
        what later ones cost; `left`: how many calls there may be; `spent`, nano-USD."""
        arms, hoped = np.full(len(at), STOP, dtype=np.int64), np.zeros(len(at))
        later = np.zeros(len(at))
        called = self.looks.called()[at, step][:, self.columns]
        options = replace(
            _of(self.options, at),
            quality=self.looks.quality[at, step][:, self.columns],
            barred=self._barred(at, step),
        )
        room = np.full(len(at), UNLIMITED)
        if self.objective.max_cost_per_request is not None:
            room = np.maximum(self.objective.max_cost_per_request - spent, 0).astype(np.int64)
        for checked, mine in self._groups(at, of=np.arange(len(at))):
            look = replace(self._look(checked, at[mine], left), called=called[mine])
            part = _of(options, mine)
            arm, hoped[mine], later[mine], choices = self._best(part, room[mine], look)
            goes = goes_on(arm, choices.utility, part.quality, called[mine])
            arms[mine] = np.where(goes, self.columns[arm], STOP)
        return arms, hoped, later

    def _best(
        self, options: Options, room: Ints, look: Look | None
    ) -> tuple[Ints, Floats, Floats, Choices]:
        """The best arm (M,), P(good) in the end and nano-USD of later calls that are expected of
        it, and the whole choice."""
        priced = self.gates.ladder.must_be_priced
        choices = choose(options, self.objective, room, priced=priced, look=look)
        rows = np.arange(len(choices.arm))
        if look is None:
            return choices.arm, options.quality[rows, choices.arm], np.zeros(len(rows)), choices
        cost = np.maximum(options.expected, 0).astype(np.float64)
        price = (self.objective.cost_weight or 0.0) * cost / NANO_PER_USD
        follows = followers(options, choices.barred == Bar.FREE, room[:, None])
        value, later = values_and_costs(options.quality, price, cost, follows, look)
        at = (rows, choices.arm)
        weight = (self.objective.cost_weight or 0.0) / NANO_PER_USD
        worth = value[at] + price[at] + weight * later[at]
        return choices.arm, np.clip(worth, 0.0, 1.0), later[at], choices

    def _without_bests(self) -> Options:
        """The options of requests whose answers nobody looks at, so that no best one is picked."""
        bests = np.isin(self.kept, list(self.gates.ladder.bests))
        if not bests.any():
            return self.options
        barred = self.options.barred.copy()
        barred[bests & (barred == Bar.FREE)] = Bar.NOT_COMPARABLE
        return replace(self.options, barred=barred)

    def _barred(self, at: Ints, step: int) -> NDArray[np.uint8]:
        """Bars after looks 0 to `step`, as a live chain has them."""
        barred, rung = self.options.barred[at].copy(), self.options.rung
        place = np.full(self.looks.quality.shape[2], -1)
        place[self.columns] = np.arange(len(self.columns))
        rows = np.arange(len(at))
        may_follow = dearer(self.options.expected[at], rung)
        for earlier in range(step + 1):
            arm = place[self.looks.answered[at, earlier]]
            known = (arm >= 0)[:, None]
            answered = known & (rung == rung[arm][:, None])
            barred[answered & (barred == Bar.FREE)] = Bar.ANSWERED
            behind = known & ~may_follow[rows, arm]
            barred[behind & (barred == Bar.FREE)] = Bar.NOT_DEARER
        return barred

    def _groups(self, at: Ints, of: Any = None) -> list[tuple[tuple[bool, str], Ints]]:
        """Positions of requests by what their signals depend on: whether a form was asked for, and
        the gate."""
        codes, names = self.looks.gate
        found = []
        mine = at if of is None else of
        for code in np.unique(codes[at]).tolist():
            for checked in (False, True):
                here = (codes[at] == code) & (self.looks.checked[at] == checked)
                if here.any():
                    found.append(((checked, names[code]), mine[here]))
        return found

    def _look(self, of: tuple[bool, str], at: Ints, steps: int) -> Look:
        """How the requests `at` are looked at, so many calls before the end."""
        # A verifier has learnt how often answers agree, whatever was asked for.
        compared = self.looks.compared[at] | self.gates.learned
        return Look(self._signals(of), steps, comparable=compared)

    def _signals(self, of: tuple[bool, str]) -> Signals:
        """What looking tells this policy before a call, of its arms in the batch.

        Raises `ReplayError` where the log's gate was another one."""
        return self.gates.signals(*of).of(self.kept)


def _asked_then(request: Any, response: Any) -> None:
    """In the place of a caller's own check, which the log has asked."""


def _of(options: Options, rows: Ints) -> Options:
    return replace(
        options,
        quality=options.quality[rows],
        expected=options.expected[rows],
        upper=options.upper[rows],
        barred=options.barred[rows],
    )
