"""Other tools' logs as logs of ours: one reader a format, one writer for all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import cast

from router.errors import ImportFileError
from router.replay.imports.record import LeftOut, Reading, Sources
from router.replay.imports.tally import Tally
from router.replay.imports.writer import Writer

# A format's name and the module whose `read` knows it.
FORMATS = {
    "helicone": "router.replay.imports.helicone",
    "jsonl": "router.replay.imports.jsonl",
    "langfuse": "router.replay.imports.langfuse",
    "litellm-callback": "router.replay.imports.litellm_callback",
    "litellm-spend": "router.replay.imports.litellm_spend",
    "llm": "router.replay.imports.llm",
    "openai-batch": "router.replay.imports.openai_batch",
    "otel-genai": "router.replay.imports.otel_genai",
}

__all__ = ["FORMATS", "import_files", "read_files"]


def read_files(format: str, files: Sequence[Path], *, score: str | None = None) -> Reading:
    """Read the calls in files of a format of `FORMATS`, one at a time.

    Parameters: `score`, the name of the score that is the label, None for the only one.
    Yields calls, what is no call, and errors for what cannot be read. Raises `ImportFileError` for
    a file that cannot be read at all.
    """
    read = cast("Callable[[Sources], Reading]", import_module(FORMATS[format]).read)
    return read(Sources(tuple(files), score))


def import_files(
    found: Reading,
    writer: Writer,
    tally: Tally,
    *,
    skip_bad: bool = False,
    progress: Callable[[Tally], None] = lambda tally: None,
) -> None:
    """Write what was found, and count it.

    Parameters: `skip_bad`, whether lines that cannot be read are counted instead of raised;
    `progress`, called after each record.
    Raises `ImportFileError` for the first such line; what came before it stays in the store, and
    is known there when the import is repeated.
    """
    for each in found:
        if isinstance(each, ImportFileError):
            if not skip_bad:
                raise each
            tally.add_bad(each)
        elif isinstance(each, LeftOut):
            tally.left_out[each.why] += 1
        else:
            tally.add(each, writer.write(each))
        progress(tally)
