"""Recorded outcomes of a ladder: N queries, each answered by every tier, as arrays."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from router.errors import OutcomeFileError
from router.money import NANO_PER_USD
from router.prices.book import PriceBook
from router.prices.price import cost as billed
from router.replay.recorded.prompts import Messages, group_of, messages_of
from router.replay.recorded.rows import RawRows, averaged, read_rows, read_samples
from router.replay.recorded.voting import VoteFigures, hold_votes
from router.types import TIERS, Tier, Usage

if TYPE_CHECKING:
    from router.policy.vote import Vote
    from router.types import Floats


@dataclass(frozen=True, slots=True)
class Outcomes:
    """N queries that every tier of the ladder answered, in the order of the file.

    `ladder` maps tiers to models; arrays over tiers have four columns in the order of `TIERS`,
    NaN for tiers that the ladder lacks and for what is not known. `score` is 0 to 1, tokens are
    counts (`output_tokens` includes reasoning), `cost_usd` is dollars a call; repeated answers
    are averaged, but those of a tier in `votes` are samples of one vote, whose tokens and dollars
    are of all that it asked for. `cost_source` says for each tier "recorded", "computed" (from
    tokens and the price book) or "unknown". `dropped` counts rows and queries by why they were
    left out.
    """

    path: str
    ladder: Mapping[Tier, str]
    query_id: NDArray[np.str_]
    task: NDArray[np.str_]
    messages: tuple[Messages, ...]
    group: NDArray[np.str_]
    score: Floats
    input_tokens: Floats
    output_tokens: Floats
    cost_usd: Floats
    cost_source: Mapping[Tier, str]
    rows: int
    dropped: Mapping[str, int]
    votes: Mapping[Tier, VoteFigures] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.query_id)

    @property
    def columns(self) -> list[int]:
        """Positions of the ladder's tiers among `TIERS`, rising."""
        return [TIERS.index(tier) for tier in self.ladder]

    @property
    def has_score(self) -> bool:
        """Whether at least one query has a score of every tier."""
        return bool(np.isfinite(self.score[:, self.columns]).all(axis=1).any())

    @property
    def has_cost(self) -> bool:
        """Whether at least half of the queries have the cost of every tier."""
        return bool(np.isfinite(self.cost_usd[:, self.columns]).all(axis=1).mean() >= 0.5)


def read_outcomes(
    path: str | Path,
    ladder: Mapping[Tier, str],
    *,
    book: PriceBook | None = None,
    now: float = 0.0,
    votes: Mapping[Tier, Vote] | None = None,
) -> Outcomes:
    """Read an outcome file (Parquet, or JSONL by its suffix) for a ladder.

    Where a row has tokens and no cost, and `book` knows its model, the cost is computed at the
    prices in effect at `now` (unix seconds). Rows marked `contaminated` are left out. Whether a
    query is kept never depends on its scores, tokens or cost. Of the tiers in `votes` the repeated
    answers to a query are samples, on which a vote is held (`router.replay.recorded.voting`).

    Raises `OutcomeFileError` naming the file, the query and column at fault, and what to do.
    """
    rows = read_rows(path, ladder)
    tier_of = {model: TIERS.index(tier) for tier, model in ladder.items()}
    tier = np.array([tier_of[model] for model in rows.model], dtype=np.int64)
    first: dict[str, int] = {}
    query = np.array([first.setdefault(q, len(first)) for q in rows.query_id], dtype=np.int64)
    answered = np.zeros((len(first), len(TIERS)), dtype=bool)
    answered[query, tier] = True
    complete: NDArray[np.bool_] = np.all(answered[:, sorted(tier_of.values())], axis=1)
    asked, task, changed = _asked(path, rows, query, complete)
    keep = np.array([q for q in range(len(first)) if asked[q] is not None], dtype=np.int64)
    if not keep.size:
        raise OutcomeFileError(
            str(path),
            f"no query was put to every model of the ladder ({len(first)} queries, "
            f"{changed} of them with another prompt for each model)",
        )
    cost, source = _costs(rows, ladder, book, now)
    group = ["" if m is None else group_of(m) for m in asked]
    numbers = {
        "score": rows.numbers["score"].copy(),
        "input_tokens": rows.numbers["input_tokens"].copy(),
        "output_tokens": _billed_output(rows, ladder),
        "cost_usd": cost,
    }
    held = {}
    if votes:
        texts = read_samples(Path(path), ladder)
        held = hold_votes(numbers, texts, query, tier, asked, group, votes)

    def cells(values: Floats) -> Floats:
        return averaged(values, (query, tier), len(first))[keep]

    ids = list(first)
    dropped = {
        "rows_contaminated": rows.contaminated,
        "queries_without_every_tier": int((~complete).sum()),
        "queries_with_differing_prompts": changed,
    }
    return Outcomes(
        path=str(path),
        ladder=dict(ladder),
        query_id=np.array([ids[q] for q in keep]),
        task=np.array([task[q] for q in keep]),
        messages=tuple(m for m in asked if m is not None),
        group=np.array([group[q] for q in keep]),
        **{name: cells(values) for name, values in numbers.items()},
        cost_source=source,
        rows=len(rows),
        dropped=dropped,
        votes=held,
    )


def _asked(
    path: str | Path, rows: RawRows, query: NDArray[np.int64], complete: NDArray[np.bool_]
) -> tuple[list[Messages | None], list[str], int]:
    """What each query asked (None if it is left out), its task, and how many asks differed."""
    n = len(complete)
    prompts: list[list[Any]] = [[] for _ in range(n)]
    conversations: list[list[Any]] = [[] for _ in range(n)]
    task = [""] * n
    where = [0] * n
    for row, q in enumerate(query.tolist()):
        for cell, cells in ((rows.prompt[row], prompts[q]), (rows.messages[row], conversations[q])):
            if cell not in (None, "", []) and cell not in cells:
                cells.append(cell)
        task[q] = task[q] or rows.task[row]
        where[q] = row
    asked: list[Messages | None] = [None] * n
    changed = 0
    for q in np.flatnonzero(complete).tolist():
        name = rows.query_id[where[q]]
        if not prompts[q] and not conversations[q]:
            raise OutcomeFileError(
                str(path), f"query {name!r}: prompt and messages are both empty; give one of them"
            )
        try:
            asked[q] = messages_of(prompts[q], conversations[q])
        except ValueError as error:
            raise OutcomeFileError(
                str(path),
                f"query {name!r}: prompt or messages holds {error}; write text, or "
                '[{"role": "user", "content": "…"}]',
            ) from None
        changed += asked[q] is None
    return asked, task, changed


def _billed_output(rows: RawRows, ladder: Mapping[Tier, str]) -> Floats:
    """Output tokens with reasoning. Providers report reasoning within the output; where a model
    has a row with more reasoning than output, its file counts them apart, and they are added."""
    output, reasoning = rows.numbers["output_tokens"], rows.numbers["reasoning_tokens"]
    total = output.copy()
    model = np.array(rows.model)
    for name in ladder.values():
        mine = (model == name) & np.isfinite(reasoning)
        if (reasoning[mine] > np.nan_to_num(output[mine])).any():
            total[mine] = np.nan_to_num(output[mine]) + reasoning[mine]
    return total


def _costs(
    rows: RawRows, ladder: Mapping[Tier, str], book: PriceBook | None, now: float
) -> tuple[Floats, dict[Tier, str]]:
    """Dollars of each row, and where each tier's come from."""
    cost = rows.numbers["cost_usd"].copy()
    input_tokens, cached = rows.numbers["input_tokens"], rows.numbers["cached_tokens"]
    output = _billed_output(rows, ladder)
    model = np.array(rows.model)
    source: dict[Tier, str] = {}
    for tier, name in ladder.items():
        mine = model == name
        recorded = mine & np.isfinite(cost)
        open_ = mine & ~recorded & np.isfinite(input_tokens) & np.isfinite(output)
        price = book.price(name, now) if book and open_.any() else None
        if price is not None:
            for row in np.flatnonzero(open_).tolist():
                read = min(_count(cached[row]), _count(input_tokens[row]))
                usage = Usage(
                    input=_count(input_tokens[row]) - read,
                    cache_read=read,
                    output=_count(output[row]),
                )
                cost[row] = billed(price, usage, now=now) / NANO_PER_USD
        parts = [
            word
            for word, found in (("recorded", recorded.any()), ("computed", price is not None))
            if found
        ]
        source[tier] = "+".join(parts) or "unknown"
    return cost, source


def _count(tokens: float) -> int:
    return 0 if math.isnan(tokens) else round(tokens)
