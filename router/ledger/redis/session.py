"""Whether the server still has all that was done: generation, restarts, and high-water marks.

An absent counter is unknown, never zero. A ledger has a generation, which a server that was emptied
does not know. Each step has a number, and each process remembers the highest that it has seen: an
older state has a lower one. A server that restarts, or takes over from another, has a new run id:
how far the ledger had come when that run began is written down before its first step, so that a
process which saw more knows that it was lost, even when others went on meanwhile. The log's store
remembers the same of all that was copied there, for when no process is left that saw it.
"""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Sequence
from typing import Any, Protocol

from router.errors import ConfigurationError, LedgerCorrupt, LedgerUnavailable
from router.ledger.mirror import Place
from router.ledger.redis.scripts import ATTACH, LOST, Script
from router.ledger.redis.server import (
    OPEN_SECONDS,
    PATIENT_SECONDS,
    Argument,
    Changed,
    Server,
)

VERSION = "2"  # 2: accounts that are not in use are let go
_ATTEMPTS = 5


class Keeper(Protocol):
    """What remembers how far the log has come."""

    def place(self) -> Place | None: ...

    def begin(self, place: Place) -> Place: ...


class Session:
    """One process's knowledge of one ledger on one server."""

    def __init__(self, server: Server, keeper: Keeper):
        self._server, self._keeper = server, keeper
        self.key = f"{{router:{server.url.ledger}}}:meta"
        self._generation, self._run, self._high = "", "", 0
        self._pid, self._lock = os.getpid(), threading.RLock()

    @property
    def generation(self) -> str:
        return self._generation

    @property
    def run(self) -> str:
        return self._run

    @property
    def high(self) -> int:
        """The highest step that this process has seen."""
        return self._high

    def begin(self, *, create: bool) -> None:
        """Find the ledger; with `create`, begin one where neither server nor log know of any."""
        place = self._keeper.place()
        self._check_ours(place)
        candidate = uuid.uuid4().hex if create and place is None else ""
        if not self._attach(candidate, self._server.deadline(OPEN_SECONDS)):
            raise ConfigurationError(f"ledger {self._server.name} does not exist; check the name")

    def look_again(self) -> None:
        """Learn whether the ledger was rebuilt. Raises `LedgerCorrupt` while it is lost."""
        self._attach("", self._server.deadline())

    def step(
        self,
        script: Script,
        arguments: Sequence[Argument],
        *,
        again: bool = True,
        durable: bool = False,
        patient: bool = False,
    ) -> list[Any]:
        """Run a script of the ledger; return its answer, of which the first is its kind.

        `patient`: it is on no request's way, and may take its time. For the others see
        `Server.call`.
        """
        deadline = self._server.deadline(PATIENT_SECONDS if patient else 0.0)

        def known(run: str) -> Sequence[Argument]:
            if run != self._run:
                raise Changed
            return (self._generation, run, self._high, *arguments)

        for _ in range(_ATTEMPTS):
            try:
                answer = self._server.call(
                    script, self.key, known, deadline=deadline, again=again, durable=durable
                )
            except Changed:
                self._attach("", deadline)
                continue
            kind = answer[0].decode()
            if kind in ("gone", "gen", "run"):  # nothing was done
                self._attach("", deadline)
            elif kind == "lost":
                raise self._lost(answer[1].decode())
            elif kind in ("vanished", "overflow"):
                raise LedgerCorrupt(self._server.name, _SAYS[kind] + answer[1].decode())
            else:
                self._saw(int(answer[1]))
                return [kind, *answer[2:]]
        raise LedgerUnavailable(self._server.name, "it keeps restarting")

    def stop(self, why: str) -> LedgerCorrupt:
        """Stop every process of this ledger; return the error to raise."""
        self._server.call(LOST, self.key, lambda _: (self._generation, why))
        return self._lost(why)

    def _saw(self, seq: int) -> None:
        with self._mine():
            self._high = max(self._high, seq)

    def _attach(self, candidate: str, deadline: float) -> bool:
        """Learn the generation and the run of the server's ledger; False where there is none."""
        with self._mine():
            runs: list[str] = []

            def arguments(run: str) -> Sequence[Argument]:
                runs.append(run)
                return (candidate, run, VERSION)

            # Read first: what is copied afterwards is beyond what the server is about to say.
            place = self._keeper.place()
            answer = self._server.call(ATTACH, self.key, arguments, deadline=deadline)
            if answer[0] == b"gone":
                if self._generation or place is not None:
                    raise self._lost("the server has forgotten it")
                return False
            seq, generation, lost = int(answer[1]), answer[2].decode(), answer[3].decode()
            version, drained = answer[4].decode(), int(answer[5])
            if version != VERSION:
                raise ConfigurationError(
                    f"ledger {self._server.name} has version {version}, and this release knows "
                    f"version {VERSION}; use the release that wrote it, or rebuild an older one "
                    f"from its log (router.ledger.redis.rebuild)"
                )
            if lost:
                raise self._lost(lost)
            if place is None:
                if drained and self._keeper.place() is None:
                    raise ConfigurationError(
                        f"ledger {self._server.name} has another log than {self._server.url.log}"
                    )
                place = self._keeper.begin(Place(self._server.url.ledger, generation, runs[-1], 0))
                if place.position:  # another process was faster, and may have copied more since
                    return self._attach(candidate, deadline)
            self._compare(seq, generation, [each.decode() for each in answer[6]], place)
            if answer[7]:
                self._server.renew_file(deadline)
            self._generation, self._run = generation, runs[-1]
            return True

    def _compare(self, seq: int, generation: str, history: list[str], place: Place) -> None:
        self._check_ours(place)
        if place.generation != generation:
            raise self._lost("it is not the ledger that its log knows")
        if self._generation not in ("", generation):
            self._run, self._high = "", 0  # it was rebuilt
        for run, high in ((place.run, place.position), (self._run, self._high)):
            if run and not _reached(run, high, seq, history):
                raise self.stop(f"step {high} was acknowledged and is gone")

    def _check_ours(self, place: Place | None) -> None:
        if place is not None and place.ledger != self._server.url.ledger:
            raise ConfigurationError(
                f"{self._server.url.log} is the log of ledger {place.ledger!r}; name another"
            )

    def _lost(self, why: str) -> LedgerCorrupt:
        return LedgerCorrupt(
            self._server.name, f"{why}; rebuild it from its log (router.ledger.redis.rebuild)"
        )

    def _mine(self) -> threading.RLock:
        if self._pid != os.getpid():  # another thread may have held it when we were forked
            self._pid, self._lock = os.getpid(), threading.RLock()
        return self._lock


_SAYS = {
    "vanished": "a counter or reservation has vanished: ",
    "overflow": "a counter cannot hold the sum: ",
}


def _reached(run: str, high: int, seq: int, history: list[str]) -> bool:
    """Whether step `high`, seen in `run`, was never undone: every later run began after it.

    `history`: "run step", for each run of the server, the step that it began with.
    """
    began = [(name, int(step)) for name, _, step in (each.partition(" ") for each in history)]
    places = [at for at, (name, _) in enumerate(began) if name == run]
    if not places:  # a state from before that run
        return False
    return high <= min([seq, *(step for _, step in began[places[-1] + 1 :])])
