"""Whether compacting a conversation pays: pure arithmetic in nano-USD.

Saving: the tokens that are left out, at what the model reads them for from turn to turn (its
cache's rate while that is warm, else plain input), times the turns that are still expected. Cost:
the call that writes a summary, if one does, and the lost cache: what is left after the system
prompt is read anew once, at the full rate or the one for writing the cache instead of the cache's.

How many turns are still to come: as many as there have been, at most `MOST_TURNS`. That is the mean
residual life of a Pareto tail with exponent 2, and what "this has lasted for n turns" says at its
simplest (Gott, "Implications of the Copernican principle", Nature 363, 1993, has the same median).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from router.money import TOKENS_PER_PRICE

if TYPE_CHECKING:
    from router.prices import Price

MOST_TURNS = 50
LEAST_GAIN = 0.1  # share of the prompt that has to go: less is not worth the loss of words


@dataclass(frozen=True, slots=True)
class Worth:
    """What compacting saves and costs, nano-USD, over `turns` more turns."""

    saving: int
    cost: int
    turns: int

    @property
    def net(self) -> int:
        return self.saving - self.cost


def turns_left(turns: int) -> int:
    """How many more turns a conversation of so many is expected to have, this one counted."""
    return max(1, min(turns, MOST_TURNS))


def worth(
    price: Price, *, before: int, after: int, head: int, turns: int, warm: bool, writes: bool,
    call: int = 0,
) -> Worth:  # fmt: skip
    """What it saves to send `after` tokens instead of `before` for the rest of a conversation.

    Parameters: `head`, tokens of the beginning that stays the same, and in the cache; `turns`, so
    far; `warm`, whether the model has the conversation in its cache; `writes`, whether filling the
    cache is charged; `call`, nano-USD of the summary's call. The rates are those of the shortest
    prompts at ordinary hours.
    """
    rates, left = price.rates, turns_left(turns)
    each_turn = min(rates.cache_read, rates.input) if warm else rates.input
    anew = rates.cache_write_5m if writes else rates.input
    lost = max(0, after - head) * max(0, anew - each_turn) if warm else 0
    return Worth(
        saving=(before - after) * each_turn * left // TOKENS_PER_PRICE,
        cost=call + lost // TOKENS_PER_PRICE,
        turns=left,
    )


def pays(found: Worth, before: int, after: int) -> bool:
    """Whether it is done: more is saved than spent, and enough goes to be worth the words."""
    return found.net > 0 and before - after >= LEAST_GAIN * before
