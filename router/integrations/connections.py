"""The connections that routed calls of an OpenAI client go over.

A pool of connections belongs to the process and, of an asynchronous client, to the event loop in
which it was first used. Used elsewhere, it fails halfway through a call, which is charged, or hands
one process the answer of another.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, MutableMapping
from typing import Any
from weakref import WeakKeyDictionary, ref

from openai import AsyncOpenAI, DefaultAsyncHttpxClient, DefaultHttpxClient
from openai._base_client import AsyncHttpxClientWrapper, SyncHttpxClientWrapper


def with_own_connections(client: Any) -> Any:
    """The client itself where its connections are at home; elsewhere a twin with others.

    A transport that the program made itself is used wherever it is, since nobody can make another.
    """
    transport = client._client
    if not isinstance(transport, SyncHttpxClientWrapper | AsyncHttpxClientWrapper):
        return client
    homes = vars(transport).setdefault("_router_homes", _Homes(isinstance(client, AsyncOpenAI)))
    own = homes.transport()
    return client if own is None else client.copy(http_client=own)


class _Homes:
    """Where a transport is at home, and which transports stand in for it elsewhere."""

    def __init__(self, asynchronous: bool):
        self._asynchronous = asynchronous
        home = self._here()
        self._home: Callable[[], Any] = ref(home) if asynchronous else lambda: home
        self._others: MutableMapping[Any, Any] = WeakKeyDictionary() if asynchronous else {}

    def _here(self) -> Any:
        return asyncio.get_running_loop() if self._asynchronous else os.getpid()

    def transport(self) -> Any:
        """What to use here; None for the transport itself."""
        here = self._here()
        if self._home() == here:
            return None
        if here not in self._others:
            make = DefaultAsyncHttpxClient if self._asynchronous else DefaultHttpxClient
            self._others[here] = make()
        return self._others[here]
