"""Langfuse's exports: observations (from the page, from blob storage or from the interface), a
trace's download, and the file of scores.

Names are in camelCase from the page and the interface, in snake_case from blob storage; both are
read. Only observations of type GENERATION are calls of a model. A score becomes a label where it is
a number from 0 to 1 of that one observation: a score of a whole trace says nothing of one call.
Scores come in a file of their own (read first, into a temporary file), in the `scores` of a row, or
in a column of the score's name, which has to be named.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import replace
from datetime import UTC
from functools import partial
from typing import Any

from router.errors import ImportFileError
from router.replay.imports.chat import answer_of, messages_of, params_of, stops_short, usage_of
from router.replay.imports.files import each, rows
from router.replay.imports.record import (
    ZERO_COST,
    Found,
    ImportedCall,
    LeftOut,
    Reading,
    Sources,
)
from router.replay.imports.row import Row

_LISTS = (("observations", "scores"), ("data",))
_OF_TRACE = ("session_id", "user_id", "tags")
SEVERAL = "several scores: name the one that is the label with --score"
OUTSIDE = "a score outside 0 to 1 is no label"
OF_TRACE = "a score of a whole trace, which says nothing of one call"


class _Scores:
    """The scores of single observations, in a file that goes when it is closed."""

    def __init__(self) -> None:
        self._database = sqlite3.connect("")
        self._database.execute("CREATE TABLE score (observation TEXT, name TEXT, value REAL)")
        self._database.execute("CREATE INDEX score_of ON score (observation)")

    def add(self, row: Row) -> None:
        row = _named(row)
        observation = row.text("observation_id")
        if observation is None or row.text("data_type") not in (None, "NUMERIC", "BOOLEAN"):
            return
        value = (observation, row.text("name") or "", row.number("value"))
        self._database.execute("INSERT INTO score VALUES (?, ?, ?)", value)

    def get(self, observation: str) -> list[tuple[str, float]]:
        found = self._database.execute(
            "SELECT name, value FROM score WHERE observation = ? AND value IS NOT NULL",
            (observation,),
        )
        return [(name, value) for name, value in found]

    def close(self) -> None:
        self._database.close()


def read(sources: Sources) -> Reading:
    """Read the scores of all files, then the observations.

    Raises `ImportFileError` for a file that cannot be read.
    """
    with closing(_Scores()) as scores:
        for path in sources.files:
            for row in rows(path, lists=_LISTS, zone=UTC):
                if isinstance(row, Row) and _is_score(row):
                    try:
                        scores.add(row)
                    except ImportFileError as problem:
                        yield problem
        for path in sources.files:
            others = (
                row for row in rows(path, lists=_LISTS, zone=UTC) if not _is_joined_score(row)
            )
            yield from each(others, partial(_call, scores, sources.score))


def _is_score(row: Row) -> bool:
    return "value" in row.values and ("data_type" in row.values or "dataType" in row.values)


def _is_joined_score(row: Row | ImportFileError) -> bool:
    return isinstance(row, Row) and _is_score(row) and not _is_of_trace(row)


def _is_of_trace(row: Row) -> bool:
    return not (row.has("observation_id") or row.has("observationId"))


def _call(scores: _Scores, wanted: str | None, row: Row) -> Found:
    if _is_score(row):
        return LeftOut(OF_TRACE)
    row = _with_trace(_named(row))
    kind = row.text("type")
    if kind != "GENERATION":
        return LeftOut(f"not a call of a chat model: {(kind or 'no type').lower()}")
    model = row.text("provided_model_name") or row.text("model")
    if model is None:
        return LeftOut("a generation without a model")
    observation = row.required("id")
    start = row.needed_time("start_time")
    end = row.time("end_time")
    usage = _usage(row)
    cost = _cost(row)
    free = cost == 0 and usage is not None
    label, notes = _label([*scores.get(observation), *_own_scores(row, wanted)], wanted)
    failed = row.text("level") == "ERROR"
    return ImportedCall(
        id=observation,
        time=start,
        model=model,
        messages=messages_of(row.json("input")),
        answer=None if failed else answer_of(row.json("output")),
        params=stops_short(params_of(row.row("model_parameters"))),
        usage=usage,
        cost=None if cost == 0 else cost,
        latency=None if end is None or end < start else end - start,
        error="failed, by its level" if failed else None,
        label=label,
        label_source=f"langfuse:{wanted}" if wanted else "langfuse",
        conversation_id=row.text("session_id"),
        scopes={"user": user} if (user := row.text("user_id")) else {},
        tags=row.texts("tags") or row.texts("trace_tags"),
        stream=row.has("completion_start_time"),
        notes=(*notes, *((ZERO_COST,) if free else ())),
    )


def _named(row: Row) -> Row:
    """The row with its names in snake_case."""
    return replace(row, values={_snake(k): v for k, v in row.values.items()}, prefix="")


def _with_trace(row: Row) -> Row:
    """An observation with its trace's session, user and tags: a trace that was downloaded whole
    says them once, and not in each of its observations."""
    whole = Row(row.file, row.line, row.within, zone=row.zone)
    places = (_named(whole), _named(whole.row("trace")), row)
    said = {
        name: place.values[name]
        for place in places  # what the observation says itself comes last, and counts
        for name in _OF_TRACE
        if place.has(name) and place.values[name] != []
    }
    return replace(row, values={**row.values, **said})


def _snake(name: str) -> str:
    if name.islower() or " " in name:
        return name
    return "".join(f"_{char.lower()}" if char.isupper() else char for char in name)


def _usage(row: Row) -> dict[str, Any] | None:
    """Token counts: Langfuse takes cached and reasoning tokens out of `input` and `output`."""
    details = row.row("usage_details")
    if not details.values:
        old = row.row("usage")
        return usage_of(
            row.count("input_usage") or row.count("prompt_tokens") or old.count("input"),
            row.count("output_usage") or row.count("completion_tokens") or old.count("output"),
        )
    counts = {name: details.count(name) or 0 for name in details.values if name != "total"}

    def total(*words: str, beside: str = "") -> int:
        return sum(
            count
            for name, count in counts.items()
            if any(word in name for word in words) and not (beside and beside in name)
        )

    written, audio = total("cache_creation", "cache_write"), total("audio")
    spoken = total("output_audio", "completion_audio")
    return usage_of(
        total("input", "prompt", "cache"),
        total("output", "completion", "reasoning"),
        cached=total("cache", beside="creation") - total("cache_write"),
        written=written,
        written_1h=total("creation_1h"),
        reasoning=total("reasoning"),
        audio_input=audio - spoken,
        audio_output=spoken,
    )


def _cost(row: Row) -> int | None:
    for name in ("total_cost", "calculated_total_cost"):
        if row.has(name):
            return row.money(name)
    details = row.row("cost_details")
    return details.money("total") if details.has("total") else None


def _own_scores(row: Row, wanted: str | None) -> Iterable[tuple[str, float]]:
    """The scores in a row: a list of objects, numbers by name, or a column of the wanted name."""
    found = row.json("scores")
    if isinstance(found, Mapping):
        own = Row(row.file, row.line, found, "scores.")
        yield from _numbers(own, found)
    elif isinstance(found, list):
        for at, each_score in enumerate(found):
            if isinstance(each_score, Mapping):
                score = _named(Row(row.file, row.line, each_score, f"scores[{at}]."))
                if score.text("data_type") in (None, "NUMERIC", "BOOLEAN"):
                    value = score.number("value")
                    if value is not None:
                        yield score.text("name") or "", value
    elif wanted is not None and row.has(wanted):
        yield from _numbers(row, (wanted,))


def _numbers(row: Row, names: Iterable[str]) -> Iterable[tuple[str, float]]:
    for name in names:
        value = row.json(name)
        for each_value in value if isinstance(value, list) else [value]:
            number = Row(row.file, row.line, {name: each_value}, row.prefix)
            if not isinstance(each_value, str | Mapping) or _looks_numeric(each_value):
                found = float(each_value) if isinstance(each_value, bool) else number.number(name)
                if found is not None:
                    yield name, found


def _looks_numeric(value: Any) -> bool:
    return isinstance(value, str) and value.strip()[:1].isdigit()


def _label(
    scores: list[tuple[str, float]], wanted: str | None
) -> tuple[float | None, tuple[str, ...]]:
    """The label among an observation's scores, and what a reader should know about it."""
    mine = [value for name, value in scores if wanted in (None, name)]
    if not mine:
        return None, ()
    if len({name for name, _ in scores}) > 1 and wanted is None:
        return None, (SEVERAL,)
    value = sum(mine) / len(mine)
    return (value, ()) if 0 <= value <= 1 else (None, (OUTSIDE,))
