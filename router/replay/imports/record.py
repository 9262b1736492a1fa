"""What every reader makes of another tool's log: one record a call."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from router.errors import ImportFileError


@dataclass(frozen=True, slots=True)
class ImportedCall:
    """One call of a chat model, as another tool recorded it. What it did not record is None.

    Parameters
    ----------
    id
        Unique in its format; the log's request id is made of it.
    time
        When it was sent, unix seconds.
    model
        The model's name, with litellm's prefix of the provider where that is known.
    messages, answer
        The prompt and the answer as OpenAI's chat messages.
    params
        Other arguments of the call that bear on cost and ability: `max_tokens`, `tools`, …
    usage
        Tokens in the shape of OpenAI's usage report.
    cost
        What the source says it cost, nano-USD.
    latency
        Seconds.
    error
        Why there is no answer; None for a call that was answered.
    label, label_source
        How good the answer was, 0 to 1, and who says so.
    conversation_id, scopes, tags, stream
        As in a request of the router's own; `scopes` may name the user and the team.
    notes
        What a careful reader should know, in words that are counted.
    """

    id: str
    time: float
    model: str
    messages: tuple[Mapping[str, Any], ...] | None = None
    answer: tuple[Mapping[str, Any], ...] | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    usage: Mapping[str, Any] | None = None
    cost: int | None = None
    latency: float | None = None
    error: str | None = None
    label: float | None = None
    label_source: str = "import"
    conversation_id: str | None = None
    scopes: Mapping[str, str] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    stream: bool = False
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A record that is no call of a chat model; `why` is counted."""

    why: str


@dataclass(frozen=True, slots=True)
class Sources:
    """What a reader reads: `files`, and the name of the `score` that is the label, None for any."""

    files: tuple[Path, ...]
    score: str | None = None


# A line that cannot be read is yielded, so that whoever asked may go on after it.
Found: TypeAlias = ImportedCall | LeftOut | ImportFileError
Reading: TypeAlias = Iterator[Found]

ZERO_COST = "a cost of 0 for a call with tokens was taken for an unknown one"
