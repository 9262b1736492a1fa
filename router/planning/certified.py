"""`keep_quality` with `confidence`: the policy's objective, chosen on the predictor's own
calibration queries at the policy's own prices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from router.decide import Objective
from router.decide.certify import Certificate, certify
from router.errors import PolicyError, UnknownPrice
from router.money import NANO_PER_USD
from router.prices import quote
from router.types import TIERS

if TYPE_CHECKING:
    from router.planning.ladder import Ladder
    from router.predict import Predictor
    from router.types import Floats

_SEED = 0  # of the order in which the certificate draws its queries


class PromisedLadder:
    """A ladder whose promise is certified for the prices in force, anew when they change.

    A change of prices changes what a cost weight decides, so a certificate holds for the prices
    that it was made at. A policy that promises nothing has one ladder for all times.

    Raises what `with_certificate` raises, when it is made and when prices change.
    """

    def __init__(self, ladder: Ladder, predictor: Predictor, now: float):
        self._bare, self._predictor = ladder, predictor
        self._promises = ladder.policy.objective.confidence is not None
        self._found: dict[object, tuple[Ladder, Certificate | None]] = {}
        self.at(now)

    def at(self, now: float) -> tuple[Ladder, Certificate | None]:
        """The ladder to decide by at `now`, unix seconds, and its certificate."""
        if not self._promises:
            return self._bare, None
        prices = self._in_force(now)
        found = self._found.get(prices)
        if found is None:
            found = self._found[prices] = with_certificate(self._bare, self._predictor, now)
        return found

    def _in_force(self, now: float) -> tuple[object, ...]:
        """What tells the prices of one moment from those of another."""
        prices = [dated.at(now) for dated in self._bare.prices]
        return tuple([price and (id(price), price.off_peak_at(now)) for price in prices])


def with_certificate(
    ladder: Ladder, predictor: Predictor, now: float
) -> tuple[Ladder, Certificate | None]:
    """Return the ladder with the objective that its policy's promise allows, and the certificate.

    A policy that promises nothing comes back as it is. Where the data cannot support the promise,
    the objective is "always the baseline".

    Parameters: `now`, unix seconds, at whose prices the costs of the calibration queries count.
    Raises `PolicyError` for a promise that cannot be kept by anything, or without a known price.
    """
    asked = ladder.policy.objective
    if asked.keep_quality is None or asked.confidence is None:
        return ladder, None
    tiers = [TIERS.index(tier) for tier in ladder.policy.tiers.present]
    rows = predictor.calibration
    score = rows.score[:, tiers]
    known = np.isfinite(score).all(axis=1)
    certificate = certify(
        rows.quality[known][:, tiers],
        _expected(ladder, tiers, rows.input_tokens[known], rows.output_tokens[known], now),
        score[known],
        tiers.index(ladder.baseline),
        keep=asked.keep_quality,
        confidence=asked.confidence,
        seed=_SEED,
    )
    objective = Objective(
        cost_weight=certificate.cost_weight,
        margin=certificate.margin,
        promise=f"keeping {asked.keep_quality:.4g} of the baseline's quality with confidence "
        f"{asked.confidence:g} ({certificate.queries} calibration queries)",
    )
    return replace(ladder, objective=objective), certificate


def _expected(
    ladder: Ladder, tiers: Sequence[int], input_tokens: Floats, output_tokens: Floats, now: float
) -> Floats:
    """Expected cost (M, A) in USD of each tier's first deployment."""
    cost = np.empty((len(input_tokens), len(tiers)))
    for column, rank in enumerate(tiers):
        index = next(i for i, arm in enumerate(ladder.arms) if ladder.tier[i] == rank)
        price, cap = ladder.prices[index].at(now), ladder.output_caps[index]
        factor = ladder.token_factors[index][1]
        if price is None:
            raise _without_price(ladder, index, "none is known today")
        for row, (read, written) in enumerate(
            zip(input_tokens.tolist(), output_tokens[:, rank].tolist(), strict=True)
        ):
            try:
                nano = quote(
                    price,
                    input_tokens=round(read),
                    output_tokens=min(round(written * factor), cap),
                    input_bound=round(read),
                    output_cap=cap,
                    service_tier=ladder.service_tiers[index],
                    now=now,
                ).expected
            except UnknownPrice as error:
                raise _without_price(ladder, index, error.why) from error
            assert nano is not None
            cost[row, column] = nano / NANO_PER_USD
    return cost


def _without_price(ladder: Ladder, index: int, why: str) -> PolicyError:
    arm = ladder.arms[index]
    return PolicyError(
        ladder.policy.name,
        f"tiers.{arm.tier}.{arm.deployment}",
        f"keep_quality with confidence needs the price of {arm.model!r}: {why}",
    )
