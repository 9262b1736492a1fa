"""A deadline for reads that block a thread.

A client's read timeout counts the silence between two pieces, so a provider that sends an empty
line now and then keeps a call alive for ever. On an event loop such a call is cancelled; here each
read of the socket is given no longer than what is left. Only calls under `until` know of it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Any

_deadline: ContextVar[float | None] = ContextVar("router_deadline", default=None)


@contextmanager
def until(deadline: float | None) -> Iterator[None]:
    """Let no read of this thread last beyond `deadline`, a moment of `time.monotonic`."""
    before = _deadline.set(deadline)
    try:
        yield
    finally:
        _deadline.reset(before)


def bound_reads() -> None:
    """Have connections that httpcore opens from now on keep to the deadline, if there is one.

    httpx, below litellm and the clients of OpenAI and Anthropic, opens all of a thread's there.
    """
    import httpcore

    found = httpcore.SyncBackend.connect_tcp
    if hasattr(found, "__wrapped__"):
        return

    class Bounded(httpcore.NetworkStream):
        """A connection whose reads end at the deadline."""

        def __init__(self, stream: httpcore.NetworkStream):
            self._stream = stream

        def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
            deadline = _deadline.get()
            if deadline is not None:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise httpcore.ReadTimeout("the deadline has passed")
                timeout = left if timeout is None else min(left, timeout)
            return self._stream.read(max_bytes, timeout)

        def write(self, buffer: bytes, timeout: float | None = None) -> None:
            self._stream.write(buffer, timeout)

        def close(self) -> None:
            self._stream.close()

        def start_tls(self, *arguments: Any, **named: Any) -> httpcore.NetworkStream:
            return Bounded(self._stream.start_tls(*arguments, **named))

        def get_extra_info(self, info: str) -> Any:
            return self._stream.get_extra_info(info)

    @wraps(found)
    def connect_tcp(*arguments: Any, **named: Any) -> httpcore.NetworkStream:
        return Bounded(found(*arguments, **named))

    httpcore.SyncBackend.connect_tcp = connect_tcp  # type: ignore[method-assign]
