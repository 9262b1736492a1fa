"""Chains in a log: what was known after each answer, what chances there were then, what was done.

A request that was not looked at has no entry; of a log in which none was, there are no `Looks`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from router.errors import LogFileError
from router.policy.arms import arm_named
from router.walk.looks import STOP

if TYPE_CHECKING:
    import pyarrow as pa

    from router.types import AttemptRow, Floats, Ints, Tier


@dataclass(frozen=True, slots=True)
class Looks:
    """The looks of N requests over A arms, S at most, in their order.

    `answered` (N, S): the arm whose answer was looked at, -1 where there was no such look;
    `quality` (N, S, A): P(good) of every arm's answer as known then; `chances` (N, S, A + 1): of a
    call of each arm and, last, of stopping; `chosen` (N, S): the arm called next, or `STOP`;
    `final` (N, S): whether no policy could have gone on; `cost` nano-USD and `latency` seconds
    (N, S) of what was called next, NaN where not known; `handed` (N,): whose answer was handed out;
    `checked` (N,): whether the form of its answers was asked for; `compared` (N,): whether looks
    ahead counted on comparing answers; `gate`: codes, and the gates that judged.
    """

    answered: Ints
    quality: Floats
    chances: Floats
    chosen: Ints
    final: NDArray[np.bool_]
    cost: Floats
    latency: Floats
    handed: Ints
    checked: NDArray[np.bool_]
    compared: NDArray[np.bool_]
    gate: tuple[Ints, list[str]]

    @property
    def there(self) -> NDArray[np.bool_]:
        """(N, S): which looks there were."""
        return self.answered >= 0

    @property
    def taken(self) -> Ints:
        """(N, S): what was done, by its place among `chances`."""
        found: Ints = self.chosen % self.chances.shape[2]  # STOP, -1, is the last
        return found

    def take(self, rows: NDArray[np.int64]) -> Looks:
        """The looks of some of the requests."""
        parts: dict[str, Any] = {}
        for each in fields(self):
            value = getattr(self, each.name)
            parts[each.name] = (value[0][rows], value[1]) if each.name == "gate" else value[rows]
        return Looks(**parts)

    def called(self) -> NDArray[np.bool_]:
        """(N, S, A): which arms had answered by each look."""
        arms = np.arange(self.quality.shape[2])
        mine = self.there[..., None] & (self.answered[..., None] == arms)
        found: NDArray[np.bool_] = np.logical_or.accumulate(mine, axis=1)
        return found

    def best(self) -> Ints:
        """(N, S): whose answer would be handed out after each look."""
        known = np.where(self.called(), self.quality, -np.inf)
        best = known.argmax(axis=2)
        last = np.maximum(self.answered, 0)[..., None]
        ahead = np.take_along_axis(known, best[..., None], axis=2)
        found: Ints = np.where(
            np.take_along_axis(known, last, axis=2) >= ahead, last, best[..., None]
        )[..., 0]
        return found


def joined(parts: Sequence[tuple[Looks | None, int]], arms: int) -> Looks | None:
    """The looks of batches over the same arms as one, given with how many requests each has."""
    if all(looks is None for looks, _ in parts):
        return None
    steps = max(looks.answered.shape[1] for looks, _ in parts if looks is not None)
    words: dict[str, int] = {}
    found: dict[str, list[Any]] = {}
    for looks, rows in parts:
        each = _widened(looks or nothing(rows, arms, 1), steps)
        codes, names = each.gate
        place = np.array([words.setdefault(name, len(words)) for name in names], dtype=np.int64)
        for field in fields(Looks):
            value = place[codes] if field.name == "gate" else getattr(each, field.name)
            found.setdefault(field.name, []).append(value)
    whole: dict[str, Any] = {name: np.concatenate(values) for name, values in found.items()}
    return Looks(**{**whole, "gate": (whole["gate"], list(words))})


def nothing(rows: int, arms: int, steps: int) -> Looks:
    """The looks of requests that were not looked at."""
    shape = (rows, steps)
    return Looks(
        answered=np.full(shape, -1, dtype=np.int64),
        quality=np.zeros((*shape, arms)),
        chances=np.zeros((*shape, arms + 1)),
        chosen=np.full(shape, STOP, dtype=np.int64),
        final=np.zeros(shape, dtype=bool),
        cost=np.zeros(shape),
        latency=np.zeros(shape),
        handed=np.full(rows, -1, dtype=np.int64),
        checked=np.zeros(rows, dtype=bool),
        compared=np.zeros(rows, dtype=bool),
        gate=(np.zeros(rows, dtype=np.int64), [""]),
    )


def _widened(looks: Looks, steps: int) -> Looks:
    rows, had = looks.answered.shape
    if had == steps:
        return looks
    whole = nothing(rows, looks.quality.shape[2], steps)
    parts = {field.name: getattr(looks, field.name) for field in fields(Looks)}
    for name in ("answered", "quality", "chances", "chosen", "final", "cost", "latency"):
        wide = getattr(whole, name)
        wide[:, :had] = parts[name]
        parts[name] = wide
    return Looks(**parts)


def row_of(
    kept: Mapping[str, Any] | None, attempts: Sequence[AttemptRow], accepted: str, names: list[str]
) -> dict[str, Any]:
    """The columns of one request: nulls where it was not looked at.

    Parameters: `kept`, what the log has of its looks; `accepted`, the arm of the accepted answer.
    """
    if kept is None or accepted not in names:
        return dict.fromkeys(("looks", "handed", "checked", "compared", "gate"))
    looks = []
    for at, look in enumerate(kept["looks"]):
        # What was called next is the step after this one, its repeats and fallbacks with it.
        after = [each for each in attempts if each.step == at + 1]
        known = all(each.cost is not None for each in after)
        looks.append(
            {
                **look,
                "cost": sum(each.cost or 0 for each in after) if known else None,
                "latency": seconds_of(after),
            }
        )
    return {
        "looks": looks,
        "handed": names.index(accepted),
        "checked": kept["checked"],
        "compared": kept.get("compared", False),  # older logs did not
        "gate": kept["gate"],
    }


def seconds_of(attempts: Sequence[AttemptRow]) -> float:
    """How long a request's attempts, or those of one step, took.

    Calls come one after another; but samples of a vote may run side by side, so a vote took from
    its first sample's beginning to its last one's end.
    """
    votes: dict[tuple[int, str], list[AttemptRow]] = {}
    single = 0.0
    for each in attempts:
        if arm_named(each.arm, cast("Tier", each.tier)).samples > 1:
            votes.setdefault((each.step, each.arm), []).append(each)
        else:
            single += each.latency
    return single + sum(
        max(each.time + each.latency for each in samples) - min(each.time for each in samples)
        for samples in votes.values()
    )


def columns(pa: Any) -> list[tuple[str, Any]]:
    """The columns that a table has for looks."""
    numbers = pa.list_(pa.float64())
    look = [
        ("answered", pa.int16()),
        ("quality", numbers),  # of every arm
        ("chances", numbers),  # of every arm, and of stopping
        ("chosen", pa.int16()),  # the arm called next, -1 for none
        ("final", pa.bool_()),
        ("cost", pa.int64()),  # nano-USD of what was called next
        ("latency", pa.float64()),
    ]
    return [
        ("looks", pa.list_(pa.struct(look))),
        ("handed", pa.int16()),  # the arm whose answer was handed out
        ("checked", pa.bool_()),
        ("compared", pa.bool_()),
        ("gate", pa.dictionary(pa.int32(), pa.string())),
    ]


def read(table: pa.Table, arms: int, gate: tuple[Ints, list[str]], where: str) -> Looks | None:
    """The looks of a table that has `columns`, `gate` as codes and words; None where there is none.

    Raises `LogFileError` for lists that do not fit the arms.
    """
    column = table["looks"].combine_chunks()
    column = column.chunk(0) if hasattr(column, "chunk") else column
    if column.null_count == len(column):
        return None
    counts = column.value_lengths().fill_null(0).to_numpy()
    found = nothing(len(counts), arms, max(int(counts.max(initial=0)), 1))
    row = np.repeat(np.arange(len(counts)), counts)
    step = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
    flat = column.flatten()
    for name in ("answered", "chosen", "final", "cost", "latency", "quality", "chances"):
        values = flat.field(name)
        target = getattr(found, name)
        if name in ("quality", "chances"):
            width = arms + (name == "chances")
            if (values.value_lengths().to_numpy() != width).any():
                raise LogFileError(where, f"a look's {name!r} has not {width} entries")
            target[row, step] = values.flatten().to_numpy().reshape(-1, width)
        elif name in ("cost", "latency"):
            target[row, step] = values.cast("float64").fill_null(np.nan).to_numpy()
        else:
            target[row, step] = values.to_numpy(zero_copy_only=False)
    for name, least in (("answered", 0), ("chosen", STOP)):
        places = getattr(found, name)[row, step]
        if not ((places >= least) & (places < arms)).all():
            raise LogFileError(where, f"a look's {name!r} names none of its {arms} arms")
    handed = table["handed"].fill_null(-1).to_numpy().astype(np.int64)
    if not ((handed[counts > 0] >= 0) & (handed[counts > 0] < arms)).all():
        raise LogFileError(where, f"`handed` names none of its {arms} arms in some row")
    found.handed[:] = handed
    for name in ("checked", "compared"):
        getattr(found, name)[:] = table[name].fill_null(False).to_numpy(zero_copy_only=False)
    return Looks(**{**{f.name: getattr(found, f.name) for f in fields(Looks)}, "gate": gate})
