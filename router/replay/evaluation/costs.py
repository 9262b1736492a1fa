"""What a call is expected to cost before it is made: decisions never see a bill.

Expected dollars are predicted output tokens and estimated input tokens at the model's price. Of
the queries that are decided on, nothing recorded is used: neither their tokens nor their cost.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from router.money import NANO_PER_USD, TOKENS_PER_PRICE
from router.predict import shape_of
from router.prices.book import PriceBook
from router.replay.recorded.outcomes import Outcomes
from router.types import TIERS

if TYPE_CHECKING:
    from router.replay.recorded.textspace import TextSpace
    from router.types import Floats, Ints

# Where no cost is known, decisions weigh tiers by these; the ratios of list prices of a usual
# ladder. No figure in dollars is reported then.
RELATIVE_COST = (0.02, 0.08, 0.25, 1.0)
_RELATIVE = "relative to the frontier"
_LEAST_ROWS = 10  # to recover two prices
_LEAST_RIDGE_ROWS = 100  # to learn cost from text
_RIDGE = 3.0


@dataclass(frozen=True, slots=True)
class Expected:
    """Expected cost of each call: `usd` (n, 4), NaN for tiers that the ladder lacks; and `how`
    each tier's came about, for the report."""

    usd: Floats
    how: dict[str, str]

    @property
    def relative(self) -> bool:
        """Whether the amounts are no dollars, but relative to the frontier's cost."""
        return _RELATIVE in self.how.values()


def estimate_input(outcomes: Outcomes) -> Floats:
    """Estimate input tokens (N,) from the prompts alone."""
    return np.array([shape_of(m, {}).input_tokens for m in outcomes.messages], dtype=np.float64)


def recover_prices(
    input_tokens: Floats, output_tokens: Floats, cost: Floats
) -> tuple[float, float] | None:
    """Recover dollars per input and per output token from recorded calls, by least squares.

    Exact where cost is linear in tokens. None where too few calls have all three, or where no
    pair of prices of 0 or more explains the costs (R² below 0.8).
    """
    known = np.isfinite(input_tokens) & np.isfinite(output_tokens) & np.isfinite(cost)
    if known.sum() < _LEAST_ROWS:
        return None
    tokens, paid = np.column_stack([input_tokens, output_tokens])[known], cost[known]
    prices, *_ = np.linalg.lstsq(tokens, paid, rcond=None)
    if (prices < 0).any():  # one of the two does not matter, or is lost in noise
        alone = np.maximum((tokens * paid[:, None]).sum(axis=0), 0) / (tokens**2).sum(axis=0).clip(
            1
        )
        errors = ((tokens * alone - paid[:, None]) ** 2).sum(axis=0)
        prices = np.where(np.arange(2) == errors.argmin(), alone, 0.0)
    left = ((tokens @ prices - paid) ** 2).sum()
    spread = ((paid - paid.mean()) ** 2).sum()
    if left > 0.2 * spread + 1e-9 * (paid**2).sum():
        return None
    return float(prices[0]), float(prices[1])


def learnt_costs(
    outcomes: Outcomes,
    train: Ints,
    at: Ints,
    output_tokens: Floats,
    estimated_input: Floats,
    space: Callable[[], TextSpace],
) -> Expected:
    """Expected dollars (len(at), 4) of the queries `at`, learnt from the queries `train` alone.

    For each tier the first of these that the training rows allow: prices recovered from recorded
    cost and tokens, times predicted tokens; a ridge of log cost on the text, with Duan's smearing
    factor (JASA 1983); the mean cost. `output_tokens` (len(at), 4) are predicted.
    """
    usd = np.full((len(at), len(TIERS)), np.nan)
    how: dict[str, str] = {}
    for tier, column in zip(outcomes.ladder, outcomes.columns, strict=True):
        paid = outcomes.cost_usd[train, column]
        tokens_in = outcomes.input_tokens[train, column]
        prices = recover_prices(tokens_in, outcomes.output_tokens[train, column], paid)
        if prices is not None and np.isfinite(output_tokens[:, column]).all():
            factor = _input_factor(tokens_in, estimated_input[train])
            tokens = np.column_stack([factor * estimated_input[at], output_tokens[:, column]])
            usd[:, column], how[tier] = tokens @ np.array(prices), "predicted tokens × price"
        elif np.count_nonzero(paid > 0) >= _LEAST_RIDGE_ROWS:
            usd[:, column] = _ridge(space().vectors, estimated_input, train, at, paid)
            how[tier] = "learnt from text"
        elif np.isfinite(paid).any():
            usd[:, column], how[tier] = np.nanmean(paid), "mean of training rows"
    return _or_relative(usd, how, outcomes)


def constant_prices(
    outcomes: Outcomes,
    output_tokens: Floats,
    estimated_input: Floats,
    book: PriceBook | None,
    now: float,
) -> Expected:
    """Expected dollars (N, 4) from constants of each model, for a predictor that is not trained.

    The price book's input and output rates at `now` where it knows the model; else two prices
    recovered from all recorded costs and tokens of the model; else its mean recorded cost. Two
    numbers a model at most come from the file, whatever the scores are.
    """
    usd = np.full((len(outcomes), len(TIERS)), np.nan)
    how: dict[str, str] = {}
    tokens = np.stack(
        [np.broadcast_to(estimated_input[:, None], output_tokens.shape), output_tokens]
    )
    for (tier, model), column in zip(outcomes.ladder.items(), outcomes.columns, strict=True):
        price = book.price(model, now) if book is not None else None
        paid = outcomes.cost_usd[:, column]
        prices: tuple[float, float] | None
        if price is not None:
            scale = NANO_PER_USD * TOKENS_PER_PRICE
            prices, how[tier] = (
                (price.rates.input / scale, price.rates.output / scale),
                "price book",
            )
        else:
            prices = recover_prices(
                outcomes.input_tokens[:, column], outcomes.output_tokens[:, column], paid
            )
            how[tier] = "predicted tokens × price of the file"
        if prices is not None:
            usd[:, column] = prices[0] * tokens[0][:, column] + prices[1] * tokens[1][:, column]
        elif np.isfinite(paid).any():
            usd[:, column], how[tier] = np.nanmean(paid), "mean cost of the file"
        else:
            del how[tier]
    return _or_relative(usd, how, outcomes)


def _or_relative(usd: Floats, how: dict[str, str], outcomes: Outcomes) -> Expected:
    """Where one tier's cost is unknown dollars do not compare, so all tiers are relative."""
    if len(how) == len(outcomes.ladder):
        return Expected(np.maximum(usd, 0.0), how)
    for column in outcomes.columns:
        usd[:, column] = RELATIVE_COST[column]
    return Expected(usd, dict.fromkeys(outcomes.ladder, _RELATIVE))


def _input_factor(recorded: Floats, estimated: Floats) -> float:
    """How many tokens this model's tokenizer makes of an estimated one, on training rows."""
    known = np.isfinite(recorded) & (estimated > 0)
    return float(recorded[known].sum() / estimated[known].sum()) if known.any() else 1.0


def _ridge(vectors: Floats, estimated_input: Floats, train: Ints, at: Ints, paid: Floats) -> Floats:
    columns = np.column_stack([np.log1p(estimated_input), vectors])
    known = paid > 0
    x, y = columns[train][known], np.log(paid[known])
    centre, scale = x.mean(axis=0), np.maximum(x.std(axis=0), 1e-9)
    x = (x - centre) / scale
    gram = x.T @ x + _RIDGE * np.eye(x.shape[1])
    slope = np.linalg.solve(gram, x.T @ (y - y.mean()))
    smearing = np.mean(np.exp(y - y.mean() - x @ slope))
    predicted = y.mean() + ((columns[at] - centre) / scale) @ slope
    # Never beyond what was seen: exp of an extrapolated line is no price.
    expected: Floats = smearing * np.exp(np.clip(predicted, y.min(), y.max()))
    return expected
