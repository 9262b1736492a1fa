"""The turn of copying a ledger's steps: it spares others the work, and nothing relies on it.

Whoever has it keeps it while it works. Of one who died it is over within `_SECONDS`, so that nobody
waits long for the dead.
"""

from __future__ import annotations

import time
import uuid

from router.errors import LedgerUnavailable
from router.ledger.redis.server import Server

_SECONDS = 1.0
_LOOK_SECONDS = 0.01  # between two tries to get it


class Turn:
    """One worker's turn, at a key of the server; `mine` says whether it has it."""

    def __init__(self, server: Server, key: str):
        self._server, self._key, self._token = server, key, uuid.uuid4().hex
        self._kept = 0.0
        self.mine = False

    def take(self, wait: float) -> None:
        """Get it, if that can be done within `wait` seconds."""
        deadline = time.monotonic() + wait
        while not self._take() and time.monotonic() < deadline:
            time.sleep(_LOOK_SECONDS)

    def keep(self) -> None:
        """Go on having it: to be called again and again while the work lasts."""
        if self.mine and time.monotonic() > self._kept + _SECONDS / 3:
            self._kept = time.monotonic()
            self.mine = self._is_mine() and bool(
                self._server.command("PEXPIRE", self._key, _milliseconds())
            )

    def give_up(self) -> None:
        if self.mine and self._is_mine():
            self._server.command("DEL", self._key)
        self.mine = False

    def _take(self) -> bool:
        self._kept = time.monotonic()
        try:
            taken = self._server.command("SET", self._key, self._token, "NX", "PX", _milliseconds())
        except LedgerUnavailable as full:
            if "maxmemory" not in full.why:
                raise
            taken = b""  # copying is what makes room again, so it is done without a turn
        self.mine = taken is not None
        return self.mine

    def _is_mine(self) -> bool:
        return bool(self._server.command("GET", self._key) == self._token.encode())


def _milliseconds() -> int:
    return round(_SECONDS * 1000)
