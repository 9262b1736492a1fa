"""Programmatic checks: a caller's own functions look at each accepted answer, and label it.

They run in a thread of their own after the answer was settled and handed out, on copies: a check
that is slow, raises or changes what it is given costs its caller nothing but the label.
"""

from __future__ import annotations

import atexit
import copy
import inspect
import logging
import os
import queue
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from router.errors import ConfigurationError
from router.types import Request

if TYPE_CHECKING:
    from router.log import Log

_log = logging.getLogger("router")

Check = Callable[[Request, Any], "float | bool | None"]
_WAITING = 1000  # answers that wait to be checked; of more, the newest go unchecked
_LAST_SECONDS = 5.0  # how long the end of a program, or `close`, waits for checks under way
_LONGEST_NAME = 100


@dataclass(slots=True)
class CheckCount:
    """What became of one check: `labels` it gave, `silent` times that it had no verdict, and
    `failed` times that it raised or returned what is no score."""

    labels: int = 0
    silent: int = 0
    failed: int = 0


@dataclass(slots=True)
class _Job:
    request: Request
    response: Any
    done: threading.Event = field(default_factory=threading.Event)


class Checks:
    """The checks of one router, by name, and the thread that runs them.

    Parameters: `functions`, name → function(request, response): a score from 0 to 1, True, False,
    or None for no verdict; `log`, what gives the log to label; `clock`, unix seconds.
    Raises `ConfigurationError` for a name or a function that is none.

    `counts` says how each check fared, `dropped` counts answers that went unchecked because too
    many waited, `unwritten` those whose labels the store did not take.
    """

    def __init__(
        self, functions: Mapping[str, Check], log: Callable[[], Log], clock: Callable[[], float]
    ):
        if not isinstance(functions, Mapping):
            raise ConfigurationError(
                f"checks: {functions!r:.60} is no mapping of names to functions, such as "
                '{"json": is_json}'
            )
        for name, function in functions.items():
            _refuse(name, function)
        self._functions, self._log, self._clock = dict(functions), log, clock
        self.counts = {name: CheckCount() for name in self._functions}
        self.dropped = self.unwritten = 0
        self._said: Counter[str] = Counter()
        self._start = threading.Lock()
        self._reset()
        if self._functions:
            _LIVE.add(self)

    def __bool__(self) -> bool:
        return bool(self._functions)

    def submit(self, request: Request, response: Any) -> None:
        """Have an accepted answer checked; returns at once, and never raises."""
        try:
            job = _Job(*_twins(request, response))
            self._ensure_thread()
            self._jobs.put_nowait(job)
        except queue.Full:
            self.dropped += 1
            self._once("queue", f"more than {_WAITING} answers wait to be checked; some go without")
        except Exception as error:  # an answer that cannot be copied is no fault of its caller
            self.dropped += 1
            self._once("copy", f"an answer could not be handed to the checks: {error!r}")

    def wait(self, seconds: float = 60.0) -> bool:
        """Wait until all that was submitted is checked and labelled; False if that takes longer."""
        thread = self._thread
        if thread is None or not thread.is_alive():
            return True
        if thread is threading.current_thread():
            return False  # a check that waits for itself
        last = _Job(_NOTHING, None)
        until = time.monotonic() + seconds
        try:
            self._jobs.put(last, timeout=seconds)
        except queue.Full:
            return False
        return last.done.wait(max(0.0, until - time.monotonic()))

    def close(self) -> None:
        """Give checks under way a few seconds to end."""
        self.wait(_LAST_SECONDS)

    def _reset(self) -> None:
        self._jobs: queue.Queue[_Job] = queue.Queue(_WAITING)
        self._thread: threading.Thread | None = None
        self._pid = os.getpid()

    def _ensure_thread(self) -> None:
        if self._thread is not None and self._pid == os.getpid():
            return
        with self._start:
            if self._pid != os.getpid():
                self._reset()  # the thread, and what waited for it, are the parent's
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="router-checks", daemon=True)
                self._thread.start()
                # Registered after the ledger's own, which the answer's settlement has opened, so
                # that it comes before: labels need the store.
                atexit.unregister(_end_all)
                atexit.register(_end_all)

    def _run(self) -> None:
        while True:
            job = self._jobs.get()
            try:
                if job.request is not _NOTHING:
                    self._label(job)
            except Exception as error:
                self.unwritten += 1
                self._once("store", f"labels of checks could not be written: {error}")
            finally:
                job.done.set()

    def _label(self, job: _Job) -> None:
        """Each verdict is a label of its own; the lowest is written last, so that it counts."""
        found = {}
        for name in self._functions:
            score = self._verdict(name, job)
            if score is not None:
                found[name] = score
        now, log = self._clock(), self._log() if found else None
        for name in sorted(found, key=lambda name: found[name], reverse=True):
            assert log is not None
            source = f"check:{name}"
            log.feedback(job.request.request_id, found[name], source, now=now, rate=1.0)

    def _verdict(self, name: str, job: _Job) -> float | None:
        count = self.counts[name]
        try:
            said = self._functions[name](job.request, job.response)
            score = _score(said)
        except (Exception, SystemExit) as error:
            count.failed += 1
            self._once(f"check:{name}", f"check {name!r} gave no verdict: {error!r}")
            return None
        if score is None:
            count.silent += 1
        else:
            count.labels += 1
        return score

    def _once(self, about: str, message: str) -> None:
        self._said[about] += 1
        if self._said[about] == 1:
            _log.warning("%s (said once; counted in `Router.checks`)", message)


_NOTHING = Request("", (), {}, 0.0)
_LIVE: weakref.WeakSet[Checks] = weakref.WeakSet()


def _end_all() -> None:
    """When the program ends, what waits is checked, as long as that takes no more than seconds."""
    for checks in list(_LIVE):
        checks.close()


def _refuse(name: object, function: object) -> None:
    if not isinstance(name, str) or not name.isprintable() or not 0 < len(name) <= _LONGEST_NAME:
        raise ConfigurationError(
            f"checks: {name!r} is no name; allowed: printable text of 1 to {_LONGEST_NAME} letters"
        )
    if not callable(function) or inspect.iscoroutinefunction(function):
        raise ConfigurationError(
            f"checks: {name!r} is {function!r}; allowed: a plain function(request, response)"
        )


def _twins(request: Request, response: Any) -> tuple[Request, Any]:
    """Copies that a check may do with as it likes, while the caller does so with the originals."""
    twin = type(response)(**response.model_dump())
    return replace(request, messages=copy.deepcopy(request.messages)), twin


def _score(said: Any) -> float | None:
    """What a check said, as a score; None for no verdict. Raises `ValueError` for anything else."""
    if said is None:
        return None
    plain = said.item() if hasattr(said, "item") else said  # numpy's scalars
    if isinstance(plain, bool | int | float) and 0 <= plain <= 1:
        return float(plain)
    raise ValueError(f"{said!r:.80} is no score: 0 to 1, True, False or None")
