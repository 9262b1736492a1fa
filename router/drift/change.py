"""Tests for a change, on many streams at once, whose false alarms are bounded for all time.

Each stream is a sequence of small whole numbers (bins of whatever is watched). As long as they are
exchangeable, the rank of each among those before it, ties broken at random, is uniform and
independent of the ranks before: these are conformal p-values (Vovk, Gammerman, Shafer: Algorithmic
Learning in a Random World, 2nd ed., chapter 8). Nothing is assumed of the distribution, and the
reference is no estimate that a long stream would tell from the truth sooner or later: each value
joins it once it was tested.

A gambler bets against uniform p-values. Capital that starts at 1 and is not expected to grow
reaches 1/a with probability at most a, however long the game goes on (Ville's inequality). A change
may come late, when one who has bet from the start is ruined; so the capital is dealt out beforehand
over all starting times, which makes up one capital still: a mixture over change points, as in the
e-detectors of Shin, Ramdas, Rinaldo (arXiv:2203.03532), with weights that sum to 1, so that the
chance of any false alarm ever is bounded and not only their rate. A change that comes after t
values costs about log(t) + 2 log log(t) more evidence than one that was expected just then.

At each start the capital is split once more over ways to bet, in thirds: densities on [0, 1] that
are fixed (ranks crowd at one end, at both, or in the middle); steps, for a few values of a kind
that was rare; and two that learn from the latest ranks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from router.types import Floats, Ints

# Beta densities (a, b): values have become larger (p small), smaller, more spread, less spread.
# Most are unbounded where they crowd, so that rare values which come often pay well.
_ONE_END = ((0.2, 1), (0.45, 1), (0.75, 1), (1, 0.2), (1, 0.45), (1, 0.75))
_BETAS = np.array((*_ONE_END, (0.35, 0.35), (0.7, 0.7), (2, 2), (5, 5)))
_SPANS = np.array([30.0, 150.0])  # values that a learning bettor looks back over, about
# The cells of a learning bettor's histogram, narrow at both ends: where one value in a hundred was
# a refusal, all that is known of refusals is in the ranks below 0.01. They start as full as 18
# uniform values would leave them.
_HALF = np.array([0.0, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.35])
_EDGES = np.concatenate([_HALF, [0.5], 1 - _HALF[::-1]])
_WIDTHS = np.diff(_EDGES)
_CELLS = len(_WIDTHS)
_PRIOR = 18 * _WIDTHS
# Steps (share, width): so many of the values are now among what was the largest of so few.
_SHARE, _WIDTH = np.array(
    [(share, width) for share in (0.04, 0.2) for width in (0.001, 0.004, 0.016, 0.06, 0.25)]
).T
_KINDS = (len(_BETAS), len(_SHARE), len(_SPANS))
_SMOOTH, _, LEARNING = _KINDS
BETS = sum(_KINDS)
_SHARES = np.repeat([1 / (3 * bets) for bets in _KINDS], _KINDS)
_LEAST = 1e-14  # a p-value is never 0
_MOST = 1e100  # more capital is not counted
_LOG_NORM = np.array([math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) for a, b in _BETAS])
_RECENT = 1 - 1 / 100.0  # how much of "now" a value leaves of those before it


def unstarted(t: Floats) -> Floats:
    """The capital that has not begun to bet after t values, 1 at the start: log 2 / log(t + 2)."""
    left: Floats = math.log(2) / np.log(t + 2.0)
    return left


@dataclass(slots=True)
class Streams:
    """The state of Q tests. Bins are 0 to B - 1.

    `counts` (Q, B): values so far, the reference among them; `reference` (Q, B): those of the
    reference alone; `recent` (Q, B): the latest, each value counting 1% less with the next.
    `tested` (Q,): values after the reference. `capital` (Q, BETS): what each way to bet has made.
    `cells` (Q, LEARNING, CELLS): the learning bettors' histograms. `peak` (Q,): the most that all
    capital has been. `run` (Q, BETS) and `begun` (Q, BETS): each bet's likelihood ratio since the
    value at which starting was best, and when that came.
    """

    counts: Floats
    reference: Floats
    recent: Floats
    tested: Floats
    capital: Floats
    cells: Floats
    peak: Floats
    run: Floats
    begun: Floats

    @classmethod
    def new(cls, streams: int, bins: int) -> Streams:
        """Q tests that have seen nothing."""
        return cls(
            counts=np.zeros((streams, bins)),
            reference=np.zeros((streams, bins)),
            recent=np.zeros((streams, bins)),
            tested=np.zeros(streams),
            capital=np.zeros((streams, BETS)),
            cells=np.tile(_PRIOR, (streams, LEARNING, 1)),
            peak=np.ones(streams),
            run=np.zeros((streams, BETS)),
            begun=np.zeros((streams, BETS)),
        )

    def seed(self, stream: int, counts: Floats) -> None:
        """Give a test a reference from elsewhere: (B,) values in each bin."""
        self.counts[stream] += counts
        self.reference[stream] += counts

    @property
    def evidence(self) -> Floats:
        """(Q,): what a gambler who began with 1 has now."""
        total: Floats = self.capital.sum(axis=1) + unstarted(self.tested)
        return total

    def changed(self, stream: int) -> float:
        """When the first value came after a stream's likeliest change (as of CUSUM)."""
        return float(self.begun[stream, int(self.run[stream].argmax())])

    def see(
        self, streams: Ints, bins: Ints, ties: Floats, reference: int, when: float = 0.0
    ) -> None:
        """Take the next value of some streams, each named once.

        Parameters: `streams` (K,) and the `bins` (K,) of their values; `ties` (K,), independent
        uniform numbers from 0 to 1 that have nothing to do with the values; `reference`, how many
        first values of each stream are not tested; `when` they came.
        """
        rows = np.arange(len(streams))
        counts = self.counts[streams]
        counts[rows, bins] += 1
        self.counts[streams] = counts
        recent = self.recent[streams] * _RECENT
        recent[rows, bins] += 1
        self.recent[streams] = recent
        total = counts.sum(axis=1)
        early = total <= reference
        if early.any():
            self.reference[streams[early], bins[early]] += 1
            if early.all():
                return
            late = ~early
            streams, bins, ties, rows = streams[late], bins[late], ties[late], rows[: late.sum()]
            counts, total = counts[late], total[late]
        above = np.where(np.arange(counts.shape[1]) > bins[:, None], counts, 0.0).sum(axis=1)
        p = (above + ties * counts[rows, bins]) / total
        self._bet(streams, np.clip(p, _LEAST, 1 - 1e-12), when)

    def _bet(self, streams: Ints, p: Floats, when: float) -> None:
        rows, before = np.arange(len(p)), self.tested[streams]
        paid = np.empty((len(p), BETS))
        logs = np.log(p)[:, None] * (_BETAS[:, 0] - 1) + np.log1p(-p)[:, None] * (_BETAS[:, 1] - 1)
        paid[:, :_SMOOTH] = np.exp(logs + _LOG_NORM)
        among = p[:, None] < _WIDTH
        paid[:, _SMOOTH:-LEARNING] = 1 - _SHARE + among * (_SHARE / _WIDTH)
        cell: NDArray[np.int64] = np.searchsorted(_EDGES, p, side="right") - 1
        cells = self.cells[streams]
        paid[:, -LEARNING:] = cells[rows, :, cell] / (_WIDTHS[cell, None] * cells.sum(axis=2))
        # Old values fade, and what they were learnt from fades towards knowing nothing.
        cells -= (cells - _PRIOR) / _SPANS[:, None]
        cells[rows, :, cell] += 1
        self.cells[streams] = cells

        begins = unstarted(before) - unstarted(before + 1)
        capital = np.minimum((self.capital[streams] + begins[:, None] * _SHARES) * paid, _MOST)
        self.capital[streams] = capital
        self.tested[streams] = before + 1
        total = capital.sum(axis=1) + unstarted(before + 1)
        self.peak[streams] = np.maximum(self.peak[streams], total)

        run = self.run[streams]
        anew = run < 1
        self.begun[streams] = np.where(anew, when, self.begun[streams])
        self.run[streams] = np.minimum(np.where(anew, 1.0, run) * paid, _MOST)
