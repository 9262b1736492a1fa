"""One walk, two doors: the walk of a request yields what it needs done, a door does it.

The walk is a plain generator; it holds no thread, no event loop and no lock. `run` performs its
effects in the calling thread, `arun` on an event loop. This is the only place where the two differ.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, TypeVar

from router.dispatch.race import Race
from router.dispatch.wire import Call, CancelledUnsent, asend, send

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Store:
    """Work in the ledger. It is short, and never interrupted: a hold is never lost half-way."""

    work: Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Look(Store):
    """A look at an answer, by a caller's own function perhaps: off the event loop like the ledger's
    work, and like it not interrupted, since the answer was paid for."""


@dataclass(frozen=True, slots=True)
class Send:
    """One wire attempt. `request_id` says whose: a walk may send for requests of the router's own,
    such as a summary, before its own."""

    call: Call
    request_id: str


@dataclass(frozen=True, slots=True)
class SendAll:
    """Several wire attempts at once, in `race`; the calls that are not needed are cancelled."""

    race: Race


@dataclass(frozen=True, slots=True)
class Wait:
    """Back off before the next attempt."""

    seconds: float


Effect = Store | Send | SendAll | Wait
Walk = Generator[Effect, Any, T]


def run(walk: Walk[T]) -> T:
    """Drive a walk in this thread and return its result."""
    step: Callable[[], Effect] = lambda: next(walk)  # noqa: E731
    while True:
        try:
            effect = step()
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]
        try:
            result = _perform(effect)
        except BaseException as error:  # the walk settles what it holds, then raises it again
            step = _raise_in(walk, error)
        else:
            step = _give_to(walk, result)


async def arun(walk: Walk[T]) -> T:
    """Drive a walk on the running event loop and return its result.

    A cancellation that arrives during ledger work is held back until that work is done and the
    walk knows its outcome; it is then delivered where the walk can settle. What is raised in the
    end is the cancellation that came: `asyncio.timeout` and anyio's scopes know no other as theirs.
    No error of the walk's takes its place, or the caller would go on as if it had not been told.
    """
    cancelled: asyncio.CancelledError | None = None
    told, failed = False, None  # whether the walk was told of it; what the walk ended with
    step: Callable[[], Effect] = lambda: next(walk)  # noqa: E731
    while True:
        try:
            effect = step()
        except StopIteration as stop:
            if cancelled is None:
                return stop.value  # type: ignore[no-any-return]
            break
        except (Exception, CancelledUnsent) as error:
            if cancelled is None:
                raise
            failed = error if isinstance(error, Exception) else None
            break
        try:
            if isinstance(effect, Store):
                result, late = await _uninterrupted(effect.work)
                cancelled = cancelled or late
            elif cancelled is not None and not told:
                raise CancelledUnsent from cancelled
            elif isinstance(effect, Wait):
                result = await asyncio.sleep(effect.seconds, None)
            elif isinstance(effect, SendAll):
                await effect.race.arun()
                result = None
            else:
                result = await asend(effect.call)
        except BaseException as error:
            told = told or isinstance(error, CancelledUnsent)
            step = _raise_in(walk, error)
        else:
            step = _give_to(walk, result)
    raise cancelled from failed


def _perform(effect: Effect) -> Any:
    if isinstance(effect, Store):
        return effect.work()
    if isinstance(effect, Wait):
        return time.sleep(effect.seconds)
    if isinstance(effect, SendAll):
        effect.race.run()
        return None
    return send(effect.call)


def _give_to(walk: Walk[Any], result: Any) -> Callable[[], Effect]:
    return lambda: walk.send(result)


def _raise_in(walk: Walk[Any], error: BaseException) -> Callable[[], Effect]:
    return lambda: walk.throw(error)


async def _uninterrupted(work: Callable[[], T]) -> tuple[T, asyncio.CancelledError | None]:
    task = asyncio.ensure_future(asyncio.to_thread(work))
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            cancelled = error
        except BaseException:
            break
    return task.result(), cancelled
