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
from collections import deque
from typing import Any

from router.ledger.sqlite.files import identity


class Slot:
    """One connection, the lock that its users take in turn, and what waits for the next of them.

    Parameters: `patience`, for how many seconds a fork waits for its user.
    """

    def __init__(self, patience: float) -> None:
        self.lock = threading.Lock()
        self.patience = patience
        self.waiting: deque[Any] = deque()
        self.connection: sqlite3.Connection | None = None
        self.pid = 0
        self.path: str | None = None
        self.identity: tuple[int, ...] = ()
        self.frozen = False  # whether it can only be read, and is taken not to change

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
        with OPENING:  # what was dropped may be closed for a fork and for good at once
            if self.connection is None or self.pid != os.getpid():
                return
            if self.unchanged:
                self.connection.close()
            else:
                ctypes.pythonapi.Py_IncRef(ctypes.py_object(self.connection))
                _LEFT_OPEN.append(self.identity)
            self.connection = None

    def pause(self) -> bool:
        """Close for a fork and keep the lock; False where its user does not come to an end: then
        it is left open, and the child's first use of it is refused."""
        if not self.lock.acquire(timeout=self.patience):
            return False
        if self.path is not None:  # one in memory would be lost
            self.close()
        return True


# Every slot, from before its first connection until it is retired. It holds them strongly: a store
# that nobody refers to any more has its connections open until it is told so, and a fork may come
# in between.
SLOTS: set[Slot] = set()
OPENING = threading.RLock()
_FORK = threading.Lock()
_PAUSED: list[Slot] = []
_LEFT_OPEN: list[tuple[int, ...]] = []  # the files of connections that must not be closed


def retire(*slots: Slot) -> None:
    """Close slots for good: nobody uses them, and nobody will."""
    for slot in slots:
        with OPENING:
            slot.close()
            SLOTS.discard(slot)


def in_use() -> list[tuple[int, ...]]:
    """The identities of all files that this process has open."""
    return [slot.identity for slot in list(SLOTS) if slot.connection is not None] + _LEFT_OPEN


def _before_fork() -> None:
    _FORK.acquire()
    seen: set[Slot] = set()
    while True:
        for slot in list(SLOTS):
            if slot not in seen:
                seen.add(slot)
                if slot.pause():
                    _PAUSED.append(slot)
        OPENING.acquire()
        if seen.issuperset(list(SLOTS)):
            return
        OPENING.release()  # one was opened meanwhile


def _after_fork_in_child() -> None:
    for slot in SLOTS:
        slot.waiting.clear()  # it is of threads that a child does not have
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
