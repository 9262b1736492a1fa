"""Where a log is measured: in this process, or in parts on Ray. The figures are the same.

The parts of an exported log are measured one by one and their sums added in the manifest's order;
with a work folder each part's sums are kept, so that a run that was stopped goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np

from router.errors import ConfigurationError, LogFileError
from router.replay.off_policy.batch import LogBatch, read_log, read_part
from router.replay.off_policy.export import Exported, Part, file_system, open_exported
from router.replay.off_policy.facts import ArmFacts, Facts
from router.replay.off_policy.measure import Question, Sums, measure, merged
from router.replay.off_policy.sums import AGREED, DECIDED, LOGGED, PolicySums, Tally
from router.replay.off_policy.table import LeftOut

Engine = Literal["local", "ray"]
Progress = Callable[[int, int | None], None]  # rows done, of how many
_STORES = ("sqlite", "postgresql", "redis", "rediss", "valkey", "valkeys")
_VERSION = 8  # of kept sums
_IN_FLIGHT = 64  # parts that Ray has at once


def run(
    source: str,
    question: Question,
    *,
    since: float | None = None,
    until: float | None = None,
    engine: Engine = "local",
    work: Path | None = None,
    progress: Progress = lambda done, total: None,
) -> Sums:
    """Measure a log.

    Parameters: `source`, a store's URL, a SQLite file, or the folder or URL of an exported log;
    `since` and `until`, unix seconds; `engine` "ray" needs an exported log; `work`, a folder where
    the sums of parts are kept and found again.
    Raises `LogFileError` for a log that is not there or damaged, `ConfigurationError` for an engine
    that is not installed or cannot be used.
    """
    exported = None if is_store(source) else open_exported(source)
    if exported is None:
        if engine != "local":
            raise ConfigurationError(
                f"engine {engine!r} reads exported logs: `router export {source} --out FOLDER`"
            )
        return measure(_of_store(source, since, until, progress), question)
    asked = _Asked(exported, question, since, until, work)
    parts = asked.by_ray() if engine == "ray" else asked.by_threads()
    return merged(parts, lambda rows: progress(rows, exported.rows))


def read(
    source: str,
    since: float | None = None,
    until: float | None = None,
    *,
    ids: bool = False,
    progress: Progress = lambda done, total: None,
) -> Iterator[LogBatch]:
    """The batches of a log, in this process.

    Parameters: `source`, `since`, `until`, `progress` as in `run`; `ids`, whether the batches carry
    the ids of their requests.
    Raises `LogFileError` for a log that is not there or damaged.
    """
    if is_store(source):
        yield from _of_store(source, since, until, progress, ids=ids)
        return
    exported, done = open_exported(source), 0
    for part in exported.parts:
        yield from within(read_part(exported, part, ids=ids), since, until)
        done += part.rows
        progress(done, exported.rows)


def is_store(source: str) -> bool:
    """Whether a source is a store, and not an exported log."""
    kind, separator, _ = source.partition("://")
    return kind in _STORES if separator else os.path.isfile(source)


def _of_store(
    source: str,
    since: float | None,
    until: float | None,
    progress: Progress,
    *,
    ids: bool = False,
) -> Iterator[LogBatch]:
    from router.ledger.url import store_url
    from router.log import open_log

    log = open_log(store_url(source))
    done = 0
    try:
        for batch in read_log(log, since, until, LeftOut(), ids=ids):
            yield batch
            done += len(batch)
            progress(done, None)
    finally:
        log.close()


class _Asked:
    """One question to one exported log."""

    def __init__(
        self,
        exported: Exported,
        question: Question,
        since: float | None,
        until: float | None,
        work: Path | None,
    ):
        self._exported, self._question = exported, question
        self._since, self._until, self._work = since, until, work

    def sums_of(self, part: Part) -> Sums:
        """The sums of one file, as they were kept or measured now."""
        kept = None if self._work is None else self._work / f"{self._key(part)}.npz"
        if kept is not None and kept.exists():
            return load_sums(kept)
        sums = measure(
            within(read_part(self._exported, part), self._since, self._until), self._question
        )
        if kept is not None:
            save_sums(sums, kept)
        return sums

    def by_threads(self) -> Iterator[Sums]:
        """The sums of every file in their order, a thread for each processor: reading and most of
        the arithmetic hold no lock."""
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            running = deque(pool.submit(self.sums_of, part) for part in self._exported.parts)
            try:
                while running:
                    yield running.popleft().result()
            finally:
                for each in running:
                    each.cancel()

    def by_ray(self) -> Iterator[Sums]:
        """The sums of every file in their order, measured on Ray's workers."""
        try:
            import ray
        except ImportError:
            raise ConfigurationError(
                "engine 'ray' needs Ray: pip install 'tiered-router[distributed]'"
            ) from None
        if not ray.is_initialized():
            ray.init(include_dashboard=False, log_to_driver=False, logging_level="error")
        task = ray.remote(_Asked.sums_of)
        here = ray.put(self)
        waiting = iter(self._exported.parts)
        running = [task.remote(here, part) for part in islice(waiting, _IN_FLIGHT)]
        while running:
            try:
                yield ray.get(running.pop(0))
            except ray.exceptions.RayTaskError as error:
                raise error.cause from error
            running += [task.remote(here, part) for part in [next(waiting, None)] if part]

    def _key(self, part: Part) -> str:
        """What tells the sums of this file for this question from all others."""
        system, root = file_system(self._exported.url)
        asked = (
            _VERSION,
            part.path,
            part.rows,
            str(system.ukey(f"{root}/{part.path}")),
            [(policy.name, policy.stamp) for policy in self._question.policies],
            self._question.baseline_price
            and (
                self._question.baseline_price.starts,
                self._question.baseline_price.values,
            ),
            self._since,
            self._until,
        )
        return hashlib.sha256(repr(asked).encode()).hexdigest()[:32]


def within(
    batches: Iterable[LogBatch], since: float | None, until: float | None
) -> Iterator[LogBatch]:
    """The rows of a period."""
    for batch in batches:
        if since is None and until is None:
            yield batch
            continue
        inside = np.ones(len(batch), dtype=bool)
        if since is not None:
            inside &= batch.time >= since
        if until is not None:
            inside &= batch.time < until
        if inside.any():
            yield batch.take(np.flatnonzero(inside))


def save_sums(sums: Sums, path: Path) -> None:
    """Keep sums as one file of plain arrays and JSON, whole or not at all."""
    arrays: dict[str, Any] = {}

    def put(name: str, tally: Tally) -> None:
        for key, values in tally.by_arm.items():
            arrays[json.dumps([name, list(key)])] = values

    put("logged", sums.logged)
    for name, policy in sums.policies.items():
        put(f"decided:{name}", policy.decided)
        put(f"agreed:{name}", policy.agreed)
    facts = {f.name: getattr(sums.facts, f.name) for f in fields(Facts) if f.name != "hashes"}
    facts["arms"] = {
        name: [getattr(arm, f.name) for f in fields(ArmFacts)]
        for name, arm in facts["arms"].items()
    }
    facts["bills"] = [[*key, *values] for key, values in facts["bills"].items()]
    said = {
        "facts": facts,
        "policies": {
            name: [
                policy.refused,
                policy.largest_weight,
                policy.moved,
                policy.went_on,
                policy.unseen,
                policy.chained,
            ]
            for name, policy in sums.policies.items()
        },
    }
    arrays["said"] = np.array(json.dumps(said))
    arrays["hashes"] = np.concatenate(sums.facts.hashes or [np.zeros(0, np.uint64)])
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_suffix(f".{os.getpid()}.tmp")
    with half.open("wb") as file:
        np.savez_compressed(file, **arrays)
    half.replace(path)


def load_sums(path: Path) -> Sums:
    """Read what `save_sums` wrote. Raises `LogFileError` for anything else."""
    names = {"logged": LOGGED, "decided": DECIDED, "agreed": AGREED}
    try:
        with np.load(path, allow_pickle=False) as arrays:
            said = json.loads(str(arrays["said"]))
            sums = Sums(
                policies={
                    name: PolicySums(
                        refused=refused,
                        largest_weight=largest,
                        moved=moved,
                        went_on=went_on,
                        unseen=unseen,
                        chained=chained,
                    )
                    for name, (refused, largest, moved, went_on, unseen, chained) in said[
                        "policies"
                    ].items()
                }
            )
            for title in set(arrays.files) - {"said", "hashes"}:
                owner, key = json.loads(title)
                kind, _, policy = owner.partition(":")
                tally = sums.logged if kind == "logged" else getattr(sums.policies[policy], kind)
                if arrays[title].shape[1] != len(names[kind]):
                    raise ValueError("made by another version")
                tally.by_arm[tuple(key)] = arrays[title]
            facts = said["facts"]
            facts["arms"] = {name: ArmFacts(*values) for name, values in facts["arms"].items()}
            facts["bills"] = {(day, arm): rest for day, arm, *rest in facts["bills"]}
            for name in ("books", "predictors", "policies"):
                facts[name] = Counter(facts[name])
            sums.facts = Facts(**facts, hashes=[arrays["hashes"]])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LogFileError(str(path), f"kept sums cannot be read ({error}); delete it") from error
    return sums
