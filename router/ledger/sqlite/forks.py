"""Forks: no open SQLite file may pass through one (https://sqlite.org/howtocorrupt.html, 2.6).

So connections are closed before a fork and opened again, by parent and child, when next needed. And
no thread may be inside SQLite: a lock of its own that is held during a fork stays held in the
child, whose first call then hangs. Opening and closing hold `OPENING`, all else a slot's lock;
whoever takes both takes the slot's first.
"""

from __future__ import annotations

import ctypes
import os
import sqlite3
import threading
import weakref
from typing import Protocol

from router.ledger.sqlite.files import identity


class Slot:
    """One connection and the lock that its users take in turn."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.connection: sqlite3.Connection | None = None
        self.pid = 0
        self.path: str | None = None
        self.identity: tuple[int, ...] = ()

    @property
    def unchanged(self) -> bool:
        """Whether the files that the connection has open are still those of their names."""
        try:
            return self.path is None or identity(self.path) == self.identity
        except OSError:
            return False

    def close(self) -> None:
        """Close the connection; one of another process is none.

        It is left open until the process ends where its files were swapped: the last one to close
        deletes the log of that name, which is now another's, with what that other has committed.
        """
        if self.connection is not None and self.pid == os.getpid():
            with OPENING:
                if self.unchanged:
                    self.connection.close()
                else:
                    ctypes.pythonapi.Py_IncRef(ctypes.py_object(self.connection))
                    _LEFT_OPEN.append(self.identity)
                self.connection = None

    def __del__(self) -> None:
        self.close()  # a store that nobody closed: not in the middle of a fork either


class Forkable(Protocol):
    """What has slots. It stands in `LIVE` from before its first connection until it is closed."""

    def slots(self) -> tuple[Slot, Slot]: ...

    def pause(self) -> list[Slot]: ...

    def begin_as_child(self) -> None: ...


LIVE: weakref.WeakSet[Forkable] = weakref.WeakSet()
OPENING = threading.RLock()
_FORK = threading.Lock()
_PAUSED: list[Slot] = []
_LEFT_OPEN: list[tuple[int, ...]] = []  # the files of connections that must not be closed


def in_use() -> list[tuple[int, ...]]:
    """The identities of all files that this process has open."""
    slots = [slot for each in list(LIVE) for slot in each.slots()]
    return [slot.identity for slot in slots if slot.connection is not None] + _LEFT_OPEN


def _before_fork() -> None:
    _FORK.acquire()
    paused: list[Forkable] = []
    while True:
        for database in list(LIVE):
            if database not in paused:
                paused.append(database)
                _PAUSED.extend(database.pause())
        OPENING.acquire()
        if all(database in paused for database in list(LIVE)):
            return
        OPENING.release()  # one was opened meanwhile


def _after_fork_in_child() -> None:
    for database in list(LIVE):
        database.begin_as_child()
    _after_fork()


def _after_fork() -> None:
    OPENING.release()
    while _PAUSED:
        _PAUSED.pop().lock.release()
    _FORK.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child
    )
