"""Moves what was done from Redis to the log's store, in its order, each step once.

The copy's place is written in the same transaction as the steps, so it does not matter who moves
them, how many do at once, or when one of them dies: what was done already is passed over. Steps are
taken out of Redis only once they are committed there.
"""

from __future__ import annotations

import atexit
import logging
import os
import random
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from router.errors import LedgerCorrupt, LedgerError, RouterError
from router.ledger.mirror import Event, Mirror
from router.ledger.redis.scripts import FETCH, FORGET
from router.ledger.redis.server import Server
from router.ledger.redis.session import Session
from router.ledger.redis.turn import Turn

_LOOK_AGAIN = 600  # seconds after which an account that was in use is looked at again
# Steps a transaction. Reading their text keeps other threads from running meanwhile, requests too.
_AT_ONCE = 50
_FETCHES_AT_MOST = 20  # before copied steps are taken out
_FORGET_AT_ONCE = 200
_PAUSE = 0.25  # seconds between two looks of a process that works
_LONGEST_PAUSE = 4.0  # while the server or the log's store does not answer
_CLOSE_SECONDS = 30.0  # in which closing copies what this process did
_STEP_SECONDS = 5.0  # in which the thread ends the transaction that it is in

_log = logging.getLogger("router")


@dataclass(slots=True)
class _Worker:
    """The thread of one process."""

    thread: threading.Thread | None = None
    work: threading.Event = field(default_factory=threading.Event)
    stop: threading.Event = field(default_factory=threading.Event)


class Outbox:
    """The queue of one ledger, and the thread that empties it while this process works."""

    def __init__(self, server: Server, session: Session, mirror: Mirror):
        self._server, self._session, self._mirror = server, session, mirror
        self._turn_key = session.key.removesuffix("meta") + "turn"
        self._workers: dict[int, _Worker] = {}  # by process id: no thread passes through a fork
        self._problem: tuple[str, LedgerCorrupt] | None = None
        self._said = ""

    def check(self) -> None:
        """Raise what stopped the copying for good, unless the ledger was rebuilt since."""
        if self._problem is not None and self._problem[0] == self._session.generation:
            self._session.look_again()
            if self._problem[0] == self._session.generation:
                raise self._problem[1]

    def drain(
        self,
        until: int | None = None,
        enough: Callable[[], bool] = lambda: False,
        turn: Turn | None = None,
    ) -> int:
        """Copy all that was done until now, or up to a step; return how far the copy is.

        Parameters: `enough`, asked between two transactions, whether to leave the rest; `turn`,
        which is kept meanwhile.
        Raises `LedgerCorrupt` where steps are missing or come out otherwise in the copy: then every
        process is stopped, since the counters cannot be trusted.
        """
        fetches = 0
        while True:
            if turn is not None:
                turn.keep()
            position = self._position()
            if enough() or (until is not None and position >= until):
                return position
            last, run, drained, events = self._fetch(position)
            if until is not None:
                events = [event for event in events if event.seq <= until]
            if not events and last == position:
                if drained < position:  # who copied them died before it could take them out
                    self._forget(position)
                return position
            if not events:
                if self._position() == position:  # no other process has copied them meanwhile
                    raise self._stopped(f"the steps from {position + 1} to {last} are missing")
                continue
            try:
                self._mirror.apply(events, run)
            except LedgerCorrupt as error:
                raise self._stopped(f"its log disagrees: {error.why}") from error
            # What is not copied yet is looked at again a minute later: so not before all is.
            fetches += 1
            if len(events) < _AT_ONCE or fetches % _FETCHES_AT_MOST == 0:
                self._forget(events[-1].seq)

    def poke(self) -> None:
        """Say that something was done."""
        worker = self._workers.get(os.getpid())
        if worker is None:
            mine = _Worker()
            worker = self._workers.setdefault(os.getpid(), mine)
            if worker is mine:
                _LIVE.add(self)
                mine.thread = threading.Thread(
                    target=_run, args=(weakref.ref(self), mine), name="router-outbox", daemon=True
                )
                mine.thread.start()
        worker.work.set()

    def close(self) -> None:
        """Stop the thread, and copy what this process did, as far as that can be done in
        `_CLOSE_SECONDS`. What is left then is copied by whoever uses the ledger next."""
        worker = self._workers.pop(os.getpid(), None)
        if worker is not None and worker.thread is not None:
            deadline = time.monotonic() + _CLOSE_SECONDS
            worker.stop.set()
            worker.work.set()
            worker.thread.join(timeout=min(_STEP_SECONDS, _CLOSE_SECONDS))
            with self._errors_said():
                # Another process that copies may die at it, so its turn is not waited for in full.
                with self.turn(wait=_PAUSE) as turn:
                    reached = self.drain(
                        self._session.high, lambda: time.monotonic() > deadline, turn
                    )
                if reached < self._session.high:
                    _log.warning(
                        "the log is %d steps behind; who opens the ledger next copies them",
                        self._session.high - reached,
                    )
        _LIVE.discard(self)

    def drain_if_free(self, stop: threading.Event | None = None) -> bool:
        """Copy what there is, until `stop`; False if that is not done. Errors wait for the next
        time."""
        stop = threading.Event() if stop is None else stop
        done = False
        with self._errors_said(stop), self.turn(wait=0.0) as turn:
            if turn.mine:
                self.drain(enough=stop.is_set, turn=turn)
                self._said = ""
                done = True
        return done

    @contextmanager
    def _errors_said(self, stop: threading.Event | None = None) -> Iterator[None]:
        """Say what kept steps from being copied, unless `stop` is set: then whoever set it does."""
        try:
            yield
        except LedgerCorrupt as error:
            self._problem = (self._session.generation, error)
            _log.error("%s", error)
        except RouterError as error:
            if stop is not None and stop.is_set():
                return
            if str(error) != self._said:  # once, and not with every attempt
                _log.warning("the log waits: %s", error)
            self._said = str(error)

    @contextmanager
    def turn(self, wait: float) -> Iterator[Turn]:
        """Keep other processes from copying meanwhile, if that can be had within `wait` seconds."""
        turn = Turn(self._server, self._turn_key)
        turn.take(wait)
        try:
            yield turn
        finally:
            turn.give_up()

    def _position(self) -> int:
        place = self._mirror.place()
        return 0 if place is None else place.position

    def _fetch(self, position: int) -> tuple[int, str, int, list[Event]]:
        """The last step, the run of the server, up to where steps were taken out, and some steps
        after `position`."""
        _, last, run, drained, events = self._session.step(
            FETCH, (position, _AT_ONCE), patient=True
        )
        found = []
        for identity, fields in events:
            named = dict(zip(fields[::2], fields[1::2], strict=True))
            seq = int(identity.partition(b"-")[0])
            found.append(Event(seq, named[b"k"].decode(), named[b"d"]))
        return int(last), run.decode(), int(drained), found

    def _forget(self, position: int) -> None:
        while True:
            _, forgotten = self._session.step(
                FORGET, (position, _FORGET_AT_ONCE, _LOOK_AGAIN), patient=True
            )
            if int(forgotten) < _FORGET_AT_ONCE:
                return

    def _stopped(self, why: str) -> LedgerCorrupt:
        try:
            return self._session.stop(why)
        except LedgerError:
            return LedgerCorrupt(self._server.name, why)


def _run(outbox: weakref.ref[Outbox], worker: _Worker) -> None:
    """Copy what was done, as long as the ledger is in use and says that there is something."""
    pause = _PAUSE
    while not worker.stop.is_set():
        worker.work.wait(timeout=60)
        worker.stop.wait(random.uniform(0.5, 1.5) * pause)
        alive = outbox()
        if alive is None or worker.stop.is_set():
            return
        if worker.work.is_set():
            worker.work.clear()
            done = alive.drain_if_free(worker.stop)
            pause = _PAUSE if done else min(2 * pause, _LONGEST_PAUSE)
            if not done:
                worker.work.set()
        del alive


_LIVE: weakref.WeakSet[Outbox] = weakref.WeakSet()


@atexit.register
def _at_exit() -> None:
    for outbox in list(_LIVE):
        outbox.close()
