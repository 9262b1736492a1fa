"""The replayable log as a table: a row for each decision, with what it saw and what came of it.

Columns of lists have an entry for each arm, in the order of `arms`, a JSON list of
[name, tier, model]. Money is nano-USD, time unix seconds, latency seconds. What is not known is
null, a propensity too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from router.decide.explain import BAR_TEXT
from router.decide.options import Bar
from router.errors import ConfigurationError
from router.log.base import Log, LoggedRequest
from router.log.judged import OwnLabels
from router.replay.imports.writer import LATENCY_UNKNOWN
from router.replay.off_policy import looks

if TYPE_CHECKING:
    import pyarrow as pa

    from router.types import AttemptRow

REPLAY_EXTRA = "pip install 'tiered-router[replay]'"
VERSION = 1  # of the table's columns
# Columns that logs of earlier releases do not have.
LATER = frozenset(
    {"label_rate", "beside_baseline", "stream", "looks", "handed", "checked", "compared", "gate"}
)
# What an arm lacks whatever the policy; every other bar is the business of the policy that decides.
_LACKS = {
    BAR_TEXT[bar]: bar
    for bar in (
        Bar.NO_VISION,
        Bar.NO_AUDIO,
        Bar.NO_FILES,
        Bar.NO_TOOLS,
        Bar.NO_STRUCTURED_OUTPUT,
        Bar.WINDOW_TOO_SMALL,
        Bar.OWN_EFFORT,
        Bar.NOT_COMPARABLE,
        Bar.ALIKE,
    )
}
# What a conversation was escalated to is part of what a decision found, as its cache is.
_LACKS[BAR_TEXT[Bar.HELD_ABOVE]] = Bar.HELD_ABOVE
# What kept an arm from being called at that moment would have kept any policy from calling it.
_BUSY = {
    BAR_TEXT[bar].partition("{")[0]: bar
    for bar in (Bar.AT_CAPACITY, Bar.CIRCUIT_OPEN, Bar.UNHEALTHY)
}


def arrow() -> Any:
    """The module pyarrow. Raises `ConfigurationError` where it is not installed."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ConfigurationError(f"replay reads tables by pyarrow: {REPLAY_EXTRA}") from None
    return pyarrow


def schema() -> pa.Schema:
    """The table's columns."""
    pa = arrow()
    word = pa.dictionary(pa.int32(), pa.string())
    fields = [
        ("request_id", pa.string()),
        ("request_hash", pa.uint64()),  # of the id: finds rows that stand twice
        ("cluster", pa.uint32()),  # of the conversation, or the request: what varies together
        ("step", pa.int16()),  # the last of the chain that the first decision began, from 0
        ("time", pa.float64()),
        ("policy", word),
        ("predictor", word),
        ("price_book", word),
        ("tags", word),  # JSON
        ("needs", word),  # JSON
        ("input_tokens", pa.int64()),  # as estimated before the call
        ("novel", pa.bool_()),
        ("arms", word),
        ("quality", pa.list_(pa.float64())),
        ("quality_std", pa.list_(pa.float64())),
        ("expected", pa.list_(pa.int64())),
        ("upper", pa.list_(pa.int64())),
        ("propensity", pa.list_(pa.float64())),
        ("barred", pa.list_(pa.uint8())),
        ("chosen", pa.int16()),
        ("baseline", pa.int64()),  # what the baseline tier was predicted to cost
        ("cost", pa.int64()),  # of every attempt
        ("latency", pa.float64()),  # of every attempt
        ("billed_input", pa.int64()),  # tokens of the accepted answer's bill
        ("billed_output", pa.int64()),
        ("label", pa.float64()),
        ("beside_baseline", pa.bool_()),  # whether the label is a judge's
        ("label_rate", pa.float64()),  # the chance by which a sampled label came to be asked for
        ("stream", pa.bool_()),
        *looks.columns(pa),
    ]
    return pa.schema(fields, metadata={"tiered_router_log": str(VERSION)})


@dataclass(slots=True)
class LeftOut:
    """Requests of a log that no decision can be replayed on, by reason."""

    refused: int = 0  # nothing was sent
    open: int = 0  # not ended yet
    own: int = 0  # of the router itself: judges, probes
    undecided: int = 0  # without predictions and quotes of arms, as imported logs may be


def rows_of(
    log: Log, since: float | None, until: float | None, left_out: LeftOut
) -> Iterator[dict[str, Any]]:
    """The table's rows of a log, in order of time. `left_out` counts what is not among them."""
    labels = OwnLabels(log)
    for request, mine in log.with_attempts(since, until):
        if request.purpose != "serve":
            left_out.own += 1
        elif request.status == "open":
            left_out.open += 1
        elif not mine or request.status == "refused":
            left_out.refused += 1
        elif (row := _row(labels.read(request), mine)) is None:
            left_out.undecided += 1
        else:
            yield row


def _row(request: LoggedRequest, attempts: list[AttemptRow]) -> dict[str, Any] | None:
    views = request.decision
    names = [view["arm"] for view in views]
    if request.chosen not in names or any(view.get("quality") is None for view in views):
        return None
    accepted = next((each for each in attempts if each.number == request.accepted), None)
    return {
        "request_id": request.request_id,
        "request_hash": _hash(request.request_id, 8),
        "cluster": _hash(request.conversation_id or request.request_id, 4),
        # One row for the whole chain, at its whole cost; `looks` says what was done when.
        "step": max(each.step for each in attempts),
        "time": request.time,
        "policy": request.policy,
        "predictor": request.predictor,
        "price_book": request.price_book,
        "tags": json.dumps(request.tags),
        "needs": json.dumps(request.features.get("needs") or []),
        "input_tokens": request.features.get("input_tokens"),
        "novel": bool(request.features.get("novel")),
        "arms": _arms(tuple((view["arm"], view["tier"], view["model"]) for view in views)),
        "quality": [view["quality"] for view in views],
        "quality_std": [view["quality_std"] for view in views],
        "expected": [view["expected"] for view in views],
        "upper": [view["upper"] for view in views],
        "propensity": [view["propensity"] for view in views],
        "barred": [_bar(view["rejected"]) for view in views],
        "chosen": names.index(request.chosen),
        "baseline": request.baseline,
        "cost": request.cost,
        "latency": None if _untimed(attempts) else looks.seconds_of(attempts),
        "billed_input": accepted.input_tokens if accepted else None,
        "billed_output": accepted.output_tokens if accepted else None,
        "label": request.label,
        "label_rate": request.label_rate,
        "beside_baseline": request.beside_baseline,
        "stream": request.stream,
        **looks.row_of(request.looks, attempts, accepted.arm if accepted else "", names),
    }


def _bar(rejected: str | None) -> int:
    if rejected is None or rejected in _LACKS:
        return _LACKS.get(rejected or "", Bar.FREE)
    return next((bar for text, bar in _BUSY.items() if rejected.startswith(text)), Bar.FREE)


def _untimed(attempts: Sequence[AttemptRow]) -> bool:
    """Whether an imported call came without how long it took, for which its row has 0."""
    return any(LATENCY_UNKNOWN in (each.note or "") for each in attempts)


@lru_cache(maxsize=1024)
def _arms(arms: tuple[tuple[str, str, str], ...]) -> str:
    return json.dumps(arms, ensure_ascii=False)


def _hash(text: str, size: int) -> int:
    digest = hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=size).digest()
    return int.from_bytes(digest, "big")


def to_table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Rows as a table of `schema`."""
    return arrow().Table.from_pylist(list(rows), schema=schema())
